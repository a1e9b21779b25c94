//! Output of one connection: one buffer in flight, one being filled; and the pool both come from.

use super::ConnId;
use super::ops;
use crate::limits::{OUTPUT_POOL_COUNT_MAX, OUTPUT_POOLED_BYTES_MAX, SEND_BYTES_MAX};
use runelog_engine::disk::ring::Ring;

/// Empty buffers with capacity, so that a busy core does not allocate.
#[derive(Default)]
pub(super) struct Pool {
    buffers: Vec<Vec<u8>>,
}

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(4096))
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let useful = capacity > 0 && capacity <= OUTPUT_POOLED_BYTES_MAX;
        if useful && self.buffers.len() < OUTPUT_POOL_COUNT_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// What a send completion left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// More is in flight.
    Continues,
    /// The buffer that was in flight is sent; the next one, if any, is in flight now.
    BufferDone,
    Failed(i32),
}

/// The bytes a connection has still to send. Holds no memory while there are none.
#[derive(Default)]
pub(super) struct Output {
    /// Not touched while `in_flight`: the kernel reads it.
    sending: Vec<u8>,
    sent: usize,
    in_flight: bool,
    next: Vec<u8>,
}

impl Output {
    /// The buffer to append to.
    pub(super) fn next(&mut self, pool: &mut Pool) -> &mut Vec<u8> {
        if self.next.capacity() == 0 {
            self.next = pool.take();
        }
        &mut self.next
    }

    /// Gives back a buffer that was taken and not written to.
    pub(super) fn trim(&mut self, pool: &mut Pool) {
        if self.next.is_empty() {
            pool.give_back(std::mem::take(&mut self.next));
        }
    }

    pub(super) fn backlog(&self) -> usize {
        self.sending.len() - self.sent + self.next.len()
    }

    pub(super) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Sends what was collected, unless a send is in flight: then it follows that one. True when a
    /// send was submitted.
    pub(super) fn flush(&mut self, ring: &mut Ring, fd: i32, id: ConnId) -> bool {
        if self.in_flight || self.next.is_empty() {
            return false;
        }
        debug_assert!(self.sending.is_empty());
        std::mem::swap(&mut self.sending, &mut self.next);
        self.sent = 0;
        self.submit(ring, fd, id);
        true
    }

    /// A send ended. `stop`: whatever is left is not wanted any more.
    pub(super) fn on_sent(
        &mut self,
        ring: &mut Ring,
        pool: &mut Pool,
        fd: i32,
        id: ConnId,
        result: i32,
        stop: bool,
    ) -> Sent {
        self.in_flight = false;
        match result {
            1.. => self.sent += result as usize,
            0 => return Sent::Failed(libc::EPIPE), // never for bytes on a stream; would loop
            _ if -result == libc::EINTR => {}
            _ => return Sent::Failed(-result),
        }
        assert!(self.sent <= self.sending.len(), "sent more than there was");
        if stop {
            return Sent::BufferDone;
        }
        if self.sent < self.sending.len() {
            self.submit(ring, fd, id);
            return Sent::Continues;
        }
        pool.give_back(std::mem::take(&mut self.sending));
        self.sent = 0;
        if !self.flush(ring, fd, id) {
            pool.give_back(std::mem::take(&mut self.next));
        }
        Sent::BufferDone
    }

    /// Gives the memory back. Nothing may be in flight.
    pub(super) fn recycle(&mut self, pool: &mut Pool) {
        assert!(!self.in_flight);
        pool.give_back(std::mem::take(&mut self.sending));
        pool.give_back(std::mem::take(&mut self.next));
        self.sent = 0;
    }

    /// Leaks what the kernel may still read, because its completion will never be collected.
    pub(super) fn abandon(&mut self) {
        if self.in_flight {
            std::mem::forget(std::mem::take(&mut self.sending));
        }
    }

    fn submit(&mut self, ring: &mut Ring, fd: i32, id: ConnId) {
        let left = &self.sending[self.sent..];
        self.in_flight = true;
        // SAFETY: `sending` is neither changed nor freed while `in_flight`, which ends with the
        // completion only; a set of sockets that is dropped earlier leaks it (`abandon`).
        unsafe { ops::send(ring, fd, id, &left[..left.len().min(SEND_BYTES_MAX)]) };
    }
}
