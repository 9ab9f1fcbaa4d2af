//! The JSON of x509pop, read and written as Go's `encoding/json` does it.
//!
//! Member names match in any case, the last of several wins, `null` leaves a member
//! as it was, unknown ones are ignored. Bytes are padded base64, in which line breaks
//! do not count, or lists of numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Most certificates that are taken out of a payload; configuration allows fewer.
const CERTIFICATES_MAX: usize = 64;

/// Why JSON is not the message that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(String);

impl WireError {
    fn wrong(what: &str, name: &str) -> Self {
        Self(format!("json: cannot unmarshal {what} into field {name:?}"))
    }
}

/// Answer to a challenge of an RSA key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RsaResponse {
    /// The agent's nonce.
    pub nonce: Vec<u8>,
    /// RSASSA-PSS signature.
    pub signature: Vec<u8>,
}

/// Answer to a challenge of an elliptic curve key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EcdsaResponse {
    /// The agent's nonce.
    pub nonce: Vec<u8>,
    /// First number of the signature, big-endian.
    pub r: Vec<u8>,
    /// Second number of the signature, big-endian.
    pub s: Vec<u8>,
}

/// Answer to a challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// What an RSA key signed.
    pub rsa: Option<RsaResponse>,
    /// What an elliptic curve key signed.
    pub ecdsa: Option<EcdsaResponse>,
}

/// The certificates of an attestation payload, leaf first, unread.
///
/// # Errors
/// [`WireError`].
pub fn read_payload(bytes: &[u8]) -> Result<Vec<Vec<u8>>, WireError> {
    let mut certificates = Vec::new();
    for (name, value) in members(parse(bytes)?, "AttestationData")? {
        if is(&name, "certificates") {
            match value {
                Value::Null => certificates = Vec::new(),
                Value::Array(items) if items.len() <= CERTIFICATES_MAX => {
                    certificates = items
                        .into_iter()
                        .map(|item| binary(item, "certificates"))
                        .collect::<Result<_, _>>()?;
                }
                Value::Array(_) => {
                    return Err(WireError(format!(
                        "more than {CERTIFICATES_MAX} certificates"
                    )));
                }
                _ => return Err(WireError::wrong("a value", "certificates")),
            }
        }
    }
    Ok(certificates)
}

/// Writes the challenge for an RSA key.
pub fn rsa_challenge(nonce: &[u8]) -> Vec<u8> {
    let nonce = STANDARD.encode(nonce);
    format!(r#"{{"rsa_signature":{{"nonce":"{nonce}"}},"ecdsa_signature":null}}"#).into_bytes()
}

/// Writes the challenge for an elliptic curve key.
pub fn ecdsa_challenge(nonce: &[u8]) -> Vec<u8> {
    let nonce = STANDARD.encode(nonce);
    format!(r#"{{"rsa_signature":null,"ecdsa_signature":{{"nonce":"{nonce}"}}}}"#).into_bytes()
}

/// Reads the answer to a challenge.
///
/// # Errors
/// [`WireError`].
pub fn read_response(bytes: &[u8]) -> Result<Response, WireError> {
    let mut response = Response::default();
    for (name, value) in members(parse(bytes)?, "Response")? {
        if is(&name, "rsa_signature") {
            let rsa = response.rsa.take().unwrap_or_default();
            let (mut nonce, mut signature) = (rsa.nonce, rsa.signature);
            let fields = [("nonce", &mut nonce), ("signature", &mut signature)];
            response.rsa =
                fill(value, "rsa_signature", fields)?.then_some(RsaResponse { nonce, signature });
        } else if is(&name, "ecdsa_signature") {
            let ecdsa = response.ecdsa.take().unwrap_or_default();
            let (mut nonce, mut r, mut s) = (ecdsa.nonce, ecdsa.r, ecdsa.s);
            let fields = [("nonce", &mut nonce), ("r", &mut r), ("s", &mut s)];
            response.ecdsa =
                fill(value, "ecdsa_signature", fields)?.then_some(EcdsaResponse { nonce, r, s });
        }
    }
    Ok(response)
}

/// Puts the members of an object into fields. `null` says that there is no object.
fn fill<const N: usize>(
    value: Value,
    what: &str,
    mut fields: [(&str, &mut Vec<u8>); N],
) -> Result<bool, WireError> {
    if value.is_null() {
        return Ok(false);
    }
    for (name, value) in members(value, what)? {
        for (known, field) in &mut fields {
            if is(&name, known) {
                **field = binary(value.clone(), known)?;
            }
        }
    }
    Ok(true)
}

fn parse(bytes: &[u8]) -> Result<Value, WireError> {
    serde_json::from_slice(bytes).map_err(|e| WireError(format!("invalid JSON: {e}")))
}

/// The members of an object. `null` has none.
fn members(value: Value, what: &str) -> Result<Map<String, Value>, WireError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(members) => Ok(members),
        _ => Err(WireError::wrong("a value that is no object", what)),
    }
}

fn is(name: &str, known: &str) -> bool {
    name.eq_ignore_ascii_case(known)
}

fn binary(value: Value, name: &str) -> Result<Vec<u8>, WireError> {
    let bytes = match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) if text.contains(['\r', '\n']) => {
            STANDARD.decode(text.replace(['\r', '\n'], "")).ok()
        }
        Value::String(text) => STANDARD.decode(text).ok(),
        Value::Array(numbers) => numbers
            .iter()
            .map(|n| match n {
                Value::Null => Some(0),
                n => n.as_u64().and_then(|n| u8::try_from(n).ok()),
            })
            .collect(),
        _ => None,
    };
    bytes.ok_or_else(|| WireError::wrong("a value that is not base64", name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_as_go_reads_it() {
        let two = vec![b"a".to_vec(), b"bc".to_vec()];
        for text in [
            r#"{"certificates":["YQ==","YmM="]}"#,
            r#"{"CertiFicates":["YQ==","YmM="],"other":{"x":[1]}}"#,
            r#"{"certificates":["Y\nQ==\r","YmM="]}"#,
            r#"{"certificates":[[97],[98,99]]}"#,
            r#"{"certificates":["eg=="],"certificates":["YQ==","YmM="]}"#,
        ] {
            assert_eq!(read_payload(text.as_bytes()).unwrap(), two, "{text}");
        }
        for text in [
            "null",
            "{}",
            r#"{"certificates":null}"#,
            r#"{"certificates":[]}"#,
        ] {
            assert!(read_payload(text.as_bytes()).unwrap().is_empty(), "{text}");
        }
        let null = read_payload(br#"{"certificates":[null]}"#).unwrap();
        assert_eq!(null, [Vec::<u8>::new()]);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "\"x\"",
            "{} x",
            r#"{"certificates":"YQ=="}"#,
            r#"{"certificates":["YQ"]}"#,
            r#"{"certificates":["YQ==="]}"#,
            r#"{"certificates":["Y-Q="]}"#,
            r#"{"certificates":[1]}"#,
            r#"{"certificates":[[256]]}"#,
            r#"{"certificates":[{}]}"#,
        ] {
            assert!(read_payload(text.as_bytes()).is_err(), "{text}");
        }
        let many = format!(r#"{{"certificates":[{}]}}"#, vec!["\"\""; 65].join(","));
        assert!(read_payload(many.as_bytes()).is_err());
    }

    #[test]
    fn challenges_have_both_members() {
        assert_eq!(
            rsa_challenge(&[0; 3]),
            br#"{"rsa_signature":{"nonce":"AAAA"},"ecdsa_signature":null}"#
        );
        assert_eq!(
            ecdsa_challenge(&[0; 3]),
            br#"{"rsa_signature":null,"ecdsa_signature":{"nonce":"AAAA"}}"#
        );
    }

    #[test]
    fn a_response_has_what_its_members_say() {
        let rsa = RsaResponse {
            nonce: vec![0, 0, 0],
            signature: b"a".to_vec(),
        };
        let response = read_response(
            br#"{"rsa_signature":{"nonce":"AAAA","signature":"YQ=="},"ecdsa_signature":null}"#,
        );
        assert_eq!(response.unwrap().rsa, Some(rsa));
        let response =
            read_response(br#"{"ECDSA_Signature":{"R":"YQ==","s":null,"nonce":"AAAA"}}"#);
        let ecdsa = response.unwrap().ecdsa.unwrap();
        assert_eq!((ecdsa.r, ecdsa.s), (b"a".to_vec(), vec![]));
        assert_eq!(read_response(b"{}").unwrap(), Response::default());
        assert!(read_response(br#"{"rsa_signature":"YQ=="}"#).is_err());
        assert!(read_response(br#"{"rsa_signature":{"signature":"!"}}"#).is_err());
        assert!(read_response(b"").is_err());
    }
}
