//! What is in a snapshot or a backup, without a store: for people, and before it is
//! believed.
//!
//! [`inspect`] reads every frame and counts rows. [`verify`] also decodes every row and
//! holds it against its key, the rows of a table against those of its indexes in number,
//! and the header against the rows. Both are bounded in memory by a group of rows.

use std::collections::BTreeMap;
use std::io::Read;

use prost::Message;

use super::{Header, decode};
use crate::codec;
use crate::command::{FEATURE_LEVEL, Outcome, RequestId};
use crate::model::{
    Agent, Authority, BundleAuthority, Cluster, DownstreamCa, Entry, FederatedBundle,
    FederationRelationship, Holder, JoinToken, KeyIntent, Member, NodeToken, RequestMemory,
    TokenLogin,
};
use crate::store::StoreError;
use crate::types::LogId;
use crate::view::{Table, meta};

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Survey {
    /// As it stands in front.
    pub header: Header,
    /// Last applied log entry.
    pub applied: LogId,
    /// Facts of the cluster.
    pub cluster: Cluster,
    counts: BTreeMap<Table, u64>,
}

impl Survey {
    /// Rows of a table.
    pub fn count(&self, table: Table) -> u64 {
        self.counts.get(&table).copied().unwrap_or(0)
    }
}

/// Checks every checksum, and counts.
///
/// # Errors
/// What is wrong with the file.
pub fn inspect(input: impl Read) -> Result<Survey, StoreError> {
    survey(input, false)
}

/// Checks everything that can be checked without the log.
///
/// # Errors
/// What is wrong with the file, and in which table.
pub fn verify(input: impl Read) -> Result<Survey, StoreError> {
    survey(input, true)
}

fn survey(input: impl Read, deep: bool) -> Result<Survey, StoreError> {
    let mut counts: BTreeMap<Table, u64> = BTreeMap::new();
    let mut cluster = Cluster::default();
    let mut last = Vec::new();
    let header = decode(input, |header, rows| {
        for (row_key, value) in rows {
            let value = value.unwrap_or_default();
            let Some((table, key)) = Table::of(&row_key) else {
                return Err(bad(&format!(
                    "a row of unknown table {:?}; use the version that made the file",
                    row_key.first()
                )));
            };
            if table == Table::Meta && key == meta::CLUSTER {
                cluster = crate::view::decode(table, &value)?;
            }
            *counts.entry(table).or_default() += 1;
            if deep {
                if row_key <= last {
                    return Err(bad(&format!("rows of {table:?} are out of order")));
                }
                check_row(header, table, key, &value)?;
                last = row_key;
            }
        }
        Ok(())
    })?;
    if header.applied.is_empty() {
        return Err(bad("of a state before the first log entry"));
    }
    let survey = Survey {
        applied: codec::decode_log_id(&header.applied)?,
        header,
        cluster,
        counts,
    };
    if deep {
        check_whole(&survey)?;
    }
    Ok(survey)
}

fn bad(what: &str) -> StoreError {
    StoreError::corrupt(format!("snapshot: {what}"))
}

fn check_whole(survey: &Survey) -> Result<(), StoreError> {
    if survey.cluster.id != survey.header.cluster_id {
        return Err(bad("header and rows are of different clusters"));
    }
    let level = survey.cluster.feature_level;
    if level > FEATURE_LEVEL {
        return Err(bad(&format!(
            "of feature level {level}, and this version knows {FEATURE_LEVEL} at most; use the version that made it"
        )));
    }
    if let Some(origin) = &survey.header.origin
        && origin.trust_domain != survey.cluster.trust_domain
    {
        return Err(bad("header and rows are of different trust domains"));
    }
    codec::decode_membership(&survey.header.membership)?;
    for (table, index) in [
        (Table::Entries, Table::EntrySequence),
        (Table::Entries, Table::EntrySimilar),
        (Table::Entries, Table::EntryParent),
        (Table::Agents, Table::AgentSequence),
        (Table::Requests, Table::RequestOrder),
    ] {
        let (rows, indexed) = (survey.count(table), survey.count(index));
        if rows != indexed {
            return Err(bad(&format!(
                "{rows} rows of {table:?} and {indexed} of {index:?}"
            )));
        }
    }
    Ok(())
}

/// Whether a row decodes and stands under its own key.
fn check_row(header: &Header, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    let own_key = match table {
        Table::Meta => return check_meta(header, key, value),
        Table::Entries => message::<Entry>(table, value)?.id.into_bytes() == key,
        Table::Agents => message::<Agent>(table, value)?.path.into_bytes() == key,
        Table::JoinTokens => message::<JoinToken>(table, value)?.sha256 == key,
        Table::Authorities => {
            let authority: Authority = message(table, value)?;
            key.split_first().is_some_and(|(kind, id)| {
                i32::from(*kind) == authority.kind && id == authority.id.as_bytes()
            })
        }
        Table::Intents => message::<KeyIntent>(table, value)?.slot.into_bytes() == key,
        Table::Members => message::<Member>(table, value)?.node_id.to_be_bytes() == key,
        Table::FederatedBundles => {
            message::<FederatedBundle>(table, value)?
                .trust_domain
                .as_bytes()
                == key
        }
        Table::Relationships => {
            message::<FederationRelationship>(table, value)?
                .trust_domain
                .as_bytes()
                == key
        }
        Table::BundleAuthorities => {
            let authority: BundleAuthority = message(table, value)?;
            key.ends_with(&authority.sequence.to_be_bytes())
        }
        Table::DownstreamCas => {
            let ca: DownstreamCa = message(table, value)?;
            key.starts_with(&ca.expires_at.to_be_bytes()) && key.ends_with(ca.serial.as_bytes())
        }
        Table::Requests => {
            let memory: RequestMemory = message(table, value)?;
            message::<Outcome>(table, &memory.outcome)?;
            key.len() == 24
        }
        Table::RequestOrder | Table::RequestFloor => {
            message::<RequestId>(table, value)?;
            key.len() == 8
        }
        Table::TokenLogins => message::<TokenLogin>(table, value)?.serial.as_bytes() == key,
        Table::NodeTokens => message::<NodeToken>(table, value)?.sha256 == key,
        Table::RemovedMembers => key.len() == 8 && value.len() == 32,
        Table::Holders => crate::view::holder_key(&message::<Holder>(table, value)?) == key,
        Table::DeletedEntries => std::str::from_utf8(key).is_ok() && value.len() == 8,
        Table::EntrySequence | Table::AgentSequence => {
            key.len() == 8 && std::str::from_utf8(value).is_ok()
        }
        Table::EntrySimilar => key.len() > 32 && value.is_empty(),
        Table::EntryParent | Table::EntryFederation => key.contains(&0) && value.is_empty(),
    };
    if own_key {
        Ok(())
    } else {
        Err(bad(&format!("a row of {table:?} stands under a wrong key")))
    }
}

fn check_meta(header: &Header, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    let digest = header.origin.as_ref().map(|o| o.state_digest.as_slice());
    let right = match key {
        // Decoded by whoever calls.
        meta::CLUSTER => true,
        meta::APPLIED => value == header.applied,
        meta::MEMBERSHIP => value == header.membership,
        meta::DIGEST => digest.is_none_or(|digest| digest == value),
        meta::REQUESTS_FROM => value.len() == 8,
        _ => {
            return Err(bad(&format!(
                "an unknown row {:?}; use the version that made the file",
                String::from_utf8_lossy(key)
            )));
        }
    };
    if right {
        Ok(())
    } else {
        Err(bad(&format!(
            "the row {:?} is not what the header says",
            String::from_utf8_lossy(key)
        )))
    }
}

fn message<M: Message + Default>(table: Table, value: &[u8]) -> Result<M, StoreError> {
    crate::view::decode(table, value)
}
