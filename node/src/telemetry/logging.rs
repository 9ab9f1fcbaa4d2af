//! The log: on standard error or in a file, text or JSON lines, its level
//! changeable while the server runs.
//!
//! The level is the configuration's, or what the Logger API made of it; the
//! environment has no say.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use super::LogFile;
use crate::config::{LogFormat, LogLevel};

/// The log cannot be started, or no longer be changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// This process has a log already.
    #[error("cannot start the log")]
    Start(#[source] TryInitError),
    /// The log was taken down.
    #[error("cannot change the level of the log")]
    Change(#[source] reload::Error),
}

type Apply = dyn Fn(LogLevel) -> Result<(), LoggingError> + Send + Sync;

/// The level of the log, for whoever may change it. Cheap to clone.
#[derive(Clone)]
pub struct LogLevels {
    launch: LogLevel,
    current: Arc<Mutex<LogLevel>>,
    apply: Arc<Apply>,
}

impl std::fmt::Debug for LogLevels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogLevels")
            .field("launch", &self.launch)
            .field("current", &self.current())
            .finish()
    }
}

impl LogLevels {
    fn new(launch: LogLevel, apply: Arc<Apply>) -> Self {
        Self {
            launch,
            current: Arc::new(Mutex::new(launch)),
            apply,
        }
    }

    /// The configuration's level.
    pub fn launch(&self) -> LogLevel {
        self.launch
    }

    /// The level now.
    pub fn current(&self) -> LogLevel {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the level at once, until the process ends or it is changed again.
    ///
    /// # Errors
    /// [`LoggingError::Change`]; then the level is what it was.
    pub fn set(&self, level: LogLevel) -> Result<(), LoggingError> {
        // Held throughout, so that two changes at once agree on which was last.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.apply)(level)?;
        *current = level;
        Ok(())
    }

    /// Levels of no log, for tests of services.
    #[cfg(test)]
    pub(crate) fn for_tests(launch: LogLevel) -> Self {
        Self::new(launch, Arc::new(|_| Ok(())))
    }
}

/// Starts the log of this process, in `file` or else on standard error;
/// `source_location` says with each message where in the source it stands.
///
/// # Errors
/// [`LoggingError::Start`] on a second call.
pub fn logging(
    level: LogLevel,
    format: LogFormat,
    source_location: bool,
    file: Option<Arc<LogFile>>,
) -> Result<LogLevels, LoggingError> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let colours = file.is_none() && std::io::stderr().is_terminal();
    let writer = match file {
        Some(file) => BoxMakeWriter::new(file),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines(format, source_location, colours, writer))
        .try_init()
        .map_err(LoggingError::Start)?;
    let apply = move |level| {
        handle
            .reload(self::filter(level))
            .map_err(LoggingError::Change)
    };
    Ok(LogLevels::new(level, Arc::new(apply)))
}

/// Messages as lines of `writer`; `colours` is for text alone.
fn lines<S>(
    format: LogFormat,
    source_location: bool,
    colours: bool,
    writer: BoxMakeWriter,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer()
        .with_file(source_location)
        .with_line_number(source_location)
        .with_ansi(colours && format == LogFormat::Text)
        .with_writer(writer);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// A Unix second as SPIRE's logs write it; the number where no calendar reaches.
pub fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// Our own messages from `level` on. Libraries speak when something is wrong: what
/// else they say drowns what the server says.
fn filter(level: LogLevel) -> EnvFilter {
    let (own, libraries) = match level {
        // Nothing of ours is as severe as SPIRE means by these.
        LogLevel::Panic | LogLevel::Fatal => ("off", "off"),
        LogLevel::Error => ("error", "error"),
        LogLevel::Warn => ("warn", "warn"),
        LogLevel::Info => ("info", "warn"),
        LogLevel::Debug => ("debug", "warn"),
        LogLevel::Trace => ("trace", "info"),
    };
    // The prefix of every crate of the project.
    // openraft warns of every try to reach a peer that is away, many times a second;
    // `cluster status` and metrics say the same once.
    let raft = match level {
        LogLevel::Trace => "info",
        LogLevel::Panic | LogLevel::Fatal => "off",
        _ => "error",
    };
    EnvFilter::new(format!("{libraries},openraft={raft},chancery={own}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged_at(level: LogLevel) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(filter(level)).with(
            fmt::layer()
                .with_ansi(false)
                .with_writer(move || writer.clone()),
        );
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "chancery_node::service", "own info");
            tracing::debug!(target: "chancery_raft_store::machine", "own debug");
            tracing::warn!(target: "h2::server", "library warning");
            tracing::error!(target: "chancery_node::app", "own error");
            tracing::error!(target: "openraft::engine", "library error");
            tracing::info!(target: "openraft::engine", "library info");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn line(format: LogFormat, source_location: bool) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let writer = BoxMakeWriter::new(move || writer.clone());
        let subscriber =
            tracing_subscriber::registry().with(lines(format, source_location, false, writer));
        tracing::subscriber::with_default(subscriber, || tracing::info!(node = 7, "said"));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_place_in_the_source_is_told_where_it_is_asked_for() {
        let place = "src/telemetry/logging.rs";
        let text = line(LogFormat::Text, true);
        assert!(text.contains(place) && text.contains("said"), "{text}");
        assert!(!line(LogFormat::Text, false).contains(place));
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, true)).unwrap();
        assert!(json["filename"].as_str().unwrap().ends_with(place));
        assert!(json["line_number"].is_u64(), "{json}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, false)).unwrap();
        assert!(json.get("filename").is_none() && json.get("line_number").is_none());
        assert_eq!(
            (&json["message"], &json["node"]),
            (&"said".into(), &7.into())
        );
    }

    #[test]
    fn moments_read_as_in_logs_of_spire() {
        assert_eq!(rfc3339(1_767_225_600), "2026-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn level_is_of_our_own_messages_and_libraries_warn() {
        let says = |level, text| logged_at(level).contains(text);
        assert!(says(LogLevel::Info, "own info") && !says(LogLevel::Info, "own debug"));
        assert!(says(LogLevel::Debug, "own debug"));
        assert!(says(LogLevel::Debug, "library warning") && !says(LogLevel::Debug, "library info"));
        assert!(!says(LogLevel::Error, "library warning"));
        assert!(!says(LogLevel::Warn, "own info"));
        for silent in [LogLevel::Panic, LogLevel::Fatal] {
            assert_eq!(logged_at(silent), "");
        }
    }

    #[test]
    fn level_that_could_not_be_applied_is_not_reported() {
        let (layer, handle) =
            reload::Layer::<EnvFilter, tracing_subscriber::Registry>::new(filter(LogLevel::Info));
        drop(layer);
        let levels = LogLevels::new(
            LogLevel::Info,
            Arc::new(move |l| handle.reload(filter(l)).map_err(LoggingError::Change)),
        );
        assert!(levels.set(LogLevel::Debug).is_err());
        assert_eq!(levels.current(), LogLevel::Info);
        let working = LogLevels::for_tests(LogLevel::Warn);
        working.clone().set(LogLevel::Debug).unwrap();
        assert_eq!(
            (working.launch(), working.current()),
            (LogLevel::Warn, LogLevel::Debug)
        );
    }
}
