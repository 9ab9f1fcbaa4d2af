//! Requests to an upstream authority: certify our key as a CA of our trust domain.
//!
//! A request is signed by the authority's own key, so it is prepared and judged like everything
//! else that key signs.

use chancery_hsm::{KeyRef, Signature};
use chancery_identity::csr::{Csr, RequestedNames, assemble_csr};
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::Serial;

use super::draw::Draw;
use super::error::IssueError;
use super::prepare::{Document, Prepared, SigningKey};
use super::subject::Subject;
use super::tbs;

/// What a prepared request will say.
#[derive(Debug)]
pub struct RequestDraft {
    id: SpiffeId,
    public_key: PublicKey,
}

/// Builds and judges a request to certify the key at `key`, whose recorded public half is
/// `public_key`, as a CA of
/// `trust_domain`. A subject without serialNumber gets one from the draw, as SPIRE's requests have.
///
/// # Errors
/// [`IssueError`]; the key was not used.
pub fn prepare_request(
    key: KeyRef,
    public_key: &PublicKey,
    trust_domain: &TrustDomain,
    mut subject: Subject,
    draw: &Draw,
) -> Result<Prepared<RequestDraft>, IssueError> {
    let serial = Serial::from_magnitude(&draw.serial).map_err(IssueError::Serial)?;
    let key = SigningKey::new(key, public_key.clone())?;
    subject
        .serial_number
        .get_or_insert_with(|| serial.to_string());
    let draft = RequestDraft {
        id: SpiffeId::of_trust_domain(trust_domain),
        public_key: public_key.clone(),
    };
    let message = tbs::build_request(&draft.id, public_key, &subject)?;
    // The judge reads whole requests; a signature is not looked at yet.
    draft.judge(&draft.assemble(&message, &[]))?;
    Ok(Prepared::new(draft, message, key.into()))
}

impl RequestDraft {
    fn assemble(&self, message: &[u8], signature: &[u8]) -> Vec<u8> {
        assemble_csr(message, self.public_key.certificate_algorithm(), signature)
    }

    /// Our key, our trust domain's ID, and no other name.
    fn judge(&self, der: &[u8]) -> Result<Csr, IssueError> {
        let csr = Csr::parse(der).map_err(IssueError::Request)?;
        let names = csr.requested_names().map_err(IssueError::Request)?;
        let expected = RequestedNames {
            uris: vec![self.id.to_string()],
            ..RequestedNames::default()
        };
        if *csr.public_key() != self.public_key || names != expected || csr.subject_is_empty() {
            return Err(IssueError::RequestDiffers);
        }
        Ok(csr)
    }
}

impl Document for RequestDraft {
    /// The request as DER (RFC 2986 §4.2).
    type Issued = Vec<u8>;

    fn verifies(&self, key: &SigningKey, message: &[u8], signature: &Signature) -> bool {
        let algorithm = key.public_key().certificate_algorithm();
        let signature = signature.to_der();
        key.public_key()
            .verify(algorithm, message, &signature)
            .is_ok()
    }

    fn finish(self, message: Vec<u8>, signature: &Signature) -> Result<Vec<u8>, IssueError> {
        let der = self.assemble(&message, &signature.to_der());
        // One request in the life of an authority: what the upstream will check is checked here,
        // always.
        self.judge(&der)?
            .verify_signature()
            .map_err(IssueError::Request)?;
        Ok(der)
    }
}
