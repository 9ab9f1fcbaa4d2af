//! `entry create`.

use chancery_api::spire::api::server::entry::v1::BatchCreateEntryRequest;
use chancery_api::spire::api::types::{Entry, Spiffeid, entry::AdditionalAttributes};
use clap::Args;

use super::fields::Fields;
use super::{client, pretty};
use crate::cli::batch::{Batch, failed};
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
    #[command(flatten)]
    fields: Fields,
    /// The entry is for matching nodes rather than workloads
    #[arg(long)]
    node: bool,
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
        let entries = match self.fields.of_file(session.host())? {
            Some(entries) => entries,
            None => vec![self.entry()?],
        };
        let mut client = client(session).await?;
        let call = client.batch_create_entry(request(BatchCreateEntryRequest {
            entries: entries.clone(),
            output_mask: None,
        }));
        let mut created = session.call(call).await?;
        // What failed is shown as it was asked for, whatever the answer holds.
        for (result, asked) in created.results.iter_mut().zip(entries) {
            if failed(result.status.as_ref()).is_some() {
                result.entry = Some(asked);
            }
        }
        let mut text = Batch::default();
        session.print(
            "spire.api.server.entry.v1.BatchCreateEntryResponse",
            &created,
            || {
                let results = created.results.iter();
                text = pretty::written(
                    "create the following entry",
                    results.map(|result| (result.status.as_ref(), result.entry.as_ref())),
                );
                Ok(std::mem::take(&mut text.out))
            },
        )?;
        text.finish(session, "failed to create one or more entries")
    }

    /// The entry of the flags. Texts and order of the refusals are SPIRE's.
    fn entry(&self) -> Result<Entry, CliError> {
        self.check()?;
        let spiffe_id = filter::id("SPIFFE ID", &self.fields.spiffe_id)?;
        let parent_id = if self.node {
            Spiffeid {
                trust_domain: spiffe_id.trust_domain.clone(),
                path: "/spire/server".to_owned(),
            }
        } else {
            filter::id("parent ID", &self.fields.parent_id)?
        };
        let attributes = AdditionalAttributes {
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
            jwt_svid_include_jti: self.jwt_svid_include_jti,
        };
        let attributes = (attributes != AdditionalAttributes::default()).then_some(attributes);
        self.fields.entry(spiffe_id, parent_id, attributes)
    }

    fn check(&self) -> Result<(), CliError> {
        let fields = &self.fields;
        let wrong = if fields.selector.is_empty() {
            "at least one selector is required"
        } else if self.node && !fields.federates_with.is_empty() {
            "node entries can not federate"
        } else if fields.parent_id.is_empty() && !self.node {
            "a parent ID is required if the node flag is not set"
        } else if fields.spiffe_id.is_empty() {
            "a SPIFFE ID is required"
        } else {
            return fields.check_ttls();
        };
        Err(CliError::Flags(wrong))
    }
}
