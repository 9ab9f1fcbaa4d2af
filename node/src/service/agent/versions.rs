//! What agents tell of themselves, recorded in the background.
//!
//! An agent reports its version once a start and does not wait for it, so it must not
//! cost a write where nothing changed, and never hold the call up. What does not fit
//! the queue, or finds no quorum, is forgotten: the agent tells again.

use chancery_raft_store::command::{Command, SetAgentVersion};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::registry::Doors;

/// Longest version, in bytes; SPIRE says characters and counts bytes.
pub(super) const VERSION_BYTES_MAX: usize = 255;
/// Reports that wait to be recorded.
const QUEUE_MAX: usize = 16_384;
/// Reports that are on their way to the log at a time.
const WRITES_MAX: usize = 32;

/// The queue of reports. Cheap to clone; its task ends with the last of them.
#[derive(Clone)]
pub(in crate::service) struct Versions {
    doors: Doors,
    queue: mpsc::Sender<SetAgentVersion>,
}

impl Versions {
    /// Starts to record on the current runtime.
    pub(in crate::service) fn start(doors: Doors) -> Self {
        let (queue, reports) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(record(doors.clone(), reports));
        Self { doors, queue }
    }

    /// Takes in a report. Never waits.
    pub(super) fn told(&self, path: String, version: String) {
        let report = SetAgentVersion { path, version };
        if is_news(&self.doors, &report) && self.queue.try_send(report).is_err() {
            tracing::debug!("too many agents report their version; one report is forgotten");
        }
    }
}

async fn record(doors: Doors, reports: mpsc::Receiver<SetAgentVersion>) {
    let doors = &doors;
    ReceiverStream::new(reports)
        .for_each_concurrent(WRITES_MAX, |report| async move {
            // Without a leader it would only wait in line; and it may be old news now.
            if doors.consensus().leadership().leader.is_none() || !is_news(doors, &report) {
                return;
            }
            if let Err(error) = doors.propose(Command::SetAgentVersion(report)).await {
                tracing::debug!(%error, "an agent's version was not recorded");
            }
        })
        .await;
}

fn is_news(doors: &Doors, report: &SetAgentVersion) -> bool {
    let directory = doors.local();
    directory
        .agent(&report.path)
        .is_some_and(|agent| agent.agent_version != report.version)
}
