//! Newtypes for the numbers that must not be mixed up.

/// Number of a record within its topic; the first is 1, 0 means "before the first" (I-1).
pub type Seq = u64;

/// Wall clock in milliseconds since the Unix epoch, as handed in by the caller (I-7).
pub type Millis = i64;

/// One life of a topic, from the call that created it to the one that deleted it (I-70). Never
/// reused within a data directory: high 16 bits are the layout generation and shard that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u64);

/// One life of a router, from the call that created it to the one that deleted it. Never reused within a
/// data directory, for the same reason as [`TopicId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouterId(pub u64);

/// A byte position in a shard's log: `file number * file size + offset`. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// A sealed file of the pool. Unique over all shards and layouts of a data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);
