//! Every bound of the engine, checked against the others at compile time.

/// Alignment and padding unit of everything that is written to disk.
pub const BLOCK_BYTES: usize = 4096;
/// A chunk is the unit in which the log is held in memory and the largest commit block.
pub const CHUNK_BYTES: usize = 2 << 20;
/// Records in one batch (W-12, L-9).
pub const BATCH_RECORDS_MAX: usize = 10_000;
/// `data` + `meta` of one record (W-16, L-9).
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// `meta` of one record (W-15, L-9).
pub const META_BYTES_MAX: usize = 16_384;
/// `tag` of one record (W-14, L-9).
pub const TAG_BYTES_MAX: usize = 256;
/// `node` of one record (W-14, L-9).
pub const NODE_BYTES_MAX: usize = 128;
/// Idempotency key (W-13, U-2, L-9).
pub const KEY_BYTES_MAX: usize = 256;
/// Topic name (NM-1).
pub const NAME_BYTES_MAX: usize = 255;
/// Pattern of a router's filter: a row of the registry fits every file it goes to. Longer than any tag, so
/// that what is refused could never have matched.
pub const FILTER_BYTES_MAX: usize = 65_535;
/// Routers named by one entry of the log; more go to further entries of the same batch.
pub const ROUTERS_PER_ENTRY: usize = 50_000;
/// A position that moved this far without a copy is logged by itself, so that a crash does not make a
/// router look at more than this again.
pub const POSITION_UNLOGGED_MAX: u64 = 1024;
/// Ranges of vacant seqs remembered below a topic's floor: they were never lost, and whoever counts what a
/// router missed must know.
pub const VACANT_RANGES_KEPT: usize = 64;
/// Records one `diff` delivers at most (§5, L-9).
pub const DIFF_RECORDS_MAX: u32 = 1000;
/// Byte budget of one `diff` at most (§5, L-9).
pub const DIFF_BYTES_MAX: u64 = 8 << 20;
/// Seqs a recovery may leave vacant above the last one it found (I-58).
pub const SEQ_RESERVE: u64 = 1024;
/// Jobs one claim hands out at most (§10.2).
pub const CLAIM_JOBS_MAX: u32 = 1000;
/// Bytes (J-23) that one claim, or one window of claims, hands out at most, but always one job.
pub const CLAIM_BYTES_MAX: u64 = 64 << 20;
/// Shortest lease (§2, Q-55).
pub const LEASE_MS_MIN: u64 = 100;
/// Longest lease (§2, Q-55).
pub const LEASE_MS_MAX: u64 = 86_400_000;
/// Longest delay of a nack.
pub const DELAY_MS_MAX: u64 = 86_400_000;
/// Jobs of one queue that were handed out and are still there, at most: beyond that claims hand out
/// only jobs that came back. Each takes about 150 bytes.
pub const QUEUE_KNOWN_MAX: usize = 4 << 20;
/// Jobs that one claim asks to be moved to the dead-letter topic at a time.
pub const DEAD_LETTERS_AT_ONCE: usize = 64;
/// Group commits in flight at most; the default is two.
pub const COMMITS_IN_FLIGHT_MAX: usize = 4;
/// Shards at most: a segment id keeps eight bits for the shard.
pub const SHARDS_MAX: usize = 256;

const _: () = assert!(FILTER_BYTES_MAX > TAG_BYTES_MAX && 8 * ROUTERS_PER_ENTRY < CHUNK_BYTES / 2);
const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
// The largest record, framed and in a block of its own, fits a chunk.
const _: () = assert!(
    RECORD_BYTES_MAX + TAG_BYTES_MAX + NODE_BYTES_MAX + KEY_BYTES_MAX + 2 * BLOCK_BYTES < CHUNK_BYTES
);
