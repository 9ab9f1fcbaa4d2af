//! After any error of the store the process ends, non-zero, and says why.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::eventually;

use crate::node::{Solo, order, write};

/// Enough for a snapshot, and for the log behind it to be purged.
const WRITES: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_any_persisted_step_ends_the_process() -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for point in [
        "append.before",
        "append.after",
        "apply.before",
        "purge.before",
        "snapshot.written",
        "snapshot.renamed",
        "high-water.written",
    ] {
        let raft = "[raft]\nsnapshot_after_entries = 100\nentries_kept_after_snapshot = 0\n";
        let solo = Solo::start(&[("CHANCERY_FAULT_POINTS", "1")], raft).await?;
        order(&solo.node, point, "error")?;
        // Some of them come only with a snapshot.
        for n in 0..WRITES {
            if write(&solo.cluster, &solo.node, &format!("/e/{n}"))
                .await
                .is_err()
            {
                break;
            }
        }
        let (code, said) = solo.end().await.context(point)?;
        ensure!(code == Some(1), "{point}: ended with {code:?}: {said}");
        ensure!(said.contains("Input/output error"), "{point}: {said}");
        seen.push(point);
    }
    println!(
        "an error at each of {} steps ended the process with exit code 1: {seen:?}",
        seen.len()
    );
    Ok(())
}

/// The same from below: the system call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_ends_the_process() -> anyhow::Result<()> {
    for call in ["fdatasync", "fsync"] {
        let solo = Solo::start(&[], "").await?;
        let pid = solo.process.id().unwrap_or_default().to_string();
        let mut strace = tokio::process::Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid])
            .args([
                "-e",
                &format!("trace={call}"),
                "-e",
                &format!("inject={call}:error=EIO"),
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let tracer = format!("/proc/{pid}/status");
        eventually("the tracer", Duration::from_secs(30), || async {
            let status = std::fs::read_to_string(&tracer)?;
            Ok((!status.contains("TracerPid:\t0")).then_some(()))
        })
        .await?;
        // The write-ahead log is synced with fdatasync, the high-water mark with fsync: it
        // follows a second later, and the next write meets its error.
        let mut attempt = 0;
        eventually("a refused write", Duration::from_secs(30), || {
            attempt += 1;
            let (solo, name) = (&solo, format!("/e/{attempt}"));
            async move {
                let written = write(&solo.cluster, &solo.node, &name).await;
                Ok(written.is_err().then_some(()))
            }
        })
        .await?;
        let (code, said) = solo.end().await?;
        strace.kill().await?;
        ensure!(code == Some(1), "{call}: ended with {code:?}: {said}");
        ensure!(
            said.contains("IO error") || said.contains("Input/output error"),
            "{call}: {said}"
        );
        println!("{call} fails: {}", said.lines().next().unwrap_or_default());
    }
    Ok(())
}
