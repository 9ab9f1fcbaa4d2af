//! The planners of several nodes over the real `apply`, with everything in their way that a
//! cluster has: leaders that change or only think that they lead, nodes that are behind, away
//! or restarted, answers that are lost and commands that come late.
//!
//! Every fourth step of time is calm: whoever is up is up to date, one leads, nothing is lost.
//! That is what a cluster gives in a sixth of an authority's life.

use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::apply::apply;
use chancery_raft_store::command::{
    AbandonKey, AdmitMember, BeginKey, ClockTold, FEATURE_LEVEL, Found, ProveAuthority,
    PruneAuthorities, RecordAuthority, RetireAuthorities, SetAuthorityScope, SetIssuanceMode,
};
use chancery_raft_store::model::IssuanceMode;
use chancery_raft_store::view::Writes;
use chancery_raft_store::{Command, Directory, Proposal};
use proptest::prelude::*;

use super::*;
use crate::worlds::{Dice, Rows};

const LIFE: i64 = 86_400;
const DAY: i64 = 86_400;
/// Time passes in so many steps a life.
const STEPS: i64 = 60;
const START: i64 = 1_800_000_000;
const NODES: u64 = 3;

#[derive(Default)]
struct Node {
    directory: Directory,
    applied: usize,
    usable: BTreeSet<String>,
    /// Ids of authorities that certified an intermediate which it holds.
    intermediates: BTreeSet<String>,
    /// Ids of keys in its memory.
    keys: BTreeSet<Vec<u8>>,
    up_since: i64,
    away_since: Option<i64>,
    restarts: Vec<i64>,
}

impl Node {
    fn with_intermediates(&self) -> bool {
        self.directory.cluster().issuance_mode() == IssuanceMode::Intermediate
    }

    /// As `Custody` has it: under an authority for certificates only with an intermediate,
    /// where intermediates sign.
    fn can_sign(&self, id: &str) -> bool {
        let jwt = self.directory.authorities(AuthorityKind::Jwt);
        !self.with_intermediates()
            || jwt.iter().any(|a| a.id == id)
            || self.intermediates.contains(id)
    }
}

/// What a planner knew when it let an authority sign.
#[derive(Clone)]
struct Known {
    required: BTreeSet<u64>,
    /// The one that was to be followed, if it was still valid.
    active: Option<Authority>,
    next: Authority,
    /// One outside of the scope signs until then.
    moves: bool,
    at: i64,
}

/// Whose the keys are in a model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Of one token.
    Shared,
    /// Each node's memory.
    Own,
    /// Of a token, shared at one time and not at another.
    Moving,
}

struct Cluster {
    keys: Keys,
    dice: Dice,
    now: i64,
    rows: Rows,
    log: Vec<Writes>,
    /// The state at the end of the log.
    head: Directory,
    nodes: BTreeMap<u64, Node>,
    leader: u64,
    /// Commands whose proposers have given up waiting.
    late: Vec<(Command, Option<Known>)>,
    most: usize,
    rotations: usize,
    pruned: usize,
    /// When the scope became another.
    moved: Vec<i64>,
    /// Ends of such changes.
    arrived: usize,
}

impl Cluster {
    fn new(seed: u64, keys: Keys) -> Self {
        let node = |_| Node {
            up_since: START,
            ..Node::default()
        };
        let mut cluster = Self {
            keys,
            dice: Dice(seed),
            now: START,
            rows: Rows::default(),
            log: Vec::new(),
            head: Directory::default(),
            nodes: (1..=NODES).map(|id| (id, node(id))).collect(),
            leader: 1,
            late: Vec::new(),
            most: 0,
            rotations: 0,
            pruned: 0,
            moved: Vec::new(),
            arrived: 0,
        };
        let admission = |id: u64| AdmitMember {
            peer_address: format!("node-{id}:8443"),
            api_address: format!("node-{id}:8081"),
            spki_sha256: id.to_be_bytes().repeat(4),
            ..AdmitMember::default()
        };
        cluster.apply(
            Command::Found(Found {
                cluster_id: "cluster".into(),
                trust_domain: "example.org".into(),
                founder: Some(admission(1)),
                founding_peers: (1..=NODES).map(|id| format!("node-{id}:8443")).collect(),
                feature_level: FEATURE_LEVEL,
                authority_scope: match keys {
                    Keys::Moving => AuthorityScope::Shared.into(),
                    // As clusters of before feature level 4 are.
                    Keys::Shared | Keys::Own => 0,
                },
                ..Found::default()
            }),
            None,
        );
        for id in 2..=NODES {
            cluster.apply(Command::AdmitMember(admission(id)), None);
        }
        cluster
    }

    fn authorities(&self) -> impl Iterator<Item = std::sync::Arc<Authority>> + '_ {
        KINDS.into_iter().flat_map(|k| self.head.authorities(k))
    }

    /// The log takes a command; what must hold is looked at.
    fn apply(&mut self, command: Command, known: Option<Known>) -> bool {
        let before: Vec<_> = self.authorities().collect();
        let clock_ms = self.now * 1000;
        // As with every step of more than an hour.
        let clocks = (1..=NODES).map(|node_id| ClockTold { node_id, clock_ms });
        let proposal = Proposal {
            time_ms: clock_ms,
            clocks: clocks.collect(),
            ..Proposal::new(None, command.clone())
        };
        let index = self.log.len() as u64 + 1;
        let applied = apply(&self.rows, &Writes::new(), index, &proposal).unwrap();
        for (key, value) in &applied.writes {
            match value {
                Some(value) => self.rows.0.insert(key.clone(), value.clone()),
                None => self.rows.0.remove(key),
            };
        }
        self.head.absorb(&applied.writes).unwrap();
        self.log.push(applied.writes);
        let accepted = applied.outcome.accepted().is_ok();
        if accepted {
            match &command {
                Command::ActivateAuthority(_) => self.judge_activation(&known.unwrap()),
                Command::PruneAuthorities(_) => self.judge_pruning(&before),
                Command::RetireAuthorities(c) => self.judge_retirement(c),
                _ => {}
            }
        }
        self.judge_state(&before);
        accepted
    }

    fn judge_activation(&mut self, known: &Known) {
        self.rotations += 1;
        let signs = self.authorities().find(|a| a.id == known.next.id).unwrap();
        if self.head.cluster().issuance_mode() == IssuanceMode::Intermediate
            && signs.kind() == AuthorityKind::X509
        {
            assert!(!signs.proved_by.is_empty(), "nobody got an intermediate");
        }
        if known.next.node_id != 0 {
            return;
        }
        let unproved: Vec<_> = known
            .required
            .iter()
            .filter(|id| !known.next.proved_by.contains(id))
            .collect();
        if known.active.is_none() && !known.moves {
            assert!(!known.next.proved_by.is_empty(), "nobody proved it");
            return;
        }
        assert!(unproved.is_empty(), "{unproved:?} did not prove it");
        // A certificate begins ten seconds before it is made.
        let backdated = if known.next.kind() == AuthorityKind::Jwt {
            0
        } else {
            10
        };
        assert!(
            known.at >= known.next.issued_at + backdated + 15,
            "unknown to agents"
        );
        if let Some(active) = &known.active {
            let due = active.expires_at - LIFE / 6;
            // One that a change of scope left unused.
            let unused = known.next.expires_at - LIFE / 2;
            assert!(known.at >= due.min(unused), "early");
        }
    }

    /// Whoever is there signs with another one already.
    fn judge_retirement(&mut self, command: &RetireAuthorities) {
        let all: Vec<_> = self.authorities().collect();
        let kind = command.kind();
        let signs = |node: u64| {
            let mut of_kind = all.iter().filter(|a| a.kind() == kind && a.node_id == node);
            of_kind.any(|a| a.status() == AuthorityStatus::Active)
        };
        match self.head.cluster().authority_scope() {
            AuthorityScope::Shared => assert!(signs(0), "nobody took over"),
            _ => assert!((1..=NODES).any(signs), "nobody took over"),
        }
        self.arrived += 1;
    }

    fn judge_pruning(&mut self, before: &[std::sync::Arc<Authority>]) {
        for gone in before {
            let left = self
                .authorities()
                .any(|a| a.kind == gone.kind && a.id == gone.id);
            if !left {
                assert!(gone.expires_at + DAY <= self.now, "pruned early: {gone:?}");
                self.pruned += 1;
            }
        }
    }

    fn judge_state(&mut self, before: &[std::sync::Arc<Authority>]) {
        let all: Vec<_> = self.authorities().collect();
        let mut active = BTreeMap::new();
        for authority in &all {
            if authority.status() == AuthorityStatus::Active {
                let other = active.insert(authority.slot.clone(), authority.epoch);
                assert_eq!(other, None, "two sign in {}", authority.slot);
            }
        }
        for earlier in before {
            if earlier.status() == AuthorityStatus::Active
                && let Some(now) = active.get(&earlier.slot)
            {
                assert!(*now >= earlier.epoch, "{} went back", earlier.slot);
            }
        }
        for kind in KINDS {
            let trusted = |a: &&std::sync::Arc<Authority>| {
                a.kind() == kind && a.status() != AuthorityStatus::Revoked
            };
            let had = before.iter().any(|a| trusted(&a));
            assert!(
                !had || all.iter().any(|a| trusted(&a)),
                "no {kind:?} is left"
            );
        }
        self.most = self.most.max(all.len());
    }

    fn scene(&self, id: u64, believes: bool) -> Scene {
        let node = &self.nodes[&id];
        let seen = self
            .nodes
            .iter()
            .filter_map(|(other, n)| match n.away_since {
                None => Some((*other, 0)),
                // Whoever started since has never seen it.
                Some(away) => (away >= node.up_since).then_some((*other, self.now - away)),
            });
        let slots = KINDS.map(|k| [None, Some(id)].map(|node| slot(k, node)));
        let token = self.keys != Keys::Own;
        let authorities: Vec<Authority> = {
            let all = KINDS.iter().flat_map(|k| node.directory.authorities(*k));
            all.map(|a| (*a).clone()).collect()
        };
        let own = authorities.iter().filter(|a| !token && a.node_id == id);
        let lost = own.filter(|a| !node.keys.contains(&a.key_id));
        Scene {
            me: id,
            lost: lost.map(|a| a.id.clone()).collect(),
            leader: believes,
            scope: node.directory.cluster().authority_scope(),
            token,
            tokenless: BTreeSet::new(),
            without_jwt: false,
            prunes: true,
            now: self.now,
            up_for: self.now - node.up_since,
            scope_for: self.now - self.moved.last().map_or(0, |at| *at).max(node.up_since),
            authorities,
            intents: slots
                .iter()
                .flatten()
                .filter_map(|s| node.directory.intent(s).cloned())
                .collect(),
            seen: seen.collect(),
            usable: node
                .usable
                .iter()
                .filter(|id| node.can_sign(id))
                .cloned()
                .collect(),
        }
    }

    fn catch_up(&mut self, id: u64, until: usize) {
        let node = self.nodes.get_mut(&id).unwrap();
        for writes in &self.log[node.applied..until.max(node.applied)] {
            node.directory.absorb(writes).unwrap();
        }
        node.applied = node.applied.max(until);
    }

    /// What a node does in one look at what it knows.
    fn turn(&mut self, id: u64, believes: bool, calm: bool) {
        let scene = self.scene(id, believes);
        for step in plan(&scene) {
            let Some(command) = self.carry_out(id, &step) else {
                continue;
            };
            let known = match &step {
                Step::Activate { kind, id: next } => {
                    let next = scene.authorities.iter().rfind(|a| a.id == *next).unwrap();
                    let of_scope = Slot::of(&scene, *kind);
                    let slot = if of_scope.name == next.slot {
                        of_scope
                    } else {
                        Slot::outside(&scene, *kind)
                    };
                    Some(Known {
                        moves: slot.before.is_some(),
                        required: scene.seen_within(600).collect(),
                        active: slot.active().cloned(),
                        next: next.clone(),
                        at: scene.now,
                    })
                }
                _ => None,
            };
            let fate = if calm { 0 } else { self.dice.roll(4) };
            match fate {
                // It never left.
                1 => {}
                // It is applied when nobody expects it any more.
                2 => self.late.push((command, known)),
                _ => {
                    let accepted = self.apply(command.clone(), known);
                    // With fate 3 the answer is lost.
                    if accepted && fate == 0 {
                        self.answered(id, &command);
                    }
                }
            }
        }
    }

    fn answered(&mut self, id: u64, command: &Command) {
        if let Command::RecordAuthority(RecordAuthority { authority: Some(a) }) = command {
            self.nodes.get_mut(&id).unwrap().usable.insert(a.id.clone());
        }
    }

    fn carry_out(&mut self, me: u64, step: &Step) -> Option<Command> {
        let now = self.now;
        let name = |kind: &AuthorityKind, id: &str| AuthorityName {
            kind: (*kind).into(),
            id: id.into(),
        };
        match step {
            Step::Begin { slot, epoch, .. } => Some(Command::BeginKey(BeginKey {
                slot: slot.clone(),
                epoch: *epoch,
                node_id: me,
                key_id: (0..2)
                    .flat_map(|_| self.dice.roll(u64::MAX).to_be_bytes())
                    .collect(),
                key_label: format!("chancery/cluster/{slot}/{epoch}"),
            })),
            Step::Abandon { slot, epoch } => Some(Command::AbandonKey(AbandonKey {
                slot: slot.clone(),
                epoch: *epoch,
            })),
            Step::Make { kind, intent } => {
                let node = self.nodes.get_mut(&me).unwrap();
                node.keys.insert(intent.key_id.clone());
                let backdated = if *kind == AuthorityKind::Jwt { 0 } else { 10 };
                Some(Command::RecordAuthority(RecordAuthority {
                    authority: Some(Authority {
                        kind: (*kind).into(),
                        id: format!("{}/{}", intent.slot, intent.epoch),
                        slot: intent.slot.clone(),
                        epoch: intent.epoch,
                        key_id: intent.key_id.clone(),
                        node_id: if KeyIntent::is_of_one_node(&intent.slot) {
                            me
                        } else {
                            0
                        },
                        public_key: vec![1],
                        issued_at: now - backdated,
                        expires_at: now + LIFE - backdated,
                        ..Authority::default()
                    }),
                }))
            }
            Step::Prove { kind, id } => {
                let node = self.nodes.get_mut(&me).unwrap();
                let authorities = node.directory.authorities(*kind);
                let authority = authorities.iter().find(|a| a.id == *id).unwrap();
                if self.keys == Keys::Own && !node.keys.contains(&authority.key_id) {
                    return None;
                }
                node.usable.insert(id.clone());
                let with_intermediate = node.with_intermediates() && *kind == AuthorityKind::X509;
                if with_intermediate {
                    node.intermediates.insert(id.clone());
                }
                (!authority.proved_by.contains(&me)).then(|| {
                    Command::ProveAuthority(ProveAuthority {
                        authority: Some(name(kind, id)),
                        node_id: me,
                        with_intermediate,
                    })
                })
            }
            Step::Activate { kind, id } => Some(Command::ActivateAuthority(name(kind, id))),
            Step::Retire { kind, ids } => Some(Command::RetireAuthorities(RetireAuthorities {
                kind: (*kind).into(),
                ids: ids.clone(),
            })),
            Step::Prune { authorities } => Some(Command::PruneAuthorities(PruneAuthorities {
                authorities: authorities.clone(),
            })),
        }
    }

    fn restart(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.usable.clear();
        node.intermediates.clear();
        node.keys.clear();
        node.away_since = None;
        node.up_since = self.now;
        node.restarts.push(self.now);
    }

    fn up(&self) -> Vec<u64> {
        let up = self.nodes.iter().filter(|(_, n)| n.away_since.is_none());
        up.map(|(id, _)| *id).collect()
    }

    /// What happens to nodes.
    fn trouble(&mut self) {
        for id in 1..=NODES {
            let away = self.nodes[&id].away_since.is_some();
            if away && self.dice.once_in(12) {
                self.restart(id);
            } else if !away && self.dice.once_in(40) {
                // Only for a moment, or for long; one is always there.
                if self.up().len() > 1 && self.dice.once_in(2) {
                    let now = self.now;
                    self.nodes.get_mut(&id).unwrap().away_since = Some(now);
                } else {
                    self.restart(id);
                }
            }
        }
        if self.dice.once_in(60) {
            let mode = i32::from(self.dice.once_in(2));
            self.apply(Command::SetIssuanceMode(SetIssuanceMode { mode }), None);
        }
        if self.keys == Keys::Moving && self.dice.once_in(60) {
            let scope = match self.head.cluster().authority_scope() {
                AuthorityScope::Shared => AuthorityScope::PerNode,
                _ => AuthorityScope::Shared,
            };
            let scope = scope.into();
            self.apply(
                Command::SetAuthorityScope(SetAuthorityScope { scope }),
                None,
            );
            self.moved.push(self.now);
        }
        let up = self.up();
        if !up.contains(&self.leader) || self.dice.once_in(5) {
            self.leader = up[self.dice.roll(up.len() as u64) as usize];
        }
    }

    fn step(&mut self, number: i64) {
        self.now += LIFE / STEPS;
        let calm = number % 4 == 0;
        if !calm {
            self.trouble();
        }
        for _ in 0..if calm { 4 } else { 1 } {
            for id in self.up() {
                let lag = if calm { 0 } else { self.dice.roll(3) as usize };
                self.catch_up(id, self.log.len().saturating_sub(lag));
                let believes = id == self.leader || (!calm && self.dice.once_in(4));
                self.turn(id, believes, calm);
            }
        }
        while !self.late.is_empty() && self.dice.once_in(3) {
            let at = self.dice.roll(self.late.len() as u64) as usize;
            let (command, known) = self.late.swap_remove(at);
            self.apply(command, known);
        }
    }

    /// From the first calm step on there is one that signs, and not more than are needed.
    fn judge_service(&self) {
        let all: Vec<_> = self.authorities().collect();
        for kind in KINDS {
            let signing = |slot: String, usable: Option<&BTreeSet<String>>| {
                all.iter().any(|a| {
                    a.slot == slot
                        && a.status() == AuthorityStatus::Active
                        && a.expires_at > self.now
                        && usable.is_none_or(|ids| ids.contains(&a.id))
                })
            };
            if self.keys == Keys::Shared {
                assert!(
                    signing(slot(kind, None), None),
                    "no {kind:?} authority signs at {} of {all:#?}",
                    self.now - START
                );
            }
            for (id, node) in &self.nodes {
                // It has had a calm step; and another one to let sign what agents had to learn of,
                // where its keys have outlasted its absence and end now.
                let steps = if self.keys == Keys::Moving { 9 } else { 5 };
                let settled = self.now - node.up_since >= steps * LIFE / STEPS;
                if node.away_since.is_some() || !settled {
                    continue;
                }
                let own = signing(slot(kind, Some(*id)), Some(&node.usable));
                let signs = match self.keys {
                    Keys::Shared => true,
                    Keys::Own => own,
                    Keys::Moving => own || signing(slot(kind, None), Some(&node.usable)),
                };
                assert!(
                    signs,
                    "no {kind:?} authority signs on node {id} at {}, moved at {:?}: {all:#?}",
                    self.now - START,
                    self.moved
                );
            }
        }
        let lately = |at: &&i64| self.now - **at <= 3 * LIFE;
        let of_all = 5 * NODES as usize;
        let bound = match self.keys {
            // Within two lives two and a half are made of each kind, one more in time of need.
            Keys::Shared => 2 * 5,
            Keys::Own => {
                let restarts = self.nodes.values().flat_map(|n| &n.restarts);
                2 * (of_all + 2 * restarts.filter(lately).count())
            }
            Keys::Moving => 2 * (of_all + 5 * self.moved.iter().filter(lately).count()),
        };
        assert!(
            all.len() <= bound,
            "{} authorities, {bound} at most",
            all.len()
        );
    }

    /// A change of scope comes to its end although nodes come and go.
    fn judge_arrival(&self) {
        let scope = self.head.cluster().authority_scope();
        let moved = self.moved.last().copied().unwrap_or(START);
        if self.now - moved < 20 * LIFE / STEPS {
            return;
        }
        let left: Vec<_> = self
            .authorities()
            .filter(|a| (a.node_id != 0) != (scope == AuthorityScope::PerNode))
            .filter(|a| {
                let status = a.status();
                matches!(status, AuthorityStatus::Active | AuthorityStatus::Prepared)
            })
            .collect();
        assert!(
            left.is_empty(),
            "{scope:?} since {}: {left:#?}",
            moved - START
        );
    }
}

fn lives(seed: u64, keys: Keys, lives: i64) -> Cluster {
    let mut cluster = Cluster::new(seed, keys);
    for number in 0..lives * STEPS {
        cluster.step(number);
        cluster.judge_service();
        if keys == Keys::Moving {
            cluster.judge_arrival();
        }
    }
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shared_authorities_follow_each_other_whatever_happens(seed: u64) {
        let cluster = lives(seed, Keys::Shared, 8);
        // Eight lives of five sixths each, both kinds.
        prop_assert!(cluster.rotations >= 2 * 8, "{} rotations", cluster.rotations);
        prop_assert!(cluster.pruned >= 2 * 5, "{} pruned", cluster.pruned);
    }

    #[test]
    fn authorities_of_each_node_follow_each_other_whatever_happens(seed: u64) {
        let cluster = lives(seed, Keys::Own, 8);
        prop_assert!(cluster.pruned >= 2 * 5, "{} pruned", cluster.pruned);
    }

    #[test]
    fn nodes_share_authorities_and_have_their_own_by_turns_whatever_happens(seed: u64) {
        let cluster = lives(seed, Keys::Moving, 8);
        let long_ago = |at: &i64| cluster.now - at >= 20 * LIFE / STEPS;
        let moved = cluster.moved.iter().filter(|at| long_ago(at)).count();
        prop_assert!(moved == 0 || cluster.arrived > 0, "moved {moved} times, never arrived");
    }
}
