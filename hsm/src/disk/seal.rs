//! Sealing: from a passphrase to the key that encrypts private keys.
//!
//! The passphrase goes through Argon2id (RFC 9106), so that guessing it costs time and memory for
//! each guess, with a salt that is in every file. AES-256-GCM encrypts, under a random nonce for
//! each file. Files of one salt are opened by one derivation, so all that are made here share one.
//!
//! Promises: the passphrase is wiped when the last file is open; what it was stretched to is held
//! by aws-lc-rs alone, for keys made later.

use std::path::Path;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use super::format::{SALT_BYTES, Sealed};
use super::problem::KeyFileProblem;
use crate::environment;
use crate::error::{SecretFileProblem, SignerError};
use crate::secret_file;

/// Shorter ones are guessed, whatever each guess costs.
const PASSPHRASE_BYTES_MIN: usize = 16;
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Memory of a guess, in KiB, and how often it is gone through: the second choice of RFC 9106 §4,
/// in one lane. Part of the format: another choice is another way of protection.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
const KEY_BYTES: usize = 32;

const STRETCHING: SignerError = SignerError::Crypto {
    operation: "stretching the passphrase",
};
const SEALING: SignerError = SignerError::Crypto {
    operation: "sealing a key",
};

/// A passphrase, and what it was stretched to.
pub(super) struct Passphrase {
    bytes: Zeroizing<Vec<u8>>,
    stretched: Vec<Sealer>,
}

/// Seals keys that are made later.
pub(super) struct Sealer {
    salt: [u8; SALT_BYTES],
    key: RandomizedNonceKey,
}

impl Passphrase {
    pub(super) fn read(path: &Path) -> Result<Self, SignerError> {
        let refuse = |problem| SignerError::PassphraseFile {
            path: path.to_owned(),
            problem,
        };
        let bytes = secret_file::read(path, PASSPHRASE_BYTES_MAX).map_err(refuse)?;
        if bytes.len() < PASSPHRASE_BYTES_MIN {
            return Err(refuse(SecretFileProblem::TooShort {
                bytes: bytes.len(),
                min: PASSPHRASE_BYTES_MIN,
            }));
        }
        Ok(Self {
            bytes,
            stretched: Vec::new(),
        })
    }

    /// The PKCS#8 of a sealed key.
    pub(super) fn open(
        &mut self,
        sealed: &Sealed<'_>,
    ) -> Result<Result<Zeroizing<Vec<u8>>, KeyFileProblem>, SignerError> {
        let sealer = self.stretch(*sealed.salt)?;
        let mut bytes = Zeroizing::new(sealed.ciphertext.to_vec());
        let nonce = Nonce::from(sealed.nonce);
        let opened = sealer
            .key
            .open_in_place(nonce, Aad::from(sealed.beside), &mut bytes)
            .map(|plain| plain.len());
        Ok(match opened {
            Ok(length) => {
                bytes.truncate(length);
                Ok(bytes)
            }
            Err(_) => Err(KeyFileProblem::Unsealing),
        })
    }

    /// Keeps what is needed to seal: under the salt of the files that are there, or a new one.
    pub(super) fn into_sealer(mut self) -> Result<Sealer, SignerError> {
        if self.stretched.is_empty() {
            self.stretch(environment::random()?)?;
        }
        Ok(self.stretched.swap_remove(0))
    }

    fn stretch(&mut self, salt: [u8; SALT_BYTES]) -> Result<&Sealer, SignerError> {
        let at = match self.stretched.iter().position(|known| known.salt == salt) {
            Some(at) => at,
            None => {
                let key = stretch(&self.bytes, &salt)?;
                let key =
                    RandomizedNonceKey::new(&AES_256_GCM, &key[..]).map_err(|_| STRETCHING)?;
                self.stretched.push(Sealer { salt, key });
                self.stretched.len() - 1
            }
        };
        Ok(&self.stretched[at])
    }
}

fn stretch(
    passphrase: &[u8],
    salt: &[u8; SALT_BYTES],
) -> Result<Zeroizing<[u8; KEY_BYTES]>, SignerError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(KEY_BYTES)).map_err(|_| STRETCHING)?;
    let mut memory = Zeroizing::new(vec![Block::default(); params.block_count()]);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, &mut key[..], &mut memory[..])
        .map_err(|_| STRETCHING)?;
    Ok(key)
}

impl Sealer {
    /// Appends salt and nonce to `file`, which the tag is to vouch for, and returns the encrypted
    /// private key.
    pub(super) fn seal(
        &self,
        file: &mut Vec<u8>,
        mut private: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, SignerError> {
        file.extend_from_slice(&self.salt);
        let (nonce, tag) = self
            .key
            .seal_in_place_separate_tag(Aad::from(&file[..]), &mut private)
            .map_err(|_| SEALING)?;
        file.extend_from_slice(nonce.as_ref());
        // Nothing is secret any more: growing may copy it.
        private.extend_from_slice(tag.as_ref());
        Ok(private)
    }
}
