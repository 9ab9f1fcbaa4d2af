//! Texts of flags that become fields of requests: IDs, selectors, and how sets are compared.

use chancery_api::spire::api::types::{
    FederatesWithMatch, Selector, SelectorMatch, Spiffeid, federates_with_match, selector_match,
};
use chancery_identity::id::{IdError, SpiffeId};

use super::error::CliError;

/// An ID for the wire. `what` names it in the error.
///
/// # Errors
/// [`CliError::Id`].
pub(super) fn id(what: &'static str, text: &str) -> Result<Spiffeid, CliError> {
    message(text).map_err(|source| CliError::Id {
        what,
        text: text.to_owned(),
        source,
    })
}

/// [`id`] of a verb that takes one ID only, so that the error need not name it.
///
/// # Errors
/// [`CliError::SpiffeId`].
pub(super) fn only_id(text: &str) -> Result<Spiffeid, CliError> {
    Ok(message(text)?)
}

fn message(text: &str) -> Result<Spiffeid, IdError> {
    let id = SpiffeId::parse(text)?;
    Ok(Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    })
}

/// [`id`] for a flag that may be absent or empty.
///
/// # Errors
/// [`CliError::Id`].
pub(super) fn optional_id(what: &'static str, text: &str) -> Result<Option<Spiffeid>, CliError> {
    if text.is_empty() {
        return Ok(None);
    }
    id(what, text).map(Some)
}

/// Splits at the first colon; what either side may hold is the server's to say.
///
/// # Errors
/// [`CliError::Selector`].
pub(super) fn selector(text: &str) -> Result<Selector, CliError> {
    let (kind, value) = text
        .split_once(':')
        .ok_or_else(|| CliError::Selector(text.to_owned()))?;
    Ok(Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    })
}

/// [`selector`] for each.
///
/// # Errors
/// [`CliError::Selector`] for the first that is wrong.
pub(super) fn selectors(texts: &[String]) -> Result<Vec<Selector>, CliError> {
    texts.iter().map(|text| selector(text)).collect()
}

/// The filter by selectors, absent where none is given.
///
/// # Errors
/// [`CliError::Match`], [`CliError::Selector`].
pub(super) fn by_selectors(
    texts: &[String],
    behavior: &str,
) -> Result<Option<SelectorMatch>, CliError> {
    use selector_match::MatchBehavior::{MatchAny, MatchExact, MatchSubset, MatchSuperset};
    if texts.is_empty() {
        return Ok(None);
    }
    let behavior = compared(behavior, [MatchExact, MatchAny, MatchSuperset, MatchSubset])?;
    Ok(Some(SelectorMatch {
        selectors: selectors(texts)?,
        r#match: behavior.into(),
    }))
}

/// The filter by federated trust domains, absent where none is given.
///
/// # Errors
/// [`CliError::Match`].
pub(super) fn by_federates_with(
    trust_domains: &[String],
    behavior: &str,
) -> Result<Option<FederatesWithMatch>, CliError> {
    use federates_with_match::MatchBehavior::{MatchAny, MatchExact, MatchSubset, MatchSuperset};
    if trust_domains.is_empty() {
        return Ok(None);
    }
    let behavior = compared(behavior, [MatchExact, MatchAny, MatchSuperset, MatchSubset])?;
    Ok(Some(FederatesWithMatch {
        trust_domains: trust_domains.to_vec(),
        r#match: behavior.into(),
    }))
}

fn compared<T: Copy>(
    behavior: &str,
    [exact, any, superset, subset]: [T; 4],
) -> Result<T, CliError> {
    match behavior {
        "exact" => Ok(exact),
        "any" => Ok(any),
        "superset" => Ok(superset),
        "subset" => Ok(subset),
        _ => Err(CliError::Match(behavior.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_s_value_keeps_its_colons() {
        let parsed = selector("k8s:ns:default").unwrap();
        assert_eq!((&*parsed.r#type, &*parsed.value), ("k8s", "ns:default"));
        // Empty sides are the server's to refuse, in its words.
        assert_eq!(selector(":").unwrap(), Selector::default());
        assert_eq!(
            selector("unix").unwrap_err().with_causes(),
            "selector \"unix\" must be formatted as type:value"
        );
    }

    #[test]
    fn a_wrong_id_is_told_with_its_cause() {
        assert_eq!(
            id("parent ID", "invalid-id").unwrap_err().with_causes(),
            "error parsing parent ID \"invalid-id\": scheme is missing or invalid"
        );
        assert_eq!(optional_id("parent ID", "").unwrap(), None);
        assert_eq!(
            only_id("invalid-id").unwrap_err().with_causes(),
            "scheme is missing or invalid"
        );
    }

    #[test]
    fn sets_are_compared_as_asked() {
        let texts = ["a:b".to_owned()];
        let chosen = |behavior| by_selectors(&texts, behavior).unwrap().unwrap().r#match;
        assert_eq!(
            ["exact", "subset", "superset", "any"].map(chosen),
            [0, 1, 2, 3]
        );
        let chosen = |behavior| {
            let filter = by_federates_with(&texts, behavior).unwrap();
            filter.unwrap().r#match
        };
        assert_eq!(
            ["exact", "subset", "superset", "any"].map(chosen),
            [0, 1, 2, 3]
        );
        assert_eq!(
            by_selectors(&texts, "NO-MATCHER").unwrap_err().to_string(),
            "match behavior \"NO-MATCHER\" unknown"
        );
        assert_eq!(by_selectors(&[], "NO-MATCHER").unwrap(), None);
    }
}
