//! From when on a change holds on every node.
//!
//! A node that is cut off goes on with what it knows until its state is too old to
//! act upon, also when it was removed meanwhile. What takes something away therefore answers only after every member seen
//! lately has applied it, or after [`WAIT_MAX`], and says how things stand:
//!
//! | metadata | meaning |
//! | --- | --- |
//! | `chancery-holds-everywhere` | `true` or `false` |
//! | `chancery-holds-by` | Unix second from which on it surely holds everywhere, where no two clocks run at rates further apart than [`crate::environment::elsewhere`] says |
//! | `chancery-missing` | ids of the nodes that have not confirmed it, `2, 3` |
//!
//! They travel in the response's headers: unary answers of our gRPC library carry
//! metadata there, and clients read both places alike. Stock clients ignore them.

use std::time::Duration;

use tonic::Response;
use tonic::metadata::MetadataMap;

use super::Context;
use crate::cluster::status::Holds;

/// Longest wait for the members.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Waits for the members to apply what was just written, and marks the response.
pub(super) async fn mark<T>(context: &Context, mut response: Response<T>) -> Response<T> {
    let doors = &context.doors;
    // The write has returned, so what it wrote is at or below this index.
    let index = doors.registry().applied_index();
    let stale_limit = doors.stale_limit();
    let holds = context
        .members
        .applied_everywhere(index, WAIT_MAX, stale_limit);
    let holds = holds.await;
    let now_ms = doors.consensus().clock().now_unix_ms();
    describe(response.metadata_mut(), &holds, now_ms, stale_limit);
    response
}

fn describe(metadata: &mut MetadataMap, holds: &Holds, now_ms: i64, stale_limit: Duration) {
    let after = holds.after(stale_limit).as_millis();
    let by_ms = now_ms.saturating_add(i64::try_from(after).unwrap_or(i64::MAX));
    if !holds.everywhere {
        let missing: Vec<_> = holds.missing.iter().map(u64::to_string).collect();
        insert(metadata, "chancery-missing", &missing.join(", "));
    }
    // Rounded up: to the second before, it may not hold yet.
    let by = by_ms.saturating_add(999).div_euclid(1000);
    insert(metadata, "chancery-holds-by", &by.to_string());
    insert(
        metadata,
        "chancery-holds-everywhere",
        if holds.everywhere { "true" } else { "false" },
    );
}

fn insert(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    let value = value
        .parse()
        .expect("digits, commas and spaces are header characters");
    metadata.insert(name, value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn described(holds: &Holds, limit: Duration) -> [Option<String>; 3] {
        let mut metadata = MetadataMap::new();
        describe(&mut metadata, holds, 1_000_001, limit);
        [
            "chancery-holds-everywhere",
            "chancery-holds-by",
            "chancery-missing",
        ]
        .map(|name| Some(metadata.get(name)?.to_str().unwrap().to_owned()))
    }

    #[test]
    fn what_holds_everywhere_holds_now() {
        let holds = Holds {
            everywhere: true,
            missing: vec![],
        };
        let told = described(&holds, Duration::from_secs(600));
        assert_eq!(told, [Some("true".into()), Some("1001".into()), None]);
    }

    #[test]
    fn what_does_not_holds_when_the_missing_stop_issuing() {
        let holds = Holds {
            everywhere: false,
            missing: vec![2, 3],
        };
        let told = described(&holds, Duration::from_secs(600));
        assert_eq!(
            told,
            [
                Some("false".into()),
                Some("1751".into()),
                Some("2, 3".into())
            ]
        );
        let strict = described(&holds, Duration::ZERO);
        assert_eq!(strict[1], Some("1002".into()));
    }
}
