//! Private scalars out of SoftHSM's own files: what a test must know to look for it elsewhere.
//!
//! An object's file is a counter and then attributes: type, kind and value, numbers of eight bytes,
//! big-endian. Private values are AES-256-CBC under the token's key, behind their initialisation
//! vector; the token's key is wrapped the same way under a key stretched from the PIN: SHA-256 of
//! salt and PIN, then hashed again and again, 1500 times and as often as the salt's last byte says.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::iv::FixedLength;

/// `CKA_CLASS` and its value for a private key, `CKA_ID`, `CKA_VALUE`.
const CLASS: u64 = 0x0;
const PRIVATE_KEY: u64 = 0x3;
const VALUE: u64 = 0x11;
/// SoftHSM's own: the token's key, wrapped with the user PIN.
const USER_PIN_BLOB: u64 = 0x8000_534d;
/// What stands before the token's key.
const MAGIC: &[u8] = b"RJR";

enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The private values of every private key of the only token below `tokens`.
///
/// # Errors
/// The files are not as they should be, or the PIN is wrong.
pub fn scalars(tokens: &Path, pin: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut token = None;
    for found in std::fs::read_dir(tokens)? {
        ensure!(token.replace(found?.path()).is_none(), "two tokens");
    }
    let token = token.context("no token")?;
    let facts = attributes(&std::fs::read(token.join("token.object"))?)?;
    let Some(Value::Bytes(blob)) = facts.get(&USER_PIN_BLOB) else {
        bail!("the token has no user PIN");
    };
    let (salt, wrapped) = blob.split_at_checked(8).context("a short blob")?;
    let mut key = digest(&SHA256, &[salt, pin.as_bytes()].concat());
    for _ in 1..1500 + u32::from(salt[7]) {
        key = digest(&SHA256, key.as_ref());
    }
    let plain = decrypt(key.as_ref(), wrapped)?;
    let token_key = plain.strip_prefix(MAGIC).context("another PIN")?;

    let mut scalars = Vec::new();
    for file in std::fs::read_dir(&token)? {
        let path = file?.path();
        let is_object = path.extension().is_some_and(|suffix| suffix == "object");
        if !is_object || path.ends_with("token.object") {
            continue;
        }
        let object = attributes(&std::fs::read(&path)?)?;
        if !matches!(object.get(&CLASS), Some(Value::Number(PRIVATE_KEY))) {
            continue;
        }
        let Some(Value::Bytes(value)) = object.get(&VALUE) else {
            bail!("{} has no value", path.display());
        };
        let mut scalar = decrypt(token_key, value)?;
        // A number: leading zeros are left out there.
        while scalar.len() < 32 {
            scalar.insert(0, 0);
        }
        scalars.push(scalar);
    }
    Ok(scalars)
}

fn decrypt(key: &[u8], sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (iv, sealed) = sealed.split_at_checked(16).context("no room for an IV")?;
    let iv = FixedLength::<16>::try_from(iv)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, key)?)?;
    let mut bytes = sealed.to_vec();
    let plain = key.decrypt(&mut bytes, DecryptionContext::Iv128(iv))?;
    Ok(plain.to_vec())
}

fn attributes(file: &[u8]) -> anyhow::Result<BTreeMap<u64, Value>> {
    let mut rest = file.get(8..).context("a short file")?;
    let number = |rest: &mut &[u8]| -> anyhow::Result<u64> {
        let (bytes, after) = rest.split_first_chunk::<8>().context("a short file")?;
        *rest = after;
        Ok(u64::from_be_bytes(*bytes))
    };
    let mut found = BTreeMap::new();
    while !rest.is_empty() {
        let (kind_of, kind) = (number(&mut rest)?, number(&mut rest)?);
        let value = match kind {
            1 => {
                rest = rest.get(1..).context("a short file")?;
                continue;
            }
            2 => Value::Number(number(&mut rest)?),
            // Maps and sets have their length in bytes and in numbers.
            3..=5 => {
                let length = usize::try_from(number(&mut rest)?)?;
                let bytes = length * if kind == 5 { 8 } else { 1 };
                let (bytes, after) = rest.split_at_checked(bytes).context("a short file")?;
                rest = after;
                Value::Bytes(bytes.to_vec())
            }
            other => bail!("an attribute of kind {other}"),
        };
        found.insert(kind_of, value);
    }
    Ok(found)
}
