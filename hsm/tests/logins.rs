//! Who may try a PIN: by what others that share the token say, and by the record of this machine.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chancery_hsm::pkcs11::{
    AwaitedSigner, ClaimRefused, Council, LoginBarred, LoginEnd, Retried, logins_tried,
};
use chancery_hsm::testing::{SoftHsm, fresh_key, in_own_process};
use chancery_hsm::{KeySpec, KeyType, Pkcs11Config, Signer, SignerError};

const PIN: &str = "canary-4711";
/// Ten times what a look for a token takes, and more.
const LIMIT: Duration = Duration::from_secs(20);

/// Others that say what a test tells them to.
#[derive(Debug, Default)]
struct Others {
    refuse: Mutex<Option<ClaimRefused>>,
    claims: Mutex<Vec<bool>>,
    ends: Mutex<Vec<LoginEnd>>,
    tried: Mutex<Vec<String>>,
}

impl Others {
    fn refuse(&self, refused: Option<ClaimRefused>) {
        *self.refuse.lock().expect("no panic") = refused;
    }

    fn ends(&self) -> Vec<LoginEnd> {
        self.ends.lock().expect("no panic").clone()
    }
}

impl Council for Others {
    fn claim(&self, _: &str, ordered: bool) -> Result<(), ClaimRefused> {
        self.claims.lock().expect("no panic").push(ordered);
        let refused = self.refuse.lock().expect("no panic").clone();
        refused.map_or(Ok(()), Err)
    }

    fn settle(&self, _: &str, end: LoginEnd) {
        self.ends.lock().expect("no panic").push(end);
    }

    fn refused_unclaimed(&self, _: &str, said: &str) {
        panic!("every login here is claimed: {said}");
    }

    fn tried(&self, _: &str, said: &str) {
        self.tried.lock().expect("no panic").push(said.to_owned());
    }
}

struct Bench {
    hsm: SoftHsm,
    config: Pkcs11Config,
    others: Arc<Others>,
}

fn bench<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Bench) -> F) {
    in_own_process(test, |hsm| {
        let config = hsm.token("ca", PIN);
        let others = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(body(Bench {
            hsm,
            config,
            others,
        }));
    });
}

impl Bench {
    fn start(&self) -> AwaitedSigner {
        let signer = AwaitedSigner::new(self.config.clone()).expect("sound");
        signer.start(self.others.clone()).expect("a thread");
        signer
    }

    fn logins(&self) -> u64 {
        logins_tried(&self.config.module)
    }

    fn record(&self) -> Vec<u8> {
        fs::read(self.config.pin_file.with_extension("pin.tried")).expect("a record")
    }
}

/// Waits until the signer is as it must be.
async fn until(signer: &AwaitedSigner, fits: impl Fn(Result<(), &SignerError>) -> bool) {
    let wait = async {
        loop {
            let health = signer.health();
            let state = match &health.last_error {
                Some(error) if !health.usable => Err(error),
                _ => Ok(()),
            };
            if fits(state) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, wait).await;
    assert!(waited.is_ok(), "{:?}", signer.health());
}

async fn make_key(signer: &AwaitedSigner) -> Result<(), SignerError> {
    let spec = KeySpec {
        key: fresh_key("k"),
        key_type: KeyType::EcP256,
    };
    signer.generate(&spec).await.map(drop)
}

#[test]
fn no_login_before_the_others_leave_it_to_us() {
    bench(
        "no_login_before_the_others_leave_it_to_us",
        |bench| async move {
            let by = || "node 2".to_owned();
            let said = || "CKR_PIN_INCORRECT".to_owned();
            bench
                .others
                .refuse(Some(ClaimRefused::UnderWay { by: by() }));
            let signer = bench.start();
            until(&signer, |state| {
                matches!(state, Err(SignerError::Login(LoginBarred::UnderWay { .. })))
            })
            .await;
            bench.others.refuse(Some(ClaimRefused::Refused {
                by: by(),
                said: said(),
            }));
            until(&signer, |state| {
                let elsewhere = |e: &SignerError| {
                    matches!(e, SignerError::Login(LoginBarred::RefusedElsewhere { .. }))
                };
                state.is_err_and(|e| elsewhere(e) && e.to_string().contains("node 2"))
            })
            .await;
            let why = "no leader".to_owned();
            bench.others.refuse(Some(ClaimRefused::Unasked { why }));
            until(&signer, |state| {
                matches!(state, Err(SignerError::Login(LoginBarred::Unasked { .. })))
            })
            .await;
            let error = make_key(&signer).await.expect_err("not open");
            assert!(matches!(error, SignerError::Login(_)), "{error}");
            assert_eq!(bench.logins(), 0);
            assert_eq!(bench.others.ends(), []);

            bench.others.refuse(None);
            until(&signer, |state| state.is_ok()).await;
            make_key(&signer).await.expect("makes a key");
            assert_eq!(bench.logins(), 1);
            assert_eq!(bench.others.ends(), [LoginEnd::Accepted]);
            assert_eq!(bench.record(), b"", "nothing is kept of what went well");
            let retried = signer.retry(false).await.expect("is in use");
            assert!(matches!(retried, Retried::NotNeeded(_)), "{retried:?}");
            assert_eq!(bench.logins(), 1);
        },
    );
}

#[test]
fn a_refusal_is_told_and_ends_with_the_operators_order() {
    bench(
        "a_refusal_is_told_and_ends_with_the_operators_order",
        |bench| async move {
            assert_eq!(bench.hsm.write_pin("ca.pin", "0000"), bench.config.pin_file);
            let signer = bench.start();
            let refused = |state: Result<(), &SignerError>| {
                matches!(state, Err(SignerError::PinRefused { .. }))
            };
            until(&signer, refused).await;
            let said = LoginEnd::Refused("CKR_PIN_INCORRECT".into());
            assert_eq!(bench.others.ends(), std::slice::from_ref(&said));
            let record = String::from_utf8(bench.record()).expect("text");
            assert!(record.contains(" refused CKR_PIN_INCORRECT"), "{record}");

            let same = signer.retry(false).await.expect_err("the same PIN");
            assert!(
                matches!(same, SignerError::Login(LoginBarred::SamePin { .. })),
                "{same}"
            );
            assert_eq!(bench.logins(), 1);
            // Two orders at a time are one try.
            let (meant, second) = tokio::join!(signer.retry(true), signer.retry(true));
            let meant = meant.expect_err("still wrong");
            assert!(matches!(meant, SignerError::PinRefused { .. }), "{meant}");
            let second = second.expect_err("beside another");
            assert!(
                matches!(second, SignerError::Login(LoginBarred::OrderUnderWay)),
                "{second}"
            );
            assert_eq!(bench.logins(), 2);

            assert_eq!(bench.hsm.write_pin("ca.pin", PIN), bench.config.pin_file);
            let by = "node 2".to_owned();
            bench.others.refuse(Some(ClaimRefused::UnderWay { by }));
            let barred = signer.retry(false).await.expect_err("node 2 is at it");
            assert!(matches!(barred, SignerError::Login(_)), "{barred}");
            bench.others.refuse(None);
            let retried = signer.retry(false).await.expect("the right PIN");
            assert!(matches!(retried, Retried::LoggedIn(_)), "{retried:?}");
            until(&signer, |state| state.is_ok()).await;
            make_key(&signer).await.expect("makes a key");
            assert_eq!(
                bench.logins(),
                3,
                "the ordered login is the one that is used"
            );
            assert_eq!(
                bench.others.ends(),
                [said.clone(), said, LoginEnd::Accepted]
            );
            let claims = bench.others.claims.lock().expect("no panic").clone();
            assert_eq!(claims, [false, true, true, true]);
            assert_eq!(bench.record(), b"");
        },
    );
}

#[test]
fn what_an_earlier_process_left_is_told_and_not_tried() {
    bench(
        "what_an_earlier_process_left_is_told_and_not_tried",
        |bench| async move {
            // As a process leaves it that dies in the middle: another process of this test.
            let serial = chancery_hsm::pkcs11::probe(&bench.config)
                .expect("is there")
                .serial;
            let left = format!(
                "chancery-tried-pins 1\n{} {} {} begun\n",
                hex::encode(&serial),
                "00".repeat(16),
                "00".repeat(32)
            );
            write(&bench.config.pin_file, &left);
            let signer = bench.start();
            until(&signer, |state| {
                matches!(state, Err(SignerError::Login(LoginBarred::CutOff { .. })))
            })
            .await;
            assert_eq!(bench.others.tried.lock().expect("no panic")[0], "cut off");
            write(&bench.config.pin_file, "damaged");
            until(&signer, |state| {
                matches!(state, Err(SignerError::PinRecord { .. }))
            })
            .await;
            assert_eq!(bench.logins(), 0);
            assert!(bench.others.claims.lock().expect("no panic").is_empty());
            signer.retry(false).await.expect("by order");
            until(&signer, |state| state.is_ok()).await;
            assert_eq!(bench.logins(), 1);
        },
    );
}

fn write(pin_file: &Path, record: &str) {
    fs::write(pin_file.with_extension("pin.tried"), record).expect("writes");
}
