//! The ledger: which agents and downstream servers may still hold documents of an authority.
//!
//! Why it exists: who revokes an authority wants to know whom that cuts off. The answer is an
//! upper bound, of the whole cluster, whatever crashed meanwhile.
//!
//! Promises: a document leaves only when the log has its holder and authority for as long as
//! it lives, or, where there is no quorum to write that, when this node's disk says that it owes it.
//! The first document of an authority for a holder so costs one write, shared with all that wait;
//! renewals cost one in [`tracker::RESERVE`] seconds. What took whose place is kept in memory
//! ([`tracker`]); after a restart the pairs of the start before end by time.
//! Refuses to know: how documents are made, and what an administrator does with the answer.

pub mod debts;
pub mod tracker;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chancery_identity::id::SpiffeId;
use chancery_raft_store::command::{AuthorityName, Command, NoteHolders, Renewal, TellRenewals};
use chancery_raft_store::model::{AuthorityKind, AuthorityStatus};
use chancery_raft_store::{ChangeKind, Directory, Refusal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Status;

use self::debts::Debts;
use self::tracker::{Document, Mark, Place, Standing, Tracker};
use crate::authority::{JwtSvid, X509Svid};
use crate::registry::Doors;

/// Longest wait of a document for the log.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// What nobody waits for is written this often.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between looks for documents that have ended.
const SWEEP_EVERY: u32 = 60;
/// Renewals that wait to be told; more are not told, and their pairs end by time.
const TOLD_MAX: usize = 65_536;

/// Why documents may leave.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub enum Cover {
    /// The log has their holders.
    Log,
    /// This node's disk says that it owes them, or the cluster keeps no ledger yet.
    Waived,
}

/// Notes holders. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    doors: Doors,
    boot: u64,
    tracker: Mutex<Tracker>,
    debts: Debts,
    owes: Arc<AtomicBool>,
    /// Somebody waits for the log.
    wake: Notify,
    /// Changes with the end of each write.
    turns: watch::Sender<u64>,
    /// The last write went well.
    writable: AtomicBool,
    told: Mutex<BTreeSet<Renewal>>,
}

/// The item that an agent's own SVID is.
fn agent_item() -> u64 {
    item("agent", "")
}

/// The same on every node.
fn item(what: &str, id: &str) -> u64 {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        format!("{what}\0{id}").as_bytes(),
    );
    let first: Option<&[u8; 8]> = digest.as_ref().first_chunk();
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Ledger {
    /// A ledger of this start of the node, with what an earlier one left on the disk.
    ///
    /// # Errors
    /// The file that says so cannot be used.
    pub fn open(doors: Doors, boot: u64, data_dir: &Path) -> Result<Self, String> {
        let (debts, left) = Debts::open(data_dir)?;
        let mut tracker = Tracker::default();
        let at = now(&doors);
        for note in left {
            let authority = note.authority.unwrap_or_default();
            let Ok(kind) = AuthorityKind::try_from(authority.kind) else {
                continue;
            };
            let document = Document {
                kind,
                authority_id: &authority.id,
                place: Place::Lasting,
                expires_at: note.until,
            };
            tracker.issue(at, "", &[document]);
        }
        let inner = Inner {
            doors,
            boot,
            tracker: Mutex::new(tracker),
            owes: debts.flag(),
            debts,
            wake: Notify::new(),
            turns: watch::Sender::new(0),
            writable: AtomicBool::new(true),
            told: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Somebody asks for documents. To be called when the request arrives: what was handed out
    /// before is what they replace.
    pub fn mark(&self) -> Mark {
        self.tracker().mark(now(&self.inner.doors))
    }

    /// Before an agent gets its own SVID, with nothing left to be looked at.
    ///
    /// # Errors
    /// UNAVAILABLE: it must not get it.
    pub async fn agent(&self, asked: Mark, svid: &X509Svid) -> Result<(), Status> {
        let documents = [x509(svid, Place::Item(agent_item()))];
        let cover = self.cover(svid.id.path(), &documents).await?;
        self.leave(cover, asked, svid.id.path(), &documents)
    }

    /// Before an agent gets SVIDs of its workloads, each with the id of its entry. Those that
    /// it does get are named to [`Ledger::workloads_leave`].
    ///
    /// # Errors
    /// UNAVAILABLE: it must not get them.
    pub async fn workloads(
        &self,
        agent: &SpiffeId,
        svids: impl Iterator<Item = (&str, &X509Svid)>,
    ) -> Result<Cover, Status> {
        let documents: Vec<_> = svids.map(workload).collect();
        self.cover(agent.path(), &documents).await
    }

    /// These SVIDs leave, and nothing can hold them back any more.
    ///
    /// # Errors
    /// UNAVAILABLE: it must not get them.
    pub fn workloads_leave<'a>(
        &self,
        cover: Cover,
        asked: Mark,
        agent: &SpiffeId,
        svids: impl Iterator<Item = (&'a str, &'a X509Svid)>,
    ) -> Result<(), Status> {
        let documents: Vec<_> = svids.map(workload).collect();
        self.leave(cover, asked, agent.path(), &documents)
    }

    /// Before anybody gets an X.509 document whose like it may have any number of: a minted
    /// SVID, or the CA certificate of a downstream server, which may be several servers.
    ///
    /// # Errors
    /// UNAVAILABLE: it must not leave.
    pub async fn lasting(&self, holder: &SpiffeId, svid: &X509Svid) -> Result<(), Status> {
        let documents = [x509(svid, Place::Lasting)];
        // It replaces nothing.
        self.cover(holder.path(), &documents).await.map(|_| ())
    }

    /// Before anybody gets a JWT-SVID. There may be any number for one entry, so they end by
    /// time alone.
    ///
    /// # Errors
    /// UNAVAILABLE: it must not leave.
    pub async fn jwt(&self, holder: &SpiffeId, svid: &JwtSvid) -> Result<(), Status> {
        let document = Document {
            kind: AuthorityKind::Jwt,
            authority_id: &svid.authority_id,
            place: Place::Lasting,
            expires_at: svid.expires_at,
        };
        self.cover(holder.path(), &[document]).await.map(|_| ())
    }

    /// Whether documents left here of whose holders the log may not have heard.
    pub fn owes(&self) -> bool {
        self.inner.owes.load(Ordering::SeqCst)
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.inner
            .tracker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the documents may leave. What has to hold as well is looked at after that,
    /// and then they [`Ledger::leave`].
    async fn cover(&self, holder: &str, documents: &[Document<'_>]) -> Result<Cover, Status> {
        if documents.is_empty() {
            return Ok(Cover::Log);
        }
        let mut turns = self.inner.turns.subscribe();
        let mut standing = {
            let mut tracker = self.tracker();
            tracker.issue(now(&self.inner.doors), holder, documents);
            tracker.standing(holder, documents)
        };
        if self.inner.doors.local().cluster().feature_level < NoteHolders::FEATURE_LEVEL {
            return Ok(Cover::Waived);
        }
        let until = Instant::now() + WAIT_MAX;
        while standing == Standing::Waiting {
            // A write that has just failed is tried again by itself.
            if !self.inner.writable.load(Ordering::SeqCst) {
                break;
            }
            self.inner.wake.notify_one();
            if tokio::time::timeout_at(until, turns.changed())
                .await
                .is_err()
            {
                // The next ones need not wait for what is on its way.
                self.inner.writable.store(false, Ordering::SeqCst);
                break;
            }
            standing = self.tracker().standing(holder, documents);
        }
        match standing {
            Standing::Covered => Ok(Cover::Log),
            Standing::Refused => Err(Status::unavailable(
                "the authority that signed is revoked; try again",
            )),
            Standing::Waiting => self.owe(documents).await.map(|()| Cover::Waived),
        }
    }

    /// The documents leave: what they replace is replaced here, and other nodes hear of it with
    /// the next tick.
    fn leave(
        &self,
        cover: Cover,
        asked: Mark,
        holder: &str,
        documents: &[Document<'_>],
    ) -> Result<(), Status> {
        let at = now(&self.inner.doors);
        let owed = matches!(cover, Cover::Waived);
        let standing = self.tracker().leave((asked, at), holder, documents, owed);
        if !owed && standing != Standing::Covered {
            return Err(Status::unavailable(
                "a newer document was handed out meanwhile, or the authority is revoked; try again",
            ));
        }
        let me = self.inner.doors.consensus().me();
        let directory = self.inner.doors.local();
        let renewals = replaced_elsewhere(&directory, me, (asked, at), holder, documents);
        drop(directory);
        if !renewals.is_empty() {
            let mut told = self
                .inner
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let room = TOLD_MAX.saturating_sub(told.len());
            told.extend(renewals.into_iter().take(room));
        }
        Ok(())
    }

    /// Without a quorum nothing can be noted, and workloads live on.
    async fn owe(&self, documents: &[Document<'_>]) -> Result<(), Status> {
        for document in documents {
            let authority = AuthorityName {
                kind: document.kind.into(),
                id: document.authority_id.to_owned(),
            };
            let owed = self.inner.debts.owe(authority, document.expires_at).await;
            owed.map_err(|error| {
                tracing::error!(%error, "that documents leave without a quorum could not be written to the disk");
                Status::unavailable("this node cannot note who holds its documents; try another node")
            })?;
        }
        Ok(())
    }

    /// Keeps the log up to date. Has no end.
    pub async fn run(self) {
        let follow = self.clone().follow();
        let write = self.write();
        tokio::join!(follow, write);
    }

    /// Learns of what other nodes renewed.
    async fn follow(self) {
        let mut feed = self.inner.doors.registry().subscribe();
        loop {
            match feed.recv().await {
                Ok(change) => {
                    let ChangeKind::DocumentsRenewed(told) = change.kind else {
                        continue;
                    };
                    if told.node_id != self.inner.doors.consensus().me() {
                        let mut tracker = self.tracker();
                        told.renewals.iter().for_each(|one| tracker.renewed(one));
                    }
                }
                // What was missed leaves pairs that end by time.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn write(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signing = BTreeSet::new();
        let mut to_sweep = SWEEP_EVERY;
        loop {
            let writable = self.inner.writable.load(Ordering::SeqCst);
            tokio::select! {
                () = self.inner.wake.notified(), if writable => {}
                _ = ticks.tick() => {
                    to_sweep -= 1;
                    self.tell().await;
                }
            }
            if to_sweep == 0 {
                to_sweep = SWEEP_EVERY;
                self.tracker().sweep(now(&self.inner.doors));
                self.measure();
            }
            let (in_force, active) = self.active();
            if active != signing {
                let gone = |kind, id: &str| !active.contains(&(kind, id.to_owned()));
                self.tracker().stir(gone);
                signing = active;
            }
            if in_force {
                self.flush(&signing).await;
            }
        }
    }

    /// Whether the cluster keeps a ledger, and the authorities that sign.
    fn active(&self) -> (bool, BTreeSet<(AuthorityKind, String)>) {
        let directory = self.inner.doors.local();
        let kinds = [AuthorityKind::X509, AuthorityKind::Jwt];
        let active = kinds.into_iter().flat_map(|kind| {
            let all = directory.authorities(kind).into_iter();
            all.filter(|a| a.status() == AuthorityStatus::Active)
                .map(move |a| (kind, a.id.clone()))
        });
        let in_force = directory.cluster().feature_level >= NoteHolders::FEATURE_LEVEL;
        (in_force, active.collect())
    }

    /// Writes what the log has to hear, and lets those go on who wait for it.
    async fn flush(&self, signing: &BTreeSet<(AuthorityKind, String)>) {
        loop {
            let signs = |kind, id: &str| signing.contains(&(kind, id.to_owned()));
            let batch = self.tracker().take(now(&self.inner.doors), signs);
            let Some(batch) = batch else { break };
            let command = NoteHolders {
                node_id: self.inner.doors.consensus().me(),
                boot: self.inner.boot,
                number: batch.number,
                notes: batch.notes.clone(),
            };
            let outcome = self
                .inner
                .doors
                .propose(Command::NoteHolders(command))
                .await;
            let ruled: Option<Vec<Refusal>> = match outcome.map(|o| o.accepted()) {
                Ok(Ok(outcome)) => Some(outcome.holders().collect()),
                Ok(Err(refusal)) => {
                    tracing::warn!(?refusal, "holders of documents were not noted");
                    None
                }
                Err(error) => {
                    tracing::debug!(%error, "holders of documents are not noted yet");
                    None
                }
            };
            let went_well = ruled.is_some();
            self.tracker().done(batch, ruled.as_deref());
            self.inner.writable.store(went_well, Ordering::SeqCst);
            self.inner.turns.send_modify(|turn| *turn += 1);
            if !went_well {
                return;
            }
        }
        let paid = self.inner.debts.pay(|| self.tracker().is_quiet()).await;
        if let Err(error) = paid {
            tracing::warn!(%error, "the file that says what the ledger lacks could not be removed");
        }
    }

    /// Tells the other starts what was renewed here. What does not get through is told with
    /// the next renewal, or ends by time.
    async fn tell(&self) {
        let mut told = std::mem::take(
            &mut *self
                .inner
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
        .into_iter()
        .peekable();
        while told.peek().is_some() {
            let command = TellRenewals {
                node_id: self.inner.doors.consensus().me(),
                renewals: told.by_ref().take(TELL_MAX).collect(),
            };
            let command = Command::TellRenewals(command);
            if let Err(error) = self.inner.doors.propose(command).await {
                tracing::debug!(%error, "renewals were not told");
                return;
            }
        }
    }

    fn measure(&self) {
        let at = now(&self.inner.doors);
        let directory = self.inner.doors.local();
        crate::telemetry::ledger(directory.ledger().len(), self.tracker().len());
        for (label, kind) in [("x509", AuthorityKind::X509), ("jwt", AuthorityKind::Jwt)] {
            let all = directory.authorities(kind);
            let old = all.iter().filter(|a| a.status() == AuthorityStatus::Old);
            let left = old.map(|a| directory.ledger().holders(kind, &a.id, at).count);
            crate::telemetry::old_authority_holders(label, left.max().unwrap_or(0));
        }
    }
}

/// Renewals of one command: with the longest paths a message of a few hundred KiB.
const TELL_MAX: usize = 1_024;

fn now(doors: &Doors) -> i64 {
    doors.consensus().clock().now_unix_ms().div_euclid(1000)
}

fn workload<'a>((entry_id, svid): (&str, &'a X509Svid)) -> Document<'a> {
    x509(svid, Place::Item(item("entry", entry_id)))
}

fn x509(svid: &X509Svid, place: Place) -> Document<'_> {
    Document {
        kind: AuthorityKind::X509,
        authority_id: &svid.authority_id,
        place,
        expires_at: svid.expires_at,
    }
}

/// What another node that is up handed out of an authority that signs no more, and these
/// documents replace. Outside of rotations there is nothing.
fn replaced_elsewhere(
    directory: &Directory,
    me: u64,
    (asked, at): (Mark, i64),
    holder: &str,
    documents: &[Document<'_>],
) -> Vec<Renewal> {
    let items: Vec<_> = documents
        .iter()
        .filter_map(|document| match document.place {
            Place::Item(item) => Some((document.authority_id, item)),
            Place::Lasting => None,
        })
        .collect();
    if items.is_empty() {
        return Vec::new();
    }
    // A start that is over remembers nothing that it could take back.
    let listens = |node, boot| {
        node != me
            && directory
                .member(node)
                .is_some_and(|member| member.boot == boot)
    };
    let mut renewals = Vec::new();
    for old in directory.authorities(AuthorityKind::X509) {
        let ended = old.status() == AuthorityStatus::Old;
        let ledger = directory.ledger();
        if !ended || !ledger.handed_out_by(AuthorityKind::X509, &old.id, holder, at, listens) {
            continue;
        }
        let newer = items.iter().filter(|(id, _)| *id != old.id);
        renewals.extend(newer.map(|(id, item)| Renewal {
            authority: Some(AuthorityName {
                kind: AuthorityKind::X509.into(),
                id: (*id).to_owned(),
            }),
            path: holder.to_owned(),
            item: *item,
            asked_at: asked.at(),
        }));
    }
    renewals
}
