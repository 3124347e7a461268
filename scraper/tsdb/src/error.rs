use std::path::PathBuf;

use narthex_storage::{ErrorKind, StorageError};

/// What can go wrong with the store as a whole. What concerns single requests is a [`StorageError`].
#[derive(Debug, thiserror::Error)]
pub enum TsdbError {
    #[error("open the store in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("create the folder {path}")]
    CreateFolder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the data in {path} has format version {found}, this program knows {known}")]
    Version { path: PathBuf, found: String, known: u32 },
    #[error("read the store")]
    Read(#[source] rocksdb::Error),
    #[error("write the store")]
    Write(#[source] rocksdb::Error),
    #[error("the disk takes no writes: {0}")]
    ReadOnly(String),
    #[error("repair the store: {0}")]
    Repair(String),
    #[error("the store is not open")]
    Closed,
    #[error("stored data does not decode: {0}")]
    Corrupt(String),
    #[error("write when series begin: {0}")]
    Begins(String),
    #[error("start a thread of the store")]
    Thread(#[source] std::io::Error),
    #[error("column family {0} is missing")]
    NoFamily(&'static str),
}

impl TsdbError {
    /// Whether it is about damaged data, of which other data may well be readable.
    pub fn is_damage(&self) -> bool {
        match self {
            TsdbError::Corrupt(_) => true,
            TsdbError::Read(e) => e.kind() == rocksdb::ErrorKind::Corruption,
            _ => false,
        }
    }
}

impl From<TsdbError> for StorageError {
    fn from(e: TsdbError) -> StorageError {
        let kind = match &e {
            TsdbError::Corrupt(_) | TsdbError::Version { .. } => ErrorKind::Corrupt,
            TsdbError::NoFamily(_) => ErrorKind::Internal,
            _ => ErrorKind::Unavailable,
        };
        StorageError::new(kind, e.to_string()).with_source(e)
    }
}
