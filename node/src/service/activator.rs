//! Makes renewed agent SVIDs current after their first use.
//!
//! Not on the path of any call: what was seen within a tenth of a second becomes one
//! command, nobody waits for it, and without a quorum it is skipped. A pending serial
//! authorizes for as long as the record keeps it, so a lost activation costs nothing:
//! the agent's next call brings it again.

use std::collections::BTreeSet;
use std::time::Duration;

use chancery_identity::id::SpiffeId;
use chancery_raft_store::Directory;
use chancery_raft_store::command::{ActivateAgents, Activation, Command};
use tokio::sync::mpsc;

use crate::registry::Doors;

/// First uses that wait for the next command.
const QUEUE_MAX: usize = 4096;
/// Activations of one command.
const BATCH_MAX: usize = 1024;
/// How long first uses are collected for.
const WINDOW: Duration = Duration::from_millis(100);

/// Takes in first uses. Cheap to clone; its task ends with the last of them.
#[derive(Clone)]
pub(super) struct Activator {
    queue: mpsc::Sender<Activation>,
}

impl Activator {
    /// Starts the task on the current runtime.
    pub(super) fn start(doors: Doors) -> Self {
        let (queue, uses) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(doors, uses));
        Self { queue }
    }

    /// The agent used the pending SVID with this decimal serial. Never waits: what
    /// does not fit is told again by the agent's next call.
    pub(super) fn used(&self, agent: &SpiffeId, serial: String) {
        let _ = self.queue.try_send(Activation {
            path: agent.path().to_owned(),
            serial,
        });
    }
}

async fn run(doors: Doors, mut uses: mpsc::Receiver<Activation>) {
    while let Some(first) = uses.recv().await {
        let batch = collect(first, &mut uses).await;
        if doors.consensus().leadership().leader.is_none() {
            continue;
        }
        let activations = still_pending(&doors.local(), batch);
        if activations.is_empty() {
            continue;
        }
        let command = Command::ActivateAgents(ActivateAgents { activations });
        if let Err(error) = doors.propose(command).await {
            tracing::debug!(%error, "agents' first use of renewed SVIDs was not recorded");
        }
    }
}

/// What comes within the window, each once.
async fn collect(first: Activation, uses: &mut mpsc::Receiver<Activation>) -> BTreeSet<Activation> {
    let mut batch = BTreeSet::from([first]);
    // What waits already is taken however slow the machine is.
    while batch.len() < BATCH_MAX
        && let Ok(next) = uses.try_recv()
    {
        batch.insert(next);
    }
    let window = async {
        while batch.len() < BATCH_MAX {
            let Some(next) = uses.recv().await else {
                return;
            };
            batch.insert(next);
        }
    };
    // The end of the window is the usual end.
    let _ = tokio::time::timeout(WINDOW, window).await;
    batch
}

/// Without those that another call or another node has seen to.
fn still_pending(directory: &Directory, batch: BTreeSet<Activation>) -> Vec<Activation> {
    let pending = |a: &Activation| {
        directory
            .agent(&a.path)
            .is_some_and(|agent| agent.pending.iter().any(|p| p.serial == a.serial))
    };
    batch.into_iter().filter(pending).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::model::{Agent, PendingSvid};
    use chancery_raft_store::view::Table;
    use prost::Message;

    use super::*;

    fn activation(path: &str, serial: &str) -> Activation {
        Activation {
            path: path.into(),
            serial: serial.into(),
        }
    }

    #[tokio::test]
    async fn a_window_is_collected_into_one_batch_without_repetition() {
        let (queue, mut uses) = mpsc::channel(16);
        for serial in ["2", "1", "2"] {
            queue.send(activation("/a", serial)).await.unwrap();
        }
        // The queue stays open: it is the window that ends the batch.
        let batch = collect(activation("/a", "1"), &mut uses).await;
        assert_eq!(
            batch,
            BTreeSet::from([activation("/a", "1"), activation("/a", "2")])
        );
        drop(queue);
        assert_eq!(collect(activation("/a", "3"), &mut uses).await.len(), 1);
    }

    #[tokio::test]
    async fn a_batch_has_a_bound() {
        let (queue, mut uses) = mpsc::channel(BATCH_MAX + 1);
        for serial in 0..=BATCH_MAX {
            queue
                .send(activation("/a", &serial.to_string()))
                .await
                .unwrap();
        }
        let batch = collect(activation("/b", "1"), &mut uses).await;
        assert_eq!(batch.len(), BATCH_MAX);
        assert!(uses.try_recv().is_ok());
    }

    #[tokio::test]
    async fn a_full_queue_never_waits() {
        let (queue, _uses) = mpsc::channel(1);
        let activator = Activator { queue };
        let agent = SpiffeId::parse("spiffe://example.org/spire/agent/a").unwrap();
        for _ in 0..3 {
            activator.used(&agent, "1".into());
        }
    }

    #[test]
    fn only_what_is_still_pending_is_proposed() {
        let agent = Agent {
            path: "/a".into(),
            serial: "1".into(),
            pending: vec![PendingSvid {
                serial: "2".into(),
                expires_at: 0,
            }],
            ..Agent::default()
        };
        let mut directory = Directory::default();
        let row = Table::Agents.key(b"/a");
        directory
            .absorb_row(&row, Some(&agent.encode_to_vec()))
            .unwrap();
        let batch = BTreeSet::from([
            activation("/a", "1"),
            activation("/a", "2"),
            activation("/a", "3"),
            activation("/b", "2"),
        ]);
        assert_eq!(still_pending(&directory, batch), [activation("/a", "2")]);
    }
}
