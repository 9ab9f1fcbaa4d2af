//! Proof that the agent holds the key of its certificate.

use chancery_identity::pki::{Certificate, SubjectKey, UsageBit};

use super::wire::{self, Response};

/// Length of either side's nonce, in bytes.
pub(super) const NONCE_BYTES: usize = 32;

/// A challenge that was given and waits for its answer. It is answered once: it goes
/// with the check.
pub(super) struct Challenge<'a> {
    key: &'a SubjectKey,
    nonce: [u8; NONCE_BYTES],
}

impl<'a> Challenge<'a> {
    /// A challenge for the key of `leaf`; says why there is none for it.
    pub(super) fn new(
        leaf: &'a Certificate,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, &'static str> {
        if !leaf.has_usage(UsageBit::DigitalSignature) {
            return Err("certificate not intended for digital signature use");
        }
        match leaf.key() {
            key @ (SubjectKey::Rsa { .. } | SubjectKey::Ec { .. }) => Ok(Self { key, nonce }),
            SubjectKey::Ed25519(_) => Err("unsupported public key type ed25519.PublicKey"),
            SubjectKey::Other => Err("unsupported public key type <nil>"),
        }
    }

    /// As it is sent.
    pub(super) fn to_json(&self) -> Vec<u8> {
        match self.key {
            SubjectKey::Rsa { .. } => wire::rsa_challenge(&self.nonce),
            _ => wire::ecdsa_challenge(&self.nonce),
        }
    }

    /// Whether the answer proves possession; says why not.
    ///
    /// Nothing here is secret: both nonces and the signature were sent in the clear of
    /// the connection.
    pub(super) fn check(self, response: &Response) -> Result<(), &'static str> {
        match self.key {
            SubjectKey::Rsa { .. } => {
                let rsa = response.rsa.as_ref().ok_or("expecting RSA response")?;
                let message = self.message(&rsa.nonce)?;
                let holds = self.key.verify_pss_sha256(&message, &rsa.signature);
                holds.then_some(()).ok_or("RSA signature verify failed")
            }
            _ => {
                let ecdsa = response.ecdsa.as_ref().ok_or("expecting ECDSA response")?;
                let message = self.message(&ecdsa.nonce)?;
                let holds = self.key.verify_ecdsa_sha256(&message, &ecdsa.r, &ecdsa.s);
                holds.then_some(()).ok_or("ECDSA signature verify failed")
            }
        }
    }

    /// What is signed: both nonces, ours first. Its SHA-256 is what Go calls the
    /// combined nonce.
    fn message(&self, theirs: &[u8]) -> Result<[u8; 2 * NONCE_BYTES], &'static str> {
        let theirs: &[u8; NONCE_BYTES] = theirs.try_into().map_err(|_| "invalid response nonce")?;
        let mut message = [0; 2 * NONCE_BYTES];
        message[..NONCE_BYTES].copy_from_slice(&self.nonce);
        message[NONCE_BYTES..].copy_from_slice(theirs);
        Ok(message)
    }
}
