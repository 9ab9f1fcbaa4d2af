//! JWT-SVIDs: signed when asked for, kept to half of their life, and asked for once by however many
//! wait for the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chancery_api::spire::api::server::svid::v1::NewJwtsvidRequest;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use tonic::Status;

use crate::environment;
use crate::servers::Servers;

/// Tokens that are kept.
const KEPT_MAX: usize = 1_000;

#[derive(Clone)]
struct Token {
    text: String,
    issued_at: i64,
    expires_at: i64,
}

/// Whose, and for whom: sorted.
type Key = (String, Vec<String>);

pub(super) struct Tokens {
    servers: Arc<Servers>,
    kept: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Option<Token>>>>>,
}

impl Tokens {
    pub(super) fn new(servers: Arc<Servers>) -> Self {
        Self {
            servers,
            kept: Mutex::default(),
        }
    }

    /// A token of an entry for an audience.
    ///
    /// # Errors
    /// No server signs one, and none that is kept is good.
    pub(super) async fn get(
        &self,
        entry: &str,
        mut audience: Vec<String>,
    ) -> Result<String, Status> {
        audience.sort_unstable();
        audience.dedup();
        let place = self.place((entry.to_owned(), audience.clone()));
        // Who comes second waits for the first one's answer.
        let mut token = place.lock().await;
        let now = environment::now();
        if let Some(kept) = token.as_ref()
            && now < kept.issued_at + (kept.expires_at - kept.issued_at) / 2
        {
            return Ok(kept.text.clone());
        }
        match self.signed(entry, audience).await {
            Ok(signed) => {
                let text = signed.text.clone();
                *token = Some(signed);
                Ok(text)
            }
            Err(status) => match token.as_ref() {
                Some(kept) if now < kept.expires_at => Ok(kept.text.clone()),
                _ => Err(status),
            },
        }
    }

    fn place(&self, key: Key) -> Arc<tokio::sync::Mutex<Option<Token>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX && !kept.contains_key(&key) {
            // Those that somebody waits for stay; the rest is signed anew when it is asked for.
            kept.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(kept.entry(key).or_default())
    }

    async fn signed(&self, entry: &str, audience: Vec<String>) -> Result<Token, Status> {
        let request = NewJwtsvidRequest {
            entry_id: entry.to_owned(),
            audience,
        };
        let answer = self.servers.call(|channel| {
            let request = request.clone();
            async move { SvidClient::new(channel).new_jwtsvid(request).await }
        });
        let svid = answer.await?.into_inner().svid;
        let svid = svid.ok_or_else(|| Status::internal("no JWT-SVID was answered"))?;
        Ok(Token {
            text: svid.token,
            issued_at: svid.issued_at,
            expires_at: svid.expires_at,
        })
    }
}
