//! HTTP/2 with prior knowledge (T-1, T-10): the `h2` crate over bytes in memory, polled by the worker's
//! loop. No executor, nothing that waits.
//! Lives here: one connection's protocol, from bytes to requests and from answers to bytes.
//! Not here: sockets, what a request asks for (`exchange`).
//!
//! `h2` is written against a runtime: it reads, writes and wakes. Here it reads from and writes to a
//! [`pipe`] that the worker fills and sends; what it wakes is a list of stream numbers ([`wake`]). So a
//! connection with a thousand long-polls costs nothing while nothing happens to them.
//!
//! Against misuse, `h2` bounds header lists, CONTINUATION frames, resets and small or empty DATA frames;
//! [`conn`] bounds what was asked and not answered yet, also for streams that were given up since.

mod answer;
mod conn;
mod pipe;
mod requests;
mod stream;
mod wake;

pub(crate) use requests::H2;

/// What a client with prior knowledge sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests;
