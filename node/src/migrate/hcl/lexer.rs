//! Tokens. Comments and white space end here.

use super::{HclError, Position};

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Identifier(String),
    Text(String),
    Number(String),
    Bool(bool),
    Null,
    /// `=`; in JSON `:`.
    Assign,
    Comma,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    End,
}

impl Token {
    /// For error messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Identifier(text) => format!("\"{}\"", text.escape_debug()),
            Self::Text(_) => "a string".to_owned(),
            Self::Number(text) => format!("the number {text}"),
            Self::Bool(value) => value.to_string(),
            Self::Null => "null".to_owned(),
            Self::Assign => "'='".to_owned(),
            Self::Comma => "','".to_owned(),
            Self::OpenBrace => "'{'".to_owned(),
            Self::CloseBrace => "'}'".to_owned(),
            Self::OpenBracket => "'['".to_owned(),
            Self::CloseBracket => "']'".to_owned(),
            Self::End => "the end of the file".to_owned(),
        }
    }
}

pub(super) struct Lexer<'t> {
    rest: &'t str,
    at: Position,
    json: bool,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str, json: bool) -> Self {
        Self {
            // Some editors mark UTF-8 files.
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            at: Position { line: 1, column: 1 },
            json,
        }
    }

    pub(super) fn next(&mut self) -> Result<(Position, Token), HclError> {
        self.skip_blanks()?;
        let at = self.at;
        let Some(first) = self.peek() else {
            return Ok((at, Token::End));
        };
        let simple = match first {
            '=' if !self.json => Some(Token::Assign),
            ':' if self.json => Some(Token::Assign),
            ',' => Some(Token::Comma),
            '{' => Some(Token::OpenBrace),
            '}' => Some(Token::CloseBrace),
            '[' => Some(Token::OpenBracket),
            ']' => Some(Token::CloseBracket),
            _ => None,
        };
        let token = match simple {
            Some(token) => {
                self.advance();
                token
            }
            None if first == '"' && self.json => self.json_string()?,
            None if first == '"' => self.string()?,
            None if first == '<' && !self.json => self.heredoc()?,
            None if first == '-' || first.is_ascii_digit() => self.number()?,
            None if is_letter(first) => self.identifier(),
            None => {
                let shown = first.escape_debug();
                return Err(error(at, format!("'{shown}' does not belong here")));
            }
        };
        Ok((at, token))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let char = chars.next()?;
        self.rest = chars.as_str();
        if char == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(char)
    }

    fn advance_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'t str {
        let before = self.rest;
        while self.peek().is_some_and(&mut wanted) {
            self.advance();
        }
        &before[..before.len() - self.rest.len()]
    }

    fn skip_blanks(&mut self) -> Result<(), HclError> {
        loop {
            self.advance_while(char::is_whitespace);
            if self.json {
                return Ok(());
            }
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.advance_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let at = self.at;
                self.advance();
                self.advance();
                while !self.rest.starts_with("*/") {
                    if self.advance().is_none() {
                        return Err(error(at, "the comment that begins here does not end"));
                    }
                }
                self.advance();
                self.advance();
            } else {
                return Ok(());
            }
        }
    }

    fn identifier(&mut self) -> Token {
        let text = self.advance_while(|c| is_letter(c) || c.is_numeric() || c == '-' || c == '.');
        match text {
            "true" => Token::Bool(true),
            "false" => Token::Bool(false),
            "null" if self.json => Token::Null,
            text => Token::Identifier(text.to_owned()),
        }
    }

    fn number(&mut self) -> Result<Token, HclError> {
        let at = self.at;
        let mut before = ' ';
        let text = self.advance_while(|c| {
            let sign = c == '-' || c == '+';
            let part = c.is_ascii_alphanumeric()
                || c == '.'
                || (sign && matches!(before, ' ' | 'e' | 'E'));
            before = c;
            part
        });
        if is_number(text) {
            Ok(Token::Number(text.to_owned()))
        } else {
            let message = format!("{text} is no number; a duration or an address needs quotes");
            Err(error(at, message))
        }
    }

    /// A string with Go's escapes. What stands between `${` and its brace is kept as it is,
    /// quotes and line ends too.
    fn string(&mut self) -> Result<Token, HclError> {
        let at = self.at;
        let unclosed = || error(at, "the string that begins here does not end on its line");
        self.advance();
        let mut bytes = Vec::new();
        let mut braces = 0_usize;
        loop {
            let here = self.at;
            let char = self.advance().ok_or_else(unclosed)?;
            match char {
                '"' if braces == 0 => break,
                '\n' if braces == 0 => return Err(unclosed()),
                '\\' if braces == 0 => self.escape(here, &mut bytes)?,
                '$' if braces == 0 && self.peek() == Some('{') => {
                    self.advance();
                    bytes.extend_from_slice(b"${");
                    braces = 1;
                }
                char => {
                    match char {
                        '{' if braces > 0 => braces += 1,
                        '}' if braces > 0 => braces -= 1,
                        _ => {}
                    }
                    push(&mut bytes, char);
                }
            }
        }
        String::from_utf8(bytes)
            .map(Token::Text)
            .map_err(|_| error(at, "the string that begins here is no UTF-8"))
    }

    /// What follows a backslash.
    fn escape(&mut self, at: Position, bytes: &mut Vec<u8>) -> Result<(), HclError> {
        let wrong = || error(at, "unknown escape in a string");
        let plain = match self.advance().ok_or_else(wrong)? {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            '"' => b'"',
            first @ '0'..='7' => {
                let code = first.to_digit(8).unwrap_or(0) * 64 + self.digits(2, 8, wrong)?;
                u8::try_from(code).map_err(|_| wrong())?
            }
            'x' => u8::try_from(self.digits(2, 16, wrong)?).map_err(|_| wrong())?,
            wide @ ('u' | 'U') => {
                let code = self.digits(if wide == 'u' { 4 } else { 8 }, 16, wrong)?;
                push(bytes, char::from_u32(code).ok_or_else(wrong)?);
                return Ok(());
            }
            _ => return Err(wrong()),
        };
        bytes.push(plain);
        Ok(())
    }

    fn digits(
        &mut self,
        count: usize,
        radix: u32,
        wrong: impl Fn() -> HclError,
    ) -> Result<u32, HclError> {
        let mut code = 0_u32;
        for _ in 0..count {
            let digit = self.advance().and_then(|c| c.to_digit(radix));
            let next = code
                .checked_mul(radix)
                .zip(digit)
                .and_then(|(code, digit)| code.checked_add(digit));
            code = next.ok_or_else(&wrong)?;
        }
        Ok(code)
    }

    fn json_string(&mut self) -> Result<Token, HclError> {
        let at = self.at;
        let before = self.rest;
        self.advance();
        let mut escaped = false;
        loop {
            match self.advance() {
                None => return Err(error(at, "the string that begins here does not end")),
                Some('"') if !escaped => break,
                Some(char) => escaped = char == '\\' && !escaped,
            }
        }
        let raw = &before[..before.len() - self.rest.len()];
        serde_json::from_str(raw)
            .map(Token::Text)
            .map_err(|e| error(at, format!("the string that begins here is wrong: {e}")))
    }

    /// `<<NAME`, lines, `NAME`. With `<<-` the closing line's indentation is taken off each line,
    /// if each has it.
    fn heredoc(&mut self) -> Result<Token, HclError> {
        let at = self.at;
        let head = self.advance_while(|c| c != '\n');
        let name = head.strip_prefix("<<").unwrap_or("").trim_end();
        let (indented, name) = match name.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, name),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            let message = "a here-document begins with << and a name of letters and digits";
            return Err(error(at, message));
        }
        self.advance();
        let mut lines = Vec::new();
        let closing = loop {
            let line = self.advance_while(|c| c != '\n');
            if line.trim() == name {
                break line;
            }
            if self.advance().is_none() {
                let message = format!("the here-document that begins here needs a line {name}");
                return Err(error(at, message));
            }
            lines.push(line);
        };
        let margin = &closing[..closing.len() - closing.trim_start().len()];
        if indented && lines.iter().all(|line| line.starts_with(margin)) {
            for line in &mut lines {
                *line = &line[margin.len()..];
            }
        }
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        Ok(Token::Text(text))
    }
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn push(bytes: &mut Vec<u8>, char: char) {
    bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

/// A decimal, octal or hexadecimal integer, or a floating-point number.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let hex = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    if let Some(hex) = hex {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return digits.bytes().all(|b| b < b'8');
    }
    digits.starts_with(|c: char| c.is_ascii_digit()) && digits.parse::<f64>().is_ok()
}

pub(super) fn error(at: Position, message: impl Into<String>) -> HclError {
    HclError {
        at,
        message: message.into(),
    }
}
