//! Every way the engine says no.

use std::fmt;

/// Stored bytes that do not decode. Says which kind of thing was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    what: &'static str,
}

impl FormatError {
    /// An error about the named kind of thing.
    pub fn new(what: &'static str) -> Self {
        FormatError { what }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "undecodable {}", self.what)
    }
}

impl std::error::Error for FormatError {}

/// A disk operation that failed, with the system's error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError(pub i32);

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl std::error::Error for DiskError {}
