//! Every chain from a certificate to the roots (RFC 5280 §6.1), for any purpose.

use super::certificate::{Certificate, UsageBit};

/// Signatures that are verified for one certificate at most: what a caller sends must
/// not buy more work.
const SIGNATURES_MAX: usize = 100;

/// Longest name of a certificate in a text, in characters (RFC 5280 §A.1,
/// ub-common-name).
const NAME_CHARS_MAX: usize = 64;

/// Why there is no chain. The texts are Go's, which SPIRE tells agents, but one: a stock
/// agent takes Go's words for an unknown authority, wherever they come from, for its own
/// distrust of the server, and may bootstrap its trust anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A critical extension was not understood.
    #[error("x509: unhandled critical extension")]
    Unhandled,
    /// Not valid yet, at this Unix time.
    #[error("x509: certificate has expired or is not yet valid: current time {now} is before {limit}", now = moment(*now), limit = moment(*limit))]
    NotYetValid {
        /// When it was judged.
        now: i64,
        /// When it begins.
        limit: i64,
    },
    /// No longer valid, at this Unix time.
    #[error("x509: certificate has expired or is not yet valid: current time {now} is after {limit}", now = moment(*now), limit = moment(*limit))]
    Expired {
        /// When it was judged.
        now: i64,
        /// When it ended.
        limit: i64,
    },
    /// An authority may not sign certificates.
    #[error("x509: certificate is not authorized to sign other certificates")]
    NotAuthority,
    /// What should have signed may not sign certificates.
    #[error("x509: invalid signature: parent certificate cannot sign this kind of certificate")]
    ParentCannotSign,
    /// An authority's path is too short for this chain.
    #[error("x509: too many intermediates for path length constraint")]
    PathLength,
    /// An authority may not speak for a name in the chain.
    #[error("x509: a root or intermediate certificate is not authorized to sign for this name")]
    NameConstraint,
    /// A signature does not hold, or its algorithm is too weak or unknown.
    #[error("x509: signature does not verify")]
    Signature,
    /// No chain ends at a root.
    #[error("x509: certificate does not lead to a trusted root{}", shown(hint.as_deref()))]
    UnknownAuthority {
        /// What was wrong with the first candidate that looked like the issuer.
        hint: Option<Box<(ChainError, String)>>,
    },
    /// So many candidates that the search was given up.
    #[error("x509: signature check attempts limit reached while verifying certificate chain")]
    Budget,
}

fn shown(hint: Option<&(ChainError, String)>) -> String {
    hint.map_or_else(String::new, |(error, candidate)| {
        format!(
            " (possibly because of {:?} while trying to verify candidate authority certificate {candidate:?})",
            error.to_string()
        )
    })
}

/// RFC 3339, in UTC.
fn moment(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to civil, by eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

/// Every chain of `leaf` to one of `roots` over any of `intermediates`, at Unix time
/// `now`; leaf first, root last, at least one. A leaf that is itself a root is a chain
/// of one.
///
/// # Errors
/// [`ChainError`].
pub fn chains<'a>(
    leaf: &'a Certificate,
    intermediates: &'a [Certificate],
    roots: &'a [Certificate],
    now: i64,
) -> Result<Vec<Vec<&'a Certificate>>, ChainError> {
    judge(leaf, Place::Leaf, &[], now)?;
    let mut search = Search {
        intermediates: distinct(intermediates),
        roots: distinct(roots),
        now,
        checks: 0,
        verdicts: Vec::new(),
    };
    if search.roots.iter().any(|root| root.der() == leaf.der()) {
        return Ok(vec![vec![leaf]]);
    }
    let mut found = search.from(&[leaf])?;
    found.retain(|chain| names_are_allowed(chain));
    if found.is_empty() {
        return Err(ChainError::NameConstraint);
    }
    Ok(found)
}

/// Each certificate once.
fn distinct(certificates: &[Certificate]) -> Vec<&Certificate> {
    let mut out: Vec<&Certificate> = Vec::with_capacity(certificates.len());
    for certificate in certificates {
        if !out.iter().any(|seen| seen.der() == certificate.der()) {
            out.push(certificate);
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Leaf,
    Intermediate,
    Root,
}

struct Search<'a> {
    intermediates: Vec<&'a Certificate>,
    roots: Vec<&'a Certificate>,
    now: i64,
    checks: usize,
    /// What is known of a parent and a child: many ways lead over one link.
    verdicts: Vec<Verdict<'a>>,
}

/// Parent, child, and whether the one has signed the other.
type Verdict<'a> = (&'a Certificate, &'a Certificate, Result<(), ChainError>);

impl<'a> Search<'a> {
    /// Every chain that goes on from the last of `chain`. As deep as there are distinct
    /// intermediates, of which each is in a chain once.
    fn from(&mut self, chain: &[&'a Certificate]) -> Result<Vec<Vec<&'a Certificate>>, ChainError> {
        let mut found = Vec::new();
        // The first candidate that did not sign is a hint; one that did sign and is no
        // good is the reason, the last of them.
        let (mut hint, mut reason) = (None, None);
        let Some(last) = chain.last() else {
            return Err(ChainError::UnknownAuthority { hint });
        };
        let candidates = parents(&self.roots, last)
            .into_iter()
            .map(|root| (Place::Root, root))
            .chain(
                parents(&self.intermediates, last)
                    .into_iter()
                    .map(|other| (Place::Intermediate, other)),
            );
        for (place, candidate) in candidates.collect::<Vec<_>>() {
            self.checks += 1;
            if self.checks > SIGNATURES_MAX {
                // What was found before holds all the same.
                return if found.is_empty() {
                    Err(ChainError::Budget)
                } else {
                    Ok(found)
                };
            }
            if is_in(candidate, chain) {
                continue;
            }
            if let Err(error) = self.has_signed(candidate, last) {
                hint.get_or_insert_with(|| Box::new((error, called(candidate))));
                continue;
            }
            if let Err(error) = judge(candidate, place, chain, self.now) {
                hint.get_or_insert_with(|| Box::new((error.clone(), called(candidate))));
                reason = Some(error);
                continue;
            }
            reason = None;
            let mut longer = chain.to_vec();
            longer.push(candidate);
            match place {
                Place::Root => found.push(longer),
                Place::Intermediate | Place::Leaf => match self.from(&longer) {
                    Ok(chains) => found.extend(chains),
                    // Other ways may lead to a root.
                    Err(error) => reason = Some(error),
                },
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        Err(reason.unwrap_or(ChainError::UnknownAuthority { hint }))
    }

    /// As the function of this name, once for each pair.
    fn has_signed(
        &mut self,
        parent: &'a Certificate,
        child: &'a Certificate,
    ) -> Result<(), ChainError> {
        let known = self
            .verdicts
            .iter()
            .find(|(p, c, _)| std::ptr::eq(*p, parent) && std::ptr::eq(*c, child));
        if let Some((_, _, verdict)) = known {
            return verdict.clone();
        }
        let verdict = has_signed(parent, child);
        self.verdicts.push((parent, child, verdict.clone()));
        verdict
    }
}

/// Those whose name is that of the issuer, likely ones first.
fn parents<'a>(pool: &[&'a Certificate], child: &Certificate) -> Vec<&'a Certificate> {
    let mut out: Vec<&Certificate> = pool
        .iter()
        .filter(|candidate| candidate.raw_subject == child.raw_issuer)
        .copied()
        .collect();
    let wanted = &child.extensions.authority_key_id;
    out.sort_by_key(|candidate| {
        let own = &candidate.extensions.subject_key_id;
        if own == wanted {
            0
        } else if own.is_empty() != wanted.is_empty() {
            1
        } else {
            2
        }
    });
    out
}

/// A name for messages.
fn called(certificate: &Certificate) -> String {
    let cut = |name: String| name.chars().take(NAME_CHARS_MAX).collect();
    let name = certificate.subject().common_name();
    if !name.is_empty() {
        return cut(name);
    }
    let organization = certificate.subject().organization().into_iter().next();
    organization.map_or_else(
        || format!("serial:{}", hex::encode(certificate.serial())),
        cut,
    )
}

/// One subject with one key is one link, however many certificates it has.
fn is_in(candidate: &Certificate, chain: &[&Certificate]) -> bool {
    chain.iter().any(|link| {
        link.raw_subject == candidate.raw_subject
            && link.raw_key == candidate.raw_key
            && link.extensions.raw_alt_names == candidate.extensions.raw_alt_names
    })
}

fn has_signed(parent: &Certificate, child: &Certificate) -> Result<(), ChainError> {
    let is_authority = match parent.extensions.basic {
        Some((ca, _)) => ca,
        // Before version 3 there was no way to say it.
        None => parent.version < 3,
    };
    let may_sign = parent.extensions.key_usage == 0 || parent.has_usage(UsageBit::CertSign);
    if !is_authority || !may_sign {
        return Err(ChainError::ParentCannotSign);
    }
    let holds = child.algorithm.is_some_and(|algorithm| {
        parent
            .key()
            .has_signed(algorithm, child.tbs(), &child.signature)
    });
    if holds {
        Ok(())
    } else {
        Err(ChainError::Signature)
    }
}

fn judge(
    certificate: &Certificate,
    place: Place,
    below: &[&Certificate],
    now: i64,
) -> Result<(), ChainError> {
    let extensions = &certificate.extensions;
    if extensions.unhandled {
        return Err(ChainError::Unhandled);
    }
    if now < certificate.not_before() {
        let limit = certificate.not_before();
        return Err(ChainError::NotYetValid { now, limit });
    }
    if now > certificate.not_after() {
        let limit = certificate.not_after();
        return Err(ChainError::Expired { now, limit });
    }
    if place == Place::Intermediate && !matches!(extensions.basic, Some((true, _))) {
        return Err(ChainError::NotAuthority);
    }
    if let Some((_, Some(longest))) = extensions.basic {
        let between = u32::try_from(below.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if between > longest {
            return Err(ChainError::PathLength);
        }
    }
    Ok(())
}

/// Whether every authority of a chain may speak for the names below it.
fn names_are_allowed(chain: &[&Certificate]) -> bool {
    chain.iter().enumerate().all(|(at, authority)| {
        let constraints = authority.extensions.constraints.as_ref();
        constraints.is_none_or(|constraints| {
            let below = chain[..at].iter();
            below
                .filter(|below| below.extensions.raw_alt_names.is_some())
                .all(|below| constraints.allow(below))
        })
    })
}
