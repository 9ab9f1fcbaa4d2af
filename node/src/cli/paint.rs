//! Colours, for people at a terminal.
//!
//! Promises: colours are all that differs. Without the escape sequences a painted text is the plain
//! one byte for byte, so that what scripts read and what people see cannot part ways.

use super::host::Host;

/// Whether to paint, for the one place that writes a text both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    /// A pipe, a file, or somebody who wants none.
    Plain,
    /// A terminal.
    Colours,
}

/// What a piece of text is to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Stands out: headings and names.
    Strong,
    /// Steps back: labels.
    Quiet,
    /// As it should be.
    Good,
    /// Wants a look.
    Doubtful,
    /// Wrong.
    Bad,
}

impl Paint {
    /// By <https://no-color.org>: a terminal, and no variable `NO_COLOR` with a value. A terminal
    /// that calls itself dumb would show the sequences.
    pub(super) fn of(host: &Host<'_>) -> Self {
        let unwanted = (host.variable)("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = (host.variable)("TERM").is_some_and(|name| name == "dumb");
        if host.stdout_is_terminal && !unwanted && !dumb {
            Paint::Colours
        } else {
            Paint::Plain
        }
    }

    /// `text` in the colour of `tone`.
    pub(super) fn apply(self, tone: Tone, text: &str) -> String {
        if self == Paint::Plain || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Strong => "1",
            Tone::Quiet => "2",
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// `label   : `, as wide as the labels of its page.
    pub(super) fn label(self, label: &str, width: usize) -> String {
        self.apply(Tone::Quiet, &format!("{label:<width$}:")) + " "
    }
}

/// The plain text of a painted one.
#[cfg(test)]
pub(super) fn strip(painted: &str) -> String {
    let mut plain = String::new();
    let mut rest = painted;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = sequence.split_once('m').expect("a sequence ends").1;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stdout_is_terminal: bool, variables: &[(&str, &str)]) -> Paint {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        Paint::of(&Host {
            stdin: &mut std::io::empty(),
            stdout: &mut std::io::sink(),
            stderr: &mut std::io::sink(),
            stdout_is_terminal,
            variable: &variable,
            now_unix_s: 0,
        })
    }

    #[test]
    fn colours_are_for_terminals_whose_reader_wants_them() {
        assert_eq!(of(true, &[]), Paint::Colours);
        assert_eq!(
            of(true, &[("NO_COLOR", ""), ("TERM", "xterm")]),
            Paint::Colours
        );
        assert_eq!(of(true, &[("NO_COLOR", "1")]), Paint::Plain);
        assert_eq!(of(true, &[("TERM", "dumb")]), Paint::Plain);
        assert_eq!(of(false, &[]), Paint::Plain);
    }

    #[test]
    fn a_painted_text_is_the_plain_one_with_colours() {
        for tone in [
            Tone::Strong,
            Tone::Quiet,
            Tone::Good,
            Tone::Doubtful,
            Tone::Bad,
        ] {
            let painted = Paint::Colours.apply(tone, "text");
            assert_ne!(painted, "text");
            assert_eq!(strip(&painted), "text");
            assert_eq!(Paint::Plain.apply(tone, "text"), "text");
        }
        assert_eq!(Paint::Colours.apply(Tone::Bad, ""), "");
        assert_eq!(Paint::Plain.label("Hint", 6), "Hint  : ");
        assert_eq!(strip(&Paint::Colours.label("Hint", 6)), "Hint  : ");
    }
}
