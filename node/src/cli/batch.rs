//! What became of the items of a batch, in SPIRE's words.

use std::fmt::Write as _;

use chancery_api::spire::api::types::Status;

use super::error::CliError;
use super::session::Session;
use super::text;

/// What a batch leaves to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// For standard output.
    pub(super) out: String,
    /// For standard error.
    pub(super) err: String,
    /// Whether any item failed.
    pub(super) failed: bool,
}

impl Batch {
    /// Says that an item failed: what was to be done with it, why it was not, and the item.
    pub(super) fn fail(&mut self, doing: &str, status: &Status, item: &str) {
        self.failed = true;
        let _ = write!(
            self.err,
            "Failed to {doing} (code: {}, msg: {:?}):\n{item}",
            text::code_name(status.code),
            status.message
        );
    }

    /// Tells what failed; that something failed is an error with the text `failure`.
    ///
    /// # Errors
    /// [`CliError::Batch`], [`CliError::Output`].
    pub(super) fn finish(
        self,
        session: &mut Session<'_, '_>,
        failure: &'static str,
    ) -> Result<(), CliError> {
        session.err(&self.err)?;
        if self.failed {
            return Err(CliError::Batch(failure));
        }
        Ok(())
    }
}

/// The status if it is a failure. A server that forgets it has not told of a success.
pub(super) fn failed(status: Option<&Status>) -> Option<Status> {
    const OK: i32 = 0;
    const UNKNOWN: i32 = 2;
    match status {
        Some(status) if status.code == OK => None,
        Some(status) => Some(status.clone()),
        None => Some(Status {
            code: UNKNOWN,
            message: "the server sent no status".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_is_a_success() {
        let status = |code| Status {
            code,
            message: "no \"x\"".into(),
        };
        assert_eq!(failed(Some(&status(0))), None);
        assert_eq!(failed(Some(&status(5))), Some(status(5)));
        assert_eq!(failed(None).unwrap().code, 2);
    }

    #[test]
    fn a_failure_has_its_code_by_name_and_its_message_in_quotes() {
        let mut batch = Batch::default();
        let status = Status {
            code: 5,
            message: "no \"x\"".into(),
        };
        batch.fail("update the following entry", &status, "item\n");
        assert_eq!(
            batch,
            Batch {
                out: String::new(),
                err: "Failed to update the following entry (code: NotFound, msg: \"no \\\"x\\\"\"):\nitem\n"
                    .into(),
                failed: true,
            }
        );
    }
}
