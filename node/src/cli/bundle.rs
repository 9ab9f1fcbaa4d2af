//! `bundle show`.

use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::types;
use chancery_identity::bundle::{
    Bundle, JwtAuthority, X509Authority, pem_certificate, split_certificates,
};
use chancery_identity::id::TrustDomain;
use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};

/// What can be done with the trust bundle.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Prints the trust domain's bundle
    Show(Show),
}

/// `bundle show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery bundle show > roots.pem\n  \
    chancery bundle show -format spiffe")]
pub(super) struct Show {
    /// Form of the bundle, pem or spiffe; with -output pretty only
    #[arg(long, value_name = "FORM", default_value = "pem")]
    format: String,
    #[command(flatten)]
    common: Common,
}

/// Forms of a bundle for people and files.
#[derive(Debug, Clone, Copy)]
enum Form {
    Pem,
    Spiffe,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Verb::Show(verb) = self;
        Session::run(&verb.common, host, async |session| verb.show(session).await)
    }
}

impl Show {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let form = match self.format.to_lowercase().as_str() {
            "spiffe" => Form::Spiffe,
            "" | "pem" => Form::Pem,
            _ if session.is_json() => Form::Pem,
            other => return Err(CliError::Format(other.to_owned())),
        };
        let mut client =
            BundleClient::new(session.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = client.get_bundle(request(GetBundleRequest::default()));
        let bundle = session.call(call).await?;
        session.print("spire.api.types.Bundle", &bundle, || match form {
            Form::Pem => pem(&bundle),
            Form::Spiffe => spiffe(&bundle),
        })
    }
}

/// The X.509 authorities, one PEM block a certificate.
fn pem(bundle: &types::Bundle) -> Result<String, CliError> {
    let mut text = String::new();
    for certificate in certificates(bundle)? {
        text.push_str(&pem_certificate(&certificate));
    }
    Ok(text)
}

/// The SPIFFE bundle document.
fn spiffe(bundle: &types::Bundle) -> Result<String, CliError> {
    let unusable = |error: &dyn std::fmt::Display| CliError::Answer(error.to_string());
    let trust_domain =
        TrustDomain::parse(&bundle.trust_domain).map_err(|error| unusable(&error))?;
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
