//! The machine a figure was taken on, as far as the system tells. Lives here: reading it. Not here:
//! judging it (`tune` does).

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
    pub(crate) mount_options: String,
    pub(crate) disk: Disk,
}

/// The device below the data directory; each field `unknown` where the system does not tell: of a file system
/// without a device of its own (btrfs, overlay, tmpfs), or a directory that is not there yet.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disk {
    pub(crate) device: String,
    pub(crate) model: String,
    pub(crate) driver: String,
    pub(crate) scheduler: String,
    /// `write back`: the drive has a volatile cache, and a sync costs a flush. `write through`: it has none,
    /// or one that a power failure does not empty.
    pub(crate) write_cache: String,
    pub(crate) rotational: String,
    pub(crate) logical_block_bytes: String,
    /// What can be said about power-loss protection.
    pub(crate) power_loss_protection: String,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            device: unknown(None),
            model: unknown(None),
            driver: unknown(None),
            scheduler: unknown(None),
            write_cache: unknown(None),
            rotational: unknown(None),
            logical_block_bytes: unknown(None),
            power_loss_protection: unknown(None),
        }
    }
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
        let mount = mount(data_dir).unwrap_or_else(|| (unknown(None), unknown(None)));
        Host {
            kernel: unknown(read("/proc/sys/kernel/osrelease")),
            cpu_model: unknown(field(&cpuinfo, "model name")),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            cpu_governor: unknown(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            memory_bytes: memory.unwrap_or(0) << 10,
            load_average: load_average(),
            file_system: mount.0,
            mount_options: mount.1,
            disk: disk(data_dir).unwrap_or_default(),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} x {}, kernel {}, governor {}, {} ({}) on {} ({}, write cache {}), load {}",
            self.cpus,
            self.cpu_model,
            self.kernel,
            self.cpu_governor,
            self.file_system,
            self.mount_options,
            self.disk.device,
            self.disk.model,
            self.disk.write_cache,
            self.load_average,
        )
    }
}

/// The load average now.
pub(crate) fn load_average() -> String {
    unknown(read("/proc/loadavg"))
}

/// Type and options of the file system that a path lies on: the longest mount point that is a prefix of it;
/// of several at one place the last, which covers the others.
fn mount(path: &Path) -> Option<(String, String)> {
    let path = fs::canonicalize(path).ok()?;
    mount_of(&path, &read("/proc/self/mounts")?)
}

fn mount_of(path: &Path, mounts: &str) -> Option<(String, String)> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // A space in a name is written as \040.
        let at = PathBuf::from(words.next()?.replace("\\040", " "));
        Some((at, words.next()?.to_owned(), words.next()?.to_owned()))
    });
    mounts
        .filter(|(at, _, _)| path.starts_with(at))
        .max_by_key(|(at, _, _)| at.as_os_str().len())
        .map(|(_, kind, options)| (kind, options))
}

fn disk(path: &Path) -> Option<Disk> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition has its queue in the directory above.
    let whole = if block.join("queue").is_dir() { block.clone() } else { block.parent()?.to_owned() };
    let write_cache = unknown(read(whole.join("queue/write_cache")));
    let model = ["device/model", "device/name", "dm/name"].iter().find_map(|name| read(whole.join(name)));
    let driver = fs::canonicalize(whole.join("device/driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let is_drive = whole.join("device").exists();
    let protection = power_loss_protection(&write_cache, driver.as_deref(), is_drive);
    Some(Disk {
        device: block.file_name()?.to_string_lossy().into_owned(),
        model: unknown(model),
        driver: unknown(driver),
        scheduler: unknown(read(whole.join("queue/scheduler"))),
        rotational: unknown(read(whole.join("queue/rotational"))),
        logical_block_bytes: unknown(read(whole.join("queue/logical_block_size"))),
        power_loss_protection: protection.to_owned(),
        write_cache,
    })
}

/// What the kernel knows says little: it knows whether a flush is needed, not what a power failure does.
fn power_loss_protection(write_cache: &str, driver: Option<&str>, is_drive: bool) -> &'static str {
    match (write_cache, driver) {
        _ if !is_drive => {
            "unknown: no drive but a device made of others (dm, md, loop), which do not show here"
        }
        (_, Some("virtio_blk" | "xen-blkfront" | "vmw_pvscsi")) => {
            "unknown: a virtual disk; what is below it does not show here"
        }
        ("write through", _) => "likely: the drive reports no volatile write cache",
        ("write back", _) => {
            "unknown: the drive reports a volatile write cache; its data sheet says whether that is protected"
        }
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_a_file_system() {
        let host = Host::look(Path::new("."));
        assert_ne!(host.kernel, "unknown");
        assert_ne!(host.file_system, "unknown");
        assert_ne!(host.mount_options, "unknown");
        assert!(host.memory_bytes > 1 << 20 && host.cpus > 0);
        assert!(host.line().contains(&host.kernel));
    }

    #[test]
    fn a_path_lies_on_its_nearest_mount_and_the_last_of_several() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw,noatime 0 0\ntmpfs /data/my\\040dir tmpfs rw 0 0\n/dev/c / btrfs ro 0 0";
        let kind = |path: &str| mount_of(Path::new(path), mounts);
        assert_eq!(kind("/data/x"), Some(("xfs".into(), "rw,noatime".into())));
        assert_eq!(kind("/data/my dir/x"), Some(("tmpfs".into(), "rw".into())));
        assert_eq!(kind("/database"), Some(("btrfs".into(), "ro".into())));
    }

    #[test]
    fn what_is_not_known_of_a_drive_is_called_unknown() {
        assert!(power_loss_protection("write through", Some("nvme"), true).starts_with("likely"));
        assert!(power_loss_protection("write through", None, true).starts_with("likely"));
        for (cache, driver, is_drive) in [
            ("write back", Some("nvme"), true),
            ("write through", Some("virtio_blk"), true),
            ("write back", Some("virtio_blk"), true),
            ("unknown", None, true),
            ("write through", None, false), // dm-crypt over anything
        ] {
            let told = power_loss_protection(cache, driver, is_drive);
            assert!(told.starts_with("unknown"), "{cache} {driver:?}: {told}");
        }
    }

    /// `/proc` has no block device, as btrfs, overlay and tmpfs have none.
    #[test]
    fn without_a_device_its_fields_are_unknown_and_not_empty() {
        for dir in ["/proc", "/no such directory"] {
            let host = Host::look(Path::new(dir));
            let disk = serde_json::to_value(&host.disk).expect("plain data");
            let fields = disk.as_object().expect("an object");
            assert!(fields.len() == 8 && fields.values().all(|value| value == "unknown"), "{dir}: {disk}");
            assert!(host.line().contains("on unknown (unknown, write cache unknown)"), "{}", host.line());
        }
    }
}
