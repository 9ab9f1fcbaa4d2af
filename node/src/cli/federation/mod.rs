//! `federation create`, `update`, `list`, `show`, `delete` and `refresh`.

mod pretty;
mod relationship;

use chancery_api::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use chancery_api::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, GetFederationRelationshipRequest,
    ListFederationRelationshipsRequest, ListFederationRelationshipsResponse, RefreshBundleRequest,
};
use chancery_api::spire::api::types::{FederationRelationship, Status};
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::batch::{Batch, failed};
use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use relationship::Fields;

/// What can be done with federation relationships.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Creates relationships with other trust domains
    #[command(after_help = "Examples:\n  \
        chancery federation create -trustDomain other.org -bundleEndpointURL https://other.org/bundle -bundleEndpointProfile https_web\n  \
        chancery federation create -trustDomain other.org -bundleEndpointURL https://other.org/bundle -bundleEndpointProfile https_spiffe -endpointSpiffeID spiffe://other.org/spire/server -trustDomainBundlePath other.pem\n  \
        chancery federation create -data relationships.json")]
    Create(Write),
    /// Updates relationships with other trust domains
    #[command(after_help = "Examples:\n  \
        chancery federation update -trustDomain other.org -bundleEndpointURL https://new.other.org/bundle -bundleEndpointProfile https_web\n  \
        chancery federation update -data relationships.json")]
    Update(Write),
    /// Lists all relationships
    #[command(after_help = "Example:\n  chancery federation list")]
    List(List),
    /// Shows the relationship with one trust domain
    #[command(after_help = "Example:\n  chancery federation show -trustDomain other.org")]
    Show(Show),
    /// Deletes the relationship with one trust domain
    #[command(after_help = "Example:\n  chancery federation delete -id spiffe://other.org")]
    Delete(One),
    /// Fetches the bundle of one trust domain now
    #[command(after_help = "Example:\n  chancery federation refresh -id spiffe://other.org")]
    Refresh(One),
}

/// `federation create` and `federation update`.
#[derive(Debug, Args)]
pub(super) struct Write {
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    common: Common,
}

/// `federation list`.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    common: Common,
}

/// `federation show`.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// Name of the trust domain
    #[arg(
        long = "trustDomain",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    trust_domain: String,
    #[command(flatten)]
    common: Common,
}

/// One relationship.
#[derive(Debug, Args)]
pub(super) struct One {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Verb::Create(verb) | Verb::Update(verb) => &verb.common,
            Verb::List(verb) => &verb.common,
            Verb::Show(verb) => &verb.common,
            Verb::Delete(verb) | Verb::Refresh(verb) => &verb.common,
        };
        Session::run(common, host, async |session| match &self {
            Verb::Create(verb) => verb.create(session).await,
            Verb::Update(verb) => verb.update(session).await,
            Verb::List(_) => list(session).await,
            Verb::Show(verb) => verb.show(session).await,
            Verb::Delete(verb) => verb.delete(session).await,
            Verb::Refresh(verb) => verb.refresh(session).await,
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<TrustDomainClient<Channel>, CliError> {
    let channel = session.channel().await?;
    Ok(TrustDomainClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// What was `doing` with each relationship, and what became of it. Those that failed are shown as
/// they were asked for: the answer does not hold them.
fn written<'a>(
    doing: &str,
    asked: &[FederationRelationship],
    results: impl Iterator<Item = (Option<&'a Status>, Option<&'a FederationRelationship>)>,
) -> Batch {
    let (mut batch, mut lines_for_failures) = (Batch::default(), String::new());
    for (at, (status, written)) in results.enumerate() {
        match failed(status) {
            None => {
                let block = written.map(pretty::block).unwrap_or_default();
                batch.out.push_str(&format!("\n{block}"));
            }
            Some(status) => {
                let block = asked.get(at).map(pretty::block).unwrap_or_default();
                lines_for_failures.push('\n');
                batch.fail(doing, &status, &block);
            }
        }
    }
    // SPIRE parts failures on standard error by empty lines on standard output.
    batch.out.push_str(&lines_for_failures);
    batch
}

impl Write {
    async fn create(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let asked = self.fields.relationships(session.host())?;
        let mut client = client(session).await?;
        let call = client.batch_create_federation_relationship(request(
            BatchCreateFederationRelationshipRequest {
                federation_relationships: asked.clone(),
                output_mask: None,
            },
        ));
        let created = session
            .call(call)
            .await
            .map_err(CliError::during("request failed"))?;
        let mut text = Batch::default();
        session.print(
            "spire.api.server.trustdomain.v1.BatchCreateFederationRelationshipResponse",
            &created,
            || {
                let results = created.results.iter().map(|result| {
                    let relationship = result.federation_relationship.as_ref();
                    (result.status.as_ref(), relationship)
                });
                text = written(
                    "create the following federation relationship",
                    &asked,
                    results,
                );
                Ok(std::mem::take(&mut text.out))
            },
        )?;
        text.finish(
            session,
            "failed to create one or more federation relationships",
        )
    }

    async fn update(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let asked = self.fields.relationships(session.host())?;
        let mut client = client(session).await?;
        let call = client.batch_update_federation_relationship(request(
            BatchUpdateFederationRelationshipRequest {
                federation_relationships: asked.clone(),
                input_mask: None,
                output_mask: None,
            },
        ));
        let updated = session
            .call(call)
            .await
            .map_err(CliError::during("request failed"))?;
        let mut text = Batch::default();
        session.print(
            "spire.api.server.trustdomain.v1.BatchUpdateFederationRelationshipResponse",
            &updated,
            || {
                let results = updated.results.iter().map(|result| {
                    let relationship = result.federation_relationship.as_ref();
                    (result.status.as_ref(), relationship)
                });
                text = written(
                    "update the following federation relationship",
                    &asked,
                    results,
                );
                Ok(std::mem::take(&mut text.out))
            },
        )?;
        text.finish(
            session,
            "failed to update one or more federation relationships",
        )
    }
}

async fn list(session: &mut Session<'_, '_>) -> Result<(), CliError> {
    let mut client = client(session).await?;
    let mut listed = ListFederationRelationshipsResponse::default();
    let mut page_token = String::new();
    loop {
        // Without a size of its own: a server that has no limit answers with all at once.
        let call =
            client.list_federation_relationships(request(ListFederationRelationshipsRequest {
                output_mask: None,
                page_size: 0,
                page_token,
            }));
        let page = session
            .call(call)
            .await
            .map_err(CliError::during("error listing federation relationship"))?;
        listed
            .federation_relationships
            .extend(page.federation_relationships);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    session.print(
        "spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse",
        &listed,
        || Ok(pretty::list(&listed.federation_relationships)),
    )
}

impl Show {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        if self.trust_domain.is_empty() {
            return Err(CliError::Flags("a trust domain name is required"));
        }
        let mut client = client(session).await?;
        let call = client.get_federation_relationship(request(GetFederationRelationshipRequest {
            trust_domain: self.trust_domain.clone(),
            output_mask: None,
        }));
        let relationship = session
            .call(call)
            .await
            .map_err(CliError::during("error showing federation relationship"))?;
        session.print(
            "spire.api.types.FederationRelationship",
            &relationship,
            || {
                Ok(format!(
                    "Found a federation relationship with trust domain {}:\n\n{}",
                    self.trust_domain,
                    pretty::block(&relationship)
                ))
            },
        )
    }
}

impl One {
    fn id(&self) -> Result<String, CliError> {
        if self.id.is_empty() {
            return Err(CliError::Flags("id is required"));
        }
        Ok(self.id.clone())
    }

    async fn delete(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let trust_domains = vec![self.id()?];
        let mut client = client(session).await?;
        let call = client.batch_delete_federation_relationship(request(
            BatchDeleteFederationRelationshipRequest { trust_domains },
        ));
        let deleted = session
            .call(call)
            .await
            .map_err(CliError::during("failed to delete federation relationship"))?;
        session.print(
            "spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse",
            &deleted,
            || {
                let result = deleted.results.first().ok_or_else(CliError::no_result)?;
                match failed(result.status.as_ref()) {
                    None => Ok("federation relationship deleted.\n".to_owned()),
                    Some(status) => Err(CliError::Said(format!(
                        "failed to delete federation relationship {:?}: {}",
                        result.trust_domain, status.message
                    ))),
                }
            },
        )
    }

    async fn refresh(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let trust_domain = self.id()?;
        let mut client = client(session).await?;
        let call = client.refresh_bundle(request(RefreshBundleRequest { trust_domain }));
        session.call(call).await.map_err(|error| match &error {
            CliError::Refused(status) if status.code() == tonic::Code::NotFound => {
                CliError::Said(format!(
                    "there is no federation relationship with trust domain {:?}",
                    self.id
                ))
            }
            _ => CliError::during("failed to refresh bundle")(error),
        })?;
        // In JSON SPIRE prints a status in place of the empty answer.
        let done = Status {
            code: 0,
            message: "OK".to_owned(),
        };
        session.print("spire.api.types.Status", &done, || {
            Ok("Bundle refreshed\n".to_owned())
        })
    }
}

/// For [`super::read_as_every_input`].
pub(super) fn read_as_input(bytes: &[u8]) {
    let _ = relationship::of_json(bytes);
}
