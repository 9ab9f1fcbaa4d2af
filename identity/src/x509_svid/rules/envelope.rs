//! Rules about everything but the extensions.

use super::super::{Profile, ProfileViolation, Serial};
use super::{Judged, Verdict};
use crate::certificate::Time;

/// 2050-01-01T00:00:00Z.
const YEAR_2050: i64 = 2_524_608_000;
/// Fewest bits that a serial drawn from 128 random ones has, but once in 2^64.
const SERIAL_BITS_MIN: usize = 64;

/// A root has no issuer but itself; everything else has one.
pub(super) fn issuer_presence(judged: &Judged<'_>) -> Verdict {
    let self_signed = *judged.expected.profile == Profile::SelfSignedCa;
    if self_signed == judged.expected.issuer.is_some() {
        return Err(ProfileViolation::IssuerPresence);
    }
    Ok(())
}

/// Positive, and at most 20 octets.
pub(super) fn serial_is_positive_and_short(judged: &Judged<'_>) -> Verdict {
    Serial::from_content(judged.tbs.serial)
        .map(|_| ())
        .map_err(ProfileViolation::Serial)
}

/// At least 64 bits from a random source. Two nodes share an authority's serials.
pub(super) fn serial_has_entropy(judged: &Judged<'_>) -> Verdict {
    match Serial::from_content(judged.tbs.serial) {
        Ok(serial) if serial.bits() < SERIAL_BITS_MIN => {
            Err(ProfileViolation::SerialShort(serial.bits()))
        }
        _ => Ok(()),
    }
}

/// The algorithm is the one with which the issuer's kind of key signs.
pub(super) fn signature_algorithm(judged: &Judged<'_>) -> Verdict {
    let signer = match judged.expected.issuer {
        Some(issuer) => issuer.public_key(),
        None => judged.expected.public_key,
    };
    if judged.tbs.signature_algorithm != signer.certificate_algorithm().identifier_der() {
        return Err(ProfileViolation::SignatureAlgorithm);
    }
    Ok(())
}

/// The outer algorithm repeats the signed one.
pub(super) fn outer_algorithm(judged: &Judged<'_>) -> Verdict {
    match judged.outer_algorithm {
        Some(outer) if outer != judged.tbs.signature_algorithm => {
            Err(ProfileViolation::OuterAlgorithm)
        }
        _ => Ok(()),
    }
}

/// The issuer name is the issuer's subject byte for byte; a root's is its own.
pub(super) fn issuer_name(judged: &Judged<'_>) -> Verdict {
    let name = match judged.expected.issuer {
        Some(issuer) => issuer.subject_der(),
        None => judged.tbs.subject,
    };
    if judged.tbs.issuer != name {
        return Err(ProfileViolation::IssuerName);
    }
    Ok(())
}

/// UTCTime through 2049, GeneralizedTime from 2050.
pub(super) fn time_encoding(judged: &Judged<'_>) -> Verdict {
    let fits = |time: Time| time.generalized == (time.at >= YEAR_2050);
    if fits(judged.tbs.not_before) && fits(judged.tbs.not_after) {
        Ok(())
    } else {
        Err(ProfileViolation::TimeEncoding)
    }
}

/// Valid from now or earlier.
pub(super) fn already_valid(judged: &Judged<'_>) -> Verdict {
    let (not_before, now) = (judged.tbs.not_before.at, judged.expected.now);
    if now < not_before {
        return Err(ProfileViolation::NotYetValid { not_before, now });
    }
    Ok(())
}

/// Valid until now or later; the end is inclusive.
pub(super) fn not_expired(judged: &Judged<'_>) -> Verdict {
    let (not_after, now) = (judged.tbs.not_after.at, judged.expected.now);
    if now > not_after {
        return Err(ProfileViolation::Expired { not_after, now });
    }
    Ok(())
}

/// Valid no earlier than the issuer.
pub(super) fn begins_after_issuer(judged: &Judged<'_>) -> Verdict {
    let not_before = judged.tbs.not_before.at;
    match judged.expected.issuer {
        Some(issuer) if not_before < issuer.not_before() => Err(ProfileViolation::BeforeIssuer {
            not_before,
            issuer: issuer.not_before(),
        }),
        _ => Ok(()),
    }
}

/// Valid no longer than the issuer.
pub(super) fn ends_before_issuer(judged: &Judged<'_>) -> Verdict {
    let not_after = judged.tbs.not_after.at;
    match judged.expected.issuer {
        Some(issuer) if not_after > issuer.not_after() => Err(ProfileViolation::OutlivesIssuer {
            not_after,
            issuer: issuer.not_after(),
        }),
        _ => Ok(()),
    }
}

/// There is a subject; so the alternative name need not be critical.
pub(super) fn subject_not_empty(judged: &Judged<'_>) -> Verdict {
    if judged.tbs.subject.len() <= 2 {
        return Err(ProfileViolation::EmptySubject);
    }
    Ok(())
}

/// The certified key is the one whose possession was proved.
pub(super) fn certified_key(judged: &Judged<'_>) -> Verdict {
    if judged.tbs.spki != judged.expected.public_key.spki_der() {
        return Err(ProfileViolation::KeyDiffers);
    }
    Ok(())
}
