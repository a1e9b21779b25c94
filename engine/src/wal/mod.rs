//! The write-ahead log of one shard.
pub mod format;
pub mod frame;
/// When an answer may leave.
pub struct Wait;
