//! Items from tokens.

use super::lexer::{Lexer, Token, error};
use super::{BYTES_MAX, DEPTH_MAX, HclError, Item, Kind, Position, Value};

pub(super) fn parse(text: &str) -> Result<Vec<Item>, HclError> {
    let start = Position { line: 1, column: 1 };
    if text.len() > BYTES_MAX {
        let message = format!("the file is larger than {BYTES_MAX} bytes");
        return Err(error(start, message));
    }
    let json = text
        .trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with('{');
    let mut parser = Parser {
        lexer: Lexer::new(text, json),
        ahead: None,
        json,
    };
    let items = if json {
        let (at, _) = parser.next()?;
        let items = parser.items(Some(at), 0)?;
        match parser.next()? {
            (_, Token::End) => items,
            (at, token) => {
                let message = format!("expected the end of the file, found {}", token.name());
                return Err(error(at, message));
            }
        }
    } else {
        parser.items(None, 0)?
    };
    Ok(items)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    ahead: Option<(Position, Token)>,
    json: bool,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<(Position, Token), HclError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    fn peek(&mut self) -> Result<&(Position, Token), HclError> {
        if self.ahead.is_none() {
            self.ahead = Some(self.lexer.next()?);
        }
        // Filled just above.
        Ok(self
            .ahead
            .as_ref()
            .expect("a token was put there if there was none"))
    }

    /// Items up to the brace that closes the one at `opened`, or to the end of the file.
    fn items(&mut self, opened: Option<Position>, depth: usize) -> Result<Vec<Item>, HclError> {
        let mut items = Vec::new();
        loop {
            let (at, token) = self.next()?;
            match (token, opened) {
                (Token::CloseBrace, Some(_)) | (Token::End, None) => return Ok(items),
                (Token::End, Some(opened)) => {
                    return Err(error(opened, "the brace that opens here is not closed"));
                }
                (Token::Identifier(key), _) if !self.json => {
                    items.push(self.item(key, at, depth)?);
                }
                (Token::Text(key), _) => items.push(self.item(key, at, depth)?),
                (token, _) => {
                    let message = format!("expected a key, found {}", token.name());
                    return Err(error(at, message));
                }
            }
            if matches!(self.peek()?.1, Token::Comma) {
                self.next()?;
            }
        }
    }

    /// The item whose first key has been read.
    fn item(&mut self, key: String, at: Position, depth: usize) -> Result<Item, HclError> {
        let mut keys = vec![(key, at)];
        let depth_of_value = |keys: usize| depth + keys;
        let value = loop {
            within(at, depth_of_value(keys.len()))?;
            let (here, token) = self.next()?;
            match token {
                Token::Assign if keys.len() == 1 => break self.value(depth_of_value(1))?,
                Token::OpenBrace if !self.json => {
                    let items = self.items(Some(here), depth_of_value(keys.len()))?;
                    break Value {
                        at: here,
                        kind: Kind::Object(items),
                    };
                }
                Token::Identifier(label) | Token::Text(label) if !self.json => {
                    keys.push((label, here));
                }
                token => {
                    let wanted = if self.json { "':'" } else { "'=' or '{'" };
                    let (last, _) = &keys[keys.len() - 1];
                    let message = format!(
                        "expected {wanted} after \"{}\", found {}",
                        last.escape_debug(),
                        token.name()
                    );
                    return Err(error(here, message));
                }
            }
        };
        // Labels are the objects between the key and the value.
        let mut value = value;
        while keys.len() > 1 {
            if let Some((key, at)) = keys.pop() {
                let item = Item { key, at, value };
                value = Value {
                    at,
                    kind: Kind::Object(vec![item]),
                };
            }
        }
        let (key, at) = keys.remove(0);
        Ok(Item { key, at, value })
    }

    fn value(&mut self, depth: usize) -> Result<Value, HclError> {
        let (at, token) = self.next()?;
        self.value_of(at, token, depth)
    }

    fn value_of(&mut self, at: Position, token: Token, depth: usize) -> Result<Value, HclError> {
        within(at, depth)?;
        let kind = match token {
            Token::Text(text) => Kind::Text(text),
            Token::Number(text) => Kind::Number(text),
            Token::Bool(value) => Kind::Bool(value),
            Token::Null => Kind::Null,
            Token::OpenBrace => Kind::Object(self.items(Some(at), depth + 1)?),
            Token::OpenBracket => Kind::List(self.list(at, depth + 1)?),
            Token::Identifier(text) => {
                let message = format!("\"{}\" needs quotes", text.escape_debug());
                return Err(error(at, message));
            }
            token => {
                let message = format!("expected a value, found {}", token.name());
                return Err(error(at, message));
            }
        };
        Ok(Value { at, kind })
    }

    /// Values up to the closing bracket. A comma may stand behind the last.
    fn list(&mut self, opened: Position, depth: usize) -> Result<Vec<Value>, HclError> {
        let mut values = Vec::new();
        let mut comma = true;
        loop {
            let (at, token) = self.next()?;
            match token {
                Token::CloseBracket => return Ok(values),
                Token::Comma => comma = true,
                Token::End => {
                    return Err(error(opened, "the bracket that opens here is not closed"));
                }
                token if comma => {
                    values.push(self.value_of(at, token, depth)?);
                    comma = false;
                }
                token => {
                    let message = format!("expected ',' or ']', found {}", token.name());
                    return Err(error(at, message));
                }
            }
        }
    }
}

fn within(at: Position, depth: usize) -> Result<(), HclError> {
    if depth > DEPTH_MAX {
        let message = format!("nested deeper than {DEPTH_MAX} levels");
        return Err(error(at, message));
    }
    Ok(())
}
