//! The path of a request: bytes → HTTP → JSON spans → the owning core's shard → response bytes.
//!
//! Reading order: [`server`] starts the cores, `worker` is the loop of one, `carrier` a connection, `conn`
//! one that speaks HTTP/1.1 and `h2` one that speaks HTTP/2, `exchange` a request, `service` the owner's
//! side, `handlers` what an operation does; [`sockets`], [`mesh`] and [`timers`] are what the loop stands
//! on; [`http`], [`json`], [`route`] and [`fault`] are pure.

pub mod auth;
pub mod caps;
mod carrier;
mod conn;
mod exchange;
pub mod fault;
mod feed;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod h2;
mod handlers;
pub mod http;
pub mod json;
pub mod limits;
mod memory;
pub mod mesh;
mod message;
mod metrics;
pub mod pieces;
pub mod route;
mod routers;
pub mod server;
mod service;
mod slab;
pub mod sockets;
mod streams;
mod sys;
pub mod timers;
mod worker;
mod ws;
