//! `entry update`.

use chancery_api::spire::api::server::entry::v1::{BatchUpdateEntryRequest, GetEntryRequest};
use chancery_api::spire::api::types::{Entry, entry::AdditionalAttributes};
use clap::Args;

use super::fields::Fields;
use super::{client, pretty};
use crate::cli::batch::{Batch, failed};
use crate::cli::error::CliError;
use crate::cli::filter;
use crate::cli::session::{Common, Session, request};

/// `entry update`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery entry update -entryID web -parentID spiffe://example.org/node -spiffeID spiffe://example.org/web -selector unix:uid:1001\n  \
    chancery entry update -data entries.json\n\n\
    The entry becomes what the flags say: what they do not say is gone. Only the two flags on JTI \
    and prefetch leave each other as they are.")]
pub(in crate::cli) struct Update {
    #[command(flatten)]
    fields: Fields,
    /// Agents sign the X.509-SVID on demand only; =false takes it back
    #[arg(
        long = "disableX509SVIDPrefetch",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    disable_x509_svid_prefetch: Option<bool>,
    /// JWT-SVIDs carry a `jti` claim and are not cached; =false takes it back
    #[arg(
        long = "jwtSVIDIncludeJTI",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    jwt_svid_include_jti: Option<bool>,
    #[command(flatten)]
    common: Common,
}

impl Update {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn update(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let entries = match self.fields.of_file(session.host())? {
            Some(entries) => entries,
            None => {
                let mut entry = self.entry()?;
                entry.additional_attributes = self.attributes(session).await?;
                vec![entry]
            }
        };
        let mut client = client(session).await?;
        let call = client.batch_update_entry(request(BatchUpdateEntryRequest {
            entries: entries.clone(),
            input_mask: None,
            output_mask: None,
        }));
        let mut updated = session.call(call).await?;
        // What failed is shown as it was asked for, whatever the answer holds.
        for (result, asked) in updated.results.iter_mut().zip(entries) {
            if failed(result.status.as_ref()).is_some() {
                result.entry = Some(asked);
            }
        }
        let mut text = Batch::default();
        session.print(
            "spire.api.server.entry.v1.BatchUpdateEntryResponse",
            &updated,
            || {
                let results = updated.results.iter();
                text = pretty::written(
                    "update the following entry",
                    results.map(|result| (result.status.as_ref(), result.entry.as_ref())),
                );
                Ok(std::mem::take(&mut text.out))
            },
        )?;
        text.finish(session, "failed to update one or more entries")
    }

    /// The entry of the flags. Texts and order of the refusals are SPIRE's.
    fn entry(&self) -> Result<Entry, CliError> {
        let fields = &self.fields;
        for (wrong, text) in [
            (fields.entry_id.is_empty(), "entry ID is required"),
            (
                fields.selector.is_empty(),
                "at least one selector is required",
            ),
            (fields.parent_id.is_empty(), "a parent ID is required"),
            (fields.spiffe_id.is_empty(), "a SPIFFE ID is required"),
        ] {
            if wrong {
                return Err(CliError::Flags(text));
            }
        }
        fields.check_ttls()?;
        let parent_id = filter::id("parent ID", &fields.parent_id)?;
        let spiffe_id = filter::id("SPIFFE ID", &fields.spiffe_id)?;
        fields.entry(spiffe_id, parent_id, None)
    }

    /// The attributes that the flags ask for. No mask parts them from each other: where one is
    /// given, the other is taken from the entry as it is.
    async fn attributes(
        &self,
        session: &mut Session<'_, '_>,
    ) -> Result<Option<AdditionalAttributes>, CliError> {
        let (prefetch, jti) = (self.disable_x509_svid_prefetch, self.jwt_svid_include_jti);
        if prefetch.is_none() && jti.is_none() {
            return Ok(None);
        }
        let mut client = client(session).await?;
        let call = client.get_entry(request(GetEntryRequest {
            id: self.fields.entry_id.clone(),
            output_mask: None,
        }));
        let existing = session.call(call).await.map_err(CliError::during(
            "failed to fetch existing entry to merge additional attributes",
        ))?;
        let existing = existing.additional_attributes.unwrap_or_default();
        Ok(Some(AdditionalAttributes {
            disable_x509_svid_prefetch: prefetch.unwrap_or(existing.disable_x509_svid_prefetch),
            jwt_svid_include_jti: jti.unwrap_or(existing.jwt_svid_include_jti),
        }))
    }
}
