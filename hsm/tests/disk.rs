//! The disk backend: the promises of the trait, keys that outlive their process, and files that
//! are not what they should be.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use chancery_hsm::disk::inspect;
use chancery_hsm::testing::{conformance, fresh_key};
use chancery_hsm::{
    BackendKind, DiskConfig, DiskSigner, KeyDirectoryProblem, KeyFileProblem, KeyId, KeyRef,
    KeySpec, KeyType, PublicKeyInfo, Retry, SecretFileProblem, Signer, SignerError, verify,
};
use proptest::prelude::*;

const PASSPHRASE: &str = "canary of 4711 horses\n";
const CHECKSUM_BYTES: usize = 32;

/// A place for a directory of keys and a passphrase file.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().expect("a directory"));
        site.write_passphrase(PASSPHRASE, 0o600);
        site
    }

    fn keys(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    fn passphrase_file(&self) -> PathBuf {
        self.0.path().join("passphrase")
    }

    fn write_passphrase(&self, text: &str, mode: u32) {
        fs::write(self.passphrase_file(), text).expect("writes");
        set_mode(&self.passphrase_file(), mode);
    }

    fn config(&self, sealed: bool) -> DiskConfig {
        DiskConfig {
            directory: self.keys(),
            passphrase_file: sealed.then(|| self.passphrase_file()),
        }
    }

    async fn open(&self, sealed: bool) -> DiskSigner {
        DiskSigner::open(self.config(sealed)).await.expect("opens")
    }

    async fn refused(&self, sealed: bool) -> SignerError {
        let opened = DiskSigner::open(self.config(sealed)).await;
        opened.map(drop).expect_err("must not open")
    }

    fn file(&self, id: KeyId) -> PathBuf {
        self.keys().join(format!("{id}.key"))
    }

    /// The only key file is refused by its name for this.
    async fn file_refused(&self, sealed: bool, id: KeyId) -> KeyFileProblem {
        match self.refused(sealed).await {
            SignerError::KeyFile { path, problem } => {
                assert_eq!(path, self.file(id));
                problem
            }
            other => panic!("{other}"),
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.keys())
            .expect("lists")
            .map(|entry| entry.expect("an entry").file_name().into_string())
            .map(|name| name.expect("text"))
            .filter(|name| name != "lock")
            .collect();
        names.sort();
        names
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets the mode");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").mode() & 0o7777
}

async fn generate(signer: &dyn Signer, key: &KeyRef, key_type: KeyType) -> PublicKeyInfo {
    let spec = KeySpec {
        key: key.clone(),
        key_type,
    };
    signer.generate(&spec).await.expect("generates")
}

async fn signs(signer: &dyn Signer, key: &KeyRef, public: &PublicKeyInfo) {
    let algorithm = public.key_type.algorithm();
    let signed = signer.sign(key, algorithm, b"m").await.expect("signs");
    assert!(verify(&public.spki_der, algorithm, b"m", &signed));
}

/// A site with one key, closed, and what its file holds.
async fn one_key(sealed: bool) -> (Site, KeyRef, PublicKeyInfo, Vec<u8>) {
    let site = Site::new();
    let key = fresh_key("ca/x509/1");
    let signer = site.open(sealed).await;
    let public = generate(&signer, &key, KeyType::EcP256).await;
    drop(signer);
    let bytes = fs::read(site.file(key.id)).expect("reads");
    (site, key, public, bytes)
}

/// With the checksum that belongs to it.
fn mended(mut file: Vec<u8>) -> Vec<u8> {
    let content = file.len() - CHECKSUM_BYTES;
    let checksum = digest(&SHA256, &file[..content]);
    file[content..].copy_from_slice(checksum.as_ref());
    file
}

#[tokio::test]
async fn plain_files_keep_the_promises_of_a_signer() {
    let site = Site::new();
    let signer = site.open(false).await;
    assert_eq!(signer.kind(), BackendKind::Disk);
    assert!(signer.token_serials().is_empty());
    conformance(&signer).await;
    assert_eq!(site.names(), Vec::<String>::new(), "left behind");
}

#[tokio::test]
async fn sealed_files_keep_the_promises_of_a_signer() {
    let site = Site::new();
    let signer = site.open(true).await;
    conformance(&signer).await;
    assert_eq!(site.names(), Vec::<String>::new(), "left behind");
}

#[tokio::test]
async fn the_same_keys_sign_after_a_restart() {
    for sealed in [false, true] {
        let site = Site::new();
        let mut keys = Vec::new();
        let signer = site.open(sealed).await;
        for key_type in KeyType::ALL {
            let key = fresh_key(key_type.as_str());
            let public = generate(&signer, &key, key_type).await;
            keys.push((key, public));
        }
        let listed = signer.list("").await;
        let gone = fresh_key("gone");
        generate(&signer, &gone, KeyType::EcP256).await;
        signer.delete(&gone).await.expect("deletes");
        drop(signer);

        let again = site.open(sealed).await;
        assert_eq!(again.list("").await, listed);
        for (key, public) in &keys {
            assert_eq!(again.public_key(key).await.as_ref(), Ok(public));
            signs(&again, key, public).await;
            let spec = KeySpec {
                key: key.clone(),
                key_type: KeyType::EcP256,
            };
            let refused = again.generate(&spec).await.expect_err("the id is taken");
            assert_eq!(refused, SignerError::AlreadyExists { id: key.id });
        }
        let absent = again.public_key(&gone).await.expect_err("deleted");
        assert_eq!(absent, SignerError::NotFound { key: gone });
        assert_eq!(mode(&site.keys()), 0o700);
        assert_eq!(site.names().len(), keys.len());
        for (key, public) in &keys {
            assert_eq!(mode(&site.file(key.id)), 0o600);
            let bytes = fs::read(site.file(key.id)).expect("reads");
            let facts = inspect(&bytes).expect("is whole");
            assert_eq!((&facts.key, &facts.public), (key, public));
            assert_eq!(facts.sealed, sealed);
        }
    }
}

#[tokio::test]
async fn a_sealed_file_holds_nothing_of_the_key_and_another_nonce_each_time() {
    let (site, key, public, plain) = one_key(false).await;
    // Of its PKCS#8, which lies before the checksum.
    let private = &plain[plain.len() - CHECKSUM_BYTES - 100..plain.len() - CHECKSUM_BYTES - 70];

    // Turning sealing on seals what is there.
    let sealing = site.open(true).await;
    signs(&sealing, &key, &public).await;
    let second = fresh_key("ca/x509/2");
    generate(&sealing, &second, KeyType::EcP256).await;
    drop(sealing);
    let sealed = fs::read(site.file(key.id)).expect("reads");
    let other = fs::read(site.file(second.id)).expect("reads");
    assert!(plain.windows(private.len()).any(|part| part == private));
    assert!(!sealed.windows(private.len()).any(|part| part == private));
    let nonce = |file: &[u8]| {
        let salt = prefix(file);
        let nonce = salt + 16;
        (file[salt..nonce].to_vec(), file[nonce..nonce + 12].to_vec())
    };
    let ((salt, nonce_one), (same_salt, nonce_two)) = (nonce(&sealed), nonce(&other));
    assert_eq!(salt, same_salt, "one derivation opens both");
    assert_ne!(nonce_one, nonce_two);
    assert_eq!(
        site.file_refused(false, key.id.min(second.id)).await,
        KeyFileProblem::Sealed
    );
    let again = site.open(true).await;
    signs(&again, &key, &public).await;
}

/// Where the public key ends and what protects the private one begins.
fn prefix(file: &[u8]) -> usize {
    let behind = |at: usize| at + 2 + usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
    behind(behind(28))
}

#[tokio::test]
async fn every_torn_file_is_refused_by_name() {
    for sealed in [false, true] {
        let (site, key, _, whole) = one_key(sealed).await;
        for length in 0..whole.len() {
            let problem = inspect(&whole[..length]).expect_err("is torn");
            assert_eq!(problem, KeyFileProblem::Torn { bytes: length });
        }
        for length in [0, 7, whole.len() / 2, whole.len() - 1] {
            fs::write(site.file(key.id), &whole[..length]).expect("writes");
            let problem = site.file_refused(sealed, key.id).await;
            assert_eq!(problem, KeyFileProblem::Torn { bytes: length });
        }
    }
}

#[tokio::test]
async fn every_flipped_bit_is_refused() {
    for sealed in [false, true] {
        let (site, key, _, whole) = one_key(sealed).await;
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(inspect(&flipped).is_err(), "byte {at}, bit {bit}");
            }
        }
        for (at, wanted) in [
            (0, KeyFileProblem::Magic),
            (9, KeyFileProblem::Version(3)),
            (10, KeyFileProblem::Protection(u8::from(sealed) ^ 2)),
            (whole.len() - 40, KeyFileProblem::Checksum),
            (whole.len() - 1, KeyFileProblem::Checksum),
        ] {
            let mut flipped = whole.clone();
            flipped[at] ^= 2;
            fs::write(site.file(key.id), flipped).expect("writes");
            assert_eq!(site.file_refused(sealed, key.id).await, wanted);
        }
    }
}

#[tokio::test]
async fn bytes_behind_the_end_are_refused() {
    let (site, key, _, whole) = one_key(false).await;
    fs::write(site.file(key.id), [&whole[..], b"\n"].concat()).expect("writes");
    let problem = site.file_refused(false, key.id).await;
    assert_eq!(problem, KeyFileProblem::Trailing { bytes: 1 });
    fs::write(site.file(key.id), vec![0; 1 << 20]).expect("writes");
    assert_eq!(
        site.file_refused(false, key.id).await,
        KeyFileProblem::TooLong
    );
}

#[tokio::test]
async fn changes_on_purpose_are_refused() {
    let (site, key, _, plain) = one_key(false).await;
    let refused = async |bytes: Vec<u8>| {
        fs::write(site.file(key.id), mended(bytes)).expect("writes");
        site.file_refused(false, key.id).await
    };
    let changed = |at: usize, to: u8| {
        let mut file = plain.clone();
        file[at] = to;
        file
    };
    assert_eq!(refused(changed(11, 9)).await, KeyFileProblem::KeyType(9));
    assert!(matches!(
        refused(changed(11, 2)).await,
        KeyFileProblem::PublicKey(_)
    ));
    assert_eq!(refused(changed(30, 0xff)).await, KeyFileProblem::Label);
    // The public key of one and the private key of another.
    let (_, _, _, stranger) = one_key(false).await;
    let split = prefix(&plain);
    let mixed = [&plain[..split], &stranger[split..]].concat();
    assert_eq!(refused(mixed).await, KeyFileProblem::PrivateKey);

    // A sealed file vouches for its label too.
    let (site, key, _, mut sealed) = one_key(true).await;
    sealed[30] ^= 1;
    fs::write(site.file(key.id), mended(sealed)).expect("writes");
    assert_eq!(
        site.file_refused(true, key.id).await,
        KeyFileProblem::Unsealing
    );
}

#[tokio::test]
async fn the_file_of_another_key_is_refused_under_this_name() {
    for sealed in [false, true] {
        let (site, key, _, _) = one_key(sealed).await;
        let other = fresh_key("other");
        fs::rename(site.file(key.id), site.file(other.id)).expect("renames");
        let problem = site.file_refused(sealed, other.id).await;
        assert_eq!(problem, KeyFileProblem::OtherKey { found: key.id });
    }
}

#[tokio::test]
async fn a_wrong_passphrase_is_told_from_damage_and_a_missing_one() {
    let (site, key, public, _) = one_key(true).await;
    site.write_passphrase("another passphrase altogether", 0o600);
    assert_eq!(
        site.file_refused(true, key.id).await,
        KeyFileProblem::Unsealing
    );
    assert_eq!(
        site.file_refused(false, key.id).await,
        KeyFileProblem::Sealed
    );
    for (text, mode, problem) in [
        (PASSPHRASE, 0o640, SecretFileProblem::Mode(0o640)),
        ("", 0o600, SecretFileProblem::Empty),
        (
            "fifteen letters\n",
            0o600,
            SecretFileProblem::TooShort { bytes: 15, min: 16 },
        ),
    ] {
        site.write_passphrase(text, mode);
        let path = site.passphrase_file();
        assert_eq!(
            site.refused(true).await,
            SignerError::PassphraseFile { path, problem }
        );
    }
    site.write_passphrase(PASSPHRASE, 0o600);
    signs(&site.open(true).await, &key, &public).await;
}

#[tokio::test]
async fn files_open_to_others_links_and_strangers_are_refused_by_name() {
    let (site, key, public, _) = one_key(false).await;
    let file = site.file(key.id);
    for open in [0o640, 0o604, 0o660, 0o601] {
        set_mode(&file, open);
        assert_eq!(
            site.file_refused(false, key.id).await,
            KeyFileProblem::Mode(open)
        );
    }
    set_mode(&file, 0o600);

    let elsewhere = site.0.path().join("elsewhere");
    fs::rename(&file, &elsewhere).expect("renames");
    symlink(&elsewhere, &file).expect("links");
    assert_eq!(
        site.file_refused(false, key.id).await,
        KeyFileProblem::Symlink
    );
    fs::remove_file(&file).expect("removes");
    fs::create_dir(&file).expect("makes");
    assert_eq!(
        site.file_refused(false, key.id).await,
        KeyFileProblem::NotRegular
    );
    fs::remove_dir(&file).expect("removes");
    fs::rename(&elsewhere, &file).expect("renames");

    for name in [
        "notes.txt",
        ".key",
        "0123.key",
        &format!("{}.key.bak", key.id),
        &format!("{}.key", key.id.to_string().to_uppercase()),
    ] {
        let stranger = site.keys().join(name);
        fs::write(&stranger, "x").expect("writes");
        let wanted = SignerError::KeyFile {
            path: stranger.clone(),
            problem: KeyFileProblem::Foreign,
        };
        assert_eq!(site.refused(false).await, wanted, "{name}");
        assert_eq!(wanted.retry(), Retry::GiveUp);
        fs::remove_file(&stranger).expect("removes");
    }
    signs(&site.open(false).await, &key, &public).await;
}

#[tokio::test]
async fn a_directory_that_is_not_ours_alone_is_refused() {
    let site = Site::new();
    let problem = async |site: &Site| match site.refused(false).await {
        SignerError::KeyDirectory { path, problem } => {
            assert_eq!(path, site.keys());
            problem
        }
        other => panic!("{other}"),
    };
    fs::write(site.keys(), "x").expect("writes");
    assert_eq!(problem(&site).await, KeyDirectoryProblem::NotADirectory);
    fs::remove_file(site.keys()).expect("removes");
    fs::create_dir(site.keys()).expect("makes");
    for open in [0o755, 0o750, 0o701] {
        set_mode(&site.keys(), open);
        assert_eq!(problem(&site).await, KeyDirectoryProblem::Mode(open));
    }
    set_mode(&site.keys(), 0o700);

    let first = site.open(false).await;
    assert_eq!(problem(&site).await, KeyDirectoryProblem::InUse);
    drop(first);
    drop(site.open(false).await);

    // Root may give it away; anybody else knows a directory that is root's.
    let user = rustix::process::geteuid().as_raw();
    let (directory, owner) = if user == 0 {
        chown(site.keys(), Some(1), None).expect("changes the owner");
        (site.keys(), 1)
    } else {
        (PathBuf::from("/"), 0)
    };
    let config = DiskConfig {
        directory: directory.clone(),
        passphrase_file: None,
    };
    let wanted = SignerError::KeyDirectory {
        path: directory,
        problem: KeyDirectoryProblem::Owner { owner, user },
    };
    assert_eq!(DiskSigner::open(config).await.map(drop), Err(wanted));
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_removed() {
    let (site, key, public, whole) = one_key(false).await;
    let unborn = fresh_key("unborn");
    let part = |id: KeyId| site.keys().join(format!("{id}.part"));
    for length in [0, 1, whole.len() / 2, whole.len()] {
        // Of a key that is not there yet, and of one that was about to be replaced.
        for id in [unborn.id, key.id] {
            fs::write(part(id), &whole[..length]).expect("writes");
        }
        let signer = site.open(false).await;
        assert_eq!(site.names(), [format!("{}.key", key.id)]);
        assert_eq!(signer.list("").await.expect("lists").len(), 1);
        signs(&signer, &key, &public).await;
        generate(&signer, &unborn, KeyType::EcP256).await;
        signer.delete(&unborn).await.expect("deletes");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_written_does_not_exist_and_one_that_came_is_not_replaced() {
    let site = Site::new();
    let signer = site.open(false).await;
    let key = fresh_key("k");
    let spec = KeySpec {
        key: key.clone(),
        key_type: KeyType::EcP256,
    };
    // Stands where the unfinished file would be, and cannot be removed as one.
    let obstacle = site.keys().join(format!("{}.part", key.id));
    fs::create_dir(&obstacle).expect("makes");
    let failed = signer.generate(&spec).await.expect_err("no room");
    assert!(
        matches!(failed, SignerError::KeyFile { ref path, problem: KeyFileProblem::Io { what: "written", .. } } if *path == site.file(key.id)),
        "{failed}"
    );
    assert_eq!(signer.health().last_error, Some(failed));
    assert!(signer.health().usable, "the others sign");
    let absent = signer.public_key(&key).await;
    assert_eq!(absent, Err(SignerError::NotFound { key: key.clone() }));
    fs::remove_dir(&obstacle).expect("removes");

    let theirs = b"somebody's only copy";
    fs::write(site.file(key.id), theirs).expect("writes");
    let refused = signer.generate(&spec).await.expect_err("would replace it");
    let wanted = SignerError::KeyFile {
        path: site.file(key.id),
        problem: KeyFileProblem::Appeared,
    };
    assert_eq!(refused, wanted);
    assert_eq!(fs::read(site.file(key.id)).expect("reads"), theirs);
    fs::remove_file(site.file(key.id)).expect("removes");

    generate(&signer, &key, KeyType::EcP256).await;
    assert_eq!(signer.health().last_error, None);
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_secret() {
    let (site, key, _, _) = one_key(true).await;
    let signer = site.open(true).await;
    let shown = format!("{signer:?}");
    assert_eq!(shown, "DiskSigner { keys: 1, sealed: true, .. }");
    drop(signer);
    site.write_passphrase("another passphrase altogether", 0o600);
    let error = site.refused(true).await;
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(text.contains(&key.id.to_string()), "{text}");
        assert!(!text.contains("altogether"), "{text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..600), begin in any::<bool>()) {
        let mut file = if begin { b"chanckey\x00\x01\x00\x01".to_vec() } else { Vec::new() };
        file.extend(bytes);
        prop_assert!(inspect(&file).is_err());
    }
}
