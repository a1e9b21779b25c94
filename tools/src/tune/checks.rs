//! Whether the host is good for a log server, and what to do about what is not. Lives here: one function a
//! check, from facts to a verdict. Not here: reading the facts (`facts`), what a measurement says.

use serde::{Deserialize, Serialize};

use super::facts::{Facts, Irq};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Locked memory below which a start with two cores was seen to fail, and below which chunks are written
/// the plain way.
const MEMLOCK_LEAST: u64 = MIB;
const MEMLOCK_GOOD: u64 = 1 << 30;
/// Descriptors: a connection each, and some for files.
const OPEN_FILES_LEAST: u64 = 4096;
const OPEN_FILES_GOOD: u64 = 65_536;
/// The server asks for a queue of this many connections that wait to be accepted.
const BACKLOG: u64 = 4096;
/// Free space: the log alone takes `hot_bytes` and more for each core.
const FREE_LEAST: u64 = 2 * GIB;
const FREE_GOOD: u64 = 20 * GIB;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// Could not be found out, or is the business of somebody else (a hypervisor).
    Unknown,
    /// Works, but costs speed or safety.
    Improve,
    /// The server does not work, or promises what the host does not keep.
    Bad,
}

/// One check of the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) found: String,
    pub(crate) verdict: Verdict,
    /// What it means.
    pub(crate) why: String,
    /// What to do: a command, or words where there is none. Empty: nothing.
    pub(crate) fix: String,
}

struct Judged {
    found: String,
    verdict: Verdict,
    why: &'static str,
    fix: String,
}

type Judge = fn(&Facts) -> Judged;

fn good(found: impl Into<String>) -> Judged {
    Judged { found: found.into(), verdict: Verdict::Good, why: "", fix: String::new() }
}

fn judged(verdict: Verdict, found: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Judged {
    Judged { found: found.into(), verdict, why, fix: fix.into() }
}

fn unknown(why: &'static str, fix: &str) -> Judged {
    judged(Verdict::Unknown, "not known", why, fix)
}

/// All checks, in the order in which they are shown.
pub(crate) fn all(facts: &Facts) -> Vec<Check> {
    let checks: [(&str, Judge); 20] = [
        ("kernel", kernel),
        ("io_uring", io_uring),
        ("locked memory", memlock),
        ("open files", open_files),
        ("file system", file_system),
        ("O_DIRECT", o_direct),
        ("free space", free_space),
        ("io scheduler", scheduler),
        ("write cache", write_cache),
        ("disk interrupts", disk_interrupts),
        ("network interrupts", network_interrupts),
        ("irqbalance", irqbalance),
        ("CPU governor", governor),
        ("CPU quota", quota),
        ("clock source", clock_source),
        ("NUMA", numa),
        ("huge pages", huge_pages),
        ("swap", swap),
        ("memory", memory),
        ("accept queue", accept_queue),
    ];
    let check = |(name, judge): (&str, Judge)| {
        let Judged { found, verdict, why, fix } = judge(facts);
        Check { name: name.to_owned(), found, verdict, why: why.to_owned(), fix }
    };
    checks.into_iter().map(check).collect()
}

fn kernel(facts: &Facts) -> Judged {
    let Some(release) = &facts.kernel else {
        return unknown("/proc/sys/kernel/osrelease is unreadable", "uname -r");
    };
    let mut parts = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return judged(Verdict::Unknown, release, "not a version that can be read", "uname -r");
    };
    match (major, minor) {
        (..=5, _) => judged(
            Verdict::Bad,
            release,
            "sockets need multishot receives (6.0)",
            "install Linux 6.1 or newer",
        ),
        (6, 0) => judged(
            Verdict::Improve,
            release,
            "the cheapest ring set-up needs 6.1",
            "install Linux 6.1 or newer",
        ),
        (6, ..12) => judged(
            Verdict::Good,
            release,
            "from 6.12 on a core can ask for long scheduler slices, which helps on the one with the disk's interrupts",
            "",
        ),
        _ => good(release),
    }
}

fn io_uring(facts: &Facts) -> Judged {
    let sysctl = facts.io_uring_disabled;
    match (&facts.io_uring_refusal, sysctl) {
        (None, _) => good("permitted"),
        (Some(why), Some(1 | 2)) => judged(
            Verdict::Bad,
            format!("{why}; kernel.io_uring_disabled is {}", sysctl.unwrap_or(0)),
            "the server does all its work through io_uring",
            "sudo sysctl -w kernel.io_uring_disabled=0",
        ),
        (Some(why), _) => judged(
            Verdict::Bad,
            why,
            "the server does all its work through io_uring; a container's seccomp profile often forbids it",
            "permit io_uring_setup, io_uring_enter and io_uring_register (docker run --security-opt seccomp=FILE)",
        ),
    }
}

fn memlock(facts: &Facts) -> Judged {
    let Some(limit) = facts.memlock else { return unknown("/proc/self/limits is unreadable", "ulimit -l") };
    let fix = "ulimit -l unlimited (LimitMEMLOCK=infinity in a systemd unit)";
    match limit.soft {
        None => good("unlimited"),
        Some(bytes) if bytes >= MEMLOCK_GOOD => good(bytes_text(bytes)),
        Some(bytes) if bytes >= MEMLOCK_LEAST => judged(
            Verdict::Improve,
            bytes_text(bytes),
            "log buffers that cannot be registered with io_uring are written the plain way, slower",
            fix,
        ),
        Some(bytes) => {
            judged(Verdict::Bad, bytes_text(bytes), "too little for the rings: the start may fail", fix)
        }
    }
}

fn open_files(facts: &Facts) -> Judged {
    let Some(limit) = facts.open_files else {
        return unknown("/proc/self/limits is unreadable", "ulimit -n");
    };
    let Some(soft) = limit.soft else { return good("unlimited") };
    let aim = limit.hard.unwrap_or(1 << 20);
    let fix = match aim > soft {
        true => format!("ulimit -n {aim} (LimitNOFILE=1048576 in a systemd unit)"),
        false => {
            "LimitNOFILE=1048576 in the systemd unit, or a hard limit in /etc/security/limits.conf".to_owned()
        }
    };
    match soft {
        OPEN_FILES_GOOD.. => good(soft.to_string()),
        OPEN_FILES_LEAST.. => {
            judged(Verdict::Improve, soft.to_string(), "a connection is a descriptor, and so is a file", fix)
        }
        _ => judged(
            Verdict::Bad,
            soft.to_string(),
            "a connection is a descriptor: new ones will soon fail",
            fix,
        ),
    }
}

fn file_system(facts: &Facts) -> Judged {
    let Some(kind) = &facts.file_system else { return unknown("the mount was not found", "findmnt -T DIR") };
    let at = facts.mount_point.as_deref().unwrap_or("?");
    let found = format!("{kind} on {at} ({})", facts.mount_options.join(","));
    let has = |name: &str| facts.mount_options.iter().any(|option| option == name);
    if has("ro") {
        return judged(
            Verdict::Bad,
            found,
            "it is mounted read-only",
            format!("sudo mount -o remount,rw {at}"),
        );
    }
    match kind.as_str() {
        "tmpfs" | "ramfs" => judged(
            Verdict::Bad,
            found,
            "it is memory: nothing survives a restart of the machine",
            "put the data on a disk",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "fuse" | "fuseblk" | "virtiofs" | "ceph" => judged(
            Verdict::Bad,
            found,
            "over a network or another process a sync is slow and may promise less",
            "put the data on a local ext4 or XFS",
        ),
        _ if has("nobarrier") || has("barrier=0") => judged(
            Verdict::Bad,
            found,
            "without barriers a power loss can take what was synced",
            format!("sudo mount -o remount,barrier=1 {at}"),
        ),
        "ext4" | "xfs" if has("discard") => judged(
            Verdict::Improve,
            found,
            "each file that is removed sends discards to the drive, which can hold up syncs",
            format!("sudo mount -o remount,nodiscard {at} && sudo systemctl enable --now fstrim.timer"),
        ),
        "ext4" | "xfs" => good(found),
        _ => judged(
            Verdict::Improve,
            found,
            "developed and tested on ext4",
            "measure here, and compare with ext4 or XFS",
        ),
    }
}

fn o_direct(facts: &Facts) -> Judged {
    match &facts.o_direct_refusal {
        None => good("works"),
        Some(why) => judged(
            Verdict::Improve,
            why,
            "the log goes through the page cache, which costs a copy and memory",
            "put the data on ext4 or XFS on a local disk",
        ),
    }
}

fn free_space(facts: &Facts) -> Judged {
    let found = bytes_text(facts.free_bytes);
    let (why, fix) = ("with a full disk writes wait", "make room, or put the data elsewhere: --data-dir");
    match facts.free_bytes {
        FREE_GOOD.. => good(found),
        FREE_LEAST.. => judged(Verdict::Improve, found, why, fix),
        _ => judged(Verdict::Bad, found, why, fix),
    }
}

fn scheduler(facts: &Facts) -> Judged {
    let Some(disk) = &facts.disk else {
        return unknown("the file system has no block device of its own", "");
    };
    let Some(scheduler) = &disk.scheduler else { return unknown("the device has no queue to look at", "") };
    let found = format!("{scheduler} on {}", disk.name);
    let set = |wanted: &str| format!("echo {wanted} | sudo tee /sys/block/{}/queue/scheduler", disk.name);
    // Virtual drives say that they turn, whatever is below them.
    let turns = disk.rotational == Some(true) && !facts.virtual_machine;
    match (scheduler.as_str(), turns) {
        ("none", true) => judged(
            Verdict::Improve,
            found,
            "a disk that turns gains from sorted requests",
            set("mq-deadline"),
        ),
        ("none", false) | ("mq-deadline", true) => good(found),
        ("mq-deadline", false) => judged(
            Verdict::Improve,
            found,
            "it orders what a drive without moving parts, or the host below, takes in any order",
            set("none"),
        ),
        _ => judged(
            Verdict::Improve,
            found,
            "it holds back writes to be fair or to reach a latency",
            set("none"),
        ),
    }
}

fn write_cache(facts: &Facts) -> Judged {
    let disk = facts.disk.as_ref();
    let Some((disk, cache)) = disk.and_then(|disk| Some((disk, disk.write_cache.as_deref()?))) else {
        return unknown(
            "the system does not tell whether the drive has a volatile cache",
            "ask the drive's data sheet",
        );
    };
    let found = format!(
        "{cache} on {}{}",
        disk.name,
        disk.model.as_ref().map_or(String::new(), |m| format!(" ({m})"))
    );
    match (cache, facts.virtual_machine) {
        ("write through", false) => judged(
            Verdict::Good,
            found,
            "the drive reports no volatile cache: none, or one that a power loss does not empty. A sync costs no flush",
            "",
        ),
        ("write through", true) => judged(
            Verdict::Unknown,
            found,
            "the virtual drive reports no volatile cache; whether the host below keeps what it acknowledged is up to that host",
            "ask the provider whether a completed write survives a power loss of the host",
        ),
        ("write back", _) => judged(
            Verdict::Unknown,
            found,
            "the drive has a volatile cache; a sync flushes it, which is safe and slow. Power-loss protection would make it fast, and cannot be seen from here",
            format!(
                "a drive with power-loss protection; look at: sudo nvme id-ctrl /dev/{0} | grep vwc (or sudo hdparm -W /dev/{0})",
                disk.name
            ),
        ),
        _ => judged(Verdict::Unknown, found, "not a word that is known", ""),
    }
}

fn irq_text(irqs: &[Irq]) -> String {
    let one = |irq: &Irq| match irq.mostly {
        Some(cpu) => format!("{} ({}) on CPU {cpu}", irq.number, irq.name),
        None => format!("{} ({}) on {:?}, few yet", irq.number, irq.name, irq.cpus),
    };
    irqs.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// CPUs that have taken most of the interrupts of something.
fn taken_by(irqs: &[Irq]) -> Vec<usize> {
    let mut cpus: Vec<usize> = irqs.iter().filter_map(|irq| irq.mostly).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

fn disk_interrupts(facts: &Facts) -> Judged {
    let irqs = facts.disk.as_ref().map_or(&[][..], |disk| &disk.irqs);
    if irqs.is_empty() {
        return unknown(
            "no interrupts of the disk were found",
            "grep -E 'nvme|virtio|ahci' /proc/interrupts",
        );
    }
    let taken = taken_by(irqs);
    match (taken.as_slice(), facts.cpus_online) {
        ([cpu], 2..) => judged(
            Verdict::Improve,
            irq_text(irqs),
            "one CPU takes all of the disk's interrupts, and the shard on it works slower than the others",
            match irqs.iter().filter(|irq| irq.mostly.is_some()).count() {
                1 => format!(
                    "nothing with one queue, beyond leaving CPU {cpu} to shards that have less to do; a drive with a queue for each CPU"
                ),
                _ => {
                    "for each interrupt N of another queue: echo CPU | sudo tee /proc/irq/N/smp_affinity_list"
                        .to_owned()
                }
            },
        ),
        _ => good(irq_text(irqs)),
    }
}

fn network_interrupts(facts: &Facts) -> Judged {
    let irqs: Vec<Irq> = facts.network.values().flatten().cloned().collect();
    if irqs.is_empty() {
        return unknown(
            "no network card with interrupts was found",
            "grep -E 'eth|virtio|mlx|ena' /proc/interrupts",
        );
    }
    let disk = taken_by(facts.disk.as_ref().map_or(&[][..], |disk| &disk.irqs));
    let both: Vec<usize> = taken_by(&irqs).into_iter().filter(|cpu| disk.contains(cpu)).collect();
    match (both.as_slice(), facts.cpus_online) {
        ([cpu, ..], 2..) if disk.len() == 1 => judged(
            Verdict::Improve,
            irq_text(&irqs),
            "the CPU that takes the disk's interrupts takes some of the network's, too",
            {
                let irq = irqs.iter().find(|irq| irq.mostly == Some(*cpu)).map_or(0, |irq| irq.number);
                let other = facts.cpus_allowed.iter().find(|other| *other != cpu).unwrap_or(cpu);
                format!("echo {other} | sudo tee /proc/irq/{irq}/smp_affinity_list")
            },
        ),
        _ => good(irq_text(&irqs)),
    }
}

fn irqbalance(facts: &Facts) -> Judged {
    let queues = facts.disk.as_ref().map_or(0, |disk| disk.irqs.len());
    match (facts.irqbalance, facts.cpus_online) {
        (true, 2..) => judged(
            Verdict::Improve,
            "running",
            "it moves interrupts while the server runs: latencies change by themselves, and what is set by hand does not stay",
            "sudo systemctl disable --now irqbalance, then set /proc/irq/N/smp_affinity_list once",
        ),
        _ => good(format!("not needed or not running ({queues} disk queue interrupts in use)")),
    }
}

fn governor(facts: &Facts) -> Judged {
    let found = facts.governors.join(", ");
    match facts.governors.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] if facts.virtual_machine => {
            judged(Verdict::Unknown, "none", "a virtual machine: the host below chooses frequencies", "")
        }
        [] => judged(Verdict::Good, "none", "the system does not change frequencies", ""),
        ["performance"] => good(found),
        // intel_pstate and amd_pstate in active mode raise the frequency on their own with this one.
        _ => judged(
            Verdict::Improve,
            found,
            "a core that sleeps between commits is slow when it wakes up",
            "sudo cpupower frequency-set -g performance",
        ),
    }
}

fn quota(facts: &Facts) -> Judged {
    let allowed = facts.cpus_allowed.len();
    let Some(quota) = facts.cpu_quota else { return good(format!("none; {allowed} CPUs allowed")) };
    let found = format!("{quota:.2} CPUs of {allowed} allowed");
    match quota >= allowed as f64 {
        true => good(found),
        false => judged(
            Verdict::Improve,
            found,
            "once the quota of a period is used up all cores stand still for the rest of it: latencies of tens of milliseconds",
            "no quota, but CPUs of its own: AllowedCPUs= in place of CPUQuota= (docker run --cpuset-cpus in place of --cpus)",
        ),
    }
}

fn clock_source(facts: &Facts) -> Judged {
    match facts.clock_source.as_deref() {
        None => unknown("the clock source is unreadable", ""),
        Some(found @ ("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter")) => {
            good(found)
        }
        Some(found) => judged(
            Verdict::Improve,
            found,
            "reading this clock is a system call, and every request reads it",
            "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
        ),
    }
}

fn numa(facts: &Facts) -> Judged {
    let node = facts.disk.as_ref().and_then(|disk| disk.numa_node);
    match (facts.numa_nodes, node) {
        (0 | 1, _) => good("one node"),
        (nodes, node) => judged(
            Verdict::Improve,
            format!(
                "{nodes} nodes, the disk on {}",
                node.map_or("one not known".to_owned(), |node| node.to_string())
            ),
            "shards on the other nodes reach memory and disk over the link between them",
            format!("numactl --cpunodebind={0} --membind={0} runelog serve …", node.unwrap_or(0)),
        ),
    }
}

fn huge_pages(facts: &Facts) -> Judged {
    match facts.huge_pages.as_deref() {
        None => unknown("this kernel has no transparent huge pages", ""),
        Some("always") => judged(
            Verdict::Improve,
            "always",
            "the kernel may stop a core while it puts together a huge page, and idle connections hold more memory",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(found) => good(found),
    }
}

fn swap(facts: &Facts) -> Judged {
    let Some(bytes) = facts.swap_bytes else {
        return unknown("/proc/meminfo is unreadable", "swapon --show");
    };
    let swappiness = facts.swappiness.unwrap_or(60);
    match (bytes, swappiness) {
        (0, _) => good("none"),
        (_, ..=10) => good(format!("{}, swappiness {swappiness}", bytes_text(bytes))),
        _ => judged(
            Verdict::Improve,
            format!("{}, swappiness {swappiness}", bytes_text(bytes)),
            "a core that waits for a page of its own memory serves nobody",
            "sudo sysctl -w vm.swappiness=1 (MemorySwapMax=0 in a systemd unit)",
        ),
    }
}

fn memory(facts: &Facts) -> Judged {
    let Some(usable) = facts.memory_usable_bytes() else {
        return unknown("/proc/meminfo is unreadable", "free -b");
    };
    let found = match facts.memory_limit_bytes {
        Some(limit) => format!(
            "{}, of which the cgroup may use {}",
            bytes_text(facts.memory_bytes.unwrap_or(0)),
            bytes_text(limit)
        ),
        None => bytes_text(usable),
    };
    // What the defaults of hot_bytes and cache_bytes take, and as much again for everything else.
    let wanted = facts.cpus_usable() as u64 * 512 * MIB * 2;
    match usable >= wanted {
        true => good(found),
        false => judged(
            Verdict::Improve,
            found,
            "less than twice what the defaults of hot_bytes and cache_bytes take on all cores",
            "the recommended hot_bytes and cache_bytes, or fewer shards",
        ),
    }
}

fn accept_queue(facts: &Facts) -> Judged {
    match facts.somaxconn {
        None => unknown("net.core.somaxconn is unreadable", ""),
        Some(queue @ BACKLOG..) => good(queue.to_string()),
        Some(queue) => judged(
            Verdict::Improve,
            queue.to_string(),
            "the server asks for 4096 connections that may wait to be accepted; many that come at once are refused",
            "sudo sysctl -w net.core.somaxconn=4096",
        ),
    }
}

/// Bytes for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        GIB.. => format!("{:.1} GiB", bytes as f64 / GIB as f64),
        MIB.. => format!("{:.1} MiB", bytes as f64 / MIB as f64),
        1024.. => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{bytes} B"),
    }
}
