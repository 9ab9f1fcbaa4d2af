//! The copy of the source tree to which patches are applied.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use rustix::fs::{FlockOperation, flock};

use super::Plant;
use crate::cluster::text;

/// Not known to git, and needed to build as the tree itself is built.
const SETTINGS: &str = ".cargo/config.toml";

/// A copy of the source tree in a folder that stays, so that what was built of it stays
/// good. One process at a time has it.
pub struct Copy {
    root: PathBuf,
    folder: PathBuf,
    _lock: File,
}

impl Copy {
    /// The copy in `folder` of the tree in `root`, as the tree is now: what an earlier
    /// run left behind, a patch too, is gone.
    ///
    /// # Errors
    /// The file system's, and git's.
    pub fn of(root: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("src"))?;
        let folder = folder.canonicalize()?;
        let lock = File::create(folder.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let copy = Self {
            root: root.to_owned(),
            folder,
            _lock: lock,
        };
        copy.restore()?;
        Ok(copy)
    }

    /// Where the copy is.
    pub fn source(&self) -> PathBuf {
        self.folder.join("src")
    }

    /// Where it is built.
    pub fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    /// The tree's repository: the copy has none of its own, and what it builds may ask for
    /// the commit.
    ///
    /// # Errors
    /// Git's.
    pub fn repository(&self) -> anyhow::Result<PathBuf> {
        let output = Command::new("git")
            .args(["rev-parse", "--absolute-git-dir"])
            .current_dir(&self.root)
            .output()
            .context("git")?;
        ensure!(output.status.success(), "git rev-parse: {}", text(&output));
        Ok(String::from_utf8(output.stdout)?.trim_end().into())
    }

    /// Makes the copy equal to the tree. What is equal is not touched: cargo goes by the
    /// times of files.
    ///
    /// # Errors
    /// The file system's, and git's.
    pub fn restore(&self) -> anyhow::Result<()> {
        let source = self.source();
        let known = tracked(&self.root)?;
        for name in &known {
            let (from, to) = (self.root.join(name), source.join(name));
            let wanted = fs::read(&from).with_context(|| from.display().to_string())?;
            if fs::read(&to).is_ok_and(|there| there == wanted) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(&from, &to).with_context(|| to.display().to_string())?;
        }
        let mut there = Vec::new();
        files(&source, &mut there)?;
        for path in there {
            if !known.contains(path.strip_prefix(&source)?) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Plants the bug.
    ///
    /// # Errors
    /// The patch does not fit the code any more.
    pub fn plant(&self, plant: &Plant) -> anyhow::Result<()> {
        apply(&self.source(), &[], plant)
    }
}

/// Whether the patch fits the tree in `root`.
///
/// # Errors
/// It does not.
pub fn fits(root: &Path, plant: &Plant) -> anyhow::Result<()> {
    apply(root, &["--check"], plant)
}

fn apply(tree: &Path, flags: &[&str], plant: &Plant) -> anyhow::Result<()> {
    let output = Command::new("git")
        .arg("apply")
        .args(flags)
        .arg(&plant.path)
        .current_dir(tree)
        // Inside another repository git would take the paths for that one's.
        .env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree))
        .output()
        .context("git")?;
    ensure!(
        output.status.success(),
        "{} does not fit the code any more; mend it, so that it still plants this: {}\n{}",
        plant.path.display(),
        plant.bug,
        text(&output)
    );
    Ok(())
}

/// Files of the tree as git knows them, new ones too, and cargo's settings.
fn tracked(root: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("git")?;
    ensure!(output.status.success(), "git ls-files: {}", text(&output));
    let listed = String::from_utf8(output.stdout)?;
    Ok(listed
        .split('\0')
        .chain([SETTINGS])
        .filter(|name| !name.is_empty() && root.join(name).is_file())
        .map(PathBuf::from)
        .collect())
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// A program whose surroundings do not tell that cargo has started this one.
pub(super) fn program(path: impl AsRef<OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(path);
    for (name, _) in std::env::vars_os() {
        let of_this_test = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CHANCERY_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if of_this_test {
            command.env_remove(name);
        }
    }
    // What failed on purpose need not say where.
    command.env("RUST_BACKTRACE", "0").kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::planted::Test;

    fn git(folder: &Path, words: &[&str]) -> anyhow::Result<()> {
        let output = Command::new("git")
            .current_dir(folder)
            .args(words)
            .output()?;
        ensure!(output.status.success(), "git {words:?}: {}", text(&output));
        Ok(())
    }

    /// A tree of two files in a repository, and a patch of one of them.
    fn tree(folder: &Path) -> anyhow::Result<(PathBuf, Plant)> {
        let root = folder.join("tree");
        fs::create_dir_all(root.join("a"))?;
        git(&root, &["init", "--quiet"])?;
        fs::write(root.join("a/one"), "sound\n")?;
        fs::write(root.join("two"), "2\n")?;
        git(&root, &["add", "."])?;
        let path = folder.join("bug.patch");
        fs::write(
            &path,
            "Bug: b\n\n--- a/a/one\n+++ b/a/one\n@@ -1 +1 @@\n-sound\n+broken\n",
        )?;
        let plant = Plant {
            name: "bug".into(),
            bug: "it is broken".into(),
            test: Test {
                package: "p".into(),
                target: "t".into(),
                name: "n".into(),
            },
            says: "s".into(),
            seeds: None,
            limit: Duration::ZERO,
            path,
        };
        Ok((root, plant))
    }

    #[test]
    fn the_copy_becomes_as_the_tree_is_whatever_was_left_in_it() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (root, plant) = tree(dir.path())?;
        let folder = dir.path().join("planted");
        let copy = Copy::of(&root, &folder)?;
        let (one, two) = (copy.source().join("a/one"), copy.source().join("two"));
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(&two)?
            .set_modified(long_ago)?;
        copy.plant(&plant)?;
        assert_eq!(fs::read_to_string(&one)?, "broken\n");
        // A run that was killed here leaves the bug, and files of its own.
        drop(copy);
        fs::write(folder.join("src/left"), "")?;
        fs::remove_file(root.join("a/one"))?;
        fs::write(root.join("new"), "3\n")?;
        let copy = Copy::of(&root, &folder)?;
        assert!(!one.exists() && !copy.source().join("left").exists());
        assert_eq!(fs::read_to_string(copy.source().join("new"))?, "3\n");
        assert_eq!(fs::metadata(&two)?.modified()?, long_ago, "it was equal");
        Ok(())
    }

    #[test]
    fn a_patch_that_does_not_fit_any_more_is_named() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (root, plant) = tree(dir.path())?;
        fits(&root, &plant)?;
        fs::write(root.join("a/one"), "rewritten\n")?;
        let told = fits(&root, &plant).expect_err("the line is gone");
        let told = told.to_string();
        assert!(
            told.contains("bug.patch does not fit the code any more")
                && told.contains("it is broken"),
            "{told}"
        );
        assert_eq!(fs::read_to_string(root.join("a/one"))?, "rewritten\n");
        Ok(())
    }
}
