//! `chancery.backup.v1.Backup`: the whole state as a file, from a running node.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::backup::v1 as api;
use chancery_api::chancery::backup::v1::backup_server::Backup;
use chancery_raft_store::machine::BackupMaker;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, audit, permit};
use crate::cluster::formation::VERSION;
use crate::registry::Freshness;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 << 10;
/// Messages that wait for the caller.
const WAITING_MAX: usize = 4;
/// A caller that takes no message for so long is given up: the store keeps what it
/// replaced for as long as a backup of it is read.
const PATIENCE: Duration = Duration::from_secs(60);

type Message = Result<api::SaveResponse, Status>;

/// The service.
pub(super) struct BackupService {
    context: Context,
    /// One at a time: each reads the whole store.
    turn: Arc<Semaphore>,
}

impl BackupService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

#[tonic::async_trait]
impl Backup for BackupService {
    type SaveStream = BoxStream<'static, Message>;

    async fn save(
        &self,
        request: Request<api::SaveRequest>,
    ) -> Result<Response<Self::SaveStream>, Status> {
        let permit = permit(&request)?;
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("this node is making another backup; try again later")
        })?;
        let freshness = self.context.doors.linearizable().await;
        let stale_ms = stale_ms(freshness);
        if stale_ms.is_some() && !request.get_ref().stale_ok {
            return Err(unconfirmed(freshness));
        }
        audit::backup(permit, stale_ms);
        let maker = BackupMaker {
            created_at_ms: self.context.doors.consensus().clock().now_unix_ms(),
            node_id: self.context.doors.consensus().me(),
            program_version: VERSION.into(),
            stale_ms,
        };
        let registry = self.context.doors.registry().clone();
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let runtime = Handle::current();
        let make = move || {
            let _turn = turn;
            let out = Chunks {
                runtime: runtime.clone(),
                sender: sender.clone(),
                chunk: Vec::new(),
            };
            match registry.write_backup(out, &maker) {
                Ok(header) => tracing::info!(
                    cluster = %header.cluster_id,
                    stale_ms = maker.stale_ms,
                    "backup written"
                ),
                Err(error) => {
                    tracing::warn!(%error, "a backup was not finished");
                    // Whoever asked may be the reason.
                    let _ = send(&runtime, &sender, Err(Status::internal(error.to_string())));
                }
            }
        };
        std::thread::Builder::new()
            .name("backup".into())
            .spawn(make)
            .map_err(|e| Status::internal(format!("cannot start the backup: {e}")))?;
        Ok(freshness.mark(Response::new(ReceiverStream::new(receiver).boxed())))
    }
}

/// Age of state that no quorum confirmed, -1 where unknown.
fn stale_ms(freshness: Freshness) -> Option<i64> {
    match freshness {
        Freshness::Linearizable => None,
        Freshness::Stale(age) => {
            Some(age.map_or(-1, |a| i64::try_from(a.as_millis()).unwrap_or(i64::MAX)))
        }
    }
}

fn unconfirmed(freshness: Freshness) -> Status {
    let age = match stale_ms(freshness) {
        Some(ms) if ms >= 0 => format!("was confirmed {ms} ms ago"),
        _ => "was not confirmed since this node started".to_owned(),
    };
    Status::unavailable(format!(
        "no quorum confirms the state of this node, which {age}: writes that were acknowledged elsewhere may be \
         missing; bring nodes back, or take what is here with -staleOK"
    ))
}

/// Sends within [`PATIENCE`]; blocks.
fn send(runtime: &Handle, sender: &mpsc::Sender<Message>, message: Message) -> io::Result<()> {
    let sent =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, sender.send(message)).await });
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(io::Error::other("the caller has gone")),
        Err(_) => Err(io::Error::other(format!(
            "the caller took nothing for {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// What is written, as messages.
struct Chunks {
    runtime: Handle,
    sender: mpsc::Sender<Message>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        send(&self.runtime, &self.sender, Ok(api::SaveResponse { chunk }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_arrives_in_order_in_bounded_messages() {
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        let runtime = Handle::current();
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 5 / 2).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let writer = std::thread::spawn(move || {
            let mut out = Chunks {
                runtime,
                sender,
                chunk: Vec::new(),
            };
            for part in bytes.chunks(100_000) {
                out.write_all(part)?;
            }
            out.flush()
        });
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        while let Some(message) = receiver.recv().await {
            let chunk = message.unwrap().chunk;
            sizes.push(chunk.len());
            seen.extend(chunk);
        }
        writer.join().unwrap().unwrap();
        assert!(seen == expected);
        assert_eq!(sizes, [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES / 2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_caller_that_has_gone_ends_the_backup() {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        drop(receiver);
        let runtime = Handle::current();
        let ended = std::thread::spawn(move || {
            let chunk = vec![1];
            Chunks {
                runtime,
                sender,
                chunk,
            }
            .flush()
        });
        let error = ended.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the caller has gone");
    }

    #[test]
    fn state_that_no_quorum_confirmed_is_refused_with_its_age() {
        let age = Freshness::Stale(Some(Duration::from_millis(1_500)));
        assert_eq!(stale_ms(age), Some(1_500));
        let said = unconfirmed(age);
        assert_eq!(said.code(), tonic::Code::Unavailable);
        assert!(said.message().contains("confirmed 1500 ms ago"), "{said:?}");
        assert!(said.message().contains("-staleOK"), "{said:?}");
        assert_eq!(stale_ms(Freshness::Stale(None)), Some(-1));
        assert_eq!(stale_ms(Freshness::Linearizable), None);
    }
}
