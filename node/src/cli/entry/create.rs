//! `entry create`.

use chancery_api::spire::api::server::entry::v1::BatchCreateEntryRequest;
use chancery_api::spire::api::types::{Entry, Spiffeid, entry::AdditionalAttributes};
use clap::Args;

use super::{client, data, pretty};
use crate::cli::error::CliError;
use crate::cli::filter;
use crate::cli::session::{Common, Session, request};

/// `entry create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery entry create -parentID spiffe://example.org/node -spiffeID spiffe://example.org/web -selector unix:uid:1000 -dns web.example.org\n  \
    chancery entry create -node -spiffeID spiffe://example.org/node -selector x509pop:ca:cn:fleet\n  \
    chancery entry create -data entries.json")]
pub(in crate::cli) struct Create {
    /// Entry ID; the server chooses one where none is given
    #[arg(
        long = "entryID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    entry_id: String,
    /// SPIFFE ID of the entry's parent
    #[arg(
        long = "parentID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    parent_id: String,
    /// SPIFFE ID that the workload gets
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    spiffe_id: String,
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
    data: String,
    /// A selector, type:value; may be repeated
    #[arg(long, value_name = "SELECTOR")]
    selector: Vec<String>,
    /// SPIFFE ID of a trust domain to federate with; may be repeated
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// The entry is for matching nodes rather than workloads
    #[arg(long)]
    node: bool,
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
    /// Agents sign the X.509-SVID on demand only
    #[arg(long = "disableX509SVIDPrefetch")]
    disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs carry a `jti` claim and are not cached
    #[arg(long = "jwtSVIDIncludeJTI")]
    jwt_svid_include_jti: bool,
    #[command(flatten)]
    common: Common,
}

impl Create {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn create(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let entries = if self.data.is_empty() {
            vec![self.entry()?]
        } else {
            data::entries(&self.data, session.host())?
        };
        let mut client = client(session).await?;
        let call = client.batch_create_entry(request(BatchCreateEntryRequest {
            entries: entries.clone(),
            output_mask: None,
        }));
        let mut created = session.call(call).await?;
        // What failed is shown as it was asked for, whatever the answer holds.
        for (result, asked) in created.results.iter_mut().zip(entries) {
            if pretty::failed(result.status.as_ref()).is_some() {
                result.entry = Some(asked);
            }
        }
        let mut text = pretty::Batch::default();
        session.print(
            "spire.api.server.entry.v1.BatchCreateEntryResponse",
            &created,
            || {
                text = pretty::created(&created.results);
                Ok(std::mem::take(&mut text.out))
            },
        )?;
        text.finish(session, "failed to create one or more entries")
    }

    /// The entry of the flags. Texts and order of the refusals are SPIRE's.
    fn entry(&self) -> Result<Entry, CliError> {
        self.check()?;
        let ttl = |what, value| i32::try_from(value).map_err(|_| CliError::Range { what, value });
        let spiffe_id = filter::id("SPIFFE ID", &self.spiffe_id)?;
        let parent_id = if self.node {
            Spiffeid {
                trust_domain: spiffe_id.trust_domain.clone(),
                path: "/spire/server".to_owned(),
            }
        } else {
            filter::id("parent ID", &self.parent_id)?
        };
        let attributes = AdditionalAttributes {
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
            jwt_svid_include_jti: self.jwt_svid_include_jti,
        };
        Ok(Entry {
            id: self.entry_id.clone(),
            spiffe_id: Some(spiffe_id),
            parent_id: Some(parent_id),
            selectors: filter::selectors(&self.selector)?,
            x509_svid_ttl: ttl("X509 SVID TTL", self.x509_svid_ttl)?,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry,
            dns_names: self.dns.clone(),
            revision_number: 0,
            store_svid: self.store_svid,
            jwt_svid_ttl: ttl("JWT SVID TTL", self.jwt_svid_ttl)?,
            hint: self.hint.clone(),
            created_at: 0,
            additional_attributes: (attributes != AdditionalAttributes::default())
                .then_some(attributes),
        })
    }

    fn check(&self) -> Result<(), CliError> {
        let wrong = if self.selector.is_empty() {
            "at least one selector is required"
        } else if self.node && !self.federates_with.is_empty() {
            "node entries can not federate"
        } else if self.parent_id.is_empty() && !self.node {
            "a parent ID is required if the node flag is not set"
        } else if self.spiffe_id.is_empty() {
            "a SPIFFE ID is required"
        } else if self.x509_svid_ttl < 0 {
            "a positive x509-SVID TTL is required"
        } else if self.jwt_svid_ttl < 0 {
            "a positive JWT-SVID TTL is required"
        } else {
            return Ok(());
        };
        Err(CliError::Flags(wrong))
    }
}
