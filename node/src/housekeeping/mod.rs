//! What has expired and nobody took away: entries, agents, join tokens, and authorities that
//! were appended to the own bundle or published there.
//!
//! The leader names candidates from its memory, a bounded number at a time, and the
//! command looks at each again by the cluster clock. Nothing waits for it: an expired
//! entry is served until it is pruned (as by SPIRE, where expiry is no security
//! feature), and where there is no leader it is pruned later.
//!
//! Every node keeps the timetable and only the one that leads acts, so a change of
//! leaders neither skips a turn nor adds one that hurts. Time is asked of the clock
//! that it is given.

pub(crate) mod events;
mod timetable;

use std::time::Duration;

use chancery_identity::id::TrustDomain;
use chancery_raft_store::Directory;
use chancery_raft_store::command::{
    Command, NoteHolders, Outcome, PruneAgents, PruneBundle, PruneEntries, PruneHolders,
    PruneJoinTokens, Refusal,
};
use chancery_raft_store::model::{BundleAuthority, Entry};

use self::timetable::Timetable;
use crate::cluster::ProposeError;
use crate::config::format_duration;
use crate::registry::Doors;

/// Candidates of one command.
const CANDIDATES_MAX: usize = 256;
/// The same where each is looked for among all.
const HOLDERS_MAX: usize = 2048;
/// How long an expired join token is kept, so that whoever comes late with it hears that
/// it has expired, not that it never was.
const JOIN_TOKENS_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// Which agents are evicted for having been away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentPruning {
    /// Time since the end of the agent's SVID.
    pub expired_for: Duration,
    /// Agents of one turn.
    pub batch_size: u32,
    /// Also those that cannot attest again by themselves.
    pub include_non_reattestable: bool,
}

/// How often each kind is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Entries, join tokens and holders in the ledger.
    pub entries: Duration,
    /// Agents.
    pub agents: Duration,
    /// The own bundle.
    pub bundle: Duration,
}

impl Default for Pace {
    /// SPIRE's.
    fn default() -> Self {
        Self {
            entries: Duration::from_secs(5 * 60),
            agents: Duration::from_secs(3_600),
            bundle: Duration::from_secs(6 * 3_600),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Entries,
    JoinTokens,
    Holders,
    Agents,
    Bundle,
}

/// Prunes while this node leads.
pub struct Housekeeping {
    doors: Doors,
    trust_domain: TrustDomain,
    agents: Option<AgentPruning>,
    pace: Pace,
}

/// A turn that did not come to its end; there is another.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Write(#[from] ProposeError),
    #[error("refused: {0:?}")]
    Refused(Refusal),
}

impl Housekeeping {
    /// Prunes expired entries, join tokens and authorities, and agents if so configured.
    pub fn new(
        doors: Doors,
        trust_domain: TrustDomain,
        agents: Option<AgentPruning>,
        pace: Pace,
    ) -> Self {
        Self {
            doors,
            trust_domain,
            agents,
            pace,
        }
    }

    /// Keeps house. Has no end.
    pub async fn run(self) {
        let mut jobs = vec![
            (Job::Entries, self.pace.entries),
            (Job::JoinTokens, self.pace.entries),
            (Job::Holders, self.pace.entries),
            (Job::Bundle, self.pace.bundle),
        ];
        if let Some(agents) = self.agents {
            jobs.push((Job::Agents, self.pace.agents));
            tracing::info!(
                retry_interval = format_duration(self.pace.agents),
                expired_for = format_duration(agents.expired_for),
                include_tofu = agents.include_non_reattestable,
                "Periodic prune of expired nodes started"
            );
        }
        let clock = self.doors.consensus().clock();
        let mut timetable = Timetable::new(clock.boottime(), jobs);
        loop {
            tokio::time::sleep(timetable.wait(clock.boottime())).await;
            for job in timetable.due(clock.boottime()) {
                self.turn(job).await;
            }
        }
    }

    async fn turn(&self, job: Job) {
        let (result, failed, interval) = match job {
            Job::Entries => (
                self.prune_entries().await,
                "Failed pruning registration entries",
                self.pace.entries,
            ),
            Job::JoinTokens => (
                self.prune_join_tokens().await,
                "Failed pruning join tokens",
                self.pace.entries,
            ),
            Job::Holders => (
                self.prune_holders().await,
                "Failed pruning the ledger of holders",
                self.pace.entries,
            ),
            Job::Agents => (
                self.prune_agents().await,
                "Failed during periodic pruning of expired nodes",
                self.pace.agents,
            ),
            Job::Bundle => (
                self.prune_bundle().await,
                "Could not prune CA certificates",
                self.pace.bundle,
            ),
        };
        if let Err(error) = result {
            let retry_interval = format_duration(interval);
            tracing::error!(%error, retry_interval, "{failed}");
        }
    }

    async fn prune_entries(&self) -> Result<(), TurnError> {
        while let Some(command) = self.candidates(expired_entries) {
            let outcome = self.propose(Command::PruneEntries(command)).await?;
            for entry in entries_of(&outcome) {
                events::pruned_entry(&self.trust_domain, entry);
            }
            if outcome.removed == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn prune_join_tokens(&self) -> Result<(), TurnError> {
        while let Some(command) = self.candidates(expired_join_tokens) {
            let outcome = self.propose(Command::PruneJoinTokens(command)).await?;
            if outcome.removed == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn prune_holders(&self) -> Result<(), TurnError> {
        while let Some(command) = self.candidates(ended_holders) {
            let outcome = self.propose(Command::PruneHolders(command)).await?;
            if outcome.removed == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn prune_agents(&self) -> Result<(), TurnError> {
        let Some(mut left) = self.agents else {
            return Ok(());
        };
        if !self.doors.consensus().is_leader() {
            return Ok(());
        }
        let mut count = 0;
        let result = async {
            while let Some(command) = self.candidates(|d, now| expired_agents(d, now, left)) {
                left.batch_size -= u32::try_from(command.paths.len()).unwrap_or(left.batch_size);
                let outcome = self.propose(Command::PruneAgents(command)).await?;
                for alias in entries_of(&outcome) {
                    events::cascade_deleted(&self.trust_domain, alias);
                }
                count += outcome.removed;
                if outcome.removed == 0 {
                    break;
                }
            }
            Ok(())
        };
        let result = result.await;
        tracing::info!(count, "Pruned expired agents");
        result
    }

    async fn prune_bundle(&self) -> Result<(), TurnError> {
        let Some(command) = self.candidates(ended_authorities) else {
            return Ok(());
        };
        match self.propose(Command::PruneBundle(command)).await {
            Ok(outcome) => {
                outcome.pruned.iter().for_each(events::pruned_authority);
                if !outcome.pruned.is_empty() {
                    tracing::debug!("Expired certificates were successfully pruned from bundle");
                }
                Ok(())
            }
            Err(TurnError::Refused(Refusal::LastAuthority)) => {
                tracing::warn!(
                    "Pruning halted; all known CA certificates or all known JWT signing keys have expired"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What this node would prune now, if it leads.
    fn candidates<C>(&self, find: impl Fn(&Directory, i64) -> Option<C>) -> Option<C> {
        let consensus = self.doors.consensus();
        if !consensus.is_leader() {
            return None;
        }
        let now = consensus.clock().now_unix_ms().div_euclid(1000);
        find(&self.doors.local(), now)
    }

    async fn propose(&self, command: Command) -> Result<Outcome, TurnError> {
        let outcome = self.doors.propose(command).await?;
        outcome.accepted().map_err(TurnError::Refused)
    }
}

fn entries_of(outcome: &Outcome) -> impl Iterator<Item = &Entry> {
    outcome.entries.iter().filter_map(|r| r.entry.as_ref())
}

fn expired_entries(directory: &Directory, now: i64) -> Option<PruneEntries> {
    let expired = directory.expired_entries(now).take(CANDIDATES_MAX);
    let ids: Vec<_> = expired.cloned().collect();
    (!ids.is_empty()).then_some(PruneEntries { ids })
}

fn expired_join_tokens(directory: &Directory, now: i64) -> Option<PruneJoinTokens> {
    let expired_for = seconds(JOIN_TOKENS_KEPT);
    let ended = directory.join_tokens_ended_before(now.saturating_sub(expired_for));
    let sha256: Vec<_> = ended.take(CANDIDATES_MAX).cloned().collect();
    (!sha256.is_empty()).then_some(PruneJoinTokens {
        sha256,
        expired_for,
    })
}

fn ended_holders(directory: &Directory, now: i64) -> Option<PruneHolders> {
    if directory.cluster().feature_level < NoteHolders::FEATURE_LEVEL {
        return None;
    }
    let ended = directory.ledger().ended_before(now).take(HOLDERS_MAX);
    let keys: Vec<_> = ended.cloned().collect();
    (!keys.is_empty()).then_some(PruneHolders { keys })
}

fn expired_agents(directory: &Directory, now: i64, pruning: AgentPruning) -> Option<PruneAgents> {
    let expired_for = seconds(pruning.expired_for);
    let include_non_reattestable = pruning.include_non_reattestable;
    let limit = usize::try_from(pruning.batch_size).unwrap_or(usize::MAX);
    let paths: Vec<_> = directory
        .agents_ended_before(now.saturating_sub(expired_for))
        .filter(|agent| agent.can_reattest || include_non_reattestable)
        .take(limit.min(CANDIDATES_MAX))
        .map(|agent| agent.path.clone())
        .collect();
    (!paths.is_empty()).then_some(PruneAgents {
        paths,
        expired_for,
        include_non_reattestable,
    })
}

/// Where no end is known there is none.
fn ended_authorities(directory: &Directory, now: i64) -> Option<PruneBundle> {
    let expires_before = now.saturating_sub(BundleAuthority::KEPT_AFTER_END);
    let mut authorities = directory.federation().authorities();
    authorities
        .any(|a| a.expires_at != 0 && a.expires_at <= expires_before)
        .then_some(PruneBundle { expires_before })
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::model::{Agent, AuthorityKind, JoinToken};
    use chancery_raft_store::view::Table;
    use prost::Message;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn put(directory: &mut Directory, table: Table, key: &[u8], row: &impl Message) {
        directory
            .absorb_row(&table.key(key), Some(&row.encode_to_vec()))
            .unwrap();
    }

    fn entry(directory: &mut Directory, number: u64, expires_at: i64) {
        let id = format!("e{number:05}");
        let entry = Entry {
            id: id.clone(),
            sequence: number + 1,
            expires_at,
            ..Entry::default()
        };
        put(directory, Table::Entries, id.as_bytes(), &entry);
    }

    fn agent(directory: &mut Directory, name: &str, expires_at: i64, can_reattest: bool) {
        let path = format!("/spire/agent/x/{name}");
        let agent = Agent {
            path: path.clone(),
            sequence: u64::try_from(directory.agent_count()).unwrap(),
            serial: "1".into(),
            expires_at,
            can_reattest,
            ..Agent::default()
        };
        put(directory, Table::Agents, path.as_bytes(), &agent);
    }

    #[test]
    fn expired_entries_are_named_a_bounded_number_at_a_time() {
        let mut directory = Directory::default();
        entry(&mut directory, 1, 0);
        entry(&mut directory, 2, NOW);
        assert_eq!(expired_entries(&directory, NOW), None);
        assert_eq!(
            expired_entries(&directory, NOW + 1).unwrap().ids,
            ["e00002"]
        );
        for number in 10..10 + 2 * CANDIDATES_MAX as u64 {
            entry(&mut directory, number, NOW - 1);
        }
        let command = expired_entries(&directory, NOW).unwrap();
        assert_eq!(command.ids.len(), CANDIDATES_MAX);
        assert!(!command.ids.contains(&"e00002".to_owned()));
    }

    #[test]
    fn agents_are_named_by_how_long_they_were_away() {
        let mut directory = Directory::default();
        agent(&mut directory, "long", NOW - 100, true);
        agent(&mut directory, "longer", NOW - 200, true);
        agent(&mut directory, "short", NOW - 50, true);
        agent(&mut directory, "tofu", NOW - 300, false);
        let pruning = AgentPruning {
            expired_for: Duration::from_secs(99),
            batch_size: 1000,
            include_non_reattestable: false,
        };
        let named = |pruning| {
            let command = expired_agents(&directory, NOW, pruning)?;
            assert_eq!(command.expired_for, 99);
            let names = command.paths.into_iter();
            Some(
                names
                    .map(|path| path.rsplit('/').next().unwrap().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(named(pruning).unwrap(), ["longer", "long"]);
        let all = AgentPruning {
            include_non_reattestable: true,
            ..pruning
        };
        assert_eq!(named(all).unwrap(), ["tofu", "longer", "long"]);
        let one = AgentPruning {
            batch_size: 1,
            ..pruning
        };
        assert_eq!(named(one).unwrap(), ["longer"]);
        let none = AgentPruning {
            batch_size: 0,
            ..pruning
        };
        assert_eq!(named(none), None);
    }

    #[test]
    fn an_authority_without_an_end_has_not_ended() {
        let due = |expires_at| {
            let mut directory = Directory::default();
            let authority = BundleAuthority {
                kind: AuthorityKind::Jwt.into(),
                id: "k".into(),
                sequence: 1,
                expires_at,
                ..BundleAuthority::default()
            };
            put(&mut directory, Table::BundleAuthorities, b"k", &authority);
            ended_authorities(&directory, NOW)
        };
        let expires_before = NOW - 86_400;
        for expires_at in [1, expires_before] {
            assert_eq!(due(expires_at), Some(PruneBundle { expires_before }));
        }
        for expires_at in [0, expires_before + 1] {
            assert_eq!(due(expires_at), None);
        }
    }

    #[test]
    fn a_join_token_is_kept_for_a_day_after_its_end() {
        let mut directory = Directory::default();
        for (n, expires_at) in [(1u8, NOW), (2, NOW + 1)] {
            let token = JoinToken {
                sha256: vec![n; 32],
                expires_at,
            };
            put(&mut directory, Table::JoinTokens, &[n; 32], &token);
        }
        assert_eq!(expired_join_tokens(&directory, NOW + 86_400), None);
        let command = expired_join_tokens(&directory, NOW + 86_401).unwrap();
        assert_eq!(
            (command.sha256, command.expired_for),
            (vec![vec![1; 32]], 86_400)
        );
    }
}
