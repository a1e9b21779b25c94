//! What an inspection found, as data: printed as tables by [`show`](super::show), or as JSON.

use runelog_engine::verify::log::LogFile;
use serde::Serialize;

/// Everything.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) data_dir: String,
    /// Nothing here if it cannot be read; then `damage` says why.
    pub(super) layout: Option<LayoutReport>,
    pub(super) shards: Vec<ShardReport>,
    pub(super) segments: Vec<SegmentReport>,
    pub(super) totals: Totals,
    pub(super) topics: Vec<TopicReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<RecordReport>,
    /// What the operator should know; harmless.
    pub(super) notes: Vec<String>,
    /// What is wrong.
    pub(super) damage: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct LayoutReport {
    pub(super) directory: String,
    pub(super) generation: u64,
    pub(super) shards: u16,
    pub(super) file_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct ShardReport {
    pub(super) dir: String,
    pub(super) shard: u16,
    /// Whether the layout has it; the others are left over.
    pub(super) current: bool,
    pub(super) checkpoints: Vec<CheckpointReport>,
    pub(super) log: Vec<LogFileReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) blocks: Vec<BlockReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) entries: Vec<EntryReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct CheckpointReport {
    pub(super) number: u64,
    /// Why it cannot be used; nothing else is known then.
    pub(super) fault: Option<String>,
    pub(super) base: Option<u64>,
    pub(super) topics: Option<usize>,
    pub(super) segments: Option<usize>,
    pub(super) keys: Option<usize>,
    pub(super) log_start: Option<u64>,
    pub(super) described_block: Option<u64>,
    pub(super) clean: Option<bool>,
    pub(super) at_ms: Option<i64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct LogFileReport {
    pub(super) name: String,
    pub(super) slot: u32,
    /// Its header, if it has one.
    pub(super) number: Option<u64>,
    pub(super) epoch: Option<u64>,
    pub(super) first_block: Option<u64>,
    pub(super) last_block: Option<u64>,
    pub(super) blocks: u64,
    pub(super) payload_bytes: u64,
    /// Where the blocks end, if not with the file.
    pub(super) gap_offset: Option<u64>,
    pub(super) gap: Option<String>,
    /// Whole blocks behind that.
    pub(super) blocks_after: u64,
    /// As in [`LogFile::state`].
    pub(super) state: &'static str,
}

impl From<LogFile> for LogFileReport {
    fn from(found: LogFile) -> LogFileReport {
        LogFileReport {
            name: found.name,
            slot: found.slot,
            number: found.number,
            epoch: found.epoch,
            first_block: found.first_block,
            last_block: found.last_block,
            blocks: found.blocks,
            payload_bytes: found.payload_bytes,
            gap_offset: found.gap_offset,
            gap: found.gap,
            blocks_after: found.blocks_after,
            state: found.state,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct BlockReport {
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) number: u64,
    pub(super) payload_bytes: u32,
    pub(super) synced_through: u64,
    pub(super) entries: usize,
    /// Behind a place that does not hold: recovery would not see it.
    pub(super) after_gap: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct EntryReport {
    pub(super) block: u64,
    pub(super) kind: &'static str,
    pub(super) topic: String,
    pub(super) first_seq: Option<u64>,
    pub(super) last_seq: Option<u64>,
    pub(super) ts: Option<i64>,
    pub(super) bytes: u64,
    /// Whether its batch ends with it.
    pub(super) last: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct SegmentReport {
    pub(super) id: String,
    pub(super) file_bytes: u64,
    pub(super) runs: usize,
    pub(super) blocks: usize,
    pub(super) records: u64,
    /// Shards whose newest checkpoint names it.
    pub(super) named_by: usize,
    /// `ok`, or what does not hold.
    pub(super) state: String,
}

/// Sums over the pool.
#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) segments: usize,
    pub(super) file_bytes: u64,
    pub(super) runs: usize,
    pub(super) blocks: usize,
    pub(super) records: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct TopicReport {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) shard: u16,
    pub(super) class: String,
    /// As of the checkpoint.
    pub(super) head: u64,
    pub(super) floor_cap: u64,
    pub(super) floor_ttl: u64,
    pub(super) floor_source: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// What the log adds to that: first and last seq of records, and how many.
    pub(super) log_first_seq: Option<u64>,
    pub(super) log_last_seq: Option<u64>,
    pub(super) log_records: u64,
    /// The log says that it was deleted.
    pub(super) dropped: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct RecordReport {
    pub(super) topic: String,
    pub(super) seq: u64,
    pub(super) ts: i64,
    pub(super) tag: Option<String>,
    pub(super) node: Option<String>,
    pub(super) data: String,
    pub(super) meta: Option<String>,
    /// Segment or log file.
    pub(super) from: String,
}
