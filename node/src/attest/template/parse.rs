//! From tokens to a tree, with everything checked that can be known without a
//! certificate: functions and their argument counts, fields, variables.

use super::data;
use super::functions::{self, Function};
use super::lex::{Number, Piece, Token};

/// Deepest nesting of parentheses, and of `if`.
const DEPTH_MAX: usize = 32;
/// Actions of `text/template` that are not for paths.
const UNSUPPORTED: [&str; 7] = [
    "range", "with", "block", "define", "template", "break", "continue",
];

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// Prints a pipeline, unless it declares or assigns.
    Action(Pipeline),
    /// The first branch whose pipeline is true, or the last list.
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
}

/// Commands of which each gets the last one's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pipeline {
    pub(super) variable: Option<(String, Binding)>,
    pub(super) commands: Vec<Command>,
}

/// What happens to a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Declare,
    Assign,
}

/// One command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Call(&'static Function, Vec<Term>),
    Value(Term),
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Term {
    Nil,
    Bool(bool),
    Number(Number),
    Text(String),
    /// Fields from the root on.
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Pipeline(Box<Pipeline>, Vec<String>),
    /// A function without arguments, as an argument.
    Call(&'static Function),
}

impl Term {
    /// Whether it can stand behind a `|`.
    fn is_constant(&self) -> bool {
        matches!(
            self,
            Self::Nil | Self::Bool(_) | Self::Number(_) | Self::Text(_)
        )
    }
}

/// Parses a whole template.
pub(super) fn nodes(pieces: Vec<Piece>) -> Result<Vec<Node>, String> {
    let mut parser = Parser {
        pieces: pieces.into_iter(),
        variables: Vec::new(),
    };
    match parser.list(0)? {
        (nodes, Stop::Source) => Ok(nodes),
        (_, Stop::Else(_)) => Err("unexpected {{else}}".into()),
        (_, Stop::End) => Err("unexpected {{end}}".into()),
    }
}

/// What ended a list of nodes.
enum Stop {
    Source,
    End,
    /// The tokens behind `else`.
    Else(Tokens),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    /// Names in scope, innermost last.
    variables: Vec<String>,
}

/// Tokens of one action, read from the front.
struct Tokens {
    rest: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Tokens {
    fn next(&mut self) -> Option<Token> {
        self.rest.next()
    }

    fn peek(&mut self) -> Option<&Token> {
        self.rest.peek()
    }

    fn skip_space(&mut self) {
        while self.rest.next_if_eq(&Token::Space).is_some() {}
    }

    fn finish(mut self, context: &str) -> Result<(), String> {
        self.skip_space();
        match self.next() {
            None => Ok(()),
            Some(token) => Err(format!("unexpected {} in {context}", shown(&token))),
        }
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Space => "space".into(),
        Token::Word(word) | Token::Variable(word) => format!("<{word}>"),
        Token::Field(name) => format!("<.{name}>"),
        Token::Dot => "<.>".into(),
        Token::Text(text) => format!("{text:?}"),
        Token::Number(number) => format!("<{}>", number.float),
        Token::Pipe => "<|>".into(),
        Token::Open => "<(>".into(),
        Token::Close => "<)>".into(),
        Token::Declare => "<:=>".into(),
        Token::Assign => "<=>".into(),
    }
}

impl Parser {
    /// Nodes up to the end of the source, an `end` or an `else`.
    fn list(&mut self, depth: usize) -> Result<(Vec<Node>, Stop), String> {
        if depth > DEPTH_MAX {
            return Err(format!("if is nested deeper than {DEPTH_MAX}"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let mut tokens = Tokens {
                rest: tokens.into_iter().peekable(),
            };
            tokens.skip_space();
            let keyword = match tokens.peek() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "if" => {
                    tokens.next();
                    nodes.push(self.branches(tokens, depth)?);
                }
                "end" => {
                    tokens.next();
                    tokens.finish("end")?;
                    return Ok((nodes, Stop::End));
                }
                "else" => {
                    tokens.next();
                    return Ok((nodes, Stop::Else(tokens)));
                }
                word if UNSUPPORTED.contains(&word) => {
                    return Err(format!("{{{{{word}}}}} is not supported"));
                }
                _ => {
                    let pipeline = self.pipeline(&mut tokens, "command", 0)?;
                    tokens.finish("command")?;
                    nodes.push(Node::Action(pipeline));
                }
            }
        }
        Ok((nodes, Stop::Source))
    }

    /// An `if` with all its branches, up to its `end`.
    fn branches(&mut self, mut tokens: Tokens, depth: usize) -> Result<Node, String> {
        let scope = self.variables.len();
        let mut branches = Vec::new();
        let otherwise = loop {
            let condition = self.pipeline(&mut tokens, "if", 0)?;
            tokens.finish("if")?;
            // What a branch declares ends with it; what its condition declares, with
            // the whole.
            let inner = self.variables.len();
            let (nodes, end) = self.list(depth + 1)?;
            self.variables.truncate(inner);
            branches.push((condition, nodes));
            match end {
                Stop::Source => return Err("unexpected EOF: {{if}} has no {{end}}".into()),
                Stop::End => break Vec::new(),
                Stop::Else(mut after) => {
                    after.skip_space();
                    match after.peek() {
                        Some(Token::Word(word)) if word == "if" => {
                            after.next();
                            tokens = after;
                            continue;
                        }
                        _ => after.finish("else")?,
                    }
                    let (nodes, end) = self.list(depth + 1)?;
                    match end {
                        Stop::End => break nodes,
                        Stop::Else(_) => return Err("expected end; found {{else}}".into()),
                        Stop::Source => {
                            return Err("unexpected EOF: {{else}} has no {{end}}".into());
                        }
                    }
                }
            }
        };
        self.variables.truncate(scope);
        Ok(Node::If(branches, otherwise))
    }

    /// A pipeline, to the end of the action or to a closing parenthesis, which stays.
    fn pipeline(
        &mut self,
        tokens: &mut Tokens,
        context: &str,
        depth: usize,
    ) -> Result<Pipeline, String> {
        if depth > DEPTH_MAX {
            return Err(format!("parentheses are nested deeper than {DEPTH_MAX}"));
        }
        tokens.skip_space();
        let mut first = None;
        let mut variable = None;
        if let Some(Token::Variable(name)) = tokens.peek() {
            let name = name.clone();
            tokens.next();
            let before = tokens.rest.len();
            tokens.skip_space();
            let binding = match tokens.peek() {
                Some(Token::Declare) => Some(Binding::Declare),
                Some(Token::Assign) => Some(Binding::Assign),
                _ => None,
            };
            match binding {
                Some(binding) => {
                    tokens.next();
                    if binding == Binding::Assign && !self.variables.contains(&name) {
                        return Err(format!("undefined variable {name:?}"));
                    }
                    variable = Some((name, binding));
                }
                // Its fields stand right behind it, or there are none.
                None => first = Some((name, before == tokens.rest.len())),
            }
        }
        let mut commands = vec![match first {
            Some((name, joined)) => self.command_of_variable(tokens, name, joined)?,
            None => self.command(tokens, context, depth)?,
        }];
        while tokens.peek() == Some(&Token::Pipe) {
            tokens.next();
            tokens.skip_space();
            // A pipe to nowhere is let through, as Go does.
            if matches!(tokens.peek(), None | Some(Token::Close)) {
                break;
            }
            let command = self.command(tokens, context, depth)?;
            let stage = commands.len() + 1;
            if matches!(&command, Command::Value(term) if term.is_constant()) {
                return Err(format!("non executable command in pipeline stage {stage}"));
            }
            commands.push(command);
        }
        for (at, command) in commands.iter().enumerate() {
            if let Command::Call(function, arguments) = command {
                function.check_count(arguments.len() + usize::from(at > 0))?;
            }
        }
        if matches!(commands.as_slice(), [Command::Value(Term::Nil)]) {
            return Err("nil is not a command".into());
        }
        if let Some((name, Binding::Declare)) = &variable {
            self.variables.push(name.clone());
        }
        Ok(Pipeline { variable, commands })
    }

    /// The rest of a command that began with a variable.
    fn command_of_variable(
        &self,
        tokens: &mut Tokens,
        name: String,
        joined: bool,
    ) -> Result<Command, String> {
        let chain = if joined { fields(tokens) } else { Vec::new() };
        let term = self.variable(name, chain)?;
        tokens.skip_space();
        match tokens.peek() {
            None | Some(Token::Pipe | Token::Close) => Ok(Command::Value(term)),
            Some(token) => Err(format!("unexpected {} behind a value", shown(token))),
        }
    }

    /// One command: a function and its arguments, or a single value.
    fn command(
        &mut self,
        tokens: &mut Tokens,
        context: &str,
        depth: usize,
    ) -> Result<Command, String> {
        let mut terms = Vec::new();
        loop {
            tokens.skip_space();
            match tokens.peek() {
                None | Some(Token::Pipe | Token::Close) => break,
                Some(_) => {}
            }
            terms.push(self.term(tokens, depth)?);
            match tokens.peek() {
                None | Some(Token::Space | Token::Pipe | Token::Close) => {}
                Some(token) => return Err(format!("unexpected {} in operand", shown(token))),
            }
        }
        let mut terms = terms.into_iter();
        match terms.next() {
            None => Err(format!("missing value for {context}")),
            Some(Term::Call(function)) => Ok(Command::Call(function, terms.collect())),
            Some(term) => match terms.next() {
                None => Ok(Command::Value(term)),
                Some(_) => Err("a value that is no function was given arguments".into()),
            },
        }
    }

    fn term(&mut self, tokens: &mut Tokens, depth: usize) -> Result<Term, String> {
        let token = tokens.next().ok_or("missing value")?;
        let term = match token {
            Token::Word(word) => match word.as_str() {
                "nil" => Term::Nil,
                "true" => Term::Bool(true),
                "false" => Term::Bool(false),
                name => Term::Call(functions::named(name)?),
            },
            Token::Number(number) => Term::Number(number),
            Token::Text(text) => Term::Text(text),
            Token::Field(name) => {
                let mut chain = vec![name];
                chain.extend(fields(tokens));
                data::check(&chain)?;
                return Ok(Term::Field(chain));
            }
            Token::Variable(name) => {
                let chain = fields(tokens);
                return self.variable(name, chain);
            }
            Token::Open => {
                let pipeline = self.pipeline(tokens, "parenthesized pipeline", depth + 1)?;
                if pipeline.variable.is_some() {
                    return Err("a variable cannot be bound in parentheses".into());
                }
                if tokens.next() != Some(Token::Close) {
                    return Err("unclosed left paren".into());
                }
                let chain = fields(tokens);
                chain.iter().try_for_each(|name| data::check_member(name))?;
                return Ok(Term::Pipeline(Box::new(pipeline), chain));
            }
            Token::Dot => return Err("the whole data (.) cannot be used; name a field".into()),
            token => return Err(format!("unexpected {} in operand", shown(&token))),
        };
        if let Some(Token::Field(name)) = tokens.peek() {
            return Err(format!(
                "unexpected <.{name}> after a constant or a function"
            ));
        }
        Ok(term)
    }

    fn variable(&self, name: String, chain: Vec<String>) -> Result<Term, String> {
        // The root is the one variable that is always there.
        if name == "$" {
            data::check(&chain)?;
            return Ok(Term::Field(chain));
        }
        if !self.variables.contains(&name) {
            return Err(format!("undefined variable {name:?}"));
        }
        chain.iter().try_for_each(|name| data::check_member(name))?;
        Ok(Term::Variable(name, chain))
    }
}

/// Fields that stand right behind an operand.
fn fields(tokens: &mut Tokens) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(Token::Field(name)) = tokens.peek() {
        out.push(name.clone());
        tokens.next();
    }
    out
}
