//! Writes at every node at a steady pace, whatever became of the ones before: from them
//! come the time to the next acknowledged write, what a minority took, and what is lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chancery_api::spire::api::server::entry::v1::ListEntriesRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::list_entries_request::Filter;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::entries::{create_one, entry};
use super::{Place, Sockets, World, is_stale, limited};
use crate::faults::history::Outcome;

/// One write at each node in this time.
const PACE: Duration = Duration::from_millis(60);
/// Writes of one node that may wait for their answers.
const WAITING_MAX: usize = 80;

/// A write of the journal.
#[derive(Clone, Debug)]
pub struct Line {
    /// Path of the entry's SPIFFE ID.
    pub path: String,
    /// Node that was asked.
    pub node: usize,
    /// When it was asked.
    pub call: Instant,
    /// When it answered.
    pub back: Instant,
    /// `Answer` is an acknowledgement.
    pub outcome: Outcome,
}

/// All writes of a round. Cheap to clone.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Line>>>);

impl Journal {
    /// What was written so far.
    pub fn lines(&self) -> Vec<Line> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Acknowledged writes that began at `from` or later, in the order of the answers.
    pub fn acknowledged(&self, from: Instant) -> Vec<Line> {
        let mut lines = self.lines();
        lines.retain(|l| l.call >= from && matches!(l.outcome, Outcome::Answer(_)));
        lines.sort_by_key(|l| l.back);
        lines
    }

    fn add(&self, line: Line) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

fn parent(round: usize) -> String {
    format!("/journal/{round}")
}

/// Writes at one node until the round ends.
pub async fn writer(world: World, place: Place, journal: Journal) {
    let mut sockets = Sockets::default();
    let mut waiting = JoinSet::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut written = 0;
    while world.goes_on() {
        pace.tick().await;
        while waiting.try_join_next().is_some() {}
        if waiting.len() >= WAITING_MAX {
            continue;
        }
        let Some(channel) = sockets.to(&place).await else {
            continue;
        };
        written += 1;
        let path = format!("/journal/{}/{}/{written}", world.round, place.index);
        let (journal, node, parent) = (journal.clone(), place.index, parent(world.round));
        waiting.spawn(async move {
            let call = Instant::now();
            let outcome = match create_one(channel, entry(&parent, &path)).await {
                Ok((status, _)) if status.code() == Code::Ok => Outcome::of("done"),
                Ok((status, _)) | Err(status) => Outcome::of_failed_write(&status),
            };
            journal.add(Line {
                path,
                node,
                call,
                back: Instant::now(),
                outcome,
            });
        });
        // A killed node is another process when it is back.
        if world.touch.of(place.index).is_none() {
            sockets.forget(&place);
        }
    }
    while waiting.join_next().await.is_some() {}
}

/// Paths of the journal of a round, as a node tells them.
async fn listed(place: &Place, round: usize) -> Result<BTreeSet<String>, Status> {
    let channel = Sockets::default().to(place).await;
    let channel = channel.ok_or_else(|| Status::unavailable("nobody listens"))?;
    let mut client = EntryClient::new(channel);
    let mut paths = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest {
            filter: Some(Filter {
                by_parent_id: entry(&parent(round), "/").parent_id,
                ..Default::default()
            }),
            page_size: 500,
            page_token,
            ..Default::default()
        };
        let response = limited(client.list_entries(request)).await?;
        if is_stale(response.metadata()) {
            return Err(Status::unavailable("a stale answer after healing"));
        }
        let page = response.into_inner();
        paths.extend(
            page.entries
                .into_iter()
                .filter_map(|e| Some(e.spiffe_id?.path)),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(paths);
        }
    }
}

/// What contradicts the journal of a round on any node: acknowledged writes that are not
/// there, refused ones that are.
pub async fn contradictions(world: &World, journal: &Journal) -> Vec<String> {
    let lines = journal.lines();
    let mut found = Vec::new();
    for place in world.places.iter() {
        let listed = match listed(place, world.round).await {
            Ok(listed) => listed,
            Err(status) => {
                found.push(format!(
                    "node {} does not list entries: {status}",
                    place.index
                ));
                continue;
            }
        };
        for line in &lines {
            let there = listed.contains(&line.path);
            let wrong = match line.outcome {
                Outcome::Answer(_) if !there => "was acknowledged and is lost",
                Outcome::Nothing if there => {
                    "was refused with \"nothing was written\" and is there"
                }
                _ => continue,
            };
            found.push(format!(
                "{} of node {} {wrong} on node {}",
                line.path, line.node, place.index
            ));
        }
    }
    found
}
