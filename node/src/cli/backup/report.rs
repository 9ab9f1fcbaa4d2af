//! What `backup save`, `inspect` and `verify` tell of a file.
//!
//! The JSON's names may be added to, never changed.

use std::fmt::Write as _;
use std::path::Path;

use chancery_raft_store::snapshot::Survey;
use chancery_raft_store::view::Table;
use serde::Serialize;

use crate::backup::ended;
use crate::cli::error::CliError;
use crate::cli::text;

/// The whole object.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    file: String,
    bytes: u64,
    /// Null for a snapshot that a node made for itself.
    format: Option<u32>,
    created_at: Option<String>,
    stale_ms: Option<i64>,
    node_id: Option<String>,
    version: Option<String>,
    state_digest: Option<String>,
    cluster_id: String,
    trust_domain: String,
    log_index: u64,
    term: u64,
    counts: Counts,
    past_epochs: Vec<PastEpochReport>,
    /// Every row was decoded too.
    verified: bool,
}

#[derive(Debug, Serialize)]
struct Counts {
    entries: u64,
    agents: u64,
    join_tokens: u64,
    authorities: u64,
    bundles: u64,
    federation_relationships: u64,
    bundle_authorities: u64,
    downstream_cas: u64,
    members: u64,
    remembered_requests: u64,
}

#[derive(Debug, Serialize)]
struct PastEpochReport {
    cluster_id: String,
    log_index: u64,
    how: &'static str,
    at: String,
    by: String,
    state_of: String,
    first_node: String,
}

fn moment(unix_ms: i64) -> String {
    text::rfc3339(unix_ms.div_euclid(1000))
}

impl Report {
    /// # Errors
    /// [`CliError::File`].
    pub(super) fn of(file: &Path, survey: &Survey, verified: bool) -> Result<Self, CliError> {
        let bytes = std::fs::metadata(file)
            .map_err(|source| CliError::File {
                path: file.to_owned(),
                source,
            })?
            .len();
        let origin = survey.header.origin.as_ref();
        let past_epochs = survey
            .cluster
            .past_epochs
            .iter()
            .map(|past| PastEpochReport {
                cluster_id: past.cluster_id.clone(),
                log_index: past.log_index,
                how: ended(past),
                at: moment(past.ended_at_ms),
                by: past.ended_by.clone(),
                state_of: moment(past.state_at_ms),
                first_node: past.successor.to_string(),
            });
        let count = |table| survey.count(table);
        Ok(Self {
            file: file.display().to_string(),
            bytes,
            format: origin.map(|o| o.format),
            created_at: origin.map(|o| moment(o.created_at_ms)),
            stale_ms: origin.and_then(|o| o.stale_ms),
            node_id: origin.map(|o| o.node_id.to_string()),
            version: origin.map(|o| o.program_version.clone()),
            state_digest: origin.map(|o| hex::encode(&o.state_digest)),
            cluster_id: survey.header.cluster_id.clone(),
            trust_domain: survey.cluster.trust_domain.clone(),
            log_index: survey.applied.index,
            term: survey.applied.leader_id.term,
            counts: Counts {
                entries: count(Table::Entries),
                agents: count(Table::Agents),
                join_tokens: count(Table::JoinTokens),
                authorities: count(Table::Authorities),
                bundles: count(Table::FederatedBundles),
                federation_relationships: count(Table::Relationships),
                bundle_authorities: count(Table::BundleAuthorities),
                downstream_cas: count(Table::DownstreamCas),
                members: count(Table::Members),
                remembered_requests: count(Table::Requests),
            },
            past_epochs: past_epochs.collect(),
            verified,
        })
    }

    /// For people.
    pub(super) fn pretty(&self) -> String {
        let mut page = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(page, "{name:<13} : {value}");
        };
        line("Backup", &format!("{}, {}", self.file, size(self.bytes)));
        line(
            "Cluster",
            &format!("{} of trust domain {}", self.cluster_id, self.trust_domain),
        );
        line(
            "Log position",
            &format!("{} (term {})", self.log_index, self.term),
        );
        match (&self.created_at, &self.node_id, &self.version) {
            (Some(at), Some(node), Some(version)) => {
                line("Made", &format!("{at} by node {node}, version {version}"));
            }
            _ => line("Made", "by a node for itself: it cannot be restored"),
        }
        match self.stale_ms {
            None => {}
            Some(-1) => line("Not confirmed", "no quorum confirmed this state"),
            Some(ms) => line(
                "Not confirmed",
                &format!("the last quorum confirmed it {ms} ms before"),
            ),
        }
        if let Some(digest) = &self.state_digest {
            line("State digest", digest);
        }
        let counts = &self.counts;
        let words = [
            text_count(counts.entries, "entry", "entries"),
            text_count(counts.agents, "agent", "agents"),
            text_count(counts.join_tokens, "join token", "join tokens"),
            text_count(counts.authorities, "authority", "authorities"),
            text_count(counts.bundles, "federated bundle", "federated bundles"),
            text_count(counts.members, "member", "members"),
        ];
        line("Holds", &words.join(", "));
        for past in &self.past_epochs {
            line(
                "Epoch before",
                &format!(
                    "cluster {} to log position {}, {} at {} by {}",
                    past.cluster_id, past.log_index, past.how, past.at, past.by
                ),
            );
        }
        line(
            "Checked",
            match self.verified {
                true => "every checksum and every row",
                false => "every checksum; chancery backup verify also reads every row",
            },
        );
        page
    }
}

fn text_count(number: u64, one: &str, many: &str) -> String {
    text::count(usize::try_from(number).unwrap_or(usize::MAX), one, many)
}

/// `812 bytes`, `1.2 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..KIB => format!("{bytes} bytes"),
        KIB..MIB => format!("{} KiB", tenths(KIB)),
        _ => format!("{} MiB", tenths(MIB)),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        for (bytes, said) in [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (5 << 30, "5120.0 MiB"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }
}
