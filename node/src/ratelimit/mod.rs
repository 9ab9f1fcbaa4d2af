//! How often one source (an IPv4 address, a /64 of IPv6) may ask this node for what costs it most.
//!
//! Why it exists: one host that has gone wild must not take the signing keys from
//! all others, and clients of SPIRE's server are built around its limits: they
//! size their batches and their patience by them.
//!
//! Promises: SPIRE's limits, texts and codes. A call waits for its turn; it is
//! refused at once where its turn would come after its deadline or never. Turns
//! come in the order of asking, and a call that stops waiting gives its turn
//! back. Callers of the admin socket are not limited. The memory is bounded,
//! however many addresses there are. Every method has a row (`table`), or the
//! project does not compile.
//!
//! Refuses to know: who the caller is beyond its address (`transport`), what it
//! may do (`authz`), and what a call does with its turn. Limits are each node's
//! own: a client that asks several nodes has each node's allowance.

mod bucket;
mod table;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use self::bucket::{Buckets, Refused, Turn};
use self::table::{Group, Rule};
use crate::authz::CallDeadline;
use crate::config;
use crate::environment::Stopwatch;
use crate::telemetry;
use crate::transport::{self, Caller};

/// The limits of one node. Cheap to clone: clones share the buckets.
#[derive(Clone, Debug)]
pub struct RateLimits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    attest: Option<Mutex<Buckets>>,
    certificates: Option<Mutex<Buckets>>,
    jwt: Option<Mutex<Buckets>>,
    wit: Option<Mutex<Buckets>>,
    keys: Option<Mutex<Buckets>>,
    status: Option<Mutex<Buckets>>,
}

impl Shared {
    /// The buckets of a group; none where the configuration switched it off.
    fn buckets(&self, group: Group) -> Option<&Mutex<Buckets>> {
        match group {
            Group::Attest => self.attest.as_ref(),
            Group::Certificates => self.certificates.as_ref(),
            Group::Jwt => self.jwt.as_ref(),
            Group::Wit => self.wit.as_ref(),
            Group::Keys => self.keys.as_ref(),
            Group::PostStatus => self.status.as_ref(),
        }
    }
}

impl RateLimits {
    /// Full buckets for everybody.
    pub fn new(config: config::RateLimit) -> Self {
        let limit = |group: Group, wanted: bool| {
            wanted.then(|| Mutex::new(Buckets::new(group.per_second())))
        };
        Self {
            shared: Arc::new(Shared {
                epoch: Instant::now(),
                attest: limit(Group::Attest, config.attestation),
                certificates: limit(Group::Certificates, config.signing),
                jwt: limit(Group::Jwt, config.signing),
                wit: limit(Group::Wit, config.signing),
                keys: limit(Group::Keys, true),
                status: limit(Group::PostStatus, true),
            }),
        }
    }

    /// What `caller` has of the limit of `method` (`/package.Service/Method`) in a
    /// call that ends by `deadline`.
    ///
    /// # Errors
    /// `Internal` for a method without a row, in SPIRE's words; the compiler saw
    /// to it that there is none.
    pub fn allowance(
        &self,
        method: &'static str,
        caller: &Caller,
        deadline: CallDeadline,
    ) -> Result<Allowance, Status> {
        let row = table::find(method).ok_or_else(|| {
            tracing::error!(method, "Rate limiting misconfigured; this is a bug");
            Status::internal(format!("rate limiting misconfigured for {method:?}"))
        })?;
        Ok(Allowance {
            shared: self.shared.clone(),
            method,
            rule: row.rule,
            source: caller.address().map(|a| transport::source(a.ip())),
            deadline,
        })
    }

    /// Takes `count` tokens at once: [`Self::allowance`], then [`Allowance::take`].
    ///
    /// # Errors
    /// As those two.
    pub async fn take(
        &self,
        method: &'static str,
        caller: &Caller,
        count: usize,
        deadline: CallDeadline,
    ) -> Result<(), Status> {
        self.allowance(method, caller, deadline)?.take(count).await
    }
}

/// One call's right to ask for tokens.
#[derive(Debug)]
#[must_use = "nothing is limited before `take`"]
pub struct Allowance {
    shared: Arc<Shared>,
    method: &'static str,
    rule: Option<Rule>,
    source: Option<IpAddr>,
    deadline: CallDeadline,
}

impl Allowance {
    /// Waits for `count` tokens: one for each thing that the call asks for.
    ///
    /// # Errors
    /// `ResourceExhausted` in SPIRE's words: at once where there are never so many,
    /// or not before the call's deadline. `Internal` for a method that has no limit.
    pub async fn take(self, count: usize) -> Result<(), Status> {
        let Some(rule) = self.rule else {
            tracing::error!(
                method = self.method,
                "Rate limiter used unexpectedly; this is a bug"
            );
            return Err(Status::internal(format!(
                "rate limiting misconfigured for {:?}",
                self.method
            )));
        };
        let Some(buckets) = self.shared.buckets(rule.group) else {
            return Ok(());
        };
        let watch = Stopwatch::start();
        let taken = match self.source {
            Some(source) => wait(&self.shared, buckets, source, count, self.deadline).await,
            None => Ok(()),
        };
        let answer = taken
            .map_err(|refused| Status::resource_exhausted(format!("{}: {refused}", rule.refusal)));
        let code = answer
            .as_ref()
            .map_or_else(Status::code, |()| tonic::Code::Ok);
        telemetry::rate_limit(self.method, code, watch.elapsed());
        answer
    }
}

async fn wait(
    shared: &Shared,
    buckets: &Mutex<Buckets>,
    source: IpAddr,
    count: usize,
    deadline: CallDeadline,
) -> Result<(), Refused> {
    let now = shared.epoch.elapsed();
    let turn = lock(buckets).take(source, count, now, deadline.remaining())?;
    if turn.wait == Duration::ZERO {
        return Ok(());
    }
    let mut waiting = Waiting {
        buckets,
        turn: Some(turn),
    };
    tokio::time::sleep_until(shared.epoch + now + turn.wait).await;
    waiting.turn = None;
    Ok(())
}

/// Gives a turn back that nobody waits for any more.
struct Waiting<'a> {
    buckets: &'a Mutex<Buckets>,
    turn: Option<Turn>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            lock(self.buckets).give_back(turn);
        }
    }
}

fn lock(buckets: &Mutex<Buckets>) -> std::sync::MutexGuard<'_, Buckets> {
    buckets.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
