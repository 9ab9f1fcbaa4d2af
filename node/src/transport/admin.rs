//! The admin socket: a unix socket on which every peer is `local`.
//!
//! Promises: the socket is never reachable with a wider mode than 0770, not
//! even for an instant; a socket that a living server answers on is never
//! taken over; only what is a socket is ever unlinked. Who may connect is for
//! the file system to say: its directory is made with mode 0750.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::refused;
use super::caller::{Caller, LocalCaller};
use super::descriptors::Rank;
use super::http2::{self, End, GrpcService};
use super::limits::Limits;
use crate::environment::random;
use crate::telemetry::names;

const SOCKET_MODE: u32 = 0o770;
const DIRECTORY_MODE: u32 = 0o750;
const PRIVATE_MODE: u32 = 0o700;
/// Label of the socket's metrics.
const PORT: &str = "admin";

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// Something other than a socket has the name.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// A server answers on it.
    #[error("another server answers on {}", .0.display())]
    InUse(PathBuf),
    /// The path has no file name.
    #[error("{} is not the path of a file", .0.display())]
    Path(PathBuf),
    /// The file system refused a step.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AdminSocketError {
    let path = path.to_owned();
    move |source| AdminSocketError::Io { step, path, source }
}

/// A bound admin socket; its file is removed when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file, so that only it is removed.
    file: (u64, u64),
}

impl AdminSocket {
    /// Binds `path`, making its directory and replacing a socket that nobody
    /// answers on.
    ///
    /// # Errors
    /// [`AdminSocketError`].
    pub fn bind(path: &Path) -> Result<Self, AdminSocketError> {
        let (Some(directory), Some(_)) = (path.parent(), path.file_name()) else {
            return Err(AdminSocketError::Path(path.to_owned()));
        };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(failed("make directory", directory))?;
        refuse_unless_stale(path)?;
        // Bound where nobody else can reach it, given its mode there, and only
        // then moved to its name: chmod after bind would leave a window, and
        // the umask belongs to the whole process.
        let private = directory.join(format!(".{}", hex::encode(random::<4>())));
        DirBuilder::new()
            .mode(PRIVATE_MODE)
            .create(&private)
            .map_err(failed("make directory", &private))?;
        let bound = Self::bind_in(&private, path);
        // Empty after the move; after a failure it may hold the socket.
        let _ = fs::remove_file(private.join("s"));
        let _ = fs::remove_dir(&private);
        bound
    }

    fn bind_in(private: &Path, path: &Path) -> Result<Self, AdminSocketError> {
        let temporary = private.join("s");
        let listener =
            UnixListener::bind(&temporary).map_err(failed("bind a socket in", private))?;
        fs::set_permissions(&temporary, Permissions::from_mode(SOCKET_MODE))
            .map_err(failed("set the mode of", &temporary))?;
        let metadata = fs::symlink_metadata(&temporary).map_err(failed("look at", &temporary))?;
        fs::rename(&temporary, path).map_err(failed("put a socket at", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        })
    }

    /// Where clients connect.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `shutdown`, and returns when the calls under way have
    /// ended. Requests carry their [`Caller`] in their extensions.
    pub async fn serve<S: GrpcService>(
        self,
        limits: Limits,
        service: S,
        shutdown: CancellationToken,
    ) {
        let connections = TaskTracker::new();
        let limits = Arc::new(limits);
        let places = Arc::new(Semaphore::new(limits.connections_max as usize));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let caller = accepted.and_then(|(stream, _)| {
                stream.peer_cred().map(|credentials| (stream, credentials))
            });
            let (stream, credentials) = match caller {
                Ok(accepted) => accepted,
                Err(error) => {
                    limits.descriptors.failed(&error);
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            if !limits.descriptors.admit(&stream, Rank::Own) {
                refused(PORT, "descriptors");
                continue;
            }
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!("too many admin connections");
                refused(PORT, "limit");
                continue;
            };
            let caller = Caller::Local(LocalCaller::new(
                credentials.uid(),
                credentials.gid(),
                credentials.pid(),
            ));
            let (service, limits, closing) = (service.clone(), limits.clone(), shutdown.clone());
            connections.spawn(async move {
                let open = metrics::gauge!(names::CONNECTIONS, "port" => PORT);
                open.increment(1.0);
                let age = limits.age(false);
                let end = http2::serve(stream, service, caller, &limits, age, &closing).await;
                if end == End::Silent {
                    refused(PORT, "timeout");
                }
                open.decrement(1.0);
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Another server may have put its own socket there meanwhile.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the admin socket");
        }
    }
}

fn refuse_unless_stale(path: &Path) -> Result<(), AdminSocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at", path)(e)),
    };
    if !found.file_type().is_socket() {
        return Err(AdminSocketError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(AdminSocketError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its backlog is full or we may not connect: somebody is there.
        Err(_) => Err(AdminSocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testing::{Echo, echoed};

    async fn connect_admin(path: &Path) -> tonic::transport::Channel {
        let path = path.to_owned();
        tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = path.clone();
                async move {
                    tokio::net::UnixStream::connect(path)
                        .await
                        .map(hyper_util::rt::TokioIo::new)
                }
            }))
            .await
            .unwrap()
    }

    fn at(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("private").join("api.sock")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn socket_and_directory_have_their_modes_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o770);
        assert_eq!(mode(path.parent().unwrap()) & 0o027, 0);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let first = AdminSocket::bind(&path).unwrap();
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(AdminSocketError::InUse(_))
        ));
        drop(first);
        // What a killed server leaves: a file that nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(AdminSocket::bind(&path).is_ok());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(AdminSocketError::NotASocket(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let first = AdminSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = AdminSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn callers_are_local_with_their_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let socket = AdminSocket::bind(&path).unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(socket.serve(Limits::of_admins(), Echo, shutdown.clone()));
        let channel = connect_admin(&path).await;
        let said = echoed(channel).await.unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(said, format!("local {uid}"));
        shutdown.cancel();
        server.await.unwrap();
        assert!(!path.exists());
    }

    /// Whether the server closes the connection within a few seconds.
    async fn closes(stream: &mut tokio::net::UnixStream) -> bool {
        use tokio::io::AsyncReadExt as _;
        let ended = async {
            let mut some = [0; 64];
            while matches!(stream.read(&mut some).await, Ok(1..)) {}
        };
        let limit = std::time::Duration::from_secs(3);
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    #[tokio::test]
    async fn connections_are_held_to_their_bound_and_silent_ones_leave_their_places() {
        use tokio::io::AsyncWriteExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let socket = AdminSocket::bind(&path).unwrap();
        let limits = Limits {
            connections_max: 2,
            handshake_timeout: std::time::Duration::from_millis(500),
            ..Limits::of_admins()
        };
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(socket.serve(limits, Echo, shutdown.clone()));
        let connect = || tokio::net::UnixStream::connect(&path);
        let (mut silent, mut speaks) = (connect().await.unwrap(), connect().await.unwrap());
        // What HTTP/2 begins with: magic and empty SETTINGS.
        speaks
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        // Accepted in the order of connecting: the places are taken.
        assert!(closes(&mut connect().await.unwrap()).await, "a third");
        assert!(closes(&mut silent).await, "a silent one");
        // Its place is somebody else's now, while the other is still there.
        assert!(echoed(connect_admin(&path).await).await.is_ok());
        assert!(!closes(&mut speaks).await, "one that speaks HTTP/2");
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn calls_of_one_connection_are_held_to_their_bound() {
        use crate::transport::testing::{Held, called};
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let socket = AdminSocket::bind(&path).unwrap();
        let limits = Limits {
            streams_max: 1,
            ..Limits::of_admins()
        };
        let held = Held::new();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(socket.serve(limits, held.clone(), shutdown.clone()));
        let channel = connect_admin(&path).await;
        called(&channel, "/free").await.unwrap();
        let call = |channel: tonic::transport::Channel| {
            tokio::spawn(async move { called(&channel, "/held").await })
        };
        let calls = [call(channel.clone()), call(channel.clone())];
        held.started.acquire().await.unwrap().forget();
        let second = held.started.acquire();
        let a_while = std::time::Duration::from_millis(300);
        let second = tokio::time::timeout(a_while, second).await;
        assert!(second.is_err(), "a second call began");
        held.release.add_permits(2);
        for call in calls {
            call.await.unwrap().unwrap();
        }
        shutdown.cancel();
        server.await.unwrap();
    }
}
