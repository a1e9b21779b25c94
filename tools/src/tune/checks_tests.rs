//! Hosts laid out as files, and what the checks say about them.

use std::path::PathBuf;

use super::checks::{Check, Verdict, all};
use super::facts::{Facts, Irq, Limit, Trials, cpu_list};
use super::tree::Tree;

use Verdict::{Bad, Good, Improve, Unknown};

/// A machine with nothing to complain about: two CPUs of metal, NVMe with a queue for each, ext4.
fn good_host(name: &str) -> Tree {
    let tree = Tree::new(name);
    tree.put("proc/sys/kernel/osrelease", "6.12.5-amd64");
    tree.put(
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Best CPU\nflags\t\t: fpu sse2\n\nprocessor\t: 1\n",
    );
    tree.put(
        "proc/meminfo",
        "MemTotal:       67108864 kB\nMemAvailable:   60000000 kB\nSwapTotal:             0 kB",
    );
    tree.put(
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1048576              1048576              files\n\
         Max locked memory         unlimited            unlimited            bytes",
    );
    tree.put(
        "proc/self/mountinfo",
        "22 1 259:2 / / rw,relatime - ext4 /dev/nvme0n1p2 rw,errors=remount-ro\n\
         23 22 0:5 / /proc rw - proc proc rw",
    );
    tree.put("proc/self/cgroup", "0::/system.slice/runelog.service");
    tree.put("sys/fs/cgroup/system.slice/runelog.service/cpu.max", "max 100000");
    tree.put("proc/sys/vm/swappiness", "60");
    tree.put("proc/sys/kernel/io_uring_disabled", "0");
    tree.put("proc/sys/net/core/somaxconn", "4096");
    tree.put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never");
    tree.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc");
    tree.put("sys/devices/system/node/node0/cpulist", "0-1");
    for cpu in [0, 1] {
        tree.put(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"), "performance");
    }
    let disk = "sys/devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1";
    tree.put(&format!("{disk}/queue/scheduler"), "[none] mq-deadline");
    tree.put(&format!("{disk}/queue/write_cache"), "write through");
    tree.put(&format!("{disk}/queue/rotational"), "0");
    tree.put(&format!("{disk}/nvme0n1p2/partition"), "2");
    tree.link("sys/dev/block/259:2", "../../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1/nvme0n1p2");
    tree.link(&format!("{disk}/device"), "..");
    tree.put("sys/devices/pci0000:00/0000:00:02.0/nvme/nvme0/model", "Fast Drive");
    let card = "sys/devices/pci0000:00/0000:00:03.0";
    tree.put(&format!("{card}/net/eth0/mtu"), "1500");
    tree.link("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:03.0/net/eth0");
    tree.link(&format!("{card}/net/eth0/device"), "../../../0000:00:03.0");
    tree.put("sys/class/net/lo/mtu", "65536");
    for (device, irqs) in [("0000:00:02.0", [30, 31, 32]), ("0000:00:03.0", [40, 41, 42])] {
        for irq in irqs {
            tree.put(&format!("sys/devices/pci0000:00/{device}/msi_irqs/{irq}"), "msix");
        }
    }
    interrupts(
        &tree,
        &[
            (30, "nvme0q0", 0, 0),
            (31, "nvme0q1", 5000, 0),
            (32, "nvme0q2", 0, 6000),
            (41, "eth0-rx", 9000, 1),
            (42, "eth0-tx", 1, 50),
        ],
    );
    tree.put("proc/irq/32/effective_affinity_list", "1");
    tree.put("proc/1/comm", "systemd");
    tree
}

fn interrupts(tree: &Tree, lines: &[(u32, &str, u64, u64)]) {
    let line = |(number, name, zero, one): &(u32, &str, u64, u64)| {
        format!(" {number}:  {zero}  {one} PCI-MSIX-0000:00:02.0   0-edge   {name}\n")
    };
    let lines: String = lines.iter().map(line).collect();
    tree.put(
        "proc/interrupts",
        &format!("           CPU0       CPU1\n{lines}NMI:  0  0  Non-maskable interrupts"),
    );
}

fn trials() -> Trials {
    Trials {
        free_bytes: 1 << 40,
        device: (259, 2),
        dir: PathBuf::from("/srv/data"),
        cpus_allowed: vec![0, 1],
        ..Trials::default()
    }
}

fn facts(tree: &Tree) -> Facts {
    Facts::read(&tree.root(), trials())
}

fn check(facts: &Facts, name: &str) -> Check {
    all(facts).into_iter().find(|check| check.name == name).expect("there is one of this name")
}

#[test]
fn a_good_host_has_nothing_to_do() {
    let tree = good_host("good");
    for check in all(&facts(&tree)) {
        assert_eq!(check.verdict, Good, "{check:?}");
        assert_eq!(check.fix, "", "{check:?}");
    }
}

#[test]
fn facts_are_read_from_where_they_stand() {
    let tree = good_host("facts");
    let facts = facts(&tree);
    assert_eq!((facts.cpus_online, facts.virtual_machine, facts.numa_nodes), (2, false, 1));
    assert_eq!((facts.memory_bytes, facts.swap_bytes), (Some(64 << 30), Some(0)));
    assert_eq!(facts.open_files, Some(Limit { soft: Some(1 << 20), hard: Some(1 << 20) }));
    assert_eq!(facts.memlock, Some(Limit { soft: None, hard: None }));
    assert_eq!((facts.file_system.as_deref(), facts.mount_point.as_deref()), (Some("ext4"), Some("/")));
    assert_eq!(facts.mount_options, ["errors=remount-ro", "relatime", "rw"]);
    let disk = facts.disk.expect("a disk");
    assert_eq!((disk.name.as_str(), disk.model.as_deref()), ("nvme0n1", Some("Fast Drive")));
    // The queue for commands has no interrupts: it says nothing.
    let irq = |number, name: &str, cpus, mostly| Irq { number, name: name.into(), cpus, mostly };
    let expected = [irq(31, "nvme0q1", vec![], Some(0)), irq(32, "nvme0q2", vec![1], Some(1))];
    assert_eq!(disk.irqs, expected);
    assert_eq!(
        facts.network["eth0"],
        [irq(41, "eth0-rx", vec![], Some(0)), irq(42, "eth0-tx", vec![], None)]
    );
}

#[test]
fn each_check_says_what_is_wrong_and_what_to_do() {
    type Break = fn(&Tree);
    fn limit(tree: &Tree, files: &str, locked: &str) {
        let text = format!(
            "Max open files   {files}   524288   files\nMax locked memory   {locked}   {locked}   bytes"
        );
        tree.put("proc/self/limits", &text);
    }
    fn mount(tree: &Tree, kind: &str, options: &str) {
        tree.put(
            "proc/self/mountinfo",
            &format!("1 0 259:2 / / rw - ext4 /dev/x rw\n22 1 259:2 / /srv {options} - {kind} /dev/x rw"),
        );
    }
    fn queue(tree: &Tree, file: &str, text: &str) {
        tree.put(&format!("sys/devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1/queue/{file}"), text);
    }
    let table: &[(&str, Verdict, &str, Break)] = &[
        ("kernel", Bad, "6.1", |tree| tree.put("proc/sys/kernel/osrelease", "5.15.0-91-generic")),
        ("kernel", Improve, "6.1", |tree| tree.put("proc/sys/kernel/osrelease", "6.0.3")),
        ("kernel", Good, "", |tree| tree.put("proc/sys/kernel/osrelease", "6.1.0-28-amd64")),
        ("kernel", Unknown, "uname", |tree| tree.put("proc/sys/kernel/osrelease", "custom")),
        ("open files", Bad, "ulimit -n 524288", |tree| limit(tree, "1024", "unlimited")),
        ("open files", Improve, "ulimit -n 524288", |tree| limit(tree, "20000", "unlimited")),
        ("open files", Bad, "LimitNOFILE", |tree| {
            tree.put("proc/self/limits", "Max open files 1024 1024 files")
        }),
        ("locked memory", Improve, "ulimit -l", |tree| limit(tree, "1048576", "8388608")),
        ("locked memory", Bad, "ulimit -l", |tree| limit(tree, "1048576", "65536")),
        ("locked memory", Unknown, "ulimit -l", |tree| tree.put("proc/self/limits", "nothing")),
        ("file system", Bad, "local ext4", |tree| mount(tree, "nfs4", "rw")),
        ("file system", Bad, "on a disk", |tree| mount(tree, "tmpfs", "rw")),
        ("file system", Bad, "remount,rw /srv", |tree| mount(tree, "ext4", "ro")),
        ("file system", Bad, "barrier=1 /srv", |tree| mount(tree, "ext4", "rw,nobarrier")),
        ("file system", Improve, "nodiscard /srv", |tree| mount(tree, "xfs", "rw,discard")),
        ("file system", Improve, "compare", |tree| mount(tree, "btrfs", "rw")),
        ("io scheduler", Improve, "echo none | sudo tee /sys/block/nvme0n1/queue/scheduler", |tree| {
            queue(tree, "scheduler", "none [mq-deadline] bfq")
        }),
        ("io scheduler", Improve, "echo none", |tree| queue(tree, "scheduler", "none mq-deadline [bfq]")),
        ("io scheduler", Improve, "echo mq-deadline", |tree| queue(tree, "rotational", "1")),
        ("io scheduler", Improve, "echo none", |tree| {
            tree.put("proc/cpuinfo", "processor : 0\nflags : hypervisor\nprocessor : 1");
            queue(tree, "scheduler", "[mq-deadline]");
            queue(tree, "rotational", "1");
        }),
        ("write cache", Unknown, "/dev/nvme0n1", |tree| queue(tree, "write_cache", "write back")),
        ("write cache", Unknown, "provider", |tree| {
            tree.put("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor\nprocessor : 1")
        }),
        ("disk interrupts", Improve, "/proc/irq/N", |tree| {
            interrupts(tree, &[(31, "nvme0q1", 5000, 0), (32, "nvme0q2", 6000, 0)]);
        }),
        ("disk interrupts", Improve, "CPU 1", |tree| interrupts(tree, &[(31, "nvme0q1", 0, 500)])),
        ("disk interrupts", Unknown, "/proc/interrupts", |tree| interrupts(tree, &[])),
        ("network interrupts", Improve, "echo 0 | sudo tee /proc/irq/41/", |tree| {
            interrupts(tree, &[(31, "nvme0q1", 0, 500), (41, "eth0-rx", 0, 900)]);
        }),
        ("network interrupts", Unknown, "/proc/interrupts", |tree| interrupts(tree, &[])),
        ("irqbalance", Improve, "systemctl disable", |tree| tree.put("proc/812/comm", "irqbalance")),
        ("CPU governor", Improve, "cpupower", |tree| {
            tree.put("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave");
        }),
        ("CPU quota", Improve, "AllowedCPUs", |tree| {
            tree.put("sys/fs/cgroup/system.slice/cpu.max", "150000 100000");
        }),
        ("CPU quota", Improve, "AllowedCPUs", |tree| {
            tree.put("proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/box");
            tree.put("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000");
            tree.put("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000");
        }),
        ("clock source", Improve, "echo tsc", |tree| {
            tree.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet");
        }),
        ("NUMA", Improve, "numactl --cpunodebind=1", |tree| {
            tree.put("sys/devices/system/node/node1/cpulist", "1");
            tree.put("sys/devices/pci0000:00/0000:00:02.0/nvme/nvme0/numa_node", "1");
        }),
        ("huge pages", Improve, "echo madvise", |tree| {
            tree.put("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
        }),
        ("swap", Improve, "swappiness=1", |tree| {
            tree.put("proc/meminfo", "MemTotal: 67108864 kB\nSwapTotal: 1048576 kB");
        }),
        ("swap", Good, "", |tree| {
            tree.put("proc/meminfo", "MemTotal: 67108864 kB\nSwapTotal: 1048576 kB");
            tree.put("proc/sys/vm/swappiness", "1");
        }),
        ("memory", Improve, "hot_bytes", |tree| {
            tree.put("sys/fs/cgroup/system.slice/runelog.service/memory.max", "1073741824");
        }),
        ("accept queue", Improve, "somaxconn=4096", |tree| tree.put("proc/sys/net/core/somaxconn", "128")),
    ];
    for (row, (name, verdict, fix, breaks)) in table.iter().enumerate() {
        let tree = good_host("broken");
        breaks(&tree);
        let check = check(&facts(&tree), name);
        assert_eq!(check.verdict, *verdict, "row {row}: {check:?}");
        assert!(check.fix.contains(fix), "row {row}: {fix} in {check:?}");
        assert!(*verdict == Good || !check.why.is_empty(), "row {row}: {check:?}");
    }
}

#[test]
fn what_only_a_trial_tells_is_judged_too() {
    let tree = good_host("trials");
    let with = |change: fn(&mut Trials)| {
        let mut trials = trials();
        change(&mut trials);
        Facts::read(&tree.root(), trials)
    };
    assert_eq!(check(&with(|trials| trials.free_bytes = 3 << 30), "free space").verdict, Improve);
    assert_eq!(check(&with(|trials| trials.free_bytes = 1 << 30), "free space").verdict, Bad);
    let refused = check(&with(|trials| trials.o_direct_refusal = Some("refused".into())), "O_DIRECT");
    assert_eq!((refused.verdict, refused.found.as_str()), (Improve, "refused"));
    let no_ring = |trials: &mut Trials| trials.ring = Some("no io_uring: EPERM".into());
    let seccomp = check(&with(no_ring), "io_uring");
    assert!(seccomp.verdict == Bad && seccomp.fix.contains("seccomp"), "{seccomp:?}");
    tree.put("proc/sys/kernel/io_uring_disabled", "2");
    let disabled = check(&with(no_ring), "io_uring");
    assert!(disabled.verdict == Bad && disabled.fix.contains("io_uring_disabled=0"), "{disabled:?}");
}

#[test]
fn a_host_that_tells_nothing_is_unknown_and_no_panic() {
    let tree = Tree::new("nothing");
    let facts = Facts::read(&tree.root(), Trials::default());
    for check in all(&facts) {
        let about_trials = ["O_DIRECT", "io_uring", "free space"].contains(&check.name.as_str());
        let absent = ["irqbalance", "CPU quota", "NUMA", "CPU governor"].contains(&check.name.as_str());
        assert!(about_trials || absent || check.verdict == Unknown, "{check:?}");
    }
}

#[test]
fn usable_cpus_and_memory_are_those_of_the_cgroup() {
    let tree = good_host("cgroup");
    tree.put("sys/fs/cgroup/cpu.max", "130000 100000");
    tree.put("sys/fs/cgroup/system.slice/memory.max", "4294967296");
    let facts = facts(&tree);
    assert_eq!((facts.cpus_usable(), facts.memory_usable_bytes()), (1, Some(4 << 30)));
    assert_eq!(cpu_list("0-2,5, 7-8"), [0, 1, 2, 5, 7, 8]);
}
