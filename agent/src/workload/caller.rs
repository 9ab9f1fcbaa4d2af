//! The process at the other end of a connection, and what the `unix` attestor says of it.
//!
//! Promises: what is said is of the process that connected, by its pidfd; where that has ended
//! meanwhile nothing is said, so that a process that got its number is not taken for it. Between
//! the connection and its acceptance the number alone names the process.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chancery_identity::selector::Selector;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

/// A process that connected.
#[derive(Debug)]
pub(super) struct Caller {
    pid: Pid,
    process: OwnedFd,
}

impl Caller {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let pid = stream.peer_cred()?.pid();
        let pid = pid.and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the caller has no process id here"))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, process })
    }

    /// The selectors of this process now.
    ///
    /// # Errors
    /// It has ended, or the system does not say.
    pub(super) fn selectors(&self) -> io::Result<Vec<Selector>> {
        let path = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(path)?;
        // Still the same process, so it was when its status was read.
        self.is_alive()?;
        let ids = Ids::parse(&status).ok_or_else(|| io::Error::other("a status without ids"))?;
        Ok(ids.selectors())
    }

    fn is_alive(&self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut waits = [PollFd::new(&self.process, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut waits, Some(&now))? {
            0 => Ok(()),
            _ => Err(io::Error::other("the calling process has ended")),
        }
    }
}

/// What a status file says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Ids {
    /// Effective ids, as SPIRE's attestor takes them.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let effective = |name| field(name)?.split_whitespace().nth(1)?.parse().ok();
        let groups = field("Groups")?.split_whitespace();
        Some(Self {
            uid: effective("Uid")?,
            gid: effective("Gid")?,
            groups: groups.map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }

    fn selectors(&self) -> Vec<Selector> {
        let mut values = vec![format!("uid:{}", self.uid), format!("gid:{}", self.gid)];
        values.extend(
            self.groups
                .iter()
                .map(|gid| format!("supplementary_gid:{gid}")),
        );
        let user = nix::unistd::User::from_uid(self.uid.into());
        if let Ok(Some(user)) = user {
            values.push(format!("user:{}", user.name));
        }
        let name = |gid: u32| {
            let group = nix::unistd::Group::from_gid(gid.into());
            group.ok().flatten().map(|group| group.name)
        };
        values.extend(name(self.gid).map(|name| format!("group:{name}")));
        let more = self.groups.iter().filter_map(|gid| name(*gid));
        values.extend(more.map(|name| format!("supplementary_group:{name}")));
        let selectors = values.into_iter().map(|value| Selector::new("unix", value));
        selectors.filter_map(Result::ok).collect()
    }
}

/// A connection that remembers who made it.
pub(super) struct Peer {
    stream: UnixStream,
    caller: Option<Arc<Caller>>,
}

impl Peer {
    pub(super) fn new(stream: UnixStream) -> Self {
        let caller = Caller::of(&stream)
            .inspect_err(|error| tracing::warn!(%error, "a caller is not known"))
            .ok();
        Self {
            stream,
            caller: caller.map(Arc::new),
        }
    }
}

impl Connected for Peer {
    type ConnectInfo = Option<Arc<Caller>>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.caller.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_ids_are_read_and_nothing_else_is_taken_for_them() {
        let status = "Name:\tUid:\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        let ids = Ids {
            uid: 2,
            gid: 6,
            groups: vec![9, 10],
        };
        assert_eq!(Ids::parse(status), Some(ids));
        assert_eq!(Ids::parse("Uid:\t1\nGid:\t1\t1\nGroups:\t\n"), None);
        assert_eq!(Ids::parse(""), None);
    }

    #[tokio::test]
    async fn a_process_that_has_ended_has_no_selectors() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).expect("binds");
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("python3");
        let (stream, _) = listener.accept().await.expect("accepts");
        let caller = Caller::of(&stream).expect("is known");
        let selectors = caller.selectors().expect("lives");
        let uid = rustix::process::geteuid().as_raw();
        let wanted = Selector::new("unix", format!("uid:{uid}")).expect("a selector");
        assert!(selectors.contains(&wanted), "{selectors:?}");
        drop(child.stdin.take());
        child.wait().expect("ends");
        caller.selectors().expect_err("has ended");
    }
}
