//! Which socket, and the channel to it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::error::CliError;
use super::host::Host;

/// Where SPIRE's server listens, and so ours.
pub(super) const DEFAULT_SOCKET: &str = "/tmp/spire-server/private/api.sock";

const SOCKET_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET";
const TEMPLATE_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE";

/// A socket that does not accept within this time is not served.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// The socket to speak to. A `-socketPath` other than the default wins over `-instance`, and that
/// over the environment, as with SPIRE.
///
/// # Errors
/// [`CliError::Instance`] for an instance without a template to put it in.
pub(super) fn socket(
    socket_path: &Path,
    instance: &str,
    host: &Host<'_>,
) -> Result<PathBuf, CliError> {
    let variable = |name| (host.variable)(name).filter(|value| !value.is_empty());
    let from_instance = match (instance, variable(TEMPLATE_VARIABLE)) {
        ("", _) => None,
        (_, None) => {
            return Err(CliError::Instance(
                "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag",
            ));
        }
        (_, Some(template)) if !template.contains("%i") => {
            return Err(CliError::Instance(
                "failed to find %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
            ));
        }
        (instance, Some(template)) => Some(template.replace("%i", instance)),
    };
    if socket_path != Path::new(DEFAULT_SOCKET) {
        return Ok(socket_path.to_owned());
    }
    Ok(from_instance
        .or_else(|| variable(SOCKET_VARIABLE))
        .unwrap_or_else(|| DEFAULT_SOCKET.to_owned())
        .into())
}

/// Connects to the server at `socket`.
///
/// # Errors
/// [`CliError::Unreachable`] with the system's reason, within [`CONNECT_DEADLINE`].
pub(super) async fn connect(socket: &Path) -> Result<Channel, CliError> {
    let unreachable = |cause: String| CliError::Unreachable {
        socket: socket.to_owned(),
        cause,
    };
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // The authority that gRPC gives a Unix socket.
    let endpoint = Endpoint::from_static("http://localhost");
    let connected = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(CONNECT_DEADLINE, connected).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(innermost(&error))),
        Err(_) => Err(unreachable(format!(
            "nothing accepted the connection within {} s",
            CONNECT_DEADLINE.as_secs()
        ))),
    }
}

/// The cause that says most: transports wrap it in layers that say nothing.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice made with these flags and variables.
    fn chosen(
        socket_path: &str,
        instance: &str,
        variables: &[(&str, &str)],
    ) -> Result<String, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let host = Host {
            stdin: &mut io::empty(),
            stdout: &mut io::sink(),
            stdout_is_terminal: false,
            stderr: &mut io::sink(),
            variable: &variable,
            now_unix_s: 0,
        };
        socket(Path::new(socket_path), instance, &host)
            .map(|path| path.display().to_string())
            .map_err(|error| error.with_causes())
    }

    #[test]
    fn the_socket_is_chosen_as_spire_does() {
        let both = [
            (TEMPLATE_VARIABLE, "/run/%i/api.sock"),
            (SOCKET_VARIABLE, "/run/own.sock"),
        ];
        assert_eq!(
            chosen(DEFAULT_SOCKET, "", &[]).as_deref(),
            Ok(DEFAULT_SOCKET)
        );
        assert_eq!(
            chosen(DEFAULT_SOCKET, "", &both).as_deref(),
            Ok("/run/own.sock")
        );
        assert_eq!(
            chosen(DEFAULT_SOCKET, "b", &both).as_deref(),
            Ok("/run/b/api.sock")
        );
        assert_eq!(chosen("/x.sock", "b", &both).as_deref(), Ok("/x.sock"));
        assert_eq!(chosen("/x.sock", "", &both).as_deref(), Ok("/x.sock"));
    }

    #[test]
    fn an_instance_needs_a_template_with_a_place_for_it() {
        let missing = chosen(DEFAULT_SOCKET, "b", &[]).unwrap_err();
        assert!(missing.contains("you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE"));
        let empty = chosen("/x.sock", "b", &[(TEMPLATE_VARIABLE, "")]).unwrap_err();
        assert_eq!(empty, missing);
        let no_place = chosen("/x.sock", "b", &[(TEMPLATE_VARIABLE, "/run/x")]).unwrap_err();
        assert!(no_place.contains("failed to find %i"));
    }
}
