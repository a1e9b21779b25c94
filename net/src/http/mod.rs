//! HTTP/1.1 as bytes: what a request says, how a response is written. Nothing here knows a socket, a
//! topic or a clock, and nothing here allocates on the usual path.
//!
//! Reading order: [`request`] (a head from bytes), [`chunked`] (a body from bytes), [`query`] and
//! [`cursor`] (what a target may ask), [`json_out`] and [`response`] (bytes out).

pub mod base64;
pub mod chunked;
pub mod cursor;
pub mod json_out;
pub mod percent;
pub mod query;
pub mod request;
pub mod response;

#[cfg(test)]
mod fuzz;
