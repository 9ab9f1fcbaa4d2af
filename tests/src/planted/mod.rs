//! Planted bugs: patches that break a promise on purpose. Who applies one must see the
//! test that stands in its header fail, in the words that stand there: else that test
//! would not notice the bug if somebody wrote it.
//!
//! Patches live in `tests/planted`. They are applied to a copy of the source tree, one
//! at a time, and built in a target folder of the copy's own.

mod source;
mod trial;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

pub use source::{Copy, fits};
pub use trial::{Catch, Trials};

/// A cargo test, and nothing but that one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// Package.
    pub package: String,
    /// File of integration tests.
    pub target: String,
    /// Whole name.
    pub name: String,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} --test {} {}", self.package, self.target, self.name)
    }
}

/// A patch with a bug, and how it must be caught.
#[derive(Clone, Debug)]
pub struct Plant {
    /// File name without its ending.
    pub name: String,
    /// What is wrong, in a sentence.
    pub bug: String,
    /// What must fail.
    pub test: Test,
    /// What it must say then.
    pub says: String,
    /// Seeds that it may take, where the test is the simulation.
    pub seeds: Option<u64>,
    /// Time that it may take, without the build.
    pub limit: Duration,
    /// The patch.
    pub path: PathBuf,
}

impl Plant {
    /// Every patch of a folder, by test and name.
    ///
    /// # Errors
    /// A header that is not as it must be, or no patch at all.
    pub fn all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let mut plants = Vec::new();
        for file in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = file?.path();
            if path.extension().is_some_and(|ending| ending == "patch") {
                let read = Self::read(&path);
                plants.push(read.with_context(|| path.display().to_string())?);
            }
        }
        ensure!(!plants.is_empty(), "no patch in {}", folder.display());
        // Those of one test behind each other: less is built.
        plants.sort_by(|a, b| (&a.test, &a.name).cmp(&(&b.test, &b.name)));
        Ok(plants)
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let text = std::fs::read_to_string(path)?;
        Self::parse(name.context("a name")?, &text, path)
    }

    fn parse(name: &str, text: &str, path: &Path) -> anyhow::Result<Self> {
        let field = |field: &str| {
            let head = text.lines().take_while(|line| !line.is_empty());
            let mut values = head.filter_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
            values
                .next()
                .with_context(|| format!("the header has no {field:?}"))
        };
        let words: Vec<&str> = field("Test")?.split(' ').collect();
        let [package, target, test] = words.as_slice() else {
            bail!("Test is a package, a file of integration tests and the name of a test");
        };
        let (mut seeds, mut limit) = (None, None);
        for bound in field("Within")?.split(", ") {
            match bound.split_once(' ') {
                Some((number, "seeds")) => seeds = Some(number.parse()?),
                Some((number, "seconds")) => limit = Some(Duration::from_secs(number.parse()?)),
                _ => bail!("Within is in seeds or seconds, not {bound:?}"),
            }
        }
        Ok(Self {
            name: name.to_owned(),
            bug: field("Bug")?.to_owned(),
            test: Test {
                package: (*package).to_owned(),
                target: (*target).to_owned(),
                name: (*test).to_owned(),
            },
            says: field("Says")?.to_owned(),
            seeds,
            limit: limit.context("Within names no seconds")?,
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Bug: b\nTest: p t a::b\nSays: what it says\nWithin: 5 seeds, 60 seconds\n\ndiff\n";

    fn parse(text: &str) -> anyhow::Result<Plant> {
        Plant::parse("n", text, Path::new("n.patch"))
    }

    #[test]
    fn a_header_says_what_must_catch_the_bug() -> anyhow::Result<()> {
        let plant = parse(HEAD)?;
        assert_eq!(plant.test.to_string(), "p --test t a::b");
        assert_eq!(
            (plant.bug.as_str(), plant.says.as_str()),
            ("b", "what it says")
        );
        assert_eq!(
            (plant.seeds, plant.limit),
            (Some(5), Duration::from_secs(60))
        );
        Ok(())
    }

    #[test]
    fn a_header_that_lacks_something_is_refused() {
        for (what, with) in [
            ("Bug: b\n", ""),
            ("Says: what it says\n", ""),
            ("p t a::b", "p t"),
            (", 60 seconds", ""),
            ("60 seconds", "60 days"),
            ("5 seeds", "some seeds"),
        ] {
            assert!(parse(&HEAD.replace(what, with)).is_err(), "{what:?}");
        }
        let behind = HEAD.replace("Says: what it says\n", "") + "Says: in the diff\n";
        assert!(parse(&behind).is_err());
    }
}
