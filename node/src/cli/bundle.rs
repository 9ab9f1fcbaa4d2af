//! `bundle show`, `list`, `set`, `delete` and `count`.

use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    ListFederatedBundlesResponse, batch_delete_federated_bundle_request::Mode,
};
use chancery_api::spire::api::types::Bundle;
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::batch::failed;
use super::bundle_file::{self, Form};
use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use super::{input, text};

/// What can be done with trust bundles.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Prints the trust domain's own bundle
    Show(Show),
    /// Lists the bundles of federated trust domains
    List(List),
    /// Creates or updates the bundle of a federated trust domain
    Set(Set),
    /// Deletes the bundle of a federated trust domain
    Delete(Delete),
    /// Counts bundles
    Count(Count),
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

/// `bundle list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery bundle list\n  \
    chancery bundle list -id spiffe://other.org -format spiffe")]
pub(super) struct List {
    /// SPIFFE ID of the one trust domain whose bundle to print
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    /// Form of the bundles, pem or spiffe; with -output pretty only
    #[arg(long, value_name = "FORM", default_value = "pem")]
    format: String,
    #[command(flatten)]
    common: Common,
}

/// `bundle set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery bundle set -id spiffe://other.org -path other.pem\n  \
    chancery bundle set -id spiffe://other.org -format spiffe < other.json")]
pub(super) struct Set {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    /// File with the bundle; standard input where none is given
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    path: String,
    /// Form of the bundle, pem or spiffe
    #[arg(long, value_name = "FORM", default_value = "pem")]
    format: String,
    #[command(flatten)]
    common: Common,
}

/// `bundle delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery bundle delete -id spiffe://other.org\n  \
    chancery bundle delete -id spiffe://other.org -mode dissociate")]
pub(super) struct Delete {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    /// What becomes of entries that federate with it: restrict refuses to delete while there are
    /// any, delete deletes them too, dissociate takes the trust domain out of them
    #[arg(long, value_name = "MODE", default_value = "restrict")]
    mode: String,
    #[command(flatten)]
    common: Common,
}

/// `bundle count`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery bundle count -output json")]
pub(super) struct Count {
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Verb::Show(verb) => &verb.common,
            Verb::List(verb) => &verb.common,
            Verb::Set(verb) => &verb.common,
            Verb::Delete(verb) => &verb.common,
            Verb::Count(verb) => &verb.common,
        };
        Session::run(common, host, async |session| match &self {
            Verb::Show(verb) => verb.show(session).await,
            Verb::List(verb) => verb.list(session).await,
            Verb::Set(verb) => verb.set(session).await,
            Verb::Delete(verb) => verb.delete(session).await,
            Verb::Count(_) => count(session).await,
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<BundleClient<Channel>, CliError> {
    let channel = session.channel().await?;
    Ok(BundleClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// The form asked for. JSON has one form; the flag is for people.
fn form(name: &str, session: &Session<'_, '_>) -> Result<Form, CliError> {
    Form::named(name).or_else(|error| match session.is_json() {
        true => Ok(Form::Pem),
        false => Err(error),
    })
}

impl Show {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let form = form(&self.format, session)?;
        let mut client = client(session).await?;
        let call = client.get_bundle(request(GetBundleRequest::default()));
        let bundle = session.call(call).await?;
        session.print("spire.api.types.Bundle", &bundle, || {
            bundle_file::written(&bundle, form)
        })
    }
}

impl List {
    async fn list(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let form = form(&self.format, session)?;
        let mut client = client(session).await?;
        if !self.id.is_empty() {
            let call = client.get_federated_bundle(request(GetFederatedBundleRequest {
                trust_domain: self.id.clone(),
                output_mask: None,
            }));
            let bundle = session.call(call).await?;
            return session.print("spire.api.types.Bundle", &bundle, || {
                bundle_file::written(&bundle, form)
            });
        }
        let mut listed = ListFederatedBundlesResponse::default();
        let mut page_token = String::new();
        loop {
            // Without a size of its own: a server that has no limit answers with all at once.
            let call = client.list_federated_bundles(request(ListFederatedBundlesRequest {
                output_mask: None,
                page_size: 0,
                page_token,
            }));
            let page = session.call(call).await?;
            listed.bundles.extend(page.bundles);
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        session.print(
            "spire.api.server.bundle.v1.ListFederatedBundlesResponse",
            &listed,
            || list_text(&listed.bundles, form),
        )
    }
}

fn list_text(bundles: &[Bundle], form: Form) -> Result<String, CliError> {
    const RULE: &str = "****************************************";
    let mut blocks = Vec::with_capacity(bundles.len());
    for bundle in bundles {
        let written = bundle_file::written(bundle, form)?;
        let trust_domain = &bundle.trust_domain;
        blocks.push(format!("{RULE}\n* {trust_domain}\n{RULE}\n{written}"));
    }
    Ok(blocks.join("\n"))
}

impl Set {
    async fn set(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        if self.id.is_empty() {
            return Err(CliError::Flags("id flag is required"));
        }
        let form = Form::named(&self.format)?;
        let bytes = match &*self.path {
            "" => input::standard_input(session.host()),
            path => input::file(path),
        }
        .map_err(CliError::during("unable to load bundle data"))?;
        let bundle = vec![bundle_file::read(&bytes, form, &self.id)?];

        let mut client = client(session).await?;
        let call = client.batch_set_federated_bundle(request(BatchSetFederatedBundleRequest {
            bundle,
            output_mask: None,
        }));
        let set = session
            .call(call)
            .await
            .map_err(CliError::during("failed to set federated bundle"))?;
        session.print(
            "spire.api.server.bundle.v1.BatchSetFederatedBundleResponse",
            &set,
            || {
                let result = set.results.first().ok_or_else(CliError::no_result)?;
                match failed(result.status.as_ref()) {
                    None => Ok("bundle set.\n".to_owned()),
                    Some(status) => Err(CliError::Said(format!(
                        "failed to set federated bundle: {}",
                        status.message
                    ))),
                }
            },
        )
    }
}

impl Delete {
    async fn delete(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        if self.id.is_empty() {
            return Err(CliError::Flags("id is required"));
        }
        let mode = match &*self.mode {
            "" | "restrict" => Mode::Restrict,
            "dissociate" => Mode::Dissociate,
            "delete" => Mode::Delete,
            other => return Err(CliError::Said(format!("unsupported mode {other:?}"))),
        };
        let mut client = client(session).await?;
        let call =
            client.batch_delete_federated_bundle(request(BatchDeleteFederatedBundleRequest {
                trust_domains: vec![self.id.clone()],
                mode: mode.into(),
            }));
        let deleted = session
            .call(call)
            .await
            .map_err(CliError::during("failed to delete federated bundle"))?;
        session.print(
            "spire.api.server.bundle.v1.BatchDeleteFederatedBundleResponse",
            &deleted,
            || {
                let result = deleted.results.first().ok_or_else(CliError::no_result)?;
                match failed(result.status.as_ref()) {
                    None => Ok("bundle deleted.\n".to_owned()),
                    Some(status) => Err(CliError::Said(format!(
                        "failed to delete federated bundle {:?}: {}",
                        result.trust_domain, status.message
                    ))),
                }
            },
        )
    }
}

async fn count(session: &mut Session<'_, '_>) -> Result<(), CliError> {
    let mut client = client(session).await?;
    let call = client.count_bundles(request(CountBundlesRequest {}));
    let counted = session.call(call).await?;
    session.print(
        "spire.api.server.bundle.v1.CountBundlesResponse",
        &counted,
        || {
            let number = usize::try_from(counted.count).unwrap_or(0);
            Ok(text::count(number, "bundle", "bundles") + "\n")
        },
    )
}
