//! Upper, lower and mixed case.
//!
//! One character becomes one character, as in Go. Splitting into words is done for
//! ASCII only, which is what paths are made of.

use super::{Budget, Value, text};

fn upper_char(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn lower_char(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        // The one character whose lower case is two.
        _ if c == '\u{130}' => 'i',
        _ => c,
    }
}

pub(super) fn upper(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let text: String = text(arguments, 0)?.chars().map(upper_char).collect();
    Ok(Value::text(text))
}

pub(super) fn lower(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let text: String = text(arguments, 0)?.chars().map(lower_char).collect();
    Ok(Value::text(text))
}

/// Changes each character, told whether it follows a separator or the beginning.
fn by_word(text: &str, separates: fn(char) -> bool, change: fn(char) -> char) -> Value {
    let mut before = true;
    let changed: String = text
        .chars()
        .map(|c| {
            let out = if before && !separates(c) {
                change(c)
            } else {
                c
            };
            before = separates(c);
            out
        })
        .collect();
    Value::text(changed)
}

pub(super) fn title(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let separates = |c: char| {
        if c.is_ascii() {
            !c.is_ascii_alphanumeric() && c != '_'
        } else {
            !c.is_alphanumeric() && c.is_whitespace()
        }
    };
    Ok(by_word(text(arguments, 0)?, separates, upper_char))
}

pub(super) fn untitle(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(by_word(
        text(arguments, 0)?,
        char::is_whitespace,
        lower_char,
    ))
}

/// Upper to lower and lower to upper; title case at the beginning of a word is upper
/// case for what paths are made of.
pub(super) fn swapcase(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let swap = |c: char| {
        if c.is_uppercase() {
            lower_char(c)
        } else if c.is_lowercase() {
            upper_char(c)
        } else {
            c
        }
    };
    let text: String = text(arguments, 0)?.chars().map(swap).collect();
    Ok(Value::text(text))
}

fn ascii(arguments: &[Value]) -> Result<&str, String> {
    let text = text(arguments, 0)?;
    if text.is_ascii() {
        Ok(text)
    } else {
        Err("text outside ASCII is not supported".into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Capitals alone, or one before small letters.
    Capitals,
    Letters,
    Digits,
    /// Hyphens, underscores and spaces.
    Joint,
    Punctuation,
    Other,
}

fn is_joint(c: char) -> bool {
    c == '-' || c == '_' || c.is_whitespace()
}

/// What Unicode calls punctuation; the rest of ASCII's marks are symbols.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() && !"$+<=>^`|~".contains(c)
}

fn kind(c: char) -> Kind {
    match c {
        c if is_joint(c) => Kind::Joint,
        c if is_punctuation(c) => Kind::Punctuation,
        'A'..='Z' => Kind::Capitals,
        'a'..='z' => Kind::Letters,
        '0'..='9' => Kind::Digits,
        _ => Kind::Other,
    }
}

/// The words of a text: "HTTPServer" has two, "Server2" has two.
fn words(text: &str) -> Vec<(Kind, &str)> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let of = kind(first);
        let run = |allowed: &dyn Fn(char) -> bool| {
            1 + rest[1..].find(|c| !allowed(c)).unwrap_or(rest.len() - 1)
        };
        let length = match of {
            Kind::Capitals => {
                let capitals = run(&|c| c.is_ascii_uppercase());
                let small_follows = rest[capitals..].starts_with(|c: char| c.is_ascii_lowercase());
                match (capitals, small_follows) {
                    (1, true) => run(&|c| c.is_ascii_lowercase()),
                    // The last capital begins the next word.
                    (_, true) => capitals - 1,
                    (_, false) => capitals,
                }
            }
            Kind::Punctuation => run(&is_punctuation),
            of => run(&|c| kind(c) == of),
        };
        let (word, after) = rest.split_at(length);
        out.push((of, word));
        rest = after;
    }
    out
}

/// Joins words in lower case. Digits stay with the word before them, unless small
/// letters follow them directly.
fn joined(text: &str, joint: char) -> Value {
    let words = words(text);
    let mut out = String::new();
    let put = |out: &mut String, (of, word): (Kind, &str)| match of {
        Kind::Joint => out.extend(word.chars().map(|_| joint)),
        _ => out.push_str(&word.to_ascii_lowercase()),
    };
    let kind_at = |at: usize| words.get(at).map(|(of, _)| *of);
    let joins = |of: Option<Kind>| !matches!(of, None | Some(Kind::Joint | Kind::Punctuation));
    // Letters and digits that go on without a joint.
    let run_on = |out: &mut String, mut at: usize| {
        while matches!(kind_at(at), Some(Kind::Letters | Kind::Digits)) {
            put(out, words[at]);
            at += 1;
        }
        if joins(kind_at(at)) {
            out.push(joint);
        }
        at
    };
    let mut at = 0;
    while at + 1 < words.len() {
        let word = words[at];
        put(&mut out, word);
        at += 1;
        match (word.0, kind_at(at)) {
            (Kind::Digits, _) => at = run_on(&mut out, at),
            (Kind::Joint | Kind::Punctuation, _) => {}
            (_, Some(Kind::Digits)) if at + 1 < words.len() => {
                let digits = words[at];
                at += 1;
                if kind_at(at) == Some(Kind::Letters) {
                    out.push(joint);
                    put(&mut out, digits);
                    at = run_on(&mut out, at);
                } else {
                    put(&mut out, digits);
                    if joins(kind_at(at)) {
                        out.push(joint);
                    }
                }
            }
            (_, Some(Kind::Digits)) => {}
            (_, next) => {
                if joins(next) {
                    out.push(joint);
                }
            }
        }
    }
    if let Some(last) = words.get(at) {
        put(&mut out, *last);
    }
    Value::text(out)
}

pub(super) fn snakecase(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(joined(ascii(arguments)?, '_'))
}

pub(super) fn kebabcase(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    Ok(joined(ascii(arguments)?, '-'))
}

/// Words begin with a capital and the joints between them go; those at the beginning,
/// at the end and all but one of several stay.
pub(super) fn camelcase(arguments: &[Value], _: &mut Budget) -> Result<Value, String> {
    let text = ascii(arguments)?;
    let start = text.find(|c| !is_joint(c));
    let Some(start) = start else {
        // Only joints: the last one counts twice.
        let last = text.chars().last();
        return Ok(Value::text(text.chars().chain(last).collect::<String>()));
    };
    let mut out = text[..start].to_owned();
    let mut chars = text[start..].chars();
    let Some(first) = chars.next() else {
        return Ok(Value::text(out));
    };
    let mut in_capitals = first.is_ascii_uppercase();
    let mut pending = first.to_ascii_uppercase();
    for c in chars {
        let after_joint = is_joint(pending);
        let mut next = c;
        if after_joint && is_joint(c) {
            out.push(pending);
        } else if after_joint {
            in_capitals = c.is_ascii_uppercase();
            next = c.to_ascii_uppercase();
        } else {
            if in_capitals && c.is_ascii_uppercase() {
                next = c.to_ascii_lowercase();
            } else {
                in_capitals = false;
            }
            out.push(pending);
        }
        pending = next;
    }
    out.push(pending);
    Ok(Value::text(out))
}
