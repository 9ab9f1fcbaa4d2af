//! Entries and the outcomes of batches, in SPIRE's words.

use std::fmt::Write as _;

use chancery_api::spire::api::server::entry::v1::batch_delete_entry_response;
use chancery_api::spire::api::types::{Entry, Status};

use crate::cli::batch::{Batch, failed};
use crate::cli::paint::{Paint, Tone};
use crate::cli::text;

/// `entry show`.
pub(super) fn found(entries: &[Entry], paint: Paint) -> String {
    let blocks: String = entries.iter().map(|entry| block(entry, paint)).collect();
    let found = format!("Found {}", text::count(entries.len(), "entry", "entries"));
    format!("{}\n{blocks}", paint.apply(Tone::Strong, &found))
}

/// `entry create` and `entry update`: what was `doing` with each entry, and what became of it.
pub(super) fn written<'a>(
    doing: &str,
    results: impl Iterator<Item = (Option<&'a Status>, Option<&'a Entry>)>,
) -> Batch {
    let mut batch = Batch::default();
    for (status, entry) in results {
        let entry = entry.map(|entry| block(entry, Paint::Plain));
        let entry = entry.unwrap_or_default();
        match failed(status) {
            None => batch.out.push_str(&entry),
            Some(status) => batch.fail(doing, &status, &entry),
        }
    }
    batch
}

/// `entry delete`. The empty lines, and the missing line's end, are SPIRE's.
pub(super) fn deleted(results: &[batch_delete_entry_response::Result]) -> Batch {
    let mut batch = Batch::default();
    let mut failures = 0_usize;
    for result in results {
        match failed(result.status.as_ref()) {
            None => {
                let _ = writeln!(batch.out, "Deleted entry with ID: {}", result.id);
            }
            Some(status) => {
                failures += 1;
                let _ = writeln!(
                    batch.err,
                    "Failed to delete entry with ID {} (code: {}, msg: {:?})",
                    result.id,
                    text::code_name(status.code),
                    status.message
                );
            }
        }
    }
    batch.failed = failures > 0;
    let successes = results.len() - failures;
    if successes > 0 {
        batch.out.push_str("\n\n");
    }
    if batch.failed {
        batch.out.push_str("\n\n");
    }
    let _ = match (successes, failures) {
        (_, 0) => write!(batch.out, "Deleted {successes} entries successfully"),
        (0, _) => write!(batch.out, "Failed to delete {failures} entries"),
        _ => write!(
            batch.out,
            "Deleted {successes} entries successfully, but failed to delete {failures} entries"
        ),
    };
    batch
}

/// One entry, with an empty line behind it. What is rare is shown only where it is set.
fn block(entry: &Entry, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{}{value}", paint.label(label, 24));
    };
    let ttl = |seconds: i32| match seconds {
        0 => "default".to_owned(),
        seconds => seconds.to_string(),
    };
    line(
        "Entry ID",
        if entry.id.is_empty() {
            "(none)"
        } else {
            &entry.id
        },
    );
    let spiffe_id = text::id(entry.spiffe_id.as_ref());
    line("SPIFFE ID", &paint.apply(Tone::Strong, &spiffe_id));
    line("Parent ID", &text::id(entry.parent_id.as_ref()));
    line("Revision", &entry.revision_number.to_string());
    if entry.downstream {
        line("Downstream", "true");
    }
    line("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    line("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        line("Expiration time", &text::date(entry.expires_at));
    }
    for selector in &entry.selectors {
        line(
            "Selector",
            &format!("{}:{}", selector.r#type, selector.value),
        );
    }
    for trust_domain in &entry.federates_with {
        line("FederatesWith", trust_domain);
    }
    for name in &entry.dns_names {
        line("DNS name", name);
    }
    if entry.admin {
        line("Admin", "true");
    }
    if entry.store_svid {
        line("StoreSvid", "true");
    }
    if !entry.hint.is_empty() {
        line("Hint", &entry.hint);
    }
    if let Some(attributes) = &entry.additional_attributes {
        if attributes.disable_x509_svid_prefetch {
            line("DisableX509SvidPrefetch", "true");
        }
        if attributes.jwt_svid_include_jti {
            line("JwtSvidIncludeJti", "true");
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use chancery_api::spire::api::types::entry::AdditionalAttributes;
    use chancery_api::spire::api::types::{Selector, Spiffeid};

    use super::*;
    use crate::cli::paint::strip;

    fn id(path: &str) -> Option<Spiffeid> {
        Some(Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        })
    }

    fn plain() -> Entry {
        Entry {
            id: "web".into(),
            spiffe_id: id("/web"),
            parent_id: id("/node"),
            selectors: vec![Selector {
                r#type: "unix".into(),
                value: "uid:1000".into(),
            }],
            ..Entry::default()
        }
    }

    const PLAIN: &str = "\
Entry ID                : web
SPIFFE ID               : spiffe://example.org/web
Parent ID               : spiffe://example.org/node
Revision                : 0
X509-SVID TTL           : default
JWT-SVID TTL            : default
Selector                : unix:uid:1000

";

    fn status(code: i32, message: &str) -> Option<Status> {
        Some(Status {
            code,
            message: message.into(),
        })
    }

    #[test]
    fn a_plain_entry_has_spire_s_lines() {
        let found = |entries: &[Entry]| found(entries, Paint::Plain);
        assert_eq!(block(&plain(), Paint::Plain), PLAIN);
        assert_eq!(found(&[plain()]), format!("Found 1 entry\n{PLAIN}"));
        assert_eq!(found(&[]), "Found 0 entries\n");
    }

    #[test]
    fn colours_leave_the_lines_as_they_are() {
        let painted = found(&[plain()], Paint::Colours);
        assert_eq!(strip(&painted), format!("Found 1 entry\n{PLAIN}"));
        let id = "\u{1b}[1mspiffe://example.org/web\u{1b}[0m\n";
        assert!(painted.contains(id), "{painted}");
    }

    #[test]
    fn a_full_entry_has_all_of_spire_s_lines() {
        let full = Entry {
            id: String::new(),
            x509_svid_ttl: 60,
            jwt_svid_ttl: 30,
            federates_with: vec!["other.org".into()],
            admin: true,
            downstream: true,
            expires_at: 1_552_410_266,
            dns_names: vec!["web".into(), "www".into()],
            revision_number: 3,
            store_svid: true,
            hint: "external".into(),
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: true,
            }),
            ..plain()
        };
        let expected = "\
Entry ID                : (none)
SPIFFE ID               : spiffe://example.org/web
Parent ID               : spiffe://example.org/node
Revision                : 3
Downstream              : true
X509-SVID TTL           : 60
JWT-SVID TTL            : 30
Expiration time         : 2019-03-12 17:04:26 +0000 UTC
Selector                : unix:uid:1000
FederatesWith           : other.org
DNS name                : web
DNS name                : www
Admin                   : true
StoreSvid               : true
Hint                    : external
DisableX509SvidPrefetch : true
JwtSvidIncludeJti       : true

";
        assert_eq!(block(&full, Paint::Plain), expected);
        assert_eq!(strip(&block(&full, Paint::Colours)), expected);
    }

    #[test]
    fn what_was_not_created_goes_to_standard_error() {
        let entry = plain();
        let of = |statuses: [Option<Status>; 2]| {
            let results = statuses
                .iter()
                .map(|status| (status.as_ref(), Some(&entry)));
            written("create the following entry", results)
        };
        let batch = of([status(6, "similar entry already exists"), status(0, "OK")]);
        let expected = Batch {
            out: PLAIN.into(),
            err: format!(
                "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry \
                 already exists\"):\n{PLAIN}"
            ),
            failed: true,
        };
        assert_eq!(batch, expected);
        assert!(
            of([None, status(0, "OK")]).failed,
            "no status is no success"
        );
    }

    #[test]
    fn deletions_are_summed_up_as_spire_does() {
        let result = |id: &str, code| batch_delete_entry_response::Result {
            status: status(code, "entry not found"),
            id: id.into(),
        };
        let all = deleted(&[result("a", 0), result("b", 0)]);
        assert_eq!(
            all.out,
            "Deleted entry with ID: a\nDeleted entry with ID: b\n\n\nDeleted 2 entries successfully"
        );
        assert_eq!((all.err.as_str(), all.failed), ("", false));

        let some = deleted(&[result("a", 5), result("b", 0)]);
        assert_eq!(
            some.out,
            "Deleted entry with ID: b\n\n\n\n\nDeleted 1 entries successfully, but failed to delete \
             1 entries"
        );
        assert_eq!(
            some.err,
            "Failed to delete entry with ID a (code: NotFound, msg: \"entry not found\")\n"
        );
        assert!(some.failed);

        let none = deleted(&[result("a", 5)]);
        assert_eq!(none.out, "\n\nFailed to delete 1 entries");
    }
}
