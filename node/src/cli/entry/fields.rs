//! The flags that `entry create` and `entry update` have in common.

use chancery_api::spire::api::types::{Entry, Spiffeid, entry::AdditionalAttributes};
use clap::Args;

use super::data;
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::{filter, input};

/// What an entry says, or the file that says it.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// Entry ID; when creating, the server chooses one where none is given
    #[arg(
        long = "entryID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) entry_id: String,
    /// SPIFFE ID of the entry's parent
    #[arg(
        long = "parentID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) parent_id: String,
    /// SPIFFE ID that the workload gets
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) spiffe_id: String,
    /// Lifetime of X.509-SVIDs in seconds; 0 takes the server's default
    #[arg(long = "x509SVIDTTL", value_name = "SECONDS", default_value_t = 0)]
    x509_svid_ttl: i64,
    /// Lifetime of JWT-SVIDs in seconds; 0 takes the server's default
    #[arg(long = "jwtSVIDTTL", value_name = "SECONDS", default_value_t = 0)]
    jwt_svid_ttl: i64,
    /// File with registration JSON, in place of the other flags; - reads standard input
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) data: String,
    /// A selector, type:value; may be repeated
    #[arg(long, value_name = "SELECTOR")]
    pub(super) selector: Vec<String>,
    /// SPIFFE ID of a trust domain to federate with; may be repeated
    #[arg(long = "federatesWith", value_name = "ID")]
    pub(super) federates_with: Vec<String>,
    /// The SPIFFE ID may administer the server
    #[arg(long)]
    admin: bool,
    /// The SVID is kept in an SVID store
    #[arg(long = "storeSVID")]
    store_svid: bool,
    /// The entry is for a downstream server
    #[arg(long)]
    downstream: bool,
    /// When the entry is to be pruned, in seconds since the Unix epoch; 0 never
    #[arg(long = "entryExpiry", value_name = "SECONDS", default_value_t = 0)]
    entry_expiry: i64,
    /// A DNS name for the SVIDs; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// Tells a workload with several SVIDs what this one is for
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    hint: String,
}

impl Fields {
    /// The entries of the file, where one is given.
    pub(super) fn of_file(&self, host: &mut Host<'_>) -> Result<Option<Vec<Entry>>, CliError> {
        if self.data.is_empty() {
            return Ok(None);
        }
        let bytes = input::file_or_standard_input(&self.data, host)?;
        data::entries(&bytes, &self.data).map(Some)
    }

    /// Refuses what cannot be a lifetime.
    pub(super) fn check_ttls(&self) -> Result<(), CliError> {
        if self.x509_svid_ttl < 0 {
            return Err(CliError::Flags("a positive x509-SVID TTL is required"));
        }
        if self.jwt_svid_ttl < 0 {
            return Err(CliError::Flags("a positive JWT-SVID TTL is required"));
        }
        Ok(())
    }

    /// The entry of the flags.
    pub(super) fn entry(
        &self,
        spiffe_id: Spiffeid,
        parent_id: Spiffeid,
        attributes: Option<AdditionalAttributes>,
    ) -> Result<Entry, CliError> {
        let ttl = |what, value| i32::try_from(value).map_err(|_| CliError::Range { what, value });
        let x509_svid_ttl = ttl("X509 SVID TTL", self.x509_svid_ttl)?;
        let jwt_svid_ttl = ttl("JWT SVID TTL", self.jwt_svid_ttl)?;
        Ok(Entry {
            id: self.entry_id.clone(),
            spiffe_id: Some(spiffe_id),
            parent_id: Some(parent_id),
            selectors: filter::selectors(&self.selector)?,
            x509_svid_ttl,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry,
            dns_names: self.dns.clone(),
            revision_number: 0,
            store_svid: self.store_svid,
            jwt_svid_ttl,
            hint: self.hint.clone(),
            created_at: 0,
            additional_attributes: attributes,
        })
    }
}
