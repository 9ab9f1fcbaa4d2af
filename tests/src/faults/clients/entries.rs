//! Several clients create, update, delete and read the same few entries by their ids.

use chancery_api::spire::api::server::entry::v1 as api;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::types;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Sockets, World, is_broken, is_stale, limited};
use crate::faults::cluster::TRUST_DOMAIN;
use crate::faults::history::{Model, Outcome};
use crate::faults::random::Random;

/// Id of the entry of a number in a round.
pub fn object(round: usize, number: usize) -> String {
    format!("faults-{round}-{number}")
}

/// One client of one entry.
pub async fn client(world: World, id: String, mut random: Random) {
    let mut sockets = Sockets::default();
    let mut client = world.history.client();
    let mut written = 0;
    while world.goes_on() {
        let place = world.any(&mut random).clone();
        let op = [
            "read", "read", "read", "create", "create", "update", "update", "delete",
        ][random.below(8)];
        let mut value = String::new();
        if matches!(op, "create" | "update") {
            written += 1;
            value = format!("{client}.{written}");
        }
        let Some(channel) = sockets.to(&place).await else {
            tokio::time::sleep(random.ms(30, 60)).await;
            continue;
        };
        let call = world
            .history
            .call(client, (&id, Model::Entry), place.index, op, value.clone());
        let outcome = match op {
            "read" => read(channel, &id).await,
            "create" => create(channel, &id, &value).await,
            "update" => update(channel, &id, &value).await,
            _ => delete(channel, &id).await,
        };
        let outcome = outcome.unwrap_or_else(|status| {
            if is_broken(&status) {
                sockets.forget(&place);
            }
            Outcome::of_failed_write(&status)
        });
        if outcome == Outcome::Unknown {
            // Whoever was told nothing is never heard of again.
            client = world.history.client();
        }
        call.end(&outcome);
        tokio::time::sleep(random.ms(5, 40)).await;
    }
}

/// Reads an entry at every node, at the end of a round.
pub async fn read_everywhere(world: &World, id: &str) -> Result<(), String> {
    let client = world.history.client();
    for place in world.places.iter() {
        let channel = Sockets::default().to(place).await;
        let channel = channel.ok_or_else(|| format!("node {} is not there", place.index))?;
        let call = world
            .history
            .call(client, (id, Model::Entry), place.index, "read", "");
        let outcome = read(channel, id).await;
        let outcome = outcome.map_err(|status| format!("node {}: {status}", place.index))?;
        if outcome == Outcome::Nothing {
            return Err(format!(
                "node {} answers a stale state after healing",
                place.index
            ));
        }
        call.end(&outcome);
    }
    Ok(())
}

fn told(entry: &types::Entry) -> String {
    format!("{}@{}", entry.hint, entry.revision_number)
}

/// What an item of a batch says of itself.
fn item(status: Option<types::Status>) -> Status {
    let status = status.unwrap_or_default();
    Status::new(Code::from_i32(status.code), status.message)
}

async fn read(channel: Channel, id: &str) -> Result<Outcome, Status> {
    let request = api::GetEntryRequest {
        id: id.to_owned(),
        output_mask: None,
    };
    match limited(EntryClient::new(channel).get_entry(request)).await {
        Ok(response) if is_stale(response.metadata()) => Ok(Outcome::Nothing),
        Ok(response) => Ok(Outcome::of(told(response.get_ref()))),
        Err(status) if status.code() == Code::NotFound && is_stale(status.metadata()) => {
            Ok(Outcome::Nothing)
        }
        Err(status) if status.code() == Code::NotFound => Ok(Outcome::of("absent")),
        Err(status) => Err(status),
    }
}

/// An entry for a workload below `parent`.
pub fn entry(parent: &str, path: &str) -> types::Entry {
    let id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: path.into(),
        })
    };
    types::Entry {
        parent_id: id(parent),
        spiffe_id: id(path),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1000".into(),
        }],
        ..Default::default()
    }
}

/// Creates one entry; its status and what came back.
pub async fn create_one(
    channel: Channel,
    entry: types::Entry,
) -> Result<(Status, Option<types::Entry>), Status> {
    let request = api::BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let response = limited(EntryClient::new(channel).batch_create_entry(request)).await?;
    let result = response.into_inner().results.pop();
    let result = result.ok_or_else(|| Status::data_loss("a batch of one without a result"))?;
    Ok((item(result.status), result.entry))
}

async fn create(channel: Channel, id: &str, value: &str) -> Result<Outcome, Status> {
    let made = types::Entry {
        id: id.to_owned(),
        hint: value.to_owned(),
        ..entry("/spire/agent/faults", &format!("/{id}"))
    };
    let (status, entry) = create_one(channel, made).await?;
    match (status.code(), entry) {
        (Code::Ok, Some(entry)) => Ok(Outcome::of(told(&entry))),
        (Code::AlreadyExists, _) => Ok(Outcome::of("exists")),
        _ => Err(status),
    }
}

async fn update(channel: Channel, id: &str, value: &str) -> Result<Outcome, Status> {
    let request = api::BatchUpdateEntryRequest {
        entries: vec![types::Entry {
            id: id.to_owned(),
            hint: value.to_owned(),
            ..Default::default()
        }],
        input_mask: Some(types::EntryMask {
            hint: true,
            ..Default::default()
        }),
        output_mask: None,
    };
    let response = limited(EntryClient::new(channel).batch_update_entry(request)).await?;
    let result = response.into_inner().results.pop();
    let result = result.ok_or_else(|| Status::data_loss("a batch of one without a result"))?;
    let status = item(result.status);
    match (status.code(), result.entry) {
        (Code::Ok, Some(entry)) => Ok(Outcome::of(told(&entry))),
        (Code::NotFound, _) => Ok(Outcome::of("absent")),
        _ => Err(status),
    }
}

async fn delete(channel: Channel, id: &str) -> Result<Outcome, Status> {
    let request = api::BatchDeleteEntryRequest {
        ids: vec![id.to_owned()],
    };
    let response = limited(EntryClient::new(channel).batch_delete_entry(request)).await?;
    let result = response.into_inner().results.pop();
    let result = result.ok_or_else(|| Status::data_loss("a batch of one without a result"))?;
    let status = item(result.status);
    match status.code() {
        Code::Ok => Ok(Outcome::of("done")),
        Code::NotFound => Ok(Outcome::of("absent")),
        _ => Err(status),
    }
}
