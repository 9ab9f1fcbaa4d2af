//! Whatever happens to a file of a data directory, nothing that was acknowledged is
//! missing, or the directory is refused. Silent loss: 0.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use crate::support::home::{Home, copy, identity};
use crate::support::vote;

const BLOCK: usize = 4096;
const LAST: u64 = 200;

/// A node that started three times, and what its directory was after the second: with
/// tables, a write-ahead log with a tail, a snapshot, a purged log.
async fn lived(dir: &Path, older: &Path, node_id: u64) {
    identity(node_id).save(dir).unwrap();
    let mut home = Home::open(dir).unwrap();
    home.log.save_vote(&vote(2, node_id)).await.unwrap();
    home.take(0..=120).await.unwrap();
    home.snapshot(60).await.unwrap();
    drop(home);
    let mut home = Home::open(dir).unwrap();
    home.take(121..=160).await.unwrap();
    drop(home);
    copy(dir, older);
    let mut home = Home::open(dir).unwrap();
    home.log.save_vote(&vote(4, node_id)).await.unwrap();
    home.take(161..=180).await.unwrap();
    home.snapshot(100).await.unwrap();
    home.take(181..=LAST).await.unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What kind of file it is; `None` for those that hold nothing.
fn class(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    Some(match name {
        "identity" => "identity record",
        "high-water" => "high-water mark",
        "CURRENT" => "CURRENT",
        "IDENTITY" => "IDENTITY",
        _ if name.ends_with(".snapshot") => "snapshot",
        _ if name.ends_with(".log") => "WAL",
        _ if name.ends_with(".sst") => "SST",
        _ if name.starts_with("MANIFEST") => "MANIFEST",
        _ if name.starts_with("OPTIONS") => "OPTIONS",
        _ => return None,
    })
}

/// The file of the same class, of the same name if there is one.
fn counterpart(path: &Path, dir: &Path, other: &Path) -> Option<PathBuf> {
    let same = other.join(path.strip_prefix(dir).unwrap());
    if same.exists() {
        return Some(same);
    }
    files(other).into_iter().find(|f| class(f) == class(path))
}

type Damage = (&'static str, String, Option<Vec<u8>>);

/// What is done to a file: kind, where, and what is there afterwards.
fn damages(
    good: &[u8],
    swapped: Option<Vec<u8>>,
    older: Option<Vec<u8>>,
    full: bool,
) -> Vec<Damage> {
    let mut cuts: Vec<usize> = (0..good.len()).step_by(BLOCK).collect();
    cuts.extend(
        (BLOCK..good.len())
            .step_by(BLOCK)
            .flat_map(|at| [at - 1, at + 1, at + BLOCK / 2]),
    );
    cuts.extend([
        1,
        7,
        11,
        good.len() / 2,
        good.len().saturating_sub(1),
        good.len().saturating_sub(9),
    ]);
    let mut flips: Vec<usize> = (0..good.len())
        .step_by(BLOCK)
        .map(|at| at + (at / BLOCK * 977) % BLOCK)
        .collect();
    flips.extend([
        0,
        4,
        8,
        good.len() / 2,
        good.len().saturating_sub(20),
        good.len().saturating_sub(1),
    ]);
    let chosen = |mut of: Vec<usize>| {
        of.retain(|at| *at < good.len());
        of.sort_unstable();
        of.dedup();
        let step = if full { 1 } else { of.len().div_ceil(8).max(1) };
        of.into_iter().step_by(step).collect::<Vec<_>>()
    };
    let mut all: Vec<Damage> = Vec::new();
    for at in chosen(cuts) {
        all.push(("torn", format!("at {at}"), Some(good[..at].to_vec())));
    }
    for at in chosen(flips) {
        for bit in if full { vec![0, 3, 7] } else { vec![at % 8] } {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << bit;
            all.push(("flipped", format!("bit {bit} at {at}"), Some(bad)));
        }
    }
    all.push(("missing", String::new(), None));
    for (kind, other) in [("swapped", swapped), ("rolled back", older)] {
        if let Some(other) = other.filter(|other| other != good) {
            all.push((kind, String::new(), Some(other)));
        }
    }
    all
}

#[derive(Default)]
struct Cell {
    harmless: usize,
    refused: usize,
    /// Of these, those whose message names the very file.
    named: usize,
}

#[tokio::test]
async fn no_damage_to_any_file_loses_anything_silently() {
    let full = std::env::var_os("CHANCERY_TEST_LONG").is_some();
    let place = tempfile::tempdir().unwrap();
    let [dir, older, other, scrap, work] =
        ["a", "older", "b", "scrap", "work"].map(|n| place.path().join(n));
    for made in [&dir, &other] {
        fs::create_dir(made).unwrap();
    }
    lived(&dir, &older, 1).await;
    lived(&other, &scrap, 2).await;
    let mut table: BTreeMap<(&str, &str), Cell> = BTreeMap::new();
    let mut losses = Vec::new();
    for file in files(&dir) {
        let Some(class) = class(&file) else { continue };
        let good = fs::read(&file).unwrap();
        let read = |from: &Path| counterpart(&file, &dir, from).map(|f| fs::read(f).unwrap());
        for (kind, at, bytes) in damages(&good, read(&other), read(&older), full) {
            if work.exists() {
                fs::remove_dir_all(&work).unwrap();
            }
            copy(&dir, &work);
            let target = work.join(file.strip_prefix(&dir).unwrap());
            match bytes {
                Some(bytes) => fs::write(&target, bytes).unwrap(),
                None => fs::remove_file(&target).unwrap(),
            }
            let cell = table.entry((class, kind)).or_default();
            match Home::open(&work) {
                Err(said) => {
                    // The file, or the directory where it is not known.
                    assert!(
                        said.contains(&work.display().to_string()),
                        "{class} {kind} {at}: {said}"
                    );
                    cell.refused += 1;
                    let name = file.file_name().unwrap().to_string_lossy();
                    cell.named += usize::from(said.contains(&*name));
                }
                Ok(mut home) => {
                    let mut missing = home.missing(LAST).await;
                    let voted = home.log.read_vote().await.unwrap();
                    if voted != Some(vote(4, 1)) {
                        missing = Some(format!("the vote is {voted:?}"));
                    }
                    match missing {
                        None => cell.harmless += 1,
                        Some(what) => {
                            losses.push(format!("{class} {} {kind} {at}: {what}", file.display()))
                        }
                    }
                }
            }
        }
    }
    println!(
        "| file | damage | harmless | refused | naming the file | silent loss |\n| --- | --- | --- | --- | --- | --- |"
    );
    let mut cases = 0;
    for ((class, kind), cell) in &table {
        println!(
            "| {class} | {kind} | {} | {} | {} | 0 |",
            cell.harmless, cell.refused, cell.named
        );
        cases += cell.harmless + cell.refused;
    }
    println!(
        "cases: {}; silent losses: {}",
        cases + losses.len(),
        losses.len()
    );
    assert!(losses.is_empty(), "{losses:#?}");
    let classes: std::collections::BTreeSet<_> = table.keys().map(|(class, _)| *class).collect();
    assert_eq!(classes.len(), 9, "{classes:?}");
    for class in ["WAL", "high-water mark", "snapshot", "MANIFEST"] {
        let cell = &table[&(class, "flipped")];
        assert_eq!(
            cell.named, cell.refused,
            "{class}: a flipped bit without the file's name"
        );
    }
}
