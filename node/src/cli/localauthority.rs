//! `localauthority x509` and `localauthority jwt`, each with `show`, `prepare`, `activate`, `taint`
//! and `revoke`.

mod holders;
mod migrate;

use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use chancery_api::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, AuthorityState,
    GetJwtAuthorityStateRequest, GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest,
    PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeX509AuthorityRequest,
    TaintJwtAuthorityRequest, TaintX509AuthorityRequest,
};
use clap::{Args, Subcommand};
use prost::Message;
use tonic::transport::Channel;

use self::holders::Shown;
use self::migrate::Migrate;
use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use super::text;

/// What the authorities sign.
#[derive(Debug, Subcommand)]
pub(super) enum Kind {
    /// Authorities that sign X.509-SVIDs
    #[command(
        subcommand,
        after_help = "Example:\n  chancery localauthority x509 show"
    )]
    X509(X509),
    /// Authorities that sign JWT-SVIDs
    #[command(
        subcommand,
        after_help = "Example:\n  chancery localauthority jwt show"
    )]
    Jwt(Jwt),
    /// Shows whether nodes share authorities, or lets them share or have their own from now on
    ///
    /// shared: all sign with the same keys, in a token that each of them has. per-node: each node
    /// makes keys of its own, where its [keys] says. Authorities of the other kind go on signing until
    /// those of the new one have taken over; no identity is lost on the way, and it may be turned back
    /// at any time. The command waits and says what is left to do; it goes on without it too.
    Migrate(Migrate),
}

/// What can be done with authorities for X.509-SVIDs.
#[derive(Debug, Subcommand)]
pub(super) enum X509 {
    /// Shows the active, the prepared and the old authority
    #[command(after_help = "Examples:\n  \
        chancery localauthority x509 show\n  \
        chancery localauthority x509 show -output json")]
    Show(All),
    /// Prepares a new authority: its key, and its certificate in the bundle
    #[command(after_help = "Example:\n  chancery localauthority x509 prepare")]
    Prepare(All),
    /// Activates the prepared authority: it signs from then on
    #[command(after_help = "Example:\n  \
        chancery localauthority x509 activate -authorityID 1a2b3c")]
    Activate(One),
    /// Taints the old authority: what it signed is replaced
    #[command(after_help = "Example:\n  \
        chancery localauthority x509 taint -authorityID 1a2b3c")]
    Taint(One),
    /// Revokes the old, tainted authority that nobody holds anything of: it leaves the bundle
    #[command(after_help = "Examples:\n  \
        chancery localauthority x509 revoke -authorityID 1a2b3c\n  \
        chancery localauthority x509 revoke -authorityID 1a2b3c -force")]
    Revoke(Revoke),
}

/// What can be done with authorities for JWT-SVIDs.
#[derive(Debug, Subcommand)]
pub(super) enum Jwt {
    /// Shows the active, the prepared and the old authority
    #[command(after_help = "Examples:\n  \
        chancery localauthority jwt show\n  \
        chancery localauthority jwt show -output json")]
    Show(All),
    /// Prepares a new authority: its key, in the bundle too
    #[command(after_help = "Example:\n  chancery localauthority jwt prepare")]
    Prepare(All),
    /// Activates the prepared authority: it signs from then on
    #[command(after_help = "Example:\n  \
        chancery localauthority jwt activate -authorityID 1a2b3c")]
    Activate(One),
    /// Taints the old authority: what it signed is replaced
    #[command(after_help = "Example:\n  \
        chancery localauthority jwt taint -authorityID 1a2b3c")]
    Taint(One),
    /// Revokes the old, tainted authority that nobody holds anything of: it leaves the bundle
    #[command(after_help = "Examples:\n  \
        chancery localauthority jwt revoke -authorityID 1a2b3c\n  \
        chancery localauthority jwt revoke -authorityID 1a2b3c -force")]
    Revoke(Revoke),
}

/// All authorities of a kind.
#[derive(Debug, Args)]
pub(super) struct All {
    #[command(flatten)]
    common: Common,
}

/// One authority.
#[derive(Debug, Args)]
pub(super) struct One {
    /// Authority ID, as `show` prints it
    #[arg(
        long = "authorityID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    authority_id: String,
    #[command(flatten)]
    common: Common,
}

/// One authority that is to go.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    one: One,
    /// Revokes it although agents or others may hold documents of it, which are then worth nothing
    #[arg(long)]
    force: bool,
}

impl Revoke {
    /// The authority's ID, if it may go.
    async fn id(&self, session: &mut Session<'_, '_>, words: &Words) -> Result<String, CliError> {
        let id = self.one.id()?;
        if !self.force {
            holders::none_left(session, words, &id).await?;
        }
        Ok(id)
    }
}

impl One {
    fn id(&self) -> Result<String, CliError> {
        if self.authority_id.is_empty() {
            return Err(CliError::Flags("an authority ID is required"));
        }
        Ok(self.authority_id.clone())
    }
}

impl Kind {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Kind::Migrate(verb) => &verb.common,
            Kind::X509(X509::Show(verb) | X509::Prepare(verb)) => &verb.common,
            Kind::X509(X509::Activate(verb) | X509::Taint(verb)) => &verb.common,
            Kind::X509(X509::Revoke(verb)) | Kind::Jwt(Jwt::Revoke(verb)) => &verb.one.common,
            Kind::Jwt(Jwt::Show(verb) | Jwt::Prepare(verb)) => &verb.common,
            Kind::Jwt(Jwt::Activate(verb) | Jwt::Taint(verb)) => &verb.common,
        };
        Session::run(common, host, async |session| match &self {
            Kind::Migrate(verb) => verb.run(session).await,
            Kind::X509(verb) => verb.run(session).await,
            Kind::Jwt(verb) => verb.run(session).await,
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<LocalAuthorityClient<Channel>, CliError> {
    let channel = session.channel().await?;
    Ok(LocalAuthorityClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

const PACKAGE: &str = "spire.api.server.localauthority.v1";

impl X509 {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        match self {
            X509::Show(_) => {
                let message = GetX509AuthorityStateRequest {};
                let mut client = client(session).await?;
                let call = client.get_x509_authority_state(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not get X.509 authorities"))?;
                let name = format!("{PACKAGE}.GetX509AuthorityStateResponse");
                let states = [&answer.active, &answer.prepared, &answer.old];
                show(session, &WORDS_X509, &name, &answer, states).await
            }
            X509::Prepare(_) => {
                let message = PrepareX509AuthorityRequest {};
                let mut client = client(session).await?;
                let call = client.prepare_x509_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not prepare X.509 authority"))?;
                let state = answer.prepared_authority.as_ref();
                print(session, &WORDS_X509, "Prepare", &answer, state)
            }
            X509::Activate(verb) => {
                let authority_id = verb.id()?;
                let mut client = client(session).await?;
                let message = ActivateX509AuthorityRequest { authority_id };
                let call = client.activate_x509_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not activate X.509 authority"))?;
                let state = answer.activated_authority.as_ref();
                print(session, &WORDS_X509, "Activate", &answer, state)
            }
            X509::Taint(verb) => {
                let authority_id = verb.id()?;
                let mut client = client(session).await?;
                let message = TaintX509AuthorityRequest { authority_id };
                let call = client.taint_x509_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not taint X.509 authority"))?;
                let state = answer.tainted_authority.as_ref();
                print(session, &WORDS_X509, "Taint", &answer, state)
            }
            X509::Revoke(verb) => {
                let authority_id = verb.id(session, &WORDS_X509).await?;
                let mut client = client(session).await?;
                let message = RevokeX509AuthorityRequest { authority_id };
                let call = client.revoke_x509_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not revoke X.509 authority"))?;
                let state = answer.revoked_authority.as_ref();
                print(session, &WORDS_X509, "Revoke", &answer, state)
            }
        }
    }
}

impl Jwt {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        match self {
            Jwt::Show(_) => {
                let message = GetJwtAuthorityStateRequest {};
                let mut client = client(session).await?;
                let call = client.get_jwt_authority_state(request(message));
                let answer = session.call(call).await?;
                let name = format!("{PACKAGE}.GetJWTAuthorityStateResponse");
                let states = [&answer.active, &answer.prepared, &answer.old];
                show(session, &WORDS_JWT, &name, &answer, states).await
            }
            Jwt::Prepare(_) => {
                let message = PrepareJwtAuthorityRequest {};
                let mut client = client(session).await?;
                let call = client.prepare_jwt_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not prepare JWT authority"))?;
                let state = answer.prepared_authority.as_ref();
                print(session, &WORDS_JWT, "Prepare", &answer, state)
            }
            Jwt::Activate(verb) => {
                let authority_id = verb.id()?;
                let mut client = client(session).await?;
                let message = ActivateJwtAuthorityRequest { authority_id };
                let call = client.activate_jwt_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not activate JWT authority"))?;
                let state = answer.activated_authority.as_ref();
                print(session, &WORDS_JWT, "Activate", &answer, state)
            }
            Jwt::Taint(verb) => {
                let authority_id = verb.id()?;
                let mut client = client(session).await?;
                let message = TaintJwtAuthorityRequest { authority_id };
                let call = client.taint_jwt_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not taint JWT authority"))?;
                let state = answer.tainted_authority.as_ref();
                print(session, &WORDS_JWT, "Taint", &answer, state)
            }
            Jwt::Revoke(verb) => {
                let authority_id = verb.id(session, &WORDS_JWT).await?;
                let mut client = client(session).await?;
                let message = RevokeJwtAuthorityRequest { authority_id };
                let call = client.revoke_jwt_authority(request(message));
                let answer = session
                    .call(call)
                    .await
                    .map_err(CliError::during("could not revoke JWT authority"))?;
                let state = answer.revoked_authority.as_ref();
                print(session, &WORDS_JWT, "Revoke", &answer, state)
            }
        }
    }
}

/// How a kind of authority is spoken of.
struct Words {
    /// On the command line.
    kind: &'static str,
    /// In prose.
    prose: &'static str,
    /// In names of messages.
    message: &'static str,
    /// Whether another authority may have signed it.
    has_upstream: bool,
}

const WORDS_X509: Words = Words {
    kind: "x509",
    prose: "X.509",
    message: "X509",
    has_upstream: true,
};

const WORDS_JWT: Words = Words {
    kind: "jwt",
    prose: "JWT",
    message: "JWT",
    has_upstream: false,
};

/// Prints the answer to a change, which `did` names: `Prepare`, `Activate`, `Taint` or `Revoke`.
fn print(
    session: &mut Session<'_, '_>,
    words: &Words,
    did: &str,
    answer: &impl Message,
    state: Option<&AuthorityState>,
) -> Result<(), CliError> {
    let name = format!("{PACKAGE}.{did}{}AuthorityResponse", words.message);
    session.print(&name, answer, || changed(words, did, state))
}

fn changed(words: &Words, did: &str, state: Option<&AuthorityState>) -> Result<String, CliError> {
    let done = format!("{did}{}", if did.ends_with('e') { "d" } else { "ed" });
    let kind = words.prose;
    match state {
        Some(state) => Ok(format!("{done} {kind} authority:\n{}", one(words, state))),
        None => Err(CliError::Said(format!(
            "internal error: expected to have {} {kind} authority information",
            done.to_lowercase()
        ))),
    }
}

/// Prints all authorities of a kind, with how many may hold documents of them.
async fn show(
    session: &mut Session<'_, '_>,
    words: &Words,
    name: &str,
    answer: &impl Message,
    states: [&Option<AuthorityState>; 3],
) -> Result<(), CliError> {
    let shown = Shown::of(session, words).await?;
    let text = if session.is_json() {
        shown.json(name, answer)?
    } else {
        all(words, states, &shown)
    };
    session.out(&text)
}

fn all(words: &Words, states: [&Option<AuthorityState>; 3], shown: &Shown) -> String {
    let kind = words.prose;
    let blocks: Vec<String> = ["Active", "Prepared", "Old"]
        .into_iter()
        .zip(states)
        .map(|(which, state)| {
            let state = match state {
                // One that is prepared has signed nothing.
                Some(state) if which == "Prepared" => one(words, state),
                Some(state) => {
                    let holders = shown.line(&state.authority_id, which == "Active");
                    format!("{}{holders}", one(words, state))
                }
                None => format!("  No {} {kind} authority found\n", which.to_lowercase()),
            };
            format!("{which} {kind} authority:\n{state}")
        })
        .collect();
    blocks.join("\n")
}

fn one(words: &Words, state: &AuthorityState) -> String {
    let upstream = match &*state.upstream_authority_subject_key_id {
        _ if !words.has_upstream => String::new(),
        "" => "  Upstream authority ID: No upstream authority\n".to_owned(),
        id => format!("  Upstream authority Subject Key ID: {id}\n"),
    };
    format!(
        "  Authority ID: {}\n  Expires at: {}\n{upstream}",
        state.authority_id,
        text::date(state.expires_at)
    )
}
