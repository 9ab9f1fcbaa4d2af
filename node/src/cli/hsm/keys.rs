//! `hsm keys` and `hsm adopt`: they ask a server, for only the log knows what a key belongs to.

use chancery_api::chancery::keys::v1::keys_client::KeysClient;
use chancery_api::chancery::keys::v1::{
    AdoptRequest, Key, ListRequest, ListResponse, Owner, SweepRequest,
};
use clap::Args;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::output;
use crate::cli::session::{ANSWER_BYTES_MAX, Common, Session, request};
use crate::cli::text;

/// Keys that one call destroys at most.
const SWEPT_MAX: usize = 1_000;

/// `hsm keys`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        chancery hsm keys\n  \
        chancery hsm keys -sweep\n  \
        chancery hsm keys -sweep -yes")]
pub(in crate::cli) struct Keys {
    /// Shows only the orphans: keys that this cluster had made and no authority has
    #[arg(long)]
    sweep: bool,
    /// With -sweep: destroys them, for good
    #[arg(long, requires = "sweep")]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// `hsm adopt`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        chancery hsm adopt\n  \
        chancery hsm adopt -yes\n\n\
    After a restore or a recovery, once nothing of the cluster before it runs any more: a cluster that still runs \
    may have keys in the token that this one does not know, and would lose them to `hsm keys -sweep -yes`.")]
pub(in crate::cli) struct Adopt {
    /// Says so: without this the command only compares the keys
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

async fn client(session: &Session<'_, '_>) -> Result<KeysClient<Channel>, CliError> {
    let client = KeysClient::new(session.channel().await?);
    Ok(client.max_decoding_message_size(ANSWER_BYTES_MAX))
}

impl Keys {
    pub(super) fn run(&self, host: &mut Host<'_>) -> Result<(), CliError> {
        Session::run(&self.common, host, async |session| {
            let mut client = client(session).await?;
            let list = client.list(request(ListRequest {}));
            let list = session.call(list).await?;
            if !self.sweep {
                return show(&list, session);
            }
            let orphans: Vec<Key> = list
                .keys
                .into_iter()
                .filter(|key| key.owner() == Owner::Orphan)
                .take(SWEPT_MAX)
                .collect();
            if !self.yes || orphans.is_empty() {
                return propose(&orphans, session);
            }
            let sweep = client.sweep(request(SweepRequest {
                keys: orphans.clone(),
            }));
            let results = session.call(sweep).await?.results;
            let kept: Vec<_> = results
                .into_iter()
                .map(|swept| swept.kept_because)
                .collect();
            swept(&orphans, &kept, session)
        })
    }
}

impl Adopt {
    pub(super) fn run(&self, host: &mut Host<'_>) -> Result<(), CliError> {
        Session::run(&self.common, host, async |session| {
            let mut client = client(session).await?;
            let list = client.list(request(ListRequest {}));
            let cluster_ids = session.call(list).await?.not_adopted;
            if cluster_ids.is_empty() {
                let said = "Nothing to adopt: every key that is needed was made under this cluster's id, or adopted.\n";
                return say(session, json!({"adopted": [], "matched": []}), said);
            }
            let adopt = client.adopt(request(AdoptRequest {
                cluster_ids: cluster_ids.clone(),
                dry_run: !self.yes,
            }));
            let matched = session.call(adopt).await?.matched;
            let adopted: &[String] = if self.yes { &cluster_ids } else { &[] };
            let matching: Vec<_> = matched.iter().map(json_of).collect();
            let value = json!({"adopted": adopted, "matched": matching});
            let ids = cluster_ids.join(", ");
            let found = text::count(matched.len(), "key", "keys");
            let mut said = format!("As the log has them: {found}\n");
            said.push_str(&table(&matched));
            said.push_str(&if self.yes {
                format!("Adopted the keys of {ids}.\n")
            } else {
                format!(
                    "Would adopt the keys of {ids}. If nothing of that cluster runs any more, repeat with -yes.\n"
                )
            });
            say(session, value, &said)
        })
    }
}

fn say(
    session: &mut Session<'_, '_>,
    value: serde_json::Value,
    said: &str,
) -> Result<(), CliError> {
    if session.is_json() {
        return session.out(&output::value_json(&value)?);
    }
    session.out(said)
}

fn show(list: &ListResponse, session: &mut Session<'_, '_>) -> Result<(), CliError> {
    let value = json!({
        "backend": list.backend,
        "cluster_id": list.cluster_id,
        "keys": list.keys.iter().map(json_of).collect::<Vec<_>>(),
        "missing": list.missing.iter().map(json_of).collect::<Vec<_>>(),
        "not_adopted": list.not_adopted,
        "token_serials": list.token_serials,
    });
    let place = match list.token_serials.as_slice() {
        [] => list.backend.clone(),
        serials => format!("{}, token {}", list.backend, serials.join(", ")),
    };
    let mut said = format!("Keys    : {place}\nCluster : {}\n\n", list.cluster_id);
    said.push_str(&table(&list.keys));
    for authority in &list.missing {
        said.push_str(&format!(
            "Missing: the key of {}, {}\n",
            authority_of(authority),
            authority.label
        ));
    }
    let orphans = list.keys.iter().filter(|k| k.owner() == Owner::Orphan);
    match orphans.count() {
        0 => {}
        orphans => said.push_str(&format!(
            "{}: `chancery hsm keys -sweep -yes` destroys {}.\n",
            text::count(orphans, "orphan", "orphans"),
            if orphans == 1 { "it" } else { "them" }
        )),
    }
    if !list.not_adopted.is_empty() {
        said.push_str("This cluster was restored or recovered: see `chancery hsm adopt`.\n");
    }
    say(session, value, &said)
}

/// What a sweep would do.
fn propose(orphans: &[Key], session: &mut Session<'_, '_>) -> Result<(), CliError> {
    let keys: Vec<_> = orphans.iter().map(json_of).collect();
    let said = if orphans.is_empty() {
        "No orphans: every key of this cluster's belongs to an authority, or is being made.\n"
            .to_owned()
    } else {
        format!(
            "{}Would destroy {} for good; repeat with -yes.\n",
            table(orphans),
            text::count(orphans.len(), "key", "keys")
        )
    };
    say(session, json!({"destroyed": [], "orphans": keys}), &said)
}

/// What a sweep did.
fn swept(orphans: &[Key], kept: &[String], session: &mut Session<'_, '_>) -> Result<(), CliError> {
    let mut said = String::new();
    let (mut destroyed, mut still_there) = (Vec::new(), Vec::new());
    for (key, why) in orphans.iter().zip(kept) {
        let name = format!("{} {}", hex::encode(&key.id), key.label);
        if why.is_empty() {
            said.push_str(&format!("Destroyed {name}\n"));
            destroyed.push(json_of(key));
        } else {
            said.push_str(&format!("Kept      {name}: {why}\n"));
            still_there.push(json!({"key": json_of(key), "why": why}));
        }
    }
    let failed = still_there.len();
    let value = json!({"destroyed": destroyed, "kept": still_there});
    say(session, value, &said)?;
    match failed {
        0 => Ok(()),
        kept => Err(CliError::KeysKept { kept }),
    }
}

fn table(keys: &[Key]) -> String {
    if keys.is_empty() {
        return "No keys.\n".into();
    }
    let head = ["ID", "LABEL", "BELONGS TO"].map(str::to_owned).to_vec();
    let row = |key: &Key| vec![hex::encode(&key.id), key.label.clone(), belongs(key)];
    let rows: Vec<_> = std::iter::once(head).chain(keys.iter().map(row)).collect();
    format!("{}\n", text::table(&rows))
}

fn authority_of(key: &Key) -> String {
    let kind = match key.authority_kind.as_str() {
        "jwt" => "JWT",
        _ => "X.509",
    };
    format!(
        "{} {kind} authority {}",
        key.authority_status, key.authority_id
    )
}

fn belongs(key: &Key) -> String {
    let half = match key.owner() {
        // Asked by id alone.
        Owner::Authority | Owner::Intent => "",
        _ if key.whole => "",
        _ => " (not whole)",
    };
    let owner = match key.owner() {
        Owner::Authority => authority_of(key),
        Owner::Intent => "a key that is being made".into(),
        Owner::Orphan if key.authority_id.is_empty() => "nothing: an orphan".into(),
        Owner::Orphan => format!("nothing: an orphan of {}", authority_of(key)),
        Owner::PastEpoch => format!("this cluster's former id {}, not adopted", key.cluster_id),
        Owner::Other | Owner::Unspecified => "another cluster".into(),
    };
    format!("{owner}{half}")
}

fn json_of(key: &Key) -> serde_json::Value {
    let owner = match key.owner() {
        Owner::Authority => "authority",
        Owner::Intent => "intent",
        Owner::Orphan => "orphan",
        Owner::PastEpoch => "past_epoch",
        Owner::Other | Owner::Unspecified => "other",
    };
    json!({
        "authority_id": key.authority_id,
        "authority_kind": key.authority_kind,
        "authority_status": key.authority_status,
        "cluster_id": key.cluster_id,
        "id": hex::encode(&key.id),
        "label": key.label,
        "owner": owner,
        "whole": key.whole,
    })
}
