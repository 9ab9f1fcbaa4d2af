//! One verb's conversation with the server: the flags every verb has, calls with a deadline, and
//! printing in the format asked for.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use prost::Message;
use serde::Serialize;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::connect::{self, DEFAULT_SOCKET};
use super::error::CliError;
use super::host::Host;
use super::paint::Paint;
use super::zone::Zone;
use super::{notices, output};

/// A call that takes longer is given up.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Largest answer taken. Pages stay far below; a bundle or an entry never comes near.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Flags that every verb has.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Path to the server's admin socket
    #[arg(long = "socketPath", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket_path: PathBuf,
    /// Instance name to put into the socket template (env SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE)
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    instance: String,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Pretty)]
    output: Format,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    // No doc comments: clap would print the help of every verb in its long form.
    #[value(alias = "prettyprint")]
    Pretty,
    Json,
}

/// One verb's conversation.
pub(super) struct Session<'h, 'p> {
    host: &'h mut Host<'p>,
    format: Format,
    socket: PathBuf,
    /// What the trailers of the last answer said.
    notices: Vec<String>,
}

impl<'h, 'p> Session<'h, 'p> {
    /// Runs `verb` in a session on a runtime of its own.
    ///
    /// # Errors
    /// Those of `verb`, and of the common flags.
    pub(super) fn run(
        common: &Common,
        host: &'h mut Host<'p>,
        verb: impl AsyncFnOnce(&mut Session<'h, 'p>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::Runtime)?;
        let socket = connect::socket(&common.socket_path, &common.instance, host)?;
        let mut session = Session {
            host,
            format: common.output,
            socket,
            notices: Vec::new(),
        };
        runtime.block_on(verb(&mut session))
    }

    /// Connects. Flags are checked before it, so that a wrong one is told without a server.
    ///
    /// # Errors
    /// [`CliError::Unreachable`].
    pub(super) async fn channel(&self) -> Result<Channel, CliError> {
        connect::connect(&self.socket).await
    }

    /// Awaits one call, tells on standard error what its trailers say, and hands out its answer.
    /// What the answer before it said too is not told again.
    ///
    /// # Errors
    /// [`CliError::Refused`], [`CliError::Lost`], [`CliError::NoAnswer`].
    pub(super) async fn call<T>(
        &mut self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CliError> {
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(response)) => {
                self.notice(response.metadata())?;
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.notice(status.metadata())?;
                Err(self.failure(status))
            }
            Err(_) => Err(CliError::NoAnswer {
                socket: self.socket.clone(),
                seconds: CALL_DEADLINE.as_secs(),
            }),
        }
    }

    fn notice(&mut self, metadata: &MetadataMap) -> Result<(), CliError> {
        let notices = notices::of(metadata);
        if notices != self.notices {
            let text: String = notices.iter().map(|line| format!("{line}\n")).collect();
            self.err(&text)?;
            self.notices = notices;
        }
        Ok(())
    }

    /// The error for a call that ended with `status`.
    pub(super) fn failure(&self, status: Status) -> CliError {
        // A status from the wire has no source; the transport's own always has one.
        match std::error::Error::source(&status) {
            Some(cause) => CliError::Lost {
                socket: self.socket.clone(),
                cause: connect::innermost(cause),
            },
            None => CliError::Refused(Box::new(status)),
        }
    }

    /// Where the server is.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether programs read the output.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Seconds since the Unix epoch.
    pub(super) fn now_unix_s(&self) -> i64 {
        self.host.now_unix_s
    }

    /// The time zone of the process.
    pub(super) fn zone(&self) -> Zone {
        Zone::local((self.host.variable)("TZ").as_deref())
    }

    /// Whether what people read is painted.
    pub(super) fn paint(&self) -> Paint {
        Paint::of(self.host)
    }

    /// The streams and variables around the session.
    pub(super) fn host(&mut self) -> &mut Host<'p> {
        self.host
    }

    /// Prints `message` in the format asked for; `full_name` is its protobuf name.
    ///
    /// # Errors
    /// [`CliError::Output`]; [`CliError::Answer`] for a message that is not of that name.
    pub(super) fn print(
        &mut self,
        full_name: &str,
        message: &impl Message,
        pretty: impl FnOnce() -> Result<String, CliError>,
    ) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => output::message_json(full_name, message)?,
            Format::Pretty => pretty()?,
        };
        self.out(&text)
    }

    /// [`Session::print`] for what SPIRE prints without being a message.
    ///
    /// # Errors
    /// [`CliError::Output`]; [`CliError::Answer`] for a value without a JSON form.
    pub(super) fn print_struct(
        &mut self,
        value: &impl Serialize,
        pretty: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => output::struct_json(value)?,
            Format::Pretty => pretty(),
        };
        self.out(&text)
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`CliError::Output`].
    pub(super) fn out(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.host.stdout.write_all(text.as_bytes());
        written
            .and_then(|()| self.host.stdout.flush())
            .map_err(CliError::Output)
    }

    /// Writes to standard error.
    ///
    /// # Errors
    /// [`CliError::Output`].
    pub(super) fn err(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.host.stderr.write_all(text.as_bytes());
        written.map_err(CliError::Output)
    }
}

/// A request that tells the server when nobody waits any more.
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    // A second more than is waited for: the deadline that is reported is always our own.
    request.set_timeout(CALL_DEADLINE + Duration::from_secs(1));
    request
}
