//! Selectors: what attestation found out about a node or a workload, as
//! `type:value` pairs, and sets of them.
//!
//! A selector set decides who gets an identity, so it has one form: sorted, each
//! selector once. Two entries whose lists differ in order or repetition compare
//! equal, which SPIRE's rule for similar entries needs.

use std::fmt;

/// Why a pair is not a selector. The text is SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The type is empty.
    #[error("missing selector type")]
    MissingType,
    /// The type has a colon, which would make the text form ambiguous.
    #[error("selector type contains ':'")]
    ColonInType,
    /// The value is empty.
    #[error("missing selector value")]
    MissingValue,
    /// The text form has no colon.
    #[error("selector \"{0}\" must be formatted as type:value")]
    NoColon(String),
}

/// One valid selector. The value is free text and may itself hold colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    kind: String,
    value: String,
}

impl Selector {
    /// A selector of its two parts; `kind` is what SPIRE calls the type.
    ///
    /// # Errors
    /// [`SelectorError`], in SPIRE's order: type missing, colon in type, value missing.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Result<Self, SelectorError> {
        let (kind, value) = (kind.into(), value.into());
        if kind.is_empty() {
            return Err(SelectorError::MissingType);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInType);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        Ok(Selector { kind, value })
    }

    /// Parses `type:value`; only the first colon separates.
    ///
    /// # Errors
    /// [`SelectorError`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text
            .split_once(':')
            .ok_or_else(|| SelectorError::NoColon(text.to_owned()))?;
        Self::new(kind, value)
    }

    /// The part before the colon.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The part after the first colon.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// Selectors in order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorSet(Vec<Selector>);

impl SelectorSet {
    /// The selectors in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Selector] {
        &self.0
    }

    /// The selectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// How many different selectors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `selector` is in the set.
    #[must_use]
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Whether every selector here is in `other` too. The empty set is a subset
    /// of every set: a caller for whom "no selectors" must match nothing says so
    /// itself.
    #[must_use]
    pub fn is_subset_of(&self, other: &SelectorSet) -> bool {
        self.len() <= other.len() && self.0.iter().all(|selector| other.contains(selector))
    }

    /// Whether the sets have a selector in common.
    #[must_use]
    pub fn intersects(&self, other: &SelectorSet) -> bool {
        let (few, many) = if self.len() <= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        few.0.iter().any(|selector| many.contains(selector))
    }

    /// The selectors in order, without copying.
    #[must_use]
    pub fn into_vec(self) -> Vec<Selector> {
        self.0
    }
}

impl From<Vec<Selector>> for SelectorSet {
    fn from(mut selectors: Vec<Selector>) -> Self {
        selectors.sort_unstable();
        selectors.dedup();
        SelectorSet(selectors)
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        selectors.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(texts: &[&str]) -> SelectorSet {
        texts
            .iter()
            .map(|text| Selector::parse(text).unwrap())
            .collect()
    }

    #[test]
    fn refusals_have_the_text_of_spire() {
        let message = |kind: &str, value: &str| Selector::new(kind, value).unwrap_err().to_string();
        assert_eq!(message("", ""), "missing selector type");
        assert_eq!(message("a:b", ""), "selector type contains ':'");
        assert_eq!(message("a", ""), "missing selector value");
        assert_eq!(
            Selector::parse("unix").unwrap_err().to_string(),
            "selector \"unix\" must be formatted as type:value"
        );
    }

    #[test]
    fn only_the_first_colon_separates() {
        let selector = Selector::parse("k8s:ns:default").unwrap();
        assert_eq!((selector.kind(), selector.value()), ("k8s", "ns:default"));
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        assert_eq!(set(&["b:1", "a:1", "b:1"]), set(&["a:1", "b:1"]));
        assert_eq!(set(&["b:1", "a:1", "b:1"]).len(), 2);
    }

    #[test]
    fn subsets_and_intersections() {
        let (small, large) = (set(&["a:1", "c:1"]), set(&["a:1", "b:1", "c:1"]));
        assert!(small.is_subset_of(&large));
        assert!(!large.is_subset_of(&small));
        assert!(SelectorSet::default().is_subset_of(&small));
        assert!(small.intersects(&set(&["c:1", "z:1"])));
        assert!(!small.intersects(&set(&["b:1"])));
        assert!(!small.intersects(&SelectorSet::default()));
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "[a-z:]{0,6}:?[ -~]{0,10}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(selector.to_string(), text);
            }
        }

        #[test]
        fn subset_agrees_with_the_definition(
            a in proptest::collection::vec(0u8..6, 0..6),
            b in proptest::collection::vec(0u8..6, 0..6),
        ) {
            let build = |xs: &[u8]| -> SelectorSet {
                xs.iter().map(|x| Selector::new("t", x.to_string()).unwrap()).collect()
            };
            prop_assert_eq!(build(&a).is_subset_of(&build(&b)), a.iter().all(|x| b.contains(x)));
            prop_assert_eq!(build(&a).intersects(&build(&b)), a.iter().any(|x| b.contains(x)));
        }
    }
}
