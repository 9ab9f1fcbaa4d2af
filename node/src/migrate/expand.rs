//! Variables in the text of a file: Go's `os.Expand`, as SPIRE's `-expandEnv` uses it.

use std::collections::BTreeSet;

/// A text with its variables in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that had no value and were replaced by nothing.
    pub unset: BTreeSet<String>,
}

/// Replaces `$NAME` and `${NAME}` by what `variable` says, `$$` by a dollar sign. As with Go, a name
/// without a value is replaced by nothing, `${}` and an open `${` vanish, and a dollar sign that
/// nothing follows stays.
pub fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Expanded {
    let mut expanded = Expanded {
        text: String::new(),
        unset: BTreeSet::new(),
    };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, taken) = name(after);
        match name {
            "" if taken == 0 => expanded.text.push('$'),
            "" => {}
            "$" => expanded.text.push('$'),
            name => match variable(name) {
                Some(value) => expanded.text.push_str(&value),
                None => {
                    expanded.unset.insert(name.to_owned());
                }
            },
        }
        rest = &after[taken..];
    }
    expanded.text.push_str(rest);
    expanded
}

/// The name behind a dollar sign, and how many bytes it takes with its braces.
fn name(after: &str) -> (&str, usize) {
    let special = |c: char| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9');
    if let Some(inner) = after.strip_prefix('{') {
        return match inner.find('}') {
            // The brace belongs to nothing and goes with the dollar sign.
            None => ("", 1),
            Some(end) => (&inner[..end], end + 2),
        };
    }
    match after.chars().next() {
        Some(first) if special(first) => (&after[..1], 1),
        _ => {
            let end = after
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(after.len());
            (&after[..end], end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        let variable = |name: &str| match name {
            "DOMAIN" => Some("example.org".to_owned()),
            "EMPTY" => Some(String::new()),
            "1" => Some("first".to_owned()),
            _ => None,
        };
        expand(text, variable).text
    }

    #[test]
    fn names_are_found_as_go_finds_them() {
        for (text, expected) in [
            ("td = \"$DOMAIN\"", "td = \"example.org\""),
            ("${DOMAIN}x $DOMAIN.x", "example.orgx example.org.x"),
            ("$EMPTY|$NONE|${NONE}", "||"),
            ("$$ $$DOMAIN", "$ $DOMAIN"),
            ("$1a $ \"$\" $é", "firsta $ \"$\" $é"),
            ("a${}b${DOMAIN", "abDOMAIN"),
            ("cost: 5$", "cost: 5$"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
    }

    #[test]
    fn names_without_a_value_are_told() {
        let expanded = expand("$A ${B} $A $$", |_| None);
        assert_eq!(Vec::from_iter(expanded.unset), ["A", "B"]);
    }
}
