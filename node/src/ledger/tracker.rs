//! What this process handed out and nobody replaced yet, as a pure structure.
//!
//! Why it exists: the log keeps pairs of a holder and an authority, and a document a minute must
//! not be a write a minute. So what a pair consists of is kept here, in memory, and the log hears
//! of a pair when it begins, when its end moves by much, and when it is over.
//!
//! Promises: a document is covered only while the log certainly has its pair for at least as long
//! as it lives; a pair is taken away only when every document of it has ended or was surely
//! replaced. What is doubtful stays.
//! Refuses to know: the log, the clock, tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chancery_raft_store::Refusal;
use chancery_raft_store::command::{AuthorityName, HolderNote, NoteHolders, Renewal};
use chancery_raft_store::model::AuthorityKind;

/// Seconds that a pair of an authority that signs is noted for beyond the end of its documents:
/// renewals cost a write once in that time.
pub(super) const RESERVE: i64 = 12 * 3_600;
/// Seconds that the clocks of two nodes which sign may be apart: each is within 10 s of the
/// median. And one that rounding takes.
pub(super) const CLOCKS_APART: i64 = 21;
/// Documents that are told apart. Those beyond end by time alone.
const ITEMS_MAX: usize = 2_000_000;
/// Pairs that are followed. Holders beyond are not named.
const PAIRS_MAX: usize = 500_000;
/// Bytes of the paths of one command.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// A place in the order in which this process was asked for documents and handed them out.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    order: u64,
    /// Unix second.
    at: i64,
}

impl Mark {
    /// Unix second at which it was asked.
    pub(super) fn at(&self) -> i64 {
        self.at
    }
}

/// Whether another document can take a document's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The next one of this number for the same holder does.
    Item(u64),
    /// None does: there may be any number of them.
    Lasting,
}

/// What is about to be handed out.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// Of its authority.
    pub kind: AuthorityKind,
    /// The authority that is in the bundle.
    pub authority_id: &'a str,
    /// What it takes the place of.
    pub place: Place,
    /// Unix seconds.
    pub expires_at: i64,
}

impl Document<'_> {
    /// When it has ended by every clock.
    fn over(&self) -> i64 {
        self.expires_at.saturating_add(CLOCKS_APART)
    }
}

/// Whether documents may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The log has their pairs.
    Covered,
    /// It will have them.
    Waiting,
    /// It refused one: the authority is in the bundle no more.
    Refused,
}

/// A holder and an authority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    kind: AuthorityKind,
    holder: Arc<str>,
    authority_id: Arc<str>,
}

/// One of the documents that can be replaced, or several of which the holder has one.
#[derive(Clone, Copy, Debug)]
struct Issued {
    /// When the last has ended by every clock.
    over: i64,
    /// When the last was issued, or since then left.
    mark: Mark,
}

#[derive(Clone, Debug, Default)]
struct Held {
    items: BTreeMap<u64, Issued>,
    /// When the last document that nothing replaces has ended by every clock.
    lasting: i64,
    /// The log has the pair until then, or longer.
    noted: i64,
    /// What is on its way to the log.
    sent: Option<i64>,
    /// Since its authority stopped to sign, the pair was noted with its own end.
    settled: bool,
    /// Whether the log took what was last sent is not known.
    doubtful: bool,
}

impl Held {
    /// Until when the log has the pair, whatever becomes of what is on its way.
    fn surely(&self) -> i64 {
        self.sent.map_or(self.noted, |sent| sent.min(self.noted))
    }

    /// When the last document has ended by every clock; 0 if all have.
    fn over(&self, now: i64) -> i64 {
        let items = self.items.values().map(|issued| issued.over);
        let left = items.chain([self.lasting]).filter(|over| *over > now);
        left.max().unwrap_or(0)
    }
}

/// What is noted next, and of what pairs.
#[derive(Debug)]
pub(super) struct Batch {
    /// Counts from 1.
    pub(super) number: u64,
    /// As the command has them.
    pub(super) notes: Vec<HolderNote>,
    pairs: Vec<Pair>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tracker {
    order: u64,
    number: u64,
    pairs: BTreeMap<Pair, Held>,
    /// Pairs of which the log may have to hear.
    stirred: BTreeSet<Pair>,
    items: usize,
}

impl Tracker {
    /// Somebody asks for documents at this Unix second.
    pub fn mark(&mut self, at: i64) -> Mark {
        self.order += 1;
        Mark {
            order: self.order,
            at,
        }
    }

    /// Takes in what is about to be handed out to `holder`. It takes nobody's place yet: that it
    /// leaves is not certain.
    pub(super) fn issue(&mut self, at: i64, holder: &str, documents: &[Document<'_>]) {
        let mark = self.mark(at);
        let holder: Arc<str> = holder.into();
        for document in documents {
            let pair = self.pair(document, &holder);
            let over = document.over();
            // Items of holders without a name would take each other's place.
            let full = self.items >= ITEMS_MAX || pair.holder.is_empty();
            let held = self.pairs.entry(pair.clone()).or_default();
            match document.place {
                Place::Item(item) if !full || held.items.contains_key(&item) => {
                    let before = held.items.get(&item);
                    self.items += usize::from(before.is_none());
                    // The holder may keep the one before, if this one does not reach it.
                    let over = before.map_or(over, |b| b.over.max(over));
                    held.items.insert(item, Issued { over, mark });
                }
                Place::Item(_) | Place::Lasting => held.lasting = held.lasting.max(over),
            }
            if held.surely() < over {
                self.stirred.insert(pair);
            }
        }
    }

    /// The documents, which were issued before, leave now: those that had left when they were
    /// asked for are replaced. With `owed` they leave whether or not the log has their pairs.
    pub(super) fn leave(
        &mut self,
        (asked, at): (Mark, i64),
        holder: &str,
        documents: &[Document<'_>],
        owed: bool,
    ) -> Standing {
        if !owed && self.standing(holder, documents) == Standing::Refused {
            return Standing::Refused;
        }
        // Since they were issued newer ones may have taken their place.
        self.issue(at, holder, documents);
        let standing = self.standing(holder, documents);
        if owed || standing == Standing::Covered {
            let holder: Arc<str> = holder.into();
            for document in documents {
                let pair = self.pair(document, &holder);
                if let Place::Item(item) = document.place {
                    self.replace(&pair, item, |issued| issued.mark.order < asked.order);
                }
            }
        }
        standing
    }

    /// The pair under which a document is followed.
    fn pair(&self, document: &Document<'_>, holder: &Arc<str>) -> Pair {
        let pair = Pair {
            kind: document.kind,
            holder: Arc::clone(holder),
            authority_id: document.authority_id.into(),
        };
        if self.pairs.len() < PAIRS_MAX || self.pairs.contains_key(&pair) {
            return pair;
        }
        Pair {
            holder: "".into(),
            ..pair
        }
    }

    /// The item is no longer of any other pair of the holder, where `replaced` says so.
    fn replace(&mut self, newer: &Pair, item: u64, replaced: impl Fn(&Issued) -> bool) {
        let first = Pair {
            authority_id: "".into(),
            ..newer.clone()
        };
        let same = |pair: &Pair| pair.kind == newer.kind && pair.holder == newer.holder;
        let pairs = self.pairs.range_mut(first..);
        for (pair, held) in pairs.take_while(|(pair, _)| same(pair)) {
            let over = held.items.get(&item).is_some_and(&replaced);
            if over && pair.authority_id != newer.authority_id {
                held.items.remove(&item);
                self.items -= 1;
                if held.items.is_empty() {
                    self.stirred.insert(pair.clone());
                }
            }
        }
    }

    /// Another node handed out a newer document. What this one handed out is replaced if that
    /// was surely earlier.
    pub fn renewed(&mut self, renewal: &Renewal) {
        let name = renewal.authority.clone().unwrap_or_default();
        let Ok(kind) = AuthorityKind::try_from(name.kind) else {
            return;
        };
        let newer = Pair {
            kind,
            holder: renewal.path.as_str().into(),
            authority_id: name.id.into(),
        };
        let asked_at = renewal.asked_at;
        self.replace(&newer, renewal.item, |issued| {
            asked_at > issued.mark.at.saturating_add(CLOCKS_APART)
        });
    }

    /// The authorities that sign are now these: pairs of others are to be noted with their own
    /// end.
    pub(super) fn stir(&mut self, concerns: impl Fn(AuthorityKind, &str) -> bool) {
        let pairs = self.pairs.keys();
        let concerned = pairs.filter(|pair| concerns(pair.kind, &pair.authority_id));
        self.stirred.extend(concerned.cloned());
    }

    /// Looks for pairs whose documents have ended. Costs what there is.
    pub(super) fn sweep(&mut self, now: i64) {
        for (pair, held) in &mut self.pairs {
            let before = held.items.len();
            held.items.retain(|_, issued| issued.over > now);
            self.items -= before - held.items.len();
            if held.over(now) == 0 {
                self.stirred.insert(pair.clone());
            }
        }
    }

    /// What the log is to hear next, if anything; nothing else is taken before it is
    /// [`Tracker::done`].
    pub(super) fn take(
        &mut self,
        now: i64,
        signs: impl Fn(AuthorityKind, &str) -> bool,
    ) -> Option<Batch> {
        let mut batch = Batch {
            number: self.number + 1,
            notes: Vec::new(),
            pairs: Vec::new(),
        };
        let mut bytes = 0;
        while batch.notes.len() < NoteHolders::NOTES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(pair) = self.stirred.pop_first() else {
                break;
            };
            let Some(held) = self.pairs.get_mut(&pair) else {
                continue;
            };
            let over = held.over(now);
            let until = if over == 0 {
                if held.noted <= now && !held.doubtful {
                    // The log has nothing of it that has not ended.
                    self.items -= held.items.len();
                    self.pairs.remove(&pair);
                    continue;
                }
                0
            } else if signs(pair.kind, &pair.authority_id) {
                if held.noted >= over {
                    continue;
                }
                over.saturating_add(RESERVE)
            } else {
                if held.noted == over || (held.settled && held.noted > over) {
                    continue;
                }
                held.settled = true;
                over
            };
            held.sent = Some(until);
            bytes += pair.holder.len() + pair.authority_id.len();
            batch.notes.push(HolderNote {
                authority: Some(AuthorityName {
                    kind: pair.kind.into(),
                    id: pair.authority_id.to_string(),
                }),
                path: pair.holder.to_string(),
                until,
            });
            batch.pairs.push(pair);
        }
        if batch.notes.is_empty() {
            return None;
        }
        self.number = batch.number;
        Some(batch)
    }

    /// What became of a batch: how the log ruled on each note, or `None` where that is not
    /// known; then all of it comes again.
    pub(super) fn done(&mut self, batch: Batch, ruled: Option<&[Refusal]>) {
        let ruled = ruled.filter(|ruled| ruled.len() == batch.notes.len());
        for (at, (pair, note)) in batch.pairs.into_iter().zip(batch.notes).enumerate() {
            let Some(held) = self.pairs.get_mut(&pair) else {
                continue;
            };
            held.sent = None;
            match ruled.map(|ruled| ruled[at]) {
                Some(Refusal::None) => {
                    held.noted = note.until;
                    held.doubtful = false;
                    // Something may have been issued meanwhile.
                    self.stirred.insert(pair);
                }
                Some(_) => {
                    self.items -= held.items.len();
                    self.pairs.remove(&pair);
                }
                None => {
                    held.noted = held.noted.min(note.until);
                    held.settled = false;
                    held.doubtful = true;
                    self.stirred.insert(pair);
                }
            }
        }
    }

    /// Whether these documents, which were issued before, may leave now.
    pub(super) fn standing(&self, holder: &str, documents: &[Document<'_>]) -> Standing {
        let holder: Arc<str> = holder.into();
        let mut standing = Standing::Covered;
        for document in documents {
            match self.pairs.get(&self.pair(document, &holder)) {
                None => return Standing::Refused,
                Some(held) if held.surely() < document.over() => standing = Standing::Waiting,
                Some(_) => {}
            }
        }
        standing
    }

    /// Whether the log has heard of all that it has to hear of.
    pub(super) fn is_quiet(&self) -> bool {
        self.stirred.is_empty() && self.pairs.values().all(|held| held.sent.is_none())
    }

    /// Pairs that are followed.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }
}
