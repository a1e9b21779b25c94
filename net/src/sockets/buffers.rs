//! Provided receive buffers: memory that the kernel fills with received bytes, and the shared ring
//! through which it gets buffers back (`IORING_REGISTER_PBUF_RING`).
//! Lives here: the memory and who owns which buffer. Not here: connections.

use io_uring::types::BufRingEntry;
use runelog_engine::disk::ring::Ring;
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// The kernel's name for the group; there is one per ring.
pub(super) const GROUP: u16 = 1;

/// Received bytes in place. Not `Clone`: it is the right to read the buffer, and it ends with
/// [`Sockets::give_back`](super::Sockets::give_back). One that is dropped instead is lost to the core.
#[must_use = "give the buffer back"]
#[derive(Debug)]
pub struct RecvBuf {
    pool: u32,
    id: u16,
    len: u32,
}

impl RecvBuf {
    /// Received bytes.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// The buffers of one core.
pub(super) struct Buffers {
    /// Tells buffers of different pools apart.
    pool: u32,
    count: u16,
    buffer_bytes: usize,
    ring: *mut BufRingEntry,
    memory: *mut u8,
    /// Entries ever put into the ring, modulo 2^16: the ring's tail.
    tail: u16,
    /// Buffers that completions brought and that were not given back.
    lent: u16,
    registered: bool,
}

impl Buffers {
    /// Maps the memory and registers the group with `ring`, all buffers free.
    pub(super) fn register(ring: &Ring, count: u16, buffer_bytes: usize) -> io::Result<Buffers> {
        static POOLS: AtomicU32 = AtomicU32::new(0);
        assert!(count.is_power_of_two(), "{count} buffers");
        let mut buffers = Buffers {
            pool: POOLS.fetch_add(1, Ordering::Relaxed),
            count,
            buffer_bytes,
            ring: map(count as usize * size_of::<BufRingEntry>())?.cast(),
            memory: std::ptr::null_mut(),
            tail: 0,
            lent: 0,
            registered: false,
        };
        buffers.memory = map(count as usize * buffer_bytes)?;
        // SAFETY: the ring's memory stays mapped until it is unregistered (or for ever, see Drop).
        unsafe { ring.submitter().register_buf_ring_with_flags(buffers.ring as u64, count, GROUP, 0)? };
        buffers.registered = true;
        for id in 0..count {
            buffers.offer(id);
        }
        Ok(buffers)
    }

    /// Ends the group. No receive may be armed any more.
    pub(super) fn unregister(&mut self, ring: &Ring) -> io::Result<()> {
        ring.submitter().unregister_buf_ring(GROUP)?;
        self.registered = false;
        Ok(())
    }

    /// The buffer a completion brought: the kernel has filled `len` bytes and let go of it.
    pub(super) fn lend(&mut self, id: u16, len: u32) -> RecvBuf {
        assert!(id < self.count, "buffer {id}");
        assert!(len as usize <= self.buffer_bytes, "{len} bytes in a buffer");
        self.lent += 1;
        assert!(self.lent <= self.count, "a buffer was lent twice");
        RecvBuf { pool: self.pool, id, len }
    }

    pub(super) fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        assert_eq!(buf.pool, self.pool, "a buffer of another core");
        // SAFETY: `lend` checked the bounds, and between `lend` and `give_back` (which takes the only
        // RecvBuf of this id by value) the kernel does not write here.
        unsafe {
            std::slice::from_raw_parts(self.memory.add(buf.id as usize * self.buffer_bytes), buf.len as usize)
        }
    }

    pub(super) fn give_back(&mut self, buf: RecvBuf) {
        assert_eq!(buf.pool, self.pool, "a buffer of another core");
        self.lent -= 1;
        self.offer(buf.id);
    }

    /// Buffers the kernel may fill, as far as collected completions tell.
    pub(super) fn free(&self) -> usize {
        (self.count - self.lent) as usize
    }

    pub(super) fn lent(&self) -> usize {
        self.lent as usize
    }

    fn offer(&mut self, id: u16) {
        let index = (self.tail & (self.count - 1)) as usize;
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `index` is below the ring's length and the kernel reads an entry only once the tail
        // passed it, which the store below publishes. The tail overlays the unused last field of the
        // first entry; it is always accessed atomically, and the setters do not touch it.
        unsafe {
            let entry = &mut *self.ring.add(index);
            entry.set_addr(self.memory.add(id as usize * self.buffer_bytes) as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(id);
            let tail = BufRingEntry::tail(self.ring).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    /// While the group is registered the kernel may still write into the buffers, so their memory is
    /// leaked: losing it at the end of a process beats handing it to someone else too early.
    fn drop(&mut self) {
        if self.registered {
            return;
        }
        for (address, bytes) in [
            (self.ring.cast::<libc::c_void>(), self.count as usize * size_of::<BufRingEntry>()),
            (self.memory.cast(), self.count as usize * self.buffer_bytes),
        ] {
            if !address.is_null() {
                // SAFETY: mapped by `map` with this length, unmapped once, no longer known to the kernel.
                unsafe { libc::munmap(address, bytes) };
            }
        }
    }
}

fn map(bytes: usize) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping; nothing is replaced.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}
