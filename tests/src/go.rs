//! The Go programs of the tests: other people's clients, and a checker of histories.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::cluster::{root, text};

/// The oldest Go that the modules build with: 1.23.
const GO_MINOR_MIN: u32 = 23;

/// `go` on the path, else the one that `scripts/setup` put into the cache.
fn go() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("CHANCERY_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("XDG_CACHE_HOME")?).join("chancery")))
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/chancery")));
    let candidates = [
        Some(PathBuf::from("go")),
        cache.map(|c| c.join("go/bin/go")),
    ];
    let mut found = Vec::new();
    for go in candidates.into_iter().flatten() {
        let Ok(output) = Command::new(&go).args(["env", "GOVERSION"]).output() else {
            continue;
        };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let minor = version
            .strip_prefix("go1.")
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_some_and(|minor| minor >= GO_MINOR_MIN) {
            return Ok(go);
        }
        found.push(version);
    }
    bail!(
        "these tests need Go 1.{GO_MINOR_MIN} or newer (found: {found:?}); `make setup` brings it"
    )
}

/// Runs go in the folder of a module, named from the project's root.
pub fn command(module: &str, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(go()?);
    command
        .args(args)
        .current_dir(root().join(module))
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false");
    Ok(command)
}

/// Builds the program of a module.
pub fn build(module: &str, program: &Path) -> anyhow::Result<()> {
    let output = command(module, &["build", "-o"])?
        .arg(program)
        .arg(".")
        .output()
        .context("cannot run go")?;
    ensure!(output.status.success(), "go build: {}", text(&output));
    Ok(())
}

/// Vets, tests and looks at the format of a module.
pub fn check(module: &str) -> anyhow::Result<()> {
    for verb in ["vet", "test"] {
        let output = command(module, &[verb, "./..."])?.output()?;
        ensure!(output.status.success(), "go {verb}: {}", text(&output));
    }
    let home = command(module, &["env", "GOROOT"])?.output()?;
    let home = String::from_utf8(home.stdout)?;
    let output = Command::new(Path::new(home.trim()).join("bin/gofmt"))
        .args(["-l", "."])
        .current_dir(root().join(module))
        .output()
        .context("cannot run gofmt")?;
    ensure!(
        output.status.success() && output.stdout.is_empty(),
        "gofmt: {}",
        text(&output)
    );
    Ok(())
}
