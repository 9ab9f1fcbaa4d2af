//! What clients asked and were told, with the times of both, and its judgement by
//! `tests/linearizability`, a Go program on Porcupine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Longest time for the judgement of one object.
const OBJECT_LIMIT: Duration = Duration::from_secs(20);

/// Rules that an object follows; the models of the Go program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// A registration entry.
    Entry,
    /// A join token.
    Token,
    /// An agent that is banned some time.
    Agent,
    /// The shared slot of the JWT authorities.
    Authority,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer, as the model has it.
    Answer(String),
    /// It may or may not have taken effect.
    Unknown,
    /// It certainly took no effect, and told nothing.
    Nothing,
}

impl Outcome {
    /// A definite answer.
    pub fn of(answer: impl Into<String>) -> Self {
        Self::Answer(answer.into())
    }

    /// What a status says about a call that would have written.
    pub fn of_failed_write(status: &tonic::Status) -> Self {
        if status.message().contains("nothing was written") {
            Self::Nothing
        } else {
            Self::Unknown
        }
    }
}

/// One call; a line for the checker.
#[derive(Clone, Debug, Serialize)]
struct Operation {
    object: String,
    model: Model,
    client: usize,
    call: u128,
    #[serde(rename = "return")]
    back: Option<u128>,
    op: &'static str,
    arg: String,
    result: String,
    node: String,
}

/// What was found out about one object.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// Object.
    pub object: String,
    /// Operations in its history.
    pub operations: usize,
    /// `legal`, `illegal` or `unknown`.
    pub verdict: String,
    /// Time of the checker.
    pub seconds: f64,
    /// The history in words, where it is not legal.
    #[serde(default)]
    pub history: Vec<String>,
}

/// The calls of one round. Cheap to clone.
#[derive(Clone)]
pub struct History {
    start: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
    clients: Arc<AtomicUsize>,
}

/// A call that has begun.
#[must_use = "a call that has no end is not in the history"]
pub struct Call {
    history: History,
    operation: Operation,
}

impl History {
    /// An empty history that begins now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            operations: Arc::default(),
            clients: Arc::default(),
        }
    }

    /// A number that no other client has.
    pub fn client(&self) -> usize {
        self.clients.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins a call of `client` to `node`.
    pub fn call(
        &self,
        client: usize,
        (object, model): (&str, Model),
        node: usize,
        op: &'static str,
        arg: impl Into<String>,
    ) -> Call {
        let operation = Operation {
            object: object.to_owned(),
            model,
            client,
            call: self.start.elapsed().as_nanos(),
            back: None,
            op,
            arg: arg.into(),
            result: "?".into(),
            node: node.to_string(),
        };
        Call {
            history: self.clone(),
            operation,
        }
    }

    /// Calls that were told an answer.
    pub fn answered(&self) -> usize {
        let operations = self
            .operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        operations.iter().filter(|o| o.back.is_some()).count()
    }

    /// Writes the history to `file` and has it judged.
    pub fn judge(&self, checker: &Path, file: &Path) -> anyhow::Result<Vec<Verdict>> {
        let operations = self
            .operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        for operation in operations.iter() {
            serde_json::to_writer(&mut lines, operation)?;
            lines.push(b'\n');
        }
        drop(operations);
        std::fs::write(file, lines)?;
        let output = Command::new(checker)
            .arg("-limit")
            .arg(format!("{}s", OBJECT_LIMIT.as_secs()))
            .stdin(Stdio::from(std::fs::File::open(file)?))
            .output()
            .with_context(|| format!("cannot run {}", checker.display()))?;
        ensure!(
            output.status.success(),
            "the checker failed on {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        text.lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl Call {
    /// Ends the call. A call without effect and without answer leaves no trace; so does
    /// a read of which nothing is known.
    pub fn end(self, outcome: &Outcome) {
        let Self {
            history,
            mut operation,
        } = self;
        match outcome {
            Outcome::Answer(answer) => {
                operation.back = Some(history.start.elapsed().as_nanos());
                operation.result.clone_from(answer);
            }
            Outcome::Unknown if operation.op == "read" => return,
            Outcome::Unknown => {}
            Outcome::Nothing => return,
        }
        let mut operations = history
            .operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        operations.push(operation);
    }
}

/// Builds the checker into `dir`; go's own cache makes later builds quick.
pub fn build_checker(dir: &Path) -> anyhow::Result<PathBuf> {
    let program = dir.join("linearizability");
    crate::go::build("tests/linearizability", &program)?;
    Ok(program)
}
