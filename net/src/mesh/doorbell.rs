//! Waking a core that waits in `ring.enter`: a message from ring to ring, or an eventfd.
//! Measured by `examples/doorbell.rs`, whose results stand at [`Wake`].

use io_uring::{opcode, squeue, types::Fd};
use runelog_engine::disk::ring::{Cqe, OWNER_SHIFT, Ring};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Owner byte of mesh completions.
pub const OWNER: u64 = crate::sockets::OWNER + 1;

/// How a sleeping core is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wake {
    /// `IORING_OP_MSG_RING`: a completion in the target's ring, submitted with everything else.
    /// Ping-pong of two sleeping cores: 36 µs, 12 µs CPU on each core.
    #[default]
    MsgRing,
    /// A write to an eventfd that the target's ring polls: a system call of its own for each.
    /// Ping-pong of two sleeping cores: 47 µs, 17 µs CPU on each core.
    Eventfd,
}

/// On the target: it was rung.
const RUNG: u64 = OWNER << OWNER_SHIFT;
/// On the sender: ringing core `user_data & CORE_MASK` failed.
const RING_FAILED: u64 = OWNER << OWNER_SHIFT | 1 << 48;
/// On the target: its eventfd was written to.
const POLLED: u64 = OWNER << OWNER_SHIFT | 2 << 48;
const KIND_MASK: u64 = !CORE_MASK;
const CORE_MASK: u64 = (1 << 48) - 1;
const CQE_F_MORE: u32 = 2;
/// No ring to send to: not attached yet, or it takes no messages.
const NO_RING: i32 = -1;

/// One core's doorbell, shared by all.
pub(super) struct Doorbell {
    wake: Wake,
    ring_fd: AtomicI32,
    eventfd: OwnedFd,
}

/// Finds a core's doorbell.
pub(super) trait Doorbells {
    fn doorbell(&self, core: usize) -> &Doorbell;
}

impl Doorbell {
    pub(super) fn new(wake: Wake) -> io::Result<Doorbell> {
        // SAFETY: a plain system call; the new descriptor is ours alone.
        let eventfd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Doorbell { wake, ring_fd: AtomicI32::new(NO_RING), eventfd })
    }

    /// On the core whose doorbell it is. The eventfd is always polled, as the way out when messages
    /// to a ring are not supported, or when someone rings before this.
    pub(super) fn attach(&self, ring: &mut Ring) {
        self.poll(ring);
        if self.wake == Wake::MsgRing {
            self.ring_fd.store(ring.fd(), Ordering::Release);
        }
    }

    /// When that core ends.
    pub(super) fn detach(&self) {
        self.ring_fd.store(NO_RING, Ordering::Release);
    }

    /// As if the core's ring were of an old kernel: the descriptor is not one of a ring.
    #[cfg(test)]
    pub(super) fn pretend_no_messages(&self) {
        self.ring_fd.store(self.eventfd.as_raw_fd(), Ordering::Release);
    }

    pub(super) fn ring(&self, ring: &mut Ring, core: usize) {
        match self.ring_fd.load(Ordering::Acquire) {
            NO_RING => self.write(),
            ring_fd => {
                let message = opcode::MsgRingData::new(Fd(ring_fd), 0, RUNG, None).build();
                let message = message
                    .flags(squeue::Flags::SKIP_SUCCESS) // the sender hears of failures only
                    .user_data(RING_FAILED | core as u64);
                // SAFETY: points to no memory.
                unsafe { ring.push(&message) };
            }
        }
    }

    /// Multishot and never read: every write is an edge, and the count cannot overflow in practice
    /// (2^64 doorbells).
    fn poll(&self, ring: &mut Ring) {
        let poll = opcode::PollAdd::new(Fd(self.eventfd.as_raw_fd()), libc::POLLIN as u32);
        // SAFETY: points to no memory.
        unsafe { ring.push(&poll.multi(true).build().user_data(POLLED)) };
    }

    fn write(&self) {
        let one = 1_u64;
        // SAFETY: writes eight bytes from a local; an eventfd takes them at once.
        let written = unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
        assert_eq!(written, 8, "eventfd: {}", io::Error::last_os_error());
    }
}

pub(super) fn on_completion(cores: &impl Doorbells, me: usize, ring: &mut Ring, cqe: Cqe) {
    match cqe.user_data & KIND_MASK {
        RING_FAILED if cqe.result < 0 => {
            // Its ring takes no messages (an old kernel, or the core has ended): from now on by eventfd.
            let doorbell = cores.doorbell((cqe.user_data & CORE_MASK) as usize);
            doorbell.ring_fd.store(NO_RING, Ordering::Release);
            doorbell.write();
        }
        POLLED if cqe.flags & CQE_F_MORE == 0 => cores.doorbell(me).poll(ring),
        _ => {}
    }
}
