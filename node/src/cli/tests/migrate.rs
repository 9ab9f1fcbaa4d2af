//! `migrate config` with files, and `migrate data` between two servers that answer as told.

use chancery_api::chancery::migrate::v1::ImportAgentBanRequest;
use chancery_api::spire::api::server::agent::v1::{CountAgentsResponse, ListAgentsResponse};
use chancery_api::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleResponse, ListFederatedBundlesResponse,
    batch_create_federated_bundle_response,
};
use chancery_api::spire::api::server::entry::v1::{
    BatchCreateEntryResponse, BatchUpdateEntryResponse, CountEntriesResponse, ListEntriesResponse,
    batch_create_entry_response, batch_update_entry_response,
};
use chancery_api::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipResponse, ListFederationRelationshipsResponse,
    batch_create_federation_relationship_response,
};
use chancery_api::spire::api::types::{
    Agent, Bundle, Entry, FederationRelationship, JwtKey, Status, X509Certificate,
};
use prost::Message;

use super::{COUNT, id, selector};
use crate::cli::testing::{Answer, FakeServer, Outcome, run};

const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const APPEND: &str = "/spire.api.server.bundle.v1.Bundle/AppendBundle";
const BAN: &str = "/spire.api.server.agent.v1.Agent/BanAgent";
const COUNT_AGENTS: &str = "/spire.api.server.agent.v1.Agent/CountAgents";
const LIST_AGENTS: &str = "/spire.api.server.agent.v1.Agent/ListAgents";
const IMPORT: &str = "/chancery.migrate.v1.Migration/ImportAgentBan";
const LIST_BUNDLES: &str = "/spire.api.server.bundle.v1.Bundle/ListFederatedBundles";
const CREATE_BUNDLES: &str = "/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle";
const LIST_RELATIONSHIPS: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships";
const CREATE_RELATIONSHIPS: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship";
const LIST: &str = "/spire.api.server.entry.v1.Entry/ListEntries";
const GET: &str = "/spire.api.server.entry.v1.Entry/GetEntry";
const CREATE: &str = "/spire.api.server.entry.v1.Entry/BatchCreateEntry";
const UPDATE: &str = "/spire.api.server.entry.v1.Entry/BatchUpdateEntry";

fn status(code: i32, message: &str) -> Option<Status> {
    Some(Status {
        code,
        message: message.into(),
    })
}

fn bundle_of(trust_domain: &str) -> Answer {
    let bundle = Bundle {
        trust_domain: trust_domain.into(),
        ..Bundle::default()
    };
    Answer::ok(BUNDLE, &bundle)
}

fn banned(name: &str) -> Agent {
    Agent {
        id: id(&format!("/spire/agent/x509pop/{name}")),
        attestation_type: "x509pop".into(),
        selectors: vec![selector("x509pop", "ca:fingerprint:00")],
        x509svid_expires_at: 1_552_410_266,
        banned: true,
        can_reattest: true,
        ..Agent::default()
    }
}

fn agents(agents: Vec<Agent>) -> Answer {
    let listed = ListAgentsResponse {
        agents,
        next_page_token: String::new(),
    };
    Answer::ok(LIST_AGENTS, &listed)
}

fn count_agents(count: i32) -> Answer {
    Answer::ok(COUNT_AGENTS, &CountAgentsResponse { count })
}

fn federated(name: &str, sequence_number: u64) -> Bundle {
    Bundle {
        trust_domain: name.into(),
        jwt_authorities: vec![JwtKey {
            public_key: vec![1],
            key_id: "k".into(),
            ..JwtKey::default()
        }],
        sequence_number,
        ..Bundle::default()
    }
}

fn bundles(bundles: Vec<Bundle>) -> Answer {
    let listed = ListFederatedBundlesResponse {
        bundles,
        next_page_token: String::new(),
    };
    Answer::ok(LIST_BUNDLES, &listed)
}

fn relationships(names: &[&str]) -> Answer {
    let one = |name: &&str| FederationRelationship {
        trust_domain: (*name).into(),
        bundle_endpoint_url: format!("https://{name}/bundle"),
        ..FederationRelationship::default()
    };
    let listed = ListFederationRelationshipsResponse {
        federation_relationships: names.iter().map(one).collect(),
        next_page_token: String::new(),
    };
    Answer::ok(LIST_RELATIONSHIPS, &listed)
}

fn entry(name: &str) -> Entry {
    Entry {
        id: name.into(),
        spiffe_id: id(&format!("/{name}")),
        parent_id: id("/node"),
        selectors: vec![selector("unix", "uid:1"), selector("unix", "gid:1")],
        revision_number: 3,
        created_at: 1_552_410_266,
        ..Entry::default()
    }
}

fn page(entries: Vec<Entry>, next: &str) -> Answer {
    let listed = ListEntriesResponse {
        entries,
        next_page_token: next.into(),
    };
    Answer::ok(LIST, &listed)
}

fn count_entries(count: i32) -> Answer {
    Answer::ok(COUNT, &CountEntriesResponse { count })
}

fn created(results: Vec<(Option<Status>, Option<Entry>)>) -> Answer {
    let results = results.into_iter();
    let response = BatchCreateEntryResponse {
        results: results
            .map(|(status, entry)| batch_create_entry_response::Result { status, entry })
            .collect(),
    };
    Answer::ok(CREATE, &response)
}

/// A source that has entries alone.
fn source_of(entries: Vec<Entry>) -> FakeServer {
    let count = i32::try_from(entries.len()).unwrap();
    FakeServer::start([
        bundle_of("example.org"),
        count_agents(0),
        agents(vec![]),
        bundles(vec![]),
        relationships(&[]),
        count_entries(count),
        page(entries, ""),
    ])
}

/// A target with these entries, and then answers.
fn target_of(entries: Vec<Entry>, then: Vec<Answer>) -> FakeServer {
    let before = [
        bundle_of("example.org"),
        agents(vec![]),
        bundles(vec![]),
        relationships(&[]),
        page(entries, ""),
    ];
    FakeServer::start(before.into_iter().chain(then))
}

fn migrate(source: &FakeServer, target: &FakeServer, flags: &str) -> Outcome {
    let from = source.socket().display().to_string();
    target.run(&format!("migrate data --from-socket {from}{flags}"))
}

/// The request of a call, by its place among all.
fn sent<M: Message + Default>(server: &FakeServer, at: usize) -> M {
    M::decode(server.raw_requests()[at].clone()).unwrap()
}

#[test]
fn everything_is_copied_bans_first_and_bundles_before_entries() {
    let federating = Entry {
        federates_with: vec!["partner.test".into()],
        ..entry("one")
    };
    let source = FakeServer::start([
        bundle_of("example.org"),
        count_agents(2),
        agents(vec![banned("a"), banned("b")]),
        bundles(vec![federated("partner.test", 7)]),
        relationships(&["partner.test"]),
        count_entries(3),
        page(vec![federating.clone(), entry("two")], "2"),
        page(vec![entry("three")], "3"),
        page(vec![], ""),
    ]);
    let bundles_created = BatchCreateFederatedBundleResponse {
        results: vec![batch_create_federated_bundle_response::Result {
            status: status(0, "OK"),
            bundle: None,
        }],
    };
    let relationships_created = BatchCreateFederationRelationshipResponse {
        results: vec![batch_create_federation_relationship_response::Result {
            status: status(0, "OK"),
            federation_relationship: None,
        }],
    };
    let target = FakeServer::start([
        bundle_of("example.org"),
        agents(vec![banned("b")]),
        Answer::ok(IMPORT, &()),
        bundles(vec![]),
        Answer::ok(CREATE_BUNDLES, &bundles_created),
        relationships(&[]),
        Answer::ok(CREATE_RELATIONSHIPS, &relationships_created),
        page(vec![entry("own")], ""),
        created(vec![
            (status(0, "OK"), Some(entry("one"))),
            (status(0, "OK"), Some(entry("two"))),
        ]),
        created(vec![(status(0, "OK"), Some(entry("three")))]),
    ]);
    let outcome = migrate(&source, &target, "");
    assert!(outcome.success, "{}{}", outcome.out, outcome.err);
    let table: Vec<_> = outcome
        .out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        table,
        [
            "at source equal created updated different similar failed only at target",
            "agent bans 2 1 1 0 0 0 0 0",
            "federated bundles 1 0 1 0 0 0 0 0",
            "federation relationships 1 0 1 0 0 0 0 0",
            "entries 3 0 3 0 0 0 0 1",
            "",
            "Created 6, updated 0.",
        ]
    );
    assert_eq!(
        outcome.err,
        "agent bans: 2 of 2\nfederated bundles: 1 of 1\nfederation relationships: 1 of 1\n\
         entries: 3 of 3\n"
    );
    let ban: ImportAgentBanRequest = sent(&target, 2);
    assert_eq!(ban.id, banned("a").id);
    assert_eq!(ban.selectors, banned("a").selectors);
    assert!(ban.can_reattest);
    let first: chancery_api::spire::api::server::entry::v1::BatchCreateEntryRequest =
        sent(&target, 8);
    let expected = Entry {
        selectors: vec![selector("unix", "gid:1"), selector("unix", "uid:1")],
        revision_number: 0,
        created_at: 0,
        ..federating
    };
    assert_eq!(first.entries[0], expected);
    source.all_answered();
    target.all_answered();
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let there = Entry {
        revision_number: 9,
        created_at: 5,
        ..entry("one")
    };
    let source = source_of(vec![entry("one")]);
    let target = target_of(vec![there], vec![]);
    let outcome = migrate(&source, &target, "");
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome.out.ends_with("\n\nNothing was changed.\n"),
        "{}",
        outcome.out
    );
    target.all_answered();
}

#[test]
fn a_dry_run_reads_only() {
    let changed = Entry {
        hint: "x".into(),
        ..entry("one")
    };
    let source = source_of(vec![changed, entry("two")]);
    let target = target_of(vec![entry("one")], vec![Answer::ok(GET, &entry("one"))]);
    let outcome = migrate(&source, &target, " --dry-run --update");
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome
            .out
            .starts_with("updated: entries: one (spiffe://example.org/one): hint\n\n"),
        "{}",
        outcome.out
    );
    assert!(
        outcome
            .out
            .ends_with("Dry run: nothing was changed; a run would create 1 and update 1.\n"),
        "{}",
        outcome.out
    );
    target.all_answered();
}

#[test]
fn what_differs_is_told_and_overwritten_only_when_asked() {
    let changed = || Entry {
        hint: "x".into(),
        x509_svid_ttl: 60,
        ..entry("one")
    };
    let source = source_of(vec![changed()]);
    let target = target_of(vec![entry("one")], vec![Answer::ok(GET, &entry("one"))]);
    let outcome = migrate(&source, &target, "");
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome.out.starts_with(
            "different: entries: one (spiffe://example.org/one): x509_svid_ttl, hint\n"
        ),
        "{}",
        outcome.out
    );
    assert!(outcome.out.ends_with(
        "Nothing was changed. 1 differ and were left as they are; --update overwrites them.\n"
    ));
    target.all_answered();

    let updated = BatchUpdateEntryResponse {
        results: vec![batch_update_entry_response::Result {
            status: status(0, "OK"),
            entry: None,
        }],
    };
    let source = source_of(vec![changed()]);
    let target = target_of(vec![entry("one")], vec![Answer::ok(UPDATE, &updated)]);
    let outcome = migrate(&source, &target, " --update");
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome.out.ends_with("Created 0, updated 1.\n"),
        "{}",
        outcome.out
    );
    target.all_answered();
}

#[test]
fn a_similar_entry_under_another_id_is_told_whoever_finds_it() {
    let other = |name: &str| Entry {
        id: "other".into(),
        hint: "not compared".into(),
        ..entry(name)
    };
    let source = source_of(vec![entry("one"), entry("two")]);
    let target = target_of(
        vec![other("one")],
        vec![created(vec![(
            status(6, "similar entry already exists"),
            Some(Entry {
                id: "late".into(),
                ..entry("two")
            }),
        )])],
    );
    let outcome = migrate(&source, &target, "");
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome.out.starts_with(
            "similar: entries: one (spiffe://example.org/one): entry other at the target has the \
             same SPIFFE ID, parent and selectors\n\
             similar: entries: two (spiffe://example.org/two): entry late at the target"
        ),
        "{}",
        outcome.out
    );
    target.all_answered();
}

#[test]
fn refused_items_are_named_and_the_others_go_on() {
    let source = source_of(vec![entry("one"), entry("two"), entry("three")]);
    let target = target_of(
        vec![],
        vec![created(vec![
            (status(3, "failed to convert entry: no"), None),
            (status(0, "OK"), None),
            (None, None),
        ])],
    );
    let outcome = migrate(&source, &target, " -output json");
    assert!(!outcome.success);
    let report: serde_json::Value =
        serde_json::from_str(outcome.out.lines().next().unwrap()).unwrap();
    assert_eq!(report["kinds"]["entries"]["created"], 1);
    assert_eq!(report["kinds"]["entries"]["failed"], 2);
    assert_eq!(report["findings"][0]["fate"], "failed");
    assert_eq!(
        report["findings"][0]["why"],
        "InvalidArgument: failed to convert entry: no"
    );
    assert!(
        outcome
            .err
            .ends_with("Error: some items could not be copied\n"),
        "{}",
        outcome.err
    );
}

#[test]
fn no_entry_is_copied_where_a_ban_was_not() {
    let source = FakeServer::start([
        bundle_of("example.org"),
        count_agents(2),
        agents(vec![banned("a"), banned("b")]),
    ]);
    let target = FakeServer::start([
        bundle_of("example.org"),
        agents(vec![]),
        Answer::refusal(IMPORT, 3, "invalid agent ID"),
        Answer::ok(IMPORT, &()),
    ]);
    let outcome = migrate(&source, &target, "");
    assert!(!outcome.success);
    assert!(
        outcome.out.starts_with(
            "failed: agent bans: spiffe://example.org/spire/agent/x509pop/a: rpc error: code = \
             InvalidArgument desc = invalid agent ID\n"
        ),
        "{}",
        outcome.out
    );
    assert!(
        outcome
            .out
            .contains("\nentries                   not copied\n"),
        "{}",
        outcome.out
    );
    assert!(
        outcome.err.contains("a ban could not be copied"),
        "{}",
        outcome.err
    );
    target.all_answered();
}

#[test]
fn a_server_of_spire_s_bans_whom_it_knows() {
    let source = FakeServer::start([
        bundle_of("example.org"),
        count_agents(2),
        agents(vec![banned("known"), banned("unknown")]),
    ]);
    let unimplemented = || Answer::refusal(IMPORT, 12, "unknown service");
    let target = FakeServer::start([
        bundle_of("example.org"),
        agents(vec![]),
        unimplemented(),
        Answer::ok(BAN, &()),
        unimplemented(),
        Answer::refusal(BAN, 5, "agent not found"),
    ]);
    let outcome = migrate(&source, &target, "");
    assert!(!outcome.success);
    assert!(
        outcome.out.starts_with(
            "failed: agent bans: spiffe://example.org/spire/agent/x509pop/unknown: rpc error: code = \
             NotFound desc = agent not found\n"
        ),
        "{}",
        outcome.out
    );
    assert!(
        outcome.out.contains("Created 1, updated 0. 1 failed.\n"),
        "{}",
        outcome.out
    );
    target.all_answered();
}

#[test]
fn a_server_that_goes_away_ends_the_run_with_what_was_done() {
    let source = FakeServer::start([
        bundle_of("example.org"),
        count_agents(1),
        agents(vec![banned("a")]),
    ]);
    let target = FakeServer::start([
        bundle_of("example.org"),
        agents(vec![]),
        Answer::refusal(IMPORT, 14, "no quorum"),
    ]);
    let outcome = migrate(&source, &target, "");
    assert!(!outcome.success);
    assert!(outcome.out.contains("not copied"), "{}", outcome.out);
    assert!(
        outcome.err.ends_with(
            "Error: the target server, banning an agent: rpc error: code = Unavailable desc = no \
             quorum\n"
        ),
        "{}",
        outcome.err
    );
}

#[test]
fn servers_of_two_trust_domains_or_one_server_are_refused() {
    let source = FakeServer::start([bundle_of("other.org")]);
    let target = FakeServer::start([bundle_of("example.org")]);
    let outcome = migrate(&source, &target, "");
    assert!(!outcome.success);
    assert_eq!(outcome.out, "");
    assert_eq!(
        outcome.err,
        "Error: the source's trust domain is \"other.org\" and the target's \"example.org\": nothing \
         can be copied between them\n"
    );
    let outcome = migrate(&target, &target, "");
    assert!(
        outcome.err.contains("name the same socket"),
        "{}",
        outcome.err
    );
    let outcome = target.run("migrate data --from-socket /nonexistent/api.sock");
    assert!(
        outcome.err.starts_with(
            "Error: the source server, connecting: cannot reach the server at unix:/nonexistent"
        ),
        "{}",
        outcome.err
    );
}

#[test]
fn trust_goes_both_ways_and_leaves_out_what_is_tainted() {
    let authority = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().to_vec()
    };
    let x509 = |asn1: Vec<u8>, tainted| X509Certificate { asn1, tainted };
    let jwt = |key_id: &str| JwtKey {
        public_key: vec![1],
        key_id: key_id.into(),
        ..JwtKey::default()
    };
    let (both, old, new, bad) = (authority(), authority(), authority(), authority());
    let at_source = Bundle {
        trust_domain: "example.org".into(),
        x509_authorities: vec![
            x509([both.clone(), old.clone()].concat(), false),
            x509(bad, true),
        ],
        jwt_authorities: vec![jwt("old"), jwt("both")],
        ..Bundle::default()
    };
    let at_target = Bundle {
        trust_domain: "example.org".into(),
        x509_authorities: vec![x509(new.clone(), false), x509(both, false)],
        jwt_authorities: vec![jwt("both")],
        ..Bundle::default()
    };
    let run = |dry_run: bool| {
        let server = |bundle: &Bundle| {
            let reading = [bundle_of("example.org"), Answer::ok(BUNDLE, bundle)];
            let writing = (!dry_run).then(|| Answer::ok(APPEND, bundle));
            FakeServer::start(reading.into_iter().chain(writing))
        };
        let (source, target) = (server(&at_source), server(&at_target));
        let from = source.socket().display().to_string();
        let flag = if dry_run { " --dry-run" } else { "" };
        let outcome = target.run(&format!("migrate trust --from-socket {from}{flag}"));
        assert!(outcome.success, "{}", outcome.err);
        source.all_answered();
        target.all_answered();
        (outcome.out, source, target)
    };
    let (out, ..) = run(true);
    assert!(
        out.contains(
            "): would add 1 X.509 authority and 1 JWT authority; left out 1 tainted authority\n"
        ),
        "{out}"
    );
    let (out, source, target) = run(false);
    assert!(
        out.contains("): added 1 X.509 authority and 0 JWT authorities\n"),
        "{out}"
    );
    let to_target: AppendBundleRequest = sent(&target, 2);
    assert_eq!(to_target.x509_authorities, [x509(old, false)]);
    assert_eq!(to_target.jwt_authorities, [jwt("old")]);
    let to_source: AppendBundleRequest = sent(&source, 2);
    assert_eq!(to_source.x509_authorities, [x509(new, false)]);
    assert_eq!(to_source.jwt_authorities, []);
}

#[test]
fn an_answer_that_does_not_fit_is_no_success() {
    let source = source_of(vec![entry("one")]);
    let target = target_of(vec![], vec![created(vec![])]);
    let outcome = migrate(&source, &target, "");
    assert!(!outcome.success);
    assert!(
        outcome.err.contains("0 results for 1 items"),
        "{}",
        outcome.err
    );

    let source = FakeServer::start([
        bundle_of("example.org"),
        count_agents(0),
        agents(vec![]),
        bundles(vec![]),
        relationships(&[]),
        count_entries(1),
        page(vec![entry("one")], "7"),
        page(vec![], "7"),
    ]);
    let target = target_of(vec![entry("one")], vec![]);
    let outcome = migrate(&source, &target, "");
    assert!(!outcome.success);
    assert!(
        outcome.err.contains("page \"7\" is followed by itself"),
        "{}",
        outcome.err
    );
}

#[test]
fn a_configuration_is_written_where_nothing_is_yet() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("server.conf");
    let toml = folder.path().join("chancery.toml");
    std::fs::write(
        &conf,
        "server {\n  bind_address = \"127.0.0.1\"\n  trust_domain = \"$TD\"\n  data_dir = \"/x\"\n  \
         odd = 1\n}\n",
    )
    .unwrap();
    let (conf, toml) = (conf.display().to_string(), toml.display().to_string());
    let outcome = run(&["migrate", "config", &conf, "-out", &toml], "");
    assert!(outcome.success, "{}", outcome.err);
    assert_eq!(outcome.out, "");
    assert!(
        outcome
            .err
            .starts_with(&format!("{conf}:3: server.trust_domain: is wrong: ")),
        "{}",
        outcome.err
    );
    assert!(
        outcome
            .err
            .contains(&format!("\n{conf}:5: server.odd: unknown key")),
        "{}",
        outcome.err
    );
    assert!(
        outcome
            .err
            .contains("\nstill wrong with the result: trust_domain: is required\n"),
        "{}",
        outcome.err
    );
    // What was written is not written over.
    let outcome = run(&["migrate", "config", &conf, "-out", &toml], "");
    assert!(!outcome.success);
    assert!(
        outcome
            .err
            .starts_with(&format!("Error: cannot write {toml}: ")),
        "{}",
        outcome.err
    );
}

#[test]
fn a_configuration_goes_through_pipes() {
    let conf = "server { bind_address = \"127.0.0.1\" trust_domain = \"example.org\" data_dir = \"/x$NONE\" }";
    let outcome = run(&["migrate", "config", "-expandEnv", "-"], conf);
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome.out.contains("\ntrust_domain = \"example.org\"\n"),
        "{}",
        outcome.out
    );
    assert!(
        outcome
            .err
            .starts_with("-: the variable NONE is not set; nothing stands in its place\n"),
        "{}",
        outcome.err
    );
    let config = crate::config::Config::parse(&outcome.out, "test").unwrap();
    assert_eq!(config.data_dir.to_str(), Some("/x/chancery"));
}

#[test]
fn what_is_no_configuration_is_told_with_its_place() {
    let outcome = run(&["migrate", "config", "-"], "server {\n  a b\n}");
    assert!(!outcome.success);
    assert_eq!(
        outcome.err,
        "Error: -: line 3, column 1: expected '=' or '{' after \"b\", found '}'\n"
    );
    assert_eq!(outcome.out, "");
    let outcome = run(&["migrate", "config", "/nonexistent/server.conf"], "");
    assert!(
        outcome
            .err
            .starts_with("Error: cannot read /nonexistent/server.conf: "),
        "{}",
        outcome.err
    );
}
