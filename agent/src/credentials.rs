//! Keys and X.509-SVIDs.

use zeroize::Zeroizing;

/// A key and a CSR for it: P-256, no names, as SPIRE's agent asks.
pub(crate) struct Requested {
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// PKCS#10 DER.
    pub(crate) csr: Vec<u8>,
}

/// Makes them.
///
/// # Errors
/// The provider has no entropy.
pub(crate) fn request() -> Result<Requested, rcgen::Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key)?;
    Ok(Requested {
        key: Zeroizing::new(key.serialize_der()),
        csr: csr.der().to_vec(),
    })
}

/// An X.509-SVID with its key.
#[derive(Clone)]
pub(crate) struct Svid {
    /// `spiffe://` form.
    pub(crate) id: String,
    /// Leaf first, DER.
    pub(crate) chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// Unix second at which it came; the certificate is backdated.
    pub(crate) issued_at: i64,
    /// Unix second at which it ends.
    pub(crate) expires_at: i64,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} until {}", self.id, self.expires_at)
    }
}

impl Svid {
    /// Past half of its life, as SPIRE's agent judges it.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        now >= self.issued_at + (self.expires_at - self.issued_at) / 2
    }

    pub(crate) fn has_expired(&self, now: i64) -> bool {
        now >= self.expires_at
    }
}
