//! One io_uring per core. Sockets and log share it, so one system call submits and collects both.
//! This file only wraps submission, waiting and collection; what the entries mean is decided by
//! [`uring`](super::uring) (files) and by the crate `net` (sockets).

use io_uring::{IoUring, cqueue, squeue, types};
use std::io;
use std::time::Duration;

/// The high byte of `user_data` says whose completion it is; the rest is the owner's.
pub const OWNER_SHIFT: u32 = 56;
/// Completions of [`uring`](super::uring).
pub const OWNER_DISK: u64 = 1;
/// First owner value free for other users of the ring.
pub const OWNER_FREE: u64 = 2;

/// A completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Cqe {
    /// As given at submission.
    pub user_data: u64,
    /// Result, or a negative error number.
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
}

impl Cqe {
    /// Whose completion it is.
    pub fn owner(&self) -> u64 {
        self.user_data >> OWNER_SHIFT
    }
}

/// The io_uring of one core. Must be used by the thread that made it (`SINGLE_ISSUER`).
pub struct Ring {
    uring: IoUring,
    /// System calls made so far, for metrics.
    enters: u64,
}

impl Ring {
    /// A ring with room for `entries` submissions (completions: eight times as many). Tries the
    /// cheapest set-up first and falls back for older kernels.
    pub fn new(entries: u32) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(entries * 8)
            .build(entries)
            .or_else(|_| IoUring::builder().setup_cqsize(entries * 8).build(entries))
            .map_err(|error| match error.raw_os_error() {
                // Newer kernels count rings, too. Without words this reads as if memory had run out.
                Some(libc::ENOMEM) => io::Error::new(
                    error.kind(),
                    format!("no io_uring: {error}; is the memlock limit (ulimit -l) too low for its rings?"),
                ),
                _ => io::Error::new(error.kind(), format!("no io_uring: {error}")),
            })?;
        Ok(Ring { uring, enters: 0 })
    }

    /// Queues an entry; submits first when the queue is full.
    ///
    /// # Safety
    /// Whatever the entry points to must stay valid, and untouched where the kernel writes, until
    /// its (last) completion was collected.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to the caller.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(None);
        }
    }

    /// Submits everything queued, runs deferred completions, and with `wait` sleeps until one
    /// completion is there or the time is over.
    pub fn enter(&mut self, wait: Option<Duration>) {
        self.enters += 1;
        let result = match wait {
            None => {
                // GETEVENTS makes a DEFER_TASKRUN ring post its completions.
                let to_submit = self.uring.submission().len() as u32;
                const GETEVENTS: u32 = 1;
                // SAFETY: no signal mask and no argument are passed.
                unsafe { self.uring.submitter().enter::<libc::sigset_t>(to_submit, 0, GETEVENTS, None) }
            }
            Some(time) => {
                let timespec = types::Timespec::from(time);
                let args = types::SubmitArgs::new().timespec(&timespec);
                self.uring.submitter().submit_with_args(1, &args)
            }
        };
        if let Err(error) = result {
            // ETIME: nothing came. EINTR: a signal. EBUSY/EAGAIN: completions must be collected first.
            let known =
                matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN));
            assert!(known, "io_uring_enter: {error}");
        }
    }

    /// The next completion that is already there.
    pub fn next_completion(&mut self) -> Option<Cqe> {
        let cqe: cqueue::Entry = self.uring.completion().next()?;
        Some(Cqe { user_data: cqe.user_data(), result: cqe.result(), flags: cqe.flags() })
    }

    /// Whether entries wait for [`Ring::enter`].
    pub fn has_queued(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// For registration of buffers, files and buffer rings.
    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// The ring's descriptor, for messages from other rings.
    pub fn fd(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.uring.as_raw_fd()
    }

    /// System calls made so far.
    pub fn enters(&self) -> u64 {
        self.enters
    }
}
