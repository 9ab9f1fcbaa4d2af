//! `entry create`, `update`, `show`, `delete` and `count`.

mod create;
mod data;
mod fields;
mod pretty;
mod update;

use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{
    BatchDeleteEntryRequest, CountEntriesRequest, GetEntryRequest, ListEntriesRequest,
    ListEntriesResponse, count_entries_request, list_entries_request,
};
use chancery_api::spire::api::types::{Entry, Selector, Spiffeid};
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::batch::Batch;
use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use super::{filter, input, text};

/// Entries a page, as SPIRE's.
const PAGE_SIZE: i32 = 500;

/// What can be done with registration entries.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Creates registration entries
    Create(Box<create::Create>),
    /// Updates registration entries
    Update(Box<update::Update>),
    /// Displays registration entries
    Show(Show),
    /// Deletes registration entries
    Delete(Delete),
    /// Counts registration entries
    Count(Count),
}

/// `entry show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery entry show -spiffeID spiffe://example.org/web\n  \
    chancery entry show -selector unix:uid:1000 -output json")]
pub(super) struct Show {
    /// Entry ID of the one entry to show
    #[arg(
        long = "entryID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    entry_id: String,
    #[command(flatten)]
    matching: Matching,
    #[command(flatten)]
    common: Common,
}

/// `entry count`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery entry count -output json")]
pub(super) struct Count {
    #[command(flatten)]
    matching: Matching,
    #[command(flatten)]
    common: Common,
}

/// `entry delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery entry delete -entryID 8b1b3f2e-3a0b-4c3c-9f55-2f6c3c0b5a11\n  \
    echo '{\"ids\":[\"web\",\"db\"]}' | chancery entry delete -file -")]
pub(super) struct Delete {
    /// Entry ID of the entry to delete
    #[arg(
        long = "entryID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    entry_id: String,
    /// File with a JSON object {"ids": [...]} of entries to delete; - reads standard input
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    file: String,
    #[command(flatten)]
    common: Common,
}

/// Which entries.
#[derive(Debug, Args)]
struct Matching {
    /// Parent ID of the entries
    #[arg(
        long = "parentID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    parent_id: String,
    /// SPIFFE ID of the entries
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    spiffe_id: String,
    /// Entries of downstream servers only
    #[arg(long)]
    downstream: bool,
    /// A selector, type:value; may be repeated
    #[arg(long, value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How selectors are compared: exact, any, superset or subset
    #[arg(
        long = "matchSelectorsOn",
        value_name = "MODE",
        default_value = "superset"
    )]
    match_selectors_on: String,
    /// SPIFFE ID of a trust domain that the entries federate with; may be repeated
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// How federated trust domains are compared: exact, any, superset or subset
    #[arg(
        long = "matchFederatesWithOn",
        value_name = "MODE",
        default_value = "superset"
    )]
    match_federates_with_on: String,
    /// Hint of the entries
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    hint: String,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Verb::Create(verb) => verb.common(),
            Verb::Update(verb) => verb.common(),
            Verb::Show(verb) => &verb.common,
            Verb::Delete(verb) => &verb.common,
            Verb::Count(verb) => &verb.common,
        };
        Session::run(common, host, async |session| match &self {
            Verb::Create(verb) => verb.create(session).await,
            Verb::Update(verb) => verb.update(session).await,
            Verb::Show(verb) => verb.show(session).await,
            Verb::Delete(verb) => verb.delete(session).await,
            Verb::Count(verb) => verb.count(session).await,
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<EntryClient<Channel>, CliError> {
    let channel = session.channel().await?;
    Ok(EntryClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

impl Matching {
    fn list_filter(&self) -> Result<list_entries_request::Filter, CliError> {
        Ok(list_entries_request::Filter {
            by_spiffe_id: filter::optional_id("SPIFFE ID", &self.spiffe_id)?,
            by_parent_id: filter::optional_id("parent ID", &self.parent_id)?,
            by_selectors: filter::by_selectors(&self.selector, &self.match_selectors_on).map_err(
                |error| match error {
                    CliError::Selector(_) => CliError::during("error parsing selectors")(error),
                    other => other,
                },
            )?,
            by_federates_with: filter::by_federates_with(
                &self.federates_with,
                &self.match_federates_with_on,
            )?,
            by_hint: (!self.hint.is_empty()).then(|| self.hint.clone()),
            by_downstream: self.downstream.then_some(true),
        })
    }

    fn count_filter(&self) -> Result<count_entries_request::Filter, CliError> {
        let filter = self.list_filter()?;
        Ok(count_entries_request::Filter {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        })
    }
}

impl Show {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut entries = if self.entry_id.is_empty() {
            self.list(session).await?
        } else {
            vec![self.get(session).await?]
        };
        sort(&mut entries);
        let shown = ListEntriesResponse {
            entries,
            next_page_token: String::new(),
        };
        let paint = session.paint();
        session.print(
            "spire.api.server.entry.v1.ListEntriesResponse",
            &shown,
            || Ok(pretty::found(&shown.entries, paint)),
        )
    }

    async fn get(&self, session: &mut Session<'_, '_>) -> Result<Entry, CliError> {
        let matching = &self.matching;
        if !(matching.parent_id.is_empty()
            && matching.spiffe_id.is_empty()
            && matching.selector.is_empty())
        {
            return Err(CliError::Flags(
                "the -entryID flag can't be combined with others",
            ));
        }
        let mut client = client(session).await?;
        let call = client.get_entry(request(GetEntryRequest {
            id: self.entry_id.clone(),
            output_mask: None,
        }));
        session.call(call).await.map_err(|error| CliError::While {
            doing: format!("error fetching entry ID {}", self.entry_id),
            source: Box::new(error),
        })
    }

    async fn list(&self, session: &mut Session<'_, '_>) -> Result<Vec<Entry>, CliError> {
        let filter = self.matching.list_filter()?;
        let mut client = client(session).await?;
        let mut entries = Vec::new();
        let mut page_token = String::new();
        loop {
            let call = client.list_entries(request(ListEntriesRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: PAGE_SIZE,
                page_token,
            }));
            let page = session.call(call).await.map_err(|error| CliError::While {
                doing: "error fetching entries".to_owned(),
                source: Box::new(error),
            })?;
            entries.extend(page.entries);
            if page.next_page_token.is_empty() {
                return Ok(entries);
            }
            page_token = page.next_page_token;
        }
    }
}

impl Count {
    async fn count(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let filter = Some(self.matching.count_filter()?);
        let mut client = client(session).await?;
        let call = client.count_entries(request(CountEntriesRequest { filter }));
        let counted = session.call(call).await?;
        session.print(
            "spire.api.server.entry.v1.CountEntriesResponse",
            &counted,
            || {
                let number = usize::try_from(counted.count).unwrap_or(0);
                Ok(text::count(number, "registration entry", "registration entries") + "\n")
            },
        )
    }
}

impl Delete {
    async fn delete(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let ids = if !self.file.is_empty() {
            let bytes = input::file_or_standard_input(&self.file, session.host())?;
            data::ids(&bytes, &self.file)?
        } else if self.entry_id.is_empty() {
            return Err(CliError::Flags("an entry ID is required"));
        } else {
            vec![self.entry_id.clone()]
        };
        let mut client = client(session).await?;
        let call = client.batch_delete_entry(request(BatchDeleteEntryRequest { ids }));
        let deleted = session.call(call).await?;
        let mut text = Batch::default();
        session.print(
            "spire.api.server.entry.v1.BatchDeleteEntryResponse",
            &deleted,
            || {
                text = pretty::deleted(&deleted.results);
                Ok(std::mem::take(&mut text.out))
            },
        )?;
        text.finish(session, "failed to delete one or more entries")
    }
}

/// For [`super::read_as_every_input`].
pub(super) fn read_as_every_input(bytes: &[u8]) {
    let _ = data::entries(bytes, "-");
    let _ = data::ids(bytes, "-");
}

/// By SPIFFE ID, parent, TTLs and selectors, with the selectors of each in order, as SPIRE shows
/// them: the same entries give the same output wherever they were created first.
fn sort(entries: &mut [Entry]) {
    fn id(id: Option<&Spiffeid>) -> (&str, &str) {
        id.map_or(("", ""), |id| (&id.trust_domain, &id.path))
    }
    fn facts(selector: &Selector) -> (&str, &str) {
        (&selector.r#type, &selector.value)
    }
    for entry in &mut *entries {
        entry.selectors.sort_by(|a, b| facts(a).cmp(&facts(b)));
    }
    entries.sort_by(|a, b| {
        id(a.spiffe_id.as_ref())
            .cmp(&id(b.spiffe_id.as_ref()))
            .then_with(|| id(a.parent_id.as_ref()).cmp(&id(b.parent_id.as_ref())))
            .then_with(|| a.x509_svid_ttl.cmp(&b.x509_svid_ttl))
            .then_with(|| a.jwt_svid_ttl.cmp(&b.jwt_svid_ttl))
            .then_with(|| a.selectors.len().cmp(&b.selectors.len()))
            .then_with(|| {
                a.selectors
                    .iter()
                    .map(facts)
                    .cmp(b.selectors.iter().map(facts))
            })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_by_what_they_say() {
        let entry = |path: &str, ttl, values: &[&str]| Entry {
            spiffe_id: Some(Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            }),
            x509_svid_ttl: ttl,
            selectors: values
                .iter()
                .map(|value| Selector {
                    r#type: "unix".into(),
                    value: (*value).into(),
                })
                .collect(),
            ..Entry::default()
        };
        let mut entries = vec![
            entry("/b", 0, &["b", "a"]),
            entry("/b", 0, &["z"]),
            entry("/a", 9, &["a"]),
            entry("/a", 1, &["a"]),
        ];
        sort(&mut entries);
        let sorted = [
            entry("/a", 1, &["a"]),
            entry("/a", 9, &["a"]),
            entry("/b", 0, &["z"]),
            entry("/b", 0, &["a", "b"]),
        ];
        assert_eq!(entries, sorted);
    }
}
