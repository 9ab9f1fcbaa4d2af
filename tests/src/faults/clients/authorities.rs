//! One client rotates the shared JWT authority step by step through any node, another
//! tries the same steps elsewhere, others read the state.

use std::sync::{Arc, Mutex, PoisonError};

use chancery_api::spire::api::server::localauthority::v1 as api;
use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Sockets, World, is_stale, limited};
use crate::faults::history::{Model, Outcome};
use crate::faults::random::Random;

const OBJECT: (&str, Model) = ("jwt-authority", Model::Authority);

/// Ids of the last state that a client was told: active, prepared, old.
type Last = Arc<Mutex<[String; 3]>>;

/// What the clients of a round know.
#[derive(Clone, Default)]
pub struct Knowledge {
    last: Last,
    /// What this round has put out of use: only that may be tainted.
    replaced: Arc<Mutex<Option<String>>>,
}

/// The first operation of a history: what is there.
pub async fn begin(world: &World, knowledge: &Knowledge) -> anyhow::Result<()> {
    let place = &world.places[0];
    let channel = crate::tls::connect_admin(&place.admin_socket).await?;
    let client = world.history.client();
    let call = world.history.call(client, OBJECT, place.index, "read", "");
    let outcome = state(channel, knowledge).await?;
    anyhow::ensure!(
        matches!(outcome, Outcome::Answer(_)),
        "node {} has no state of its JWT authorities with all nodes there",
        place.index
    );
    call.end(&outcome);
    Ok(())
}

/// Reads the state at any node.
pub async fn reader(world: World, knowledge: Knowledge, mut random: Random) {
    let mut sockets = Sockets::default();
    let client = world.history.client();
    while world.goes_on() {
        let place = world.any(&mut random).clone();
        if let Some(channel) = sockets.to(&place).await {
            let call = world.history.call(client, OBJECT, place.index, "read", "");
            let outcome = state(channel, &knowledge).await.unwrap_or_else(|_| {
                sockets.forget(&place);
                Outcome::Nothing
            });
            call.end(&outcome);
        }
        tokio::time::sleep(random.ms(40, 120)).await;
    }
}

/// Takes the step that comes next by the last state; `rival` only tries to activate.
pub async fn operator(world: World, knowledge: Knowledge, rival: bool, mut random: Random) {
    let mut client = world.history.client();
    while world.goes_on() {
        tokio::time::sleep(random.ms(150, 700)).await;
        let place = world.any(&mut random).clone();
        let Some(channel) = Sockets::default().to(&place).await else {
            continue;
        };
        let [active, prepared, old] = knowledge
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let replaced = knowledge
            .replaced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (op, id) = if !prepared.is_empty() {
            ("activate", prepared)
        } else if rival {
            continue;
        } else if replaced.as_ref() == Some(&old) && !old.is_empty() {
            (["taint", "revoke"][random.below(2)], old)
        } else {
            ("prepare", String::new())
        };
        let call = world
            .history
            .call(client, OBJECT, place.index, op, id.clone());
        let outcome = step(channel, op, &id).await;
        if outcome == Outcome::of("done") && op == "activate" {
            *knowledge
                .replaced
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(active);
        }
        if outcome == Outcome::Unknown {
            client = world.history.client();
        }
        call.end(&outcome);
    }
}

async fn state(channel: Channel, knowledge: &Knowledge) -> Result<Outcome, Status> {
    let mut client = LocalAuthorityClient::new(channel);
    let asked = client.get_jwt_authority_state(api::GetJwtAuthorityStateRequest {});
    let response = limited(asked).await?;
    if is_stale(response.metadata()) {
        return Ok(Outcome::Nothing);
    }
    let id = |state: Option<api::AuthorityState>| state.map(|s| s.authority_id).unwrap_or_default();
    let told = response.into_inner();
    let ids = [id(told.active), id(told.prepared), id(told.old)];
    let answer = ids.join("|");
    *knowledge
        .last
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = ids;
    Ok(Outcome::of(answer))
}

async fn step(channel: Channel, op: &str, id: &str) -> Outcome {
    let mut client = LocalAuthorityClient::new(channel);
    let authority_id = id.to_owned();
    let done = |result: Result<(), Status>| match result {
        Ok(()) => Outcome::of("done"),
        // Refused by what the node saw or by the registry; a step that waits for other
        // members ends before it writes.
        Err(status) => match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::Internal => {
                Outcome::of("refused")
            }
            Code::Aborted if !status.message().contains("outcome unknown") => {
                Outcome::of("refused")
            }
            _ => Outcome::of_failed_write(&status),
        },
    };
    match op {
        "prepare" => {
            let asked = client.prepare_jwt_authority(api::PrepareJwtAuthorityRequest {});
            match limited(asked)
                .await
                .map(|r| r.into_inner().prepared_authority)
            {
                Ok(Some(made)) => Outcome::of(made.authority_id),
                // Making a key takes several writes, and another node may finish them.
                Ok(None) | Err(_) => Outcome::Unknown,
            }
        }
        "activate" => {
            let asked =
                client.activate_jwt_authority(api::ActivateJwtAuthorityRequest { authority_id });
            done(limited(asked).await.map(drop))
        }
        "taint" => {
            let asked = client.taint_jwt_authority(api::TaintJwtAuthorityRequest { authority_id });
            done(limited(asked).await.map(drop))
        }
        _ => {
            let asked =
                client.revoke_jwt_authority(api::RevokeJwtAuthorityRequest { authority_id });
            done(limited(asked).await.map(drop))
        }
    }
}
