#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // keys for tests come from the system's generator

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair, RsaKeyPair};
use proptest::prelude::*;
use rcgen::PublicKeyData;

use super::*;

fn generated(algorithm: &'static rcgen::SignatureAlgorithm) -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(algorithm).unwrap()
}

#[test]
fn every_accepted_kind_is_recognised_and_kept_byte_for_byte() {
    for (algorithm, kind) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcP384),
        (&rcgen::PKCS_ECDSA_P521_SHA512, KeyKind::EcP521),
        (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa { bits: 2048 }),
    ] {
        let spki = generated(algorithm).subject_public_key_info();
        let key = PublicKey::from_spki_der(&spki).unwrap();
        assert_eq!(key.kind(), kind);
        assert_eq!(key.spki_der(), spki);
        assert_eq!(
            SignatureAlgorithm::from_identifier_der(&key.certificate_algorithm().identifier_der()),
            Ok(key.certificate_algorithm())
        );
    }
}

#[test]
fn the_identifier_is_sha1_of_the_bit_string() {
    let pair = generated(&rcgen::PKCS_ECDSA_P256_SHA256);
    let key = PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap();
    let expected = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, pair.public_key_raw());
    assert_eq!(key.ski(), expected.as_ref());
}

#[test]
fn points_are_uncompressed_and_on_the_curve() {
    let pair = generated(&rcgen::PKCS_ECDSA_P256_SHA256);
    let point = pair.public_key_raw().to_vec();
    let from = |point: &[u8]| PublicKey::from_point(KeyKind::EcP256, point);
    assert!(from(&point).is_ok());

    let mut off_curve = point.clone();
    off_curve[64] ^= 1;
    assert_eq!(from(&off_curve), Err(KeyError::InvalidPoint));
    let mut compressed = point[..33].to_vec();
    compressed[0] = 0x02 | point[64] & 1;
    assert_eq!(from(&compressed), Err(KeyError::InvalidPoint));
    assert_eq!(from(&point[..64]), Err(KeyError::InvalidPoint));
    assert_eq!(from(&[0]), Err(KeyError::InvalidPoint));
}

/// Modulus of a real key with the given number of bits, exponent 65537.
fn rsa_modulus(size: KeySize) -> Vec<u8> {
    let pair = RsaKeyPair::generate(size).unwrap();
    let (modulus, _) = read_rsa(pair.public_key().as_ref()).unwrap();
    modulus.to_vec()
}

#[test]
fn rsa_sizes_and_exponents_are_bounded() {
    let modulus = rsa_modulus(KeySize::Rsa2048);
    let with = |modulus: &[u8], exponent: u64| {
        PublicKey::from_rsa_components(modulus, &exponent.to_be_bytes()).map(|key| key.kind())
    };
    assert_eq!(with(&modulus, 65_537), Ok(KeyKind::Rsa { bits: 2048 }));
    assert_eq!(with(&modulus, 3), Err(KeyError::RsaExponent));
    assert_eq!(with(&modulus, 65_538), Err(KeyError::RsaExponent));
    assert_eq!(with(&modulus, 1 << 31 | 1), Err(KeyError::RsaExponent));

    let mut even = modulus.clone();
    even[255] &= 0xfe;
    assert_eq!(
        with(&even, 65_537),
        Err(KeyError::RsaModulus { bits: 2048 })
    );
    let mut short = modulus.clone();
    short[0] = 0x7f;
    assert_eq!(
        with(&short, 65_537),
        Err(KeyError::RsaModulus { bits: 2047 })
    );
    let long = [&[1][..], &[0xff; 1024]].concat();
    assert_eq!(
        with(&long, 65_537),
        Err(KeyError::RsaModulus { bits: 8193 })
    );
    assert_eq!(with(&[0], 65_537), Err(KeyError::RsaModulus { bits: 0 }));
}

#[test]
fn other_algorithms_and_parameters_are_refused() {
    // secp256k1 instead of P-256; ecPublicKey without parameters.
    for identifier in [
        &hex::decode("06072a8648ce3d020106052b8104000a").unwrap()[..],
        &hex::decode("06072a8648ce3d0201").unwrap(),
        &hex::decode("06092a864886f70d010101").unwrap(),
    ] {
        assert_eq!(
            PublicKey::from_parts(identifier, &[4; 65]),
            Err(KeyError::UnsupportedKey)
        );
    }
    // ecdsa-with-SHA1.
    assert_eq!(
        SignatureAlgorithm::from_identifier_der(&hex::decode("300906072a8648ce3d0401").unwrap()),
        Err(KeyError::UnsupportedSignature)
    );
}

#[test]
fn the_whole_input_is_consumed() {
    let mut spki = generated(&rcgen::PKCS_ED25519).subject_public_key_info();
    spki.push(0);
    assert_eq!(
        PublicKey::from_spki_der(&spki),
        Err(KeyError::Malformed(DerError::Trailing))
    );
}

#[test]
fn signatures_verify_under_their_own_algorithm_only() {
    let random = SystemRandom::new();
    for (signing, algorithm, kind) in [
        (
            &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            SignatureAlgorithm::EcdsaSha256,
            KeyKind::EcP256,
        ),
        (
            &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            SignatureAlgorithm::EcdsaSha384,
            KeyKind::EcP384,
        ),
        (
            &signature::ECDSA_P521_SHA256_ASN1_SIGNING,
            SignatureAlgorithm::EcdsaSha256,
            KeyKind::EcP521,
        ),
    ] {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let key = PublicKey::from_point(kind, pair.public_key().as_ref()).unwrap();
        let made = pair.sign(&random, b"message").unwrap();
        assert_eq!(key.verify(algorithm, b"message", made.as_ref()), Ok(()));
        assert_eq!(
            key.verify(algorithm, b"other", made.as_ref()),
            Err(KeyError::BadSignature)
        );
        assert_eq!(
            key.verify(SignatureAlgorithm::Ed25519, b"message", made.as_ref()),
            Err(KeyError::AlgorithmMismatch)
        );
    }
}

#[test]
fn rsa_signatures_of_both_paddings_verify() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let (n, e) = read_rsa(pair.public_key().as_ref()).unwrap();
    let key = PublicKey::from_rsa_components(n, e).unwrap();
    assert_eq!(key.rsa_components(), Some((n, e)));
    let encodings: [(&'static dyn signature::RsaEncoding, _); 3] = [
        (
            &signature::RSA_PKCS1_SHA256,
            SignatureAlgorithm::RsaPkcs1Sha256,
        ),
        (
            &signature::RSA_PKCS1_SHA512,
            SignatureAlgorithm::RsaPkcs1Sha512,
        ),
        (&signature::RSA_PSS_SHA384, SignatureAlgorithm::RsaPssSha384),
    ];
    for (encoding, algorithm) in encodings {
        let mut made = vec![0; 256];
        pair.sign(encoding, &SystemRandom::new(), b"message", &mut made)
            .unwrap();
        assert_eq!(key.verify(algorithm, b"message", &made), Ok(()));
        made[7] ^= 1;
        assert_eq!(
            key.verify(algorithm, b"message", &made),
            Err(KeyError::BadSignature)
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        let _ = PublicKey::from_spki_der(&bytes);
        let _ = SignatureAlgorithm::from_identifier_der(&bytes);
    }
}
