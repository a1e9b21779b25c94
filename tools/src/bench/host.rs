//! The machine a figure was taken on, as far as the system tells. Lives here: reading it. Not here:
//! judging it (`tune` will).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Everything that a figure without it would mean little.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: usize,
    pub(crate) cpu_governor: String,
    pub(crate) memory_bytes: u64,
    pub(crate) load_average: String,
    pub(crate) file_system: String,
    pub(crate) disk: Disk,
}

/// The device below the data directory.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Disk {
    pub(crate) device: String,
    pub(crate) model: String,
    pub(crate) scheduler: String,
    /// `write back`: the drive has a volatile cache, and a sync costs a flush. `write through`: it has none,
    /// or one that a power failure does not empty.
    pub(crate) write_cache: String,
    pub(crate) rotational: String,
    /// What can be said about power-loss protection.
    pub(crate) power_loss_protection: String,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn unknown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "unknown".to_owned())
}

impl Host {
    /// The host, and the device below `data_dir`.
    pub(crate) fn look(data_dir: &Path) -> Host {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo").unwrap_or_default(), "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").trim().parse::<u64>().ok());
        Host {
            kernel: unknown(read("/proc/sys/kernel/osrelease")),
            cpu_model: unknown(field(&cpuinfo, "model name")),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            cpu_governor: unknown(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            memory_bytes: memory.unwrap_or(0) << 10,
            load_average: unknown(read("/proc/loadavg")),
            file_system: unknown(file_system(data_dir)),
            disk: disk(data_dir).unwrap_or_default(),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} x {}, kernel {}, governor {}, {} on {} ({}, write cache {}), load {}",
            self.cpus,
            self.cpu_model,
            self.kernel,
            self.cpu_governor,
            self.file_system,
            self.disk.device,
            self.disk.model,
            self.disk.write_cache,
            self.load_average,
        )
    }
}

/// Type of the file system that a path lies on: the longest mount point that is a prefix of it.
fn file_system(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = read("/proc/self/mounts")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((PathBuf::from(words.next()?), words.next()?.to_owned()))
    });
    mounts
        .filter(|(at, _)| path.starts_with(at))
        .max_by_key(|(at, _)| at.as_os_str().len())
        .map(|(_, kind)| kind)
}

fn disk(path: &Path) -> Option<Disk> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition has its queue in the directory above.
    let whole = if block.join("queue").is_dir() { block.clone() } else { block.parent()?.to_owned() };
    let write_cache = unknown(read(whole.join("queue/write_cache")));
    let protected = match write_cache.as_str() {
        "write through" => "likely: the drive reports no volatile write cache",
        "write back" => "unknown: the drive reports a volatile write cache",
        _ => "unknown",
    };
    Some(Disk {
        device: block.file_name()?.to_string_lossy().into_owned(),
        model: unknown(read(whole.join("device/model"))),
        scheduler: unknown(read(whole.join("queue/scheduler"))),
        rotational: unknown(read(whole.join("queue/rotational"))),
        power_loss_protection: protected.to_owned(),
        write_cache,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_a_file_system() {
        let host = Host::look(Path::new("."));
        assert_ne!(host.kernel, "unknown");
        assert_ne!(host.file_system, "unknown");
        assert!(host.memory_bytes > 1 << 20 && host.cpus > 0);
        assert!(host.line().contains(&host.kernel));
    }
}
