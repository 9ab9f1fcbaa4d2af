//! What clippy cannot hold: the arrows between crates, one TLS stack, no leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::root;
use serde_json::Value;

fn cargo(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(root())
        .output()?;
    ensure!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Names of every package that `cargo tree` shows for the whole workspace.
fn packages() -> anyhow::Result<BTreeSet<String>> {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--all-features",
        "--edges",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ])?;
    Ok(tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

#[test]
fn there_is_one_tls_stack_and_no_ring() -> anyhow::Result<()> {
    let packages = packages()?;
    for banned in [
        "ring",
        "openssl",
        "openssl-sys",
        "native-tls",
        "boring",
        "mbedtls",
        "hyper-tls",
        "hyper-rustls",
    ] {
        ensure!(
            !packages.contains(banned),
            "{banned} has come in; see `cargo tree -i {banned}`"
        );
    }
    for needed in ["rustls", "aws-lc-rs"] {
        ensure!(
            packages.contains(needed),
            "{needed} is gone: does this test look at the right tree?"
        );
    }
    Ok(())
}

#[test]
fn crates_depend_on_each_other_in_one_direction() -> anyhow::Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("chancery-api", &[][..]),
        ("chancery-identity", &[]),
        // `testing` is a feature of the crate itself.
        ("chancery-hsm", &["chancery-hsm"]),
        ("chancery-raft-store", &["chancery-identity"]),
        (
            "chancery-node",
            &[
                "chancery-api",
                "chancery-identity",
                "chancery-hsm",
                "chancery-raft-store",
            ],
        ),
        ("chancery-agent", &["chancery-api", "chancery-identity"]),
        (
            "chancery-tests",
            &[
                // Its TLS towards nodes, and its process.
                "chancery-agent",
                "chancery-api",
                "chancery-identity",
                "chancery-hsm",
                "chancery-raft-store",
                "chancery-node",
                // In front of the token, where a test takes it away.
                "chancery-pkcs11-shim",
            ],
        ),
        // Its tests drive the signer in front of it.
        ("chancery-pkcs11-shim", &["chancery-hsm"]),
        (
            "chancery-sim",
            &["chancery-api", "chancery-raft-store", "chancery-node"],
        ),
    ]);
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])?)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    for package in packages {
        let name = package["name"].as_str().context("a name")?;
        let targets = allowed.get(name).with_context(|| {
            format!("{name} has no row in this test: which arrows may it have?")
        })?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let to = dependency["name"].as_str().context("a name")?;
            ensure!(
                !to.starts_with("chancery-") || targets.contains(&to),
                "{name} must not depend on {to}"
            );
        }
    }
    ensure!(
        packages.len() == allowed.len(),
        "a crate of this test's table is gone"
    );
    Ok(())
}

/// Source and script files of the project, as git knows them.
fn files() -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("git")?;
    ensure!(output.status.success(), "git ls-files failed");
    let listed = String::from_utf8(output.stdout)?;
    let files: Vec<PathBuf> = listed
        .lines()
        .map(|line| root().join(line))
        .filter(|p| p.is_file())
        .collect();
    ensure!(files.len() > 50, "git lists only {} files", files.len());
    Ok(files)
}

fn ends_with(path: &Path, endings: &[&str]) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| endings.contains(&e))
}

#[test]
fn nothing_unfinished_is_left_behind() -> anyhow::Result<()> {
    // Put together here, so that this file does not find itself.
    let markers = ["TO", "FIX", "XX"].map(|m| {
        format!(
            "{m}{}",
            if m == "TO" {
                "DO"
            } else if m == "FIX" {
                "ME"
            } else {
                "X"
            }
        )
    });
    let calls = [
        format!("{}!(", "todo"),
        format!("{}!(", "unimplemented"),
        format!("{}!(", "dbg"),
        format!("#[{}", "ignore"),
    ];
    for path in files()?
        .iter()
        .filter(|p| ends_with(p, &["rs", "toml", "md", "proto", "sh"]))
    {
        let text = std::fs::read_to_string(path)?;
        for (number, line) in text.lines().enumerate() {
            let word = markers.iter().any(|m| {
                line.split(|c: char| !c.is_ascii_alphanumeric())
                    .any(|w| w == m)
            });
            let call = calls.iter().any(|c| line.contains(c.as_str()));
            ensure!(
                !word && !call,
                "{}:{}: {}",
                path.display(),
                number + 1,
                line.trim()
            );
        }
    }
    Ok(())
}

#[test]
fn unsafe_code_is_allowed_in_two_modules_that_speak_to_a_c_interface_alone() -> anyhow::Result<()> {
    let allow = format!("allow({})", "unsafe_code");
    let allowed = ["tests/pkcs11-shim/src/module.rs", "hsm/src/pkcs11/slots.rs"];
    let allowed = allowed.map(|path| root().join(path));
    for path in files()?.iter().filter(|p| ends_with(p, &["rs"])) {
        ensure!(
            allowed.contains(path) || !std::fs::read_to_string(path)?.contains(&allow),
            "{}",
            path.display()
        );
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    ensure!(
        manifest.contains("unsafe_code = \"deny\""),
        "the workspace no longer denies unsafe code"
    );
    for path in files()?
        .iter()
        .filter(|p| p.ends_with("Cargo.toml") && p.parent() != Some(root().as_path()))
        // A workspace of its own; its code is also built and linted as part of `fuzz_smoke`.
        .filter(|p| !p.starts_with(root().join("fuzz")))
    {
        let text = std::fs::read_to_string(path)?;
        ensure!(
            text.contains("[lints]\nworkspace = true"),
            "{} does not take the workspace's lints",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn links_in_documents_lead_somewhere() -> anyhow::Result<()> {
    for path in files()?.iter().filter(|p| ends_with(p, &["md"])) {
        let text = std::fs::read_to_string(path)?;
        let folder = path.parent().context("a folder")?;
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            ensure!(
                folder.join(target).exists(),
                "{}: {link} leads nowhere",
                path.display()
            );
        }
    }
    Ok(())
}
