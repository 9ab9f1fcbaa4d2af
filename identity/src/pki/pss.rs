//! RSASSA-PSS with a salt of any length.
//!
//! The signer library verifies only salts as long as the hash, and Go's signers use the
//! longest that fits. So the public operation is done here with big integers (all its
//! inputs are public: timing tells nothing) and the encoding is checked by RFC 8017.

use aws_lc_rs::digest::{SHA256, digest};
use num_bigint::BigUint;

const HASH: usize = 32;

/// RSASSA-PSS-VERIFY (RFC 8017 §8.1.2) with SHA-256 and MGF1 over it; `n` and `e` are
/// big-endian and have been judged.
pub(super) fn verify_sha256(n: &[u8], e: &[u8], message: &[u8], signature: &[u8]) -> bool {
    // Step 1. Shorter and longer ones are refused, leading zeros or not.
    if signature.len() != n.len() {
        return false;
    }
    let (modulus, signature) = (BigUint::from_bytes_be(n), BigUint::from_bytes_be(signature));
    if signature >= modulus {
        return false;
    }
    let bits = usize::try_from(modulus.bits()).unwrap_or(0);
    let Some(encoded_bits) = bits.checked_sub(1) else {
        return false;
    };
    let number = signature.modpow(&BigUint::from_bytes_be(e), &modulus);
    let number = number.to_bytes_be();
    let length = encoded_bits.div_ceil(8);
    if number.len() > length {
        return false;
    }
    let mut encoded = vec![0; length - number.len()];
    encoded.extend_from_slice(&number);
    encoding_holds(message, encoded, encoded_bits)
}

/// EMSA-PSS-VERIFY (RFC 8017 §9.1.2), the salt's length recovered from the padding.
fn encoding_holds(message: &[u8], encoded: Vec<u8>, encoded_bits: usize) -> bool {
    let length = encoded.len();
    if length < HASH + 2 || encoded.last() != Some(&0xbc) {
        return false;
    }
    let (masked, rest) = encoded.split_at(length - HASH - 1);
    let hash = &rest[..HASH];
    let unused = 8 * length - encoded_bits;
    let keep = 0xff_u8 >> unused;
    if masked[0] & !keep != 0 {
        return false;
    }
    let mut block: Vec<u8> = masked
        .iter()
        .zip(mask(hash, masked.len()))
        .map(|(a, b)| a ^ b)
        .collect();
    block[0] &= keep;
    // Zeros, a one, the salt.
    let Some(one) = block.iter().position(|byte| *byte != 0) else {
        return false;
    };
    if block[one] != 1 {
        return false;
    }
    let salt = &block[one + 1..];
    let mut salted = vec![0; 8];
    salted.extend_from_slice(digest(&SHA256, message).as_ref());
    salted.extend_from_slice(salt);
    digest(&SHA256, &salted).as_ref() == hash
}

/// MGF1 with SHA-256 (RFC 8017 §B.2.1).
fn mask(seed: &[u8], length: usize) -> impl Iterator<Item = u8> + use<> {
    let seed = seed.to_vec();
    (0u32..)
        .flat_map(move |counter| {
            let mut input = seed.clone();
            input.extend_from_slice(&counter.to_be_bytes());
            digest(&SHA256, &input).as_ref().to_vec()
        })
        .take(length)
}
