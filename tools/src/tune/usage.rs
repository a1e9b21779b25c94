//! What a point used: CPU of the server's cores, of the generator and of the machine, the log device, the
//! server's own counters of commits. Lives here: counters before and after, as shares. Not here: what they
//! mean (`limits`).

use serde::{Deserialize, Serialize};

use super::facts::Root;
use crate::bench::probe::{TICK, thread_ticks};

const SECTOR_BYTES: f64 = 512.0;

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// By thread of the server: its name, ticks in its own code, ticks in the kernel for it.
    threads: Vec<(u32, String, u64, u64)>,
    /// Ticks of the calling thread.
    generator: u64,
    /// By CPU: all ticks, idle ticks, ticks stolen by the hypervisor.
    cpus: Vec<(u64, u64, u64)>,
    /// Of the disk: sectors written, milliseconds with something in flight.
    disk: Option<(u64, u64)>,
    /// Of the server: see [`Wal`].
    wal: Wal,
}

/// What the server counts of its logs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Wal {
    pub(crate) commits: u64,
    pub(crate) syncs: u64,
    pub(crate) sync_us: u64,
    pub(crate) bytes: u64,
}

impl Wal {
    /// From the text of `/v0/metrics`.
    pub(crate) fn parse(text: &str) -> Option<Wal> {
        let of = |name: &str| {
            let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            values.filter_map(|value| value.trim().parse().ok()).next()
        };
        Some(Wal {
            commits: of("topics_wal_batches_total")?,
            syncs: of("topics_wal_fsync_latency_us_count")?,
            sync_us: of("topics_wal_fsync_latency_us_sum")?,
            bytes: of("topics_wal_bytes_written_total")?,
        })
    }
}

/// What was used in a time, as shares of one core, or of what the name says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// The busiest of the server's cores.
    pub(crate) core: f64,
    /// Of that core's time, the part in the kernel: sockets and files.
    pub(crate) core_in_kernel: f64,
    /// All threads of the server, in cores.
    pub(crate) server: f64,
    pub(crate) generator: f64,
    /// The whole machine: 1 when no CPU idles.
    pub(crate) machine: f64,
    /// Cores that neither the server nor the generator used, and that did not idle.
    pub(crate) others: f64,
    /// Taken by the hypervisor, of the whole machine.
    pub(crate) stolen: f64,
    /// Of the time, the part in which the disk had something in flight.
    pub(crate) disk_busy: Option<f64>,
    pub(crate) disk_bytes_per_second: Option<f64>,
    pub(crate) log_bytes_per_second: f64,
    pub(crate) commits_per_second: f64,
    pub(crate) syncs_per_second: f64,
    /// Mean time of a sync, from submission to completion.
    pub(crate) sync_us: f64,
}

impl Counters {
    /// Reads them. `server` is a process id, `disk` a name below `/sys/class/block`.
    pub(crate) fn read(root: &Root, server: u32, disk: Option<&str>, wal: Wal) -> Counters {
        let tasks = root.names(&format!("proc/{server}/task")).into_iter();
        let threads = tasks.filter_map(|task| {
            let stat = root.read(format!("proc/{server}/task/{task}/stat"))?;
            let (name, user, system) = thread_ticks(&stat)?;
            Some((task.parse().ok()?, name, user, system))
        });
        let stat = root.read("proc/stat").unwrap_or_default();
        Counters {
            threads: threads.collect(),
            generator: root
                .read("proc/thread-self/stat")
                .and_then(|stat| thread_ticks(&stat))
                .map_or(0, |(_, user, system)| user + system),
            cpus: stat.lines().filter_map(cpu_line).collect(),
            disk: disk.and_then(|disk| {
                let stat = root.read(format!("sys/class/block/{disk}/stat"))?;
                let fields: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
                Some((*fields.get(6)?, *fields.get(9)?))
            }),
            wal,
        }
    }

    /// What was used since `before`, `seconds` ago.
    pub(crate) fn since(&self, before: &Counters, seconds: f64) -> Usage {
        let share = |ticks: u64| ticks as f64 * TICK.as_secs_f64() / seconds;
        let threads: Vec<(f64, f64)> = self
            .threads
            .iter()
            .map(|(task, _, user, system)| {
                let old = before.threads.iter().find(|old| old.0 == *task);
                let (old_user, old_system) = old.map_or((0, 0), |old| (old.2, old.3));
                (share(user.saturating_sub(old_user)), share(system.saturating_sub(old_system)))
            })
            .collect();
        let (user, system) =
            threads.iter().copied().max_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1))).unwrap_or_default();
        let (mut all, mut idle, mut stolen) = (0, 0, 0);
        for (after, before) in self.cpus.iter().zip(&before.cpus) {
            all += after.0.saturating_sub(before.0);
            idle += after.1.saturating_sub(before.1);
            stolen += after.2.saturating_sub(before.2);
        }
        let of_all = |ticks: u64| if all == 0 { 0.0 } else { ticks as f64 / all as f64 };
        let disk = self.disk.zip(before.disk);
        let server: f64 = threads.iter().map(|(user, system)| user + system).sum();
        let generator = share(self.generator.saturating_sub(before.generator));
        let machine = 1.0 - of_all(idle);
        let per_second = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
        let syncs = self.wal.syncs.saturating_sub(before.wal.syncs);
        Usage {
            core: user + system,
            core_in_kernel: if user + system > 0.0 { system / (user + system) } else { 0.0 },
            server,
            generator,
            machine,
            others: ((machine - of_all(stolen)) * self.cpus.len() as f64 - server - generator).max(0.0),
            stolen: of_all(stolen),
            disk_busy: disk.map(|(after, before)| (per_second(after.1, before.1) / 1000.0).min(1.0)),
            disk_bytes_per_second: disk.map(|(after, before)| per_second(after.0, before.0) * SECTOR_BYTES),
            log_bytes_per_second: per_second(self.wal.bytes, before.wal.bytes),
            commits_per_second: per_second(self.wal.commits, before.wal.commits),
            syncs_per_second: syncs as f64 / seconds,
            sync_us: match syncs {
                0 => 0.0,
                _ => self.wal.sync_us.saturating_sub(before.wal.sync_us) as f64 / syncs as f64,
            },
        }
    }
}

/// A line `cpuN …` of `/proc/stat`; not the sum, whose name has no number.
fn cpu_line(line: &str) -> Option<(u64, u64, u64)> {
    let rest = line.strip_prefix("cpu")?;
    let (number, rest) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let fields: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are in user already.
    let all: u64 = fields.iter().take(8).sum();
    Some((all, fields.get(3)? + fields.get(4)?, *fields.get(7)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::tree::Tree;

    #[test]
    fn shares_come_out_of_the_counters_of_the_system() {
        let tree = Tree::new("usage");
        let task = |task: u32, name: &str, user: u64, system: u64| {
            let path = format!("proc/7/task/{task}/stat");
            tree.put(
                &path,
                &format!("{task} ({name}) S 1 1 1 0 -1 4194304 9 9 9 9 {user} {system} 9 9 20 0"),
            );
        };
        task(7, "run) log", 100, 10);
        task(8, "core-0", 1000, 500);
        tree.put("proc/thread-self/stat", "3 (gen) R 1 1 1 0 -1 4194304 9 9 9 9 10 10 9 9 20 0");
        tree.put(
            "proc/stat",
            "cpu  9 9 9 9\ncpu0 100 0 100 700 100 0 0 0 0 0\ncpu1 0 0 0 1000 0 0 0 0 0 0\nintr 5\n",
        );
        tree.put("sys/class/block/vdx/stat", " 1 1 1 1 50 0 1000 7 0 500 9 0 0 0 0 0 0");
        let wal = Wal { commits: 10, syncs: 10, sync_us: 1000, bytes: 0 };
        let before = Counters::read(&tree.root(), 7, Some("vdx"), wal);
        task(7, "run) log", 100, 10);
        task(8, "core-0", 1600, 800); // 600 + 300 ticks of 10 ms in 10 s
        task(9, "core-1", 400, 0);
        tree.put("proc/thread-self/stat", "3 (gen) R 1 1 1 0 -1 4194304 9 9 9 9 210 310 9 9 20 0");
        tree.put("proc/stat", "cpu0 900 0 100 800 100 0 0 100 0 0\ncpu1 0 0 0 2000 0 0 0 0 0 0\n");
        tree.put("sys/class/block/vdx/stat", " 1 1 1 1 50 0 21000 7 0 5500 9 0 0 0 0 0 0");
        let wal = Wal { commits: 1010, syncs: 510, sync_us: 101_000, bytes: 5000 };
        let usage = Counters::read(&tree.root(), 7, Some("vdx"), wal).since(&before, 10.0);
        let near = |value: f64, expected: f64| {
            assert!((value - expected).abs() < 1e-9, "{value} {expected}: {usage:?}")
        };
        near(usage.core, 0.9);
        near(usage.core_in_kernel, 1.0 / 3.0);
        near(usage.server, 1.3);
        near(usage.generator, 0.5);
        near(usage.machine, 900.0 / 2000.0);
        near(usage.stolen, 0.05);
        near(usage.others, 0.0);
        near(usage.disk_busy.expect("known"), 0.5);
        near(usage.disk_bytes_per_second.expect("known"), 1_024_000.0);
        near(usage.commits_per_second, 100.0);
        near(usage.syncs_per_second, 50.0);
        near(usage.sync_us, 200.0);
        near(usage.log_bytes_per_second, 500.0);
    }

    #[test]
    fn the_counters_of_the_log_are_read_from_the_metrics() {
        let text = "# TYPE topics_wal_batches_total counter\ntopics_wal_batches_total 9\n\
                    topics_wal_bytes_written_total 28672\ntopics_wal_fsync_latency_us_bucket{le=\"+Inf\"} 7\n\
                    topics_wal_fsync_latency_us_sum 23098\ntopics_wal_fsync_latency_us_count 7\n";
        let wal = Wal { commits: 9, syncs: 7, sync_us: 23_098, bytes: 28_672 };
        assert_eq!(Wal::parse(text), Some(wal));
        assert_eq!(Wal::parse(""), None);
    }
}
