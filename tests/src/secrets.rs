//! Looks for secrets where they must not be: in files and in the memory of processes, in the forms
//! in which programs keep and print numbers.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use anyhow::Context as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Read at a time.
const CHUNK: usize = 4 << 20;

/// A search for secrets in all their forms.
pub struct Search {
    forms: Vec<Form>,
    automaton: AhoCorasick,
    longest: usize,
}

struct Form {
    secret: usize,
    name: &'static str,
    bytes: Vec<u8>,
}

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Which, in the order they were given.
    pub secret: usize,
    /// In which form.
    pub form: &'static str,
    /// The file, or the process and the mapping.
    pub place: String,
}

/// What a search looked through.
#[derive(Clone, Debug, Default)]
pub struct Searched {
    /// Bytes.
    pub bytes: u64,
    /// What was there.
    pub found: BTreeSet<Found>,
}

/// Each word of so many bytes turned round.
fn turned(secret: &[u8], word: usize) -> Vec<u8> {
    let words = secret.chunks(word);
    words.flat_map(|w| w.iter().rev().copied()).collect()
}

fn reversed(secret: &[u8]) -> Vec<u8> {
    secret.iter().rev().copied().collect()
}

/// Part of a Base64 text that every text has in which the secret stands at this offset of three.
fn base64_core(engine: &impl base64::Engine, secret: &[u8], offset: usize) -> Vec<u8> {
    let padded = [&vec![0; offset][..], secret].concat();
    let text = engine.encode(&padded);
    // Characters that hold bits of other bytes: those of the padding, and the last.
    let from = (offset * 8).div_ceil(6);
    let to = padded.len() * 8 / 6;
    text.as_bytes()[from..to].to_vec()
}

fn forms_of(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let backwards = reversed(secret);
    let mut forms = vec![
        ("raw", secret.to_vec()),
        ("reversed", backwards.clone()),
        ("hex", hex::encode(secret).into_bytes()),
        ("upper-case hex", hex::encode_upper(secret).into_bytes()),
        ("reversed hex", hex::encode(&backwards).into_bytes()),
    ];
    for word in [4, 8] {
        forms.push(("bytes of words swapped", turned(secret, word)));
        forms.push(("words swapped", turned(&backwards, word)));
    }
    for offset in 0..3 {
        for text in [
            base64_core(&STANDARD_NO_PAD, secret, offset),
            base64_core(&URL_SAFE_NO_PAD, secret, offset),
        ] {
            // A line may end in one half, not in both.
            let (first, second) = text.split_at(text.len() / 2);
            forms.push(("base64", first.to_vec()));
            forms.push(("base64", second.to_vec()));
        }
    }
    forms
}

impl Search {
    /// A search for these secrets, of 16 bytes at least: shorter ones are found by chance.
    ///
    /// # Errors
    /// Too many of them.
    pub fn new(secrets: &[Vec<u8>]) -> anyhow::Result<Self> {
        let mut forms = Vec::new();
        for (secret, bytes) in secrets.iter().enumerate() {
            anyhow::ensure!(bytes.len() >= 16, "a secret of {} bytes", bytes.len());
            let of = forms_of(bytes).into_iter();
            forms.extend(of.map(|(name, bytes)| Form {
                secret,
                name,
                bytes,
            }));
        }
        let longest = forms.iter().map(|form| form.bytes.len()).max().unwrap_or(0);
        let automaton = AhoCorasick::new(forms.iter().map(|form| &form.bytes))?;
        Ok(Self {
            forms,
            automaton,
            longest,
        })
    }

    fn look(&self, bytes: &[u8], place: &str, searched: &mut Searched) {
        for hit in self.automaton.find_overlapping_iter(bytes) {
            let form = &self.forms[hit.pattern()];
            searched.found.insert(Found {
                secret: form.secret,
                form: form.name,
                place: place.to_owned(),
            });
        }
    }

    /// Looks through a range that may have holes; `read` fills a buffer from a position and says
    /// how much it got.
    fn range(
        &self,
        (from, to): (u64, u64),
        place: &str,
        searched: &mut Searched,
        mut read: impl FnMut(&mut [u8], u64) -> std::io::Result<usize>,
    ) {
        let mut buffer = vec![0; CHUNK];
        let mut at = from;
        while at < to {
            let wanted = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
            let got = match read(&mut buffer[..wanted], at) {
                Ok(got) if got > 0 => got,
                // A page that is not there: on behind it.
                _ => {
                    at += 4096;
                    continue;
                }
            };
            self.look(&buffer[..got], place, searched);
            searched.bytes += got as u64;
            at += got as u64;
            if at < to && got > self.longest {
                // What lies across the seam.
                at -= self.longest as u64;
            }
        }
    }

    /// Looks through every file below a folder.
    ///
    /// # Errors
    /// The folder cannot be read. A file that went meanwhile is no error.
    pub fn files(&self, folder: &Path) -> anyhow::Result<Searched> {
        let mut searched = Searched::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder);
            for entry in entries.with_context(|| folder.display().to_string())? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    self.file(&entry.path(), &mut searched)?;
                }
            }
        }
        Ok(searched)
    }

    fn file(&self, path: &PathBuf, searched: &mut Searched) -> anyhow::Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let length = file.metadata()?.len();
        let place = path.display().to_string();
        self.range((0, length), &place, searched, |buffer, at| {
            file.read_at(buffer, at)
        });
        Ok(())
    }

    /// Looks through all memory that a process has mapped.
    ///
    /// # Errors
    /// It may not be looked at: this takes the rights of root.
    pub fn memory(&self, pid: u32) -> anyhow::Result<Searched> {
        let mut searched = Searched::default();
        let memory = Memory::of(pid)?;
        for mapping in memory.mappings()? {
            let place = format!("memory of {pid}, {}", mapping.name);
            self.range(mapping.range, &place, &mut searched, |buffer, at| {
                memory.file.read_at(buffer, at)
            });
        }
        Ok(searched)
    }
}

/// Memory of a process.
pub struct Memory {
    pid: u32,
    file: File,
}

/// A part of it.
pub struct Mapping {
    /// First address, and the first behind it.
    pub range: (u64, u64),
    /// Whether the process may write there.
    pub writable: bool,
    /// File or `[heap]` and the like; empty for other memory of its own.
    pub name: String,
}

impl Memory {
    /// # Errors
    /// It may not be looked at: this takes the rights of root.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/mem");
        let file = File::open(&path)
            .with_context(|| format!("{path}: reading another process's memory takes root"))?;
        Ok(Self { pid, file })
    }

    /// What is mapped and can be read.
    ///
    /// # Errors
    /// The process has ended.
    pub fn mappings(&self) -> anyhow::Result<Vec<Mapping>> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let mut mappings = Vec::new();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (range, rights) = (fields.next(), fields.next());
            let (range, rights) = range.zip(rights).context("a line of maps")?;
            let name = fields.nth(3).unwrap_or_default();
            // The kernel's own pages cannot be read this way.
            if !rights.starts_with('r') || name.starts_with("[v") {
                continue;
            }
            let (from, to) = range.split_once('-').context("a range")?;
            mappings.push(Mapping {
                range: (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?),
                writable: rights.starts_with("rw"),
                name: name.to_owned(),
            });
        }
        Ok(mappings)
    }

    /// The bytes of a mapping; pages that are not there are zero.
    pub fn read(&self, mapping: &Mapping) -> Vec<u8> {
        let (from, to) = mapping.range;
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
        for (page, chunk) in (0u64..).zip(bytes.chunks_mut(4096)) {
            // Zero where it cannot be read.
            let _ = self.file.read_at(chunk, from + page * 4096);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn secret() -> Vec<u8> {
        (0..32u8)
            .map(|n| n.wrapping_mul(73).wrapping_add(11))
            .collect()
    }

    fn forms_in(content: &[u8]) -> BTreeSet<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below/file"), content).unwrap();
        let search = Search::new(&[secret()]).unwrap();
        let found = search.files(folder.path()).unwrap().found;
        found.into_iter().map(|found| found.form).collect()
    }

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let secret = secret();
        let words = |size: usize| -> Vec<u8> {
            let words: Vec<_> = secret.chunks(size).collect();
            words.into_iter().rev().flatten().copied().collect()
        };
        let bytes_of_words = |size: usize| -> Vec<u8> {
            let words = secret.chunks(size);
            words.flat_map(|w| w.iter().rev().copied()).collect()
        };
        let forms: Vec<(&str, Vec<u8>)> = vec![
            ("raw", secret.clone()),
            ("reversed", secret.iter().rev().copied().collect()),
            ("hex", hex::encode(&secret).into_bytes()),
            ("upper-case hex", hex::encode_upper(&secret).into_bytes()),
            ("words swapped", words(4)),
            ("words swapped", words(8)),
            ("bytes of words swapped", bytes_of_words(4)),
            ("bytes of words swapped", bytes_of_words(8)),
        ];
        for (name, form) in forms {
            // Across the seam of two chunks, too.
            for before in [0, 7, CHUNK - 20] {
                let content = [&vec![b'.'; before][..], &form, b"..."].concat();
                assert!(forms_in(&content).contains(name), "{name} at {before}");
            }
        }
        assert!(forms_in(b"nothing here").is_empty());
    }

    #[test]
    fn base64_is_found_at_every_offset_and_across_a_line_s_end() {
        for before in 0..7 {
            let document = [&vec![0x30; before][..], &secret(), &[0xa1; 9]].concat();
            for text in [
                STANDARD_NO_PAD.encode(&document),
                URL_SAFE_NO_PAD.encode(&document),
            ] {
                for line in [text.len(), 40, 33] {
                    let lines: Vec<_> = text.as_bytes().chunks(line).collect();
                    let broken = lines.join(&b'\n');
                    assert!(forms_in(&broken).contains("base64"), "{before} {line}");
                }
            }
        }
    }

    #[test]
    fn what_this_process_remembers_is_found_in_its_memory() {
        // In this process the secret is also a form of the search: look from a child.
        let secret = secret();
        let search = Search::new(std::slice::from_ref(&secret)).unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line; read again"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = child.stdin.take().unwrap();
        let line = format!("{}\n", hex::encode(&secret));
        std::io::Write::write_all(&mut told, line.as_bytes()).unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let searched = search.memory(child.id()).unwrap();
            if searched.found.iter().any(|found| found.form == "hex") {
                assert!(searched.bytes > 100_000);
                break;
            }
            assert!(std::time::Instant::now() < limit, "not found");
        }
        drop(told);
        child.wait().unwrap();
    }
}
