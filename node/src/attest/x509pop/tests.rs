#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

/// A time at which the certificates of the vectors are valid.
const NOW: i64 = 1_800_000_000;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/x509pop.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn der(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn settings() -> Settings {
    Settings {
        agent_path_template: None,
        max_intermediates: 4,
        max_rsa_key_size: 8_192,
        verify_client_ip: false,
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// The case of the vectors with this name.
fn case(vectors: &Value, list: &str, name: &str) -> Value {
    let cases = vectors[list].as_array().unwrap();
    cases.iter().find(|c| c["name"] == name).unwrap().clone()
}

fn external(roots: &Value) -> Roots {
    let roots = roots
        .as_array()
        .unwrap()
        .iter()
        .map(|r| Certificate::parse(&der(r)).unwrap());
    Roots::External(Arc::new(roots.collect()))
}

fn payload(certificates: &[&Value]) -> Vec<u8> {
    serde_json::json!({ "certificates": certificates })
        .to_string()
        .into_bytes()
}

/// What this node knows, and what it will know once it has asked the others.
#[derive(Default)]
struct Authorities {
    known: Mutex<Vec<Vec<u8>>>,
    /// None without a quorum.
    decided: Option<Vec<Vec<u8>>>,
    asked: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl OwnAuthorities for Authorities {
    fn known(&self) -> Vec<Vec<u8>> {
        self.known.lock().unwrap().clone()
    }

    async fn exact(&self) -> Result<(), Status> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let decided = self.decided.clone();
        *self.known.lock().unwrap() = decided.ok_or_else(|| Status::unavailable("no quorum"))?;
        Ok(())
    }
}

/// A node with the key of a certificate that a root of its own signed.
struct Holder {
    root: Vec<u8>,
    leaf: Vec<u8>,
    key: aws_lc_rs::signature::EcdsaKeyPair,
}

impl Holder {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let id = "spiffe://example.org/exchange/node";
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let signing = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = key.serialize_der();
        Self {
            root: issuer.der().to_vec(),
            leaf: leaf.der().to_vec(),
            key: aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(signing, &der).unwrap(),
        }
    }

    fn payload(&self) -> Vec<u8> {
        payload(&[&Value::String(STANDARD.encode(&self.leaf))])
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the agent's entropy, not the server's"
    )]
    fn prove(&self, challenge: &[u8]) -> Vec<u8> {
        let challenge: Value = serde_json::from_slice(challenge).unwrap();
        let mut message = der(&challenge["ecdsa_signature"]["nonce"]);
        message.extend([9; proof::NONCE_BYTES]);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let signature = self.key.sign(&random, &message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        let signature = serde_json::json!({
            "nonce": STANDARD.encode([9; proof::NONCE_BYTES]),
            "r": STANDARD.encode(r),
            "s": STANDARD.encode(s),
        });
        serde_json::json!({ "ecdsa_signature": signature })
            .to_string()
            .into_bytes()
    }
}

/// A holder that answers rightly; the node's authorities become these meanwhile.
struct Proves<'a>(&'a Holder, Arc<Authorities>, Option<Vec<Vec<u8>>>);

#[async_trait]
impl Rounds for Proves<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, Status> {
        if let Some(meanwhile) = self.2.take() {
            *self.1.known.lock().unwrap() = meanwhile;
        }
        Ok(self.0.prove(&challenge))
    }
}

/// What comes of a right proof to a node that knows `known`, `meanwhile` while the agent
/// thinks, and `decided` when it asks; and how often it asked.
async fn proved(
    holder: &Holder,
    known: Vec<Vec<u8>>,
    meanwhile: Option<Vec<Vec<u8>>>,
    decided: Option<Vec<Vec<u8>>>,
) -> (Result<String, (Code, String)>, usize) {
    let authorities = Arc::new(Authorities {
        known: Mutex::new(known),
        decided,
        ..Authorities::default()
    });
    let roots = Roots::Spiffe {
        authorities: authorities.clone(),
        prefix: "/exchange/".into(),
    };
    let method = X509Pop::new(domain(), roots, settings());
    let node = Node {
        address: None,
        now: NOW,
    };
    let mut rounds = Proves(holder, authorities.clone(), meanwhile);
    let told = match method.attest(holder.payload(), node, &mut rounds).await {
        Ok(attestation) => Ok(attestation.id.path().to_owned()),
        Err(error) => {
            let status = error.into_status(NAME);
            Err((status.code(), status.message().to_owned()))
        }
    };
    let asked = authorities.asked.load(std::sync::atomic::Ordering::SeqCst);
    (told, asked)
}

#[tokio::test]
async fn a_node_that_is_behind_asks_before_it_says_no() {
    let (holder, other) = (Holder::new(), Holder::new());
    let own = || vec![holder.root.clone()];
    let foreign = || vec![other.root.clone()];
    let attested = Ok("/spire/agent/x509pop/node".to_owned());
    assert_eq!(
        proved(&holder, own(), None, None).await,
        (attested.clone(), 0)
    );
    assert_eq!(
        proved(&holder, foreign(), None, Some(own())).await,
        (attested, 1)
    );
    let (told, asked) = proved(&holder, foreign(), None, Some(foreign())).await;
    let (code, text) = told.unwrap_err();
    assert_eq!((code, asked), (Code::PermissionDenied, 1));
    assert!(
        text.starts_with("nodeattestor(x509pop): certificate verification failed: x509: "),
        "{text}"
    );
    // Without a quorum nobody knows.
    let unknown = (Code::Unavailable, "no quorum".to_owned());
    assert_eq!(
        proved(&holder, foreign(), None, None).await,
        (Err(unknown), 1)
    );
}

#[tokio::test]
async fn an_authority_that_is_revoked_while_the_agent_thinks_attests_nobody() {
    let (holder, other) = (Holder::new(), Holder::new());
    let (own, foreign) = (vec![holder.root.clone()], vec![other.root.clone()]);
    let (told, asked) = proved(
        &holder,
        own.clone(),
        Some(foreign.clone()),
        Some(foreign.clone()),
    )
    .await;
    assert_eq!((told.unwrap_err().0, asked), (Code::PermissionDenied, 1));
    // One more authority takes nothing away.
    let both = [own.clone(), foreign].concat();
    assert!(proved(&holder, own, Some(both), None).await.0.is_ok());
}

#[tokio::test]
async fn checks_beyond_their_bound_are_sent_away_and_those_within_wait() {
    let checks = Arc::new(Checks::new(1, 1));
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let (begun, begins) = tokio::sync::oneshot::channel();
    let run = |work: Box<dyn FnOnce() + Send>| {
        let checks = Arc::clone(&checks);
        tokio::spawn(async move { checks.run(work).await.map_err(|e| e.into_status(NAME)) })
    };
    let first = run(Box::new(move || {
        begun.send(()).unwrap();
        held.recv().unwrap();
    }));
    begins.await.unwrap();
    let second = run(Box::new(|| ()));
    let waits = async {
        while checks.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let waits = tokio::time::timeout(std::time::Duration::from_secs(20), waits).await;
    waits.expect("two are all there may be");
    let status = run(Box::new(|| ())).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!second.is_finished());
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    run(Box::new(|| ())).await.unwrap().unwrap();
}

/// An agent that answers every challenge with the same bytes.
struct Answers(Vec<u8>, usize);

#[async_trait]
impl Rounds for Answers {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, tonic::Status> {
        assert!(!challenge.is_empty());
        self.1 += 1;
        Ok(self.0.clone())
    }
}

/// What comes of a payload whose challenge is answered with `answer`, and after how
/// many rounds.
async fn told(
    method: &X509Pop,
    payload: Vec<u8>,
    answer: &[u8],
    address: Option<IpAddr>,
) -> (Code, String, usize) {
    let mut rounds = Answers(answer.to_vec(), 0);
    let node = Node { address, now: NOW };
    match method.attest(payload, node, &mut rounds).await {
        Ok(_) => panic!("no answer to a fresh nonce can be right"),
        Err(AttestError::Refused { code, message }) => (code, message, rounds.1),
        Err(AttestError::Conversation(status)) => panic!("{status}"),
    }
}

#[test]
fn both_default_templates_parse() {
    for source in [TEMPLATE_EXTERNAL, TEMPLATE_SPIFFE] {
        assert!(Template::parse(source).is_ok(), "{source}");
    }
}

#[test]
fn proofs_hold_and_fail_as_go_says() {
    let vectors = vectors();
    let proofs = vectors["proofs"].as_array().unwrap();
    assert!(proofs.len() > 15);
    for case in proofs {
        let name = case["name"].as_str().unwrap();
        let leaf = Certificate::parse(&der(&case["leaf"])).unwrap();
        let nonce: [u8; proof::NONCE_BYTES] = der(&case["nonce"]).try_into().unwrap();
        let response = wire::read_response(case["response"].as_str().unwrap().as_bytes()).unwrap();
        let challenge = || Challenge::new(&leaf, nonce).unwrap();
        let valid = case["valid"].as_bool().unwrap();
        assert_eq!(challenge().check(&response).is_ok(), valid, "{name}");
        // The same answer to another challenge.
        let mut other = nonce;
        other[31] ^= 1;
        assert!(
            Challenge::new(&leaf, other)
                .unwrap()
                .check(&response)
                .is_err(),
            "{name}"
        );
        // Every bit of the signature counts.
        let mut bent = response.clone();
        if let Some(rsa) = &mut bent.rsa {
            for at in (0..rsa.signature.len()).step_by(17) {
                rsa.signature[at] ^= 1;
                assert!(
                    challenge()
                        .check(&Response {
                            rsa: Some(rsa.clone()),
                            ecdsa: None
                        })
                        .is_err(),
                    "{name}"
                );
                rsa.signature[at] ^= 1;
            }
            rsa.signature.insert(0, 0);
            assert!(challenge().check(&bent).is_err(), "{name}");
        } else if let Some(ecdsa) = &mut bent.ecdsa {
            ecdsa.s.push(0);
            assert!(challenge().check(&bent).is_err(), "{name}");
        }
        // The other kind of answer, and none.
        let swapped = Response {
            rsa: None,
            ecdsa: None,
        };
        let text = challenge().check(&swapped).unwrap_err();
        assert!(text == "expecting RSA response" || text == "expecting ECDSA response");
        let mut short = response.clone();
        if let Some(rsa) = &mut short.rsa {
            rsa.nonce.pop();
        }
        if let Some(ecdsa) = &mut short.ecdsa {
            ecdsa.nonce.pop();
        }
        assert_eq!(
            challenge().check(&short),
            Err("invalid response nonce"),
            "{name}"
        );
    }
}

use super::wire::Response;

#[tokio::test]
async fn everything_is_refused_in_the_order_and_words_of_spire() {
    let vectors = vectors();
    let direct = case(&vectors, "chains", "direct");
    let two = case(&vectors, "chains", "two intermediates");
    let method = X509Pop::new(domain(), external(&direct["roots"]), settings());
    let leaf = &direct["leaf"];
    let verification = "certificate verification failed: ";
    let response = r#"{"ecdsa_signature":{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","r":"AQ==","s":"AQ=="}}"#;
    let five = [leaf; 6];
    for (payload, answer, code, text, rounds) in [
        (
            b"{".to_vec(),
            "",
            Code::InvalidArgument,
            "failed to unmarshal data: ",
            0,
        ),
        (
            b"null".to_vec(),
            "",
            Code::InvalidArgument,
            "no certificate to attest",
            0,
        ),
        (
            payload(&[]),
            "",
            Code::InvalidArgument,
            "no certificate to attest",
            0,
        ),
        (
            payload(&five),
            "",
            Code::InvalidArgument,
            "too many intermediate certificates",
            0,
        ),
        (
            br#"{"certificates":["AAAA"]}"#.to_vec(),
            "",
            Code::InvalidArgument,
            "unable to parse leaf certificate: ",
            0,
        ),
        (
            payload(&[leaf, &Value::String("AAAA".into())]),
            "",
            Code::InvalidArgument,
            "unable to parse intermediate certificate 0: ",
            0,
        ),
        (
            payload(&[&two["leaf"]]),
            "",
            Code::PermissionDenied,
            verification,
            0,
        ),
        (
            payload(&[leaf]),
            "",
            Code::InvalidArgument,
            "unable to unmarshal challenge response: ",
            1,
        ),
        (
            payload(&[leaf]),
            "{}",
            Code::PermissionDenied,
            "challenge response verification failed: expecting ECDSA response",
            1,
        ),
        (
            payload(&[leaf]),
            response,
            Code::PermissionDenied,
            "challenge response verification failed: ECDSA signature verify failed",
            1,
        ),
    ] {
        let (told_code, told_text, told_rounds) =
            told(&method, payload, answer.as_bytes(), None).await;
        assert_eq!((told_code, told_rounds), (code, rounds), "{told_text}");
        assert!(told_text.starts_with(text), "{told_text}");
    }
}

#[tokio::test]
async fn sizes_usage_and_address_are_checked_before_a_challenge_is_given() {
    let vectors = vectors();
    let direct = case(&vectors, "chains", "direct");
    let rsa = case(&vectors, "proofs", "RSA 4096, salt of 20");
    let small = Settings {
        max_rsa_key_size: 2_048,
        ..settings()
    };
    let method = X509Pop::new(domain(), external(&direct["roots"]), small);
    let (code, text, _) = told(&method, payload(&[&rsa["leaf"]]), b"", None).await;
    assert_eq!(
        (code, text.as_str()),
        (Code::InvalidArgument, "leaf certificate key size too large")
    );
    let (_, text, _) = told(
        &method,
        payload(&[&direct["leaf"], &rsa["leaf"]]),
        b"",
        None,
    )
    .await;
    assert_eq!(text, "intermediate certificate 0 key size too large");

    // A root that is shown as a leaf: its key is not for signatures.
    let root = &direct["roots"][0];
    let (code, text, _) = told(&method, payload(&[root]), b"", None).await;
    assert_eq!(code, Code::Internal);
    assert_eq!(
        text,
        "unable to generate challenge: certificate not intended for digital signature use"
    );

    let checked = Settings {
        verify_client_ip: true,
        ..settings()
    };
    let method = X509Pop::new(domain(), external(&direct["roots"]), checked);
    let shown = || payload(&[&direct["leaf"]]);
    let (code, text, _) = told(&method, shown(), b"", None).await;
    assert_eq!(
        (code, text.as_str()),
        (Code::Internal, "client IP not available for verification")
    );
    let other = Some(IpAddr::from([10, 1, 2, 4]));
    let (code, text, _) = told(&method, shown(), b"", other).await;
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(
        text,
        "client IP 10.1.2.4 does not match any certificate IP SAN"
    );
    let mapped = Some("::ffff:10.1.2.3".parse().unwrap());
    for own in [Some(IpAddr::from([10, 1, 2, 3])), mapped] {
        let (_, _, rounds) = told(&method, shown(), b"", own).await;
        assert_eq!(rounds, 1, "the address is good, so there was a challenge");
    }
}

#[tokio::test]
async fn a_cluster_without_an_authority_trusts_nobody() {
    let vectors = vectors();
    let direct = case(&vectors, "chains", "direct");
    let roots = Roots::Spiffe {
        authorities: Arc::new(Authorities::default()),
        prefix: "/".into(),
    };
    let method = X509Pop::new(domain(), roots, settings());
    let (code, text, _) = told(&method, payload(&[&direct["leaf"]]), b"", None).await;
    assert_eq!(
        (code, text.as_str()),
        (
            Code::Internal,
            "failed to get trust bundle: it holds no authority yet"
        )
    );
}

#[test]
fn an_svid_becomes_the_agent_that_its_path_names() {
    let vectors = vectors();
    let templates: Value = serde_json::from_slice(
        &std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/path_templates.json"
        ))
        .unwrap(),
    )
    .unwrap();
    let leaf = Certificate::parse(&der(&templates["certificate"])).unwrap();
    let of = |prefix: &str| {
        let roots = Roots::Spiffe {
            authorities: Arc::new(Authorities::default()),
            prefix: prefix.into(),
        };
        X509Pop::new(domain(), roots, settings()).attestation(&leaf, &["f1".into(), "f2".into()])
    };
    let attestation = of("/spire-exchange/").unwrap();
    assert_eq!(
        attestation.id.as_str(),
        "spiffe://example.org/spire/agent/x509pop/testhost"
    );
    assert!(attestation.can_reattest && attestation.attestor == "x509pop");
    let values: Vec<String> = attestation
        .selectors
        .iter()
        .map(|s| format!("{}:{}", s.kind, s.value))
        .collect();
    assert_eq!(
        values,
        [
            "x509pop:subject:cn:node-01.HTTPServer_example",
            "x509pop:ca:fingerprint:f1",
            "x509pop:ca:fingerprint:f2",
            "x509pop:serialnumber:abcdef0123456789abcdef0123456789",
            "x509pop:san:datacenter:us-east-1",
            "x509pop:san:rack:a/7",
        ]
    );
    let everything = of("/").unwrap();
    assert_eq!(
        everything.id.path(),
        "/spire/agent/x509pop/spire-exchange/testhost"
    );
    let refused = |result: Result<Attestation, AttestError>| match result {
        Err(AttestError::Refused { code, message }) => (code, message),
        _ => panic!("it was accepted"),
    };
    assert_eq!(
        refused(of("/other/")),
        (
            Code::PermissionDenied,
            "x509 cert doesnt match SVID prefix".into()
        )
    );
    // The path that is left must be one.
    let (code, text) = refused(of("/spire-exchange/testhost"));
    assert_eq!(code, Code::Internal);
    assert!(
        text.starts_with("failed to make spiffe id: invalid agent path suffix \"/x509pop/\": "),
        "{text}"
    );
    let v1 = Certificate::parse(&der(&case(&vectors, "chains", "version 1 root")["leaf"])).unwrap();
    let roots = Roots::Spiffe {
        authorities: Arc::new(Authorities::default()),
        prefix: "/".into(),
    };
    let none = X509Pop::new(domain(), roots, settings()).attestation(&v1, &[]);
    assert_eq!(
        refused(none),
        (
            Code::PermissionDenied,
            "valid SVID x509 cert not found".into()
        )
    );
}
