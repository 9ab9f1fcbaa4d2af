//! Why a command failed, in the words that follow `Error:`.
//!
//! Texts that SPIRE's command line has for the same failure are SPIRE's.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use chancery_hsm::SignerError;
use chancery_identity::id::IdError;

use super::text::code_name;
use crate::backup::BackupError;
use crate::config::ConfigErrors;
use crate::migrate::hcl::HclError;

/// One failed command. Causes hang on `source()`; [`CliError::with_causes`] joins them.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A flag is missing, or two do not go together.
    #[error("{0}")]
    Flags(&'static str),
    /// A number does not fit the field it is for.
    #[error("invalid value for {what}: overflow converting int({value}) to int32")]
    Range {
        /// The field.
        what: &'static str,
        /// As given.
        value: i64,
    },
    /// The one text that is to be a SPIFFE ID, or a trust domain, is none.
    #[error(transparent)]
    SpiffeId(#[from] IdError),
    /// One of several texts is no SPIFFE ID.
    #[error("error parsing {what} {text:?}")]
    Id {
        /// Whose ID.
        what: &'static str,
        /// As given.
        text: String,
        /// What is wrong with it.
        source: IdError,
    },
    /// A selector has no colon.
    #[error("selector \"{0}\" must be formatted as type:value")]
    Selector(String),
    /// `-matchSelectorsOn` and `-matchFederatesWithOn`.
    #[error("match behavior {0:?} unknown")]
    Match(String),
    /// `-expiresBefore`.
    #[error("date is not valid: {0:?} is not of the form \"2006-01-02 15:04:05 -0700 -07\"")]
    Date(String),
    /// `-format` of `bundle`.
    #[error("invalid format: {0:?}")]
    Format(String),
    /// `-instance` without a usable template.
    #[error("{0}")]
    Instance(&'static str),
    /// SPIRE's words for what a flag, a file or an answer holds.
    #[error("{0}")]
    Said(String),

    /// A data file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// As given; `-` is standard input.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A data file is larger than any that makes sense.
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    FileTooLarge {
        /// As given.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A configuration of SPIRE's is neither HCL nor JSON.
    #[error("{}", path.display())]
    Hcl {
        /// As given.
        path: PathBuf,
        /// Where and why.
        source: HclError,
    },
    /// `migrate data` between servers that have nothing to give each other.
    #[error(
        "the source's trust domain is {from:?} and the target's {to:?}: nothing can be copied between \
         them"
    )]
    TrustDomains {
        /// The source's.
        from: String,
        /// The target's.
        to: String,
    },
    /// A data file is not the JSON that is expected.
    #[error("{}", path.display())]
    Json {
        /// As given.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// One item of a data file is wrong.
    #[error("entry {number}")]
    Item {
        /// Its position, from 1.
        number: usize,
        /// Why.
        source: Box<CliError>,
    },
    /// One item of a data file has a member of another type.
    #[error("not a registration entry")]
    Shape(#[source] serde_json::Error),

    /// A backup was not made, read or restored, or nothing was recovered.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The configuration file does not hold.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// `hsm init`, `hsm check` or `hsm bench` with keys in memory or on disk.
    #[error("there is no token: keys.backend is \"{0}\", set it to \"pkcs11\"")]
    NoToken(&'static str),
    /// `hsm check` found what a server could not work with.
    #[error("the token is not fit for this configuration; faults shown above as \"no\": {missing}")]
    TokenUnfit {
        /// How many.
        missing: usize,
    },
    /// `hsm keys -sweep -yes` left some.
    #[error("{kept} of the keys above are still there")]
    KeysKept {
        /// How many.
        kept: usize,
    },
    /// The token did not do what it was asked.
    #[error(transparent)]
    Token(#[from] SignerError),
    /// The server did not start, or stopped with an error.
    #[error(transparent)]
    Server(anyhow::Error),

    /// Nothing answers at the socket.
    #[error(
        "cannot reach the server at unix:{}: {cause}; is it running, and is -socketPath right?",
        socket.display()
    )]
    Unreachable {
        /// Path that was tried.
        socket: PathBuf,
        /// The system's reason.
        cause: String,
    },
    /// The connection broke while a call was under way: what it did is not known.
    #[error("lost the connection to the server at unix:{}: {cause}", socket.display())]
    Lost {
        /// Path of the socket.
        socket: PathBuf,
        /// The transport's reason.
        cause: String,
    },
    /// The server took too long: what it did is not known.
    #[error("no answer from the server at unix:{} within {seconds} s", socket.display())]
    NoAnswer {
        /// Path of the socket.
        socket: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// The server refused the call.
    #[error("rpc error: code = {} desc = {}", code_name(.0.code() as i32), .0.message())]
    Refused(Box<tonic::Status>),
    /// The server's answer is not what the contract says.
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    /// Where in a longer piece of work it happened.
    #[error("{doing}")]
    While {
        /// What was being done.
        doing: String,
        /// What happened.
        source: Box<CliError>,
    },
    /// Part of a batch failed; the parts have been printed.
    #[error("{0}")]
    Batch(&'static str),
    /// `healthcheck`.
    #[error("server is unhealthy: {0}")]
    Unhealthy(String),

    /// The runtime did not start.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// Standard output or standard error cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl CliError {
    /// For `map_err`: says what was being done.
    pub(super) fn during(doing: &'static str) -> impl FnOnce(CliError) -> CliError {
        move |error| CliError::While {
            doing: doing.to_owned(),
            source: Box::new(error),
        }
    }

    /// A batch of one was answered with none.
    pub(super) fn no_result() -> CliError {
        CliError::Answer("it has no result".to_owned())
    }

    /// The text with its causes, outermost first, parted by colons.
    pub(super) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
