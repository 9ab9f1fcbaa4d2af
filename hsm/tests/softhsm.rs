//! The PKCS#11 backend over SoftHSM 2: the promises of the trait, and what a token adds to them.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use chancery_hsm::pkcs11::{
    InitOutcome, TokenInfo, init_token, logins_tried, pace, probe, retry_login, survey,
};
use chancery_hsm::testing::{SoftHsm, conformance, fresh_key, in_own_process};
use chancery_hsm::{
    BackendKind, KeyRef, KeySpec, KeyType, PinWarning, Pkcs11Config, Pkcs11Signer, PublicKeyInfo,
    Retry, SecretFileProblem, SignatureAlgorithm, Signer, SignerError, TokenSelector, verify,
};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

const PIN: &str = "canary-4711";
const SO_PIN: &str = "so-canary-1147";
const ES256: SignatureAlgorithm = SignatureAlgorithm::EcdsaP256Sha256;

/// Runs a test with tokens, a process and a runtime of its own.
fn with_softhsm<F: Future<Output = ()>>(test: &str, body: impl FnOnce(SoftHsm) -> F) {
    in_own_process(test, |hsm| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(body(hsm));
    });
}

async fn open(config: &Pkcs11Config) -> Pkcs11Signer {
    Pkcs11Signer::open(config.clone()).await.expect("opens")
}

async fn refused(config: &Pkcs11Config) -> SignerError {
    Pkcs11Signer::open(config.clone())
        .await
        .map(drop)
        .expect_err("must not open")
}

async fn generate(signer: &dyn Signer, key: &KeyRef) -> PublicKeyInfo {
    let spec = KeySpec {
        key: key.clone(),
        key_type: KeyType::EcP256,
    };
    signer.generate(&spec).await.expect("generates")
}

/// Another user of the same module in this process, as an operator's tool would be.
struct Stranger(Session);

impl Stranger {
    /// The module must be initialised already.
    fn session() -> Session {
        let context = Pkcs11::new(SoftHsm::module()).expect("loads");
        let slots = context.get_slots_with_initialized_token().expect("lists");
        context.open_rw_session(slots[0]).expect("opens")
    }

    /// Shares the login of the signer under test.
    fn logged_in() -> Self {
        Self(Self::session())
    }

    fn generate(&self, key: &KeyRef, extractable: bool) {
        let oid = vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let common = [
            Attribute::Token(true),
            Attribute::Id(key.id.as_bytes().to_vec()),
            Attribute::Label(key.label.as_bytes().to_vec()),
        ];
        let public = [
            &common[..],
            &[Attribute::EcParams(oid), Attribute::Verify(true)],
        ]
        .concat();
        let private = [
            &common[..],
            &[
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(extractable),
                Attribute::Sign(true),
            ],
        ]
        .concat();
        self.0
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
            .expect("generates");
    }

    fn find(&self, class: ObjectClass, key: &KeyRef) -> Vec<ObjectHandle> {
        let template = [
            Attribute::Class(class),
            Attribute::Id(key.id.as_bytes().to_vec()),
        ];
        self.0.find_objects(&template).expect("finds")
    }

    fn destroy(&self, class: ObjectClass, key: &KeyRef) {
        for object in self.find(class, key) {
            self.0.destroy_object(object).expect("destroys");
        }
    }
}

#[test]
fn a_token_keeps_the_promises_of_a_signer() {
    with_softhsm("a_token_keeps_the_promises_of_a_signer", async |hsm| {
        let signer = open(&hsm.token("ca", PIN)).await;
        assert_eq!(signer.kind(), BackendKind::Pkcs11);
        conformance(&signer).await;
        let health = signer.health();
        assert_eq!((health.sessions, health.queued), (4, 0));
        assert_eq!(health.last_error, None);
    });
}

#[test]
fn a_thousand_signatures_verify() {
    with_softhsm("a_thousand_signatures_verify", async |hsm| {
        let signer = open(&hsm.token("ca", PIN)).await;
        let key = fresh_key("k");
        let spki = generate(&signer, &key).await.spki_der;
        let judge = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki);
        for n in 0u32..1000 {
            let message = n.to_be_bytes();
            let signature = signer.sign(&key, ES256, &message).await.expect("signs");
            judge
                .verify(&message, &signature.to_der())
                .expect("verifies");
            assert_eq!(signature.verified_with(), Some(&spki[..]));
        }
    });
}

#[test]
fn rsa_4096_keys_sign() {
    with_softhsm("rsa_4096_keys_sign", async |hsm| {
        let signer = open(&hsm.token("ca", PIN)).await;
        let key = fresh_key("k");
        let spec = KeySpec {
            key: key.clone(),
            key_type: KeyType::Rsa4096,
        };
        let public = signer.generate(&spec).await.expect("generates");
        assert_eq!(public.key_type, KeyType::Rsa4096);
        let algorithm = SignatureAlgorithm::RsaPkcs1Sha256;
        let signature = signer.sign(&key, algorithm, b"m").await.expect("signs");
        assert!(verify(&public.spki_der, algorithm, b"m", &signature));
    });
}

#[test]
fn another_signer_finds_the_key_by_its_id() {
    with_softhsm("another_signer_finds_the_key_by_its_id", async |hsm| {
        let config = hsm.token("ca", PIN);
        let key = fresh_key("k");
        let first = open(&config).await;
        let public = generate(&first, &key).await;
        let serials = first.token_serials();

        // Beside the first: the login is shared, the PIN is not tried again.
        let second = open(&config).await;
        assert_eq!(second.public_key(&key).await.as_ref(), Ok(&public));
        assert_eq!(logins_tried(&config.module), 1);
        drop(first);
        let signature = second
            .sign(&key, ES256, b"m")
            .await
            .expect("the login is still there");
        assert!(verify(&public.spki_der, ES256, b"m", &signature));
        drop(second);

        // Instead of them, by serial.
        let config = Pkcs11Config {
            token: TokenSelector::Serial(serials[0].clone()),
            ..config
        };
        let third = open(&config).await;
        assert_eq!(third.public_key(&key).await, Ok(public));
    });
}

#[test]
fn a_wrong_pin_is_tried_once_whatever_is_asked_later() {
    with_softhsm(
        "a_wrong_pin_is_tried_once_whatever_is_asked_later",
        async |hsm| {
            let mut config = hsm.token("ca", PIN);
            let right = std::mem::replace(&mut config.pin_file, hsm.write_pin("wrong.pin", "0000"));
            let (first, beside) = futures::join!(refused(&config), refused(&config));
            assert_eq!(first, beside, "two at once share one attempt");
            assert!(matches!(first, SignerError::PinRefused { .. }), "{first}");
            assert_eq!(first.retry(), Retry::GiveUp);
            let text = first.to_string();
            assert!(text.starts_with("wrong PIN for token \"ca\""), "{text}");
            assert!(
                text.contains("; not tried again (CKR_PIN_INCORRECT): "),
                "{text}"
            );

            for _ in 0..5 {
                assert_eq!(refused(&config).await, first);
            }
            config.pin_file = right;
            assert_eq!(
                refused(&config).await,
                first,
                "not by itself, even with the right one"
            );
            assert_eq!(logins_tried(&config.module), 1);
            // The token's own account of it.
            let info = probe(&config).expect("is there");
            assert_eq!(info.pin_warning, Some(PinWarning::CountLow));

            // The operator's way out: one attempt, and all is forgotten.
            assert_eq!(
                retry_login(&config, false).expect("the right PIN").label,
                "ca"
            );
            assert_eq!(logins_tried(&config.module), 2);
            let signer = open(&config).await;
            generate(&signer, &fresh_key("k")).await;
        },
    );
}

#[test]
fn no_login_while_the_token_shows_lost_attempts() {
    with_softhsm(
        "no_login_while_the_token_shows_lost_attempts",
        async |hsm| {
            let config = hsm.token("ca", PIN);
            assert_eq!(probe(&config).expect("initialises").pin_warning, None);
            let wrong = AuthPin::new("0000".into());
            Stranger::session()
                .login(UserType::User, Some(&wrong))
                .expect_err("another's mistake");

            let error = refused(&config).await;
            let SignerError::PinGuarded {
                warning: PinWarning::CountLow,
                ..
            } = error
            else {
                panic!("{error}");
            };
            assert!(
                error.to_string().contains("`chancery hsm retry`"),
                "{error}"
            );
            assert_eq!(logins_tried(&config.module), 0);
        },
    );
}

#[test]
fn the_pin_shows_nowhere() {
    with_softhsm("the_pin_shows_nowhere", async |hsm| {
        let config = hsm.token("ca", PIN);
        let mut wrong = config.clone();
        wrong.pin_file = hsm.write_pin("wrong.pin", "canary-0815");
        let error = refused(&wrong).await;
        assert!(
            matches!(error, SignerError::PinRefused { .. }),
            "the PIN was used: {error}"
        );
        retry_login(&config, false).expect("the right PIN");
        let shown = [
            format!("{error} {error:?}"),
            format!("{config:?}"),
            format!("{:?}", open(&config).await),
            format!("{:?}", probe(&config)),
        ];
        for text in shown {
            for canary in [PIN, "canary-0815"] {
                assert!(!text.contains(canary), "{text}");
                let as_numbers = format!("{:?}", canary.as_bytes());
                assert!(
                    !text.contains(as_numbers.trim_matches(['[', ']'])),
                    "{text}"
                );
            }
        }
    });
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_without_a_login() {
    with_softhsm(
        "what_is_wrong_with_a_configuration_is_said_without_a_login",
        async |hsm| {
            let good = hsm.token("ca", PIN);
            hsm.init_token("other", PIN);

            let mut absent = good.clone();
            absent.module = hsm.dir().join("libnone.so");
            for error in [refused(&absent).await, probe(&absent).expect_err("missing")] {
                assert_eq!(
                    error,
                    SignerError::ModuleMissing {
                        path: absent.module.clone()
                    }
                );
            }

            let mut unknown = good.clone();
            unknown.token = TokenSelector::Label("nobody".into());
            for error in [
                refused(&unknown).await,
                probe(&unknown).expect_err("no such token"),
            ] {
                let text = error.to_string();
                assert!(matches!(error, SignerError::TokenNotFound { .. }), "{text}");
                for found in ["label \"nobody\"", "\"ca\" (serial ", "\"other\" (serial "] {
                    assert!(text.contains(found), "{text}");
                }
            }

            let mut no_pin = good.clone();
            no_pin.pin_file = hsm.dir().join("none.pin");
            let mut open_pin = good.clone();
            open_pin.pin_file = hsm.write_pin("open.pin", PIN);
            fs::set_permissions(&open_pin.pin_file, fs::Permissions::from_mode(0o644))
                .expect("mode");
            for (config, problem) in [
                (no_pin, SecretFileProblem::Missing),
                (open_pin, SecretFileProblem::Mode(0o644)),
            ] {
                let wanted = SignerError::PinFile {
                    path: config.pin_file.clone(),
                    problem,
                };
                assert_eq!(probe(&config).expect_err("PIN file"), wanted);
                assert_eq!(refused(&config).await, wanted);
                assert!(
                    wanted
                        .to_string()
                        .contains(&config.pin_file.display().to_string())
                );
            }

            for sessions in [0, 65] {
                let config = Pkcs11Config {
                    sessions,
                    ..good.clone()
                };
                assert!(matches!(refused(&config).await, SignerError::Config { .. }));
            }
            assert_eq!(logins_tried(&good.module), 0);
            assert_eq!(probe(&good).expect("good").label, "ca");
        },
    );
}

#[test]
fn of_two_tokens_with_one_label_neither_is_guessed() {
    with_softhsm(
        "of_two_tokens_with_one_label_neither_is_guessed",
        async |hsm| {
            let config = hsm.token("ca", PIN);
            hsm.init_token("ca", PIN);
            let SignerError::TokenAmbiguous { found, .. } = refused(&config).await else {
                panic!("one of them was chosen");
            };
            assert_eq!(found.len(), 2);
            assert_ne!(found[0].serial, found[1].serial);
            let token = TokenSelector::LabelAndSerial {
                label: "ca".into(),
                serial: found[1].serial.clone(),
            };
            let signer = open(&Pkcs11Config { token, ..config }).await;
            assert_eq!(signer.token_serials(), [found[1].serial.clone()]);
        },
    );
}

#[test]
fn of_two_keys_with_one_id_neither_is_used() {
    with_softhsm("of_two_keys_with_one_id_neither_is_used", async |hsm| {
        let signer = open(&hsm.token("ca", PIN)).await;
        let key = fresh_key("k");
        generate(&signer, &key).await;
        Stranger::logged_in().generate(&key, false);

        let ambiguous = SignerError::Ambiguous {
            key: key.clone(),
            half: "private",
        };
        assert_eq!(signer.public_key(&key).await, Err(ambiguous.clone()));
        assert_eq!(signer.delete(&key).await, Err(ambiguous.clone()));
        let spec = KeySpec {
            key: key.clone(),
            key_type: KeyType::EcP256,
        };
        assert_eq!(signer.generate(&spec).await, Err(ambiguous));
        let listed = signer.list("k").await.expect("lists");
        assert_eq!(
            (listed[0].private_objects, listed[0].public_objects),
            (2, 2)
        );
        assert!(!listed[0].is_whole());
    });
}

#[test]
fn a_key_that_could_leave_the_token_is_refused() {
    with_softhsm("a_key_that_could_leave_the_token_is_refused", async |hsm| {
        let signer = open(&hsm.token("ca", PIN)).await;
        let key = fresh_key("k");
        Stranger::logged_in().generate(&key, true);
        for error in [
            signer
                .public_key(&key)
                .await
                .map(drop)
                .expect_err("extractable"),
            signer
                .sign(&key, ES256, b"m")
                .await
                .map(drop)
                .expect_err("extractable"),
        ] {
            let SignerError::UnsafeKey { attributes, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(
                attributes,
                [
                    "CKA_EXTRACTABLE is not false",
                    "CKA_NEVER_EXTRACTABLE is not true"
                ]
            );
        }
        assert!(signer.health().usable, "one bad key is not a bad token");
    });
}

#[test]
fn the_half_key_of_a_crash_is_no_key_and_stands_in_nobodys_way() {
    with_softhsm(
        "the_half_key_of_a_crash_is_no_key_and_stands_in_nobodys_way",
        async |hsm| {
            let signer = open(&hsm.token("ca", PIN)).await;
            let stranger = Stranger::logged_in();
            for _ in 0..2 {
                let key = fresh_key("half");
                let lost = generate(&signer, &key).await;
                stranger.destroy(ObjectClass::PRIVATE_KEY, &key);

                let absent = SignerError::NotFound { key: key.clone() };
                assert_eq!(signer.public_key(&key).await, Err(absent.clone()));
                let listed = signer.list("half").await.expect("lists");
                assert_eq!(
                    (listed[0].private_objects, listed[0].public_objects),
                    (0, 1)
                );
                // Either way out: the intent is finished,
                assert_ne!(generate(&signer, &key).await, lost);
                assert_eq!(stranger.find(ObjectClass::PUBLIC_KEY, &key).len(), 1);
                // or abandoned.
                stranger.destroy(ObjectClass::PRIVATE_KEY, &key);
                signer.delete(&key).await.expect("deletes the half");
                assert_eq!(signer.delete(&key).await, Err(absent));
            }
        },
    );
}

#[test]
fn a_key_destroyed_by_another_is_noticed_and_its_successor_found() {
    let name = "a_key_destroyed_by_another_is_noticed_and_its_successor_found";
    with_softhsm(name, async |hsm| {
        let signer = open(&hsm.token("ca", PIN)).await;
        let stranger = Stranger::logged_in();
        let key = fresh_key("k");
        generate(&signer, &key).await;
        // Every thread remembers the handle.
        for _ in 0..16 {
            signer.sign(&key, ES256, b"m").await.expect("signs");
        }
        stranger.destroy(ObjectClass::PRIVATE_KEY, &key);
        let absent = SignerError::NotFound { key: key.clone() };
        for _ in 0..16 {
            assert_eq!(
                signer.sign(&key, ES256, b"m").await.expect_err("gone"),
                absent
            );
        }
        stranger.destroy(ObjectClass::PUBLIC_KEY, &key);
        stranger.generate(&key, false);
        let public = signer.public_key(&key).await.expect("the successor");
        for _ in 0..16 {
            let signature = signer.sign(&key, ES256, b"m").await.expect("signs");
            assert!(verify(&public.spki_der, ES256, b"m", &signature));
        }
    });
}

#[test]
fn a_lost_login_is_made_again_and_no_call_fails() {
    with_softhsm(
        "a_lost_login_is_made_again_and_no_call_fails",
        async |hsm| {
            let config = hsm.token("ca", PIN);
            let signer = open(&config).await;
            let stranger = Stranger::logged_in();
            let key = fresh_key("k");
            let spki = generate(&signer, &key).await.spki_der;
            for round in 1..=10 {
                stranger.0.logout().expect("logs everyone out");
                let calls = (0..8).map(|_| signer.sign(&key, ES256, b"m"));
                for signed in futures::future::join_all(calls).await {
                    assert!(verify(&spki, ES256, b"m", &signed.expect("signs")));
                }
                assert_eq!(
                    logins_tried(&config.module),
                    1 + round,
                    "one login each time"
                );
            }
            stranger.0.logout().expect("logs everyone out");
            generate(&signer, &fresh_key("k")).await;
            assert!(signer.health().usable);
        },
    );
}

#[test]
fn a_login_lost_with_a_pin_made_wrong_is_not_tried_twice() {
    with_softhsm(
        "a_login_lost_with_a_pin_made_wrong_is_not_tried_twice",
        async |hsm| {
            let config = hsm.token("ca", PIN);
            let signer = open(&config).await;
            let key = fresh_key("k");
            generate(&signer, &key).await;
            assert_eq!(hsm.write_pin("ca.pin", "0000"), config.pin_file);
            Stranger::logged_in().0.logout().expect("logs everyone out");

            let calls = (0..8).map(|_| signer.sign(&key, ES256, b"m"));
            for signed in futures::future::join_all(calls).await {
                let error = signed.map(drop).expect_err("no login");
                assert!(matches!(error, SignerError::PinRefused { .. }), "{error}");
            }
            assert_eq!(logins_tried(&config.module), 2, "the first, and one more");
            let health = signer.health();
            assert!(!health.usable);
            assert!(
                matches!(health.last_error, Some(SignerError::PinRefused { .. })),
                "{health:?}"
            );

            // Corrected, and allowed by the operator: the same signer goes on.
            assert_eq!(hsm.write_pin("ca.pin", PIN), config.pin_file);
            retry_login(&config, false).expect("the right PIN");
            signer.sign(&key, ES256, b"m").await.expect("signs again");
            assert!(signer.health().usable);
        },
    );
}

/// A configuration for a token that is still to be made, and the file with its SO PIN.
fn token_to_come(hsm: &SoftHsm) -> (Pkcs11Config, PathBuf) {
    let token = TokenSelector::Label("ca".into());
    let config = Pkcs11Config::new(SoftHsm::module(), token, hsm.write_pin("user.pin", PIN));
    (config, hsm.write_pin("so.pin", SO_PIN))
}

fn initialised(outcome: Result<InitOutcome, SignerError>) -> TokenInfo {
    match outcome {
        Ok(InitOutcome::Initialised(info)) => info,
        other => panic!("{other:?}"),
    }
}

/// The tokens that another process would see, by what `softhsm2-util` keeps of each.
fn token_directories(hsm: &SoftHsm) -> usize {
    fs::read_dir(hsm.dir().join("tokens"))
        .expect("lists")
        .count()
}

#[test]
fn a_token_is_initialised_once_and_then_signs() {
    let name = "a_token_is_initialised_once_and_then_signs";
    with_softhsm(name, async |hsm| {
        let (config, so_pin_file) = token_to_come(&hsm);
        let made = initialised(init_token(&config, &so_pin_file));
        assert_eq!((made.label.as_str(), made.pin_warning), ("ca", None));
        assert!(!made.serial.is_empty());
        assert_eq!(logins_tried(&config.module), 1, "the security officer's");

        // Once more, when the ceremony is over and the SO PIN locked away.
        fs::remove_file(&so_pin_file).expect("removes");
        let again = init_token(&config, &so_pin_file).expect("is there");
        assert_eq!(again, InitOutcome::AlreadyThere(made.clone()));
        assert_eq!(logins_tried(&config.module), 1, "no login for that");
        assert_eq!(token_directories(&hsm), 1);

        let signer = open(&config).await;
        assert_eq!(signer.token_serials(), [made.serial]);
        let key = fresh_key("k");
        let spki = generate(&signer, &key).await.spki_der;
        let signature = signer.sign(&key, ES256, b"m").await.expect("signs");
        assert!(verify(&spki, ES256, b"m", &signature));
        // Beside a signer, and without harm to it.
        init_token(&config, &so_pin_file).expect("is there");
        signer.sign(&key, ES256, b"m").await.expect("signs");
    });
}

#[test]
fn unfit_pin_files_are_refused_before_anything_is_changed() {
    let name = "unfit_pin_files_are_refused_before_anything_is_changed";
    with_softhsm(name, async |hsm| {
        let (config, so_pin_file) = token_to_come(&hsm);
        let open_file = hsm.write_pin("open.pin", SO_PIN);
        fs::set_permissions(&open_file, fs::Permissions::from_mode(0o644)).expect("mode");
        let short_file = hsm.write_pin("short.pin", "123");
        let absent_file = hsm.dir().join("none.pin");
        let too_short = SecretFileProblem::Length { min: 4, max: 255 };
        for (path, problem) in [
            (open_file, SecretFileProblem::Mode(0o644)),
            (short_file, too_short),
            (absent_file, SecretFileProblem::Missing),
        ] {
            let wanted = SignerError::PinFile {
                path: path.clone(),
                problem,
            };
            assert_eq!(init_token(&config, &path), Err(wanted.clone()));
            let bad_user_pin = Pkcs11Config {
                pin_file: path,
                ..config.clone()
            };
            assert_eq!(init_token(&bad_user_pin, &so_pin_file), Err(wanted));
        }
        let error = probe(&config).expect_err("nothing was made");
        assert!(
            matches!(error, SignerError::TokenNotFound { .. }),
            "{error}"
        );
        assert_eq!(logins_tried(&config.module), 0);
        initialised(init_token(&config, &so_pin_file));
    });
}

#[test]
fn a_token_without_user_pin_is_finished_and_not_made_twice() {
    let name = "a_token_without_user_pin_is_finished_and_not_made_twice";
    with_softhsm(name, async |hsm| {
        let (config, so_pin_file) = token_to_come(&hsm);
        probe(&config).expect_err("no token yet, but the module is initialised");
        // What a crash leaves.
        let context = Pkcs11::new(SoftHsm::module()).expect("loads");
        let slot = context.get_all_slots().expect("lists")[0];
        let so_pin = AuthPin::new(SO_PIN.into());
        context.init_token(slot, &so_pin, "ca").expect("half");
        let half = probe(&config).expect("is there");
        assert_eq!(half.pin_warning, Some(PinWarning::NotSet));

        let wrong = hsm.write_pin("wrong.pin", "wrong-so-pin");
        let error = init_token(&config, &wrong).expect_err("wrong SO PIN");
        assert!(matches!(error, SignerError::SoPinRefused { .. }), "{error}");
        assert_eq!(error.retry(), Retry::GiveUp);
        assert_eq!(logins_tried(&config.module), 1);

        let made = initialised(init_token(&config, &so_pin_file));
        assert_eq!(made.serial, half.serial);
        assert_eq!(token_directories(&hsm), 1);
        open(&config).await;
    });
}

#[test]
fn a_new_token_needs_a_label_and_a_serial_that_can_come_true() {
    let name = "a_new_token_needs_a_label_and_a_serial_that_can_come_true";
    with_softhsm(name, async |hsm| {
        hsm.init_token("other", PIN);
        let (mut config, so_pin_file) = token_to_come(&hsm);
        config.token = TokenSelector::Serial("0123456789abcdef".into());
        assert_eq!(
            init_token(&config, &so_pin_file),
            Err(SignerError::LabelNeeded)
        );
        for label in [String::new(), " ".into(), "l".repeat(33)] {
            config.token = TokenSelector::Label(label);
            let error = init_token(&config, &so_pin_file).expect_err("no label");
            assert!(matches!(error, SignerError::Config { .. }), "{error}");
        }
        // SoftHSM chooses serials itself: none that is asked for is ever found blank.
        config.token = TokenSelector::LabelAndSerial {
            label: "ca".into(),
            serial: "0123456789abcdef".into(),
        };
        let error = init_token(&config, &so_pin_file).expect_err("no such token");
        let SignerError::NoBlankToken { found, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(found.len(), 2, "{error}");
        let text = error.to_string();
        for part in ["token \"other\" (serial ", "uninitialised"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(token_directories(&hsm), 1);
        assert_eq!(logins_tried(&config.module), 0);
    });
}

#[test]
fn a_survey_says_what_is_wrong_and_changes_nothing() {
    with_softhsm(
        "a_survey_says_what_is_wrong_and_changes_nothing",
        async |hsm| {
            let config = hsm.token("ca", PIN);
            let signer = open(&config).await;
            let seen = survey(&config, "chancery/").expect("a survey");
            assert_eq!((seen.keys.len(), seen.signature), (0, None));
            let sound = fresh_key("chancery/c/x509/1");
            generate(&signer, &sound).await;
            let unsafe_key = fresh_key("chancery/c/x509/2");
            Stranger::logged_in().generate(&unsafe_key, true);
            generate(&signer, &fresh_key("of somebody else")).await;
            let seen = survey(&config, "chancery/").expect("a survey");
            assert_eq!(seen.login, Ok(()));
            assert!(seen.key_types.iter().all(|(_, missing)| missing.is_empty()));
            assert!(matches!(seen.signature, Some(Ok(_))));
            let kinds: Vec<_> = seen.keys.iter().map(|key| &key.key_type).collect();
            let [Ok(KeyType::EcP256), Err(SignerError::UnsafeKey { .. })] = kinds[..] else {
                panic!("{kinds:?}");
            };
            let pin = hsm.write_pin("ca.pin", "wrong");
            assert_eq!(pin, config.pin_file);
            drop(signer);
            let seen = survey(&config, "chancery/").expect("a survey");
            assert!(matches!(seen.login, Err(SignerError::PinRefused { .. })));
            assert!(seen.keys.is_empty());
        },
    );
}

#[test]
fn a_bench_signs_and_leaves_no_key() {
    with_softhsm("a_bench_signs_and_leaves_no_key", async |hsm| {
        let config = hsm.token("ca", PIN);
        let key = fresh_key("chancery-bench/1");
        let lasts = std::time::Duration::from_millis(200);
        let measured = pace(&config, &key, KeyType::EcP256, lasts).await;
        let measured = measured.expect("a pace");
        assert_eq!(measured.sessions, config.sessions);
        assert!(measured.signatures > 0 && measured.percentile(99) > std::time::Duration::ZERO);
        let signer = open(&config).await;
        assert_eq!(signer.list("").await.expect("lists"), []);
    });
}
