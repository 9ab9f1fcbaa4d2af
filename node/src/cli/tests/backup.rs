//! `backup` and `cluster recover`: files, and what is refused before anything is touched.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chancery_api::chancery::backup::v1::{SaveRequest, SaveResponse};

use super::refused;
use crate::cli::testing::{Answer, FakeServer, Outcome, run};

const SAVE: &str = "/chancery.backup.v1.Backup/Save";

/// The stored sample of a backup.
fn sample() -> Vec<u8> {
    let text = include_str!("../../../../raft-store/tests/samples/backup.hex");
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

fn sent(chunk: Vec<u8>) -> Answer {
    Answer::ok(SAVE, &SaveResponse { chunk })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_saved_backup_is_the_owner_s_alone_and_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.backup");
    let server = FakeServer::start([sent(sample()), sent(sample())]);
    let line = format!("backup save -file {}", file.display());
    let outcome = server.run(&line);
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome.out.contains("Holds         : 2 entries, 1 agent, "),
        "{}",
        outcome.out
    );
    assert!(outcome.out.contains("every checksum and every row"));
    assert_eq!(fs::read(&file).unwrap(), sample());
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(names(folder.path()), ["c.backup"]);

    let outcome = server.run(&line);
    let wanted = format!(
        "Error: {} exists: choose another -file, or replace it with -force\n",
        file.display()
    );
    assert_eq!((outcome.err, outcome.success), (wanted, false));
    let outcome = server.run(&format!("{line} -force -staleOK -output json"));
    let report: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(report["counts"]["entries"], 2);
    assert_eq!(report["cluster_id"], "c");
    assert_eq!(report["verified"], true);
    assert!(report["stale_ms"].is_null());
    let asked: Vec<SaveRequest> = server.requests();
    let asked: Vec<_> = asked.iter().map(|request| request.stale_ok).collect();
    assert_eq!(asked, [false, true]);
    server.all_answered();
}

#[test]
fn what_did_not_arrive_whole_leaves_no_file_and_not_a_byte_of_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.backup");
    let mut flipped = sample();
    *flipped.last_mut().unwrap() ^= 1;
    let mut short = sample();
    short.truncate(100);
    for (answer, said) in [
        (sent(flipped), "c.backup.part is no whole backup: "),
        (sent(short), "c.backup.part is no whole backup: ends before"),
        (sent(Vec::new()), "c.backup.part is no whole backup: "),
        (
            Answer::refusal(SAVE, 14, "no quorum"),
            "code = Unavailable desc = no quorum",
        ),
    ] {
        let server = FakeServer::start([answer]);
        let outcome = server.run(&format!("backup save -file {}", file.display()));
        assert!(
            !outcome.success && outcome.err.contains(said),
            "{}",
            outcome.err
        );
        assert!(names(folder.path()).is_empty(), "{said}");
    }
    fs::write(&file, "of before").unwrap();
    let server = FakeServer::start([sent(vec![1])]);
    let outcome = server.run(&format!("backup save -force -file {}", file.display()));
    assert!(!outcome.success);
    assert_eq!(fs::read(&file).unwrap(), b"of before");
}

fn shown(verb: &str, file: &Path, more: &[&str]) -> Outcome {
    let file = file.display().to_string();
    let words = [&["backup", verb, "-file", &file], more].concat();
    run(&words, "")
}

#[test]
fn a_backup_is_shown_and_judged_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.backup");
    fs::write(&file, sample()).unwrap();
    let inspected = shown("inspect", &file, &[]);
    assert!(
        inspected.out.starts_with("Backup        : "),
        "{}",
        inspected.out
    );
    for line in [
        "Cluster       : c of trust domain example.org\n",
        "Log position  : 17 (term 1)\n",
        "Made          : 2027-01-15T08:00:00Z by node 2, version 0.1.0\n",
        "chancery backup verify also reads every row\n",
    ] {
        assert!(inspected.out.contains(line), "{line}: {}", inspected.out);
    }
    let verified = shown("verify", &file, &["-output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&verified.out).unwrap();
    assert_eq!((&report["format"], &report["term"]), (&1.into(), &1.into()));
    assert_eq!(report["created_at"], "2027-01-15T08:00:00Z");

    fs::write(&file, &sample()[..500]).unwrap();
    for verb in ["inspect", "verify"] {
        let outcome = shown(verb, &file, &["-output", "json"]);
        let wanted = format!(
            "Error: {} is no whole backup: ends before its trailer\n",
            file.display()
        );
        assert_eq!((outcome.out, outcome.err), (String::new(), wanted));
    }
    let nothing = shown("verify", &folder.path().join("none"), &[]);
    assert!(nothing.err.contains("cannot read"), "{}", nothing.err);
    let is_folder = shown("verify", folder.path(), &[]);
    assert!(
        is_folder.err.contains("is a directory"),
        "{}",
        is_folder.err
    );
}

/// A configuration with its data directory in `folder`.
fn config(folder: &Path, trust_domain: &str) -> String {
    let file = folder.join("chancery.toml");
    let data = folder.join("data");
    let text = format!(
        "trust_domain = \"{trust_domain}\"\ndata_dir = \"{}\"\n[api]\naddress = \"127.0.0.1:8081\"\n\
         [peer]\naddress = \"127.0.0.1:8082\"\n",
        data.display()
    );
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn a_backup_is_restored_once_for_its_own_trust_domain_and_never_over_something() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.backup");
    fs::write(&file, sample()).unwrap();
    let restore = |trust_domain: &str, more: &[&str]| {
        let config = config(folder.path(), trust_domain);
        shown("restore", &file, &[&["-config", &config], more].concat())
    };
    let data = folder.path().join("data");

    let other = restore("other.org", &[]);
    assert!(
        other.err.contains(
            "is a backup of trust domain example.org, the configuration is for other.org"
        ),
        "{}",
        other.err
    );
    assert_eq!(names(&data), ["lock"], "nothing but whose it is");
    fs::write(data.join("notes"), "of somebody").unwrap();
    let taken = restore("example.org", &[]);
    assert!(
        taken.err.contains("is not empty, it holds notes"),
        "{}",
        taken.err
    );
    fs::remove_file(data.join("notes")).unwrap();

    let done = restore("example.org", &["-output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(report["how"], "restored");
    assert_eq!(
        (&report["node_id"], &report["from_cluster_id"]),
        (&"3".into(), &"c".into())
    );
    assert!(report["kept_in"].is_null());
    assert_eq!(names(&data), ["identity", "lock", "snapshots", "store"]);
    let again = restore("example.org", &[]);
    assert!(
        again.err.contains("is not empty, it holds identity"),
        "{}",
        again.err
    );
}

#[test]
fn there_is_no_recovery_without_a_node_and_none_without_yes() {
    let folder = tempfile::tempdir().unwrap();
    let line = |config: &str, more: &[&str]| {
        run(
            &[&["cluster", "recover", "-config", config], more].concat(),
            "",
        )
    };
    let ours = config(folder.path(), "example.org");
    let nobody = line(&ours, &["-yes"]);
    assert!(
        nobody.err.contains("has no identity record"),
        "{}",
        nobody.err
    );

    let file = folder.path().join("c.backup");
    fs::write(&file, sample()).unwrap();
    assert!(shown("restore", &file, &["-config", &ours]).success);
    let before = names(&folder.path().join("data"));
    let asked = line(&ours, &[]);
    assert!(
        asked.err.contains("RECOVERY FROM ONE SURVIVOR: node 3"),
        "{}",
        asked.err
    );
    assert!(
        asked
            .err
            .ends_with("Error: nothing was changed: give -yes to go on from this node alone\n")
    );
    assert_eq!(names(&folder.path().join("data")), before);
    let other = line(&config(folder.path(), "other.org"), &["-yes"]);
    assert!(
        other.err.contains("belongs to trust domain example.org"),
        "{}",
        other.err
    );

    let ours = config(folder.path(), "example.org");
    let quarantine = folder.path().join("data").join("quarantine");
    fs::write(&quarantine, "it went wrong\n").unwrap();
    let doubtful = line(&ours, &["-yes"]);
    assert!(
        doubtful
            .err
            .contains("says: it went wrong; use another survivor"),
        "{}",
        doubtful.err
    );
    fs::remove_file(quarantine).unwrap();
    let done = line(&ours, &["-yes", "-output", "json"]);
    assert!(done.success, "{}", done.err);
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (&report["how"], &report["node_id"]),
        (&"recovered".into(), &"4".into())
    );
    let kept = report["kept_in"].as_str().unwrap();
    assert_eq!(names(Path::new(kept)), ["identity", "snapshots", "store"]);
    let lost = folder.path().join("data").join("store");
    fs::rename(&lost, folder.path().join("lost")).unwrap();
    let storeless = line(&ours, &["-yes"]);
    assert!(storeless.err.contains("has no store"), "{}", storeless.err);
}

#[test]
fn a_server_that_is_not_there_saves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.backup");
    let said = refused(&format!("backup save -file {}", file.display()));
    assert!(said.contains("cannot reach the server"), "{said}");
    assert!(names(folder.path()).is_empty());
}
