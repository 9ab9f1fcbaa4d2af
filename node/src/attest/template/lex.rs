//! From source to text and actions, and from actions to tokens.

/// Longest action, in tokens.
const TOKENS_MAX: usize = 1024;
/// What trim markers take away.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// A part of the source.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Text outside of actions, never empty.
    Text(String),
    /// What stands between `{{` and `}}`.
    Action(Vec<Token>),
}

/// A token of an action. Spaces matter: they separate arguments.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Space,
    /// A keyword, a constant or a function.
    Word(String),
    /// `.Name`, without the dot.
    Field(String),
    /// `.`
    Dot,
    /// `$name`, with the dollar sign.
    Variable(String),
    Text(String),
    Number(Number),
    Pipe,
    Open,
    Close,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A number constant: whole where it can be, and whether it was written as a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number {
    pub(super) whole: Option<i64>,
    pub(super) float: f64,
    pub(super) written_as_float: bool,
}

/// Splits a source. Comments are gone and trim markers are followed.
pub(super) fn pieces(source: &str) -> Result<Vec<Piece>, String> {
    let mut out = Vec::new();
    let mut rest = source;
    let mut trim_next = false;
    loop {
        let (text, after) = match rest.split_once("{{") {
            Some((text, after)) => (text, Some(after)),
            None => (rest, None),
        };
        let mut text = if trim_next {
            text.trim_start_matches(SPACE)
        } else {
            text
        };
        let Some(mut inside) = after else {
            push_text(&mut out, text);
            return Ok(out);
        };
        if let Some(marked) = inside.strip_prefix('-')
            && marked.starts_with(SPACE)
        {
            text = text.trim_end_matches(SPACE);
            inside = &marked[1..];
        }
        push_text(&mut out, text);
        if let Some(comment) = inside.strip_prefix("/*") {
            let (_, after) = comment.split_once("*/").ok_or("unclosed comment")?;
            let trimmed = after
                .strip_prefix(SPACE)
                .and_then(|a| a.strip_prefix("-}}"));
            trim_next = trimmed.is_some();
            rest = match (trimmed, after.strip_prefix("}}")) {
                (Some(rest), _) | (None, Some(rest)) => rest,
                (None, None) => return Err("comment ends before closing delimiter".into()),
            };
            continue;
        }
        let (tokens, trim, after) = action(inside)?;
        out.push(Piece::Action(tokens));
        trim_next = trim;
        rest = after;
    }
}

fn push_text(out: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        out.push(Piece::Text(text.to_owned()));
    }
}

/// The tokens of one action, whether its end trims, and what follows it.
fn action(source: &str) -> Result<(Vec<Token>, bool, &str), String> {
    let mut tokens = Vec::new();
    let mut depth = 0_usize;
    let mut rest = source;
    loop {
        if tokens.len() > TOKENS_MAX {
            return Err(format!("an action has more than {TOKENS_MAX} words"));
        }
        let spaces = rest.len() - rest.trim_start_matches(SPACE).len();
        if spaces > 0 {
            if let Some(after) = rest[spaces..].strip_prefix("-}}") {
                return if depth == 0 {
                    Ok((tokens, true, after))
                } else {
                    Err("unclosed left paren".into())
                };
            }
            tokens.push(Token::Space);
            rest = &rest[spaces..];
        }
        if let Some(after) = rest.strip_prefix("}}") {
            return if depth == 0 {
                Ok((tokens, false, after))
            } else {
                Err("unclosed left paren".into())
            };
        }
        let Some(first) = rest.chars().next() else {
            return Err("unclosed action".into());
        };
        let one = &rest[first.len_utf8()..];
        let (token, after) = match first {
            '|' => (Token::Pipe, one),
            '(' => {
                depth += 1;
                (Token::Open, one)
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or("unexpected right paren")?;
                (Token::Close, one)
            }
            '=' => (Token::Assign, one),
            ':' => match one.strip_prefix('=') {
                Some(after) => (Token::Declare, after),
                None => return Err("expected :=".into()),
            },
            '"' => quoted(one)?,
            '`' => {
                let (text, after) = one
                    .split_once('`')
                    .ok_or("unterminated raw quoted string")?;
                // Go drops carriage returns from raw strings.
                (Token::Text(text.replace('\r', "")), after)
            }
            '\'' => character(one)?,
            '.' if !one.starts_with(|c: char| c.is_ascii_digit()) => {
                let (name, after) = word(one);
                if name.is_empty() {
                    (Token::Dot, after)
                } else {
                    ends(after)?;
                    (Token::Field(name.to_owned()), after)
                }
            }
            '$' => {
                let (name, after) = word(one);
                ends(after)?;
                (Token::Variable(format!("${name}")), after)
            }
            '0'..='9' | '+' | '-' | '.' => number(rest)?,
            c if c == '_' || c.is_alphanumeric() => {
                let (name, after) = word(rest);
                ends(after)?;
                (Token::Word(name.to_owned()), after)
            }
            c => return Err(format!("unexpected {c:?} in an action")),
        };
        tokens.push(token);
        rest = after;
    }
}

/// Letters, digits and underscores from the beginning, and the rest.
fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A word ends where something else begins that may follow it.
fn ends(after: &str) -> Result<(), String> {
    let good = after.starts_with(SPACE)
        || after.starts_with(['.', '|', ':', ')', '('])
        || after.starts_with("}}")
        || after.is_empty();
    match after.chars().next() {
        Some(c) if !good => Err(format!("bad character {c:?}")),
        _ => Ok(()),
    }
}

/// One escaped or plain character of a quoted constant.
fn escaped(text: &str) -> Result<(char, &str), String> {
    const BAD: &str = "malformed character constant";
    let mut chars = text.chars();
    let first = chars.next().ok_or(BAD)?;
    if first != '\\' {
        return Ok((first, chars.as_str()));
    }
    let kind = chars.next().ok_or(BAD)?;
    let rest = chars.as_str();
    let of_digits = |length: usize, radix: u32, text: &str| -> Result<u32, String> {
        let digits = text.get(..length).ok_or(BAD)?;
        if digits.chars().any(|c| !c.is_digit(radix)) {
            return Err(BAD.into());
        }
        u32::from_str_radix(digits, radix).map_err(|_| BAD.into())
    };
    let plain = match kind {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' => '\\',
        '\'' => '\'',
        '"' => '"',
        'x' | 'u' | 'U' | '0'..='7' => {
            let (length, radix, from) = match kind {
                'x' => (2, 16, rest),
                'u' => (4, 16, rest),
                'U' => (8, 16, rest),
                _ => (3, 8, &text[1..]),
            };
            let number = of_digits(length, radix, from)?;
            // An octet above ASCII would be half a character.
            if matches!(kind, 'x' | '0'..='7') && number > 0x7f {
                return Err("an escape of a byte that is no character is not supported".into());
            }
            let c = char::from_u32(number).ok_or(BAD)?;
            return Ok((c, &from[length..]));
        }
        _ => return Err(BAD.into()),
    };
    Ok((plain, rest))
}

fn quoted(mut rest: &str) -> Result<(Token, &str), String> {
    let mut text = String::new();
    loop {
        if let Some(after) = rest.strip_prefix('"') {
            return Ok((Token::Text(text), after));
        }
        if rest.is_empty() || rest.starts_with('\n') {
            return Err("unterminated quoted string".into());
        }
        if rest.starts_with("\\'") {
            return Err("malformed quoted string".into());
        }
        let (c, after) = escaped(rest)?;
        text.push(c);
        rest = after;
    }
}

fn character(rest: &str) -> Result<(Token, &str), String> {
    const BAD: &str = "malformed character constant";
    if rest.starts_with(['\'', '\n']) || rest.starts_with("\\\"") {
        return Err(BAD.into());
    }
    let (c, after) = escaped(rest)?;
    let after = after.strip_prefix('\'').ok_or(BAD)?;
    let whole = i64::from(u32::from(c));
    let number = Number {
        whole: Some(whole),
        float: f64::from(u32::from(c)),
        written_as_float: false,
    };
    Ok((Token::Number(number), after))
}

fn number(text: &str) -> Result<(Token, &str), String> {
    // A sign may follow the exponent's letter, and stands nowhere else inside.
    let mut end = 0;
    let mut last = ' ';
    let hex = text.trim_start_matches(['+', '-']).starts_with(['0']) && text.contains(['x', 'X']);
    for c in text.chars() {
        let sign = matches!(c, '+' | '-')
            && (end == 0
                || (matches!(last, 'e' | 'E') && !hex)
                || (matches!(last, 'p' | 'P') && hex));
        if !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || sign) {
            break;
        }
        end += c.len_utf8();
        last = c;
    }
    let (word, after) = text.split_at(end);
    ends(after)?;
    let bad = || format!("bad number syntax: {word:?}");
    let (negative, digits) = match word.strip_prefix(['+', '-']) {
        Some(digits) => (word.starts_with('-'), digits),
        None => (false, word),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1
            && lower.starts_with('0')
            && lower.bytes().all(|b| b.is_ascii_digit() || b == b'_') =>
        {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    if body.is_empty()
        || body.contains("__")
        || body.ends_with('_')
        || (radix == 10 && body.starts_with('_'))
    {
        return Err(bad());
    }
    let body = body.replace('_', "");
    if body.chars().all(|c| c.is_digit(radix)) {
        let whole = i128::from_str_radix(&body, radix).map_err(|_| bad())?;
        let whole = i64::try_from(if negative { -whole } else { whole })
            .map_err(|_| format!("integer overflow: {word:?}"))?;
        #[allow(clippy::cast_precision_loss, reason = "as Go: the nearest")]
        let float = whole as f64;
        let number = Number {
            whole: Some(whole),
            float,
            written_as_float: false,
        };
        return Ok((Token::Number(number), after));
    }
    let decimal = radix == 10
        && body
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-'));
    let float: f64 = body.parse().map_err(|_| bad())?;
    if !decimal || !float.is_finite() {
        return Err(bad());
    }
    let float = if negative { -float } else { float };
    #[allow(clippy::cast_possible_truncation, reason = "bounded before")]
    let whole = (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
    let number = Number {
        whole,
        float,
        written_as_float: true,
    };
    Ok((Token::Number(number), after))
}
