//! Regular expressions in Go's syntax (RE2).
//!
//! The engine is Rust's, which like Go's runs in linear time and prefers the leftmost
//! match; the syntax is read here and written again in Rust's, so that a pattern means
//! what it means in Go, or is refused.

use ::regex::{Regex, RegexBuilder};

use super::{Budget, Value, int, text};

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 512;
/// Largest compiled pattern, in bytes.
const COMPILED_BYTES_MAX: usize = 256 << 10;
/// Largest count of a repetition, as in Go.
const REPEAT_MAX: u32 = 1_000;

fn compiled(arguments: &[Value], budget: &mut Budget) -> Result<Regex, String> {
    budget.pattern()?;
    let pattern = text(arguments, 0)?;
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "a pattern is longer than {PATTERN_BYTES_MAX} bytes"
        ));
    }
    let refused = |why: String| format!("error parsing regexp: {why}: `{pattern}`");
    RegexBuilder::new(&translated(pattern).map_err(refused)?)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .nest_limit(32)
        .build()
        .map_err(|e| match e {
            ::regex::Error::CompiledTooBig(_) => refused("the pattern is too large".into()),
            _ => refused("invalid or unsupported syntax".into()),
        })
}

/// A pattern of Go in Rust's syntax: classes and boundaries are ASCII, quoted parts are
/// escaped, a brace that repeats nothing is itself.
fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = pattern;
    // Whether what stands before is a repetition, which cannot be repeated.
    let mut repeated = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let counted = if c == '{' { repetition(after)? } else { None };
        if matches!(c, '*' | '+' | '?') || counted.is_some() {
            if repeated {
                return Err("invalid nested repetition operator".into());
            }
            let (operator, after) = rest.split_at(1 + counted.unwrap_or(0));
            out.push_str(operator);
            rest = after
                .strip_prefix('?')
                .inspect(|_| out.push('?'))
                .unwrap_or(after);
            repeated = true;
            continue;
        }
        repeated = false;
        rest = match c {
            '\\' => escape(after, false, &mut out)?,
            '[' => class(after, &mut out)?,
            '(' => group(after, &mut out)?,
            // Rust wants these escaped, Go takes them as they are.
            '{' | '}' | ']' => {
                out.push('\\');
                out.push(c);
                after
            }
            c => {
                out.push(c);
                after
            }
        };
    }
    Ok(out)
}

/// Length of `n}`, `n,}` or `n,m}` at the beginning, if it is a repetition.
fn repetition(text: &str) -> Result<Option<usize>, String> {
    let Some((counts, _)) = text.split_once('}') else {
        return Ok(None);
    };
    let (min, max) = match counts.split_once(',') {
        Some((min, max)) => (min, Some(max)),
        None => (counts, None),
    };
    let is_number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits && (text == "0" || !text.starts_with('0'))
    };
    if !is_number(min) || !max.is_none_or(|max| max.is_empty() || is_number(max)) {
        return Ok(None);
    }
    let within = |text: &str| text.parse::<u32>().is_ok_and(|n| n <= REPEAT_MAX);
    let ordered = match max.map(str::parse::<u32>) {
        Some(Ok(max)) => min.parse::<u32>().is_ok_and(|min| min <= max),
        _ => true,
    };
    if within(min) && max.is_none_or(|max| max.is_empty() || within(max)) && ordered {
        Ok(Some(counts.len() + 1))
    } else {
        Err("invalid repeat count".into())
    }
}

/// What follows a parenthesis: a plain group, a name, or flags that Go has.
fn group<'a>(after: &'a str, out: &mut String) -> Result<&'a str, String> {
    out.push('(');
    let Some(special) = after.strip_prefix('?') else {
        return Ok(after);
    };
    let named = special
        .strip_prefix("P<")
        .or_else(|| special.strip_prefix('<'));
    if let Some(named) = named {
        let (name, rest) = named.split_once('>').ok_or("invalid named capture")?;
        let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // Rust's names do not begin with a digit.
        if !good || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("invalid named capture".into());
        }
        out.push_str(&format!("?P<{name}>"));
        return Ok(rest);
    }
    let end = special
        .find([':', ')'])
        .ok_or("missing argument to flags")?;
    let flags = &special[..end];
    let (on, off) = flags.split_once('-').unwrap_or((flags, "i"));
    let known = |flags: &str| flags.bytes().all(|b| b"imsU".contains(&b));
    let colon = special[end..].starts_with(':');
    if !known(on) || !known(off) || off.is_empty() || (flags.is_empty() && !colon) {
        return Err("invalid or unsupported Perl syntax".into());
    }
    out.push('?');
    out.push_str(flags);
    Ok(&special[end..])
}

/// A code point as Rust's patterns write any.
fn point(c: char, out: &mut String) {
    out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
}

/// What follows a backslash.
fn escape<'a>(after: &'a str, in_class: bool, out: &mut String) -> Result<&'a str, String> {
    let c = after
        .chars()
        .next()
        .ok_or("trailing backslash at end of expression")?;
    let rest = &after[c.len_utf8()..];
    let outside = |text: &str, out: &mut String| {
        if in_class {
            return Err("invalid escape sequence".to_owned());
        }
        out.push_str(text);
        Ok(())
    };
    match c {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        's' => out.push_str(r"[\t\n\x0c\r ]"),
        'S' => out.push_str(r"[^\t\n\x0c\r ]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'A' => outside(r"\A", out)?,
        'z' => outside(r"\z", out)?,
        'b' => outside(r"(?-u:\b)", out)?,
        'B' => outside(r"(?-u:\B)", out)?,
        'Q' if !in_class => {
            let (literal, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&::regex::escape(literal));
            return Ok(rest);
        }
        'p' | 'P' => return property(c, rest, out),
        'a' => point('\x07', out),
        'f' => point('\x0c', out),
        'n' => point('\n', out),
        'r' => point('\r', out),
        't' => point('\t', out),
        'v' => point('\x0b', out),
        'x' => {
            let (digits, rest) = match rest.strip_prefix('{') {
                Some(inner) => inner.split_once('}').ok_or("invalid escape sequence")?,
                None => rest.split_at_checked(2).ok_or("invalid escape sequence")?,
            };
            let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let number = u32::from_str_radix(digits, 16).ok().filter(|_| hex);
            point(
                number
                    .and_then(char::from_u32)
                    .ok_or("invalid escape sequence")?,
                out,
            );
            return Ok(rest);
        }
        // One digit that is no octal would refer to a group, which RE2 has not.
        '0'..='7' => {
            let length = 1 + rest
                .bytes()
                .take(2)
                .take_while(|b| (b'0'..b'8').contains(b))
                .count();
            if c != '0' && length == 1 {
                return Err("invalid escape sequence".into());
            }
            let number = u32::from_str_radix(&after[..length], 8).ok();
            point(
                number
                    .and_then(char::from_u32)
                    .ok_or("invalid escape sequence")?,
                out,
            );
            return Ok(&after[length..]);
        }
        c if c.is_ascii_punctuation() => point(c, out),
        _ => return Err("invalid escape sequence".into()),
    }
    Ok(rest)
}

/// A class of Unicode: a general category or a script.
fn property<'a>(kind: char, rest: &'a str, out: &mut String) -> Result<&'a str, String> {
    let (name, rest) = match rest.strip_prefix('{') {
        Some(inner) => inner
            .split_once('}')
            .ok_or("invalid character class range")?,
        None => {
            let length = rest.chars().next().map_or(0, char::len_utf8);
            rest.split_at(length)
        }
    };
    let (negated, name) = match name.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let good = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !good {
        return Err("invalid character class range".into());
    }
    let kind = if negated == (kind == 'p') { 'P' } else { 'p' };
    out.push_str(&format!("\\{kind}{{{name}}}"));
    Ok(rest)
}

/// A bracketed class. Rust's own operators in it (`&&`, `--`, `~~`, nested brackets) are
/// plain characters in Go.
fn class<'a>(after: &'a str, out: &mut String) -> Result<&'a str, String> {
    const MISSING: &str = "missing closing ]";
    out.push('[');
    let mut rest = after;
    if let Some(negated) = rest.strip_prefix('^') {
        out.push('^');
        rest = negated;
    }
    let mut first = true;
    loop {
        let c = rest.chars().next().ok_or(MISSING)?;
        let next = &rest[c.len_utf8()..];
        if c == ']' && !first {
            out.push(']');
            return Ok(next);
        }
        // A hyphen is a character at the beginning, at the end, and in a range's middle.
        if c == '-' && !first && !next.starts_with(']') {
            return Err("invalid character class range".into());
        }
        first = false;
        if rest.starts_with("[:")
            && let Some((name, after)) = rest[2..].split_once(":]")
        {
            let known = [
                "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
                "punct", "space", "upper", "word", "xdigit",
            ];
            if !known.contains(&name.strip_prefix('^').unwrap_or(name)) {
                return Err("invalid character class range".into());
            }
            out.push_str(&format!("[:{name}:]"));
            rest = after;
            continue;
        }
        rest = class_item(rest, out)?;
        // A range goes from one character to another.
        if rest.starts_with('-') && !rest.starts_with("-]") {
            out.push('-');
            rest = class_item(&rest[1..], out)?;
        }
    }
}

/// One character or class inside of brackets.
fn class_item<'a>(rest: &'a str, out: &mut String) -> Result<&'a str, String> {
    let c = rest.chars().next().ok_or("missing closing ]")?;
    let next = &rest[c.len_utf8()..];
    if c == '\\' {
        return escape(next, true, out);
    }
    point(c, out);
    Ok(next)
}

/// sprig's function without "must" lets a bad pattern match nothing; here it is an
/// error, for a pattern may be good there and unsupported here.
pub(super) fn matches(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let pattern = compiled(arguments, budget)?;
    Ok(Value::Bool(pattern.is_match(text(arguments, 1)?)))
}

pub(super) fn find(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let pattern = compiled(arguments, budget)?;
    let found = pattern.find(text(arguments, 1)?);
    Ok(Value::text(found.map_or("", |found| found.as_str())))
}

/// How many matches are wanted: none said by a negative number.
fn limit(arguments: &[Value]) -> Result<usize, String> {
    Ok(usize::try_from(int(arguments, 2)?).unwrap_or(usize::MAX))
}

pub(super) fn find_all(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let pattern = compiled(arguments, budget)?;
    let (subject, limit) = (text(arguments, 1)?, limit(arguments)?);
    budget.reserve(subject.len() * 16)?;
    let found = pattern.find_iter(subject).take(limit);
    Ok(Value::texts(found.map(|found| found.as_str())))
}

/// Replaces every match by what `with` makes of it.
fn replaced(
    arguments: &[Value],
    budget: &mut Budget,
    with: impl Fn(&Regex, &::regex::Captures<'_>, &str) -> String,
) -> Result<Value, String> {
    let pattern = compiled(arguments, budget)?;
    let (subject, replacement) = (text(arguments, 1)?, text(arguments, 2)?);
    let mut out = String::new();
    let mut end = 0;
    for captures in pattern.captures_iter(subject) {
        let Some(whole) = captures.get(0) else {
            continue;
        };
        out.push_str(&subject[end..whole.start()]);
        let new = with(&pattern, &captures, replacement);
        budget.reserve(new.len())?;
        out.push_str(&new);
        end = whole.end();
    }
    out.push_str(&subject[end..]);
    Ok(Value::text(out))
}

pub(super) fn replace_all(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    replaced(arguments, budget, expanded)
}

pub(super) fn replace_all_literal(
    arguments: &[Value],
    budget: &mut Budget,
) -> Result<Value, String> {
    replaced(arguments, budget, |_, _, replacement| {
        replacement.to_owned()
    })
}

/// `$1`, `$name`, `${name}` and `$$` of a replacement, as Go reads them: a name is as
/// long as it can be, an unknown one is empty, a dollar sign that is none of these stays.
fn expanded(pattern: &Regex, captures: &::regex::Captures<'_>, replacement: &str) -> String {
    let mut out = String::new();
    let mut rest = replacement;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let is_name = |c: char| c == '_' || c.is_alphanumeric();
        let (name, next) = match after.strip_prefix('{') {
            Some(inner) => match inner.split_once('}') {
                Some((name, next)) if name.chars().all(is_name) => (name, next),
                _ => ("", after),
            },
            None => {
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        if name.is_empty() {
            out.push('$');
            rest = after;
            continue;
        }
        let leading_zero = name.len() > 1 && name.starts_with('0');
        let number = !leading_zero && name.bytes().all(|b| b.is_ascii_digit());
        let group = if number {
            name.parse().ok().and_then(|at| captures.get(at))
        } else if pattern.capture_names().flatten().any(|known| known == name) {
            captures.name(name)
        } else {
            None
        };
        out.push_str(group.map_or("", |group| group.as_str()));
        rest = next;
    }
    out.push_str(rest);
    out
}

/// The text between matches; empty matches at the beginning split nothing off.
pub(super) fn split(arguments: &[Value], budget: &mut Budget) -> Result<Value, String> {
    let pattern = compiled(arguments, budget)?;
    let (subject, limit) = (text(arguments, 1)?, limit(arguments)?);
    budget.reserve(subject.len() * 16)?;
    if limit == 0 {
        return Ok(Value::list([]));
    }
    if subject.is_empty() {
        return Ok(Value::texts([""]));
    }
    let (mut out, mut begin, mut end) = (Vec::new(), 0, 0);
    for found in pattern.find_iter(subject) {
        if out.len() + 1 == limit {
            break;
        }
        end = found.start();
        if found.end() != 0 {
            out.push(&subject[begin..end]);
        }
        begin = found.end();
    }
    if end != subject.len() {
        out.push(&subject[begin..]);
    }
    Ok(Value::texts(out))
}

pub(super) fn quote_meta(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let mut out = String::new();
    for c in text(arguments, 0)?.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    Ok(Value::text(out))
}
