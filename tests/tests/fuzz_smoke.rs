//! The fuzz targets over their corpora and seeded changes of them, with a stable compiler.
//!
//! Finds what a change breaks at once; `docs/fuzzing.md` says how to look for longer.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::root;

type Target = (&'static str, fn(&[u8]));

#[allow(unreachable_pub)] // public in the crate that they are a part of, as below
#[path = "../../fuzz/src/hsm.rs"]
mod hsm;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/identity.rs"]
mod identity;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/node.rs"]
mod node;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/raft_store.rs"]
mod raft_store;

/// Changed inputs for each target; 50 times as many in a long run.
const CHANGES: u64 = 2_000;
/// No changed input is longer, in bytes.
const BYTES_MAX: usize = 8 << 10;

fn targets() -> impl Iterator<Item = &'static Target> {
    [
        hsm::TARGETS,
        identity::TARGETS,
        raft_store::TARGETS,
        node::TARGETS,
    ]
    .into_iter()
    .flatten()
}

/// Files below `fuzz/`, in the order of their names.
fn files(folder: impl AsRef<Path>) -> anyhow::Result<Vec<PathBuf>> {
    let folder = root().join("fuzz").join(folder);
    let listed = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = listed
        .map(|file| file.map(|file| file.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}

/// xorshift64*: a seed gives the same changes on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // A state of zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        let high = self.next() >> 32;
        usize::try_from(high).expect("32 bits fit") % bound.max(1)
    }
}

/// One to eight changes of `input`, some of them taken over from `other`.
fn changed(input: &[u8], other: &[u8], seed: u64) -> Vec<u8> {
    /// Where lengths, signs and texts turn.
    const TELLING: &[u8] = &[
        0x00, 0x01, 0x02, 0x30, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xff, b'.', b'/', b':', b'"', b'{',
        b'*', b'-', b'9', b'\n',
    ];
    let mut random = Random::new(seed);
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        let to = at + random.below(bytes.len() - at.min(bytes.len())).min(64);
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = TELLING[random.below(TELLING.len())],
            2 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let from = random.below(other.len());
                let length = random.below(64).min(other.len() - from);
                bytes.splice(at..to, other[from..from + length].iter().copied());
            }
            6 if random.below(8) == 0 => bytes.truncate(at),
            // What a length in front of a value would have to follow.
            _ if !bytes.is_empty() => bytes[at] = bytes[at].wrapping_add(1),
            _ => {}
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn run(body: fn(&[u8]), input: &[u8], what: &str) -> anyhow::Result<()> {
    let survived = catch_unwind(AssertUnwindSafe(|| body(input)));
    ensure!(survived.is_ok(), "{what}: input {}", hex::encode(input));
    Ok(())
}

/// Runs one target; an error names the target, the file and the seed.
fn replay((name, body): &Target) -> anyhow::Result<()> {
    let files = files(Path::new("corpus").join(name))?;
    ensure!(!files.is_empty(), "{name} has no corpus");
    let corpus: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    for (file, input) in files.iter().zip(&corpus) {
        run(*body, input, &format!("{name}, {}", file.display()))?;
    }
    let long = std::env::var_os("CHANCERY_TEST_LONG").is_some();
    let changes = if long { CHANGES * 50 } else { CHANGES };
    for seed in 1..=changes {
        let mut random = Random::new(seed.rotate_left(32));
        let at = random.below(corpus.len());
        let other = &corpus[random.below(corpus.len())];
        let input = changed(&corpus[at], other, seed);
        let what = format!("{name}, {} with seed {seed}", files[at].display());
        run(*body, &input, &what)?;
    }
    Ok(())
}

#[test]
fn no_corpus_file_and_no_change_of_one_breaks_its_target() -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> = targets()
            .map(|target| scope.spawn(move || replay(target)))
            .collect();
        let mut failures = Vec::new();
        for thread in running {
            match thread.join() {
                Ok(result) => failures.extend(result.err().map(|error| format!("{error:#}"))),
                Err(_) => failures.push("a target's thread itself panicked".to_owned()),
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

#[test]
fn every_target_has_a_body_a_corpus_and_a_page() -> anyhow::Result<()> {
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let named = |folder| -> anyhow::Result<BTreeSet<String>> {
        Ok(files(folder)?.iter().filter_map(stem).collect())
    };
    let bodies: BTreeSet<String> = targets().map(|(name, _)| (*name).to_owned()).collect();
    ensure!(named("fuzz_targets")? == bodies, "fuzz/fuzz_targets");
    ensure!(named("corpus")? == bodies, "fuzz/corpus");
    let page = std::fs::read_to_string(root().join("docs/fuzzing.md"))?;
    for name in bodies {
        ensure!(
            page.contains(&format!("| `{name}` |")),
            "docs/fuzzing.md does not speak of {name}"
        );
    }
    Ok(())
}

#[test]
fn a_broken_target_is_told_with_its_file_and_seed() {
    fn breaks(input: &[u8]) {
        assert!(input.len() < 8, "on purpose");
    }
    let told = replay(&("duration", breaks)).expect_err("a corpus file is longer");
    let told = told.to_string();
    assert!(
        told.contains("duration, ") && told.contains("corpus/duration/"),
        "{told}"
    );

    let (one, other) = (b"spiffe://example.org/a", b"other");
    assert_eq!(changed(one, other, 7), changed(one, other, 7));
    assert!((1..100).any(|seed| changed(one, other, seed) != one));
    // Nothing to change is no reason to fail.
    assert!((1..1000).all(|seed| changed(b"", b"", seed).len() < 16));
}
