//! The write-ahead log of one shard: [`frame`] and [`format`](mod@format) are its bytes, [`chunks`] its memory,
//! [`log`] writes it, [`files`] prepares its files, [`walk`] shows them to tools.

mod bytes;
pub mod chunks;
pub mod files;
pub mod format;
pub mod frame;
pub mod log;
pub mod walk;

/// An answer may leave when the shard's log has committed this block; 0 = at once. What an answer
/// rests on decides: a write's own block, or an unfinished change of the topic that a read looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(pub u64);
