//! From when until when.
//!
//! Both ends are inclusive in X.509 (RFC 5280 §4.1.2.5). A document begins a little in the past,
//! for verifiers whose clocks are behind, and never ends after its authority.

use super::error::IssueError;

/// How far in the past certificates begin, as SPIRE's.
pub const BACKDATE_SECONDS: i64 = 10;

/// Documents capped by their authority end within this last part of its remaining life, so that not
/// all of them end, and are renewed, in the same second.
const SPREAD_PART: i64 = 10;

/// Largest time that X.509 can write: 9999-12-31T23:59:59Z.
const LATEST: i64 = 253_402_300_799;

/// The lifetime of one document, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Inclusive.
    pub not_before: i64,
    /// Inclusive.
    pub not_after: i64,
    /// Whether the authority's end made it shorter than asked for.
    pub capped: bool,
}

impl Validity {
    /// The lifetime of a document without an authority above it.
    ///
    /// # Errors
    /// [`IssueError::Lifetime`].
    pub fn unbounded(now: i64, ttl_seconds: i64) -> Result<Self, IssueError> {
        let not_after = now.saturating_add(ttl_seconds);
        if ttl_seconds <= 0 || now <= BACKDATE_SECONDS || not_after > LATEST {
            return Err(IssueError::Lifetime(ttl_seconds));
        }
        Ok(Validity {
            not_before: now - BACKDATE_SECONDS,
            not_after,
            capped: false,
        })
    }

    /// The lifetime of a document under an authority that lives from `begin` to `end`. A capped one
    /// is shortened further by up to a tenth of what is left, as `spread` decides.
    ///
    /// # Errors
    /// [`IssueError::Lifetime`], [`IssueError::AuthorityExpired`],
    /// [`IssueError::AuthorityNotYetValid`].
    pub fn within(
        now: i64,
        ttl_seconds: i64,
        (begin, end): (i64, i64),
        spread: u16,
    ) -> Result<Self, IssueError> {
        if now >= end {
            return Err(IssueError::AuthorityExpired {
                not_after: end,
                now,
            });
        }
        if now < begin {
            return Err(IssueError::AuthorityNotYetValid {
                not_before: begin,
                now,
            });
        }
        let mut validity = Self::unbounded(now, ttl_seconds)?;
        // A clock a few seconds behind the one that made the authority must not give a document
        // older than it.
        validity.not_before = validity.not_before.max(begin);
        if validity.not_after > end {
            let room = (end - now) / SPREAD_PART;
            let shortened =
                i64::try_from(i128::from(room) * i128::from(spread) / (i128::from(u16::MAX) + 1))
                    .expect("a part of an i64 is one");
            validity.not_after = end - shortened;
            validity.capped = true;
        }
        Ok(validity)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_767_225_600;

    #[test]
    fn an_uncapped_document_lives_as_long_as_asked() {
        let validity = Validity::within(NOW, 3600, (NOW - 100, NOW + 3600), 9).unwrap();
        assert_eq!(
            validity,
            Validity {
                not_before: NOW - 10,
                not_after: NOW + 3600,
                capped: false
            }
        );
    }

    #[test]
    fn a_capped_document_says_so_and_ends_with_its_authority_or_a_tenth_earlier() {
        let end_with = |spread| {
            let validity = Validity::within(NOW, 3600, (NOW - 100, NOW + 1000), spread).unwrap();
            assert!(validity.capped);
            validity.not_after
        };
        assert_eq!(end_with(0), NOW + 1000);
        assert_eq!(end_with(0x8000), NOW + 950);
        assert_eq!(end_with(u16::MAX), NOW + 901);
    }

    #[test]
    fn a_document_never_begins_before_its_authority() {
        let validity = Validity::within(NOW, 60, (NOW - 3, NOW + 1000), 0).unwrap();
        assert_eq!(validity.not_before, NOW - 3);
        assert!(matches!(
            Validity::within(NOW, 60, (NOW + 1, NOW + 1000), 0),
            Err(IssueError::AuthorityNotYetValid { .. })
        ));
    }

    #[test]
    fn an_ended_authority_issues_nothing() {
        for end in [NOW, NOW - 1] {
            assert!(matches!(
                Validity::within(NOW, 60, (0, end), 0),
                Err(IssueError::AuthorityExpired { .. })
            ));
        }
    }

    #[test]
    fn impossible_lifetimes_are_refused() {
        for ttl in [0, -1, i64::MIN, i64::MAX, LATEST] {
            assert!(matches!(
                Validity::unbounded(NOW, ttl),
                Err(IssueError::Lifetime(_))
            ));
        }
        assert!(Validity::unbounded(5, 60).is_err());
    }

    proptest! {
        #[test]
        fn every_document_is_inside_its_authority(
            age in 0i64..1 << 32, left in 1i64..1 << 32, ttl in 1i64..1 << 33, spread: u16
        ) {
            let (begin, end) = (NOW - age.min(NOW), NOW + left);
            let validity = Validity::within(NOW, ttl, (begin, end), spread).unwrap();
            prop_assert!(begin <= validity.not_before && validity.not_before <= NOW);
            prop_assert!(NOW < validity.not_after && validity.not_after <= end);
            prop_assert!(validity.not_after <= NOW + ttl);
            prop_assert_eq!(validity.capped, NOW + ttl > end);
        }
    }
}
