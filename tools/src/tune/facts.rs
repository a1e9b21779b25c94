//! What the host is: read from `/proc` and `/sys` below a root, so that tests can lay one out, and from a
//! few trials that no file answers. Lives here: reading. Not here: whether it is good (`checks`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Interrupts that a device has had less often than this say nothing about where they go.
const IRQ_EVENTS_MIN: u64 = 100;
/// A cgroup v1 "no limit" is a number near 2^63.
const UNLIMITED_MIN: u64 = 1 << 60;

/// What only a trial on the running system can tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trials {
    /// Whether a ring could be made, or why not.
    pub(crate) ring: Option<String>,
    /// Why the data directory takes no `O_DIRECT`; nothing: it does.
    pub(crate) o_direct_refusal: Option<String>,
    /// Free bytes for this user in the data directory's file system.
    pub(crate) free_bytes: u64,
    /// Major and minor number of the device that it lies on.
    pub(crate) device: (u32, u32),
    /// The data directory or what is there of its path, canonical.
    pub(crate) dir: PathBuf,
    /// CPUs this process may run on.
    pub(crate) cpus_allowed: Vec<usize>,
}

/// The host. What could not be read is `None` or empty, never a guess.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) kernel: Option<String>,
    pub(crate) cpu_model: Option<String>,
    /// The kernel runs under a hypervisor: clocks and interrupts are the other one's business, too.
    pub(crate) virtual_machine: bool,
    pub(crate) cpus_online: usize,
    pub(crate) cpus_allowed: Vec<usize>,
    /// CPUs that the cgroup's quota is worth; `None`: no quota.
    pub(crate) cpu_quota: Option<f64>,
    /// Frequency governors in use; empty where the system does not choose frequencies.
    pub(crate) governors: Vec<String>,
    pub(crate) clock_source: Option<String>,
    pub(crate) numa_nodes: usize,
    pub(crate) memory_bytes: Option<u64>,
    /// What the cgroup allows; `None`: no limit.
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) memory_available_bytes: Option<u64>,
    pub(crate) swap_bytes: Option<u64>,
    pub(crate) swappiness: Option<u64>,
    /// The chosen word of `transparent_hugepage/enabled`.
    pub(crate) huge_pages: Option<String>,
    pub(crate) io_uring_disabled: Option<u64>,
    /// Why no ring could be made.
    pub(crate) io_uring_refusal: Option<String>,
    pub(crate) memlock: Option<Limit>,
    pub(crate) open_files: Option<Limit>,
    pub(crate) somaxconn: Option<u64>,
    pub(crate) file_system: Option<String>,
    pub(crate) mount_point: Option<String>,
    pub(crate) mount_options: Vec<String>,
    pub(crate) o_direct_refusal: Option<String>,
    pub(crate) free_bytes: u64,
    pub(crate) disk: Option<Disk>,
    pub(crate) irqbalance: bool,
    /// Network cards other than loopback, with where their interrupts go.
    pub(crate) network: BTreeMap<String, Vec<Irq>>,
}

/// Soft and hard value of a resource limit; `None`: unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

/// The block device below the data directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) model: Option<String>,
    /// The chosen word of `queue/scheduler`.
    pub(crate) scheduler: Option<String>,
    pub(crate) write_cache: Option<String>,
    pub(crate) rotational: Option<bool>,
    pub(crate) numa_node: Option<i64>,
    pub(crate) irqs: Vec<Irq>,
}

/// One interrupt of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Irq {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// CPUs that it may go to.
    pub(crate) cpus: Vec<usize>,
    /// CPU that has taken most of them, if there were enough to say.
    pub(crate) mostly: Option<usize>,
}

/// A root of `/proc` and `/sys`.
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Root {
        Root(path.into())
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.0.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.read(path)?.parse().ok()
    }

    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

impl Facts {
    /// Reads everything.
    pub(crate) fn read(root: &Root, trials: Trials) -> Facts {
        let cpuinfo = root.read("proc/cpuinfo").unwrap_or_default();
        let meminfo = root.read("proc/meminfo").unwrap_or_default();
        let kib = |name| field(&meminfo, name).and_then(|text| number_of(&text)).map(|kib| kib << 10);
        let limits = root.read("proc/self/limits").unwrap_or_default();
        let mount = mount(&root.read("proc/self/mountinfo").unwrap_or_default(), &trials.dir);
        let (mount_point, file_system, mount_options) = mount
            .map_or((None, None, Vec::new()), |mount| (Some(mount.point), Some(mount.kind), mount.options));
        Facts {
            kernel: root.read("proc/sys/kernel/osrelease"),
            cpu_model: field(&cpuinfo, "model name"),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            cpus_online: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            cpus_allowed: trials.cpus_allowed,
            cpu_quota: cpu_quota(root),
            governors: governors(root),
            clock_source: root.read("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            numa_nodes: root
                .names("sys/devices/system/node")
                .iter()
                .filter(|name| name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok()))
                .count(),
            memory_bytes: kib("MemTotal"),
            memory_limit_bytes: memory_limit(root),
            memory_available_bytes: kib("MemAvailable"),
            swap_bytes: kib("SwapTotal"),
            swappiness: root.number("proc/sys/vm/swappiness"),
            huge_pages: root.read("sys/kernel/mm/transparent_hugepage/enabled").and_then(chosen),
            io_uring_disabled: root.number("proc/sys/kernel/io_uring_disabled"),
            io_uring_refusal: trials.ring,
            memlock: limit(&limits, "Max locked memory"),
            open_files: limit(&limits, "Max open files"),
            somaxconn: root.number("proc/sys/net/core/somaxconn"),
            file_system,
            mount_point,
            mount_options,
            o_direct_refusal: trials.o_direct_refusal,
            free_bytes: trials.free_bytes,
            disk: disk(root, trials.device),
            irqbalance: root.names("proc").iter().any(|name| {
                name.bytes().all(|byte| byte.is_ascii_digit())
                    && root.read(format!("proc/{name}/comm")).as_deref() == Some("irqbalance")
            }),
            network: network(root),
        }
    }

    /// Memory that this host has for everything, a limit of its cgroup considered.
    pub(crate) fn memory_usable_bytes(&self) -> Option<u64> {
        match (self.memory_bytes, self.memory_limit_bytes) {
            (Some(memory), Some(limit)) => Some(memory.min(limit)),
            (memory, limit) => memory.or(limit),
        }
    }

    /// CPUs that the process can really have: whole ones of the quota, at least one.
    pub(crate) fn cpus_usable(&self) -> usize {
        let allowed = self.cpus_allowed.len().max(1);
        self.cpu_quota.map_or(allowed, |quota| allowed.min((quota.floor() as usize).max(1)))
    }
}

/// The value behind `name :` of a text such as `/proc/cpuinfo`.
fn field(text: &str, name: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).next()
}

/// The number that a text begins with.
fn number_of(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The word in brackets of `always [madvise] never`; the only word where there is no choice.
fn chosen(text: String) -> Option<String> {
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
        Some((word, _)) => Some(word.to_owned()),
        None => Some(text).filter(|text| !text.contains(' ')),
    }
}

fn limit(limits: &str, name: &str) -> Option<Limit> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = rest.split_whitespace().map(|word| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some(Limit { soft: words.next()??, hard: words.next()?? })
}

fn governors(root: &Root) -> Vec<String> {
    let names = root.names("sys/devices/system/cpu");
    let cpus = names.iter().filter(|name| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()));
    let found: BTreeSet<String> = cpus
        .filter_map(|cpu| root.read(format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")))
        .collect();
    found.into_iter().collect()
}

/// The path of this process in a cgroup hierarchy: of version 2 (`""`) or of a controller of version 1.
fn cgroup(root: &Root, controller: &str) -> Option<String> {
    let text = root.read("proc/self/cgroup")?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let found = match controller {
            "" => controllers.is_empty(),
            _ => controllers.split(',').any(|word| word == controller),
        };
        found.then(|| path.trim_start_matches('/').to_owned())
    })
}

/// A cgroup and those above it, for the tightest limit counts. A container may not see the part of its path
/// above itself, so the top is always looked at.
fn upwards(path: String) -> impl Iterator<Item = String> {
    let mut next = Some(path);
    std::iter::from_fn(move || {
        let path = next.take()?;
        if !path.is_empty() {
            next = Some(path.rsplit_once('/').map_or(String::new(), |(above, _)| above.to_owned()));
        }
        Some(path)
    })
}

fn cpu_quota(root: &Root) -> Option<f64> {
    let of_two = cgroup(root, "").into_iter().flat_map(upwards).filter_map(|path| {
        let text = root.read(format!("sys/fs/cgroup/{path}/cpu.max"))?;
        let (quota, period) = text.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    let of_one = cgroup(root, "cpu").into_iter().flat_map(upwards).filter_map(|path| {
        let at = format!("sys/fs/cgroup/cpu/{path}");
        let quota: f64 = root.number(format!("{at}/cpu.cfs_quota_us"))?;
        let period: f64 = root.number(format!("{at}/cpu.cfs_period_us"))?;
        (quota > 0.0).then_some(quota / period)
    });
    of_two.chain(of_one).reduce(f64::min)
}

fn memory_limit(root: &Root) -> Option<u64> {
    let of_two = cgroup(root, "").into_iter().flat_map(upwards);
    let of_two = of_two.filter_map(|path| root.number(format!("sys/fs/cgroup/{path}/memory.max")));
    let of_one = cgroup(root, "memory").into_iter().flat_map(upwards);
    let of_one =
        of_one.filter_map(|path| root.number(format!("sys/fs/cgroup/memory/{path}/memory.limit_in_bytes")));
    of_two.chain(of_one).filter(|bytes| *bytes < UNLIMITED_MIN).min()
}

struct Mount {
    point: String,
    kind: String,
    options: Vec<String>,
}

/// The mount that `dir` lies on: the last of those whose point is the longest prefix of it.
fn mount(mountinfo: &str, dir: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let (point, options) = (left.next()?.replace("\\040", " "), left.next()?);
        let mut right = right.split(' ');
        let (kind, super_options) = (right.next()?.to_owned(), right.nth(1)?);
        let all: BTreeSet<&str> = options.split(',').chain(super_options.split(',')).collect();
        let options = all.into_iter().map(str::to_owned).collect();
        Some(Mount { point, kind, options })
    });
    mounts.filter(|mount| dir.starts_with(&mount.point)).max_by_key(|mount| mount.point.len())
}

fn disk(root: &Root, (major, minor): (u32, u32)) -> Option<Disk> {
    let block = fs::canonicalize(root.path(&format!("sys/dev/block/{major}:{minor}"))).ok()?;
    // A partition has its queue in the directory above.
    let whole = if block.join("queue").is_dir() { block } else { block.parent()?.to_owned() };
    let read = |name: &str| root.read(whole.join(name));
    Some(Disk {
        name: whole.file_name()?.to_string_lossy().into_owned(),
        model: read("device/model"),
        scheduler: read("queue/scheduler").and_then(chosen),
        write_cache: read("queue/write_cache"),
        rotational: read("queue/rotational").map(|text| text == "1"),
        numa_node: read("device/numa_node")
            .and_then(|text| text.parse().ok())
            .filter(|node: &i64| *node >= 0),
        irqs: irqs(root, &whole),
    })
}

fn network(root: &Root) -> BTreeMap<String, Vec<Irq>> {
    let names = root.names("sys/class/net").into_iter().filter(|name| name != "lo");
    let cards = names.filter_map(|name| {
        // What has no device is a bridge or a tunnel.
        let device = fs::canonicalize(root.path(&format!("sys/class/net/{name}/device"))).ok()?;
        Some((name, irqs(root, &device)))
    });
    cards.collect()
}

/// The interrupts of a device: those of the nearest bus device at or above it that has some. Those that
/// never came (configuration, errors) are left out.
fn irqs(root: &Root, device: &Path) -> Vec<Irq> {
    let top = fs::canonicalize(&root.0).unwrap_or_else(|_| root.0.clone());
    let msi = device
        .ancestors()
        .take_while(|at| at.starts_with(&top))
        .map(|at| at.join("msi_irqs"))
        .find(|at| at.is_dir());
    let Some(msi) = msi else { return Vec::new() };
    let text = root.read("proc/interrupts").unwrap_or_default();
    let mut lines = text.lines();
    let cpus: Vec<usize> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
        .collect();
    let mut found: Vec<Irq> = lines
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number: u32 = number.trim().parse().ok()?;
            if !msi.join(number.to_string()).exists() {
                return None;
            }
            let words: Vec<&str> = rest.split_whitespace().collect();
            let counts: Vec<u64> =
                words.iter().take(cpus.len()).map_while(|word| word.parse().ok()).collect();
            let events: u64 = counts.iter().sum();
            let most = (0..counts.len()).max_by_key(|at| counts[*at])?;
            if events == 0 {
                return None;
            }
            Some(Irq {
                number,
                name: words.last()?.to_string(),
                cpus: affinity(root, number),
                mostly: (events >= IRQ_EVENTS_MIN).then(|| cpus[most]),
            })
        })
        .collect();
    found.sort_by_key(|irq| irq.number);
    found
}

fn affinity(root: &Root, irq: u32) -> Vec<usize> {
    let read = |name: &str| root.read(format!("proc/irq/{irq}/{name}"));
    let text = read("effective_affinity_list").or_else(|| read("smp_affinity_list"));
    text.map_or(Vec::new(), |text| cpu_list(&text))
}

/// `0-2,5` as numbers.
pub(crate) fn cpu_list(text: &str) -> Vec<usize> {
    let parts = text.split(',').filter_map(|part| {
        let (from, to) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
    });
    parts.flatten().collect()
}
