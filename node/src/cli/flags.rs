//! Makes SPIRE's spelling of flags digestible for clap.
//!
//! SPIRE's command line is Go's: `-spiffeID x`, `--spiffeID x` and `-spiffeID=x` are one thing, and
//! whatever follows a flag that takes a value is its value, a leading dash or not. clap reads one
//! dash as a bundle of short flags and a dash in a value as the next flag. So every flag is
//! rewritten to `--name` or `--name=value` first.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use crate::config::{DurationError, parse_duration};

/// Rewrites `args`, whose first is the program's name, for the built command `root`.
///
/// Flags that the command does not know keep their name, for clap to say so and suggest another.
/// Arguments that are no UTF-8 are no flags of ours and stay as they are.
pub(super) fn rewrite(root: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut rewritten: Vec<OsString> = args.next().into_iter().collect();
    let mut command = root;
    while let Some(arg) = args.next() {
        let Some((name, value)) = arg.to_str().and_then(split_flag) else {
            if let Some(found) = arg.to_str().and_then(|word| command.find_subcommand(word)) {
                command = found;
            }
            rewritten.push(arg);
            continue;
        };
        let mut flag = OsString::from("--");
        flag.push(match name {
            "h" => "help",
            "v" if std::ptr::eq(command, root) => "version",
            name => name,
        });
        let value = match (kind(command, name), value) {
            (Kind::Switch, Some(value)) if switch(value) == Some(true) => None,
            (Kind::Switch, Some(value)) if switch(value) == Some(false) => {
                // The last one counts: what was switched on before is off again.
                rewritten.retain(|earlier| *earlier != flag);
                continue;
            }
            (Kind::OptionalValue, Some(value)) => Some(match switch(value) {
                Some(on) => on.to_string().into(),
                // For clap to refuse.
                None => value.into(),
            }),
            (_, Some(value)) => Some(OsStr::new(value).to_owned()),
            (Kind::Value, None) => args.next(),
            (Kind::Switch | Kind::OptionalValue | Kind::Unknown, None) => None,
        };
        if let Some(value) = value {
            flag.push("=");
            flag.push(value);
        }
        rewritten.push(flag);
    }
    rewritten
}

/// A value parser for durations in Go's notation.
///
/// # Errors
/// What is wrong with it.
pub(super) fn duration(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text)
}

/// The name and the value of `-name`, `--name`, `-name=value` or `--name=value`.
fn split_flag(arg: &str) -> Option<(&str, Option<&str>)> {
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    if name.is_empty() || name.starts_with(['-', '=']) {
        return None;
    }
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

/// What a flag does with what follows it.
enum Kind {
    /// Takes it, after an equals sign or a space.
    Value,
    /// Takes it after an equals sign only.
    Switch,
    /// A switch that tells off from absent.
    OptionalValue,
    Unknown,
}

fn kind(command: &Command, name: &str) -> Kind {
    let known = |arg: &&Arg| arg.get_long() == Some(name);
    let arg = command.get_arguments().find(known);
    let takes_none = arg
        .and_then(Arg::get_num_args)
        .is_some_and(|range| range.min_values() == 0);
    match arg.map(Arg::get_action) {
        None => Kind::Unknown,
        Some(ArgAction::SetTrue) => Kind::Switch,
        Some(_) if takes_none => Kind::OptionalValue,
        Some(action) if action.takes_values() => Kind::Value,
        Some(_) => Kind::Unknown,
    }
}

/// The value of a switch, in the spellings that Go takes.
fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let value = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Append);
        let switch = Arg::new("node").long("node").action(ArgAction::SetTrue);
        let create = Command::new("create")
            .arg(value("spiffeID"))
            .arg(value("selector"))
            .arg(switch)
            .arg(Arg::new("jti").long("jti").num_args(0..=1));
        let mut root = Command::new("chancery")
            .version("1")
            .subcommand(Command::new("entry").subcommand(create));
        root.build();
        root
    }

    fn rewritten(line: &[&str]) -> Vec<String> {
        let args = ["chancery"].iter().chain(line).map(OsString::from);
        rewrite(&command(), args)
            .into_iter()
            .skip(1)
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    #[test]
    fn one_dash_and_two_are_the_same() {
        for spelling in [
            ["-spiffeID", "x"].as_slice(),
            &["--spiffeID", "x"],
            &["-spiffeID=x"],
            &["--spiffeID=x"],
        ] {
            let line = [&["entry", "create"], spelling].concat();
            assert_eq!(rewritten(&line), ["entry", "create", "--spiffeID=x"]);
        }
    }

    #[test]
    fn a_value_may_begin_with_a_dash_or_look_like_a_flag() {
        let line = [
            "entry",
            "create",
            "-selector",
            "-unix:x",
            "-spiffeID",
            "-node",
        ];
        assert_eq!(
            rewritten(&line),
            ["entry", "create", "--selector=-unix:x", "--spiffeID=-node"]
        );
        // A lone dash is a value and not a flag.
        let line = ["entry", "create", "-spiffeID", "-"];
        assert_eq!(rewritten(&line), ["entry", "create", "--spiffeID=-"]);
        assert_eq!(
            rewritten(&["entry", "create", "-"]),
            ["entry", "create", "-"]
        );
    }

    #[test]
    fn a_value_keeps_its_equals_signs_and_may_be_empty() {
        let line = ["entry", "create", "-selector=k8s:label:a=b", "-spiffeID="];
        assert_eq!(
            rewritten(&line),
            ["entry", "create", "--selector=k8s:label:a=b", "--spiffeID="]
        );
        let line = ["entry", "create", "-spiffeID", ""];
        assert_eq!(rewritten(&line), ["entry", "create", "--spiffeID="]);
    }

    #[test]
    fn a_switch_takes_a_value_after_an_equals_sign_only() {
        let line = ["entry", "create", "-node", "-spiffeID", "x"];
        assert_eq!(
            rewritten(&line),
            ["entry", "create", "--node", "--spiffeID=x"]
        );
        let line = ["entry", "create", "-node", "false"];
        assert_eq!(rewritten(&line), ["entry", "create", "--node", "false"]);
        for (value, on) in [("T", true), ("1", true), ("false", false), ("0", false)] {
            let line = ["entry", "create", &format!("-node={value}")];
            let flags = if on { ["--node"].as_slice() } else { &[] };
            assert_eq!(rewritten(&line)[2..], *flags, "{value}");
        }
        // Neither is for clap to refuse.
        for value in ["yes", ""] {
            let flag = format!("--node={value}");
            assert_eq!(rewritten(&["entry", "create", &flag])[2..], [flag]);
        }
    }

    #[test]
    fn a_switch_may_tell_off_from_absent() {
        for (given, passed) in [
            ("-jti", "--jti"),
            ("-jti=T", "--jti=true"),
            ("-jti=0", "--jti=false"),
            ("-jti=maybe", "--jti=maybe"),
        ] {
            let line = ["entry", "create", given, "false"];
            assert_eq!(rewritten(&line)[2..], [passed, "false"], "{given}");
        }
    }

    #[test]
    fn a_switch_given_twice_counts_the_last_time() {
        let line = ["entry", "create", "-node", "-node=false"];
        assert_eq!(rewritten(&line), ["entry", "create"]);
        let line = ["entry", "create", "-node=false", "-node"];
        assert_eq!(rewritten(&line), ["entry", "create", "--node"]);
    }

    #[test]
    fn a_subcommand_s_name_as_a_value_does_not_change_the_command() {
        let line = [
            "entry",
            "create",
            "-spiffeID",
            "entry",
            "-selector",
            "create",
        ];
        assert_eq!(
            rewritten(&line),
            ["entry", "create", "--spiffeID=entry", "--selector=create"]
        );
    }

    #[test]
    fn unknown_flags_are_left_for_clap_to_name() {
        let line = ["entry", "create", "-spifeID", "x"];
        assert_eq!(rewritten(&line), ["entry", "create", "--spifeID", "x"]);
        // A flag of another verb is unknown too: it takes nothing.
        assert_eq!(
            rewritten(&["entry", "-spiffeID", "x"]),
            ["entry", "--spiffeID", "x"]
        );
    }

    #[test]
    fn a_flag_whose_value_is_missing_stays_without_one() {
        let line = ["entry", "create", "-spiffeID"];
        assert_eq!(rewritten(&line), ["entry", "create", "--spiffeID"]);
    }

    #[test]
    fn help_and_version_in_go_s_spelling() {
        assert_eq!(rewritten(&["-h"]), ["--help"]);
        assert_eq!(rewritten(&["-help"]), ["--help"]);
        assert_eq!(rewritten(&["-v"]), ["--version"]);
        assert_eq!(rewritten(&["-version"]), ["--version"]);
        assert_eq!(
            rewritten(&["entry", "create", "-v"]),
            ["entry", "create", "--v"]
        );
    }

    #[test]
    fn what_is_no_flag_stays() {
        for arg in ["--", "-", "---x", "-=x", "--=x", ""] {
            assert_eq!(rewritten(&[arg]), [arg]);
        }
    }
}
