//! One round: clients work, a fault comes and goes, the cluster heals, and what the
//! clients saw is judged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::clients::issuers::{self, Issuance, Signed, Workload};
use super::clients::journal::{self, Journal};
use super::clients::{World, agents, authorities, entries, tokens};
use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use super::random::Random;
use super::record::{self, Finding};

/// Clients work so long before the fault, and after the healing.
const STEADY: Duration = Duration::from_millis(1_200);
/// After the healing every node is ready, takes writes and signs within this time.
const HEAL_LIMIT: Duration = Duration::from_secs(45);
/// Afterwards all have one state within this time.
const CONVERGE_LIMIT: Duration = Duration::from_secs(20);
/// A node whose clock is far off signs no more after this time.
const MUTE_AFTER: Duration = Duration::from_secs(2);
/// Entries that clients share, and clients of each.
const ENTRIES: usize = 3;
const CLIENTS_OF_AN_ENTRY: usize = 3;
/// Histories of fewer answered calls prove little.
const ANSWERED_MIN: usize = 100;

/// What a round found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What happened, for the reader.
    pub told: Vec<String>,
    /// What must not be, one sentence each.
    pub violations: Vec<String>,
    /// Why the round proves nothing: the fault was not met, or hardly anybody called.
    pub no_coverage: Option<String>,
    /// From the fault to the next acknowledged write that began after it.
    pub write_after: Option<Duration>,
    /// From the healing until every node is ready and has acknowledged a write.
    pub healed_after: Option<Duration>,
    /// Answered calls in the histories.
    pub answered: usize,
    /// Acknowledged writes that were looked for on every node.
    pub written: usize,
    /// Documents that were signed.
    pub documents: usize,
    /// Objects whose history the checker could not judge in time, of all.
    pub unjudged: (usize, usize),
    /// Time of the checker.
    pub checker: Duration,
}

impl Report {
    /// The part that is kept.
    pub fn finding(&self, of: &str, turn: usize) -> Finding {
        Finding {
            of: of.to_owned(),
            turn,
            rounds: 1,
            not_met: self.no_coverage.clone(),
            violations: self.violations.clone(),
            write_after_ms: self.write_after.map(record::ms),
            healed_after_ms: self.healed_after.map(record::ms),
            answered: self.answered,
            histories: self.unjudged.1,
            unjudged: self.unjudged.0,
            written: self.written,
            documents: self.documents,
            notes: Vec::new(),
        }
    }
}

/// Tools of a run that each round uses.
pub struct Bench<'a> {
    /// The checker of histories.
    pub checker: &'a Path,
    /// The agent whose workload is signed for.
    pub workload: &'a Workload,
}

/// Runs a round. An error is of the harness; what the cluster did wrong is in the report.
pub async fn run(
    cluster: &mut Cluster,
    bench: &Bench<'_>,
    number: usize,
    injection: &mut dyn Injection,
    hold: Duration,
    mut random: Random,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let world = World::new(cluster, number);
    let (journal, issuance) = (Journal::default(), Issuance::default());
    let (wrong, mut wrongs) = tokio::sync::mpsc::channel(1_000);
    let clients = start(&world, &journal, &issuance, bench, wrong, &mut random).await?;
    tokio::time::sleep(STEADY).await;

    report.told.push(injection.says());
    for node in injection.away() {
        world.touch.set(node, false);
    }
    injection.begin(cluster).await?;
    let fault = Instant::now();
    tokio::time::sleep(hold).await;
    let ends = Instant::now();
    let met = injection.end(cluster).await?;
    let healed = Instant::now();
    match met {
        Seen::Met(how) => report.told.push(how),
        Seen::NotMet(why) => report.no_coverage = Some(why),
        Seen::Wrong(what) => report.violations.push(what),
    }

    let back = ready(cluster, injection, &journal, &issuance, healed, &mut report).await?;
    match back {
        Ok(()) => report.healed_after = Some(healed.elapsed()),
        Err(why) => report.violations.push(format!(
            "the cluster did not heal within {HEAL_LIMIT:?}: {why}\n{}",
            cluster.logs()
        )),
    }
    for node in injection.away() {
        world.touch.set(node, true);
    }
    tokio::time::sleep(STEADY).await;
    world.stop();
    for client in clients {
        client.await.context("a client ended badly")?;
    }

    let next = journal.acknowledged(fault);
    report.write_after = next.first().map(|line| line.back - fault);
    for node in injection.silent() {
        let taken = next.iter().find(|l| l.node == node && l.back < ends);
        report.violations.extend(
            taken.map(|line| format!("node {node}, without a quorum, acknowledged {}", line.path)),
        );
    }
    issued(cluster, injection, &issuance, (fault, ends), &mut report);
    while let Ok(why) = wrongs.try_recv() {
        report.violations.push(why);
    }
    if report.healed_after.is_some() {
        settle(cluster, &world, &journal, &mut report).await;
    }
    judge(cluster, bench, &world, &mut report)?;
    Ok(report)
}

/// Starts every client of a round.
async fn start(
    world: &World,
    journal: &Journal,
    issuance: &Issuance,
    bench: &Bench<'_>,
    wrong: tokio::sync::mpsc::Sender<String>,
    random: &mut Random,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let seed = random.below(usize::MAX) as u64;
    let mut purpose = 0;
    let mut next = || {
        purpose += 1;
        Random::new(seed, purpose)
    };
    let knowledge = authorities::Knowledge::default();
    authorities::begin(world, &knowledge).await?;
    let mut clients = Vec::new();
    for number in 0..ENTRIES {
        for _ in 0..CLIENTS_OF_AN_ENTRY {
            let id = entries::object(world.round, number);
            clients.push(tokio::spawn(entries::client(world.clone(), id, next())));
        }
    }
    clients.push(tokio::spawn(tokens::client(world.clone(), next())));
    for _ in 0..2 {
        clients.push(tokio::spawn(agents::client(
            world.clone(),
            next(),
            wrong.clone(),
        )));
    }
    for rival in [false, true] {
        let operator = authorities::operator(world.clone(), knowledge.clone(), rival, next());
        clients.push(tokio::spawn(operator));
        let reader = authorities::reader(world.clone(), knowledge.clone(), next());
        clients.push(tokio::spawn(reader));
    }
    for place in world.places.iter() {
        let (world, place) = (world.clone(), place.clone());
        clients.push(tokio::spawn(journal::writer(
            world.clone(),
            place.clone(),
            journal.clone(),
        )));
        let issuer = issuers::client(world, place, bench.workload.clone(), issuance.clone());
        clients.push(tokio::spawn(issuer));
    }
    Ok(clients)
}

/// Waits until every node is ready, and has acknowledged a write and signed a document that
/// were asked for after `healed`; the answer's error says what is missing. A process that
/// ended is started again, as an operator's supervisor does.
async fn ready(
    cluster: &mut Cluster,
    injection: &dyn Injection,
    journal: &Journal,
    issuance: &Issuance,
    healed: Instant,
    report: &mut Report,
) -> anyhow::Result<Result<(), String>> {
    loop {
        for index in 0..cluster.nodes.len() {
            let node = &mut cluster.nodes[index];
            if node.has_ended()? {
                let (signal, code) = node.ended().await?;
                let told = format!("node {index} ended by itself with {signal:?} {code:?}");
                if injection.may_end(index) {
                    report.told.push(told);
                } else {
                    report.violations.push(told);
                }
                cluster.start_node(index).await?;
            }
        }
        let written = journal.acknowledged(healed);
        let signed = issuance.tally().documents;
        let mut missing = None;
        for node in &cluster.nodes {
            let index = node.index;
            missing = match node.status().await {
                Err(error) => Some(format!("{error:#}")),
                Ok(status) if !status.ready => Some(format!("node {index} is not ready")),
                Ok(_) if !written.iter().any(|line| line.node == index) => {
                    Some(format!("node {index} acknowledges no write"))
                }
                Ok(_) if !signed.iter().any(|d| d.node == index && d.asked >= healed) => {
                    Some(format!("node {index} says ready and signs nothing"))
                }
                Ok(_) => continue,
            };
            break;
        }
        match missing {
            None => return Ok(Ok(())),
            Some(why) if healed.elapsed() >= HEAL_LIMIT => return Ok(Err(why)),
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Judges issuance: without a fail in touch with a quorum, and to the limit without one.
fn issued(
    cluster: &Cluster,
    injection: &dyn Injection,
    issuance: &Issuance,
    (fault, ends): (Instant, Instant),
    report: &mut Report,
) {
    let tally = issuance.tally();
    for place in 0..cluster.nodes.len() {
        let mine: Vec<&String> = tally
            .failures
            .iter()
            .filter(|(node, _)| *node == place)
            .map(|(_, why)| why)
            .collect();
        if let Some(first) = mine.first() {
            report.violations.push(format!(
                "node {place}, in touch with a quorum, did not sign {} documents, the first: {first}",
                mine.len()
            ));
        }
    }
    report.documents = tally.documents.len();
    report.told.push(format!(
        "documents {}, failed tries {}",
        tally.documents.len(),
        tally.refusals.len()
    ));
    for node in injection.mute() {
        let last = signed_until(&tally.documents, node, fault, ends);
        if last > MUTE_AFTER {
            report.violations.push(format!(
                "node {node}, whose clock is far off, signed {last:.2?} after the fault; the limit is {MUTE_AFTER:?}"
            ));
        }
        let late = |at: &Instant| *at > fault + MUTE_AFTER && *at < ends;
        if !tally.refusals.iter().any(|(n, at)| *n == node && late(at)) {
            report.no_coverage = Some(format!("node {node} was not asked while its clock was off"));
        }
    }
    let Some(limit) = cluster.shape.stale_limit_s.map(Duration::from_secs) else {
        return;
    };
    if ends - fault <= limit {
        return;
    }
    for node in injection.away() {
        let last = signed_until(&tally.documents, node, fault, ends);
        let refused = tally
            .refusals
            .iter()
            .any(|(n, at)| *n == node && *at > fault + limit && *at < ends);
        report
            .told
            .push(format!("node {node} signed for {last:.2?} of {limit:?}"));
        if last > limit {
            report.violations.push(format!(
                "node {node} signed {last:.2?} after it was cut off; the limit is {limit:?}"
            ));
        }
        if last.is_zero() {
            report.violations.push(format!(
                "node {node} stopped signing before its limit of {limit:?}"
            ));
        }
        if !refused {
            report.no_coverage = Some(format!("node {node} was not asked after its limit"));
        }
    }
}

/// For how long after the fault a node surely signed: until the last request whose answer
/// came before the healing began. A request that waited for a quorum until one was back was
/// signed by right, however early it was asked.
fn signed_until(documents: &[Signed], node: usize, fault: Instant, ends: Instant) -> Duration {
    documents
        .iter()
        .filter(|d| d.node == node && d.answered < ends)
        .map(|d| d.asked.saturating_duration_since(fault))
        .max()
        .unwrap_or_default()
}

/// What must hold once the cluster is whole again.
async fn settle(cluster: &Cluster, world: &World, journal: &Journal, report: &mut Report) {
    if let Err(error) = cluster.converged(CONVERGE_LIMIT).await {
        report.violations.push(format!("{error:#}"));
    }
    let wrong = journal::contradictions(world, journal).await;
    report.violations.extend(wrong);
    report.written = journal.acknowledged(world.began).len();
    for number in 0..ENTRIES {
        let id = entries::object(world.round, number);
        if let Err(why) = entries::read_everywhere(world, &id).await {
            report.violations.push(format!("{id}: {why}"));
        }
    }
    for node in &cluster.nodes {
        let panic = node
            .panics()
            .map(|line| format!("node {}: {line}", node.index));
        report.violations.extend(panic);
    }
}

/// Has the histories judged.
fn judge(
    cluster: &Cluster,
    bench: &Bench<'_>,
    world: &World,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.answered = world.history.answered();
    if report.answered < ANSWERED_MIN && report.no_coverage.is_none() {
        report.no_coverage = Some(format!("{} answered calls only", report.answered));
    }
    let file = cluster.dir().join(format!("history-{}.jsonl", world.round));
    let began = Instant::now();
    let verdicts = world.history.judge(bench.checker, &file)?;
    report.checker = began.elapsed();
    report.unjudged.1 = verdicts.len();
    for verdict in verdicts {
        match verdict.verdict.as_str() {
            "legal" => {}
            "illegal" => report.violations.push(format!(
                "the history of {} is not linearizable ({} operations, see {}):\n  {}",
                verdict.object,
                verdict.operations,
                file.display(),
                excerpt(&verdict.history)
            )),
            _ => report.unjudged.0 += 1,
        }
    }
    Ok(())
}

/// The first and last lines of a long history.
fn excerpt(history: &[String]) -> String {
    const LINES: usize = 30;
    if history.len() <= 2 * LINES {
        return history.join("\n  ");
    }
    let (first, last) = (&history[..LINES], &history[history.len() - LINES..]);
    format!("{}\n  ...\n  {}", first.join("\n  "), last.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_counts_when_it_was_asked_for_and_here_during_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let signed = |node, asked, answered| Signed {
            node,
            asked: at(asked),
            answered: at(answered),
        };
        let (fault, ends) = (at(1_000), at(9_000));
        let until = |documents: &[Signed]| signed_until(documents, 0, fault, ends);
        let before = signed(0, 900, 950);
        assert_eq!(until(&[before]), Duration::ZERO);
        let early = signed(0, 4_000, 4_010);
        let other = signed(1, 6_000, 6_010);
        assert_eq!(until(&[before, early, other]), Duration::from_millis(3_000));
        // It waited for the quorum that the healing brought back.
        let waited = signed(0, 8_600, 9_400);
        assert_eq!(until(&[early, waited]), Duration::from_millis(3_000));
        let late = signed(0, 8_600, 8_610);
        assert_eq!(until(&[early, waited, late]), Duration::from_millis(7_600));
    }
}
