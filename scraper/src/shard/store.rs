//! The assignment on disk: a shard starts from it while the operator is away.
//!
//! Two files, each replaced as a whole: the snapshot, which holds no secret, and the secrets, readable by nobody else.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use narthex_config::wire::Snapshot;

/// A folder with the last assignment.
#[derive(Clone, Debug)]
pub struct AssignmentStore {
    folder: PathBuf,
}

const SNAPSHOT: &str = "assignment.json";
const SECRETS: &str = "secrets.json";

impl AssignmentStore {
    /// # Errors
    /// When the folder can't be made.
    pub fn open(folder: &Path) -> io::Result<AssignmentStore> {
        fs::create_dir_all(folder)?;
        Ok(AssignmentStore { folder: folder.to_owned() })
    }

    /// The last snapshot with its secrets; `None` when there is none. Secrets that can't be read are missing: the
    /// targets that need them answer 401 until the operator is back.
    ///
    /// # Errors
    /// When it can't be read or does not decode.
    pub fn load(&self) -> io::Result<Option<Snapshot>> {
        let text = match fs::read(self.folder.join(SNAPSHOT)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut snapshot: Snapshot = serde_json::from_slice(&text).map_err(io::Error::other)?;
        let secrets = fs::read(self.folder.join(SECRETS)).ok();
        let secrets = secrets.and_then(|s| serde_json::from_slice::<BTreeMap<String, String>>(&s).ok());
        snapshot.secrets = secrets.unwrap_or_default();
        Ok(Some(snapshot))
    }

    /// Writes a snapshot, durably when this returns.
    ///
    /// # Errors
    /// When the disk refuses; the one before then stays.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let mut bare = snapshot.clone();
        let secrets = std::mem::take(&mut bare.secrets);
        // First the secrets: a snapshot must not refer to older ones than it came with.
        self.replace(SECRETS, &serde_json::to_vec(&secrets)?)?;
        self.replace(SNAPSHOT, &serde_json::to_vec(&bare)?)?;
        File::open(&self.folder)?.sync_all()
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.folder.join(format!("{name}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(new, self.folder.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_saved_is_there_after_a_restart_and_secrets_stand_apart() {
        let folder = std::env::temp_dir().join(format!("narthex-assignment-{}", std::process::id()));
        let store = AssignmentStore::open(&folder).unwrap();
        assert_eq!(store.load().unwrap(), None);
        let secrets = BTreeMap::from([("$(secret:n/s/k)".to_owned(), "hush".to_owned())]);
        let snapshot = Snapshot { generation: 3, secrets, ..Snapshot::default() };
        store.save(&snapshot).unwrap();
        assert_eq!(store.load().unwrap(), Some(snapshot));
        let text = fs::read_to_string(folder.join(SNAPSHOT)).unwrap();
        assert!(!text.contains("hush"), "{text}");
        let mode = fs::metadata(folder.join(SECRETS)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.join(SNAPSHOT), "{").unwrap();
        assert!(store.load().is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
