//! WebSocket (§9): what a connection becomes after `GET /v0/ws`.
//! Lives here: the handshake, frames to messages and back, commands and their answers. Not here: sockets, what
//! an append or a read does, what subscriptions bring (`streams::socket`).

mod framing;
mod handshake;
mod session;

pub(crate) use framing::push_text;
#[cfg(feature = "fuzzing")]
pub(crate) use framing::{Framing, Incoming};
pub(crate) use handshake::accept;
pub(crate) use session::{Socket, Upgrade};
