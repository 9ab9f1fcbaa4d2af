//! Who may still hold documents of an authority, as the ledger of a Chancery server has it.
//! A SPIRE server has none, and its authorities are shown and revoked without.

use chancery_api::chancery::ledger::v1::ledger_client::LedgerClient;
use chancery_api::chancery::ledger::v1::{AuthorityHolders, GetHoldersRequest, GetHoldersResponse};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use super::super::error::CliError;
use super::super::session::{ANSWER_BYTES_MAX, Session, request};
use super::super::{output, text};
use super::Words;

/// Holders that are named where one is refused because of them.
const NAMED: u32 = 5;
/// Holders of each authority that are named to programs.
const NAMED_JSON: u32 = 1_000;

/// What the ledger says of the authorities of a kind, or of the one named; `None` where the
/// server has no ledger.
async fn ask(
    session: &mut Session<'_, '_>,
    words: &Words,
    authority_id: &str,
    names: u32,
) -> Result<Option<GetHoldersResponse>, CliError> {
    let message = GetHoldersRequest {
        kind: words.kind.to_owned(),
        authority_id: authority_id.to_owned(),
        names,
        after: String::new(),
    };
    let channel = session.channel().await?;
    let mut client = LedgerClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    match session.call(client.get_holders(request(message))).await {
        Ok(answer) => Ok(Some(answer)),
        Err(CliError::Refused(status)) if status.code() == Code::Unimplemented => Ok(None),
        Err(error) => Err(CliError::during("could not get holders")(error)),
    }
}

/// What is shown of holders.
pub(super) struct Shown(Option<GetHoldersResponse>);

impl Shown {
    /// The holders of all authorities of a kind. What the ledger may lack is told on standard
    /// error.
    pub(super) async fn of(session: &mut Session<'_, '_>, words: &Words) -> Result<Self, CliError> {
        let names = if session.is_json() { NAMED_JSON } else { 0 };
        let answer = ask(session, words, "", names).await?;
        if let Some(unheard) = answer.as_ref().and_then(unheard) {
            session.err(&format!("warning: {unheard}\n"))?;
        }
        Ok(Self(answer))
    }

    /// The line for an authority; empty where nothing is known of it.
    pub(super) fn line(&self, authority_id: &str, signs: bool) -> String {
        let Some(found) = self
            .0
            .iter()
            .flat_map(|a| &a.authorities)
            .find(|a| a.authority_id == authority_id)
        else {
            return String::new();
        };
        let left = if signs { "" } else { " left" };
        match count(found, left) {
            Some(count) => format!("  {count}, until {}\n", text::date(found.until)),
            None => format!("  No holders{left}\n"),
        }
    }

    /// `message` with a member `holders`, in one line.
    pub(super) fn json(&self, full_name: &str, message: &impl Message) -> Result<String, CliError> {
        let Some(answer) = &self.0 else {
            return output::message_json(full_name, message);
        };
        let read =
            |line: String| serde_json::from_str(&line).map_err(|e| CliError::Answer(e.to_string()));
        let mut value: Value = read(output::message_json(full_name, message)?)?;
        let holders = read(output::message_json(
            "chancery.ledger.v1.GetHoldersResponse",
            answer,
        )?)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("holders".to_owned(), holders);
        }
        output::value_json(&value)
    }
}

/// Refuses to go on while somebody may hold documents of the authority.
pub(super) async fn none_left(
    session: &mut Session<'_, '_>,
    words: &Words,
    authority_id: &str,
) -> Result<(), CliError> {
    let Some(answer) = ask(session, words, authority_id, NAMED).await? else {
        return Ok(());
    };
    let held = answer.authorities.iter().find_map(|found| {
        let count = count(found, "")?;
        let mut names = found.names.clone();
        if found.holders > names.len() as u64 && !names.is_empty() {
            names.push("…".to_owned());
        }
        let names = match names.is_empty() {
            true => String::new(),
            false => format!(" ({})", names.join(", ")),
        };
        let verb = if found.holders == 1 && !found.unnamed { "has" } else { "have" };
        Some(format!(
            "{count}{names} still {verb} documents of authority {authority_id}, until {}; wait until `chancery \
             localauthority {} show` says that none are left, or give -force to cut them off",
            text::date(found.until),
            words.kind
        ))
    });
    let unheard = unheard(&answer).map(|unheard| {
        format!(
            "{unheard}; bring it back, remove it with `chancery cluster remove`, or give -force"
        )
    });
    match held.or(unheard) {
        Some(why) => Err(CliError::Said(why)),
        None => Ok(()),
    }
}

/// So many holders, in words; `None` where there are none.
fn count(found: &AuthorityHolders, left: &str) -> Option<String> {
    let known = match found.holders {
        0 => String::new(),
        1 => format!("1 holder{left}"),
        n => format!("{n} holders{left}"),
    };
    match (found.unnamed, known.is_empty()) {
        (false, true) => None,
        (false, false) => Some(known),
        (true, true) => Some(format!("An unknown number of holders{left}")),
        (true, false) => Some(format!("{known} and others who are not known")),
    }
}

fn unheard(answer: &GetHoldersResponse) -> Option<String> {
    let nodes = match answer.unheard.as_slice() {
        [] => return None,
        [one] => format!("node {one}"),
        several => format!("nodes {}", several.join(", ")),
    };
    Some(format!(
        "{nodes} may have handed out documents of which the ledger has not heard: not in touch, or without a quorum"
    ))
}
