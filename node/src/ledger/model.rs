//! The trackers of three nodes over the real `apply`, with holders who ask now here, now there:
//! nodes that are behind, restart and have clocks of their own; answers that are lost and
//! commands that come late; rotations at any time.
//!
//! At every step the ledger must count whoever truly holds something. After calm renewals
//! under another authority, and where nothing restarted and no write overtook another, it must
//! count nobody else.

use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::apply::apply;
use chancery_raft_store::command::{
    AdmitMember, AnnounceMember, AuthorityName, BeginKey, FEATURE_LEVEL, Found, NoteHolders,
    PruneHolders, RecordAuthority, TellRenewals,
};
use chancery_raft_store::model::Authority;
use chancery_raft_store::view::Writes;
use chancery_raft_store::{Change, Command, Outcome, Proposal};

use super::tracker::Batch;
use super::*;
use crate::worlds::{Dice, Rows};

const START: i64 = 1_800_000_000;
const NODES: u64 = 3;
const HOLDERS: [&str; 4] = ["/spire/agent/a", "/spire/agent/ab", "/spire/agent/b", "/c"];
const ITEMS: u64 = 3;
/// Seconds that an authority lives; longer than a world.
const LIFE: i64 = 10_000_000;

struct Node {
    id: u64,
    boot: u64,
    /// Its clock is ahead of the right one by so much.
    ahead: i64,
    applied: usize,
    directory: Directory,
    tracker: Tracker,
    told: BTreeSet<Renewal>,
}

/// What a holder got.
#[derive(Clone, Debug)]
struct Got {
    authority_id: String,
    expires_at: i64,
}

/// A call under way.
#[derive(Clone, Debug)]
struct Call {
    node: usize,
    boot: u64,
    asked: Mark,
    holder: &'static str,
    place: Place,
    got: Got,
    issued: bool,
}

impl Call {
    fn document(&self) -> Document<'_> {
        Document {
            kind: AuthorityKind::X509,
            authority_id: &self.got.authority_id,
            place: self.place,
            expires_at: self.got.expires_at,
        }
    }
}

struct World {
    dice: Dice,
    now: i64,
    epoch: u64,
    rows: Rows,
    log: Vec<(Writes, Vec<Change>)>,
    head: Directory,
    nodes: Vec<Node>,
    late: Vec<Command>,
    calls: Vec<Call>,
    /// By holder and item: what it has of it, the last that it got.
    items: BTreeMap<(&'static str, u64), Got>,
    lasting: Vec<(&'static str, Got)>,
    writes: usize,
    handed_out: usize,
    /// A note may come after later ones. If those took its row away, it brings it back until the
    /// row's end.
    overtaking: bool,
}

fn authority_id(epoch: u64) -> String {
    format!("a{epoch}")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let nodes = (1..=NODES).map(|id| Node {
            id,
            boot: 1,
            ahead: dice.seconds(21) - 10,
            applied: 0,
            directory: Directory::default(),
            tracker: Tracker::default(),
            told: BTreeSet::new(),
        });
        let nodes = nodes.collect();
        let mut world = Self {
            dice,
            now: START,
            epoch: 0,
            rows: Rows::default(),
            log: Vec::new(),
            head: Directory::default(),
            nodes,
            late: Vec::new(),
            calls: Vec::new(),
            items: BTreeMap::new(),
            lasting: Vec::new(),
            writes: 0,
            handed_out: 0,
            overtaking: true,
        };
        let admission = |id: u64| AdmitMember {
            peer_address: format!("node-{id}:8443"),
            api_address: format!("node-{id}:8081"),
            spki_sha256: id.to_be_bytes().repeat(4),
            ..AdmitMember::default()
        };
        world.apply(Command::Found(Found {
            cluster_id: "cluster".into(),
            trust_domain: "example.org".into(),
            founder: Some(admission(1)),
            founding_peers: (1..=NODES).map(|id| format!("node-{id}:8443")).collect(),
            feature_level: FEATURE_LEVEL,
            ..Found::default()
        }));
        for id in 2..=NODES {
            world.apply(Command::AdmitMember(admission(id)));
        }
        for id in 1..=NODES {
            world.announce(id, 1);
        }
        world.rotate();
        for at in 0..world.nodes.len() {
            world.catch_up(at, usize::MAX);
        }
        world
    }

    fn announce(&mut self, node_id: u64, boot: u64) {
        self.apply(Command::AnnounceMember(AnnounceMember {
            node_id,
            boot,
            api_address: "x:1".into(),
            version: "1".into(),
        }));
    }

    fn apply(&mut self, command: Command) -> Outcome {
        // The leader's clock is within five seconds of the right one.
        let time_ms = (self.now + self.dice.seconds(11) - 5) * 1000;
        let proposal = Proposal {
            time_ms,
            ..Proposal::new(None, command)
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
        self.log.push((applied.writes, applied.changes));
        applied.outcome
    }

    fn catch_up(&mut self, at: usize, most: usize) {
        let node = &mut self.nodes[at];
        for (writes, changes) in self.log.iter().skip(node.applied).take(most) {
            node.directory.absorb(writes).unwrap();
            node.applied += 1;
            for change in changes {
                if let ChangeKind::DocumentsRenewed(told) = &change.kind
                    && told.node_id != node.id
                {
                    told.renewals
                        .iter()
                        .for_each(|one| node.tracker.renewed(one));
                }
            }
        }
    }

    fn rotate(&mut self) {
        self.epoch += 1;
        let name = AuthorityName {
            kind: AuthorityKind::X509.into(),
            id: authority_id(self.epoch),
        };
        let key_id = vec![7; 16];
        self.apply(Command::BeginKey(BeginKey {
            slot: "x509".into(),
            epoch: self.epoch,
            node_id: 1,
            key_id: key_id.clone(),
            key_label: "label".into(),
        }));
        self.apply(Command::RecordAuthority(RecordAuthority {
            authority: Some(Authority {
                id: name.id.clone(),
                kind: name.kind,
                slot: "x509".into(),
                epoch: self.epoch,
                key_id,
                public_key: vec![1],
                expires_at: START + LIFE,
                ..Authority::default()
            }),
        }));
        let outcome = self.apply(Command::ActivateAuthority(name));
        assert!(outcome.accepted().is_ok());
    }

    /// The authority that signs where the node is in the log.
    fn signing(&self, at: usize) -> String {
        let authorities = self.nodes[at].directory.authorities(AuthorityKind::X509);
        let mut active = authorities.iter();
        let active = active.find(|a| a.status() == AuthorityStatus::Active);
        active.unwrap().id.clone()
    }

    /// A holder asks a node; what it asked before it does not wait for any more.
    fn ask(&mut self, at: usize, holder: &'static str, place: Place) {
        // Or it does, and has what reaches it last.
        let gives_up = !self.dice.once_in(4);
        if let Place::Item(_) = place
            && gives_up
        {
            self.calls
                .retain(|c| (c.holder, c.place) != (holder, place));
        }
        let authority_id = self.signing(at);
        let ttl = 30 + self.dice.seconds(600);
        let node = &mut self.nodes[at];
        let clock = self.now + node.ahead;
        let call = Call {
            node: at,
            boot: node.boot,
            asked: node.tracker.mark(clock),
            holder,
            place,
            got: Got {
                authority_id,
                expires_at: clock + ttl,
            },
            issued: false,
        };
        self.calls.push(call);
    }

    /// A call goes one step on.
    fn step(&mut self, number: usize) {
        let mut call = self.calls.swap_remove(number);
        let node = &mut self.nodes[call.node];
        if node.boot != call.boot {
            return;
        }
        let clock = self.now + node.ahead;
        if !call.issued {
            node.tracker.issue(clock, call.holder, &[call.document()]);
            call.issued = true;
            if self.dice.once_in(2) {
                return self.calls.push(call);
            }
        }
        let documents = [call.document()];
        let asked = (call.asked, clock);
        match node.tracker.leave(asked, call.holder, &documents, false) {
            Standing::Refused => {}
            Standing::Waiting => self.calls.push(call),
            Standing::Covered => {
                node.told.extend(replaced_elsewhere(
                    &node.directory,
                    node.id,
                    asked,
                    call.holder,
                    &documents,
                ));
                self.handed_out += 1;
                match call.place {
                    Place::Item(item) => drop(self.items.insert((call.holder, item), call.got)),
                    Place::Lasting => self.lasting.push((call.holder, call.got)),
                }
            }
        }
    }

    fn next(&mut self, at: usize) -> Option<(Batch, Command)> {
        let signing = self.signing(at);
        let node = &mut self.nodes[at];
        let clock = self.now + node.ahead;
        node.tracker.stir(|_, id| id != signing);
        let batch = node.tracker.take(clock, |_, id| id == signing)?;
        let command = Command::NoteHolders(NoteHolders {
            node_id: node.id,
            boot: node.boot,
            number: batch.number,
            notes: batch.notes.clone(),
        });
        Some((batch, command))
    }

    /// Everything that a node has to say is written, and it hears of it.
    fn flush(&mut self, at: usize) {
        while let Some((batch, command)) = self.next(at) {
            let ruled: Vec<_> = self.apply(command).holders().collect();
            self.writes += 1;
            self.nodes[at].tracker.done(batch, Some(&ruled));
        }
    }

    /// One write, to which anything may happen.
    fn write(&mut self, at: usize) {
        let Some((batch, command)) = self.next(at) else {
            return;
        };
        match self.dice.roll(6) {
            0 if self.overtaking => {
                self.late.push(command);
                self.nodes[at].tracker.done(batch, None);
            }
            0 | 1 => {
                self.apply(command);
                self.nodes[at].tracker.done(batch, None);
            }
            2 => self.nodes[at].tracker.done(batch, None),
            _ => {
                let ruled: Vec<_> = self.apply(command).holders().collect();
                self.nodes[at].tracker.done(batch, Some(&ruled));
            }
        }
    }

    fn tell(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let renewals: Vec<_> = std::mem::take(&mut node.told).into_iter().collect();
        let node_id = node.id;
        if !renewals.is_empty() {
            let command = Command::TellRenewals(TellRenewals { node_id, renewals });
            match self.dice.roll(4) {
                0 => self.late.push(command),
                _ => drop(self.apply(command)),
            }
        }
    }

    fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.boot += 1;
        node.tracker = Tracker::default();
        node.told.clear();
        let (id, boot) = (node.id, node.boot);
        self.announce(id, boot);
    }

    /// Who holds something of the authority.
    fn truly(&self, authority_id: &str) -> BTreeSet<&'static str> {
        let items = self.items.iter().map(|((holder, _), got)| (*holder, got));
        let all = items.chain(self.lasting.iter().map(|(holder, got)| (*holder, got)));
        all.filter(|(_, got)| got.authority_id == authority_id && got.expires_at > self.now)
            .map(|(holder, _)| holder)
            .collect()
    }

    fn counted(&self, authority_id: &str, now: i64) -> BTreeSet<String> {
        let ledger = self.head.ledger();
        let named = ledger.named_after(AuthorityKind::X509, authority_id, "", now);
        let named: BTreeSet<_> = named.map(|(path, _)| path.to_owned()).collect();
        let holders = ledger.holders(AuthorityKind::X509, authority_id, now);
        assert_eq!(holders.count, named.len() as u64);
        named
    }

    fn judge(&self) {
        for epoch in 1..=self.epoch {
            let id = authority_id(epoch);
            let counted = self.counted(&id, self.now);
            for holder in self.truly(&id) {
                assert!(
                    counted.contains(holder),
                    "{holder} holds something of {id}, and is not counted"
                );
            }
        }
        let rows = self.head.cluster().holder_rows;
        assert_eq!(rows, self.head.ledger().len() as u64);
    }

    fn random_step(&mut self, restarts: bool, lasting: bool) {
        let at = usize::try_from(self.dice.roll(NODES)).unwrap();
        match self.dice.roll(24) {
            0..=6 => {
                let holder = HOLDERS[usize::try_from(self.dice.roll(4)).unwrap()];
                let item = self.dice.roll(ITEMS + 1);
                match item {
                    ITEMS if lasting => self.ask(at, holder, Place::Lasting),
                    item => self.ask(at, holder, Place::Item(item % ITEMS)),
                }
            }
            7..=12 if !self.calls.is_empty() => {
                let number = self.dice.roll(self.calls.len() as u64);
                self.step(usize::try_from(number).unwrap());
            }
            13..=15 => self.write(at),
            16 => self.tell(at),
            17 | 18 => {
                let most = usize::try_from(self.dice.roll(20)).unwrap();
                self.catch_up(at, most);
            }
            19 => self.now += self.dice.seconds(40),
            20 if self.dice.once_in(3) => self.rotate(),
            21 if !self.late.is_empty() => {
                let number = self.dice.roll(self.late.len() as u64);
                let command = self.late.swap_remove(usize::try_from(number).unwrap());
                self.apply(command);
            }
            22 if restarts && self.dice.once_in(4) => self.restart(at),
            23 => {
                let clock = self.now + self.nodes[at].ahead;
                self.nodes[at].tracker.sweep(clock);
                let ended = self.head.ledger().ended_before(clock);
                let keys: Vec<_> = ended.take(5).cloned().collect();
                self.apply(Command::PruneHolders(PruneHolders { keys }));
            }
            _ => {}
        }
        self.judge();
    }

    /// All that is under way comes to its end, and everybody is up to date.
    fn calm(&mut self) {
        for _ in 0..3 {
            for command in std::mem::take(&mut self.late) {
                self.apply(command);
            }
            for at in 0..self.nodes.len() {
                self.flush(at);
                let node = &mut self.nodes[at];
                let renewals: Vec<_> = std::mem::take(&mut node.told).into_iter().collect();
                let node_id = node.id;
                self.apply(Command::TellRenewals(TellRenewals { node_id, renewals }));
            }
            for at in 0..self.nodes.len() {
                self.catch_up(at, usize::MAX);
            }
            while let Some(number) = self.calls.len().checked_sub(1) {
                let at = self.calls[number].node;
                self.flush(at);
                self.step(number);
            }
        }
        self.judge();
    }

    /// Every item of every holder once, each at some node.
    fn renew_all(&mut self) {
        for holder in HOLDERS {
            for item in 0..ITEMS {
                let at = usize::try_from(self.dice.roll(NODES)).unwrap();
                self.ask(at, holder, Place::Item(item));
            }
        }
    }
}

#[test]
fn nobody_is_ever_missing() {
    let mut handed_out = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.random_step(true, true);
        }
        handed_out += world.handed_out;
    }
    assert!(handed_out > 100 * 20, "{handed_out}");
}

#[test]
fn after_calm_renewals_nobody_else_is_counted() {
    for seed in 1_000..1_100 {
        let mut world = World::new(seed);
        world.overtaking = false;
        for _ in 0..300 {
            world.random_step(false, false);
        }
        world.calm();
        world.now += 2 * tracker::CLOCKS_APART;
        world.rotate();
        world.calm();
        world.renew_all();
        world.calm();
        for epoch in 1..=world.epoch {
            let id = authority_id(epoch);
            let truly = world.truly(&id);
            // A node whose clock is ahead leaves the last seconds of a row to time.
            let counted = world.counted(&id, world.now + tracker::CLOCKS_APART);
            assert!(counted.iter().eq(truly.iter()), "seed {seed}, {id}");
            assert_eq!(
                truly.len(),
                if epoch == world.epoch {
                    HOLDERS.len()
                } else {
                    0
                }
            );
        }
    }
}

#[test]
fn renewals_are_hardly_ever_written() {
    let mut world = World::new(7);
    for _ in 0..20 {
        for holder in HOLDERS {
            for item in 0..ITEMS {
                world.ask(0, holder, Place::Item(item));
            }
        }
        world.calm();
        world.now += 1_800;
    }
    assert_eq!(world.handed_out, 20 * HOLDERS.len() * 3);
    assert_eq!(
        world.writes,
        HOLDERS.len(),
        "ten hours, and each holder was noted once"
    );
}
