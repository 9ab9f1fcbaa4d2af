//! The first version of HashiCorp's configuration language, and JSON in its place.
//!
//! Why it exists: SPIRE's files are HCL 1. Parsers of its successor refuse what SPIRE takes (keys in
//! quotes, several items on a line, commas between items) and read into strings what SPIRE leaves
//! alone.
//!
//! Promises: what `hashicorp/hcl` 1.0 reads of a file without interpolation is read to the same
//! values; every item knows its line; a file that begins with a brace is JSON. No input is deeper
//! than [`DEPTH_MAX`] or larger than [`BYTES_MAX`]. Refuses to know: what the items mean.
//!
//! Labels are read as what they stand for: `a "b" { … }` is `a { b { … } }`.

mod lexer;
mod parser;

use std::fmt;

/// Largest text, in bytes.
pub const BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of objects and lists; a label counts as an object.
pub const DEPTH_MAX: usize = 64;

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a text is not of the language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct HclError {
    /// Where it was noticed.
    pub at: Position,
    /// What is wrong.
    pub message: String,
}

/// A key and its value. Keys may repeat; what that means is the reader's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Without quotes.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// What it is set to.
    pub value: Value,
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A string or a here-document.
    Text(String),
    /// As written; an integer or a floating-point number.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// JSON's alone.
    Null,
    /// In order.
    List(Vec<Value>),
    /// In order.
    Object(Vec<Item>),
}

/// Reads a whole file: HCL, or JSON where its first character is a brace.
///
/// # Errors
/// The first thing that is not of the language, or a bound that is passed.
pub fn parse(text: &str) -> Result<Vec<Item>, HclError> {
    parser::parse(text)
}

#[cfg(test)]
mod tests;
