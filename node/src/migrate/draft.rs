//! A configuration of ours that is being written.
//!
//! Promises: it holds keys of the schema only, each with a value that the schema takes; what is
//! written is TOML in the order of the manual, and parses.

use std::collections::BTreeMap;

use toml::Value;

use crate::config::schema::{self, KEYS};

/// Why a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// This version has no such key.
    NoSuchKey,
    /// The key does not take the value; worded to follow its path.
    Refused(String),
}

/// Values and places for values.
#[derive(Debug, Default)]
pub(super) struct Draft {
    values: BTreeMap<&'static str, Value>,
    /// Paths with an example for each, written as comments.
    left_open: BTreeMap<&'static str, String>,
}

impl Draft {
    /// Sets a key. What is refused is left open, with the refused value as its example.
    pub(super) fn set(&mut self, path: &'static str, value: Value) -> Result<(), Unwritten> {
        match schema::judge(path, &value) {
            None => Err(Unwritten::NoSuchKey),
            Some(Err(why)) => {
                self.leave_open(path, &value);
                Err(Unwritten::Refused(why))
            }
            Some(Ok(())) => {
                self.left_open.remove(path);
                self.values.insert(path, value);
                Ok(())
            }
        }
    }

    /// Writes a comment in place of a key that only its owner can fill in.
    pub(super) fn leave_open(&mut self, path: &'static str, example: &Value) {
        self.left_open.insert(path, example.to_string());
    }

    /// Whether the key has a value.
    pub(super) fn has(&self, path: &str) -> bool {
        self.values.contains_key(path)
    }

    /// The file, `head` and `tail` as comments before and after it.
    pub(super) fn write(&self, head: &[String], tail: &[String]) -> String {
        let mut text = String::new();
        comments(&mut text, head);
        let mut current = "";
        for key in KEYS {
            let line = match (self.values.get(key.path), self.left_open.get(key.path)) {
                (Some(value), _) => format!("{} = {value}\n", name(key.path)),
                (None, Some(example)) => {
                    let mut commented = String::new();
                    let line = format!("{} = {example}", name(key.path));
                    comments(&mut commented, &[line]);
                    commented
                }
                (None, None) => continue,
            };
            let section = key.path.rsplit_once('.').map_or("", |(section, _)| section);
            if section != current {
                text.push_str(&format!("\n[{section}]\n"));
                current = section;
            }
            text.push_str(&line);
        }
        if !tail.is_empty() {
            text.push('\n');
            comments(&mut text, tail);
        }
        text
    }
}

fn name(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

/// Comment lines. TOML allows no control characters in them.
fn comments(text: &mut String, lines: &[String]) {
    for line in lines.iter().flat_map(|line| line.split('\n')) {
        text.push_str("# ");
        text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn keys_are_written_in_the_order_of_the_manual_and_read_back() {
        let mut draft = Draft::default();
        draft.set("issuance.agent_ttl", text("2h")).unwrap();
        draft.set("trust_domain", text("example.org")).unwrap();
        draft
            .set("issuance.ca_subject.common_name", text("A \"B\" \\ C"))
            .unwrap();
        draft.leave_open("api.advertise", &text("HOST:8081"));
        let written = draft.write(&["Head\u{7}".to_owned()], &["a\nb".to_owned()]);
        assert_eq!(
            written,
            "# Head\n\
             trust_domain = \"example.org\"\n\n\
             [api]\n# advertise = \"HOST:8081\"\n\n\
             [issuance]\nagent_ttl = \"2h\"\n\n\
             [issuance.ca_subject]\ncommon_name = 'A \"B\" \\ C'\n\n\
             # a\n# b\n"
        );
        let table: toml::Table = written.parse().unwrap();
        let name = &table["issuance"]["ca_subject"]["common_name"];
        assert_eq!(name.as_str(), Some("A \"B\" \\ C"));
    }

    #[test]
    fn what_the_schema_refuses_is_left_open() {
        let mut draft = Draft::default();
        assert_eq!(
            draft.set("issuance.agent_ttl", text("1s")),
            Err(Unwritten::Refused("must be at least 5s".to_owned()))
        );
        assert_eq!(
            draft.set("no.such.key", text("1s")),
            Err(Unwritten::NoSuchKey)
        );
        assert_eq!(
            draft.write(&[], &[]),
            "\n[issuance]\n# agent_ttl = \"1s\"\n"
        );
        draft.set("issuance.agent_ttl", text("5s")).unwrap();
        assert!(draft.has("issuance.agent_ttl"));
        assert_eq!(draft.write(&[], &[]), "\n[issuance]\nagent_ttl = \"5s\"\n");
    }
}
