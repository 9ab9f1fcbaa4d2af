//! The verbs of SPIRE's server command that are still to come.
//!
//! Somebody who types one has not mistyped: a suggestion of something similar would mislead.

use std::ffi::OsString;

/// Verbs of SPIRE that this version lacks. A noun that lacks all its verbs stands alone.
const VERBS: &[&str] = &[
    "agent purge",
    "bundle count",
    "bundle delete",
    "bundle list",
    "bundle set",
    "debug",
    "debug getinfo",
    "entry update",
    "federation",
    "federation create",
    "federation delete",
    "federation list",
    "federation refresh",
    "federation show",
    "federation update",
    "jwt",
    "jwt mint",
    "localauthority",
    "localauthority jwt",
    "localauthority jwt activate",
    "localauthority jwt prepare",
    "localauthority jwt revoke",
    "localauthority jwt show",
    "localauthority jwt taint",
    "localauthority x509",
    "localauthority x509 activate",
    "localauthority x509 prepare",
    "localauthority x509 revoke",
    "localauthority x509 show",
    "localauthority x509 taint",
    "logger",
    "logger get",
    "logger reset",
    "logger set",
    "upstreamauthority",
    "upstreamauthority revoke",
    "upstreamauthority taint",
    "wit",
    "wit mint",
    "x509",
    "x509 mint",
];

/// The verb that `args` (program name first) ask for, if it is one of these; the longest match.
pub(super) fn verb(args: &[OsString]) -> Option<&'static str> {
    let words: Vec<&str> = args
        .iter()
        .skip(1)
        .map_while(|arg| arg.to_str().filter(|word| !word.starts_with('-')))
        .take(3)
        .collect();
    (1..=words.len()).rev().find_map(|count| {
        let asked = words[..count].join(" ");
        VERBS.iter().copied().find(|verb| *verb == asked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<&'static str> {
        let args: Vec<OsString> = format!("chancery {line}")
            .split(' ')
            .map(Into::into)
            .collect();
        verb(&args)
    }

    #[test]
    fn verbs_to_come_are_named_as_typed() {
        assert_eq!(asked("x509 mint --spiffeID=x"), Some("x509 mint"));
        assert_eq!(
            asked("localauthority jwt show"),
            Some("localauthority jwt show")
        );
        assert_eq!(asked("entry update"), Some("entry update"));
        assert_eq!(asked("federation"), Some("federation"));
        // An unknown verb below a noun to come: the noun is what is missing.
        assert_eq!(asked("logger shout"), Some("logger"));
    }

    #[test]
    fn verbs_at_hand_and_mistyped_ones_are_not_named() {
        for line in [
            "entry show",
            "entry",
            "entry shwo",
            "cluster status",
            "--help",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
        // Values of flags are not verbs.
        assert_eq!(asked("entry show --hint x509 mint"), None);
    }
}
