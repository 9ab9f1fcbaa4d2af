//! The PKCS#11 backend in front of a token that fails in every way that the shim knows.
//!
//! Each test has a process, a token and a shim of its own. What must hold in all of them: a
//! signature that comes out verifies, a call ends by its deadline, and once the token is well again
//! so is the signer, without a restart of the process.

use std::future::Future;
use std::time::{Duration, Instant};

use chancery_hsm::pkcs11::{LoginBarred, logins_tried, restarts, retry_login};
use chancery_hsm::testing::{SoftHsm, conformance, fresh_key, in_own_process_with};
use chancery_hsm::{
    KeyRef, KeySpec, KeyType, Pkcs11Config, Pkcs11Signer, PublicKeyInfo, SignatureAlgorithm,
    Signer, SignerError, verify,
};
use chancery_pkcs11_shim::{CODES, Call, Control, Rule, Steering, module_path};

const PIN: &str = "canary-4711";
const ES256: SignatureAlgorithm = SignatureAlgorithm::EcdsaP256Sha256;
/// Ten times what a recovery may take.
const WELL_WITHIN: Duration = Duration::from_secs(20);

/// A token behind a shim.
struct Bench {
    config: Pkcs11Config,
    steering: Steering,
}

impl Bench {
    fn set(&self, control: &Control) {
        self.steering.set(control).expect("a control file");
    }

    fn heal(&self) {
        self.set(&Control::default());
    }

    async fn open(&self) -> Pkcs11Signer {
        Pkcs11Signer::open(self.config.clone())
            .await
            .expect("opens")
    }

    fn logins(&self) -> u64 {
        logins_tried(&self.config.module)
    }
}

fn with_shim<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Bench) -> F) {
    let environment = |dir: &std::path::Path| {
        let steering = Steering::new(dir).expect("a control file");
        steering.environment(&SoftHsm::module()).to_vec()
    };
    in_own_process_with(test, environment, |hsm| {
        let mut config = hsm.token("shim", PIN);
        config.module = module_path().expect("the shim is built with its tests");
        let steering = Steering::new(hsm.dir()).expect("a control file");
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(body(Bench { config, steering }));
    });
}

/// A key, and what its signatures must verify with.
struct Key {
    key: KeyRef,
    public: PublicKeyInfo,
}

impl Key {
    async fn generate(signer: &Pkcs11Signer) -> Self {
        let key = fresh_key("shim/key");
        let spec = KeySpec {
            key: key.clone(),
            key_type: KeyType::EcP256,
        };
        let public = signer.generate(&spec).await.expect("generates");
        Self { key, public }
    }

    /// Signs; a signature that does not verify ends the test.
    async fn sign(&self, signer: &Pkcs11Signer) -> Result<(), SignerError> {
        let signature = signer.sign(&self.key, ES256, b"message").await?;
        let verifies = verify(&self.public.spki_der, ES256, b"message", &signature);
        assert!(verifies, "a wrong signature was released");
        Ok(())
    }

    /// Signs until it succeeds; how long that took.
    async fn sign_again(&self, signer: &Pkcs11Signer, what: &str) -> Duration {
        let began = Instant::now();
        loop {
            let Err(error) = self.sign(signer).await else {
                return began.elapsed();
            };
            assert!(began.elapsed() < WELL_WITHIN, "{what}: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn a_shim_that_does_nothing_is_as_the_module_behind_it() {
    with_shim(
        "a_shim_that_does_nothing_is_as_the_module_behind_it",
        |bench| async move {
            let signer = bench.open().await;
            conformance(&signer).await;
            assert_eq!(restarts(&bench.config.module), 0);
            let counts = bench.steering.counts().expect("counts");
            assert!(counts[&Call::Sign] > 200, "{counts:?}");
            assert_eq!(counts[&Call::Login], 1);
        },
    );
}

/// What every return code on every call comes to. With the rule in place a call may fail, and must
/// not lie; without it, it must succeed again.
#[test]
fn every_return_code_on_every_call_is_recovered_from() {
    with_shim(
        "every_return_code_on_every_call_is_recovered_from",
        |bench| async move {
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            let calls = [
                Call::Sign,
                Call::SignInit,
                Call::FindObjectsInit,
                Call::FindObjects,
                Call::FindObjectsFinal,
                Call::GetAttributeValue,
                Call::OpenSession,
                Call::GetSessionInfo,
                Call::GetSlotList,
                Call::GetTokenInfo,
            ];
            let long = std::env::var_os("CHANCERY_TEST_LONG").is_some();
            let mut cases = 0;
            for (n, call) in calls.into_iter().enumerate() {
                let mut worst = (Duration::ZERO, "");
                let (mut refused, mut unnoticed) = (0, 0);
                for (m, (code, _)) in CODES.iter().enumerate() {
                    // Small counts: every code on C_Sign, and each on one of the others.
                    if !long && n > 0 && m % (calls.len() - 1) != n - 1 {
                        continue;
                    }
                    cases += 1;
                    // Sessions are lost as well, so that every call of the way is made again.
                    let control = Control {
                        rules: vec![Rule::fails(call, code)],
                        session_epoch: cases,
                        ..Control::default()
                    };
                    bench.set(&control);
                    match key.sign(&signer).await {
                        Ok(()) => unnoticed += 1,
                        Err(_) => refused += 1,
                    }
                    bench.set(&Control {
                        session_epoch: cases,
                        ..Control::default()
                    });
                    let what = format!("{code} on C_{call:?}");
                    let took = key.sign_again(&signer, &what).await;
                    if took > worst.0 {
                        worst = (took, code);
                    }
                }
                println!(
                    "C_{call:?}: {refused} calls refused, {unnoticed} not touched; well again after {:?} at most ({})",
                    worst.0, worst.1
                );
            }
            assert!(signer.health().usable, "{:?}", signer.health());
            println!("{cases} cases, wrong signatures 0");
        },
    );
}

#[test]
fn a_login_that_is_refused_is_tried_once_whatever_the_code() {
    with_shim(
        "a_login_that_is_refused_is_tried_once_whatever_the_code",
        |bench| async move {
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            for (n, (code, _)) in (1..).zip(CODES) {
                bench.set(&Control {
                    rules: vec![Rule::fails(Call::Login, code)],
                    session_epoch: n,
                    ..Control::default()
                });
                let before = bench.logins();
                let mut last = Ok(());
                for _ in 0..5 {
                    last = key.sign(&signer).await;
                }
                let tried = bench.logins() - before;
                match &last {
                    Err(SignerError::PinRefused { .. }) => assert_eq!(tried, 1, "{code}"),
                    // The token never saw the PIN, or says that somebody is logged in.
                    other => assert!(tried > 0, "{code}: {other:?}"),
                }
                bench.set(&Control {
                    session_epoch: n,
                    ..Control::default()
                });
                if matches!(last, Err(SignerError::PinRefused { .. })) {
                    // The PIN is the right one: it was the answer that was wrong.
                    retry_login(&bench.config, true).expect("the operator's one try");
                }
                key.sign_again(&signer, code).await;
            }
        },
    );
}

#[test]
fn a_token_that_goes_and_comes_back_is_used_again_without_a_restart() {
    with_shim(
        "a_token_that_goes_and_comes_back_is_used_again_without_a_restart",
        |bench| async move {
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            key.sign(&signer).await.expect("signs");
            let rounds = 10;
            let mut worst = Duration::ZERO;
            for round in 1..=rounds {
                bench.set(&Control {
                    token_absent: true,
                    ..Control::default()
                });
                key.sign(&signer).await.expect_err("the token is away");
                assert!(!signer.health().usable);
                // Some modules show no keys until they are initialised anew.
                bench.set(&Control {
                    keys_hidden_until_initialised: round % 2 == 0,
                    ..Control::default()
                });
                let back = Instant::now();
                while !signer.health().usable {
                    assert!(back.elapsed() < WELL_WITHIN, "{:?}", signer.health());
                    tokio::task::yield_now().await;
                }
                worst = worst.max(back.elapsed());
                key.sign(&signer).await.expect("it is back");
            }
            let restarted = restarts(&bench.config.module);
            println!(
                "{rounds} times away: found again after {worst:?} at most, {restarted} modules initialised anew"
            );
            assert!(restarted > 0);
        },
    );
}

#[test]
fn sessions_lost_under_load_lose_no_key_and_release_no_wrong_signature() {
    with_shim(
        "sessions_lost_under_load_lose_no_key_and_release_no_wrong_signature",
        |bench| async move {
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            for epoch in 1..=20 {
                bench.set(&Control {
                    session_epoch: epoch,
                    ..Control::default()
                });
                let storm = (0..16).map(|_| key.sign(&signer));
                let outcomes = futures::future::join_all(storm).await;
                let lost = outcomes.iter().filter(|outcome| outcome.is_err()).count();
                assert!(lost < 16, "round {epoch}: {outcomes:?}");
            }
            bench.heal();
            key.sign_again(&signer, "all is well").await;
            // One a loss, of whoever noticed it first.
            assert!(bench.logins() <= 1 + 20 + 1, "{} logins", bench.logins());
        },
    );
}

#[test]
fn a_token_that_hangs_holds_nobody_beyond_the_deadline_and_is_used_again() {
    with_shim(
        "a_token_that_hangs_holds_nobody_beyond_the_deadline_and_is_used_again",
        |mut bench| async move {
            bench.config.deadline = Duration::from_millis(300);
            bench.config.sessions = 2;
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            key.sign_again(&signer, "before").await;
            bench.set(&Control {
                rules: vec![Rule::hangs(Call::Sign)],
                ..Control::default()
            });
            for _ in 0..2 {
                let hangs = key.sign(&signer).await.expect_err("it hangs");
                assert!(matches!(hangs, SignerError::Deadline { .. }), "{hangs}");
            }
            // Both sessions are inside: nobody waits for a deadline any more.
            let refused = key.sign(&signer).await.expect_err("it hangs");
            assert_eq!(refused, SignerError::Stalled { sessions: 2 });
            assert!(!signer.health().usable);
            bench.heal();
            key.sign_again(&signer, "it goes on").await;
            assert!(signer.health().usable);
        },
    );
}

#[test]
fn a_call_that_never_comes_back_is_named_where_it_keeps_a_lost_token_lost() {
    with_shim(
        "a_call_that_never_comes_back_is_named_where_it_keeps_a_lost_token_lost",
        |mut bench| async move {
            bench.config.deadline = Duration::from_millis(300);
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            let lost = |call| Rule::fails(call, "CKR_DEVICE_ERROR");
            bench.set(&Control {
                rules: vec![
                    Rule::hangs(Call::Sign).times(1),
                    lost(Call::Sign),
                    lost(Call::OpenSession),
                ],
                ..Control::default()
            });
            let hangs = key.sign(&signer).await.expect_err("it hangs");
            assert!(matches!(hangs, SignerError::Deadline { .. }), "{hangs}");
            let began = Instant::now();
            let said = loop {
                let error = key.sign(&signer).await.expect_err("the token is lost");
                if let SignerError::ModuleHeld { seconds, .. } = error {
                    assert!(seconds >= 5, "{error}");
                    break error.to_string();
                }
                assert!(began.elapsed() < WELL_WITHIN, "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            assert!(said.contains("restart this node"), "{said}");
            assert!(said.contains("CKR_DEVICE_ERROR"), "{said}");
            let health = signer.health();
            let last = health.last_error.map(|error| error.kind());
            assert_eq!((health.usable, last), (false, Some("module_held")));
            assert_eq!(restarts(&bench.config.module), 0);
            bench.heal();
            key.sign_again(&signer, "it came back").await;
        },
    );
}

#[test]
fn a_list_of_slots_that_grows_for_ever_ends() {
    with_shim(
        "a_list_of_slots_that_grows_for_ever_ends",
        |bench| async move {
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            // The length is told, the list never is.
            bench.set(&Control {
                rules: vec![Rule::fails(Call::GetSlotList, "CKR_BUFFER_TOO_SMALL").skipping(1)],
                session_epoch: 1,
                ..Control::default()
            });
            let grows = key.sign(&signer).await.expect_err("no slot");
            assert!(matches!(grows, SignerError::Call { .. }), "{grows}");
            bench.set(&Control {
                session_epoch: 1,
                ..Control::default()
            });
            key.sign_again(&signer, "it is listed").await;
        },
    );
}

#[test]
fn a_module_that_cannot_lock_is_called_by_one_thread_at_a_time() {
    with_shim(
        "a_module_that_cannot_lock_is_called_by_one_thread_at_a_time",
        |bench| async move {
            bench.set(&Control {
                rules: vec![Rule::fails(Call::Initialize, "CKR_CANT_LOCK").times(1)],
                ..Control::default()
            });
            let signer = bench.open().await;
            conformance(&signer).await;
            let key = Key::generate(&signer).await;
            let each = Duration::from_millis(20);
            bench.set(&Control {
                sign_latency_us: Some(20_000),
                ..Control::default()
            });
            let began = Instant::now();
            let signed = tokio::join!(
                key.sign(&signer),
                key.sign(&signer),
                key.sign(&signer),
                key.sign(&signer),
            );
            assert_eq!(signed, (Ok(()), Ok(()), Ok(()), Ok(())));
            // Each took its time after the one before.
            assert!(began.elapsed() >= each * 4, "{:?}", began.elapsed());
        },
    );
}

#[test]
fn a_handle_that_names_another_key_releases_nothing() {
    with_shim(
        "a_handle_that_names_another_key_releases_nothing",
        |bench| async move {
            let signer = bench.open().await;
            let key = Key::generate(&signer).await;
            let _other = Key::generate(&signer).await;
            key.sign(&signer).await.expect("signs");
            bench.set(&Control {
                swapped_keys: true,
                ..Control::default()
            });
            for _ in 0..10 {
                let wrong = key.sign(&signer).await.expect_err("another key signed");
                assert!(
                    matches!(wrong, SignerError::WrongSignature { .. }),
                    "{wrong}"
                );
            }
            bench.heal();
            key.sign_again(&signer, "handles are right").await;
        },
    );
}

#[test]
fn a_wrong_pin_costs_one_try_however_often_the_token_is_opened() {
    with_shim(
        "a_wrong_pin_costs_one_try_however_often_the_token_is_opened",
        |bench| async move {
            bench.set(&Control {
                pin_tries: Some(3),
                ..Control::default()
            });
            std::fs::write(&bench.config.pin_file, "wrong\n").expect("a PIN file");
            for _ in 0..5 {
                let refused = Pkcs11Signer::open(bench.config.clone()).await;
                let refused = refused.map(drop).expect_err("wrong PIN");
                assert!(
                    matches!(refused, SignerError::PinRefused { .. }),
                    "{refused}"
                );
            }
            assert_eq!(bench.steering.counts().expect("counts")[&Call::Login], 1);
            let same = retry_login(&bench.config, false).expect_err("the PIN that was refused");
            assert!(
                matches!(same, SignerError::Login(LoginBarred::SamePin { .. })),
                "{same}"
            );
            assert_eq!(bench.steering.counts().expect("counts")[&Call::Login], 1);
            std::fs::write(&bench.config.pin_file, format!("{PIN}\n")).expect("a PIN file");
            retry_login(&bench.config, false).expect("the operator's one try");
            bench.open().await;
        },
    );
}
