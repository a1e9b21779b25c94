//! What processes used: CPU time of server and generator, bytes that the server had from and to its disk.
//! Lives here: reading the system's counters. Not here: what they say (`outcome`).

use std::fs;
use std::time::Duration;

/// Reads counters of this thread and of a server, if that is a process of ours.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Probe {
    /// Process id of the server.
    pub(crate) server: Option<u32>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// CPU time of the calling thread, which is the generator.
    pub(crate) generator_cpu: Duration,
    pub(crate) server_cpu: Option<Duration>,
    /// Bytes that the server caused to be fetched from the block device: what came from a cache is not in it.
    pub(crate) server_read_bytes: Option<u64>,
    pub(crate) server_write_bytes: Option<u64>,
}

impl Probe {
    /// The counters now.
    pub(crate) fn look(&self) -> Sample {
        let io = self.server.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/io")).ok());
        let field = |name: &str| {
            let line = io.as_deref()?.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        Sample {
            generator_cpu: clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default(),
            server_cpu: self.server.and_then(process_clock).and_then(clock),
            server_read_bytes: field("read_bytes:"),
            server_write_bytes: field("write_bytes:"),
        }
    }
}

/// The clock that counts the CPU time of all threads of a process.
fn process_clock(pid: u32) -> Option<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: writes one number into a place that outlives the call.
    let failed = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    (failed == 0).then_some(clock)
}

fn clock(id: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a struct of numbers that outlives the call.
    let failed = unsafe { libc::clock_gettime(id, &mut time) };
    (failed == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_thread_and_process_is_counted() {
        let probe = Probe { server: Some(std::process::id()) };
        let before = probe.look();
        let sum = (0..3_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
        std::hint::black_box(sum);
        let after = probe.look();
        assert!(after.generator_cpu > before.generator_cpu);
        assert!(after.server_cpu > before.server_cpu && after.server_cpu.is_some());
        assert!(after.server_read_bytes.is_some() && after.server_write_bytes.is_some());
    }

    #[test]
    fn a_server_that_is_not_ours_has_no_counters() {
        let sample = Probe::default().look();
        assert_eq!((sample.server_cpu, sample.server_read_bytes), (None, None));
    }
}
