//! Trust bundles in files: PEM certificates, or the SPIFFE bundle document.
//!
//! The rules are those of `chancery_identity::bundle`; here is what SPIRE's command line makes of
//! them, and its words.

use chancery_api::spire::api::types::{self, JwtKey, X509Certificate};
use chancery_identity::bundle::{
    Bundle, JwtAuthority, KEYS_MAX, Strictness, X509Authority, pem_certificate, split_certificates,
};
use chancery_identity::id::TrustDomain;
use x509_parser::pem::Pem;

use super::error::CliError;

/// Forms of a bundle for people and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The X.509 authorities alone.
    Pem,
    /// All of it (SPIFFE Trust Domain and Bundle §4).
    Spiffe,
}

impl Form {
    /// The form of that name, in any case; PEM where none is given.
    ///
    /// # Errors
    /// [`CliError::Format`].
    pub(super) fn named(name: &str) -> Result<Self, CliError> {
        match &*name.to_lowercase() {
            "" | "pem" => Ok(Form::Pem),
            "spiffe" => Ok(Form::Spiffe),
            other => Err(CliError::Format(other.to_owned())),
        }
    }
}

/// The bundle that `bytes` hold in `form`, of the trust domain with that name or ID. PEM does not
/// need the trust domain: it is passed on as it was given, for the server to judge.
///
/// # Errors
/// [`CliError::While`] with what is wrong; [`CliError::SpiffeId`] for the trust domain.
pub(super) fn read(
    bytes: &[u8],
    form: Form,
    trust_domain: &str,
) -> Result<types::Bundle, CliError> {
    match form {
        Form::Pem => Ok(types::Bundle {
            trust_domain: trust_domain.to_owned(),
            x509_authorities: read_pem(bytes)
                .map_err(CliError::during("unable to parse bundle data"))?,
            ..types::Bundle::default()
        }),
        Form::Spiffe => {
            let trust_domain = TrustDomain::parse_name_or_id(trust_domain)?;
            Bundle::parse_spiffe_json(trust_domain, bytes, Strictness::Strict)
                .map(|bundle| message(&bundle))
                .map_err(|error| CliError::Said(error.to_string()))
                .map_err(CliError::during("unable to parse to spiffe bundle"))
        }
    }
}

fn read_pem(bytes: &[u8]) -> Result<Vec<X509Certificate>, CliError> {
    let mut certificates = Vec::new();
    for (at, block) in Pem::iter_from_buffer(bytes).enumerate() {
        let number = at + 1;
        let block =
            block.map_err(|error| CliError::Said(format!("PEM block {number}: {error}")))?;
        if block.label != "CERTIFICATE" {
            return Err(CliError::Said(format!(
                "expected block type \"CERTIFICATE\"; got {:?}",
                block.label
            )));
        }
        if certificates.len() == KEYS_MAX {
            return Err(CliError::Said(format!("more than {KEYS_MAX} certificates")));
        }
        let authority = X509Authority::new(block.contents, false).map_err(|error| {
            CliError::Said(format!(
                "unable to parse \"CERTIFICATE\" PEM block {number}: {error}"
            ))
        })?;
        certificates.push(certificate(&authority));
    }
    if certificates.is_empty() {
        return Err(CliError::Said("no PEM blocks".to_owned()));
    }
    Ok(certificates)
}

fn certificate(authority: &X509Authority) -> X509Certificate {
    X509Certificate {
        asn1: authority.der().to_vec(),
        tainted: false,
    }
}

fn message(bundle: &Bundle) -> types::Bundle {
    let jwt_key = |authority: &JwtAuthority| JwtKey {
        public_key: authority.spki_der().to_vec(),
        key_id: authority.kid().to_owned(),
        expires_at: authority.expires_at(),
        tainted: false,
    };
    types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        x509_authorities: bundle.x509_authorities.iter().map(certificate).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt_key).collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence,
        ..types::Bundle::default()
    }
}

/// The bundle in `form`.
///
/// # Errors
/// [`CliError::Answer`] where it holds what is no authority.
pub(super) fn written(bundle: &types::Bundle, form: Form) -> Result<String, CliError> {
    match form {
        Form::Pem => {
            let certificates = certificates(bundle)?;
            Ok(certificates
                .iter()
                .map(|der| pem_certificate(der))
                .collect())
        }
        Form::Spiffe => spiffe(bundle),
    }
}

fn spiffe(bundle: &types::Bundle) -> Result<String, CliError> {
    let unusable = |error: &dyn std::fmt::Display| CliError::Answer(error.to_string());
    let trust_domain =
        TrustDomain::parse_name_or_id(&bundle.trust_domain).map_err(|error| unusable(&error))?;
    let mut document = Bundle::new(trust_domain);
    for certificate in certificates(bundle)? {
        let authority = X509Authority::new(certificate, false).map_err(|error| unusable(&error))?;
        document.x509_authorities.push(authority);
    }
    for key in &bundle.jwt_authorities {
        let kid = key.key_id.clone();
        let authority = JwtAuthority::new(&key.public_key, kid, key.expires_at, key.tainted)
            .map_err(|error| unusable(&error))?;
        document.jwt_authorities.push(authority);
    }
    document.sequence = bundle.sequence_number;
    document.refresh_hint = bundle.refresh_hint;
    Ok(document.to_spiffe_json() + "\n")
}

/// The certificates; one item may hold several, one behind the other.
fn certificates(bundle: &types::Bundle) -> Result<Vec<Vec<u8>>, CliError> {
    let mut certificates = Vec::new();
    for authority in &bundle.x509_authorities {
        let split = split_certificates(&authority.asn1)
            .map_err(|error| CliError::Answer(format!("malformed X.509 authority: {error}")))?;
        certificates.extend(split);
    }
    Ok(certificates)
}

/// For [`super::read_as_every_input`].
pub(super) fn read_as_every_input(bytes: &[u8]) {
    for form in [Form::Pem, Form::Spiffe] {
        if let Ok(bundle) = read(bytes, form, "example.org") {
            let text = written(&bundle, form).expect("what was read is made of authorities");
            let again = read(text.as_bytes(), form, "example.org");
            assert_eq!(again.expect("what is written is read"), bundle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn refused(text: &str, form: Form, trust_domain: &str) -> String {
        read(text.as_bytes(), form, trust_domain)
            .unwrap_err()
            .with_causes()
    }

    #[test]
    fn pem_keeps_its_order_and_the_trust_domain_as_given() {
        let (one, two) = (root(), root());
        let text = format!("first\n{one}\nsecond\n{two}");
        let bundle = read(text.as_bytes(), Form::Pem, "spiffe://other.org").unwrap();
        assert_eq!(bundle.trust_domain, "spiffe://other.org");
        assert_eq!(
            written(&bundle, Form::Pem).unwrap(),
            format!("{one}{two}").replace("\r\n", "\n")
        );
    }

    #[test]
    fn a_document_reads_back_and_names_its_trust_domain_bare() {
        let mut bundle = read(root().as_bytes(), Form::Pem, "other.org").unwrap();
        bundle.sequence_number = 7;
        bundle.refresh_hint = 60;
        let document = written(&bundle, Form::Spiffe).unwrap();
        let again = read(document.as_bytes(), Form::Spiffe, "spiffe://other.org").unwrap();
        assert_eq!(again, bundle);
    }

    #[test]
    fn what_is_no_bundle_is_refused_in_spire_s_words() {
        for empty in ["", "invalid bundle"] {
            assert_eq!(
                refused(empty, Form::Pem, "other.org"),
                "unable to parse bundle data: no PEM blocks"
            );
        }
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(
            refused(&key, Form::Pem, "other.org"),
            "unable to parse bundle data: expected block type \"CERTIFICATE\"; got \"PRIVATE KEY\""
        );
        let block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refused(block, Form::Pem, "other.org").starts_with(
            "unable to parse bundle data: unable to parse \"CERTIFICATE\" PEM block 1: "
        ));
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(
            refused(cut, Form::Pem, "other.org")
                .starts_with("unable to parse bundle data: PEM block 1: ")
        );
        assert!(
            refused("invalid", Form::Spiffe, "other.org")
                .starts_with("unable to parse to spiffe bundle: ")
        );
        assert_eq!(
            refused("{}", Form::Spiffe, "other.org"),
            "unable to parse to spiffe bundle: no authorities found"
        );
        assert_eq!(
            refused("{}", Form::Spiffe, "OTHER.org"),
            "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and \
             underscores"
        );
    }

    #[test]
    fn forms_have_names() {
        for (name, form) in [
            ("", Form::Pem),
            ("PEM", Form::Pem),
            ("Spiffe", Form::Spiffe),
        ] {
            assert_eq!(Form::named(name).unwrap(), form);
        }
        let error = Form::named("JWKS").unwrap_err();
        assert_eq!(error.with_causes(), "invalid format: \"jwks\"");
    }
}
