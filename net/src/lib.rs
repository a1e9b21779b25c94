//! The path of a request: bytes → HTTP → JSON spans → the owning core's shard → response bytes.

pub mod fault;
pub mod http;
pub mod json;
pub mod limits;
pub mod mesh;
pub mod route;
pub mod sockets;
pub mod timers;
