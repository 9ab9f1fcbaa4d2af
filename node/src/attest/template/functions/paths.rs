//! Slash-separated paths, as Go's `path` cuts them.

use super::{Budget, Value, text};

/// The shortest path with the same meaning: no empty, `.` or inner `..` segments.
fn cleaned(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." if segments.last().is_some_and(|last| *last != "..") => {
                segments.pop();
            }
            // Nothing is above the root.
            ".." if rooted => {}
            segment => segments.push(segment),
        }
    }
    let joined = segments.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

pub(super) fn base(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let path = text(arguments, 0)?;
    if path.is_empty() {
        return Ok(Value::text("."));
    }
    let trimmed = path.trim_end_matches('/');
    let last = trimmed.rsplit('/').next().unwrap_or_default();
    Ok(Value::text(if last.is_empty() { "/" } else { last }))
}

pub(super) fn dir(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let path = text(arguments, 0)?;
    let directory = path.rfind('/').map_or("", |at| &path[..=at]);
    Ok(Value::text(cleaned(directory)))
}

pub(super) fn clean(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::text(cleaned(text(arguments, 0)?)))
}

pub(super) fn ext(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let last = text(arguments, 0)?.rsplit('/').next().unwrap_or_default();
    Ok(Value::text(last.rfind('.').map_or("", |at| &last[at..])))
}

pub(super) fn is_abs(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(text(arguments, 0)?.starts_with('/')))
}
