//! Building the copy, with a bug or without, and running what must catch it.

use std::fmt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::source::program;
use super::{Copy, Plant, Test};
use crate::cluster::text;

/// The features of every development build; with others, all would be built twice.
const FEATURES: &str = "chancery-node/faults,chancery-hsm/testing";
/// Longest build: the first one builds all dependencies.
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
/// Tests of this package start the server.
const OF_CLUSTERS: &str = "chancery-tests";

/// How a bug was caught.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Seed of the simulation, where that caught it.
    pub seed: Option<u64>,
    /// Time that it took.
    pub after: Duration,
    /// Time of the build before.
    pub build: Duration,
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seed) = self.seed {
            write!(f, "at seed {seed} ")?;
        }
        write!(f, "after {:.1?} (build {:.0?})", self.after, self.build)
    }
}

/// Tries what the copy does.
pub struct Trials {
    copy: Copy,
}

/// An executable of tests, and the folder in which cargo would run it.
struct Built {
    executable: PathBuf,
    folder: PathBuf,
    took: Duration,
}

impl Trials {
    /// Trials on a copy.
    pub fn new(copy: Copy) -> Self {
        Self { copy }
    }

    /// Without a bug the test passes: a test that always fails catches nothing.
    ///
    /// # Errors
    /// It does not.
    pub async fn passes(
        &self,
        test: &Test,
        seeds: Option<u64>,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let built = self.build(test).await?;
        let output = self.run(&built, test, seeds, limit).await?;
        ensure!(
            output.status.success() && text(&output).contains("test result: ok. 1 passed"),
            "{test} does not pass without a bug:\n{}",
            text(&output)
        );
        Ok(())
    }

    /// Plants the bug, sees it caught, and takes it out again.
    ///
    /// # Errors
    /// It was not caught, or otherwise than its patch says.
    pub async fn catches(&self, plant: &Plant) -> anyhow::Result<Catch> {
        self.copy.plant(plant)?;
        let caught = self.caught(plant).await;
        self.copy.restore()?;
        caught.with_context(|| format!("planted {}: {}", plant.name, plant.bug))
    }

    async fn caught(&self, plant: &Plant) -> anyhow::Result<Catch> {
        let built = self.build(&plant.test).await?;
        let began = Instant::now();
        let output = self
            .run(&built, &plant.test, plant.seeds, plant.limit)
            .await?;
        let after = began.elapsed();
        let said = text(&output);
        ensure!(
            said.contains(&format!("test {} ... FAILED", plant.test.name)),
            "not caught: {} passes with it:\n{said}",
            plant.test
        );
        ensure!(
            said.contains(&plant.says),
            "{} fails, and not because {:?}:\n{said}",
            plant.test,
            plant.says
        );
        let seed = || {
            let (before, _) = said.split_once(" failed at ")?;
            let (_, seed) = before.rsplit_once("seed ")?;
            seed.parse().ok()
        };
        Ok(Catch {
            seed: seed(),
            after,
            build: built.took,
        })
    }

    async fn build(&self, test: &Test) -> anyhow::Result<Built> {
        let began = Instant::now();
        let mut cargo = program("cargo");
        cargo
            .current_dir(self.copy.source())
            .env("CARGO_TARGET_DIR", self.copy.target())
            // Nobody looks for lines in it; without them it builds and links faster.
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .args(["build", "--locked", "--workspace", "--features", FEATURES])
            .args(["--test", &test.target])
            .arg("--message-format=json-render-diagnostics");
        if test.package == OF_CLUSTERS {
            cargo.args(["--bin", "chancery"]);
        }
        let output = ended(&mut cargo, BUILD_LIMIT).await?;
        ensure!(
            output.status.success(),
            "the copy does not build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let built = String::from_utf8_lossy(&output.stdout);
        let mut artifacts = built.lines().filter_map(|line| artifact(line, test));
        let (executable, folder) = artifacts
            .next()
            .with_context(|| format!("there is no {test}"))?;
        Ok(Built {
            executable,
            folder,
            took: began.elapsed(),
        })
    }

    /// Runs the test. One that hangs is killed and has not caught anything.
    async fn run(
        &self,
        built: &Built,
        test: &Test,
        seeds: Option<u64>,
        limit: Duration,
    ) -> anyhow::Result<Output> {
        let mut command = program(&built.executable);
        command
            .current_dir(&built.folder)
            .env("GIT_DIR", self.copy.repository()?)
            .args(["--exact", &test.name]);
        if let Some(seeds) = seeds {
            command.env("CHANCERY_SIM_SEEDS", seeds.to_string());
        }
        ended(&mut command, limit)
            .await
            .with_context(|| test.to_string())
    }
}

/// The executable that a line of cargo's tells of, if it is that of the test; and the
/// folder of its package.
fn artifact(line: &str, test: &Test) -> Option<(PathBuf, PathBuf)> {
    let said: Value = serde_json::from_str(line).ok()?;
    let is_it = said["reason"] == "compiler-artifact"
        && said["target"]["name"] == *test.target
        && said["target"]["kind"][0] == "test"
        && said["package_id"].as_str()?.contains(&test.package);
    let manifest = PathBuf::from(said["manifest_path"].as_str()?);
    is_it.then_some(())?;
    Some((
        said["executable"].as_str()?.into(),
        manifest.parent()?.to_owned(),
    ))
}

async fn ended(command: &mut tokio::process::Command, limit: Duration) -> anyhow::Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    tokio::time::timeout(limit, child.wait_with_output())
        .await
        .with_context(|| format!("not at its end after {limit:?}"))?
        .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_of_the_test_is_found_among_what_cargo_tells() {
        let test = Test {
            package: "chancery-sim".into(),
            target: "simulation".into(),
            name: "seeds".into(),
        };
        let line = |package: &str, kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///x#{package}@0.1.0","manifest_path":"/x/Cargo.toml","target":{{"kind":["{kind}"],"name":"simulation"}},"executable":{executable}}}"#
            )
        };
        let found = artifact(&line("chancery-sim", "test", "\"/t/s\""), &test);
        assert_eq!(found, Some(("/t/s".into(), "/x".into())));
        for other in [
            line("chancery-node", "test", "\"/t/s\""),
            line("chancery-sim", "lib", "\"/t/s\""),
            line("chancery-sim", "test", "null"),
            "warning: no JSON".into(),
        ] {
            assert_eq!(artifact(&other, &test), None, "{other}");
        }
    }
}
