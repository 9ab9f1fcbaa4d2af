//! Key objects: made so that they cannot leave, found by id, checked before they are used.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use aws_lc_rs::digest::Digest;
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{
    Attribute, AttributeType, KeyType as RawKeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;

use crate::error::SignerError;
use crate::public_key::{P256_OID, P384_OID, PublicKeyInfo, RSA_EXPONENT, VerifyingKey};
use crate::signer::{KeyId, KeyListing, KeyRef, KeySpec, KeyType, SignatureAlgorithm};

/// Objects that a listing reads at most: a token of ours holds dozens.
const LISTED_MAX: usize = 10_000;

/// DigestInfo of SHA-256 before its digest (RFC 8017 §9.2, note 1).
const SHA256_DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

/// A key that was found and checked, in the session that found it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    private: ObjectHandle,
    pub(super) public: VerifyingKey,
}

/// Finds both halves of a key by its id and refuses one that the token does not vouch for.
pub(super) fn find(session: &Session, key: &KeyRef) -> Result<Found, SignerError> {
    let private = find_one(session, Half::Private, key)?
        .ok_or_else(|| SignerError::NotFound { key: key.clone() })?;
    require_confined(session, private, key)?;
    let public = find_one(session, Half::Public, key)?
        .ok_or_else(|| SignerError::PublicHalfMissing { key: key.clone() })?;
    let public = read_public(session, public, key.id)?;
    Ok(Found { private, public })
}

/// Signs a digest; the raw signature, of the width that the key has.
pub(super) fn sign(
    session: &Session,
    found: &Found,
    algorithm: SignatureAlgorithm,
    digest: &Digest,
) -> Result<Vec<u8>, SignerError> {
    let signed = match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 | SignatureAlgorithm::EcdsaP384Sha384 => {
            session.sign(&Mechanism::Ecdsa, found.private, digest.as_ref())
        }
        SignatureAlgorithm::RsaPkcs1Sha256 => {
            let info = [&SHA256_DIGEST_INFO, digest.as_ref()].concat();
            session.sign(&Mechanism::RsaPkcs, found.private, &info)
        }
    };
    let raw = signed.map_err(SignerError::from_cryptoki)?;
    if raw.len() == found.public.key_type().signature_bytes() {
        Ok(raw)
    } else {
        Err(SignerError::SignatureWidth {
            algorithm,
            bytes: raw.len(),
        })
    }
}

/// Makes a key pair, reads back what the token made of it, and destroys what is not confined.
pub(super) fn generate(session: &Session, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
    let key = &spec.key;
    if find_one(session, Half::Private, key)?.is_some() {
        return Err(SignerError::AlreadyExists { id: key.id });
    }
    // A crash in the middle of an earlier try: the public half has no use, and would make two.
    if let Some(public) = find_one(session, Half::Public, key)? {
        require_label(session, public, key)?;
        session
            .destroy_object(public)
            .map_err(SignerError::from_cryptoki)?;
        tracing::warn!(%key, "removed a public object that had no private one");
    }
    let (public, private) = generate_pair(session, spec)?;
    let checked = require_confined(session, private, key)
        .and_then(|()| read_public(session, public, key.id))
        .and_then(|public| {
            if public.key_type() == spec.key_type {
                Ok(public.info())
            } else {
                let reason = "token made a key of another type";
                Err(SignerError::UnsupportedKey { id: key.id, reason })
            }
        });
    if let Err(error) = &checked {
        for object in [private, public] {
            if let Err(left) = session.destroy_object(object) {
                tracing::error!(%key, %error, %left, "refused key could not be destroyed");
            }
        }
    }
    checked
}

/// Destroys a key: the private half first, so that a crash between leaves none that can sign.
pub(super) fn delete(session: &Session, key: &KeyRef) -> Result<(), SignerError> {
    let private = find_one(session, Half::Private, key)?;
    let public = find_one(session, Half::Public, key)?;
    if private.is_none() && public.is_none() {
        return Err(SignerError::NotFound { key: key.clone() });
    }
    for object in [private, public].into_iter().flatten() {
        require_label(session, object, key)?;
    }
    for object in [private, public].into_iter().flatten() {
        session
            .destroy_object(object)
            .map_err(SignerError::from_cryptoki)?;
    }
    Ok(())
}

/// Whether the module shows any key at all.
pub(super) fn sees_any(session: &Session) -> Result<bool, SignerError> {
    for half in [Half::Private, Half::Public] {
        let template = [Attribute::Class(half.class()), Attribute::Token(true)];
        if !find_up_to(session, &template, 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every id of ours whose label has the prefix. PKCS#11 cannot search by prefix: all are read.
pub(super) fn list(session: &Session, prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
    let mut found: BTreeMap<(String, KeyId), (u32, u32)> = BTreeMap::new();
    for half in [Half::Private, Half::Public] {
        let template = [Attribute::Class(half.class()), Attribute::Token(true)];
        let objects = find_up_to(session, &template, LISTED_MAX + 1)?;
        if objects.len() > LISTED_MAX {
            return Err(SignerError::TooManyKeys { limit: LISTED_MAX });
        }
        for object in objects {
            let wanted = [AttributeType::Label, AttributeType::Id];
            let attributes = match session.get_attributes(object, &wanted) {
                Ok(attributes) => attributes,
                // Destroyed since it was found.
                Err(CryptokiError::Pkcs11(RvError::ObjectHandleInvalid, _)) => continue,
                Err(error) => return Err(SignerError::from_cryptoki(error)),
            };
            let (label, id) = label_and_id(attributes);
            let Ok(id) = KeyId::try_from(&id[..]) else {
                continue;
            };
            let Ok(label) = String::from_utf8(label) else {
                continue;
            };
            if label.starts_with(prefix) {
                let counts = found.entry((label, id)).or_default();
                match half {
                    Half::Private => counts.0 += 1,
                    Half::Public => counts.1 += 1,
                }
            }
        }
    }
    let listing = |((label, id), (private_objects, public_objects))| KeyListing {
        key: KeyRef { id, label },
        private_objects,
        public_objects,
    };
    Ok(found.into_iter().map(listing).collect())
}

#[derive(Debug, Clone, Copy)]
enum Half {
    Private,
    Public,
}

impl Half {
    fn class(self) -> ObjectClass {
        match self {
            Self::Private => ObjectClass::PRIVATE_KEY,
            Self::Public => ObjectClass::PUBLIC_KEY,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

/// The one object with this id: tokens accept duplicates, and the first found would be a guess.
fn find_one(
    session: &Session,
    half: Half,
    key: &KeyRef,
) -> Result<Option<ObjectHandle>, SignerError> {
    let template = [
        Attribute::Class(half.class()),
        Attribute::Token(true),
        Attribute::Id(key.id.as_bytes().to_vec()),
    ];
    let found = find_up_to(session, &template, 2)?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        _ => Err(SignerError::Ambiguous {
            key: key.clone(),
            half: half.as_str(),
        }),
    }
}

fn find_up_to(
    session: &Session,
    template: &[Attribute],
    limit: usize,
) -> Result<Vec<ObjectHandle>, SignerError> {
    let at_a_time = NonZeroUsize::new(limit.min(256)).unwrap_or(NonZeroUsize::MIN);
    session
        .iter_objects_with_cache_size(template, at_a_time)
        .map_err(SignerError::from_cryptoki)?
        .take(limit)
        .collect::<Result<_, _>>()
        .map_err(SignerError::from_cryptoki)
}

fn generate_pair(
    session: &Session,
    spec: &KeySpec,
) -> Result<(ObjectHandle, ObjectHandle), SignerError> {
    let mechanism = match spec.key_type {
        KeyType::EcP256 | KeyType::EcP384 => Mechanism::EccKeyPairGen,
        KeyType::Rsa2048 | KeyType::Rsa4096 => Mechanism::RsaPkcsKeyPairGen,
    };
    let public = public_template(spec);
    let mut private = private_template(spec);
    private.push(Attribute::Copyable(false));
    let made = match session.generate_key_pair(&mechanism, &public, &private) {
        // CKA_COPYABLE came with version 2.40; a key that cannot be extracted is safe without it.
        Err(
            error @ CryptokiError::Pkcs11(
                RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
                | RvError::AttributeReadOnly
                | RvError::TemplateInconsistent,
                _,
            ),
        ) => {
            // One that says so and made it all the same must not make a second of the same id.
            if find_one(session, Half::Private, &spec.key)?.is_some() {
                return Err(SignerError::from_cryptoki(error));
            }
            private.pop();
            session.generate_key_pair(&mechanism, &public, &private)
        }
        made => made,
    };
    made.map_err(SignerError::from_cryptoki)
}

fn public_template(spec: &KeySpec) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Id(spec.key.id.as_bytes().to_vec()),
        Attribute::Label(spec.key.label.as_bytes().to_vec()),
    ];
    let rsa = |bits: u32| {
        [
            Attribute::ModulusBits(cryptoki::types::Ulong::new(bits.into())),
            Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
        ]
    };
    match spec.key_type {
        KeyType::EcP256 => template.push(Attribute::EcParams(P256_OID.to_vec())),
        KeyType::EcP384 => template.push(Attribute::EcParams(P384_OID.to_vec())),
        KeyType::Rsa2048 => template.extend(rsa(2048)),
        KeyType::Rsa4096 => template.extend(rsa(4096)),
    }
    template
}

fn private_template(spec: &KeySpec) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Id(spec.key.id.as_bytes().to_vec()),
        Attribute::Label(spec.key.label.as_bytes().to_vec()),
    ]
}

/// What the token must say of a private key: made inside, never readable, and it cannot leave.
const CONFINED: [(Attribute, AttributeType, &str); 8] = [
    (
        Attribute::Token(true),
        AttributeType::Token,
        "CKA_TOKEN is not true",
    ),
    (
        Attribute::Private(true),
        AttributeType::Private,
        "CKA_PRIVATE is not true",
    ),
    (
        Attribute::Sensitive(true),
        AttributeType::Sensitive,
        "CKA_SENSITIVE is not true",
    ),
    (
        Attribute::Extractable(false),
        AttributeType::Extractable,
        "CKA_EXTRACTABLE is not false",
    ),
    (
        Attribute::Local(true),
        AttributeType::Local,
        "CKA_LOCAL is not true",
    ),
    (
        Attribute::AlwaysSensitive(true),
        AttributeType::AlwaysSensitive,
        "CKA_ALWAYS_SENSITIVE is not true",
    ),
    (
        Attribute::NeverExtractable(true),
        AttributeType::NeverExtractable,
        "CKA_NEVER_EXTRACTABLE is not true",
    ),
    (
        Attribute::Sign(true),
        AttributeType::Sign,
        "CKA_SIGN is not true",
    ),
];

fn require_confined(
    session: &Session,
    private: ObjectHandle,
    key: &KeyRef,
) -> Result<(), SignerError> {
    let wanted = CONFINED.map(|(_, wanted, _)| wanted);
    let shown = session
        .get_attributes(private, &wanted)
        .map_err(SignerError::from_cryptoki)?;
    let attributes = not_confined(&shown);
    if attributes.is_empty() {
        Ok(())
    } else {
        Err(SignerError::UnsafeKey {
            key: key.clone(),
            attributes,
        })
    }
}

/// What is missing counts as wrong: a token that does not say so does not promise it.
fn not_confined(shown: &[Attribute]) -> Vec<&'static str> {
    let wrong = CONFINED
        .iter()
        .filter(|(wanted, _, _)| !shown.contains(wanted));
    wrong.map(|(_, _, complaint)| *complaint).collect()
}

fn require_label(session: &Session, object: ObjectHandle, key: &KeyRef) -> Result<(), SignerError> {
    let shown = session
        .get_attributes(object, &[AttributeType::Label])
        .map_err(SignerError::from_cryptoki)?;
    let (label, _) = label_and_id(shown);
    if label == key.label.as_bytes() {
        return Ok(());
    }
    Err(SignerError::LabelMismatch {
        id: key.id,
        wanted: key.label.clone(),
        found: String::from_utf8_lossy(&label).into_owned(),
    })
}

fn label_and_id(attributes: Vec<Attribute>) -> (Vec<u8>, Vec<u8>) {
    let (mut label, mut id) = (Vec::new(), Vec::new());
    for attribute in attributes {
        match attribute {
            Attribute::Label(bytes) => label = bytes,
            Attribute::Id(bytes) => id = bytes,
            _ => {}
        }
    }
    (label, id)
}

fn read_public(
    session: &Session,
    public: ObjectHandle,
    id: KeyId,
) -> Result<VerifyingKey, SignerError> {
    let unsupported = |reason| SignerError::UnsupportedKey { id, reason };
    let read = |wanted: &[AttributeType]| {
        session
            .get_attributes(public, wanted)
            .map_err(SignerError::from_cryptoki)
    };
    let key = match read(&[AttributeType::KeyType])?.as_slice() {
        [Attribute::KeyType(RawKeyType::EC)] => {
            match read(&[AttributeType::EcParams, AttributeType::EcPoint])?.as_slice() {
                [Attribute::EcParams(params), Attribute::EcPoint(point)] => {
                    VerifyingKey::from_pkcs11_ec(params, point)
                }
                _ => Err("token does not show curve and point"),
            }
        }
        [Attribute::KeyType(RawKeyType::RSA)] => {
            match read(&[AttributeType::Modulus, AttributeType::PublicExponent])?.as_slice() {
                [
                    Attribute::Modulus(modulus),
                    Attribute::PublicExponent(exponent),
                ] => VerifyingKey::from_pkcs11_rsa(modulus, exponent),
                _ => Err("token does not show modulus and exponent"),
            }
        }
        _ => Err("neither EC nor RSA"),
    };
    key.map_err(unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_confined_only_if_every_attribute_says_so() {
        let good: Vec<Attribute> = CONFINED.into_iter().map(|(wanted, _, _)| wanted).collect();
        assert!(not_confined(&good).is_empty());
        for (n, (_, _, complaint)) in CONFINED.iter().enumerate() {
            let mut missing = good.clone();
            missing.remove(n);
            assert_eq!(not_confined(&missing), [*complaint]);
        }
        let mut extractable = good;
        extractable[3] = Attribute::Extractable(true);
        assert_eq!(not_confined(&extractable), ["CKA_EXTRACTABLE is not false"]);
    }
}
