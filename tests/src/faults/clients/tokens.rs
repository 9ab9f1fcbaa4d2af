//! One join token is redeemed at several nodes at once.

use std::time::Duration;

use futures::future::join_all;
use tonic::Code;

use super::{Place, Sockets, World, limited};
use crate::agent::{attest_call, key_and_csr};
use crate::faults::history::{Model, Outcome};
use crate::faults::random::Random;
use crate::tls::connect;
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;

/// Makes a join token at some node; none before the round ends.
pub async fn make(world: &World, random: &mut Random) -> Option<String> {
    while world.goes_on() {
        let place = world.any(random).clone();
        if let Some(channel) = Sockets::default().to(&place).await {
            let request = CreateJoinTokenRequest {
                ttl: 600,
                ..Default::default()
            };
            let made = limited(AgentClient::new(channel).create_join_token(request)).await;
            if let Ok(made) = made {
                return Some(made.into_inner().value);
            }
        }
        tokio::time::sleep(random.ms(30, 60)).await;
    }
    None
}

/// Makes tokens and redeems each at every node.
pub async fn client(world: World, mut random: Random) {
    while world.goes_on() {
        let Some(token) = make(&world, &mut random).await else {
            return;
        };
        let redemptions = world.places.iter().map(|p| redeem(&world, p, &token));
        join_all(redemptions).await;
        tokio::time::sleep(random.ms(200, 600)).await;
    }
}

async fn redeem(world: &World, place: &Place, token: &str) {
    let Ok((_, csr)) = key_and_csr() else {
        return;
    };
    let connect = connect(&place.api, &world.trust, None, None);
    let Ok(Ok(channel)) = tokio::time::timeout(Duration::from_secs(1), connect).await else {
        return;
    };
    let object = format!("token-{token}");
    let client = world.history.client();
    let call = world
        .history
        .call(client, (&object, Model::Token), place.index, "redeem", "");
    let outcome = match limited(attest_call(channel, token, csr)).await {
        Ok(_) => Outcome::of("won"),
        Err(status)
            if status.code() == Code::InvalidArgument
                && status
                    .message()
                    .contains("does not exist or has already been used") =>
        {
            Outcome::of("used")
        }
        Err(status) => Outcome::of_failed_write(&status),
    };
    call.end(&outcome);
}
