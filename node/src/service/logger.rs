//! `spire.api.server.logger.v1.Logger`: the level of this process's log, on the admin
//! socket alone. A change holds until the process ends or the level is changed again.

use chancery_api::spire::api::server::logger::v1 as api;
use chancery_api::spire::api::server::logger::v1::logger_server::Logger;
use chancery_api::spire::api::types;
use tonic::{Request, Response, Status};

use super::permit;
use crate::config::LogLevel;
use crate::telemetry::LogLevels;

/// The service.
pub(super) struct LoggerService {
    levels: LogLevels,
}

impl LoggerService {
    /// A service over the log's levels.
    pub(super) fn new(levels: LogLevels) -> Self {
        let launch = levels.launch().as_str();
        tracing::info!(launch_log_level = launch, "Logger service configured");
        Self { levels }
    }

    fn answer(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: to_wire(self.levels.current()).into(),
            launch_level: to_wire(self.levels.launch()).into(),
        })
    }

    fn set(&self, level: LogLevel) -> Result<Response<types::Logger>, Status> {
        self.levels
            .set(level)
            .map_err(|e| Status::internal(crate::app::chain(&e)))?;
        Ok(self.answer())
    }
}

fn to_wire(level: LogLevel) -> types::LogLevel {
    match level {
        LogLevel::Panic => types::LogLevel::Panic,
        LogLevel::Fatal => types::LogLevel::Fatal,
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    }
}

fn from_wire(level: i32) -> Result<LogLevel, Status> {
    match types::LogLevel::try_from(level) {
        Ok(types::LogLevel::Unspecified) => Err(Status::invalid_argument(
            "newLevel value cannot be LogLevel_UNSPECIFIED",
        )),
        Ok(types::LogLevel::Panic) => Ok(LogLevel::Panic),
        Ok(types::LogLevel::Fatal) => Ok(LogLevel::Fatal),
        Ok(types::LogLevel::Error) => Ok(LogLevel::Error),
        Ok(types::LogLevel::Warn) => Ok(LogLevel::Warn),
        Ok(types::LogLevel::Info) => Ok(LogLevel::Info),
        Ok(types::LogLevel::Debug) => Ok(LogLevel::Debug),
        Ok(types::LogLevel::Trace) => Ok(LogLevel::Trace),
        Err(_) => Err(Status::invalid_argument("unsupported log level")),
    }
}

#[tonic::async_trait]
impl Logger for LoggerService {
    async fn get_logger(
        &self,
        request: Request<api::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        permit(&request)?;
        tracing::info!("GetLogger Called");
        Ok(self.answer())
    }

    async fn set_log_level(
        &self,
        request: Request<api::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        permit(&request)?;
        let level = from_wire(request.get_ref().new_level)?;
        tracing::info!(new_log_level = level.as_str(), "SetLogLevel Called");
        self.set(level)
    }

    async fn reset_log_level(
        &self,
        request: Request<api::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        permit(&request)?;
        let launch = self.levels.launch();
        tracing::info!(launch_log_level = launch.as_str(), "ResetLogLevel Called");
        self.set(launch)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::authz::{Permit, Role};

    fn local<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let permit = Permit::for_tests("/x/Y", Role::Local, None);
        request.extensions_mut().insert(Arc::new(permit));
        request
    }

    #[tokio::test]
    async fn a_level_holds_until_it_is_reset_to_that_of_the_launch() {
        let levels = LogLevels::for_tests(LogLevel::Warn);
        let service = LoggerService::new(levels.clone());
        let told = |answer: Result<Response<types::Logger>, Status>| {
            let told = answer.unwrap().into_inner();
            (told.current_level(), told.launch_level())
        };
        let launch = types::LogLevel::Warn;
        let get = || service.get_logger(local(api::GetLoggerRequest {}));
        assert_eq!(told(get().await), (launch, launch));
        for number in 1..=7 {
            let wanted = types::LogLevel::try_from(number).unwrap();
            let request = local(api::SetLogLevelRequest { new_level: number });
            assert_eq!(told(service.set_log_level(request).await), (wanted, launch));
            assert_eq!(to_wire(levels.current()), wanted, "it takes effect");
            assert_eq!(told(get().await), (wanted, launch));
        }
        let reset = service.reset_log_level(local(api::ResetLogLevelRequest {}));
        assert_eq!(told(reset.await), (launch, launch));
        assert_eq!(levels.current(), LogLevel::Warn);
    }

    #[tokio::test]
    async fn what_is_no_level_is_refused_in_the_words_of_spire() {
        let levels = LogLevels::for_tests(LogLevel::Info);
        let service = LoggerService::new(levels.clone());
        for (number, text) in [
            (0, "newLevel value cannot be LogLevel_UNSPECIFIED"),
            (8, "unsupported log level"),
            (-1, "unsupported log level"),
        ] {
            let request = local(api::SetLogLevelRequest { new_level: number });
            let status = service.set_log_level(request).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert_eq!(status.message(), text);
        }
        assert_eq!(levels.current(), LogLevel::Info);
    }
}
