//! Entries: many, and compared by id and by similarity.

use std::collections::{BTreeMap, BTreeSet};

use chancery_api::spire::api::types::Entry;
use prost::Message;

use super::compare::{self, Digest};
use super::copy::{ALREADY_EXISTS, Copy, refusal};
use super::progress::Progress;
use super::report::{Fate, What};
use crate::cli::error::CliError;
use crate::cli::session::Session;

/// Entries in one request.
const BATCH_MAX: usize = 200;
/// Size of a request, in bytes; servers take 4 MiB. One entry may be larger alone.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What the target has, by digests: contents stay there.
#[derive(Default)]
struct Index {
    content: BTreeMap<String, Digest>,
    similar: BTreeMap<Digest, String>,
}

impl Index {
    /// Takes a canonical entry.
    fn add(&mut self, entry: &Entry) {
        let similarity = compare::similarity(entry);
        self.similar.insert(similarity, entry.id.clone());
        self.content
            .insert(entry.id.clone(), compare::content(entry));
    }
}

/// What a page needs the target for.
#[derive(Default)]
struct Plan {
    create: Vec<Entry>,
    overwrite: Vec<Entry>,
    different: Vec<Entry>,
}

impl Copy {
    pub(super) async fn entries(&mut self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut index = Index::default();
        let mut token = String::new();
        loop {
            let (entries, next) = self.target.entries(session, &token).await?;
            for entry in entries {
                index.add(&compare::canonical(entry));
            }
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let mut only_at_target: BTreeSet<String> = index.content.keys().cloned().collect();
        let total = self.source.count_entries(session).await?;
        let mut progress = Progress::start(What::Entries.name(), total);
        let mut token = String::new();
        loop {
            let (entries, next) = self.source.entries(session, &token).await?;
            let count = entries.len();
            let mut plan = Plan::default();
            for entry in entries {
                let entry = compare::canonical(entry);
                only_at_target.remove(&entry.id);
                if let Some(other) = self.look(entry, &index, &mut plan) {
                    only_at_target.remove(&other);
                }
            }
            self.carry_out(session, plan, &mut index).await?;
            progress.add(count, session)?;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        self.report.finish(What::Entries, only_at_target.len());
        progress.finish(session)
    }

    /// Decides on one entry; returns the id of a similar one at the target.
    fn look(&mut self, entry: Entry, index: &Index, plan: &mut Plan) -> Option<String> {
        let name = compare::entry_name(&entry);
        match index.content.get(&entry.id) {
            Some(content) if *content == compare::content(&entry) => {
                self.report.add(What::Entries, &name, Fate::Equal, "");
            }
            Some(_) if self.update && !self.dry_run => plan.overwrite.push(entry),
            Some(_) => plan.different.push(entry),
            None => match index.similar.get(&compare::similarity(&entry)) {
                Some(other) => {
                    self.report
                        .add(What::Entries, &name, Fate::Similar, similar(other));
                    return Some(other.clone());
                }
                None if self.dry_run => self.report.add(What::Entries, &name, Fate::Created, ""),
                None => plan.create.push(entry),
            },
        }
        None
    }

    async fn carry_out(
        &mut self,
        session: &mut Session<'_, '_>,
        plan: Plan,
        index: &mut Index,
    ) -> Result<(), CliError> {
        for entry in plan.different {
            self.tell_difference(session, &entry).await?;
        }
        for batch in batches(plan.overwrite) {
            let asked = batch.clone();
            let answers = self.target.write_entries(session, batch, true).await?;
            for (entry, (status, _)) in asked.iter().zip(answers) {
                let name = compare::entry_name(entry);
                match refusal(status.as_ref()) {
                    Some(why) => self.report.add(What::Entries, &name, Fate::Failed, why),
                    None => self.report.add(What::Entries, &name, Fate::Updated, ""),
                }
            }
        }
        for batch in batches(plan.create) {
            let asked = batch.clone();
            let answers = self.target.write_entries(session, batch, false).await?;
            for (entry, (status, there)) in asked.iter().zip(answers) {
                let name = compare::entry_name(entry);
                let code = status.as_ref().map(|status| status.code);
                match (refusal(status.as_ref()), there) {
                    (None, _) => {
                        index.add(entry);
                        self.report.add(What::Entries, &name, Fate::Created, "");
                    }
                    // Somebody else wrote it meanwhile, or the server finds similar what we do not.
                    (Some(_), Some(there)) if code == Some(ALREADY_EXISTS) => {
                        self.settle(&name, entry, there);
                    }
                    (Some(why), _) => self.report.add(What::Entries, &name, Fate::Failed, why),
                }
            }
        }
        Ok(())
    }

    /// An entry that was not created because `there` stands in its way.
    fn settle(&mut self, name: &str, entry: &Entry, there: Entry) {
        if there.id != entry.id {
            let why = similar(&there.id);
            return self.report.add(What::Entries, name, Fate::Similar, why);
        }
        let fields = compare::entry_fields(entry, &compare::canonical(there));
        let fate = if fields.is_empty() {
            Fate::Equal
        } else {
            Fate::Different
        };
        self.report
            .add(What::Entries, name, fate, fields.join(", "));
    }

    async fn tell_difference(
        &mut self,
        session: &mut Session<'_, '_>,
        entry: &Entry,
    ) -> Result<(), CliError> {
        let name = compare::entry_name(entry);
        let fate = if self.update {
            Fate::Updated
        } else {
            Fate::Different
        };
        let why = match self.target.entry(session, &entry.id).await? {
            Some(there) => compare::entry_fields(entry, &compare::canonical(there)).join(", "),
            None => "it has gone meanwhile; run again".to_owned(),
        };
        self.report.add(What::Entries, &name, fate, why);
        Ok(())
    }
}

fn similar(other: &str) -> String {
    format!("entry {other} at the target has the same SPIFFE ID, parent and selectors")
}

fn batches(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut batches: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = entry.encoded_len();
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MAX && bytes + size <= BATCH_BYTES_MAX => {
                bytes += size;
                batch.push(entry);
            }
            _ => {
                bytes = size;
                batches.push(vec![entry]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_number_and_size_and_keep_the_order() {
        let sized = |bytes: usize| Entry {
            hint: "x".repeat(bytes),
            ..Entry::default()
        };
        let lengths = |entries| -> Vec<usize> { batches(entries).iter().map(Vec::len).collect() };
        assert_eq!(lengths(vec![sized(1); 450]), [200, 200, 50]);
        assert_eq!(lengths(vec![sized(400_000); 5]), [2, 2, 1]);
        assert_eq!(lengths(vec![sized(2 << 20), sized(1)]), [1, 1]);
        assert_eq!(lengths(vec![]), Vec::<usize>::new());
    }
}
