//! Each planted bug of `tests/planted` is caught by the test that its patch names.
//!
//! `make test` plants two, `make test-long` and `make planted` all; `make planted
//! ONLY=name,name` those that are named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{long, root};
use chancery_tests::planted::{Copy, Plant, Test, Trials, fits};

/// Those of `make test`: quick to build, and found by the first seeds.
const QUICK: [&str; 2] = ["read-without-barrier", "retry-without-request-id"];

/// Seeds that the copy must pass with nothing planted; more are the simulation's own test.
const SOUND_SEEDS: u64 = 20;

fn plants() -> anyhow::Result<Vec<Plant>> {
    Plant::all(&root().join("tests/planted"))
}

/// The names that are asked for; none for all.
fn wanted() -> Option<Vec<String>> {
    let named = std::env::var("CHANCERY_PLANTED").unwrap_or_default();
    match named.as_str() {
        "all" => None,
        "" if long() => None,
        "" => Some(QUICK.map(str::to_owned).to_vec()),
        names => Some(names.split(',').map(str::to_owned).collect()),
    }
}

/// The tests that are to catch something: each with the seeds that it gets without a bug,
/// and the most time that a bug gives it.
fn tests(plants: &[Plant]) -> BTreeMap<&Test, (Option<u64>, Duration)> {
    let mut tests = BTreeMap::new();
    for plant in plants {
        let seeds = plant.seeds.map(|_| SOUND_SEEDS);
        let (_, limit) = tests.entry(&plant.test).or_insert((seeds, Duration::ZERO));
        *limit = plant.limit.max(*limit);
    }
    tests
}

#[tokio::test]
async fn planted_bugs_are_caught() -> anyhow::Result<()> {
    let mut plants = plants()?;
    let wanted = wanted();
    if let Some(names) = &wanted {
        for name in names {
            ensure!(
                plants.iter().any(|plant| plant.name == *name),
                "there is no tests/planted/{name}.patch"
            );
        }
        plants.retain(|plant| names.contains(&plant.name));
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let folder = target.context("a target folder")?.join("planted");
    let trials = Trials::new(Copy::of(&root(), &folder)?);
    // The two of `make test` are caught by tests that pass there without them.
    if wanted.is_none_or(|names| names != QUICK) {
        for (test, (seeds, limit)) in tests(&plants) {
            trials.passes(test, seeds, limit * 2).await?;
            println!("nothing planted: {test} passes");
        }
    }
    let (mut missed, mut table) = (Vec::new(), String::new());
    for plant in &plants {
        match trials.catches(plant).await {
            Ok(catch) => {
                println!("planted {}: caught by {:?} {catch}", plant.name, plant.says);
                table += &format!("| `{}` | {} | {catch} |\n", plant.name, plant.says);
            }
            Err(error) => {
                println!("{error:#}");
                missed.push(plant.name.as_str());
            }
        }
    }
    println!(
        "{table}planted bugs: {}, caught: {}",
        plants.len(),
        plants.len() - missed.len()
    );
    ensure!(missed.is_empty(), "not caught: {missed:?}");
    Ok(())
}

#[test]
fn every_patch_fits_the_code_and_stands_in_the_documentation() -> anyhow::Result<()> {
    let plants = plants()?;
    let page = std::fs::read_to_string(root().join("docs/simulation.md"))?;
    let mut named = BTreeSet::new();
    for plant in &plants {
        fits(&root(), plant)?;
        ensure!(
            page.contains(&format!("| `{}` |", plant.name)),
            "docs/simulation.md does not speak of {}",
            plant.name
        );
        named.insert(plant.name.as_str());
    }
    for quick in QUICK {
        ensure!(
            named.contains(quick),
            "there is no tests/planted/{quick}.patch"
        );
    }
    Ok(())
}
