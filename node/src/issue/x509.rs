//! Certificates: self-signed roots, downstream and intermediate CAs, server, agent and workload
//! SVIDs.

use std::sync::Arc;

use chancery_hsm::{KeyRef, Signature};
use chancery_identity::bundle::authority_id;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::{
    CaFacts, Expected, Facts, Profile, Serial, assemble_certificate, judge_certificate, judge_tbs,
};

use super::draw::Draw;
use super::error::IssueError;
use super::prepare::{Document, Prepared, SigningKey};
use super::subject::Subject;
use super::tbs::{self, Contents};
use super::validity::Validity;

/// An authority that signs certificates: a root, an intermediate, or a CA that an upstream signed.
#[derive(Debug)]
pub struct X509Authority {
    id: String,
    facts: Arc<CaFacts>,
    certificate_der: Vec<u8>,
    chain: Vec<Vec<u8>>,
    key: Arc<SigningKey>,
}

impl X509Authority {
    /// The authority of a recorded certificate of `trust_domain`. `chain` is what goes to clients
    /// after a leaf, its own certificate first: empty for a root in the bundle, which is never
    /// sent.
    ///
    /// # Errors
    /// [`IssueError::Authority`], [`IssueError::AuthorityKeyKind`].
    pub fn new(
        trust_domain: &TrustDomain,
        key: KeyRef,
        certificate_der: Vec<u8>,
        chain: Vec<Vec<u8>>,
    ) -> Result<Self, IssueError> {
        let facts =
            CaFacts::read_for(trust_domain, &certificate_der).map_err(IssueError::Authority)?;
        Ok(X509Authority {
            id: authority_id(facts.ski()),
            key: Arc::new(SigningKey::new(key, facts.public_key().clone())?),
            facts: Arc::new(facts),
            certificate_der,
            chain,
        })
    }

    /// Its id in APIs: the subject key identifier in hex.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its certificate says.
    #[must_use]
    pub fn facts(&self) -> &CaFacts {
        &self.facts
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// What follows a leaf on the wire.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The subject that SPIRE gives to a CA below this one: its own, with the unit
    /// `DOWNSTREAM-<n>`, n being the length of the chain that signs it (1 for a root).
    ///
    /// # Errors
    /// [`IssueError::Subject`].
    pub fn downstream_subject(&self) -> Result<Subject, IssueError> {
        let depth = self.chain.len().max(1);
        Ok(Subject {
            organizational_unit: vec![format!("DOWNSTREAM-{depth}")],
            ..Subject::from_name_der(self.facts.subject_der())?
        })
    }
}

/// A certificate to make. Everything in it was decided: the ID, DNS names and lifetime by an entry
/// or by the method, the key by a request whose possession was proved.
#[derive(Debug)]
pub struct CertificateRequest<'a> {
    /// The kind, with the DNS names of a workload.
    pub profile: Profile,
    /// The ID; the trust domain's own for signing certificates.
    pub id: &'a SpiffeId,
    /// The key to certify.
    pub public_key: &'a PublicKey,
    /// The subject. A workload's common name becomes its first DNS name; a signing certificate that
    /// has no serialNumber attribute gets its serial number there, as SPIRE's do, so that no two
    /// have the same name.
    pub subject: Subject,
    /// How long it should live. It lives shorter when its authority ends before.
    pub ttl_seconds: i64,
}

/// What a prepared certificate will say.
#[derive(Debug)]
pub struct CertificateDraft {
    profile: Profile,
    facts: Facts,
    /// None for a root.
    issuer: Option<Arc<X509Authority>>,
    capped: bool,
    now: i64,
}

impl CertificateDraft {
    /// ID, serial, validity and key.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The kind.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The id of the authority that signs it; a root's own.
    #[must_use]
    pub fn authority_id(&self) -> String {
        match &self.issuer {
            Some(issuer) => issuer.id.clone(),
            None => authority_id(&self.facts.ski),
        }
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            profile: &self.profile,
            id: &self.facts.id,
            public_key: &self.facts.public_key,
            issuer: self.issuer.as_ref().map(|issuer| issuer.facts()),
            now: self.now,
        }
    }
}

/// A certificate that may leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate_der: Vec<u8>,
    /// What goes to the client: the certificate, then its authority's chain.
    pub chain: Vec<Vec<u8>>,
    /// ID, serial, validity and key.
    pub facts: Facts,
    /// The id of the authority that signed it.
    pub authority_id: String,
    /// Whether the authority's end made it shorter than asked for.
    pub capped: bool,
}

/// Builds and judges a certificate under `authority`.
///
/// # Errors
/// [`IssueError`]; its key was not used.
pub fn prepare_certificate(
    authority: &Arc<X509Authority>,
    request: CertificateRequest<'_>,
    draw: &Draw,
) -> Result<Prepared<CertificateDraft>, IssueError> {
    let issuer = authority.facts();
    let life = (issuer.not_before(), issuer.not_after());
    // Signing certificates are few and renewed long before they end: theirs is the authority's
    // last second.
    let spread = if request.profile.is_ca() {
        0
    } else {
        draw.spread
    };
    let validity = Validity::within(draw.now, request.ttl_seconds, life, spread)?;
    prepare(
        request,
        validity,
        draw,
        Some(authority),
        Arc::clone(&authority.key),
    )
}

/// Builds and judges a root that the key at `key` signs for itself; `request.public_key` is its
/// recorded public half.
///
/// # Errors
/// [`IssueError`]; the key was not used.
pub fn prepare_self_signed(
    key: KeyRef,
    request: CertificateRequest<'_>,
    draw: &Draw,
) -> Result<Prepared<CertificateDraft>, IssueError> {
    let key = Arc::new(SigningKey::new(key, request.public_key.clone())?);
    let validity = Validity::unbounded(draw.now, request.ttl_seconds)?;
    prepare(request, validity, draw, None, key)
}

fn prepare(
    request: CertificateRequest<'_>,
    validity: Validity,
    draw: &Draw,
    issuer: Option<&Arc<X509Authority>>,
    key: Arc<SigningKey>,
) -> Result<Prepared<CertificateDraft>, IssueError> {
    let serial = Serial::from_magnitude(&draw.serial).map_err(IssueError::Serial)?;
    let subject = final_subject(request.subject, &request.profile, &serial);
    let contents = Contents {
        profile: &request.profile,
        id: request.id,
        public_key: request.public_key,
        subject: &subject,
        serial: &serial,
        validity,
    };
    let message = match issuer {
        Some(issuer) => tbs::build(&contents, issuer.facts())?,
        None => tbs::build_self_signed(&contents)?,
    };
    let expected = Expected {
        profile: &request.profile,
        id: request.id,
        public_key: request.public_key,
        issuer: issuer.map(|issuer| issuer.facts()),
        now: draw.now,
    };
    let facts = judge_tbs(&message, &expected).map_err(IssueError::Certificate)?;
    // The judge knows what is allowed; that these three are also what was decided is checked here.
    assert!(
        facts.serial == serial
            && facts.not_before == validity.not_before
            && facts.not_after == validity.not_after,
        "the builder wrote another serial or validity than it was given"
    );
    let draft = CertificateDraft {
        profile: request.profile,
        facts,
        issuer: issuer.cloned(),
        capped: validity.capped,
        now: draw.now,
    };
    Ok(Prepared::new(draft, message, key))
}

fn final_subject(mut subject: Subject, profile: &Profile, serial: &Serial) -> Subject {
    if let Some(first) = profile.dns_names().first() {
        subject.common_name = Some(first.clone());
    }
    if profile.is_ca() && *profile != Profile::DownstreamCa {
        subject
            .serial_number
            .get_or_insert_with(|| serial.to_string());
    }
    subject
}

impl Document for CertificateDraft {
    type Issued = IssuedCertificate;

    fn verifies(&self, key: &SigningKey, message: &[u8], signature: &Signature) -> bool {
        let public_key = key.public_key();
        let algorithm = public_key.certificate_algorithm();
        public_key
            .verify(algorithm, message, &signature.to_der())
            .is_ok()
    }

    /// A downstream server's CA is not: its owner could let everybody else wait.
    fn goes_first(&self) -> bool {
        matches!(self.profile, Profile::SelfSignedCa | Profile::Intermediate)
    }

    fn finish(
        self,
        message: Vec<u8>,
        signature: &Signature,
    ) -> Result<IssuedCertificate, IssueError> {
        let certificate_der =
            assemble_certificate(&message, &signature.to_der()).map_err(IssueError::Assemble)?;
        let facts = judge_certificate(&certificate_der, &self.expected())
            .map_err(IssueError::Certificate)?;
        let mut chain = vec![certificate_der.clone()];
        chain.extend(
            self.issuer
                .iter()
                .flat_map(|issuer| issuer.chain.iter().cloned()),
        );
        Ok(IssuedCertificate {
            authority_id: self.authority_id(),
            certificate_der,
            chain,
            facts,
            capped: self.capped,
        })
    }
}
