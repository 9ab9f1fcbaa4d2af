//! The gate in front of the services: authorization by this node's state, exact where
//! the answer is a no.
//!
//! Yes may be local, no is exact (DESIGN §3): a denial that newer state could turn
//! into a yes is said only if it is still the answer after a barrier. Where that cannot
//! be had the answer is UNAVAILABLE without a typed reason, so that a node that is
//! behind never makes an agent drop its identity.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_raft_store::Directory;
use tonic::{Request, Status};

use super::{Context, activator::Activator};
use crate::authz::{
    Admitted, AgentStanding, CallerFacts, Denial, EntryFlags, Gate, Permit, authorize,
};
use crate::cluster::status::Members;
use crate::registry::Doors;
use crate::transport::Caller;

/// Authorizes calls by the replicated state on this node.
pub struct LocalGate {
    doors: Doors,
    members: Members,
    trust_domain: TrustDomain,
    admin_ids: BTreeSet<SpiffeId>,
    activator: Activator,
}

impl LocalGate {
    /// A gate that knows these administrators beside those that entries name. Starts
    /// its background work on the current runtime.
    pub fn new(context: &Context, admin_ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self {
            doors: context.doors.clone(),
            members: context.members.clone(),
            trust_domain: context.issuer.trust_domain().clone(),
            admin_ids: admin_ids.into_iter().collect(),
            activator: Activator::start(context.doors.clone()),
        }
    }

    /// What the state that is here now says.
    fn ask(&self, method: &str, caller: &Caller) -> Result<Admitted, Denial> {
        let now = now_for(caller, &self.doors, &self.members);
        let directory = self.doors.local();
        let facts = Facts {
            directory: &directory,
            trust_domain: &self.trust_domain,
            admin_ids: &self.admin_ids,
        };
        authorize(method, caller, now, &facts)
    }
}

#[async_trait]
impl Gate for LocalGate {
    async fn admit(&self, method: &str, caller: &Caller) -> Result<Permit, Status> {
        let answer = match self.ask(method, caller) {
            Err(denial) if denial.needs_barrier() => {
                self.doors.exact().await?;
                self.ask(method, caller)
            }
            answer => answer,
        };
        let Admitted {
            permit,
            activate_serial,
        } = answer.map_err(Denial::into_status)?;
        if let (Some(agent), Some(serial)) = (permit.agent(), activate_serial) {
            self.activator.used(agent, serial);
        }
        Ok(permit)
    }
}

/// The question that the gate answered for a call of an agent, to be asked again later
/// in the call: time has passed, and a barrier may have brought newer state.
pub(super) struct Standing {
    doors: Doors,
    members: Members,
    trust_domain: TrustDomain,
    method: &'static str,
    caller: Caller,
}

impl Standing {
    /// The question of this call.
    ///
    /// # Errors
    /// `Internal` where the transport or the gate was missing: a mistake of ours.
    pub(super) fn of<T>(context: &Context, request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>();
        Ok(Self {
            doors: context.doors.clone(),
            members: context.members.clone(),
            trust_domain: context.issuer.trust_domain().clone(),
            method: Permit::of(request.extensions())?.method(),
            caller: caller
                .ok_or_else(|| Status::internal("caller is unknown"))?
                .clone(),
        })
    }

    /// What `look` finds in the state of this node, if by that very state the caller may
    /// still call the method.
    ///
    /// # Errors
    /// The denial, exact; `Unavailable` where it cannot be made exact.
    pub(super) async fn read<R>(&self, look: impl Fn(&Directory) -> R) -> Result<R, Status> {
        match self.ask(&look) {
            Err(denial) if denial.needs_barrier() => {
                self.doors.exact().await?;
                self.ask(&look).map_err(Denial::into_status)
            }
            answer => answer.map_err(Denial::into_status),
        }
    }

    fn ask<R>(&self, look: impl Fn(&Directory) -> R) -> Result<R, Denial> {
        let now = now_for(&self.caller, &self.doors, &self.members);
        let directory = self.doors.local();
        let facts = Facts {
            directory: &directory,
            trust_domain: &self.trust_domain,
            // Administrators do not come here as such.
            admin_ids: &BTreeSet::new(),
        };
        authorize(self.method, &self.caller, now, &facts)?;
        Ok(look(&directory))
    }
}

/// The time, in Unix seconds, by which a caller's certificate is judged. It is over only if
/// this node's clock, the leader's and that of another member say so: one clock that is ahead
/// ends nobody's identity.
fn now_for(caller: &Caller, doors: &Doors, members: &Members) -> i64 {
    let own = doors.consensus().clock().now_unix_ms().div_euclid(1000);
    match caller {
        Caller::Certificate(caller) if caller.not_after() < own => {
            let by_leader = doors.earlier_clock();
            let another = members.latest_other_clock_ms();
            another.map_or(by_leader, |ms| by_leader.min(ms.div_euclid(1000)))
        }
        _ => own,
    }
}

/// What the state says of a caller, at one moment.
struct Facts<'a> {
    directory: &'a Directory,
    trust_domain: &'a TrustDomain,
    admin_ids: &'a BTreeSet<SpiffeId>,
}

impl CallerFacts for Facts<'_> {
    fn trust_domain(&self) -> &TrustDomain {
        self.trust_domain
    }

    fn is_admin_id(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id)
    }

    fn entry_flags(&self, id: &SpiffeId) -> EntryFlags {
        // Paths in the directory are of this trust domain alone.
        if !id.is_member_of(self.trust_domain) {
            return EntryFlags::default();
        }
        self.directory
            .entries_named(id.path())
            .fold(EntryFlags::default(), |flags, entry| EntryFlags {
                admin: flags.admin || entry.admin,
                downstream: flags.downstream || entry.downstream,
            })
    }

    fn agent(&self, id: &SpiffeId) -> AgentStanding {
        if !id.is_member_of(self.trust_domain) {
            return AgentStanding::Absent;
        }
        match self.directory.agent(id.path()) {
            None => AgentStanding::Absent,
            Some(agent) if agent.is_banned() => AgentStanding::Banned,
            Some(agent) => AgentStanding::Known {
                current_serial: agent.serial.clone(),
                pending_serials: agent.pending.iter().map(|p| p.serial.clone()).collect(),
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::model::{Agent, Entry, PendingSvid};
    use chancery_raft_store::view::Table;
    use prost::Message;

    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    fn put(directory: &mut Directory, table: Table, key: &str, row: &impl Message) {
        directory
            .absorb_row(&table.key(key.as_bytes()), Some(&row.encode_to_vec()))
            .unwrap();
    }

    fn directory() -> Directory {
        let mut directory = Directory::default();
        for (name, admin, downstream) in
            [("1", true, false), ("2", false, true), ("3", false, false)]
        {
            let entry = Entry {
                id: name.into(),
                sequence: name.parse().unwrap(),
                spiffe_path: if name == "3" { "/plain" } else { "/both" }.into(),
                parent_path: "/p".into(),
                admin,
                downstream,
                ..Entry::default()
            };
            put(&mut directory, Table::Entries, name, &entry);
        }
        let pending = vec![PendingSvid {
            serial: "8".into(),
            expires_at: 0,
        }];
        let known = Agent {
            path: "/spire/agent/known".into(),
            sequence: 1,
            serial: "7".into(),
            pending,
            ..Agent::default()
        };
        put(&mut directory, Table::Agents, "/spire/agent/known", &known);
        let banned = Agent {
            path: "/spire/agent/banned".into(),
            sequence: 2,
            ..Agent::default()
        };
        put(
            &mut directory,
            Table::Agents,
            "/spire/agent/banned",
            &banned,
        );
        directory
    }

    #[test]
    fn facts_are_those_of_the_state() {
        let directory = directory();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let admin_ids = BTreeSet::from([id("spiffe://other.org/admin")]);
        let facts = Facts {
            directory: &directory,
            trust_domain: &trust_domain,
            admin_ids: &admin_ids,
        };
        assert!(facts.is_admin_id(&id("spiffe://other.org/admin")));
        assert!(!facts.is_admin_id(&id("spiffe://example.org/admin")));
        assert_eq!(
            facts.entry_flags(&id("spiffe://example.org/both")),
            EntryFlags {
                admin: true,
                downstream: true
            }
        );
        assert_eq!(
            facts.entry_flags(&id("spiffe://example.org/plain")),
            EntryFlags::default()
        );
        let agent =
            |name: &str| facts.agent(&id(&format!("spiffe://example.org/spire/agent/{name}")));
        assert_eq!(
            agent("known"),
            AgentStanding::Known {
                current_serial: "7".into(),
                pending_serials: vec!["8".into()]
            }
        );
        assert_eq!(agent("banned"), AgentStanding::Banned);
        assert_eq!(agent("nobody"), AgentStanding::Absent);
    }

    #[test]
    fn an_id_of_another_trust_domain_borrows_nothing_from_its_path() {
        let directory = directory();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let admin_ids = BTreeSet::new();
        let facts = Facts {
            directory: &directory,
            trust_domain: &trust_domain,
            admin_ids: &admin_ids,
        };
        assert_eq!(
            facts.entry_flags(&id("spiffe://other.org/both")),
            EntryFlags::default()
        );
        assert_eq!(
            facts.agent(&id("spiffe://other.org/spire/agent/known")),
            AgentStanding::Absent
        );
    }
}
