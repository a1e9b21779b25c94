//! Request bodies: JSON text in, spans and typed values out (J-1…J-23).
//! Lives here: our own strict scanner and what is read with it. Reading order: `scan`, `reader`,
//! `write` (the hot path), `control` and `config`, then a file a resource: `router`, `watch`, `queue`, `ws`.
//! Not here: topics, HTTP, and responses.

pub mod config;
pub mod control;
pub(crate) mod copy_meta;
pub mod fault;
mod lanes;
pub(crate) mod meta;
pub mod queue;
mod reader;
pub mod router;
pub mod scan;
pub mod watch;
pub mod write;
pub mod ws;

pub use fault::BodyError;
#[cfg(feature = "fuzzing")]
pub(crate) use lanes::check_lanes;
