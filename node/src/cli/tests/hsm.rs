//! `hsm keys` and `hsm adopt` against a server that answers as told.

use chancery_api::chancery::keys::v1::{
    AdoptRequest, AdoptResponse, Key, ListResponse, Owner, SweepRequest, SweepResponse, Swept,
};

use super::refused;
use crate::cli::testing::{Answer, FakeServer};

const LIST: &str = "/chancery.keys.v1.Keys/List";
const SWEEP: &str = "/chancery.keys.v1.Keys/Sweep";
const ADOPT: &str = "/chancery.keys.v1.Keys/Adopt";

fn key(id: u8, label: &str, owner: Owner) -> Key {
    Key {
        id: vec![id; 16],
        label: label.into(),
        whole: true,
        owner: owner.into(),
        cluster_id: label.split('/').nth(1).unwrap_or_default().into(),
        ..Key::default()
    }
}

fn of_authority(id: u8, label: &str, owner: Owner, status: &str) -> Key {
    Key {
        authority_id: format!("0{id}"),
        authority_kind: "x509".into(),
        authority_status: status.into(),
        ..key(id, label, owner)
    }
}

fn list() -> ListResponse {
    ListResponse {
        backend: "pkcs11".into(),
        token_serials: vec!["42".into()],
        keys: vec![
            of_authority(1, "chancery/c/x509/2", Owner::Authority, "active"),
            key(2, "chancery/c/jwt/9", Owner::Intent),
            Key {
                whole: false,
                ..key(3, "chancery/c/x509/1", Owner::Orphan)
            },
            of_authority(4, "chancery/c/x509/0", Owner::Orphan, "revoked"),
            key(5, "chancery/b/x509/1", Owner::PastEpoch),
            key(6, "chancery/other/x509/1", Owner::Other),
        ],
        missing: vec![Key {
            authority_kind: "jwt".into(),
            ..of_authority(7, "chancery/c/jwt/1", Owner::Authority, "old")
        }],
        not_adopted: vec!["b".into()],
        cluster_id: "c".into(),
    }
}

const ID: fn(u8) -> String = |id| format!("{id:02x}").repeat(16);

#[test]
fn keys_are_shown_with_what_they_belong_to() {
    let server = FakeServer::start([Answer::ok(LIST, &list())]);
    let outcome = server.run("hsm keys");
    assert!(outcome.success, "{}", outcome.err);
    let row = |id: u8, label: &str, what: &str| format!("{}  {label:<21}  {what}\n", ID(id));
    let wanted = [
        "Keys    : pkcs11, token 42\nCluster : c\n\n".to_owned(),
        format!("{:<32}  {:<21}  BELONGS TO\n", "ID", "LABEL"),
        row(1, "chancery/c/x509/2", "active X.509 authority 01"),
        row(2, "chancery/c/jwt/9", "a key that is being made"),
        row(3, "chancery/c/x509/1", "nothing: an orphan (not whole)"),
        row(
            4,
            "chancery/c/x509/0",
            "nothing: an orphan of revoked X.509 authority 04",
        ),
        row(
            5,
            "chancery/b/x509/1",
            "this cluster's former id b, not adopted",
        ),
        row(6, "chancery/other/x509/1", "another cluster"),
        "\nMissing: the key of old JWT authority 07, chancery/c/jwt/1\n".into(),
        "2 orphans: `chancery hsm keys -sweep -yes` destroys them.\n".into(),
        "This cluster was restored or recovered: see `chancery hsm adopt`.\n".into(),
    ];
    assert_eq!(outcome.out, wanted.concat());
}

#[test]
fn a_sweep_names_the_orphans_first_and_destroys_nothing_else() {
    let kept = SweepResponse {
        results: ["", "it is being made"]
            .map(|why| Swept {
                kept_because: why.into(),
            })
            .into(),
    };
    let server = FakeServer::start([
        Answer::ok(LIST, &list()),
        Answer::ok(LIST, &list()),
        Answer::ok(SWEEP, &kept),
    ]);
    let proposed = server.run("hsm keys -sweep");
    assert!(proposed.success, "{}", proposed.err);
    assert!(proposed.out.contains(&ID(3)) && proposed.out.contains(&ID(4)));
    assert!(!proposed.out.contains(&ID(1)) && !proposed.out.contains(&ID(5)));
    let last = "Would destroy 2 keys for good; repeat with -yes.\n";
    assert!(proposed.out.ends_with(last), "{}", proposed.out);

    let swept = server.run("hsm keys -sweep -yes");
    assert!(!swept.success);
    assert_eq!(
        swept.out,
        format!(
            "Destroyed {} chancery/c/x509/1\nKept      {} chancery/c/x509/0: it is being made\n",
            ID(3),
            ID(4)
        )
    );
    assert_eq!(swept.err, "Error: 1 of the keys above are still there\n");
    let asked: SweepRequest = server.request(2);
    let ids: Vec<_> = asked.keys.iter().map(|key| key.id[0]).collect();
    assert_eq!(ids, [3, 4]);
}

#[test]
fn nothing_to_sweep_calls_no_sweep() {
    let server = FakeServer::start([Answer::ok(LIST, &ListResponse::default())]);
    assert_eq!(
        server.run("hsm keys -sweep -yes").out,
        "No orphans: every key of this cluster's belongs to an authority, or is being made.\n"
    );
    server.all_answered();
}

#[test]
fn keys_of_a_former_epoch_are_adopted_when_told_so() {
    let matched = AdoptResponse {
        matched: vec![of_authority(
            1,
            "chancery/b/x509/2",
            Owner::Authority,
            "active",
        )],
    };
    let server = FakeServer::start([
        Answer::ok(LIST, &list()),
        Answer::ok(ADOPT, &matched),
        Answer::ok(LIST, &list()),
        Answer::ok(ADOPT, &matched),
        Answer::ok(LIST, &ListResponse::default()),
    ]);
    let looked = server.run("hsm adopt").out;
    assert!(
        looked.starts_with("As the log has them: 1 key\n"),
        "{looked}"
    );
    assert!(
        looked.ends_with(
            "Would adopt the keys of b. If nothing of that cluster runs any more, repeat with -yes.\n"
        ),
        "{looked}"
    );
    assert!(
        server
            .run("hsm adopt -yes")
            .out
            .ends_with("Adopted the keys of b.\n")
    );
    assert!(server.run("hsm adopt").out.starts_with("Nothing to adopt"));
    for (at, dry_run) in [(1, true), (3, false)] {
        let asked: AdoptRequest = server.request(at);
        assert_eq!(
            (asked.cluster_ids, asked.dry_run),
            (vec!["b".into()], dry_run)
        );
    }
}

#[test]
fn yes_alone_is_refused() {
    assert!(refused("hsm keys -yes").contains("sweep"));
}
