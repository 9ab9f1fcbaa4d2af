//! A relationship from flags, or several from a file.
//!
//! The file is Go's JSON of SPIRE's own record: `{"federationRelationships": [...]}` with members
//! named as the flags; a bundle stands in it whole, PEM as a string and a document as an object.

use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use chancery_api::spire::api::types::{
    Bundle, FederationRelationship, HttpsWebProfile, HttpsspiffeProfile,
};
use chancery_identity::id::SpiffeId;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::bundle_file::{self, Form};
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::input;

/// The flags of a relationship, or the file that holds several.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// File with relationships as JSON, in place of the other flags; - reads standard input
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    data: String,
    /// Name of the trust domain to federate with
    #[arg(
        long = "trustDomain",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    trust_domain: String,
    /// Where the trust domain publishes its bundle (https)
    #[arg(
        long = "bundleEndpointURL",
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    bundle_endpoint_url: String,
    /// How the endpoint proves itself: https_web or https_spiffe
    #[arg(
        long = "bundleEndpointProfile",
        value_name = "PROFILE",
        default_value = "",
        hide_default_value = true
    )]
    bundle_endpoint_profile: String,
    /// SPIFFE ID of the endpoint; with https_spiffe only
    #[arg(
        long = "endpointSpiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    endpoint_spiffe_id: String,
    /// File with the trust domain's first bundle
    #[arg(
        long = "trustDomainBundlePath",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    trust_domain_bundle_path: String,
    /// Form of that bundle, pem or spiffe
    #[arg(
        long = "trustDomainBundleFormat",
        value_name = "FORM",
        default_value = "pem"
    )]
    trust_domain_bundle_format: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    federationrelationships: Vec<Value>,
}

/// One relationship of a file; member names in lower case, as [`input::go_names`] makes them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Record {
    trustdomain: String,
    bundleendpointurl: String,
    bundleendpointprofile: String,
    endpointspiffeid: String,
    trustdomainbundle: Option<Value>,
    trustdomainbundleformat: String,
}

impl Fields {
    /// The relationships asked for. Texts and order of the refusals are SPIRE's.
    pub(super) fn relationships(
        &self,
        host: &mut Host<'_>,
    ) -> Result<Vec<FederationRelationship>, CliError> {
        if self.data.is_empty() {
            let relationship = self.relationship()?;
            return Ok(vec![relationship]);
        }
        let others = [
            &self.trust_domain,
            &self.bundle_endpoint_url,
            &self.bundle_endpoint_profile,
            &self.endpoint_spiffe_id,
            &self.trust_domain_bundle_path,
        ];
        if self.trust_domain_bundle_format != "pem" || others.iter().any(|text| !text.is_empty()) {
            return Err(CliError::Flags(
                "cannot use other flags to specify relationship fields when 'data' flag is set",
            ));
        }
        of_json(&input::file_or_standard_input(&self.data, host)?)
    }

    fn relationship(&self) -> Result<FederationRelationship, CliError> {
        let record = Record {
            trustdomain: self.trust_domain.clone(),
            bundleendpointurl: self.bundle_endpoint_url.clone(),
            bundleendpointprofile: self.bundle_endpoint_profile.clone(),
            endpointspiffeid: self.endpoint_spiffe_id.clone(),
            trustdomainbundle: None,
            trustdomainbundleformat: String::new(),
        };
        let (mut relationship, trust_domain) = record.without_bundle()?;
        if !self.trust_domain_bundle_path.is_empty() {
            let bytes = input::file(&self.trust_domain_bundle_path)
                .map_err(CliError::during("cannot read bundle file"))?;
            let form = Form::named(&self.trust_domain_bundle_format)?;
            relationship.trust_domain_bundle = Some(
                bundle_file::read(&bytes, form, &trust_domain)
                    .map_err(CliError::during("cannot parse bundle file"))?,
            );
        }
        Ok(relationship)
    }
}

/// The relationships in `bytes`.
///
/// # Errors
/// [`CliError::While`] with the position, from 0, of a wrong one.
pub(super) fn of_json(bytes: &[u8]) -> Result<Vec<FederationRelationship>, CliError> {
    let unusable = |error: serde_json::Error| {
        CliError::during("failed to parse JSON")(CliError::Said(error.to_string()))
    };
    // Names are folded level by level: a bundle's are its own.
    let file: File = input::object(bytes)
        .and_then(|value| serde_json::from_value(input::go_names(value)))
        .map_err(unusable)?;
    let records: Vec<Record> = file
        .federationrelationships
        .into_iter()
        .map(|value| serde_json::from_value(input::go_names(value)))
        .collect::<Result<_, _>>()
        .map_err(unusable)?;
    let relationships = records.into_iter().enumerate().map(|(at, record)| {
        record.relationship().map_err(|error| CliError::While {
            doing: format!("could not parse item {at}"),
            source: Box::new(error),
        })
    });
    relationships.collect()
}

impl Record {
    fn relationship(self) -> Result<FederationRelationship, CliError> {
        let (mut relationship, trust_domain) = self.without_bundle()?;
        if let Some(bundle) = self.trustdomainbundle {
            relationship.trust_domain_bundle = Some(
                embedded(bundle, &self.trustdomainbundleformat, &trust_domain)
                    .map_err(CliError::during("cannot parse bundle raw message"))?,
            );
        }
        Ok(relationship)
    }

    /// The relationship, and whose bundle it is that may come with it.
    fn without_bundle(&self) -> Result<(FederationRelationship, String), CliError> {
        if self.trustdomain.is_empty() {
            return Err(CliError::Flags("trust domain is required"));
        }
        if self.bundleendpointurl.is_empty() {
            return Err(CliError::Flags("bundle endpoint URL is required"));
        }
        let mut bundle_of = self.trustdomain.clone();
        let profile = match &*self.bundleendpointprofile {
            "https_web" => BundleEndpointProfile::HttpsWeb(HttpsWebProfile {}),
            "https_spiffe" => {
                if self.endpointspiffeid.is_empty() {
                    return Err(CliError::Flags(
                        "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
                    ));
                }
                let id = SpiffeId::parse(&self.endpointspiffeid)
                    .map_err(CliError::from)
                    .map_err(CliError::during("cannot parse bundle endpoint SPIFFE ID"))?;
                bundle_of = id.trust_domain_name().to_owned();
                BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
                    endpoint_spiffe_id: self.endpointspiffeid.clone(),
                })
            }
            other => {
                return Err(CliError::Said(format!(
                    "unknown bundle endpoint profile type: {other:?}"
                )));
            }
        };
        let relationship = FederationRelationship {
            trust_domain: self.trustdomain.clone(),
            bundle_endpoint_url: self.bundleendpointurl.clone(),
            trust_domain_bundle: None,
            bundle_endpoint_profile: Some(profile),
        };
        Ok((relationship, bundle_of))
    }
}

fn embedded(bundle: Value, form: &str, trust_domain: &str) -> Result<Bundle, CliError> {
    let (form, bytes) = match (form, bundle) {
        ("pem", Value::String(pem)) => (Form::Pem, pem.into_bytes()),
        ("pem", _) => {
            return Err(CliError::Flags("failed to unmarshal json: PEM is a string"));
        }
        ("spiffe", document) => (Form::Spiffe, document.to_string().into_bytes()),
        (other, _) => {
            return Err(CliError::Said(format!(
                "bundle format {other:?} is unsupported"
            )));
        }
    };
    bundle_file::read(&bytes, form, trust_domain)
}
