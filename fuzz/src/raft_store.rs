//! Targets over `chancery-raft-store`: what peers send and what the disk gives back.

use std::collections::BTreeMap;
use std::ops::Bound;

use chancery_raft_store::apply::{Applied, apply as apply_proposal};
use chancery_raft_store::high_water::HighWater;
use chancery_raft_store::identity_record::IdentityRecord;
use chancery_raft_store::snapshot::{self, Encoder, Header};
use chancery_raft_store::store::{Row, StoreError};
use chancery_raft_store::view::{Table, View, Writes};
use chancery_raft_store::{Directory, Proposal, codec};
use prost::Message as _;

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[
    ("log_entry", log_entry),
    ("membership", membership),
    ("outcome", outcome),
    ("apply", apply),
    ("snapshot", snapshot),
    ("backup", backup),
    ("identity_record", identity_record),
    ("high_water", high_water),
];

/// A log entry and the proposal inside one: what decodes is written in one form.
pub fn log_entry(data: &[u8]) {
    if let Ok(entry) = codec::decode_log_entry(data) {
        stable(&entry, codec::encode_log_entry, codec::decode_log_entry);
    }
    if let Ok(proposal) = codec::decode_proposal(data) {
        assert!(proposal.command.is_some());
        stable(&proposal, codec::encode_proposal, codec::decode_proposal);
    }
}

/// Memberships, votes and log ids.
pub fn membership(data: &[u8]) {
    if let Ok(membership) = codec::decode_membership(data) {
        stable(
            &membership,
            codec::encode_membership,
            codec::decode_membership,
        );
    }
    if let Ok(vote) = codec::decode_vote(data) {
        stable(&vote, codec::encode_vote, codec::decode_vote);
    }
    if let Ok(id) = codec::decode_log_id(data) {
        stable(&id, codec::encode_log_id, codec::decode_log_id);
    }
}

/// The answer to a forwarded proposal.
pub fn outcome(data: &[u8]) {
    if let Ok(outcome) = codec::decode_outcome(data) {
        stable(&outcome, codec::encode_outcome, codec::decode_outcome);
        let refused = outcome.refusal != 0;
        // A refusal of a newer version reads as none of ours and is taken as none.
        assert!(outcome.accepted().is_ok() || refused);
    }
}

fn stable<T: PartialEq>(
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, StoreError>,
) {
    let bytes = encode(value);
    let again = decode(&bytes).expect("what we encode decodes");
    assert!(again == *value, "the value changed on its way");
    assert_eq!(encode(&again), bytes, "one value, two encodings");
}

/// Proposals, each behind its length in two bytes, applied one after the other to a
/// state that begins empty. Whatever a member may propose, `apply` must rule on it: an
/// error would stop every node. Twice the same log gives the same bytes, and the
/// directory takes in every row that is written.
pub fn apply(data: &[u8]) {
    let mut state = State::default();
    let mut directory = Directory::default();
    for (index, proposal) in (1u64..).zip(proposals(data)) {
        let Ok(proposal) = codec::decode_proposal(proposal) else {
            continue;
        };
        let applied = state.rule(index, &proposal);
        let again = state.rule(index, &proposal);
        assert_eq!(applied.writes, again.writes);
        assert_eq!(applied.outcome, again.outcome);
        directory
            .absorb(&applied.writes)
            .expect("the directory reads what apply writes");
        state.store(applied.writes);
    }
}

fn proposals(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (proposal, rest) = rest.split_at(length);
        data = rest;
        Some(proposal)
    })
}

/// The tables in memory.
#[derive(Default)]
struct State(BTreeMap<Vec<u8>, Vec<u8>>);

impl State {
    fn rule(&self, index: u64, proposal: &Proposal) -> Applied {
        apply_proposal(self, &Writes::new(), index, proposal)
            .unwrap_or_else(|error| panic!("{proposal} at {index}: {error}"))
    }

    fn store(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

impl View for State {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let from = (Bound::Included(prefix.to_vec()), Bound::Unbounded);
        let rows = self
            .0
            .range(from)
            .take_while(|(key, _)| key.starts_with(prefix));
        let rows = rows
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()));
        Ok(rows.collect())
    }
}

/// A snapshot as it came, and with its checksums mended, so that damage gets past them.
/// What decodes whole is written back and decodes to the same rows.
pub fn snapshot(data: &[u8]) {
    read_snapshot(data);
    let mut mended = data.to_vec();
    mend_frames(&mut mended);
    read_snapshot(&mended);
}

fn read_snapshot(data: &[u8]) {
    let Some((header, rows)) = decode_snapshot(data) else {
        return;
    };
    let mut encoder = Encoder::new(Vec::new(), header.clone()).expect("a vector takes all");
    for (key, value) in &rows {
        let value = value.clone().expect("a snapshot has no removals");
        encoder.row(key.clone(), value).expect("a vector takes all");
    }
    let written = encoder.finish().expect("a vector takes all");
    assert!(decode_snapshot(&written) == Some((header, rows)));
}

fn decode_snapshot(data: &[u8]) -> Option<(snapshot::Header, Writes)> {
    let mut all = Writes::new();
    let mut directory = Directory::default();
    let header = snapshot::decode(data, |_, rows| {
        // Rows of a stream with a right checksum may still be anything.
        let _ = directory.absorb(&rows);
        all.extend(rows);
        Ok(())
    });
    header.ok().map(|header| (header, all))
}

/// A backup file as it came; and a header and rows, each behind two bytes of length, in a
/// stream with right checksums, so that every row reaches its check. What is verified is
/// inspected alike, and stays so when it is written anew.
pub fn backup(data: &[u8]) {
    judge_backup(data);
    let mut parts = proposals(data);
    let header = parts.next().and_then(|part| Header::decode(part).ok());
    let mut encoder =
        Encoder::new(Vec::new(), header.unwrap_or_default()).expect("a vector takes all");
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        encoder
            .row(key.to_vec(), value.to_vec())
            .expect("a vector takes all");
    }
    judge_backup(&encoder.finish().expect("a vector takes all"));
}

fn judge_backup(data: &[u8]) {
    let Ok(verified) = snapshot::verify(data) else {
        return;
    };
    let inspected = snapshot::inspect(data).expect("what is verified can be inspected");
    assert!(inspected.header == verified.header && inspected.cluster == verified.cluster);
    for table in [Table::Entries, Table::Agents, Table::Members] {
        assert_eq!(inspected.count(table), verified.count(table));
    }
    let (header, rows) = decode_snapshot(data).expect("what is verified decodes");
    let mut encoder = Encoder::new(Vec::new(), header).expect("a vector takes all");
    for (key, value) in rows {
        let value = value.expect("a snapshot has no removals");
        encoder.row(key, value).expect("a vector takes all");
    }
    snapshot::verify(encoder.finish().expect("a vector takes all").as_slice())
        .expect("the same rows are as good");
}

/// Frames of length, CRC-32 and payload behind a magic number of 8 bytes.
fn mend_frames(stream: &mut [u8]) {
    let Some(mut rest) = stream.get_mut(8..) else {
        return;
    };
    while let Some((head, body)) = rest.split_at_mut_checked(8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, behind)) = body.split_at_mut_checked(length) else {
            return;
        };
        head[4..].copy_from_slice(&crc32fast::hash(payload).to_be_bytes());
        rest = behind;
    }
}

/// The identity record as it came, and with its checksum mended.
pub fn identity_record(data: &[u8]) {
    for bytes in [data, &mended(data)] {
        if let Ok(record) = IdentityRecord::decode(bytes) {
            let again = IdentityRecord::decode(&record.encode());
            assert!(again == Ok(record), "the record changed on its way");
        }
    }
}

/// The high-water mark beside the store, likewise.
pub fn high_water(data: &[u8]) {
    for bytes in [data, &mended(data)] {
        if let Ok(mark) = HighWater::decode(bytes) {
            let again = HighWater::decode(&mark.encode());
            assert!(again == Ok(mark), "the mark changed on its way");
        }
    }
}

/// A sealed file with the right checksum.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut mended = data.to_vec();
    if let Some((head, body)) = mended.split_at_mut_checked(12) {
        head[8..].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
    }
    mended
}
