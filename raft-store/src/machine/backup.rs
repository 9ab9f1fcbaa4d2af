//! A backup: a snapshot of the running state, written wherever the caller wants.

use std::io::{self, Write};

use super::Registry;
use super::transfer::{current_column, for_each_row, header};
use crate::model::Cluster;
use crate::snapshot::{Encoder, Header, Origin};
use crate::store::{Reader, StoreError};
use crate::view::{Table, meta};

/// What the maker of a backup knows and the state does not.
#[derive(Clone, Debug)]
pub struct BackupMaker {
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Node that makes it.
    pub node_id: u64,
    /// Version of the program.
    pub program_version: String,
    /// Where no quorum confirmed the state: its age in milliseconds, -1 for unknown.
    pub stale_ms: Option<i64>,
}

impl Registry {
    /// Writes the state as it is now, all of one log position, while `apply` goes on.
    /// Blocks for as long as `out` takes: call it on a thread of its own.
    ///
    /// # Errors
    /// Those of `out`; a store that cannot be read; a state before the founding.
    pub fn write_backup<W: Write>(&self, out: W, maker: &BackupMaker) -> io::Result<Header> {
        let mut out = Some(out);
        let mut written = Err(io::Error::other("the store gave no moment to read at"));
        self.shared
            .store
            .at_this_moment(&mut || {}, &mut |moment| {
                if let Some(out) = out.take() {
                    written = write(moment, out, maker);
                }
                Ok(())
            })?;
        written
    }
}

fn write(moment: &dyn Reader, out: impl Write, maker: &BackupMaker) -> io::Result<Header> {
    // The pointer is of the same moment: an install may flip it at any time.
    let column = current_column(moment)?;
    let cluster = moment.get(column, &Table::Meta.key(meta::CLUSTER))?;
    let cluster: Cluster = match cluster {
        Some(bytes) => crate::view::decode(Table::Meta, &bytes)?,
        None => return Err(io::Error::other("the cluster is not founded yet")),
    };
    let origin = Origin {
        format: Origin::FORMAT,
        created_at_ms: maker.created_at_ms,
        trust_domain: cluster.trust_domain,
        node_id: maker.node_id,
        program_version: maker.program_version.clone(),
        state_digest: moment
            .get(column, &Table::Meta.key(meta::DIGEST))?
            .unwrap_or_default(),
        stale_ms: maker.stale_ms,
    };
    let header = Header {
        origin: Some(origin),
        ..header(moment, column)?
    };
    let mut encoder = Encoder::new(out, header.clone())?;
    for_each_row(moment, column, &mut |key, value| {
        encoder
            .row(key, value)
            .map_err(|e| StoreError::corrupt(format!("cannot write the backup: {e}")))
    })?;
    encoder.finish()?;
    Ok(header)
}
