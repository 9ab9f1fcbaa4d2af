//! Power loss: nodes are killed, and their disks forget what was never synced.
//!
//! strace reports what a node writes, makes, renames and syncs. A byte is durable once a
//! sync of its file that began after the write has come back; the name of a new file once
//! its directory was synced, which is less than most file systems give. After the kill the
//! bytes and names that are not durable are taken away, in one of the ways that disks
//! have. What was there when strace attached counts as durable, and a removal or a rename
//! without a sync of the directory is not undone.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use async_trait::async_trait;
use rustix::process::Signal;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use super::random::Random;
use super::tracer::Tracer;

const CALLS: &str = "trace=write,pwrite64,writev,pwritev,pwritev2,ftruncate,openat,rename,renameat,renameat2,link,linkat,\
                     unlink,unlinkat,fsync,fdatasync";

/// What disks write whole.
const SECTOR: u64 = 512;

/// Power loss at the same moment.
pub struct PowerLoss {
    /// Whose.
    pub victims: Vec<usize>,
    /// For the reader.
    pub whom: String,
    /// Decides when, and what the disks keep.
    pub random: Random,
    traced: Vec<Traced>,
}

struct Traced {
    node: usize,
    tracer: Tracer,
    files: Files,
}

impl PowerLoss {
    /// Of `victims`.
    pub fn new(victims: Vec<usize>, whom: &str, random: &Random) -> Self {
        Self {
            whom: format!("{whom} {victims:?}"),
            victims,
            random: random.clone(),
            traced: Vec::new(),
        }
    }
}

#[async_trait]
impl Injection for PowerLoss {
    fn says(&self) -> String {
        format!("power loss of {}", self.whom)
    }

    fn away(&self) -> Vec<usize> {
        self.victims.clone()
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        for node in self.victims.clone() {
            // Paths of descriptors, no contents.
            let tracer = Tracer::attach(cluster, node, &["-y", "-s", "0", "-e", CALLS]).await?;
            // After strace: bytes that both count are taken for durable, never for lost.
            let files = Files::found(&cluster.nodes[node].data_dir())?;
            self.traced.push(Traced {
                node,
                tracer,
                files,
            });
        }
        tokio::time::sleep(self.random.ms(200, 1_200)).await;
        for victim in &self.victims {
            cluster.nodes[*victim].kill()?;
        }
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let mut told = Vec::new();
        let mut lost = 0;
        for mut traced in std::mem::take(&mut self.traced) {
            let node = traced.node;
            let (signal, code) = cluster.nodes[node].ended().await?;
            if signal != Some(Signal::KILL.as_raw()) {
                let by_itself = format!("node {node} ended by itself, with {signal:?} {code:?}");
                return Ok(Seen::NotMet(by_itself));
            }
            traced.files.replay(&traced.tracer.last()?);
            let forgotten = traced.files.forget(&mut self.random)?;
            lost += forgotten.bytes;
            told.push(format!(
                "node {node} lost {} bytes in {} files and {} names",
                forgotten.bytes, forgotten.files, forgotten.names
            ));
        }
        for victim in self.victims.clone() {
            cluster.start_node(victim).await?;
        }
        Ok(Seen::when(lost > 0, told.join(", ")))
    }
}

/// What is durable of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    written: u64,
    durable: u64,
    /// Its name is.
    named: bool,
}

/// The files of a data directory.
struct Files {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

/// What a disk forgot.
#[derive(Debug, Default, PartialEq, Eq)]
struct Forgotten {
    bytes: u64,
    files: usize,
    names: usize,
}

impl Files {
    /// Those that are there, durable.
    fn found(root: &Path) -> anyhow::Result<Self> {
        let mut made = Self {
            root: root.to_path_buf(),
            files: BTreeMap::new(),
        };
        made.walk(root)?;
        Ok(made)
    }

    fn walk(&mut self, folder: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            // A file that is removed in this moment is none.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                self.walk(&path)?;
            } else {
                let written = metadata.len();
                self.files.insert(
                    path,
                    File {
                        written,
                        durable: written,
                        named: true,
                    },
                );
            }
        }
        Ok(())
    }

    /// Follows what strace reported.
    fn replay(&mut self, calls: &str) {
        // Calls that have begun in a thread and not come back: what they were and, for a
        // sync, what was written when it began.
        let mut begun: BTreeMap<&str, (String, u64)> = BTreeMap::new();
        for line in calls.lines() {
            let Some((thread, call)) = line.split_once(' ') else {
                continue;
            };
            let call = call.trim_start();
            if let Some(begins) = call.strip_suffix("<unfinished ...>") {
                begun.insert(thread, (begins.to_owned(), self.written_of(begins)));
            } else if let Some(rest) = call.strip_prefix("<... ") {
                let rest = rest.split_once("resumed>").map_or("", |(_, rest)| rest);
                if let Some((begins, written)) = begun.remove(thread) {
                    self.done(&format!("{begins}{rest}"), written);
                }
            } else {
                self.done(call, self.written_of(call));
            }
        }
    }

    /// Bytes written so far to the file of the call's first descriptor.
    fn written_of(&self, call: &str) -> u64 {
        let file = descriptor(call).and_then(|path| self.files.get(Path::new(path)));
        file.map_or(0, |f| f.written)
    }

    /// A call that has come back; `written` is what was written to its file when it began.
    fn done(&mut self, call: &str, written: u64) {
        let Some((head, result)) = call.rsplit_once(" = ") else {
            return;
        };
        let Some((name, args)) = head.split_once('(') else {
            return;
        };
        let value = result.split(['<', ' ']).next().unwrap_or_default();
        let Ok(value) = value.parse::<i64>() else {
            return;
        };
        let Ok(value) = u64::try_from(value) else {
            // It failed.
            return;
        };
        match name {
            "openat" if args.contains("O_CREAT") || args.contains("O_TRUNC") => {
                let made = descriptor(result).map(PathBuf::from);
                if let Some(path) = made.filter(|p| p.starts_with(&self.root)) {
                    let cut = args.contains("O_TRUNC");
                    let file = self.files.entry(path).or_insert(File {
                        written: 0,
                        durable: 0,
                        named: false,
                    });
                    if cut {
                        (file.written, file.durable) = (0, 0);
                    }
                }
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let mut paths = args.split('"').skip(1).step_by(2).map(PathBuf::from);
                if let (Some(from), Some(to)) = (paths.next(), paths.next())
                    && let Some(file) = self.files.get(&from).copied()
                {
                    if name.starts_with("rename") {
                        self.files.remove(&from);
                    }
                    // One that takes another's place has a name already: the old file or
                    // the new one has it after a power loss, and this model keeps the new.
                    let named = self.files.get(&to).is_some_and(|old| old.named);
                    self.files.insert(to, File { named, ..file });
                }
            }
            "unlink" | "unlinkat" => {
                if let Some(path) = args.split('"').nth(1) {
                    self.files.remove(Path::new(path));
                }
            }
            _ => self.on_descriptor(name, args, value, written),
        }
    }

    fn on_descriptor(&mut self, name: &str, args: &str, value: u64, written: u64) {
        let Some(path) = descriptor(args).map(PathBuf::from) else {
            return;
        };
        if matches!(name, "fsync" | "fdatasync") && !self.files.contains_key(&path) {
            for (file, state) in &mut self.files {
                state.named |= file.parent() == Some(path.as_path());
            }
            return;
        }
        let Some(file) = self.files.get_mut(&path) else {
            return;
        };
        // Offset, or length of a truncation: the last argument.
        let last = args.trim_end_matches(')').rsplit(", ").next();
        let last = last.and_then(|l| l.parse::<u64>().ok());
        match name {
            "write" | "writev" => file.written += value,
            "pwrite64" | "pwritev" => {
                let end = last.unwrap_or(file.written).saturating_add(value);
                file.written = file.written.max(end);
            }
            "ftruncate" => {
                file.written = last.unwrap_or(file.written);
                file.durable = file.durable.min(file.written);
            }
            "fsync" | "fdatasync" => file.durable = file.durable.max(written.min(file.written)),
            _ => {}
        }
    }

    /// Takes from the disk what is not durable.
    fn forget(&self, random: &mut Random) -> anyhow::Result<Forgotten> {
        let mut forgotten = Forgotten::default();
        for (path, file) in &self.files {
            let Ok(metadata) = std::fs::symlink_metadata(path) else {
                continue;
            };
            let told = || format!("cannot change {}", path.display());
            if !file.named {
                std::fs::remove_file(path).with_context(told)?;
                forgotten.names += 1;
                forgotten.bytes += metadata.len();
                continue;
            }
            if metadata.len() <= file.durable {
                continue;
            }
            // A part of the tail may have come down, or, in whole sectors, only the length.
            let tail = usize::try_from(metadata.len() - file.durable)?;
            let mut kept = file.durable;
            if random.below(3) > 0 {
                kept += random.below(tail) as u64;
            }
            let zeros = random.below(3) == 0;
            if zeros {
                kept = kept.next_multiple_of(SECTOR).min(metadata.len());
            }
            let on_disk = OpenOptions::new().write(true).open(path);
            let on_disk = on_disk.with_context(told)?;
            on_disk.set_len(kept).with_context(told)?;
            if zeros {
                on_disk.set_len(metadata.len()).with_context(told)?;
            }
            forgotten.files += 1;
            forgotten.bytes += metadata.len() - kept;
        }
        Ok(forgotten)
    }
}

/// Path of the first descriptor in a text of strace, `17</path>`.
fn descriptor(text: &str) -> Option<&str> {
    let path = text.get(text.find("</")? + 1..)?;
    path.get(..path.find('>')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(written: u64, durable: u64, named: bool) -> File {
        File {
            written,
            durable,
            named,
        }
    }

    #[test]
    fn only_what_was_written_before_a_sync_began_is_durable() {
        let mut files = Files {
            root: "/d".into(),
            files: BTreeMap::from([("/d/1.log".into(), file(10, 10, true))]),
        };
        files.replay(
            "7 write(3</d/1.log>, \"\"..., 5) = 5\n\
             7 fdatasync(3</d/1.log> <unfinished ...>\n\
             8 write(3</d/1.log>, \"\"..., 6) = 6\n\
             9 write(4<anon_inode:[eventfd]>, \"\"..., 8) = 8\n\
             7 <... fdatasync resumed>)              = 0\n\
             8 fdatasync(3</d/1.log>)                = -1 EIO (Input/output error)\n\
             8 openat(AT_FDCWD</>, \"/d/2.tmp\", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 5</d/2.tmp>\n\
             8 pwrite64(5</d/2.tmp>, \"\"..., 4, 8) = 4\n\
             8 fsync(5</d/2.tmp>) = 0\n\
             8 rename(\"/d/2.tmp\", \"/d/2\") = 0\n\
             8 openat(AT_FDCWD</>, \"/d/3\", O_RDWR|O_CREAT, 0600) = 6</d/3>\n\
             8 fsync(7</d>) = 0\n\
             8 openat(AT_FDCWD</>, \"/d/4\", O_RDWR|O_CREAT, 0600) = 6</d/4>\n",
        );
        let found: Vec<_> = files
            .files
            .iter()
            .map(|(path, file)| (path.to_str().unwrap(), *file))
            .collect();
        assert_eq!(
            found,
            [
                ("/d/1.log", file(21, 15, true)),
                ("/d/2", file(12, 12, true)),
                ("/d/3", file(0, 0, true)),
                ("/d/4", file(0, 0, false)),
            ]
        );
    }

    #[test]
    fn a_disk_forgets_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["kept", "cut", "unnamed"] {
            std::fs::write(path(name), [7; 100]).unwrap();
        }
        let files = Files {
            root: dir.path().to_path_buf(),
            files: BTreeMap::from([
                (path("kept"), file(100, 100, true)),
                (path("cut"), file(100, 40, true)),
                (path("unnamed"), file(100, 100, false)),
            ]),
        };
        for seed in 0..20 {
            std::fs::write(path("cut"), [7; 100]).unwrap();
            std::fs::write(path("unnamed"), [7; 100]).unwrap();
            let forgotten = files.forget(&mut Random::new(seed, 0)).unwrap();
            assert!((100..=160).contains(&forgotten.bytes), "{forgotten:?}");
            assert_eq!(std::fs::read(path("kept")).unwrap(), [7; 100]);
            let cut = std::fs::read(path("cut")).unwrap();
            assert_eq!(cut[..40], [7; 40]);
            assert!(!path("unnamed").exists());
        }
    }
}
