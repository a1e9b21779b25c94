//! A fresh server for a benchmark: this very program on CPUs of its own and an empty data directory, which
//! goes with it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(60);

/// Keeps a thread, or a process before it begins, on some CPUs.
pub(crate) fn pin(cpus: &[usize]) -> std::io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: writes inside the set, the id is in range.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the size is that of the set, which outlives the call; 0 means this thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The server; stopped and cleared away when dropped.
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts one below `parent` on `cpus`, with further flags of `runelog serve`.
    pub(crate) fn start(parent: &Path, cpus: &[usize], flags: &[String]) -> Result<Server, String> {
        let dir = parent.join(format!("runelog-bench-{}", std::process::id()));
        let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
        fs::create_dir_all(&dir).map_err(|error| failed(&dir.display().to_string(), error))?;
        let port_file = dir.join("port");
        let program = std::env::current_exe().map_err(|error| failed("this program", error))?;
        let log = fs::File::create(dir.join("log")).map_err(|error| failed("the server's log", error))?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--host", "127.0.0.1", "--port", "0"])
            .arg("--port-file")
            .arg(&port_file)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let cpus = cpus.to_vec();
        // SAFETY: between fork and exec only a system call on plain memory of this closure.
        unsafe { command.pre_exec(move || pin(&cpus)) };
        let child = command.spawn().map_err(|error| failed("starting the server", error))?;
        let mut server = Server { child, dir, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let began = Instant::now();
        loop {
            if let Some(address) = fs::read_to_string(&port_file).ok().and_then(|text| text.parse().ok()) {
                server.address = address;
                return Ok(server);
            }
            let ended = server.child.try_wait().map_err(|error| failed("the server", error))?;
            if ended.is_some() || began.elapsed() > START {
                let log = fs::read_to_string(server.dir.join("log")).unwrap_or_default();
                return Err(format!("the server did not start:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// CPU time of the server so far, user and system.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The fields after the name, which may hold anything, in clock ticks of 10 ms.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 10))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: a plain system call on the id of a child that was not waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
