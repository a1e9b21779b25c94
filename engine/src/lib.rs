//! Runelog's engine: topics, their logs, their recovery. A topic is a log plus an ordered map, owned
//! by one core and committed by one write-ahead log.
//!
//! Promises, kept by every module here:
//! - no HTTP, no JSON, no Lua; payloads are opaque bytes;
//! - no clock, no randomness, no threads, no sockets: time, seeds and disk come in from outside, so
//!   one seed replays a whole history under [`disk::sim`];
//! - nothing is published before its commit point and nothing is acknowledged here at all: the engine
//!   says *when* an answer may leave ([`wal::Wait`]), the caller sends it.

pub mod aside;
pub mod cache;
pub mod checkpoint;
pub mod config;
pub mod disk;
pub mod error;
pub mod event;
pub mod ids;
pub mod index;
pub mod layout;
pub mod limits;
pub mod mem;
pub mod queue;
pub mod quota;
pub mod ranges;
pub mod reserved;
pub mod rng;
pub mod router;
mod sabotage;
pub mod segment;
pub mod shard;
pub mod sim;
#[cfg(test)]
mod test_disk;
pub mod topic;
pub mod verify;
pub mod wal;
