//! The key file: what is where in it. Numbers are big endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `chanckey` |
//! | 2 | version: 1 |
//! | 1 | protection: 0 none, 1 sealed |
//! | 1 | key type: 1 P-256, 2 P-384, 3 RSA-2048, 4 RSA-4096 |
//! | 16 | key id |
//! | 2, n | label |
//! | 2, n | public key, DER `SubjectPublicKeyInfo` |
//! | 16 | sealed: salt |
//! | 12 | sealed: nonce |
//! | 2, n | private key, PKCS#8; sealed: encrypted, its tag behind it |
//! | 32 | SHA-256 of all that is before |
//!
//! The checksum tells damage from a wrong passphrase; the tag of a sealed file holds for all
//! before the nonce as well. Promises: any bytes are taken or refused with what is wrong, never
//! both and never with a panic; what is taken has one form.

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::problem::KeyFileProblem as Problem;
use crate::public_key::{PublicKeyInfo, VerifyingKey};
use crate::signer::{KeyId, KeyRef, KeyType};

/// Longer than any key file: labels have at most 255 bytes, RSA-4096 keys about 2,400.
pub(super) const FILE_BYTES_MAX: usize = 8 << 10;
pub(super) const SALT_BYTES: usize = 16;
pub(super) const NONCE_BYTES: usize = 12;

const MAGIC: &[u8; 8] = b"chanckey";
const VERSION: u16 = 1;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;
const CHECKSUM_BYTES: usize = 32;

/// A key file that is whole; whether its private key is good is not known yet.
pub(super) struct KeyFile<'a> {
    pub(super) key: KeyRef,
    pub(super) public: PublicKeyInfo,
    pub(super) private: Private<'a>,
}

/// The private key as it is in the file.
pub(super) enum Private<'a> {
    /// PKCS#8.
    Plain(&'a [u8]),
    /// PKCS#8, encrypted.
    Sealed(Sealed<'a>),
}

/// What is needed beside the passphrase to open a sealed key.
pub(super) struct Sealed<'a> {
    pub(super) salt: &'a [u8; SALT_BYTES],
    pub(super) nonce: &'a [u8; NONCE_BYTES],
    /// All that the tag vouches for beside the private key.
    pub(super) beside: &'a [u8],
    pub(super) ciphertext: &'a [u8],
}

impl<'a> KeyFile<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(Problem::TooLong);
        }
        let mut reader = Reader { bytes, at: 0 };
        if *reader.array::<8>()? != *MAGIC {
            return Err(Problem::Magic);
        }
        let version = u16::from_be_bytes(*reader.array()?);
        if version != VERSION {
            return Err(Problem::Version(version));
        }
        let [protection, key_type] = *reader.array()?;
        if protection > SEALED {
            return Err(Problem::Protection(protection));
        }
        let id = *reader.array()?;
        let label = reader.counted()?;
        let spki = reader.counted()?;
        let private = if protection == PLAIN {
            Private::Plain(reader.counted()?)
        } else {
            let salt = reader.array()?;
            let beside = reader.so_far();
            Private::Sealed(Sealed {
                salt,
                nonce: reader.array()?,
                beside,
                ciphertext: reader.counted()?,
            })
        };
        let content = reader.so_far();
        let checksum: &[u8; CHECKSUM_BYTES] = reader.array()?;
        match bytes.len() - reader.at {
            0 => {}
            trailing => return Err(Problem::Trailing { bytes: trailing }),
        }
        if digest(&SHA256, content).as_ref() != checksum {
            return Err(Problem::Checksum);
        }
        let label = std::str::from_utf8(label).map_err(|_| Problem::Label)?;
        let key = KeyRef {
            id: KeyId::new(id),
            label: label.to_owned(),
        };
        key.check_label().map_err(|_| Problem::Label)?;
        Ok(Self {
            key,
            public: public_key(key_type, spki)?,
            private,
        })
    }
}

/// Begins a file: all before the private key, or before the salt. Has room for the rest, so that
/// no growing leaves a copy of the key behind.
pub(super) fn begin(key: &KeyRef, public: &PublicKeyInfo, sealed: bool) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.push(if sealed { SEALED } else { PLAIN });
    bytes.push(number_of(public.key_type));
    bytes.extend_from_slice(key.id.as_bytes());
    push_counted(&mut bytes, key.label.as_bytes());
    push_counted(&mut bytes, &public.spki_der);
    bytes
}

/// Appends the private key, plain or encrypted, and the checksum.
pub(super) fn end(bytes: &mut Vec<u8>, private: &[u8]) {
    push_counted(bytes, private);
    let checksum = digest(&SHA256, bytes);
    bytes.extend_from_slice(checksum.as_ref());
}

fn push_counted(bytes: &mut Vec<u8>, part: &[u8]) {
    let count =
        u16::try_from(part.len()).expect("labels, public and private keys are below 64 KiB");
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(part);
}

const fn number_of(key_type: KeyType) -> u8 {
    match key_type {
        KeyType::EcP256 => 1,
        KeyType::EcP384 => 2,
        KeyType::Rsa2048 => 3,
        KeyType::Rsa4096 => 4,
    }
}

fn public_key(number: u8, spki: &[u8]) -> Result<PublicKeyInfo, Problem> {
    let key_type = KeyType::ALL
        .into_iter()
        .find(|known| number_of(*known) == number)
        .ok_or(Problem::KeyType(number))?;
    let public = VerifyingKey::from_spki(spki).map_err(Problem::PublicKey)?;
    if public.key_type() != key_type {
        return Err(Problem::PublicKey("of another type than the file says"));
    }
    Ok(public.info())
}

/// Reads on, or finds that the file is torn.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let rest = &self.bytes[self.at..];
        let part = rest.get(..count).ok_or(Problem::Torn {
            bytes: self.bytes.len(),
        })?;
        self.at += count;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Problem> {
        let torn = Problem::Torn {
            bytes: self.bytes.len(),
        };
        self.take(N)?.try_into().map_err(|_| torn)
    }

    fn counted(&mut self) -> Result<&'a [u8], Problem> {
        let count = u16::from_be_bytes(*self.array()?);
        self.take(usize::from(count))
    }

    fn so_far(&self) -> &'a [u8] {
        &self.bytes[..self.at]
    }
}
