//! Checkpoints of a shard: what its log up to `log_start` came to. A checkpoint is full, or a delta on
//! an earlier one, so that its cost follows change and not live data. Every checkpoint is a file of
//! its own, written aside, synced and renamed (I-95); the bytes are in [`format`].
//!
//! Not here: when one is written, and that the log before it and the segments it no longer names are
//! removed only afterwards (the shard).

pub mod format;
mod load;
#[cfg(test)]
mod tests;
mod write;

pub use load::{Loaded, SegmentState, Unusable, load, load_one};
pub use write::{CheckpointWriter, write_checkpoint};

use crate::aside::ASIDE_SUFFIX;
use crate::config::TopicConfig;
use crate::error::DiskError;
use crate::ids::{Lsn, RouterId, SegmentId, TopicId};
use crate::queue::StoredJob;
use crate::router::{LinkState, RouterDef};
use crate::segment::Run;
use std::collections::BTreeSet;
use std::fmt;

/// Deltas in a chain, with their full checkpoint, at most: bounds what a start reads.
pub const CHAIN_LEN_MAX: usize = 16;
const PREFIX: &str = "ckpt-";

/// What a checkpoint says of the shard as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Its number; higher is newer.
    pub number: u64,
    /// The checkpoint this is a delta on, of a lower number; `None` for a full one.
    pub base: Option<u64>,
    /// Which shard.
    pub shard: u16,
    /// Of how many.
    pub shards: u16,
    /// Layout generation of the data directory.
    pub layout: u64,
    /// Replay the log from here.
    pub log_start: Lsn,
    /// Number of the log block at `log_start`.
    pub next_block: u64,
    /// The topics are described as of this block, which was durable before; blocks from `log_start`
    /// through it only re-enter the index at replay, later ones are applied.
    pub described_block: u64,
    /// Log epoch.
    pub epoch: u64,
    /// Next topic id to give away.
    pub next_topic: u64,
    /// Next segment id to give away.
    pub next_segment: u64,
    /// Written at a clean stop: nothing follows in the log.
    pub clean: bool,
    /// When it was written.
    pub at_ms: i64,
}

/// A topic as of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: Vec<u8>,
    /// Its configuration.
    pub config: TopicConfig,
    /// Highest published seq.
    pub head: u64,
    /// Seqs up to here may have been given away (I-58).
    pub reserved: u64,
    /// Highest seq lost to a cap.
    pub floor_cap: u64,
    /// Highest seq lost to age.
    pub floor_ttl: u64,
    /// Highest seq lost to a trim of the source.
    pub floor_source: u64,
    /// Live records.
    pub count: u64,
    /// Their counted bytes (J-23).
    pub bytes: u64,
    /// Inclusive ranges of seqs that never held a record.
    pub vacant: Vec<(u64, u64)>,
    /// Inclusive ranges of deleted seqs.
    pub deleted: Vec<(u64, u64)>,
    /// Inclusive ranges of vacant seqs that stand for what a router's source lost (I-68).
    pub trims: Vec<(u64, u64)>,
    /// Time of the last write.
    pub last_write_ts: i64,
}

/// An idempotency key that still counts, as its hash, and the batch it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// Where it was written.
    pub topic: TopicId,
    /// Hash of the key.
    pub key_hash: u128,
    /// First seq of the batch.
    pub first_seq: u64,
    /// Records in it.
    pub count: u32,
    /// Its commit time.
    pub ts: i64,
}

/// Jobs in one edit at most.
pub const JOBS_PER_EDIT_MAX: usize = 1024;

/// The edits that say what a queue's jobs are doing.
pub fn job_edits(topic: TopicId, jobs: &[StoredJob]) -> impl Iterator<Item = Edit> + '_ {
    jobs.chunks(JOBS_PER_EDIT_MAX).map(move |jobs| Edit::Leases(topic, jobs.to_vec()))
}

/// One statement of a checkpoint. They hold in order, after those of its base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A topic that is new or changed: all of its state. Its jobs, if it has any that are kept, follow.
    Topic(TopicState),
    /// A topic that is no more, with its runs and keys. Its id never comes back.
    Drop(TopicId),
    /// A segment that is new.
    AddSegment {
        /// Which.
        id: SegmentId,
        /// Bytes of its file.
        file_bytes: u64,
        /// Whether topics share it (a pack).
        shared: bool,
    },
    /// A run of a segment named before; one for each topic in it.
    AddRun(SegmentId, Run),
    /// A segment that is no more, with its runs.
    RemoveSegment(SegmentId),
    /// A key; replaces what was known of it.
    Dedup(Dedup),
    /// A router that is new or changed.
    Router(RouterDef),
    /// A router that is no more. Its id never comes back.
    RouterDrop(RouterId),
    /// How far a router has come; replaces what was known of it. Goes with its dest.
    Link(LinkState),
    /// A link that is no more.
    LinkGone(RouterId),
    /// What jobs of a queue are doing; more than [`JOBS_PER_EDIT_MAX`] take several.
    Leases(TopicId, Vec<StoredJob>),
}

/// Why there is no checkpoint to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// The disk failed where that says nothing about one checkpoint.
    Disk {
        /// Path of the file or directory.
        path: String,
        /// What the system said.
        error: DiskError,
    },
    /// There are checkpoints, and none can be used. That is not the same as none at all: only the
    /// caller knows whether the log alone reaches back to the beginning.
    NoneValid {
        /// Names and why each cannot be used, newest first.
        skipped: Vec<(String, String)>,
    },
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Disk { path, error } => write!(f, "{path}: {error}"),
            CheckpointError::NoneValid { skipped } => {
                write!(f, "no usable checkpoint")?;
                skipped.iter().try_for_each(|(name, reason)| write!(f, "; {name}: {reason}"))
            }
        }
    }
}

impl std::error::Error for CheckpointError {}

/// File name of a checkpoint.
pub fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// What a name in a shard's directory stands for, if it is about checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A checkpoint.
    Checkpoint(u64),
    /// A file that was being written when the program ended; may be removed at start.
    Leftover,
    /// Something else.
    Unknown,
}

/// Reads a file name of a shard's directory.
pub fn parse_name(name: &str) -> Name {
    let (stem, aside) = match name.strip_suffix(ASIDE_SUFFIX) {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    let number = stem.strip_prefix(PREFIX).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    match number.filter(|&number| file_name(number) == stem) {
        Some(_) if aside => Name::Leftover,
        Some(number) => Name::Checkpoint(number),
        None => Name::Unknown,
    }
}

/// Which checkpoints may be removed, given all that exist with their bases: the newest that can be
/// loaded and the one before it stay loadable. What is newer than the newest loadable one stays too:
/// it is evidence.
pub fn plan_retention(existing: &[(u64, Option<u64>)]) -> Vec<u64> {
    let base_of = |number: u64| existing.iter().find(|(n, _)| *n == number).map(|(_, base)| *base);
    let chain_of = |newest: u64| {
        let mut chain = vec![newest];
        while let Some(base) = base_of(chain[chain.len() - 1])? {
            if base >= chain[chain.len() - 1] {
                return None;
            }
            chain.push(base);
        }
        Some(chain)
    };
    let mut numbers: Vec<u64> = existing.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    let chains: Vec<Vec<u64>> = numbers.iter().rev().filter_map(|&number| chain_of(number)).take(2).collect();
    let Some(newest) = chains.first().map(|chain| chain[0]) else { return Vec::new() };
    let kept: BTreeSet<u64> = chains.into_iter().flatten().collect();
    numbers.retain(|number| *number < newest && !kept.contains(number));
    numbers
}

/// Whether the next checkpoint should be full: the chain is as long as it may get, or its deltas have
/// grown to more than half of what a full one takes, so that reading them costs more than it saves.
pub fn should_be_full(chain_len: usize, delta_bytes: u64, full_bytes: u64) -> bool {
    chain_len == 0 || chain_len >= CHAIN_LEN_MAX || delta_bytes > full_bytes / 2
}
