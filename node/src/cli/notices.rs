//! What a server says beside its answer, in words.
//!
//! Chancery's servers send trailers that SPIRE's clients ignore: that an answer came from state
//! that no quorum confirmed, and how far a ban or an eviction has got.

use tonic::metadata::MetadataMap;

use super::text;

const STALE: &str = "chancery-stale";
const HOLDS_EVERYWHERE: &str = "chancery-holds-everywhere";
const HOLDS_BY: &str = "chancery-holds-by";
const MISSING: &str = "chancery-missing";

/// Sentences for standard error, in the order they matter.
pub(super) fn of(metadata: &MetadataMap) -> Vec<String> {
    let value = |name| {
        let value = metadata.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then_some(value)
    };
    let stale = value(STALE).map(|ms| {
        let age = match ms {
            // A node whose state no quorum has confirmed since it started.
            "-1" => "of unknown age".to_owned(),
            ms => format!("{ms} ms old"),
        };
        format!("warning: answered without a quorum from state {age}")
    });
    let holds = value(HOLDS_EVERYWHERE)
        .map(|everywhere| holds(everywhere == "true", value(HOLDS_BY), value(MISSING)));
    stale.into_iter().chain(holds).collect()
}

fn holds(everywhere: bool, by: Option<&str>, missing: Option<&str>) -> String {
    if everywhere {
        return "in force on every node".to_owned();
    }
    let missing = missing.map_or_else(
        || "some nodes have not confirmed it".to_owned(),
        |nodes| format!("not confirmed by node {nodes}"),
    );
    let by = by.map_or_else(String::new, |by| {
        format!("; in force there by {} at the latest", moment(by))
    });
    format!("warning: in force on every node in touch, {missing}{by}")
}

/// A point in time sent as Unix seconds or as text.
fn moment(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), text::date)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(trailers: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut metadata = MetadataMap::new();
        for (name, value) in trailers {
            metadata.insert(*name, value.parse().unwrap());
        }
        of(&metadata)
    }

    #[test]
    fn an_answer_without_trailers_says_nothing() {
        assert!(said(&[("content-type", "application/grpc")]).is_empty());
    }

    #[test]
    fn old_state_is_told() {
        assert_eq!(
            said(&[(STALE, "1234")]),
            ["warning: answered without a quorum from state 1234 ms old"]
        );
        assert_eq!(
            said(&[(STALE, "-1")]),
            ["warning: answered without a quorum from state of unknown age"]
        );
    }

    #[test]
    fn a_ban_that_holds_everywhere_is_told() {
        assert_eq!(
            said(&[(HOLDS_EVERYWHERE, "true")]),
            ["in force on every node"]
        );
    }

    #[test]
    fn a_ban_that_does_not_names_the_nodes_and_the_time() {
        assert_eq!(
            said(&[
                (HOLDS_EVERYWHERE, "false"),
                (HOLDS_BY, "1552410266"),
                (MISSING, "2, 3")
            ]),
            [
                "warning: in force on every node in touch, not confirmed by node 2, 3; in force there \
              by 2019-03-12 17:04:26 +0000 UTC at the latest"
            ]
        );
        assert_eq!(
            said(&[(HOLDS_EVERYWHERE, "false")]),
            ["warning: in force on every node in touch, some nodes have not confirmed it"]
        );
    }
}
