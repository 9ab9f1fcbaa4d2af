//! WIT-SVIDs, which SPIRE has begun and keeps switched off: there is no key that signs
//! them. Its answers are told as they are, so that a client finds out as it does there.

use chancery_api::spire::api::server::svid::v1::NewWitsvidParams;
use chancery_api::spire::api::server::svid::v1::batch_new_witsvid_response::Result as Item;
use chancery_identity::key::{KeyError, KeyKind, PublicKey};
use tonic::Status;

use crate::service::status;

/// The answer to whoever would have one minted.
pub(super) fn disabled() -> Status {
    Status::unimplemented("WIT functionality is disabled")
}

/// The answer to an agent that asks for one, `entry` being whether it may.
pub(super) fn answer(item: &NewWitsvidParams, entry: Result<(), Status>) -> Item {
    let refused = check(item, entry).err().unwrap_or_else(|| {
        Status::internal("failed to sign WIT-SVID: WIT key is not available for signing")
    });
    Item {
        status: status::item(&refused),
        svid: None,
    }
}

fn check(item: &NewWitsvidParams, entry: Result<(), Status>) -> Result<(), Status> {
    if item.entry_id.is_empty() {
        return Err(Status::invalid_argument("missing entry ID"));
    }
    if item.public_key.is_empty() {
        return Err(Status::invalid_argument("missing public key"));
    }
    entry?;
    let key = PublicKey::from_spki_der(&item.public_key).map_err(malformed)?;
    check_algorithm(key.kind(), &item.signing_algorithm).map_err(|e| {
        Status::invalid_argument(format!("invalid signing algorithm or key type: {e}"))
    })
}

fn malformed(error: KeyError) -> Status {
    // One that is no DER is called so by its own text.
    let detail = match error {
        KeyError::Malformed(der) => der.to_string(),
        other => other.to_string(),
    };
    Status::invalid_argument(format!("malformed public key: {detail}"))
}

fn check_algorithm(kind: KeyKind, algorithm: &str) -> Result<(), String> {
    let (key, allowed): (_, &[&str]) = match kind {
        KeyKind::Rsa { .. } => (
            "RSA",
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ),
        KeyKind::EcP256 => ("ec-p256", &["ES256"]),
        KeyKind::EcP384 => ("ec-p384", &["ES384"]),
        KeyKind::EcP521 => ("ec-p521", &["ES512"]),
        KeyKind::Ed25519 => return Err("unsupported key type 'ed25519.PublicKey'".into()),
    };
    if allowed.contains(&algorithm) {
        Ok(())
    } else {
        Err(format!(
            "unsupported signing algorithm for {key} key: {algorithm}"
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;

    fn told(item: &NewWitsvidParams, entry: Result<(), Status>) -> (i32, String) {
        let answer = answer(item, entry);
        assert!(answer.svid.is_none());
        let status = answer.status.unwrap();
        (status.code, status.message)
    }

    fn item(entry_id: &str, public_key: &[u8], algorithm: &str) -> NewWitsvidParams {
        NewWitsvidParams {
            entry_id: entry_id.into(),
            public_key: public_key.into(),
            signing_algorithm: algorithm.into(),
        }
    }

    #[test]
    fn the_answers_are_those_of_spire_in_its_order() {
        let key = KeyPair::generate().unwrap().subject_public_key_info();
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let ed25519 = ed25519.subject_public_key_info();
        let unknown = || Err(Status::not_found("entry not found or not authorized"));
        for (item, entry, code, text) in [
            (item("", b"", ""), unknown(), 3, "missing entry ID"),
            (item("e", b"", ""), unknown(), 3, "missing public key"),
            (
                item("e", b"x", ""),
                unknown(),
                5,
                "entry not found or not authorized",
            ),
            (
                item("e", b"x", ""),
                Ok(()),
                3,
                "malformed public key: input ends inside a value",
            ),
            (
                item("e", &key, "RS256"),
                Ok(()),
                3,
                "invalid signing algorithm or key type: unsupported signing algorithm for \
                 ec-p256 key: RS256",
            ),
            (
                item("e", &ed25519, "EdDSA"),
                Ok(()),
                3,
                "invalid signing algorithm or key type: unsupported key type 'ed25519.PublicKey'",
            ),
            (
                item("e", &key, "ES256"),
                Ok(()),
                13,
                "failed to sign WIT-SVID: WIT key is not available for signing",
            ),
        ] {
            assert_eq!(told(&item, entry), (code, text.to_owned()));
        }
        assert_eq!(disabled().message(), "WIT functionality is disabled");
        assert_eq!(disabled().code(), tonic::Code::Unimplemented);
    }

    #[test]
    fn each_kind_of_key_has_its_algorithms() {
        let rsa = KeyKind::Rsa { bits: 2048 };
        for (kind, good, bad) in [
            (rsa, "PS512", "ES256"),
            (KeyKind::EcP256, "ES256", "ES384"),
            (KeyKind::EcP384, "ES384", "ES512"),
            (KeyKind::EcP521, "ES512", "ES256"),
        ] {
            assert!(check_algorithm(kind, good).is_ok());
            assert!(check_algorithm(kind, bad).is_err());
        }
    }
}
