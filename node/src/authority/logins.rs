//! Nodes that share a token try a PIN on it one at a time, and none after a refusal.
//!
//! Before a login it is claimed by a command, so that others wait for its outcome; the outcome is
//! told by another. What is known of a token is replicated state by the token's serial alone; of
//! the PIN itself only a file of each machine knows (`chancery_hsm::pkcs11`).
//!
//! Promises: no claim that this process was granted stays open because it was forgotten; one that
//! an earlier start of this node left open is closed as what that start's file says. Refuses to
//! know: PINs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_hsm::pkcs11::{ClaimRefused, Council, LoginEnd};
use chancery_raft_store::command::{ClaimLogin, Command, LoginEnd as End, Refusal, SettleLogin};
use chancery_raft_store::model::{LoginAttempt, TokenLogin};
use chancery_raft_store::{Change, ChangeKind};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::change;
use crate::cluster::ProposeError;
use crate::registry::Doors;

/// How long a claim waits for another node's login to end.
const OTHERS_WAIT: Duration = Duration::from_secs(2);
/// How long a claim takes at most, elections included.
const CLAIM_LIMIT: Duration = Duration::from_secs(3);
/// Pause before an outcome that could not be written is told again.
const TELL_PAUSE: Duration = Duration::from_millis(200);
/// Outcomes that wait to be told. A process has one login under way at a time.
const UNTOLD_MAX: usize = 64;

/// The others that share the token, as this node asks them.
#[derive(Clone)]
pub struct Logins {
    inner: Arc<Inner>,
}

struct Inner {
    doors: Doors,
    runtime: Handle,
    boot: u64,
    sequence: Arc<AtomicU64>,
    /// The claim that was granted last, or may have been, and is not settled.
    granted: Mutex<Option<SettleLogin>>,
    /// What the cluster said last against a login, and on which token: it stands where nobody can be
    /// asked, though this node may yet have to apply it.
    heard: Mutex<Option<(String, ClaimRefused)>>,
    untold: mpsc::Sender<Untold>,
}

/// What the registry is to hear.
enum Untold {
    /// The outcome of a claim.
    Outcome(SettleLogin),
    /// A refusal of a PIN that was tried without a claim.
    Refusal {
        /// By the token of this serial.
        serial: String,
        /// What it answered.
        said: String,
    },
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logins")
    }
}

impl Logins {
    /// Claims for this node in its start number `boot`, on the current runtime.
    pub fn start(doors: Doors, boot: u64) -> Self {
        let (untold, waiting) = mpsc::channel(UNTOLD_MAX);
        let sequence = Arc::new(AtomicU64::new(0));
        let teller = Teller {
            doors: doors.clone(),
            boot,
            sequence: Arc::clone(&sequence),
        };
        tokio::spawn(teller.run(waiting));
        Self {
            inner: Arc::new(Inner {
                doors,
                runtime: Handle::current(),
                boot,
                sequence,
                granted: Mutex::default(),
                heard: Mutex::default(),
                untold,
            }),
        }
    }
}

/// Tells what the registry is to hear, one after the other, each until it is written or nobody
/// asks for it.
struct Teller {
    doors: Doors,
    boot: u64,
    sequence: Arc<AtomicU64>,
}

impl Teller {
    async fn run(self, mut waiting: mpsc::Receiver<Untold>) {
        while let Some(untold) = waiting.recv().await {
            match untold {
                Untold::Outcome(outcome) => self.tell(outcome).await,
                Untold::Refusal { serial, said } => self.tell_refusal(serial, said).await,
            }
        }
    }

    async fn tell(&self, outcome: SettleLogin) {
        loop {
            let told = Command::SettleLogin(outcome.clone());
            match self
                .doors
                .propose(told)
                .await
                .map(|o| o.accepted().map(drop))
            {
                // Refused for what it says it would be so again.
                Ok(Ok(()) | Err(Refusal::NotFound | Refusal::Conflict | Refusal::Malformed)) => {
                    return;
                }
                Ok(Err(refusal)) => {
                    tracing::debug!(?refusal, "the outcome of a login is not told yet");
                }
                Err(error) => tracing::debug!(%error, "the outcome of a login is not told yet"),
            }
            tokio::time::sleep(TELL_PAUSE).await;
        }
    }

    /// By a claim that is settled at once. One that is refused because of another refusal says
    /// all that there is to say.
    async fn tell_refusal(&self, serial: String, said: String) {
        loop {
            let claim = ClaimLogin {
                serial: serial.clone(),
                node_id: self.doors.consensus().me(),
                boot: self.boot,
                sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
                ordered: false,
            };
            let settle = SettleLogin {
                serial: serial.clone(),
                node_id: claim.node_id,
                boot: claim.boot,
                sequence: claim.sequence,
                end: End::Refused.into(),
                why: said.clone(),
            };
            match self.doors.propose(Command::ClaimLogin(claim)).await {
                Ok(outcome) => match outcome.accepted() {
                    Ok(_) => return self.tell(settle).await,
                    Err(Refusal::LoginRefused | Refusal::NotFound | Refusal::Malformed) => return,
                    Err(refusal) => tracing::debug!(?refusal, "a refused PIN is not told yet"),
                },
                // Members of older versions claim nothing.
                Err(ProposeError::Level { .. }) => return,
                Err(error) => tracing::debug!(%error, "a refused PIN is not told yet"),
            }
            tokio::time::sleep(TELL_PAUSE).await;
        }
    }
}

impl Inner {
    fn known(&self, serial: &str) -> Option<TokenLogin> {
        self.doors.local().token_login(serial).cloned()
    }

    /// The login that an earlier start of this node left open.
    fn left_open(&self, serial: &str) -> Option<LoginAttempt> {
        let open = self.known(serial)?.attempt?;
        (open.node_id == self.doors.consensus().me() && open.boot < self.boot).then_some(open)
    }

    fn close(&self, serial: &str, open: LoginAttempt, end: End, why: &str) -> Command {
        Command::SettleLogin(SettleLogin {
            serial: serial.to_owned(),
            node_id: open.node_id,
            boot: open.boot,
            sequence: open.sequence,
            end: end.into(),
            why: why.to_owned(),
        })
    }

    async fn claim(&self, serial: &str, ordered: bool) -> Result<(), ClaimRefused> {
        let until = Instant::now() + OTHERS_WAIT;
        loop {
            let mut feed = self.doors.registry().subscribe();
            // An order takes the place of it, and is told by the registry how that ended.
            if let Some(open) = self.left_open(serial).filter(|_| !ordered) {
                // The record of this machine is clean: that login never began, or went well.
                let close = self.close(serial, open, End::NotTried, "");
                self.doors.propose(close).await.map_err(unasked)?;
            }
            // Asked five times a second: what is plain from here is not written into the log.
            if let Some(plain) = self.plainly_refused(serial, ordered) {
                if plain == Refusal::LoginUnderWay && Instant::now() < until {
                    self.another_end(&mut feed, serial, until).await;
                    continue;
                }
                return Err(self.refused(serial, plain));
            }
            let claim = ClaimLogin {
                serial: serial.to_owned(),
                node_id: self.doors.consensus().me(),
                boot: self.boot,
                sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
                ordered,
            };
            let settle = SettleLogin {
                serial: claim.serial.clone(),
                node_id: claim.node_id,
                boot: claim.boot,
                sequence: claim.sequence,
                end: End::NotTried.into(),
                why: String::new(),
            };
            // Whatever becomes of the proposal, it may be granted.
            *self.granted() = Some(settle);
            // A node that applies slowly is to get its token all the same.
            let ruling = match self.doors.ruling(Command::ClaimLogin(claim)).await {
                Ok(outcome) => outcome.accepted().map(drop),
                Err(ProposeError::Level { .. }) => {
                    self.granted().take();
                    if self.is_of_an_older_version().await? {
                        return Ok(());
                    }
                    continue;
                }
                Err(error) => return Err(unasked(error)),
            };
            if ruling.is_err() {
                self.granted().take();
            }
            let refusal = match ruling {
                Ok(()) => {
                    self.heard().take();
                    return Ok(());
                }
                Err(refusal) => refusal,
            };
            let refused = self.refused(serial, refusal);
            *self.heard() = Some((serial.to_owned(), refused.clone()));
            if refusal == Refusal::LoginUnderWay && Instant::now() < until {
                self.another_end(&mut feed, serial, until).await;
                continue;
            }
            return Err(refused);
        }
    }

    /// Whether the cluster has members that claim nothing: then each node is on its own. Asked of the
    /// cluster, since the state of a node that has just started is older, or none.
    async fn is_of_an_older_version(&self) -> Result<bool, ClaimRefused> {
        let unasked = |why: String| ClaimRefused::Unasked { why };
        let current = self.doors.barrier(CLAIM_LIMIT).await;
        current.map_err(|error| unasked(error.to_string()))?;
        let directory = self.doors.local();
        let cluster = directory.cluster();
        if cluster.id.is_empty() {
            return Err(unasked("the cluster is not founded yet".to_owned()));
        }
        Ok(cluster.feature_level < ClaimLogin::FEATURE_LEVEL)
    }

    /// What the registry would say to a claim that nobody ordered, by the state of this node.
    fn plainly_refused(&self, serial: &str, ordered: bool) -> Option<Refusal> {
        let login = self.known(serial).filter(|_| !ordered)?;
        let me = (self.doors.consensus().me(), self.boot);
        if login.refusal.is_some() {
            return Some(Refusal::LoginRefused);
        }
        let open = login.attempt?;
        ((open.node_id, open.boot) != me).then_some(Refusal::LoginUnderWay)
    }

    /// Waits until something becomes of a login on the token, or the time is over.
    async fn another_end(
        &self,
        feed: &mut broadcast::Receiver<Change>,
        serial: &str,
        until: Instant,
    ) {
        let ended = change(
            feed,
            |kind| matches!(kind, ChangeKind::TokenLoginChanged(of) if of == serial),
        );
        // Out of time it is asked once more.
        let _ = tokio::time::timeout_at(until, ended).await;
    }

    fn refused(&self, serial: &str, refusal: Refusal) -> ClaimRefused {
        let login = self.known(serial).unwrap_or_default();
        match (refusal, login.attempt, login.refusal) {
            (Refusal::LoginRefused, _, Some(refused)) => ClaimRefused::Refused {
                by: format!("node {}", refused.node_id),
                said: refused.why,
            },
            (Refusal::LoginRefused, _, None) => ClaimRefused::Refused {
                by: "another node".to_owned(),
                said: "this node has yet to hear what".to_owned(),
            },
            (Refusal::LoginUnderWay, Some(open), _) => ClaimRefused::UnderWay {
                by: format!("node {}", open.node_id),
            },
            // It is over already, or not known here yet.
            (Refusal::LoginUnderWay, None, _) => ClaimRefused::UnderWay {
                by: "another node".to_owned(),
            },
            (refusal, ..) => ClaimRefused::Denied {
                why: format!("{refusal:?}"),
            },
        }
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Option<(String, ClaimRefused)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, Option<SettleLogin>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, outcome: SettleLogin) {
        if self.untold.try_send(Untold::Outcome(outcome)).is_err() {
            tracing::error!(
                "the outcome of a login cannot be told: other nodes wait for it until `chancery hsm retry`"
            );
        }
    }
}

fn unasked(error: ProposeError) -> ClaimRefused {
    ClaimRefused::Unasked {
        why: error.to_string(),
    }
}

impl Council for Logins {
    fn claim(&self, serial: &str, ordered: bool) -> Result<(), ClaimRefused> {
        let inner = &self.inner;
        // Called by a thread of the signer, never by one of a runtime.
        inner.runtime.block_on(async {
            // A login of another that was under way then may be over now.
            let passed = |heard: &mut (String, ClaimRefused)| {
                !matches!(heard.1, ClaimRefused::Refused { .. })
            };
            inner.heard().take_if(passed);
            let claimed = tokio::time::timeout(CLAIM_LIMIT, inner.claim(serial, ordered));
            let claimed = claimed.await.unwrap_or_else(|_| {
                Err(ClaimRefused::Unasked {
                    why: format!("no answer within {CLAIM_LIMIT:?}"),
                })
            });
            let claimed = claimed.map_err(|refused| match (&refused, &*inner.heard()) {
                (ClaimRefused::Unasked { .. }, Some((of, heard))) if of == serial && !ordered => {
                    heard.clone()
                }
                _ => refused,
            });
            if claimed.is_err()
                && let Some(perhaps) = inner.granted().take()
            {
                inner.settle(perhaps);
            }
            claimed
        })
    }

    fn settle(&self, _: &str, end: LoginEnd) {
        // Nothing where nothing was claimed, among members of older versions.
        let Some(mut outcome) = self.inner.granted().take() else {
            return;
        };
        let (end, why) = match end {
            LoginEnd::Accepted => (End::Accepted, String::new()),
            LoginEnd::Refused(why) => (End::Refused, why),
            LoginEnd::NotTried => (End::NotTried, String::new()),
        };
        outcome.end = end.into();
        outcome.why = why;
        self.inner.settle(outcome);
    }

    fn refused_unclaimed(&self, serial: &str, said: &str) {
        let refusal = Untold::Refusal {
            serial: serial.to_owned(),
            said: said.to_owned(),
        };
        if self.inner.untold.try_send(refusal).is_err() {
            tracing::error!("that a PIN was refused cannot be told: other nodes may try theirs");
        }
    }

    fn tried(&self, serial: &str, said: &str) {
        let inner = &self.inner;
        let Some(open) = inner.left_open(serial) else {
            return;
        };
        let close = inner.close(serial, open, End::Refused, said);
        let told = inner.runtime.block_on(inner.doors.propose(close));
        if let Err(error) = told {
            tracing::debug!(%error, "an earlier start's login is not settled yet");
        }
    }
}
