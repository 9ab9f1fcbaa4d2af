//! `debug getinfo`.

use std::fmt::Write as _;

use chancery_api::spire::api::server::debug::v1::debug_client::DebugClient;
use chancery_api::spire::api::server::debug::v1::{GetInfoRequest, GetInfoResponse};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use super::text;

/// What the asked server tells about itself.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Prints how long the server runs, what it knows, and its own SVID
    #[command(after_help = "Example:\n  chancery debug getinfo -output json")]
    Getinfo(GetInfo),
}

/// `debug getinfo`.
#[derive(Debug, Args)]
pub(super) struct GetInfo {
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Verb::Getinfo(verb) = self;
        Session::run(&verb.common, host, async |session| {
            let mut client = DebugClient::new(session.channel().await?)
                .max_decoding_message_size(ANSWER_BYTES_MAX);
            let info = session
                .call(client.get_info(request(GetInfoRequest {})))
                .await?;
            session.print("spire.api.server.debug.v1.GetInfoResponse", &info, || {
                Ok(pretty(&info))
            })
        })
    }
}

fn pretty(info: &GetInfoResponse) -> String {
    let mut text = "Server Debug Info:\n".to_owned();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<25}{value}");
    };
    line("Uptime:", uptime(info.uptime));
    line("Registered Agents:", info.agents_count.to_string());
    line("Registration Entries:", info.entries_count.to_string());
    line(
        "Federated Bundles:",
        info.federated_bundles_count.to_string(),
    );
    if !info.svid_chain.is_empty() {
        text.push_str("  SVID Chain:\n");
    }
    for (at, certificate) in info.svid_chain.iter().enumerate() {
        let id = match &certificate.id {
            None => "(none)".to_owned(),
            id => text::id(id.as_ref()),
        };
        let _ = write!(
            text,
            "    [{at}] SPIFFE ID:  {id}\n        Subject:    {}\n        Expires At: {}\n",
            certificate.subject,
            text::rfc3339(certificate.expires_at)
        );
    }
    text
}

/// Seconds as Go writes a duration: `1h0m5s`.
fn uptime(seconds: i32) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let seconds = seconds.unsigned_abs();
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{rest}s"),
        (0, _) => format!("{sign}{minutes}m{rest}s"),
        _ => format!("{sign}{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_are_written_as_go_writes_durations() {
        for (seconds, written) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m0s"),
            (3_600, "1h0m0s"),
            (90_061, "25h1m1s"),
            (-61, "-1m1s"),
        ] {
            assert_eq!(uptime(seconds), written);
        }
    }
}
