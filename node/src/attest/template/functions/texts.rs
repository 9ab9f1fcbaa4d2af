//! Text, hashes of text, encodings of text.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Budget, Value, cut, int, text};

/// Most numbers that `seq` counts.
const SEQUENCE_MAX: usize = 1_000;

fn of(text: impl AsRef<str>) -> Result<Value, String> {
    Ok(Value::text(text))
}

fn length(arguments: &[Value], at: usize) -> Result<usize, String> {
    usize::try_from(int(arguments, at)?).map_err(|_| "must not be negative".into())
}

pub(super) fn print(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut out = String::new();
    for (at, value) in arguments.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        // Go puts a space between two values of which neither is text.
        if at > 0 && !is_text(value) && !is_text(&arguments[at - 1]) {
            out.push(' ');
        }
        out.push_str(&value.show());
    }
    of(out)
}

/// `%s`, `%v`, `%d`, `%q`, `%x` and `%%`, without widths and flags.
pub(super) fn printf(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut values = arguments[1..].iter();
    let mut out = String::new();
    let mut chars = text(arguments, 0)?.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let verb = chars.next().ok_or("a verb is missing behind %")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or("there are more verbs than values")?;
        out.push_str(&match (verb, value) {
            ('v', value) => value.show(),
            ('d', Value::Int(number)) => number.to_string(),
            ('x', Value::Int(number)) if *number >= 0 => format!("{number:x}"),
            ('x', Value::Text(text)) => hex::encode(text.as_bytes()),
            ('q', Value::Text(text)) => quoted(text),
            (
                's',
                Value::Text(_)
                | Value::List(_)
                | Value::Uri(_)
                | Value::Address(_)
                | Value::Name(_),
            ) => value.show(),
            (verb, value) => return Err(format!("%{verb} of {} is not supported", value.kind())),
        });
    }
    if values.next().is_some() {
        return Err("there are more values than verbs".into());
    }
    of(out)
}

pub(super) fn to_string(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    of(arguments[0].show())
}

pub(super) fn fail(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Err(text(arguments, 0)?.to_owned())
}

pub(super) fn abbrev(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (width, text) = (int(arguments, 0)?, text(arguments, 1)?);
    if width < 4 {
        return of(text);
    }
    of(abbreviated(text, 0, length(arguments, 0)?)?)
}

pub(super) fn abbrevboth(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (left, right) = (int(arguments, 0)?, int(arguments, 1)?);
    let text = text(arguments, 2)?;
    if right < 4 || (left > 0 && right < 7) {
        return of(text);
    }
    of(abbreviated(
        text,
        usize::try_from(left).unwrap_or(0),
        length(arguments, 1)?,
    )?)
}

/// At most `width` bytes around `offset`, with three dots where something is missing.
fn abbreviated(text: &str, offset: usize, width: usize) -> Result<String, String> {
    const DOTS: &str = "...";
    if text.len() <= width {
        return Ok(text.to_owned());
    }
    let kept = width - DOTS.len();
    let offset = offset.min(text.len() - kept);
    if offset <= 4 {
        return Ok(format!("{}{DOTS}", cut(text, 0, kept)?));
    }
    if offset + kept < text.len() {
        let rest = cut(text, offset, text.len())?;
        // Too narrow for dots at both ends: then there is nothing but the first.
        if kept < 4 {
            return Ok(DOTS.to_owned());
        }
        return Ok(format!("{DOTS}{}", abbreviated(rest, 0, kept)?));
    }
    Ok(format!(
        "{DOTS}{}",
        cut(text, text.len() - kept, text.len())?
    ))
}

/// The first bytes, or the last for a negative count.
pub(super) fn trunc(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (count, text) = (int(arguments, 0)?, text(arguments, 1)?);
    let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if size >= text.len() {
        return of(text);
    }
    if count < 0 {
        of(cut(text, text.len() - size, text.len())?)
    } else {
        of(cut(text, 0, size)?)
    }
}

pub(super) fn substr(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (start, end) = (int(arguments, 0)?, int(arguments, 1)?);
    let text = text(arguments, 2)?;
    let end = usize::try_from(end).ok();
    let part = match usize::try_from(start) {
        Err(_) => cut(text, 0, end.ok_or("slice bounds out of range")?)?,
        Ok(start) => cut(
            text,
            start,
            end.filter(|end| *end <= text.len()).unwrap_or(text.len()),
        )?,
    };
    of(part)
}

pub(super) fn repeat(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let (count, text) = (length(arguments, 0)?, text(arguments, 1)?);
    budget.reserve(count.saturating_mul(text.len()))?;
    of(text.repeat(count))
}

pub(super) fn trim(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    of(text(arguments, 0)?.trim())
}

pub(super) fn trim_all(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (set, text) = (text(arguments, 0)?, text(arguments, 1)?);
    of(text.trim_matches(|c| set.contains(c)))
}

pub(super) fn trim_suffix(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (suffix, text) = (text(arguments, 0)?, text(arguments, 1)?);
    of(text.strip_suffix(suffix).unwrap_or(text))
}

pub(super) fn trim_prefix(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (prefix, text) = (text(arguments, 0)?, text(arguments, 1)?);
    of(text.strip_prefix(prefix).unwrap_or(text))
}

/// Without white space, which sprig's library looks for byte by byte: where it finds
/// any, bytes outside ASCII come out as Latin-1.
pub(super) fn nospace(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let text = text(arguments, 0)?;
    let chars = || text.bytes().map(char::from);
    if chars().any(char::is_whitespace) {
        of(chars().filter(|c| !c.is_whitespace()).collect::<String>())
    } else {
        of(text)
    }
}

/// First bytes of words, likewise.
pub(super) fn initials(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut before = ' ';
    let mut out = String::new();
    for c in text(arguments, 0)?.bytes().map(char::from) {
        if before.is_whitespace() && !c.is_whitespace() {
            out.push(c);
        }
        before = c;
    }
    of(out)
}

pub(super) fn wrap(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    wrapped(text(arguments, 1)?, int(arguments, 0)?, "\n", false)
}

pub(super) fn wrap_with(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let (separator, text) = (text(arguments, 1)?, text(arguments, 2)?);
    budget.reserve(separator.len().saturating_mul(text.len()))?;
    let separator = if separator.is_empty() {
        "\n"
    } else {
        separator
    };
    wrapped(text, int(arguments, 0)?, separator, true)
}

/// Lines of at most `width` bytes, broken at spaces; longer words are broken too, or
/// stand out.
fn wrapped(text: &str, width: i64, separator: &str, break_words: bool) -> Result<Value, String> {
    let width = usize::try_from(width).unwrap_or(0).max(1);
    let mut out = String::new();
    let mut rest = text;
    while rest.len() > width {
        if let Some(after) = rest.strip_prefix(' ') {
            rest = after;
            continue;
        }
        let bytes = rest.as_bytes();
        let space = bytes[..=width].iter().rposition(|b| *b == b' ');
        let (end, next) = match space {
            Some(at) => (at, at + 1),
            None if break_words => (width, width),
            None => match bytes[width..].iter().position(|b| *b == b' ') {
                Some(at) => (width + at, width + at + 1),
                None => break,
            },
        };
        out.push_str(cut(rest, 0, end)?);
        out.push_str(separator);
        rest = cut(rest, next, rest.len())?;
    }
    out.push_str(rest);
    of(out)
}

pub(super) fn contains(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(
        text(arguments, 1)?.contains(text(arguments, 0)?),
    ))
}

pub(super) fn has_prefix(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(
        text(arguments, 1)?.starts_with(text(arguments, 0)?),
    ))
}

pub(super) fn has_suffix(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(Value::Bool(
        text(arguments, 1)?.ends_with(text(arguments, 0)?),
    ))
}

/// As a Go string constant.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\x7f' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn each(arguments: &[Value], show: impl Fn(&Value) -> String) -> Vec<String> {
    let values = arguments
        .iter()
        .filter(|value| !matches!(value, Value::Nil));
    values.map(show).collect()
}

pub(super) fn quote(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    of(each(arguments, |value| quoted(&value.show())).join(" "))
}

pub(super) fn squote(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    of(each(arguments, |value| format!("'{}'", value.show())).join(" "))
}

pub(super) fn cat(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    of(each(arguments, Value::show).join(" "))
}

fn indented(arguments: &[Value], budget: &mut Budget) -> Result<String, String> {
    let (count, text) = (length(arguments, 0)?, text(arguments, 1)?);
    let lines = text.matches('\n').count() + 1;
    budget.reserve(count.saturating_mul(lines))?;
    let pad = " ".repeat(count);
    Ok(format!("{pad}{}", text.replace('\n', &format!("\n{pad}"))))
}

pub(super) fn indent(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    of(indented(arguments, budget)?)
}

pub(super) fn nindent(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    of(format!("\n{}", indented(arguments, budget)?))
}

pub(super) fn replace(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let (old, new, text) = (
        text(arguments, 0)?,
        text(arguments, 1)?,
        text(arguments, 2)?,
    );
    budget.reserve((text.len() + 1).saturating_mul(new.len()))?;
    of(text.replace(old, new))
}

pub(super) fn plural(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let (one, many) = (text(arguments, 0)?, text(arguments, 1)?);
    of(if int(arguments, 2)? == 1 { one } else { many })
}

/// Whole numbers from one to another, both included, with spaces between.
pub(super) fn seq(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let numbers: Vec<i64> = (0..arguments.len())
        .map(|at| int(arguments, at))
        .collect::<Result<_, _>>()?;
    let (start, end, step) = match *numbers.as_slice() {
        [end] => (1, end, if end < 1 { -1 } else { 1 }),
        [start, end] => (start, end, if end < start { -1 } else { 1 }),
        [start, step, end] => (start, end, step),
        _ => return of(""),
    };
    let down = end < start;
    if step == 0 || down != (step < 0) {
        return of("");
    }
    let mut out = Vec::new();
    let mut next = Some(start);
    while let Some(number) = next.filter(|n| if down { *n >= end } else { *n <= end }) {
        if out.len() == SEQUENCE_MAX {
            return Err(format!("a sequence of more than {SEQUENCE_MAX} numbers"));
        }
        out.push(number.to_string());
        next = number.checked_add(step);
    }
    of(out.join(" "))
}

fn hashed(algorithm: &'static Algorithm, arguments: &[Value]) -> Result<Value, String> {
    of(hex::encode(digest(
        algorithm,
        text(arguments, 0)?.as_bytes(),
    )))
}

pub(super) fn sha1sum(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    hashed(&SHA1_FOR_LEGACY_USE_ONLY, arguments)
}

pub(super) fn sha256sum(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    hashed(&SHA256, arguments)
}

/// Adler-32 (RFC 1950 §8.2), in decimal.
pub(super) fn adler32sum(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    const MODULUS: u32 = 65_521;
    let (mut a, mut b) = (1u32, 0u32);
    for byte in text(arguments, 0)?.bytes() {
        a = (a + u32::from(byte)) % MODULUS;
        b = (b + a) % MODULUS;
    }
    of((b << 16 | a).to_string())
}

pub(super) fn b64enc(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    of(STANDARD.encode(text(arguments, 0)?))
}

/// What sprig's decoders answer with in the place of a result is an error here.
fn decoded(bytes: Option<Vec<u8>>) -> Result<Value, String> {
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    of(text.ok_or("illegal data, or no text when decoded")?)
}

pub(super) fn b64dec(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let text = text(arguments, 0)?.replace(['\r', '\n'], "");
    decoded(STANDARD.decode(text).ok())
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Base 32 (RFC 4648 §6), padded.
pub(super) fn b32enc(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut out = String::new();
    for group in text(arguments, 0)?.as_bytes().chunks(5) {
        let mut octets = [0u8; 8];
        octets[3..3 + group.len()].copy_from_slice(group);
        let number = u64::from_be_bytes(octets);
        let used = (group.len() * 8).div_ceil(5);
        for at in 0..8 {
            let digit = usize::try_from(number >> (35 - 5 * at) & 31).unwrap_or(0);
            out.push(if at < used {
                char::from(BASE32[digit])
            } else {
                '='
            });
        }
    }
    of(out)
}

pub(super) fn b32dec(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let text = text(arguments, 0)?.replace(['\r', '\n'], "");
    decoded(base32(text.as_bytes()))
}

fn base32(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(8) {
        return None;
    }
    let mut out = Vec::new();
    let mut groups = text.chunks(8).peekable();
    while let Some(group) = groups.next() {
        let used = group.iter().position(|b| *b == b'=').unwrap_or(8);
        let padded = group[used..].iter().all(|b| *b == b'=');
        if !padded || !matches!(used, 2 | 4 | 5 | 7 | 8) || (used < 8 && groups.peek().is_some()) {
            return None;
        }
        let mut number = 0u64;
        for byte in &group[..used] {
            let digit = BASE32.iter().position(|known| known == byte)?;
            number = number << 5 | u64::try_from(digit).ok()?;
        }
        number <<= 5 * (8 - used);
        out.extend_from_slice(&number.to_be_bytes()[3..3 + used * 5 / 8]);
    }
    Some(out)
}
