//! What every signer promises, whatever is behind it.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};

use super::fresh_key;
use crate::error::SignerError;
use crate::public_key::PublicKeyInfo;
use crate::signature::verify;
use crate::signer::{KeyRef, KeySpec, KeyType, SignatureAlgorithm, Signer};

/// Callers at once in the concurrent part.
const CALLERS: usize = 8;
/// Signatures of each of them.
const SIGNATURES: usize = 25;

/// Runs every check; leaves no key behind. Takes P-256, P-384 and RSA-2048 keys.
///
/// # Panics
/// At the first promise that `signer` does not keep.
pub async fn conformance(signer: &dyn Signer) {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        signs_what_its_public_key_verifies(signer, key_type).await;
    }
    ids_are_unique_and_labels_are_not(signer).await;
    absent_keys_are_not_found(signer).await;
    deleting_needs_the_label_and_frees_the_id(signer).await;
    listing_shows_exactly_the_prefix(signer).await;
    concurrent_callers_get_their_own_signatures(signer).await;
    assert!(
        signer.health().usable,
        "healthy after all that: {:?}",
        signer.health()
    );
}

async fn generate(signer: &dyn Signer, key: &KeyRef, key_type: KeyType) -> PublicKeyInfo {
    let spec = KeySpec {
        key: key.clone(),
        key_type,
    };
    let public = signer.generate(&spec).await.expect("generates");
    assert_eq!(public.key_type, key_type);
    public
}

async fn signs_what_its_public_key_verifies(signer: &dyn Signer, key_type: KeyType) {
    let key = fresh_key("conformance/sign");
    let other = fresh_key("conformance/sign");
    let public = generate(signer, &key, key_type).await;
    let stranger = generate(signer, &other, key_type).await;
    assert_ne!(public, stranger, "two keys");
    assert_eq!(
        signer.public_key(&key).await.as_ref(),
        Ok(&public),
        "the key just made"
    );
    assert_eq!(
        PublicKeyInfo::from_spki_der(&public.spki_der).as_ref(),
        Some(&public)
    );

    let algorithm = key_type.algorithm();
    let asn1: &dyn VerificationAlgorithm = match key_type {
        KeyType::EcP256 => &ECDSA_P256_SHA256_ASN1,
        KeyType::EcP384 => &ECDSA_P384_SHA384_ASN1,
        KeyType::Rsa2048 | KeyType::Rsa4096 => &RSA_PKCS1_2048_8192_SHA256,
    };
    for message in [vec![], b"message".to_vec(), vec![0x5a; 100_000]] {
        let signature = signer.sign(&key, algorithm, &message).await.expect("signs");
        assert!(verify(&public.spki_der, algorithm, &message, &signature));
        assert!(
            !verify(&stranger.spki_der, algorithm, &message, &signature),
            "another key"
        );
        assert!(
            !verify(&public.spki_der, algorithm, b"other", &signature),
            "another message"
        );
        assert_eq!(signature.to_jws(), signature.as_bytes());
        UnparsedPublicKey::new(asn1, &public.spki_der)
            .verify(&message, &signature.to_der())
            .expect("the DER form verifies as well");
        if let Some(checked) = signature.verified_with() {
            assert_eq!(
                checked, public.spki_der,
                "verified with the key's own public half"
            );
        }
    }
    for wrong in [
        SignatureAlgorithm::EcdsaP256Sha256,
        SignatureAlgorithm::EcdsaP384Sha384,
        SignatureAlgorithm::RsaPkcs1Sha256,
    ] {
        if wrong != algorithm {
            let refused = signer
                .sign(&key, wrong, b"m")
                .await
                .expect_err("not its algorithm");
            assert_eq!(
                refused,
                SignerError::AlgorithmMismatch {
                    key_type,
                    algorithm: wrong
                }
            );
        }
    }
    for key in [&key, &other] {
        signer.delete(key).await.expect("deletes");
    }
}

async fn ids_are_unique_and_labels_are_not(signer: &dyn Signer) {
    let key = fresh_key("conformance/twice");
    let public = generate(signer, &key, KeyType::EcP256).await;
    let same_id = KeyRef {
        id: key.id,
        label: "conformance/another label".into(),
    };
    for again in [&key, &same_id] {
        let spec = KeySpec {
            key: again.clone(),
            key_type: KeyType::EcP384,
        };
        let refused = signer.generate(&spec).await.expect_err("the id is taken");
        assert_eq!(refused, SignerError::AlreadyExists { id: key.id });
    }
    assert_eq!(
        signer.public_key(&key).await,
        Ok(public),
        "the first one is untouched"
    );
    let same_label = fresh_key(&key.label);
    generate(signer, &same_label, KeyType::EcP256).await;
    for key in [&key, &same_label] {
        signer.delete(key).await.expect("deletes");
    }
    for label in [String::new(), "x".repeat(KeyRef::LABEL_BYTES_MAX + 1)] {
        let spec = KeySpec {
            key: fresh_key(&label),
            key_type: KeyType::EcP256,
        };
        let refused = signer
            .generate(&spec)
            .await
            .expect_err("no label to find it by");
        assert_eq!(refused, SignerError::LabelLength { bytes: label.len() });
    }
}

async fn absent_keys_are_not_found(signer: &dyn Signer) {
    let key = fresh_key("conformance/absent");
    let absent = SignerError::NotFound { key: key.clone() };
    assert_eq!(signer.public_key(&key).await, Err(absent.clone()));
    let signed = signer
        .sign(&key, SignatureAlgorithm::EcdsaP256Sha256, b"m")
        .await;
    assert_eq!(signed.expect_err("no key"), absent);
    assert_eq!(signer.delete(&key).await, Err(absent));
}

async fn deleting_needs_the_label_and_frees_the_id(signer: &dyn Signer) {
    let key = fresh_key("conformance/delete");
    let first = generate(signer, &key, KeyType::EcP256).await;
    // Signed with before, so that a handle remembered somewhere would be found out.
    for _ in 0..CALLERS {
        let signed = signer
            .sign(&key, SignatureAlgorithm::EcdsaP256Sha256, b"m")
            .await;
        signed.expect("signs");
    }
    let mislabelled = KeyRef {
        id: key.id,
        label: "conformance/other".into(),
    };
    let refused = signer
        .delete(&mislabelled)
        .await
        .expect_err("another key, it seems");
    assert!(
        matches!(refused, SignerError::LabelMismatch { .. }),
        "{refused}"
    );

    signer.delete(&key).await.expect("deletes");
    let absent = SignerError::NotFound { key: key.clone() };
    for _ in 0..CALLERS {
        let signed = signer
            .sign(&key, SignatureAlgorithm::EcdsaP256Sha256, b"m")
            .await;
        assert_eq!(signed.expect_err("deleted"), absent);
    }
    let second = generate(signer, &key, KeyType::EcP256).await;
    assert_ne!(first, second, "a new key under the old id");
    for _ in 0..CALLERS {
        let signed = signer
            .sign(&key, SignatureAlgorithm::EcdsaP256Sha256, b"m")
            .await;
        let signature = signed.expect("signs");
        assert!(verify(
            &second.spki_der,
            SignatureAlgorithm::EcdsaP256Sha256,
            b"m",
            &signature
        ));
    }
    signer.delete(&key).await.expect("deletes");
}

async fn listing_shows_exactly_the_prefix(signer: &dyn Signer) {
    let prefix = format!("conformance/{}/", fresh_key("").id);
    let mut keys: Vec<KeyRef> = ["b", "a", "a"]
        .map(|label| fresh_key(&format!("{prefix}{label}")))
        .into();
    let outside = fresh_key("conformance/outside");
    for key in keys.iter().chain([&outside]) {
        generate(signer, key, KeyType::EcP256).await;
    }
    keys.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
    let listed = signer.list(&prefix).await.expect("lists");
    assert!(
        listed.iter().all(|listing| listing.is_whole()),
        "{listed:?}"
    );
    let listed: Vec<KeyRef> = listed.into_iter().map(|listing| listing.key).collect();
    assert_eq!(listed, keys);
    for key in keys.iter().chain([&outside]) {
        signer.delete(key).await.expect("deletes");
    }
    assert_eq!(signer.list(&prefix).await, Ok(Vec::new()));
}

async fn concurrent_callers_get_their_own_signatures(signer: &dyn Signer) {
    let mut keys = Vec::new();
    for key_type in [KeyType::EcP256, KeyType::EcP384] {
        let key = fresh_key("conformance/concurrent");
        let public = generate(signer, &key, key_type).await;
        keys.push((key, public));
    }
    let callers = (0..CALLERS).map(|caller| {
        let (key, public) = &keys[caller % keys.len()];
        async move {
            let algorithm = public.key_type.algorithm();
            for n in 0..SIGNATURES {
                let message = format!("{caller}/{n}");
                let signed = signer.sign(key, algorithm, message.as_bytes()).await;
                let signature = signed.expect("signs");
                assert!(verify(
                    &public.spki_der,
                    algorithm,
                    message.as_bytes(),
                    &signature
                ));
            }
        }
    });
    futures::future::join_all(callers).await;
    for (key, _) in &keys {
        signer.delete(key).await.expect("deletes");
    }
}
