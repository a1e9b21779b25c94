//! Sealed, immutable segment files of the pool `segments/`: their [`format`], the writer that a seal
//! or a compaction fills ([`write`]), tag sections ([`tags`]) and reading with checks ([`read`]).
//!
//! Not here: which records are alive (the shard), which segments exist (`checkpoint`), what is kept
//! in memory (`cache`).

pub mod format;
pub mod read;
pub mod tags;
#[cfg(test)]
mod tests;
pub mod write;

pub use format::{BlockMeta, Run, SegmentMeta, TagPlace};
pub use read::{CachedBlock, examine, read_block, read_footer, read_tags, verify};
pub use tags::TagSection;
pub use write::SegmentWriter;

use crate::aside::ASIDE_SUFFIX;
use crate::error::{DiskError, FormatError};
use crate::ids::{SegmentId, TopicId};
use std::fmt;

/// The pool directory, below the data directory.
pub const DIR: &str = "segments";
const SUFFIX: &str = ".seg";

/// Path of a segment file, relative to the data directory.
pub fn path(id: SegmentId) -> String {
    format!("{DIR}/{:016x}{SUFFIX}", id.0)
}

/// What a name in the pool directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A complete segment.
    Segment(SegmentId),
    /// A file that was being written when the program ended; may be removed at start.
    Leftover,
    /// None of ours.
    Unknown,
}

/// Reads a file name of the pool directory.
pub fn parse_name(name: &str) -> Name {
    let number = |stem: &str| {
        let plain = stem.len() == 16 && stem.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(stem, 16).expect("16 hex digits"))
    };
    let (name, aside) = match name.strip_suffix(ASIDE_SUFFIX) {
        Some(name) => (name, true),
        None => (name, false),
    };
    match name.strip_suffix(SUFFIX).and_then(number) {
        Some(_) if aside => Name::Leftover,
        Some(id) => Name::Segment(SegmentId(id)),
        None => Name::Unknown,
    }
}

/// The records that bytes at fault hold, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtRisk {
    /// Whose records.
    pub topic: TopicId,
    /// First seq of them.
    pub first_seq: u64,
    /// Last seq of them.
    pub last_seq: u64,
}

/// Why a segment could not be written or read. Unreadable is never empty (I-98).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// The disk failed.
    Disk {
        /// Path of the file.
        file: String,
        /// What the system said.
        error: DiskError,
    },
    /// Stored bytes do not hold. None of them were given out.
    Damaged {
        /// Path of the file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What was expected there.
        what: &'static str,
        /// Which records it was to hold; `None` for header, footer and trailer.
        at_risk: Option<AtRisk>,
    },
    /// The file is of a version this program does not know (I-99).
    Version {
        /// Path of the file.
        file: String,
        /// Its version.
        version: u16,
    },
    /// An entry handed to the writer does not decode: the memory it came from is not sound.
    Entry(FormatError),
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentError::Disk { file, error } => write!(f, "{file}: {error}"),
            SegmentError::Damaged { file, offset, what, at_risk } => {
                write!(f, "{file}: damaged {what} at offset {offset}")?;
                if let Some(AtRisk { topic, first_seq, last_seq }) = at_risk {
                    write!(f, ", topic {:016x} seqs {first_seq}…{last_seq}", topic.0)?;
                }
                Ok(())
            }
            SegmentError::Version { file, version } => {
                write!(f, "{file}: segment format version {version} is not known")
            }
            SegmentError::Entry(error) => write!(f, "sealing: {error}"),
        }
    }
}

impl std::error::Error for SegmentError {}
