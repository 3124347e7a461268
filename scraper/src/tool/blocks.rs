//! A Prometheus's data folder, for reading: its blocks, with index, chunks and deleted ranges, and its write-ahead log.
//!
//! The formats are those of Prometheus's `tsdb/docs/format`. Nothing in a file is trusted: checksums are verified before
//! anything is read, and what does not fit is an error with the file and the offset in it. The folder is not changed,
//! nor locked: a block that Prometheus deletes meanwhile is an error.
//!
//! Absent: the head's chunks, whose samples are in the log, too.

mod bits;
mod chunk;
mod chunks;
mod index;
mod log;
mod tombstones;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use narthex_model::Labels;
use serde_json::Value;

pub use chunk::{Decoded, HistogramSample};
use chunks::Chunks;
pub use index::{Index, Series, Walk};
pub use log::{Log, Record};
use tombstones::Deleted;

/// What `meta.json` says of a block.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    pub ulid: String,
    pub min_time: i64,
    /// Nothing in the block is as late as this.
    pub max_time: i64,
    pub samples: u64,
    pub series: u64,
    pub chunks: u64,
    /// The blocks that this one was made of: where they are still there, they hold nothing else.
    parents: Vec<String>,
    /// It holds what came late, and says nothing of how far the head's samples are in blocks.
    late: bool,
}

/// A block that can be read.
pub struct Block {
    pub meta: Meta,
    pub index: Index,
    pub chunks: Chunks,
    deleted: Deleted,
}

/// The blocks of a data folder, and what else it holds.
pub struct DataFolder {
    pub path: PathBuf,
    /// By time. Those of which others were made are left out.
    pub blocks: Vec<(PathBuf, Meta)>,
    /// Segments of the write-ahead log, and files of the head's chunks.
    pub log_files: usize,
}

/// A file that is read at any place.
pub struct Source {
    file: File,
    pub path: PathBuf,
    pub len: u64,
}

impl Source {
    pub fn open(path: &Path) -> Result<Source> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let len = file.metadata().with_context(|| format!("look at {}", path.display()))?.len();
        Ok(Source { file, path: path.to_owned(), len })
    }

    /// Where in the file something is, for errors.
    pub fn at(&self, offset: u64) -> String {
        format!("{} at byte {offset}", self.path.display())
    }

    /// Fills `out` with at most `most` bytes from `offset` on; fewer where the file ends.
    pub fn read_some(&self, offset: u64, most: usize, out: &mut Vec<u8>) -> Result<()> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        out.resize(most.min(left), 0);
        self.file.read_exact_at(out, offset).with_context(|| self.at(offset))
    }

    /// `len` bytes from `offset` on.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.read_some(offset, len, &mut out)?;
        ensure!(out.len() == len, "{}: the file ends early", self.at(offset));
        Ok(out)
    }

    /// A section: its length in four bytes, the content, a checksum of it.
    pub fn section(&self, offset: u64) -> Result<Vec<u8>> {
        let head = self.read(offset, 4)?;
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        ensure!(len as u64 <= self.len, "{}: a section longer than the file", self.at(offset));
        let mut content = self.read(offset + 4, len + 4)?;
        let sum = content.split_off(len);
        ensure!(crc(&content) == sum[..], "{}: the checksum does not fit", self.at(offset));
        Ok(content)
    }
}

/// A checksum as it lies in all of these files.
pub fn crc(bytes: &[u8]) -> [u8; 4] {
    narthex_server::read::encode::crc32c(bytes).to_be_bytes()
}

/// Whether a name is one of a block: 26 letters of Crockford's 32.
fn is_ulid(name: &str) -> bool {
    name.len() == 26 && name.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase() && !b"ILOU".contains(&c))
}

impl Meta {
    fn read(folder: &Path) -> Result<Meta> {
        let path = folder.join("meta.json");
        let what = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(what)?;
        let json: Value = serde_json::from_str(&text).with_context(what)?;
        let version = json["version"].as_i64().unwrap_or_default();
        ensure!(version == 1, "{}: unexpected meta file version {version}", path.display());
        let number = |value: &Value, name: &str| {
            value[name].as_i64().with_context(|| format!("{}: no number {name}", path.display()))
        };
        let count = |name: &str| json["stats"][name].as_u64().unwrap_or_default();
        let hints = json["compaction"]["hints"].as_array().into_iter().flatten();
        let parents = json["compaction"]["parents"].as_array().into_iter().flatten();
        let meta = Meta {
            ulid: json["ulid"].as_str().unwrap_or_default().to_owned(),
            min_time: number(&json, "minTime")?,
            max_time: number(&json, "maxTime")?,
            samples: count("numSamples"),
            series: count("numSeries"),
            chunks: count("numChunks"),
            late: hints.into_iter().any(|hint| hint == "from-out-of-order"),
            parents: parents.filter_map(|p| Some(p["ulid"].as_str()?.to_owned())).collect(),
        };
        ensure!(meta.min_time <= meta.max_time, "{}: it ends before it begins", path.display());
        Ok(meta)
    }
}

impl DataFolder {
    /// # Errors
    /// When the folder cannot be read, or a block in it has no proper `meta.json`.
    pub fn open(path: &Path) -> Result<DataFolder> {
        let mut blocks = Vec::new();
        for entry in std::fs::read_dir(path).with_context(|| format!("open {}", path.display()))? {
            let entry = entry.with_context(|| format!("list {}", path.display()))?;
            if is_ulid(&entry.file_name().to_string_lossy()) && entry.path().is_dir() {
                blocks.push((entry.path(), Meta::read(&entry.path())?));
            }
        }
        if blocks.is_empty() && path.join("meta.json").is_file() {
            // A block itself.
            blocks.push((path.to_owned(), Meta::read(path)?));
        }
        let parents: BTreeSet<String> = blocks.iter().flat_map(|b| b.1.parents.clone()).collect();
        blocks.retain(|b| !parents.contains(&b.1.ulid));
        blocks.sort_by(|a, b| (a.1.min_time, &a.1.ulid).cmp(&(b.1.min_time, &b.1.ulid)));
        let files = |folder: &str| {
            let filled = |(_, file): &(u64, PathBuf)| std::fs::metadata(file).is_ok_and(|m| m.len() > 0);
            log::numbered(&path.join(folder), "").iter().filter(|file| filled(file)).count()
        };
        let log_files = files("wal") + files("wbl") + files("chunks_head");
        Ok(DataFolder { path: path.to_owned(), blocks, log_files })
    }

    /// Until when blocks have what came in order: of the log Prometheus reads what is not earlier.
    pub fn in_order_end(&self) -> i64 {
        self.blocks.iter().filter(|b| !b.1.late).map(|b| b.1.max_time).max().unwrap_or(i64::MIN)
    }

    /// What is not read of it, in words.
    pub fn left_out(&self) -> Option<String> {
        let files = self.log_files;
        let until = self.blocks.iter().map(|b| b.1.max_time).max();
        let until = until.map_or_else(String::new, |t| format!(", which holds what is newer than {}", utc(t)));
        (files > 0).then(|| {
            format!(
                "not read: {files} files of the write-ahead log and the head of {}{until}; let Prometheus make a block of \
                 it (POST /api/v1/admin/tsdb/snapshot, with --web.enable-admin-api) and read the snapshot instead",
                self.path.display()
            )
        })
    }
}

/// A time as people read it.
pub fn utc(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms);
    time.map_or_else(|_| ms.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

impl Block {
    /// # Errors
    /// When a file is missing, damaged or of a version that is not known.
    pub fn open((folder, meta): &(PathBuf, Meta)) -> Result<Block> {
        Ok(Block {
            meta: meta.clone(),
            index: Index::open(&folder.join("index"))?,
            chunks: Chunks::open(&folder.join("chunks"))?,
            deleted: Deleted::read(&folder.join("tombstones"))?,
        })
    }

    /// Adds the samples of a series in `[mint, maxt]`, without those that are deleted, in the order of time.
    ///
    /// # Errors
    /// The first chunk that cannot be read; what the others hold was added.
    pub fn samples(&self, series: &Series, mint: i64, maxt: i64, out: &mut Decoded) -> Result<()> {
        let deleted = self.deleted.of(series.reference);
        let before = (out.floats.len(), out.histograms.len());
        let mut damage = Ok(());
        for meta in series.chunks.iter().filter(|c| c.max_time >= mint && c.min_time <= maxt) {
            let there = (out.floats.len(), out.histograms.len());
            if let Err(e) = self.chunks.get(meta.reference).and_then(|chunk| chunk.decode(out)) {
                out.floats.truncate(there.0);
                out.histograms.truncate(there.1);
                damage = damage.and(Err(e));
            }
        }
        let wanted = |t: i64| t >= mint && t <= maxt && !deleted.iter().any(|d| (d.0..=d.1).contains(&t));
        retain_from(&mut out.floats, before.0, |s| wanted(s.0));
        retain_from(&mut out.histograms, before.1, |s| wanted(s.time));
        damage
    }

    pub fn labels(&self, series: &Series) -> Result<Labels> {
        self.index.labels(series)
    }

    /// Bytes on disk, as Prometheus counts them.
    pub fn size(folder: &Path) -> u64 {
        let len = |path: PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
        let chunks = std::fs::read_dir(folder.join("chunks")).into_iter().flatten().flatten();
        let chunks: u64 = chunks.map(|e| len(e.path())).sum();
        chunks + ["index", "tombstones", "meta.json"].iter().map(|f| len(folder.join(f))).sum::<u64>()
    }
}

fn retain_from<T>(list: &mut Vec<T>, from: usize, keep: impl Fn(&T) -> bool) {
    if list[from..].iter().all(&keep) {
        return;
    }
    let kept: Vec<T> = list.drain(from..).filter(keep).collect();
    list.extend(kept);
}

/// Numbers of variable length in a section.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.0.split_first() else { bail!("a number is cut") };
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a number of more than 64 bits")
    }

    pub fn signed(&mut self) -> Result<i64> {
        Ok(narthex_model::varint::unzigzag(self.varint()?))
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((bytes, rest)) = self.0.split_at_checked(len) else { bail!("a text is cut") };
        self.0 = rest;
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A number of things that take at least a byte each.
    pub fn count(&mut self) -> Result<usize> {
        let n = self.varint()?;
        ensure!(n <= self.0.len() as u64, "{n} entries in {} bytes", self.0.len());
        Ok(n as usize)
    }
}
