//! Request bodies: JSON text in, spans and typed values out (J-1…J-23).
//! Lives here: our own strict scanner and what is read with it. Reading order: `scan`, `reader`,
//! `write` (the hot path), `control` and `config`.
//! Not here: topics, HTTP, and responses.

pub mod config;
pub mod control;
pub mod fault;
mod lanes;
mod reader;
pub mod scan;
pub mod write;

pub use fault::BodyError;
