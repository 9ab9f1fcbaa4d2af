//! Lists. None is changed in place: each function makes a new one.

use super::{Budget, Value, int, list as items, text};

pub(super) fn split_list(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let (separator, text) = (text(arguments, 0)?, text(arguments, 1)?);
    budget.reserve(text.len() * 16)?;
    // Between characters, and not at the ends as Rust's empty pattern would have it.
    if separator.is_empty() {
        return Ok(Value::texts(text.chars().map(String::from)));
    }
    Ok(Value::texts(text.split(separator)))
}

/// The items of a list as text, without nil; of one value a list of its text.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::List(items) => {
            let items = items.iter().filter(|item| !matches!(item, Value::Nil));
            items.map(Value::show).collect()
        }
        Value::Nil => Vec::new(),
        other => vec![other.show()],
    }
}

pub(super) fn to_strings(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::texts(strings(&arguments[0])))
}

pub(super) fn join(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let separator = text(arguments, 0)?;
    let strings = strings(&arguments[1]);
    budget.reserve(separator.len() * strings.len())?;
    Ok(Value::text(strings.join(separator)))
}

pub(super) fn sort_alpha(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    match &arguments[0] {
        list @ Value::List(_) => {
            let mut strings = strings(list);
            strings.sort();
            Ok(Value::texts(strings))
        }
        Value::Nil => Ok(Value::texts(["<nil>"])),
        other => Ok(Value::texts([other.show()])),
    }
}

pub(super) fn list(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::list(arguments.iter().cloned()))
}

pub(super) fn append(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?.iter();
    Ok(Value::list(items.chain([&arguments[1]]).cloned()))
}

pub(super) fn prepend(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?.iter();
    Ok(Value::list(
        [&arguments[1]].into_iter().chain(items).cloned(),
    ))
}

pub(super) fn first(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(items(arguments, 0)?.first().cloned().unwrap_or(Value::Nil))
}

pub(super) fn last(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(items(arguments, 0)?.last().cloned().unwrap_or(Value::Nil))
}

pub(super) fn rest(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?;
    Ok(Value::list(items.iter().skip(1).cloned()))
}

pub(super) fn initial(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?;
    let length = items.len().saturating_sub(1);
    Ok(Value::list(items[..length].iter().cloned()))
}

pub(super) fn reverse(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::list(items(arguments, 0)?.iter().rev().cloned()))
}

pub(super) fn compact(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?.iter();
    Ok(Value::list(items.filter(|item| item.is_true()).cloned()))
}

/// Comparing every item with every other takes time, which has a limit.
fn compare_all(budget: &mut Budget, a: &[Value], b: &[Value]) -> Result<(), String> {
    budget.reserve(a.len().saturating_mul(b.len()))
}

pub(super) fn uniq(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?;
    compare_all(budget, items, items)?;
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        if !out.iter().any(|seen| seen.same(item)) {
            out.push(item.clone());
        }
    }
    Ok(Value::list(out))
}

pub(super) fn without(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let (items, omitted) = (items(arguments, 0)?, &arguments[1..]);
    compare_all(budget, items, omitted)?;
    let kept = items
        .iter()
        .filter(|item| !omitted.iter().any(|o| o.same(item)));
    Ok(Value::list(kept.cloned()))
}

pub(super) fn has(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    if matches!(arguments[1], Value::Nil) {
        return Ok(Value::Bool(false));
    }
    let found = items(arguments, 1)?
        .iter()
        .any(|item| item.same(&arguments[0]));
    Ok(Value::Bool(found))
}

pub(super) fn slice(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let items = items(arguments, 0)?;
    if items.is_empty() {
        return Ok(Value::Nil);
    }
    let bound = |at: usize, absent: usize| {
        if arguments.len() <= at {
            return Ok(absent);
        }
        usize::try_from(int(arguments, at)?).map_err(|_| "slice index out of bounds".to_owned())
    };
    let (from, to) = (bound(1, 0)?, bound(2, items.len())?);
    let part = items.get(from..to).ok_or("slice index out of bounds")?;
    Ok(Value::list(part.iter().cloned()))
}

pub(super) fn concat(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut out = Vec::new();
    for at in 0..arguments.len() {
        out.extend_from_slice(items(arguments, at)?);
    }
    Ok(Value::list(out))
}

pub(super) fn chunk(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let size = usize::try_from(int(arguments, 0)?)
        .ok()
        .filter(|size| *size > 0);
    let size = size.ok_or("the size of a chunk must be at least 1")?;
    let chunks = items(arguments, 1)?.chunks(size);
    Ok(Value::list(
        chunks.map(|chunk| Value::list(chunk.iter().cloned())),
    ))
}
