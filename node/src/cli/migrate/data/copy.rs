//! A run: bans, then bundles, then relationships, then entries.

use std::collections::{BTreeMap, BTreeSet};

use chancery_api::spire::api::types::{Agent, Bundle, FederationRelationship, Status};

use super::super::peer::{Answer, Peer, of_one_item};
use super::compare;
use super::progress::Progress;
use super::report::{Fate, Report, What};
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::text::{self, code_name};

/// gRPC's number of `AlreadyExists`.
pub(super) const ALREADY_EXISTS: i32 = 6;
/// Bundles and relationships in one request.
const BATCH_MAX: usize = 50;

/// A run between two servers of one trust domain.
pub(super) struct Copy {
    pub(super) source: Peer,
    pub(super) target: Peer,
    pub(super) dry_run: bool,
    pub(super) update: bool,
    pub(super) report: Report,
}

impl Copy {
    pub(super) fn new(
        source: Peer,
        target: Peer,
        trust_domain: String,
        dry_run: bool,
        update: bool,
    ) -> Self {
        Self {
            source,
            target,
            dry_run,
            update,
            report: Report::new(trust_domain, dry_run),
        }
    }

    /// Everything, in an order in which nothing is served to a banned agent and no entry comes
    /// before the bundles that it federates with.
    ///
    /// # Errors
    /// What ends the run; refused items do not.
    pub(super) async fn all(&mut self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        self.bans(session).await?;
        if self.report.failed(What::Bans) > 0 {
            return Err(CliError::Batch(
                "a ban could not be copied; entries were not, so that the agent finds nothing to be \
                 served",
            ));
        }
        self.bundles(session).await?;
        self.relationships(session).await?;
        self.entries(session).await
    }

    pub(super) fn print(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let text = if session.is_json() {
            output::value_json(&self.report.json())?
        } else {
            self.report.pretty()
        };
        session.out(&text)
    }

    /// # Errors
    /// Where something failed.
    pub(super) fn verdict(&self) -> Result<(), CliError> {
        if self.report.has_failures() {
            return Err(CliError::Batch("some items could not be copied"));
        }
        Ok(())
    }

    async fn bans(&mut self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut at_target = BTreeSet::new();
        let mut token = String::new();
        loop {
            let (agents, next) = self.target.bans(session, &token).await?;
            at_target.extend(agents.iter().map(|agent| text::id(agent.id.as_ref())));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let total = self.source.count_bans(session).await?;
        let mut progress = Progress::start(What::Bans.name(), total);
        let mut token = String::new();
        loop {
            let (agents, next) = self.source.bans(session, &token).await?;
            let count = agents.len();
            for agent in agents {
                self.ban(session, agent, &mut at_target).await?;
            }
            progress.add(count, session)?;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        self.report.finish(What::Bans, at_target.len());
        progress.finish(session)
    }

    async fn ban(
        &mut self,
        session: &mut Session<'_, '_>,
        agent: Agent,
        at_target: &mut BTreeSet<String>,
    ) -> Result<(), CliError> {
        let name = text::id(agent.id.as_ref());
        let (fate, why) = if at_target.remove(&name) {
            (Fate::Equal, String::new())
        } else if self.dry_run {
            (Fate::Created, String::new())
        } else {
            match self.target.import_ban(session, agent).await {
                Ok(()) => (Fate::Created, String::new()),
                Err(error) => match of_one_item(&error) {
                    Some(why) => (Fate::Failed, why),
                    None => return Err(error),
                },
            }
        };
        self.report.add(What::Bans, &name, fate, why);
        Ok(())
    }

    async fn bundles(&mut self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut at_target: BTreeMap<String, Bundle> = BTreeMap::new();
        let mut token = String::new();
        loop {
            let (bundles, next) = self.target.bundles(session, &token).await?;
            at_target.extend(bundles.into_iter().map(|b| (b.trust_domain.clone(), b)));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let mut progress = Progress::start(What::Bundles.name(), 0);
        let mut token = String::new();
        loop {
            let (bundles, next) = self.source.bundles(session, &token).await?;
            let count = bundles.len();
            let plan = self.plan(What::Bundles, bundles, |bundle| {
                // No call of SPIRE's writes these to a federated bundle.
                bundle.wit_authorities.clear();
                let name = bundle.trust_domain.clone();
                let fields = at_target
                    .remove(&name)
                    .map(|there| compare::bundle_fields(bundle, &there));
                (name, fields)
            });
            for (overwrite, items) in plan {
                for batch in batches(items) {
                    let names = batch.iter().map(|b| b.trust_domain.clone()).collect();
                    let answers = self.target.write_bundles(session, batch, overwrite).await?;
                    self.written(What::Bundles, names, answers, overwrite);
                }
            }
            progress.add(count, session)?;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        self.report.finish(What::Bundles, at_target.len());
        progress.finish(session)
    }

    async fn relationships(&mut self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut at_target: BTreeMap<String, FederationRelationship> = BTreeMap::new();
        let mut token = String::new();
        loop {
            let (listed, next) = self.target.relationships(session, &token).await?;
            at_target.extend(listed.into_iter().map(|r| (r.trust_domain.clone(), r)));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let mut progress = Progress::start(What::Relationships.name(), 0);
        let mut token = String::new();
        loop {
            let (listed, next) = self.source.relationships(session, &token).await?;
            let count = listed.len();
            let plan = self.plan(What::Relationships, listed, |relationship| {
                // Bundles were copied on their own.
                relationship.trust_domain_bundle = None;
                let name = relationship.trust_domain.clone();
                let fields = at_target
                    .remove(&name)
                    .map(|there| compare::relationship_fields(relationship, &there));
                (name, fields)
            });
            for (overwrite, items) in plan {
                for batch in batches(items) {
                    let names = batch.iter().map(|r| r.trust_domain.clone()).collect();
                    let written = self.target.write_relationships(session, batch, overwrite);
                    let answers = written.await?;
                    self.written(What::Relationships, names, answers, overwrite);
                }
            }
            progress.add(count, session)?;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        self.report.finish(What::Relationships, at_target.len());
        progress.finish(session)
    }

    /// Sorts items into those to create and those to overwrite; what needs no call is reported.
    /// `look` gives an item's name and, where it is at the target, in which fields it differs.
    fn plan<T>(
        &mut self,
        what: What,
        items: Vec<T>,
        mut look: impl FnMut(&mut T) -> (String, Option<Vec<&'static str>>),
    ) -> [(bool, Vec<T>); 2] {
        let (mut create, mut overwrite) = (Vec::new(), Vec::new());
        for mut item in items {
            let (name, fields) = look(&mut item);
            match fields {
                None if self.dry_run => self.report.add(what, &name, Fate::Created, ""),
                None => create.push(item),
                Some(fields) if fields.is_empty() => self.report.add(what, &name, Fate::Equal, ""),
                Some(fields) if !self.update => {
                    self.report
                        .add(what, &name, Fate::Different, fields.join(", "));
                }
                Some(fields) if self.dry_run => {
                    self.report
                        .add(what, &name, Fate::Updated, fields.join(", "));
                }
                Some(_) => overwrite.push(item),
            }
        }
        [(false, create), (true, overwrite)]
    }

    fn written<T>(
        &mut self,
        what: What,
        names: Vec<String>,
        answers: Vec<Answer<T>>,
        overwrite: bool,
    ) {
        for (name, (status, _)) in names.iter().zip(answers) {
            match refusal(status.as_ref()) {
                Some(why) => self.report.add(what, name, Fate::Failed, why),
                None if overwrite => self.report.add(what, name, Fate::Updated, ""),
                None => self.report.add(what, name, Fate::Created, ""),
            }
        }
    }
}

fn batches<T>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    for item in items {
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MAX => batch.push(item),
            _ => batches.push(vec![item]),
        }
    }
    batches
}

/// Why an item was refused, if it was. No status is SPIRE's way of saying nothing, which is no yes.
pub(super) fn refusal(status: Option<&Status>) -> Option<String> {
    match status {
        Some(status) if status.code == 0 => None,
        Some(status) => Some(format!("{}: {}", code_name(status.code), status.message)),
        None => Some("the server gave no status".to_owned()),
    }
}
