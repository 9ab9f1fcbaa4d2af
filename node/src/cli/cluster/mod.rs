//! `cluster`: its state, its members, and how they come and go.
//!
//! A change of members is written at once and carried out by the leader; the verbs that ask
//! for one wait and tell how far it is. `init`, `rejoin` and `recover` speak to no server: they
//! are for a node that is stopped.

mod change;
mod clock;
mod local;
mod pretty;
mod recover;
mod report;

use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use chancery_api::chancery::cluster::v1::{
    CreateTokenRequest, StatusRequest, StatusResponse, TransferLeaderRequest,
};
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::error::CliError;
use super::host::Host;
use super::output;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use super::text;

/// What can be done with the cluster.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Shows the cluster as this node knows it, with or without a quorum
    Status(Status),
    /// Lists the members, what each is and what it is to be
    Members(Members),
    /// Founds a cluster of this node alone, before its first start
    Init(local::Init),
    /// Makes a token by which one node can join
    Token(Token),
    /// Makes learners voters
    Promote(change::Promote),
    /// Makes voters learners
    Demote(change::Demote),
    /// Takes members out of the cluster, running or not
    Remove(change::Remove),
    /// Gives one member's place to another, in one change
    Replace(change::Replace),
    /// Hands leadership to another voter
    TransferLeader(TransferLeader),
    /// The cluster's time
    #[command(subcommand, after_help = "Example:\n  chancery cluster clock show")]
    Clock(clock::Verb),
    /// Sets a stopped node's data aside, so that it joins anew under a new id
    Rejoin(local::Rejoin),
    /// Goes on from this node alone, when the quorum is gone for good
    ///
    /// Offline, on the one survivor: it begins a cluster of one under another id with what this node
    /// holds. What the others acknowledged and this node never saw is lost, and none of them can come
    /// back. Without -yes it says what it would do, and changes nothing.
    Recover(recover::Recover),
}

/// `cluster status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster status\n  \
    chancery cluster status -output json")]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
}

/// `cluster members`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery cluster members")]
pub(super) struct Members {
    #[command(flatten)]
    common: Common,
}

/// `cluster token`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster token > /etc/chancery/join-token\n  \
    chancery cluster token -ttl 600 -learner\n  \
    chancery cluster token -replaces 3\n\n\
    Put the token into a file that its owner alone can read, and name it in [cluster] join_token_file.")]
pub(super) struct Token {
    /// Seconds until it ends
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    ttl: i64,
    /// The node stays a learner until it is promoted
    #[arg(long)]
    learner: bool,
    /// Member whose place the node takes once it has caught up
    #[arg(
        long,
        value_name = "NODE",
        default_value = "",
        hide_default_value = true
    )]
    replaces: String,
    #[command(flatten)]
    common: Common,
}

/// `cluster transfer-leader`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster transfer-leader\n  \
    chancery cluster transfer-leader -to 2")]
pub(super) struct TransferLeader {
    /// Voter that is to lead; without it the one that has most of the log
    #[arg(
        long,
        value_name = "NODE",
        default_value = "",
        hide_default_value = true
    )]
    to: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        match self {
            Self::Status(verb) => {
                Session::run(&verb.common, host, async |session| verb.show(session).await)
            }
            Self::Members(verb) => {
                Session::run(&verb.common, host, async |session| verb.show(session).await)
            }
            Self::Token(verb) => {
                Session::run(&verb.common, host, async |session| verb.make(session).await)
            }
            Self::TransferLeader(verb) => Session::run(&verb.common, host, async |session| {
                verb.move_it(session).await
            }),
            Self::Clock(verb) => verb.run(host),
            Self::Init(verb) => verb.run(host),
            Self::Rejoin(verb) => verb.run(host),
            Self::Recover(verb) => verb.run(host),
            Self::Promote(verb) => verb.run(host),
            Self::Demote(verb) => verb.run(host),
            Self::Remove(verb) => verb.run(host),
            Self::Replace(verb) => verb.run(host),
        }
    }
}

async fn client(session: &Session<'_, '_>) -> Result<ClusterClient<Channel>, CliError> {
    let client = ClusterClient::new(session.channel().await?);
    Ok(client.max_decoding_message_size(ANSWER_BYTES_MAX))
}

async fn ask_status(
    session: &mut Session<'_, '_>,
    client: &mut ClusterClient<Channel>,
) -> Result<StatusResponse, CliError> {
    session.call(client.status(request(StatusRequest {}))).await
}

impl Status {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = client(session).await?;
        let status = ask_status(session, &mut client).await?;
        let text = if session.is_json() {
            output::value_json(&report::Report::from(&status))?
        } else {
            pretty::status(&status, session.now_unix_s(), session.paint())
        };
        session.out(&text)
    }
}

impl Members {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = client(session).await?;
        let status = ask_status(session, &mut client).await?;
        let text = if session.is_json() {
            let members = status.members.iter().map(report::MemberReport::from);
            output::value_json(&members.collect::<Vec<_>>())?
        } else {
            pretty::roles(&status, session.paint())
        };
        session.out(&text)
    }
}

impl Token {
    async fn make(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = client(session).await?;
        let message = CreateTokenRequest {
            ttl: self.ttl,
            learner: self.learner,
            replaces: self.replaces.clone(),
        };
        let made = session.call(client.create_token(request(message))).await?;
        if session.is_json() {
            let value = serde_json::json!({ "token": made.token, "expires_at": made.expires_at });
            return session.out(&output::value_json(&value)?);
        }
        let until = text::date(made.expires_at);
        session.err(&format!(
            "For one node, until {until}. Whoever has it can join.\n"
        ))?;
        session.out(&format!("{}\n", made.token))
    }
}

impl TransferLeader {
    async fn move_it(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = client(session).await?;
        let message = TransferLeaderRequest {
            to: self.to.clone(),
        };
        let call = client.transfer_leader(request(message));
        let leader = session.call(call).await?.leader;
        if session.is_json() {
            let value = serde_json::json!({ "leader": leader });
            return session.out(&output::value_json(&value)?);
        }
        session.out(&format!("Node {leader} leads.\n"))
    }
}
