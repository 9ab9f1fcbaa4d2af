//! `agent list`, `count`, `show`, `ban`, `evict` and `purge`.

use std::fmt::Write as _;

use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, count_agents_request, list_agents_request,
};
use chancery_api::spire::api::types::{Agent, AgentMask, SelectorMatch, Spiffeid};
use clap::{Args, Subcommand};
use time::format_description::parse_borrowed;
use tonic::transport::Channel;

use super::error::CliError;
use super::host::Host;
use super::paint::{Paint, Tone};
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};
use super::zone::Zone;
use super::{filter, text};

mod purge;

/// Agents a page; stays under 4 MiB however many selectors they have in practice.
const PAGE_SIZE: i32 = 1_000;

/// Of the labels of an agent, in characters; SPIRE's.
const LABEL_WIDTH: usize = 18;

/// What can be done with attested agents.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Lists attested agents and their SPIFFE IDs
    #[command(after_help = "Example:\n  chancery agent list -attestationType join_token")]
    List(Matching),
    /// Counts attested agents
    #[command(after_help = "Example:\n  chancery agent count -banned true")]
    Count(Matching),
    /// Shows the details of an attested agent
    #[command(after_help = "Example:\n  \
        chancery agent show -spiffeID spiffe://example.org/spire/agent/join_token/1f0d")]
    Show(One),
    /// Bans an agent: it can neither call nor attest again
    #[command(after_help = "Example:\n  \
        chancery agent ban -spiffeID spiffe://example.org/spire/agent/join_token/1f0d")]
    Ban(One),
    /// Evicts an agent: it has to attest again
    #[command(after_help = "Example:\n  \
        chancery agent evict -spiffeID spiffe://example.org/spire/agent/join_token/1f0d")]
    Evict(One),
    /// Evicts agents that can re-attest and whose SVID ended some time ago
    #[command(after_help = "Examples:\n  \
        chancery agent purge -dryRun\n  \
        chancery agent purge -expiredFor 168h -output json")]
    Purge(purge::Purge),
}

/// Which agents.
#[derive(Debug, Args)]
pub(super) struct Matching {
    /// A selector, type:value; may be repeated
    #[arg(long, value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How selectors are compared: exact, any, superset or subset
    #[arg(
        long = "matchSelectorsOn",
        value_name = "MODE",
        default_value = "superset"
    )]
    match_selectors_on: String,
    /// Attestation type, such as join_token
    #[arg(
        long = "attestationType",
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true
    )]
    attestation_type: String,
    /// true: agents that can re-attest; false: those that cannot; anything else: all
    #[arg(
        long = "canReattest",
        value_name = "BOOL",
        default_value = "",
        hide_default_value = true
    )]
    can_reattest: String,
    /// true: banned agents; false: those that are not; anything else: all
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "",
        hide_default_value = true
    )]
    banned: String,
    /// Agents whose SVID ends before this date (format: "2006-01-02 15:04:05 -0700 -07")
    #[arg(
        long = "expiresBefore",
        value_name = "DATE",
        default_value = "",
        hide_default_value = true
    )]
    expires_before: String,
    #[command(flatten)]
    common: Common,
}

/// One agent.
#[derive(Debug, Args)]
pub(super) struct One {
    /// SPIFFE ID of the agent
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    spiffe_id: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Verb::List(verb) | Verb::Count(verb) => &verb.common,
            Verb::Show(verb) | Verb::Ban(verb) | Verb::Evict(verb) => &verb.common,
            Verb::Purge(verb) => verb.common(),
        };
        Session::run(common, host, async |session| match &self {
            Verb::List(verb) => verb.list(session).await,
            Verb::Count(verb) => verb.count(session).await,
            Verb::Show(verb) => verb.show(session).await,
            Verb::Ban(verb) => verb.ban(session).await,
            Verb::Evict(verb) => verb.evict(session).await,
            Verb::Purge(verb) => verb.purge(session).await,
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<AgentClient<Channel>, CliError> {
    let channel = session.channel().await?;
    Ok(AgentClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// The agents that pass `filter`, page by page.
async fn every_page(
    session: &mut Session<'_, '_>,
    client: &mut AgentClient<Channel>,
    filter: &list_agents_request::Filter,
    output_mask: Option<AgentMask>,
) -> Result<Vec<Agent>, CliError> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let call = client.list_agents(request(ListAgentsRequest {
            filter: Some(filter.clone()),
            output_mask,
            page_size: PAGE_SIZE,
            page_token,
        }));
        let page = session.call(call).await?;
        agents.extend(page.agents);
        if page.next_page_token.is_empty() {
            return Ok(agents);
        }
        page_token = page.next_page_token;
    }
}

impl Matching {
    async fn list(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let filter = list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone(),
            by_selector_match: self.by_selectors()?,
            by_banned: self.banned.parse().ok(),
            by_can_reattest: self.can_reattest.parse().ok(),
            by_expires_before: self.expires_before()?,
        };
        let mut client = client(session).await?;
        let agents = every_page(session, &mut client, &filter, None).await?;
        let listed = ListAgentsResponse {
            agents,
            next_page_token: String::new(),
        };
        let page = Page::of(session);
        session.print(
            "spire.api.server.agent.v1.ListAgentsResponse",
            &listed,
            || Ok(list_text(&listed.agents, &page)),
        )
    }

    async fn count(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let filter = count_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone(),
            by_selector_match: self.by_selectors()?,
            by_banned: self.banned.parse().ok(),
            by_can_reattest: self.can_reattest.parse().ok(),
            by_expires_before: self.expires_before()?,
        };
        let mut client = client(session).await?;
        let call = client.count_agents(request(CountAgentsRequest {
            filter: Some(filter),
        }));
        let counted = session.call(call).await?;
        session.print(
            "spire.api.server.agent.v1.CountAgentsResponse",
            &counted,
            || {
                let number = usize::try_from(counted.count).unwrap_or(0);
                Ok(text::count(number, "attested agent", "attested agents") + "\n")
            },
        )
    }

    fn by_selectors(&self) -> Result<Option<SelectorMatch>, CliError> {
        filter::by_selectors(&self.selector, &self.match_selectors_on).map_err(
            |error| match error {
                CliError::Match(_) => CliError::Flags("unsupported match behavior"),
                CliError::Selector(text) => CliError::While {
                    doing: format!("error parsing selector {text:?}"),
                    source: Box::new(CliError::Selector(text)),
                },
                other => other,
            },
        )
    }

    /// The date as it was given: the server parses it, but ignores what does not parse.
    fn expires_before(&self) -> Result<String, CliError> {
        let date = &self.expires_before;
        if date.is_empty() || is_date(date) {
            return Ok(date.clone());
        }
        Err(CliError::Date(date.clone()))
    }
}

/// Whether `text` has Go's form `2006-01-02 15:04:05 -0700 -07`.
fn is_date(text: &str) -> bool {
    const FORM: &str = "[year]-[month]-[day] [hour]:[minute]:[second] \
                        [offset_hour sign:mandatory][offset_minute]";
    let Some((date, zone)) = text.rsplit_once(' ') else {
        return false;
    };
    let zone_has_form = zone
        .strip_prefix(['+', '-'])
        .is_some_and(|hours| hours.len() == 2 && hours.bytes().all(|b| b.is_ascii_digit()));
    zone_has_form
        && parse_borrowed::<2>(FORM)
            .is_ok_and(|form| time::OffsetDateTime::parse(date, &form).is_ok())
}

impl One {
    fn id(&self) -> Result<Spiffeid, CliError> {
        if self.spiffe_id.is_empty() {
            return Err(CliError::Flags("a SPIFFE ID is required"));
        }
        filter::only_id(&self.spiffe_id)
    }

    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let message = GetAgentRequest {
            id: Some(self.id()?),
            output_mask: None,
        };
        let mut client = client(session).await?;
        let agent = session.call(client.get_agent(request(message))).await?;
        let page = Page::of(session);
        session.print("spire.api.types.Agent", &agent, || {
            Ok(show_text(&agent, &page))
        })
    }

    async fn ban(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let id = Some(self.id()?);
        let mut client = client(session).await?;
        let call = client.ban_agent(request(BanAgentRequest { id }));
        session.call(call).await?;
        session.print("google.protobuf.Empty", &(), || {
            Ok("Agent banned successfully\n".to_owned())
        })
    }

    async fn evict(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let id = Some(self.id()?);
        let mut client = client(session).await?;
        let call = client.delete_agent(request(DeleteAgentRequest { id }));
        session.call(call).await?;
        session.print("google.protobuf.Empty", &(), || {
            Ok("Agent evicted successfully\n".to_owned())
        })
    }
}

/// How agents are shown to whoever reads.
struct Page {
    zone: Zone,
    paint: Paint,
    now_unix_s: i64,
}

impl Page {
    fn of(session: &Session<'_, '_>) -> Self {
        Self {
            zone: session.zone(),
            paint: session.paint(),
            now_unix_s: session.now_unix_s(),
        }
    }
}

fn list_text(agents: &[Agent], page: &Page) -> String {
    if agents.is_empty() {
        return "No attested agents found\n".to_owned();
    }
    let found = text::count(agents.len(), "attested agent", "attested agents");
    let blocks: String = agents.iter().map(|agent| block(agent, page)).collect();
    // The number stands before `attested` in SPIRE's heading too.
    let heading = page.paint.apply(Tone::Strong, &format!("Found {found}:"));
    format!("{heading}\n\n{blocks}")
}

fn show_text(agent: &Agent, page: &Page) -> String {
    let heading = "Found an attested agent given its SPIFFE ID";
    let heading = page.paint.apply(Tone::Strong, heading);
    let mut text = format!("{heading}\n\n{}", block(agent, page));
    for selector in &agent.selectors {
        let label = page.paint.label("Selectors", LABEL_WIDTH);
        let _ = writeln!(text, "{label}{}:{}", selector.r#type, selector.value);
    }
    text
}

/// One agent, with an empty line behind it.
fn block(agent: &Agent, page: &Page) -> String {
    let paint = page.paint;
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{}{value}", paint.label(label, LABEL_WIDTH));
    };
    let id = text::id(agent.id.as_ref());
    line("SPIFFE ID", &paint.apply(Tone::Strong, &id));
    line("Attestation type", &agent.attestation_type);
    let mut expires = page.zone.date(agent.x509svid_expires_at);
    if agent.x509svid_expires_at <= page.now_unix_s {
        expires = paint.apply(Tone::Doubtful, &expires);
    }
    line("Expiration time", &expires);
    if agent.banned {
        line("Banned", &paint.apply(Tone::Bad, "true"));
    } else {
        line("Serial number", &agent.x509svid_serial_number);
    }
    line(
        "Can re-attest",
        if agent.can_reattest { "true" } else { "false" },
    );
    if !agent.agent_version.is_empty() {
        line("Agent version", &agent.agent_version);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use chancery_api::spire::api::types::Selector;

    use super::*;
    use crate::cli::paint::strip;

    /// A second before the agent's SVID ends.
    const PLAIN: Page = Page {
        zone: Zone::UTC,
        paint: Paint::Plain,
        now_unix_s: 1_552_410_265,
    };

    fn agent() -> Agent {
        Agent {
            id: Some(Spiffeid {
                trust_domain: "example.org".into(),
                path: "/spire/agent/join_token/one".into(),
            }),
            attestation_type: "join_token".into(),
            x509svid_serial_number: "42".into(),
            x509svid_expires_at: 1_552_410_266,
            selectors: vec![Selector {
                r#type: "k8s_psat".into(),
                value: "cluster:demo".into(),
            }],
            agent_version: "1.15.3".into(),
            ..Agent::default()
        }
    }

    #[test]
    fn one_agent_is_shown_as_spire_does() {
        assert_eq!(
            show_text(&agent(), &PLAIN),
            "Found an attested agent given its SPIFFE ID\n\n\
             SPIFFE ID         : spiffe://example.org/spire/agent/join_token/one\n\
             Attestation type  : join_token\n\
             Expiration time   : 2019-03-12 17:04:26 +0000 UTC\n\
             Serial number     : 42\n\
             Can re-attest     : false\n\
             Agent version     : 1.15.3\n\n\
             Selectors         : k8s_psat:cluster:demo\n"
        );
    }

    #[test]
    fn a_list_has_spire_s_headings() {
        assert_eq!(list_text(&[], &PLAIN), "No attested agents found\n");
        assert!(list_text(&[agent()], &PLAIN).starts_with("Found 1 attested agent:\n\nSPIFFE ID "));
        let two = list_text(&[agent(), agent()], &PLAIN);
        assert!(two.starts_with("Found 2 attested agents:\n\nSPIFFE ID "));
        assert!(two.ends_with("Agent version     : 1.15.3\n\n"));
    }

    #[test]
    fn a_banned_agent_shows_its_ban_in_place_of_a_serial() {
        let banned = Agent {
            banned: true,
            agent_version: String::new(),
            ..agent()
        };
        let text = block(&banned, &PLAIN);
        assert!(text.contains("Banned            : true\nCan re-attest     : false\n\n"));
        assert!(!text.contains("Serial number"));
    }

    #[test]
    fn colours_mark_bans_and_ends_and_leave_the_lines_as_they_are() {
        let banned = Agent {
            banned: true,
            ..agent()
        };
        let painted = |agent: &Agent, now_unix_s| {
            let page = Page {
                paint: Paint::Colours,
                now_unix_s,
                ..PLAIN
            };
            assert_eq!(strip(&show_text(agent, &page)), show_text(agent, &PLAIN));
            let list = list_text(std::slice::from_ref(agent), &page);
            assert_eq!(strip(&list), list_text(std::slice::from_ref(agent), &PLAIN));
            list
        };
        let ended = "\u{1b}[33m2019-03-12 17:04:26 +0000 UTC\u{1b}[0m\n";
        assert!(!painted(&agent(), 1_552_410_265).contains(ended));
        assert!(painted(&agent(), 1_552_410_266).contains(ended));
        assert!(painted(&banned, 0).contains("\u{1b}[31mtrue\u{1b}[0m\n"));
    }

    #[test]
    fn dates_have_go_s_form_or_are_refused() {
        assert!(is_date("2021-01-01 15:04:05 -0700 -07"));
        assert!(is_date("2021-12-31 00:00:00 +0000 +00"));
        for wrong in [
            "2001-13-05",
            "2021-13-01 15:04:05 -0700 -07",
            "2021-01-01 15:04:05 -0700",
            "2021-01-01 15:04:05 0700 -07",
            "2021-01-01 15:04:05 -0700 UTC",
            "2021-01-01T15:04:05 -0700 -07",
            "",
            " ",
        ] {
            assert!(!is_date(wrong), "{wrong}");
        }
    }
}
