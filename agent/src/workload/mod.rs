//! The SPIFFE Workload API: who calls, which identities are theirs, and what they are told.

mod caller;
mod jwt;
mod service;

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use chancery_api::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::manager::Snapshot;
use crate::servers::Servers;
use caller::Peer;
use service::WorkloadApi;

/// Streams that one connection may have open.
const STREAMS_MAX: u32 = 100;

/// Listens at `path`, in the place of what an agent that ended left there. Everyone on the host
/// may connect: who calls is found out from the process.
///
/// # Errors
/// The folder or the socket cannot be made, or an agent listens there.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        let mut made = std::fs::DirBuilder::new();
        made.recursive(true).mode(0o755).create(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another agent serves there",
        ));
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path)?,
        // A path that was mistaken costs nobody a file.
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else than a socket is there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    Ok(listener)
}

/// Serves until the listener fails.
///
/// # Errors
/// The listener's.
pub(crate) async fn serve(
    listener: UnixListener,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    servers: Arc<Servers>,
) -> Result<(), tonic::transport::Error> {
    let service = SpiffeWorkloadApiServer::new(WorkloadApi::new(snapshots, servers));
    let peers = UnixListenerStream::new(listener).map(|stream| stream.map(Peer::new));
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(service)
        .serve_with_incoming(peers)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("made/api.sock");
        drop(listen(&path).expect("listens"));
        let listener = listen(&path).expect("in the place of what was left");
        let busy = listen(&path).expect_err("one serves there");
        assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, "precious").expect("writes");
        let error = listen(&path).expect_err("a file is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).expect("is there"), b"precious");
    }
}
