//! `jwt mint`.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chancery_api::spire::api::server::svid::v1::MintJwtsvidRequest;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use clap::{Args, Subcommand};
use serde::Deserialize;

use super::{Readers, cleaned, is_capped, ttl_seconds, write};
use crate::cli::error::CliError;
use crate::cli::flags::duration;
use crate::cli::host::Host;
use crate::cli::session::{ANSWER_BYTES_MAX, Common, Session, request};
use crate::cli::{filter, text};

/// What can be done with JWT-SVIDs.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Mints a JWT-SVID
    Mint(Mint),
}

/// `jwt mint`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery jwt mint -spiffeID spiffe://example.org/web -audience db -ttl 5m\n  \
    chancery jwt mint -spiffeID spiffe://example.org/web -audience db -audience cache -write token")]
pub(in crate::cli) struct Mint {
    /// SPIFFE ID of the JWT-SVID
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    spiffe_id: String,
    /// Lifetime of the JWT-SVID, like 5m; the server's default where none is given
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        hide_default_value = true,
        value_parser = duration
    )]
    ttl: Duration,
    /// Whom the JWT-SVID is for; may be repeated
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// File for the token, in place of standard output
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    write: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(in crate::cli) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Verb::Mint(verb) = self;
        Session::run(&verb.common, host, async |session| verb.mint(session).await)
    }
}

impl Mint {
    async fn mint(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        if self.spiffe_id.is_empty() {
            return Err(CliError::Flags("spiffeID must be specified"));
        }
        if self.audience.is_empty() {
            return Err(CliError::Flags("at least one audience must be specified"));
        }
        let message = MintJwtsvidRequest {
            id: Some(filter::only_id(&self.spiffe_id)?),
            ttl: ttl_seconds(self.ttl)?,
            audience: self.audience.clone(),
        };
        let mut client =
            SvidClient::new(session.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = client.mint_jwtsvid(request(message));
        let answer = session
            .call(call)
            .await
            .map_err(CliError::during("unable to mint SVID"))?;
        let token = match &answer.svid {
            Some(svid) if !svid.token.is_empty() => svid.token.clone(),
            _ => return Err(CliError::Flags("server response missing token")),
        };
        match expiry(&token) {
            Err(why) => {
                session.err(&format!("Unable to determine JWT-SVID lifetime: {why}\n"))?;
            }
            Ok(ends) if is_capped(ends, self.ttl, session.now_unix_s()) => {
                let ends = text::rfc3339(ends);
                session.err(&format!(
                    "JWT-SVID lifetime was capped shorter than specified ttl; expires {ends:?}\n"
                ))?;
            }
            Ok(_) => {}
        }
        if self.write.is_empty() {
            let name = "spire.api.server.svid.v1.MintJWTSVIDResponse";
            return session.print(name, &answer, || Ok(token + "\n"));
        }
        let path = cleaned(Path::new(&self.write));
        write(&path, token.as_bytes(), Readers::Owner)
            .map_err(CliError::during("unable to write token"))?;
        session.out(&format!("JWT-SVID written to {}\n", path.display()))
    }
}

/// When a token ends, in Unix seconds, as it says itself. Whether it says so rightly is for those
/// to judge who are given it.
fn expiry(token: &str) -> Result<i64, &'static str> {
    #[derive(Deserialize)]
    struct Claims {
        exp: Option<f64>,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("go-jose/go-jose: compact JWS format must have three parts");
    };
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .map_err(|_| "its claims are not base64url")?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| "its claims are malformed")?;
    // A number beyond 64 bits is cut to their end: it is far away in either case.
    #[allow(clippy::cast_possible_truncation)]
    claims.exp.map(|exp| exp as i64).ok_or("no expiry claim")
}

/// For [`crate::cli::read_as_every_input`].
pub(in crate::cli) fn read_as_token(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = expiry(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends() {
        let token = |claims: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(expiry(&token("{\"exp\":1552410266}")), Ok(1_552_410_266));
        assert_eq!(expiry(&token("{\"exp\":1552410266.9}")), Ok(1_552_410_266));
        assert_eq!(expiry(&token("{\"exp\":1e300}")), Ok(i64::MAX));
        assert_eq!(expiry(&token("{}")), Err("no expiry claim"));
        assert_eq!(expiry(&token("[")), Err("its claims are malformed"));
        assert_eq!(expiry("h.?.s"), Err("its claims are not base64url"));
        for parts in ["", "a.b", "a.b.c.d", "malformed token"] {
            assert!(expiry(parts).unwrap_err().ends_with("three parts"));
        }
    }
}
