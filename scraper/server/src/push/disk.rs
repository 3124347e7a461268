//! Groups on disk: a file for each, replaced as a whole, so that a push is as dear as its group is large.
//!
//! A file is synced before its name leads to it, and so is the folder: what was acknowledged is there after `kill -9` and
//! after a power cut. A file that does not read is kept apart and named in the log; the others are there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tracing::{error, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::groups::{Group, Stored};
use super::key::Key;
use super::proto::{LabelPair, MetricFamily};

/// How a file begins; its last byte is the format's version.
const MAGIC: &[u8; 8] = b"nxpush\n\x01";

/// More a file never has.
const MAX_FILE: u64 = 1 << 30;

#[derive(Clone, PartialEq, Message)]
struct FamilyOnDisk {
    #[prost(int64, tag = "1")]
    time: i64,
    #[prost(message, optional, tag = "2")]
    family: Option<MetricFamily>,
}

#[derive(Clone, PartialEq, Message)]
struct GroupOnDisk {
    #[prost(message, repeated, tag = "1")]
    key: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    families: Vec<FamilyOnDisk>,
    /// 0: none.
    #[prost(uint64, tag = "3")]
    ttl_ms: u64,
}

/// The folder of the files.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// # Errors
    /// When the folder can't be made.
    pub fn open(folder: &Path) -> io::Result<Disk> {
        fs::create_dir_all(folder)?;
        Ok(Disk { folder: folder.to_owned() })
    }

    fn file(&self, key: &Key) -> PathBuf {
        let mut hash = Sha256::new();
        for part in key.iter().flat_map(|(n, v)| [n, v]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let name: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
        self.folder.join(format!("{name}.group"))
    }

    fn synced(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Writes a group, durably when this returns.
    ///
    /// # Errors
    /// When the disk refuses; what was there then stays.
    pub fn write(&self, group: &Group) -> io::Result<()> {
        let pair = |(name, value): &(String, String)| LabelPair { name: name.clone(), value: value.clone() };
        let stored = |f: &Stored| FamilyOnDisk { time: f.time, family: Some(MetricFamily::clone(&f.family)) };
        let ttl_ms = group.ttl.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1));
        let message = GroupOnDisk {
            key: group.key.iter().map(pair).collect(),
            families: group.families.values().map(stored).collect(),
            ttl_ms,
        };
        let body = message.encode_to_vec();
        let (path, new) = (self.file(&group.key), self.folder.join("new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        file.write_all(MAGIC)?;
        file.write_all(&xxh3_64(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_data()?;
        fs::rename(new, path)?;
        self.synced()
    }

    /// Removes a group, durably when this returns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, key: &Key) -> io::Result<()> {
        match fs::remove_file(self.file(key)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => self.synced(),
        }
    }

    /// All groups, in no order.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn load(&self) -> io::Result<Vec<Group>> {
        let mut groups = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "group") {
                continue;
            }
            match read(&path) {
                Ok(group) if self.file(&group.key) == path => groups.push(group),
                Ok(_) => self.set_apart(&path, "its name is not that of its group"),
                Err(e) => self.set_apart(&path, &e.to_string()),
            }
        }
        Ok(groups)
    }

    fn set_apart(&self, path: &Path, why: &str) {
        error!(file = %path.display(), err = why, "a pushed group does not read: it is left out, its file renamed");
        if let Err(e) = fs::rename(path, path.with_extension("bad")) {
            warn!(file = %path.display(), err = %e, "renaming it failed");
        }
    }
}

fn read(path: &Path) -> io::Result<Group> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(bad("too long"));
    }
    let bytes = fs::read(path)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("not a group of a version that is known"))?;
    let (sum, body) = rest.split_first_chunk::<8>().ok_or_else(|| bad("cut short"))?;
    if xxh3_64(body) != u64::from_le_bytes(*sum) {
        return Err(bad("checksum mismatch"));
    }
    let message = GroupOnDisk::decode(body).map_err(|e| bad(&e.to_string()))?;
    let families = message.families.into_iter().filter_map(|f| Some((f.time, f.family?)));
    let families: BTreeMap<_, _> =
        families.map(|(time, family)| (family.name.clone(), Stored { time, family: Arc::new(family) })).collect();
    let key = message.key.into_iter().map(|l| (l.name, l.value)).collect();
    let ttl = (message.ttl_ms > 0).then(|| Duration::from_millis(message.ttl_ms));
    Ok(Group { key, families, ttl })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(job: &str, value: f64) -> Group {
        let family = Arc::new(MetricFamily::gauge("a", "help", value));
        Group {
            key: vec![("job".into(), job.into()), ("x".into(), String::new())],
            families: BTreeMap::from([("a".to_owned(), Stored { time: 5, family })]),
            ttl: Some(Duration::from_secs(7)),
        }
    }

    #[test]
    fn what_is_damaged_is_set_apart_and_the_rest_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        for (job, value) in [("a", 1.0), ("b", -0.0), ("b", f64::INFINITY), ("c", 3.0), ("d", 4.0)] {
            disk.write(&group(job, value)).unwrap();
        }
        disk.remove(&group("d", 0.0).key).unwrap();
        disk.remove(&group("d", 0.0).key).unwrap();
        let path = disk.file(&group("c", 0.0).key);
        let whole = fs::read(&path).unwrap();
        for cut in [0, 7, 12, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut jobs: Vec<_> = disk.load().unwrap();
            jobs.sort_by(|a, b| a.key.cmp(&b.key));
            let got: Vec<_> =
                jobs.iter().map(|g| (g.key[0].1.as_str(), g.families["a"].family.metric[0].single())).collect();
            assert_eq!(got, [("a", 1.0), ("b", f64::INFINITY)], "{cut}");
            assert_eq!((jobs[0].ttl, jobs[0].families["a"].time), (Some(Duration::from_secs(7)), 5));
            assert!(path.with_extension("bad").exists() && !path.exists());
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(disk.load().unwrap().len(), 2);
        // A whole file under another name is another's.
        fs::write(&path, fs::read(disk.file(&group("a", 0.0).key)).unwrap()).unwrap();
        assert_eq!(disk.load().unwrap().len(), 2);
    }
}
