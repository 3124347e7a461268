use std::error::Error;
use std::fmt;

/// What a caller may decide on; the message is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request makes no sense (a bad matcher, mint after maxt).
    BadRequest,
    /// The caller went away or the store is shutting down: never a failure.
    Cancelled,
    /// A limit (series, samples, bytes) was reached.
    Limit,
    /// The deadline passed.
    Timeout,
    /// A disk or peer cannot be used now; trying again may help.
    Unavailable,
    /// Stored data does not decode.
    Corrupt,
    /// Anything else: a bug or the machine.
    Internal,
}

/// An error of a store, a peer or the fleet.
#[derive(Debug)]
pub struct StorageError {
    pub kind: ErrorKind,
    pub message: String,
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> StorageError {
        StorageError { kind, message: message.into(), source: None }
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> StorageError {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn Error + 'static))
    }
}
