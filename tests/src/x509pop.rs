//! An agent that attests with the key of a certificate, as the stock agent does, and
//! the small PKI that its certificates come from.

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chancery_api::spire::api::server::agent::v1 as api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use chancery_api::spire::api::server::agent::v1::attest_agent_response::{
    Result as Attested, Step as Told,
};
use chancery_api::spire::api::types;
use num_bigint::BigUint;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

/// Bytes of a nonce.
const NONCE: usize = 32;

/// A key that proves possession.
pub enum Key {
    /// P-256, PKCS#8.
    P256(Vec<u8>),
    /// P-521, PKCS#8.
    P521(Vec<u8>),
    /// RSA, PKCS#8, and the salt its signatures have: none is the longest that fits,
    /// which is the stock agent's.
    Rsa(Vec<u8>, Option<usize>),
}

/// A certificate with what lies above it, leaf first, and its key.
pub struct Identity {
    /// DER.
    pub chain: Vec<Vec<u8>>,
    /// Its key.
    pub key: Key,
}

/// Big-endian, as Go's `big.Int` writes a number.
fn minimal(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

/// One DER value at the beginning: its contents and what follows.
fn der(bytes: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let first = usize::from(*bytes.get(1).context("DER is cut off")?);
    let (length, header) = if first < 0x80 {
        (first, 2)
    } else {
        let octets = bytes.get(2..2 + (first & 0x7f)).context("DER is cut off")?;
        let length = octets.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        (length, 2 + octets.len())
    };
    let end = header + length;
    Ok((
        bytes.get(header..end).context("DER is cut off")?,
        &bytes[end..],
    ))
}

/// Modulus and private exponent of an RSA key in PKCS#8.
fn rsa_numbers(pkcs8: &[u8]) -> anyhow::Result<(BigUint, BigUint)> {
    let (info, _) = der(pkcs8)?;
    let (_, rest) = der(info)?; // version
    let (_, rest) = der(rest)?; // algorithm
    let (key, _) = der(rest)?;
    let (numbers, _) = der(key)?;
    let (_, rest) = der(numbers)?; // version
    let (n, rest) = der(rest)?;
    let (_, rest) = der(rest)?; // public exponent
    let (d, _) = der(rest)?;
    Ok((BigUint::from_bytes_be(n), BigUint::from_bytes_be(d)))
}

/// RSASSA-PSS with SHA-256 (RFC 8017 §8.1.1).
fn sign_pss(pkcs8: &[u8], message: &[u8], salt: Option<usize>) -> anyhow::Result<Vec<u8>> {
    let (n, d) = rsa_numbers(pkcs8)?;
    let bits = usize::try_from(n.bits())?;
    let length = (bits - 1).div_ceil(8);
    let mut salted = vec![0; 8];
    salted.extend_from_slice(digest(&SHA256, message).as_ref());
    let mut random = vec![0; salt.unwrap_or(length - NONCE - 2)];
    SystemRandom::new()
        .fill(&mut random)
        .ok()
        .context("no random bytes")?;
    salted.extend_from_slice(&random);
    let hash = digest(&SHA256, &salted);
    let mut block = vec![0; length - NONCE - 1];
    let at = block.len() - random.len();
    block[at..].copy_from_slice(&random);
    block[at - 1] = 1;
    let mask = (0u32..).flat_map(|counter| {
        let input = [hash.as_ref(), &counter.to_be_bytes()].concat();
        digest(&SHA256, &input).as_ref().to_vec()
    });
    for (byte, mask) in block.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    block[0] &= 0xff >> (8 * length - (bits - 1));
    block.extend_from_slice(hash.as_ref());
    block.push(0xbc);
    let signature = BigUint::from_bytes_be(&block).modpow(&d, &n).to_bytes_be();
    let mut out = vec![0; bits.div_ceil(8) - signature.len()];
    out.extend_from_slice(&signature);
    Ok(out)
}

fn sign_ecdsa(
    algorithm: &'static EcdsaSigningAlgorithm,
    pkcs8: &[u8],
    nonce: &[u8],
    message: &[u8],
) -> anyhow::Result<Value> {
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8)
        .ok()
        .context("the key is none")?;
    let signature = key
        .sign(&SystemRandom::new(), message)
        .ok()
        .context("it does not sign")?;
    let (numbers, _) = der(signature.as_ref())?;
    let (r, rest) = der(numbers)?;
    let (s, _) = der(rest)?;
    let text = |bytes: &[u8]| STANDARD.encode(minimal(bytes));
    Ok(json!({"nonce": STANDARD.encode(nonce), "r": text(r), "s": text(s)}))
}

impl Identity {
    /// What the stock agent sends first.
    pub fn payload(&self) -> Vec<u8> {
        let certificates: Vec<String> = self.chain.iter().map(|c| STANDARD.encode(c)).collect();
        json!({ "certificates": certificates })
            .to_string()
            .into_bytes()
    }

    /// The answer to a challenge.
    pub fn answer(&self, challenge: &[u8]) -> anyhow::Result<Vec<u8>> {
        let challenge: Value = serde_json::from_slice(challenge)?;
        let member = match self.key {
            Key::Rsa(..) => "rsa_signature",
            Key::P256(_) | Key::P521(_) => "ecdsa_signature",
        };
        let theirs = challenge[member]["nonce"].as_str().context("a nonce")?;
        let mut ours = [0; NONCE];
        SystemRandom::new()
            .fill(&mut ours)
            .ok()
            .context("no random bytes")?;
        let message = [STANDARD.decode(theirs)?.as_slice(), &ours].concat();
        anyhow::ensure!(message.len() == 2 * NONCE, "the nonce has another length");
        let answer = match &self.key {
            Key::P256(key) => sign_ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, key, &ours, &message)?,
            Key::P521(key) => sign_ecdsa(&ECDSA_P521_SHA256_ASN1_SIGNING, key, &ours, &message)?,
            Key::Rsa(key, salt) => {
                let signature = sign_pss(key, &message, *salt)?;
                json!({"nonce": STANDARD.encode(ours), "signature": STANDARD.encode(signature)})
            }
        };
        let both = match self.key {
            Key::Rsa(..) => json!({"rsa_signature": answer, "ecdsa_signature": null}),
            Key::P256(_) | Key::P521(_) => {
                json!({"rsa_signature": null, "ecdsa_signature": answer})
            }
        };
        Ok(both.to_string().into_bytes())
    }
}

/// Attests with `payload`, answering the challenge with `answer`, which may be nothing
/// at all; `Err` is the server's no.
pub async fn attest(
    channel: Channel,
    payload: Vec<u8>,
    csr: Vec<u8>,
    answer: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<Attested, Status> {
    let (requests, outgoing) = tokio::sync::mpsc::channel(2);
    let send = |step: Option<Step>| {
        let requests = requests.clone();
        async move {
            let request = api::AttestAgentRequest { step };
            let sent = requests.send(request).await;
            sent.map_err(|_| Status::data_loss("the stream ended early"))
        }
    };
    let params = Params {
        data: Some(types::AttestationData {
            r#type: "x509pop".into(),
            payload,
        }),
        params: Some(api::AgentX509svidParams { csr }),
    };
    send(Some(Step::Params(params))).await?;
    let stream = ReceiverStream::new(outgoing);
    let mut told = AgentClient::new(channel)
        .attest_agent(stream)
        .await?
        .into_inner();
    let mut answer = Some(answer);
    loop {
        let message = told.message().await?;
        match message.and_then(|message| message.step) {
            Some(Told::Challenge(challenge)) => {
                let answer = answer
                    .take()
                    .ok_or_else(|| Status::internal("a second challenge"))?;
                send(answer(&challenge).map(Step::ChallengeResponse)).await?;
            }
            Some(Told::Result(result)) => return Ok(result),
            None => return Err(Status::internal("no result")),
        }
    }
}
