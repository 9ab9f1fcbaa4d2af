//! The decision, pure: (method, caller, time, facts) to yes or no.

use chancery_identity::id::{SpiffeId, TrustDomain};

use super::denial::{Denial, Reason};
use super::permit::{Admitted, Permit, Role};
use super::table::{self, Row};
use crate::transport::Caller;

/// What a registration entry makes of an ID; several entries of one ID add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryFlags {
    /// May administer.
    pub admin: bool,
    /// May run a downstream server.
    pub downstream: bool,
}

/// What the registry knows of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentStanding {
    /// No record.
    Absent,
    /// A record without a serial.
    Banned,
    /// An agent with an SVID.
    Known {
        /// Serial of its current SVID, decimal.
        current_serial: String,
        /// Serials of SVIDs that it was given and has not used yet, decimal.
        pending_serials: Vec<String>,
    },
}

/// What the decision asks of configuration and registry.
pub trait CallerFacts {
    /// The cluster's own trust domain.
    fn trust_domain(&self) -> &TrustDomain;
    /// Whether the configuration names the ID as an administrator.
    fn is_admin_id(&self, id: &SpiffeId) -> bool;
    /// What the registration entries of exactly this ID allow.
    fn entry_flags(&self, id: &SpiffeId) -> EntryFlags;
    /// The agent of this ID.
    fn agent(&self, id: &SpiffeId) -> AgentStanding;
}

/// What of a caller matters here.
#[derive(Clone, Copy, Debug)]
pub enum CallerKind<'a> {
    /// Through the admin socket.
    Local,
    /// Over TCP, without a certificate.
    Anonymous,
    /// Over TCP, with a certificate that was verified when the connection was made.
    Certificate {
        /// Its one URI SAN.
        id: &'a SpiffeId,
        /// Its serial, decimal.
        serial: &'a str,
        /// Last second of its validity, Unix.
        not_after: i64,
    },
}

impl<'a> From<&'a Caller> for CallerKind<'a> {
    fn from(caller: &'a Caller) -> Self {
        match caller {
            Caller::Local(_) => Self::Local,
            Caller::Anonymous(_) => Self::Anonymous,
            Caller::Certificate(caller) => Self::Certificate {
                id: caller.id(),
                serial: caller.serial(),
                not_after: caller.not_after(),
            },
        }
    }
}

/// Decides whether `caller` may call `method` (`/package.Service/Method`) at `now`
/// (Unix seconds), by what `facts` says at this moment.
///
/// # Errors
/// A [`Denial`]. If it [needs a barrier](Denial::needs_barrier), pass one and ask
/// again before saying it.
pub fn authorize(
    method: &str,
    caller: &Caller,
    now: i64,
    facts: &dyn CallerFacts,
) -> Result<Admitted, Denial> {
    decide(method, caller.into(), now, facts)
}

pub(super) fn decide(
    method: &str,
    caller: CallerKind<'_>,
    now: i64,
    facts: &dyn CallerFacts,
) -> Result<Admitted, Denial> {
    let row = table::find(method).ok_or_else(|| Denial::settled(method, None))?;
    let id = match caller {
        CallerKind::Certificate { id, .. } => Some(id),
        CallerKind::Local | CallerKind::Anonymous => None,
    };
    let admit = |role, activate_serial| {
        Ok(Admitted {
            permit: Permit::new(row.method, role, id.cloned()),
            activate_serial,
        })
    };
    if row.callers.any {
        return admit(Role::Anyone, None);
    }
    match caller {
        CallerKind::Local if row.callers.local => admit(Role::Local, None),
        CallerKind::Local | CallerKind::Anonymous => Err(Denial::settled(method, None)),
        CallerKind::Certificate {
            id,
            serial,
            not_after,
        } => {
            let (role, activate_serial) =
                role_of_certificate(row, id, serial, not_after < now, facts)?;
            admit(role, activate_serial)
        }
    }
}

fn role_of_certificate(
    row: &Row,
    id: &SpiffeId,
    serial: &str,
    expired: bool,
    facts: &dyn CallerFacts,
) -> Result<(Role, Option<String>), Denial> {
    let allowed = row.callers;
    let own = id.is_member_of(facts.trust_domain());
    // A connection outlives the certificate it was made with. One that ended says
    // no longer who is at the other side, whatever the ID was good for.
    if expired {
        return Err(Denial::settled(
            row.method,
            (allowed.agent && own).then_some(Reason::AgentExpired),
        ));
    }
    if allowed.admin && facts.is_admin_id(id) {
        return Ok((Role::AdminByConfig, None));
    }
    // Entries and agents are of this trust domain: an ID of another one has
    // neither, however its path reads.
    if !own {
        return Err(Denial::settled(row.method, None));
    }
    if allowed.admin || allowed.downstream {
        let flags = facts.entry_flags(id);
        if allowed.admin && flags.admin {
            return Ok((Role::AdminByEntry, None));
        }
        if allowed.downstream && flags.downstream {
            return Ok((Role::Downstream, None));
        }
    }
    if allowed.agent {
        let activate_serial = agent_in_good_standing(facts.agent(id), serial)
            .map_err(|reason| Denial::of_this_state(row.method, Some(reason)))?;
        return Ok((Role::Agent, activate_serial));
    }
    if allowed.admin || allowed.downstream {
        Err(Denial::of_this_state(row.method, None))
    } else {
        Err(Denial::settled(row.method, None))
    }
}

/// The serial to activate, if the agent used one that waited for its first use.
fn agent_in_good_standing(standing: AgentStanding, serial: &str) -> Result<Option<String>, Reason> {
    match standing {
        AgentStanding::Absent => Err(Reason::AgentNotAttested),
        AgentStanding::Banned => Err(Reason::AgentBanned),
        AgentStanding::Known { current_serial, .. } if current_serial == serial => Ok(None),
        AgentStanding::Known {
            pending_serials, ..
        } => pending_serials
            .into_iter()
            .find(|pending| pending == serial)
            .map(Some)
            .ok_or(Reason::AgentNotActive),
    }
}
