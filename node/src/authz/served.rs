//! Which methods the server has: those of the contracts that it is the server of.
//! Tables that have a row for each method are held against this list by the compiler.

use chancery_api::METHODS;

/// How the paths begin.
const SERVICES: [&str; 7] = [
    "/chancery.backup.v1.",
    "/chancery.cluster.v1.",
    "/chancery.keys.v1.",
    "/chancery.ledger.v1.",
    "/chancery.migrate.v1.",
    "/grpc.health.v1.",
    "/spire.api.server.",
];

/// Refuses to compile unless `rows` are the methods that are served, each once,
/// sorted by path. The error names the first path that is wrong or missing.
pub(crate) const fn assert_complete(rows: &[&str]) {
    let (mut row, mut at) = (0, 0);
    while at < METHODS.len() {
        if is_served(METHODS[at]) {
            if row == rows.len() || !equal(rows[row], METHODS[at]) {
                panic!("{}", METHODS[at]);
            }
            row += 1;
        }
        at += 1;
    }
    if row < rows.len() {
        panic!("{}", rows[row]);
    }
}

const fn is_served(method: &str) -> bool {
    let mut at = 0;
    while at < SERVICES.len() {
        if let Some((head, _)) = method.as_bytes().split_at_checked(SERVICES[at].len())
            && equal_bytes(head, SERVICES[at].as_bytes())
        {
            return true;
        }
        at += 1;
    }
    false
}

const fn equal(a: &str, b: &str) -> bool {
    equal_bytes(a.as_bytes(), b.as_bytes())
}

/// `==` is not for constants yet.
const fn equal_bytes(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> Vec<&'static str> {
        METHODS.iter().copied().filter(|m| is_served(m)).collect()
    }

    #[test]
    fn what_agents_administrators_and_probes_call_is_served_and_the_rest_is_not() {
        let served = served();
        for service in [
            "/chancery.cluster.v1.Cluster/",
            "/grpc.health.v1.Health/",
            "/spire.api.server.svid.v1.SVID/",
        ] {
            assert!(served.iter().any(|m| m.starts_with(service)), "{service}");
        }
        assert!(served.len() < METHODS.len());
        assert!(!served.iter().any(|m| m.starts_with("/chancery.peer.")));
        assert_complete(&served);
    }

    #[test]
    fn a_row_that_is_missing_doubled_misplaced_or_unknown_is_named() {
        let told = |rows: Vec<&'static str>| {
            let caught = std::panic::catch_unwind(|| assert_complete(&rows)).unwrap_err();
            caught.downcast_ref::<String>().unwrap().clone()
        };
        let (all, last) = (served(), *served().last().unwrap());
        assert_eq!(told(all[1..].to_vec()), all[0]);
        assert_eq!(told(all[..all.len() - 1].to_vec()), last);
        assert_eq!(told([&[all[0]], all.as_slice()].concat()), all[1]);
        assert_eq!(told([all.as_slice(), &["/x.Y/Z"]].concat()), "/x.Y/Z");
        let mut swapped = all.clone();
        swapped.swap(3, 4);
        assert_eq!(told(swapped), all[3]);
    }
}
