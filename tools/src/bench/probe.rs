//! What processes used: CPU time of server, its threads and generator, bytes that the server had from and to its disk.
//! Lives here: reading the system's counters. Not here: what they say (`outcome`).

use std::fs;
use std::time::Duration;

/// Reads counters of this thread and of a server, if that is a process of ours.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Probe {
    /// Process id of the server.
    pub(crate) server: Option<u32>,
}

/// Clock ticks of `/proc/…/stat` are 10 ms on every Linux that reports them.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// CPU time of the calling thread, which is the generator.
    pub(crate) generator_cpu: Duration,
    pub(crate) server_cpu: Option<Duration>,
    /// By thread of the server: its id, and its CPU time.
    server_threads: Vec<(u32, Duration)>,
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
            server_threads: self.server.map(threads).unwrap_or_default(),
            server_read_bytes: field("read_bytes:"),
            server_write_bytes: field("write_bytes:"),
        }
    }
}

impl Sample {
    /// CPU time since `before` of the server's thread that used most.
    pub(crate) fn busiest_thread_since(&self, before: &Sample) -> Option<Duration> {
        let used = self.server_threads.iter().map(|(id, now)| {
            let then = before.server_threads.iter().find(|(other, _)| other == id);
            now.saturating_sub(then.map_or(Duration::ZERO, |(_, then)| *then))
        });
        used.max()
    }
}

/// The threads of a process, as far as they can be read.
fn threads(pid: u32) -> Vec<(u32, Duration)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let time = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, thread_time(&stat)?))
    };
    tasks.filter_map(time).collect()
}

/// CPU time in its own code and in the kernel, from the `stat` line of a thread.
fn thread_time(stat: &str) -> Option<Duration> {
    let (_, user, system) = thread_ticks(stat)?;
    Some(TICK * u32::try_from(user.saturating_add(system)).ok()?)
}

/// Name, ticks in its own code and ticks in the kernel, from the `stat` line of a thread; the name may hold
/// anything.
pub(crate) fn thread_ticks(stat: &str) -> Option<(String, u64, u64)> {
    let (left, right) = stat.rsplit_once(')')?;
    let name = left.split_once('(')?.1.to_owned();
    let mut fields = right.split_whitespace().skip(11);
    Some((name, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
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
        assert!(after.busiest_thread_since(&before).is_some());
        assert!(after.server_read_bytes.is_some() && after.server_write_bytes.is_some());
    }

    #[test]
    fn a_server_that_is_not_ours_has_no_counters() {
        let sample = Probe::default().look();
        assert_eq!((sample.server_cpu, sample.server_read_bytes), (None, None));
        assert_eq!(sample.busiest_thread_since(&sample), None);
    }

    #[test]
    fn the_busiest_thread_is_that_which_used_most_since() {
        let sample = |threads: &[(u32, u64)]| Sample {
            server_threads: threads.iter().map(|(id, ms)| (*id, Duration::from_millis(*ms))).collect(),
            ..Sample::default()
        };
        // The second used most before, the third is new, the first is gone.
        let (before, after) = (sample(&[(1, 10), (2, 900), (3, 0)]), sample(&[(2, 950), (3, 60), (4, 70)]));
        assert_eq!(after.busiest_thread_since(&before), Some(Duration::from_millis(70)));
    }

    #[test]
    fn the_time_of_a_thread_is_read_behind_a_name_of_any_kind() {
        let stat = "8 (core) 0 (x) S 1 1 1 0 -1 4194304 9 9 9 9 600 300 9 9 20 0";
        assert_eq!(thread_time(stat), Some(Duration::from_secs(9)));
        assert_eq!(thread_time("8 (core) S 1"), None);
    }
}
