//! WebSocket (§9): what a connection becomes after `GET /v0/ws`.
//! Lives here: the handshake, frames to messages and back. Not here: sockets, what an append or a read
//! does.

mod framing;
mod handshake;

pub(crate) use framing::{Framing, Incoming};
pub(crate) use handshake::accept;
