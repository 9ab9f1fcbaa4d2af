//! What the keys of SPIRE's `server.conf` become.
//!
//! A key is carried over, or a remark says why not and what to do. Where our schema does not take a
//! value, the value stays in the result as a comment, with a remark.

mod federation;
mod listeners;
mod plugins;
mod section;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;

use toml::Value;

use super::draft::{Draft, Unwritten};
use super::hcl::{self, HclError};
use crate::config::{Config, Problem};
use section::{Found, Section};

/// Something that was not carried over as it stood.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Line of the file, from 1; absent for what the file does not say.
    pub line: Option<u32>,
    /// Path of the key, dotted.
    pub path: String,
    /// Why, and what to do. One line.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// A translated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// Our configuration.
    pub toml: String,
    /// In the order of the lines; what has no line comes last.
    pub remarks: Vec<Remark>,
    /// What `chancery validate` still finds wrong with it: keys that only its owner can fill in.
    pub left_open: Vec<Problem>,
}

/// Translates the text of a `server.conf`, HCL or JSON; `origin` names it in the result.
///
/// # Errors
/// Where the text is neither.
pub fn translate(text: &str, origin: &str) -> Result<Translation, HclError> {
    let items = hcl::parse(text)?;
    let mut work = Work::default();
    let mut file = Section::file(&items);
    for (name, carry) in SECTIONS {
        match file.take_section(name) {
            Some(Ok(section)) => carry(&mut work, Some(section)),
            Some(Err(found)) => work.not(&found, "is no section; it was left out"),
            None => carry(&mut work, None),
        }
    }
    work.unknown(&file);
    work.cluster();
    Ok(work.finish(origin))
}

/// Whether the text reads as a `server.conf`: HCL or JSON with a section `server`.
pub fn is_spire(text: &str) -> bool {
    hcl::parse(text).is_ok_and(|items| {
        let section = Section::file(&items).take_section("server");
        matches!(section, Some(Ok(_)))
    })
}

type Carry = fn(&mut Work, Option<Section<'_>>);
const SECTIONS: [(&str, Carry); 4] = [
    ("server", server::carry),
    ("plugins", plugins::carry),
    ("telemetry", listeners::telemetry),
    ("health_checks", listeners::health_checks),
];

/// A translation under way.
#[derive(Debug, Default)]
struct Work {
    draft: Draft,
    remarks: Vec<Remark>,
}

impl Work {
    /// A remark on a key.
    fn not(&mut self, found: &Found<'_>, text: impl Into<String>) {
        self.remark(Some(found.line), &found.path, text);
    }

    fn remark(&mut self, line: Option<u32>, path: &str, text: impl Into<String>) {
        self.remarks.push(Remark {
            line,
            path: one_line(path),
            text: one_line(&text.into()),
        });
    }

    /// Names what nobody took.
    fn unknown(&mut self, section: &Section<'_>) {
        for found in section.rest() {
            self.not(&found, "unknown key; SPIRE's server has none of that name");
        }
    }

    /// A value of a key, or a remark that it is of the wrong type.
    fn of<'a, T>(
        &mut self,
        found: Option<&Found<'a>>,
        read: impl FnOnce(&Found<'a>) -> Result<T, &'static str>,
    ) -> Option<T> {
        let found = found?;
        match read(found) {
            Ok(value) => Some(value),
            Err(why) => {
                self.not(found, format!("{why}; it was left out"));
                None
            }
        }
    }

    /// Writes a value that stood at `found` under our `path`.
    fn set(&mut self, found: &Found<'_>, path: &'static str, value: Value) {
        match self.draft.set(path, value) {
            Ok(()) => {}
            Err(Unwritten::NoSuchKey) => self.not(
                found,
                "not carried over: this version of chancery has no such setting",
            ),
            Err(Unwritten::Refused(why)) => self.not(
                found,
                format!("not carried over: {path} {why}; it stands in the result as a comment"),
            ),
        }
    }

    /// Carries a text over as it is. An empty one is SPIRE's default, and ours.
    fn text(&mut self, section: &mut Section<'_>, key: &str, path: &'static str) {
        let found = section.take(key);
        if let Some(text) = self.of(found.as_ref(), Found::text)
            && let Some(found) = found
            && !text.is_empty()
        {
            self.set(&found, path, Value::String(text));
        }
    }

    /// Carries a list of texts over as it is.
    fn texts(&mut self, section: &mut Section<'_>, key: &str, path: &'static str) {
        let found = section.take(key);
        if let Some(texts) = self.of(found.as_ref(), Found::texts)
            && let Some(found) = found
            && !texts.is_empty()
        {
            self.set(&found, path, texts.into());
        }
    }

    /// Carries a switch over as it is.
    fn boolean(&mut self, section: &mut Section<'_>, key: &str, path: &'static str) {
        let found = section.take(key);
        if let (Some(value), Some(found)) = (self.of(found.as_ref(), Found::boolean), found) {
            self.set(&found, path, Value::Boolean(value));
        }
    }

    /// What SPIRE does not have and a cluster needs.
    fn cluster(&mut self) {
        let text = |text: &str| Value::String(text.to_owned());
        let peers = ["node-1", "node-2", "node-3"].map(|n| format!("{n}.example.org:8082"));
        self.draft.leave_open("peer.address", &text("0.0.0.0:8082"));
        self.draft
            .leave_open("peer.advertise", &text("node-1.example.org:8082"));
        self.draft
            .leave_open("cluster.peers", &Vec::from(peers).into());
        self.draft
            .leave_open("cluster.secret_file", &text("/etc/chancery/cluster.secret"));
        self.remark(
            None,
            "cluster.peers",
            "to fill in: the addresses of all nodes, the same list on each; SPIRE has no such setting. \
             Several nodes need peer.address, peer.advertise and cluster.secret_file too; one node \
             alone names itself: cluster.peers = [\"127.0.0.1:8082\"]",
        );
    }

    fn finish(mut self, origin: &str) -> Translation {
        self.remarks
            .sort_by_key(|remark| (remark.line.is_none(), remark.line));
        let head = [
            format!(
                "Written from {} by `chancery migrate config`.",
                one_line(origin)
            ),
            "Every key: docs/configuration.md. Check it with `chancery validate -config FILE`."
                .to_owned(),
        ];
        let mut tail = Vec::new();
        if !self.remarks.is_empty() {
            tail.push("What was not carried over as it stood:".to_owned());
            tail.extend(self.remarks.iter().map(|remark| match remark.line {
                Some(line) => format!("- line {line}: {remark}"),
                None => format!("- {remark}"),
            }));
        }
        let toml = self.draft.write(&head, &tail);
        let left_open = match Config::parse(&toml, origin) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.problems,
        };
        Translation {
            toml,
            remarks: self.remarks,
            left_open,
        }
    }
}

/// Names come from the file and may hold anything.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
