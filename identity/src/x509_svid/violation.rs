//! The ways in which a certificate can differ from its profile.

use super::SerialError;
use crate::der::DerError;
use crate::id::IdError;
use crate::key::KeyError;

/// Why a certificate must not be signed or must not leave. Each variant belongs to
/// one rule; one that reaches a log is a bug of the builder or an attack, never a
/// mistake of the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileViolation {
    /// Not a certificate at all, or one with an extension twice.
    #[error("malformed certificate: {0}")]
    Malformed(DerError),
    /// The profile needs an issuer and none was named, or the other way round.
    #[error("an issuer was named where the profile has none, or none where it has one")]
    IssuerPresence,
    /// The serial is not positive or too long.
    #[error(transparent)]
    Serial(SerialError),
    /// The serial has fewer than 64 bits, so it was not drawn at random.
    #[error("serial number has only {0} bits")]
    SerialShort(usize),
    /// The signature algorithm is not the one of the issuer's key.
    #[error("signature algorithm is not that of the issuer's key")]
    SignatureAlgorithm,
    /// The outer algorithm is not the signed one.
    #[error("outer and inner signature algorithm differ")]
    OuterAlgorithm,
    /// The issuer name is not the issuer's subject.
    #[error("issuer name is not the issuer's subject")]
    IssuerName,
    /// A year before 2050 as GeneralizedTime, or one after as UTCTime.
    #[error("validity is not encoded as its years demand")]
    TimeEncoding,
    /// It begins in the future.
    #[error("not valid before {not_before}, and now is {now}")]
    NotYetValid {
        /// Unix seconds.
        not_before: i64,
        /// Unix seconds.
        now: i64,
    },
    /// It has already ended.
    #[error("not valid after {not_after}, and now is {now}")]
    Expired {
        /// Unix seconds.
        not_after: i64,
        /// Unix seconds.
        now: i64,
    },
    /// It begins before its issuer.
    #[error("begins at {not_before}, before its issuer at {issuer}")]
    BeforeIssuer {
        /// Unix seconds.
        not_before: i64,
        /// Unix seconds.
        issuer: i64,
    },
    /// It ends after its issuer.
    #[error("ends at {not_after}, after its issuer at {issuer}")]
    OutlivesIssuer {
        /// Unix seconds.
        not_after: i64,
        /// Unix seconds.
        issuer: i64,
    },
    /// The subject is empty.
    #[error("subject is empty")]
    EmptySubject,
    /// The key is not one that we certify.
    #[error(transparent)]
    Key(KeyError),
    /// The key is not the one that was asked for.
    #[error("certified key is not the expected one")]
    KeyDiffers,
    /// An extension that no profile has.
    #[error("unexpected extension")]
    UnexpectedExtension,
    /// An extension that the profile demands is missing.
    #[error("extension {0} is missing")]
    Missing(&'static str),
    /// An extension is critical and should not be, or the other way round.
    #[error("criticality of extension {0} is wrong")]
    Criticality(&'static str),
    /// A CA bit on a leaf, or none on a signing certificate.
    #[error("cA constraint does not fit the profile")]
    CaFlag,
    /// The path length is not the profile's.
    #[error("path length constraint does not fit the profile")]
    PathLength,
    /// The issuer's path length allows no CA below it.
    #[error("the issuer may not sign CA certificates")]
    IssuerPathLength,
    /// Key usage is not exactly the profile's.
    #[error("key usage does not fit the profile")]
    KeyUsage,
    /// Extended key usage is not exactly the profile's.
    #[error("extended key usage does not fit the profile")]
    ExtendedKeyUsage,
    /// Not exactly one URI name.
    #[error("expected one URI SAN but got {0}")]
    UriCount(usize),
    /// The URI name is not the expected ID.
    #[error("URI SAN is not the expected SPIFFE ID")]
    UriDiffers,
    /// The DNS names are not exactly the profile's, in order.
    #[error("DNS SANs are not the expected ones")]
    DnsNames,
    /// A DNS name that no certificate should hold.
    #[error("DNS SAN is not a valid name")]
    DnsNameInvalid,
    /// A name that is neither URI nor DNS.
    #[error("unexpected type of SAN")]
    OtherName,
    /// The ID is not of the kind that the profile is for.
    #[error("SPIFFE ID does not fit the profile: {0}")]
    IdKind(IdError),
    /// The ID of a signing certificate has a path, or that of the server is another.
    #[error("path of the SPIFFE ID does not fit the profile")]
    IdPath,
    /// The ID is of another trust domain than its issuer.
    #[error("trust domain is not the issuer's")]
    TrustDomain,
    /// The subject key identifier is not that of the key.
    #[error("subject key identifier is not that of the key")]
    SubjectKeyId,
    /// The authority key identifier is not the issuer's, or a root has one.
    #[error("authority key identifier is not the issuer's")]
    AuthorityKeyId,
}
