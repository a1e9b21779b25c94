//! The contract at the socket: the real binary, bytes in, bytes out. Every row names its rule.
//! Reading order: `harness`, then the modules in the order of the contract.

#![allow(missing_docs, unreachable_pub)]

mod append;
mod auth;
mod caps;
mod churn;
mod cold;
mod dead_letters;
mod delete;
mod diff;
mod errors;
mod forwarding;
mod h2c;
mod harness;
mod http2;
mod limits;
mod longpoll;
mod probes;
mod queues;
mod queues_work;
mod routers;
mod routers_keys;
mod routing;
mod shards;
mod sse;
mod stalled;
mod topics;
mod transport;
mod watch;
mod watch_flow;
mod watch_keys;
mod watch_resume;
mod watch_routed;
mod websocket;
mod websocket_edge;
mod ws;
