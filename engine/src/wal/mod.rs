//! The write-ahead log of one shard.
pub mod format;
/// When an answer may leave.
pub struct Wait;
