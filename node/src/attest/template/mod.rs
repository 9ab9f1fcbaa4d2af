//! Path templates: from a node's certificate to its agent's path.
//!
//! SPIRE writes them in Go's `text/template` with the functions of sprig. Here is the
//! part of that language that makes paths: fields of the certificate, pipelines,
//! variables, `if` and `else`, `index`, comparisons, and sprig's functions on text, lists, hashes and
//! regular expressions. A template that means something here means the same there.
//! Everything else is an error that names it when the template is parsed, which is when
//! the configuration is checked: what parses may still fail on a certificate
//! (an index out of range, a missing selector), and then the attestation does.
//!
//! Pure and bounded: no IO, no clock, no randomness; the size of the source, the depth,
//! the steps, every value and every regular expression have limits. Text is UTF-8 always: a function
//! that would cut a character in two is an error.

mod data;
mod functions;
mod lex;
mod parse;
mod run;
mod value;

pub use data::Data;

/// Largest source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// Largest result, in bytes: no path is longer.
pub const OUTPUT_BYTES_MAX: usize = 2048;

/// Why text is not a template that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

/// Why a template makes no path of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: agent-path: {0}")]
pub struct RenderError(String);

/// A parsed template.
#[derive(Clone, PartialEq)]
pub struct Template {
    source: String,
    nodes: Vec<parse::Node>,
}

// Two templates of one source are one template.
impl Eq for Template {}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Template").field(&self.source).finish()
    }
}

impl Template {
    /// Parses a template, and checks that every function and field in it is known.
    ///
    /// # Errors
    /// [`TemplateError`]; it names what is not supported.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(TemplateError(format!(
                "is longer than {SOURCE_BYTES_MAX} bytes"
            )));
        }
        let pieces = lex::pieces(source).map_err(TemplateError)?;
        let nodes = parse::nodes(pieces).map_err(TemplateError)?;
        Ok(Self {
            source: source.to_owned(),
            nodes,
        })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it makes of a certificate; whether that is a path is for the caller to say.
    ///
    /// # Errors
    /// [`RenderError`].
    pub fn render(&self, data: &Data<'_>) -> Result<String, RenderError> {
        run::run(&self.nodes, data).map_err(RenderError)
    }
}

#[cfg(test)]
mod tests;
