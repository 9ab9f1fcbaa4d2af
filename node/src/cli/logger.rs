//! `logger get`, `set` and `reset`.

use chancery_api::spire::api::server::logger::v1::logger_client::LoggerClient;
use chancery_api::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use chancery_api::spire::api::types::{LogLevel, Logger};
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::error::CliError;
use super::host::Host;
use super::session::{Common, Session, request};

/// What can be done with the asked server's log.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Shows the log level, and that of the start
    #[command(after_help = "Example:\n  chancery logger get")]
    Get(Plain),
    /// Sets the log level
    #[command(after_help = "Example:\n  chancery logger set -level debug")]
    Set(Set),
    /// Sets the log level to that of the start
    #[command(after_help = "Example:\n  chancery logger reset")]
    Reset(Plain),
}

/// `logger get` and `logger reset`.
#[derive(Debug, Args)]
pub(super) struct Plain {
    #[command(flatten)]
    common: Common,
}

/// `logger set`.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// The new level: panic, fatal, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "",
        hide_default_value = true
    )]
    level: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Verb::Get(verb) | Verb::Reset(verb) => &verb.common,
            Verb::Set(verb) => &verb.common,
        };
        Session::run(common, host, async |session| {
            let logger = match &self {
                Verb::Get(_) => {
                    let mut client = client(session).await?;
                    let call = client.get_logger(request(GetLoggerRequest {}));
                    let logger = session.call(call).await;
                    logger.map_err(CliError::during("error fetching logger"))?
                }
                Verb::Set(verb) => {
                    let new_level = verb.level()?.into();
                    let mut client = client(session).await?;
                    let call = client.set_log_level(request(SetLogLevelRequest { new_level }));
                    let logger = session.call(call).await;
                    logger.map_err(CliError::during("failed to set log level"))?
                }
                Verb::Reset(_) => {
                    let mut client = client(session).await?;
                    let call = client.reset_log_level(request(ResetLogLevelRequest {}));
                    let logger = session.call(call).await;
                    logger.map_err(CliError::during("failed to reset logger"))?
                }
            };
            session.print("spire.api.types.Logger", &logger, || pretty(&logger))
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<LoggerClient<Channel>, CliError> {
    session.channel().await.map(LoggerClient::new)
}

impl Set {
    fn level(&self) -> Result<LogLevel, CliError> {
        Ok(match &*self.level.to_lowercase() {
            "" => return Err(CliError::Flags("a value (-level) must be set")),
            "panic" => LogLevel::Panic,
            "fatal" => LogLevel::Fatal,
            "error" => LogLevel::Error,
            "warn" | "warning" => LogLevel::Warn,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => {
                return Err(CliError::Said(format!(
                    "the value {:?} is not a valid setting",
                    self.level
                )));
            }
        })
    }
}

fn pretty(logger: &Logger) -> Result<String, CliError> {
    let name = |level: LogLevel, which: &str| match level {
        LogLevel::Unspecified => Err(CliError::Said(format!(
            "internal error: returned {which} log level is undefined; please report this as a bug"
        ))),
        LogLevel::Panic => Ok("panic"),
        LogLevel::Fatal => Ok("fatal"),
        LogLevel::Error => Ok("error"),
        // As logrus, which SPIRE logs with, writes it.
        LogLevel::Warn => Ok("warning"),
        LogLevel::Info => Ok("info"),
        LogLevel::Debug => Ok("debug"),
        LogLevel::Trace => Ok("trace"),
    };
    Ok(format!(
        "Logger Level : {}\nLaunch Level : {}\n\n",
        name(logger.current_level(), "current")?,
        name(logger.launch_level(), "launch")?
    ))
}
