//! A fresh server for a benchmark: this very program on CPUs of its own and an empty data directory, which
//! goes with it. The daemon, or the bare loop that is its ceiling.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(60);

/// All CPUs that this process may use.
pub(crate) fn all_cpus() -> Vec<usize> {
    // SAFETY: a cpu_set_t is plain bits; the call fills it.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        set
    };
    // SAFETY: the ids are in range.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

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

/// Servers that this process started, so that each has a directory of its own.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The server; stopped and cleared away when dropped.
pub(crate) struct Server {
    child: Child,
    /// Everything of it, files beside its data too.
    dir: PathBuf,
    pub(crate) address: SocketAddr,
    /// How it was started.
    cpus: Vec<usize>,
    args: Vec<OsString>,
}

impl Server {
    /// Starts the daemon below `parent` on `cpus`, with further flags of `runelog serve`.
    pub(crate) fn start(parent: &Path, cpus: &[usize], flags: &[String]) -> Result<Server, String> {
        let dir = new_dir(parent)?;
        let mut args: Vec<OsString> =
            ["serve", "--host", "127.0.0.1", "--port", "0", "--data-dir"].map(OsString::from).into();
        args.push(dir.join("data").into());
        args.extend(flags.iter().map(OsString::from));
        Server::spawn(dir, cpus, args)
    }

    /// The settings of a daemon as `serve --check` tells them, asked as it was started: with the same flags,
    /// on the same CPUs, which are its shards. No secret is in there.
    pub(crate) fn settings(&self) -> String {
        let told = command(&self.cpus).and_then(|mut ask| ask.args(&self.args).arg("--check").output());
        match told {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => format!("not known: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => format!("not known: {error}"),
        }
    }

    /// Starts the bare loop: it answers every `request_bytes` bytes with `answer`. With `log` it appends
    /// them to a file first, synced if that says so.
    pub(crate) fn start_raw(
        parent: &Path,
        cpus: &[usize],
        request_bytes: usize,
        answer: &[u8],
        log: Option<bool>,
    ) -> Result<Server, String> {
        let dir = new_dir(parent)?;
        let file = dir.join("answer");
        fs::write(&file, answer).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut args: Vec<OsString> = vec!["raw-server".into(), "--answer".into(), file.into()];
        let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
        args.extend(
            [format!("--request-bytes={request_bytes}"), format!("--cpus={}", list.join(","))]
                .map(OsString::from),
        );
        if let Some(sync) = log {
            args.extend(["--log".into(), dir.join("log-file").into()]);
            args.extend(sync.then(|| "--sync".into()));
        }
        Server::spawn(dir, cpus, args)
    }

    fn spawn(dir: PathBuf, cpus: &[usize], args: Vec<OsString>) -> Result<Server, String> {
        let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let port_file = dir.join("port");
        let log = fs::File::create(dir.join("log")).map_err(|error| failed("the server's log", error))?;
        let mut command = command(cpus).map_err(|error| failed("this program", error))?;
        command.args(&args).arg("--port-file").arg(&port_file).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| failed("starting the server", error))?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, dir, address, cpus: cpus.to_vec(), args };
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

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes its files out of the system's cache of pages, as far as they are on the disk.
    pub(crate) fn drop_pages(&self) {
        let mut dirs = vec![self.dir.join("data")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if let Ok(file) = fs::File::open(path) {
                    // SAFETY: numbers only, of a file that is open.
                    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
                }
            }
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    }
}

/// This program once more, on some CPUs.
fn command(cpus: &[usize]) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    let cpus = cpus.to_vec();
    let before = move || {
        // A generator that is killed leaves no server behind.
        // SAFETY: a number for this process.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
        pin(&cpus)
    };
    // SAFETY: between fork and exec only system calls on plain memory of this closure.
    unsafe { command.pre_exec(before) };
    Ok(command)
}

/// Variables that are for the user's own server, or its clients, and must not count for ours. `RUST_LOG` may.
fn is_setting(variable: &OsStr) -> bool {
    variable.as_encoded_bytes().starts_with(b"RUNELOG_")
}

fn new_dir(parent: &Path) -> Result<PathBuf, String> {
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("runelog-bench-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(dir)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_server_gets_no_settings_of_the_users_own() {
        for (variable, is_one) in [
            ("RUNELOG_API_KEYS", true),
            ("RUNELOG_KEY", true),
            ("RUNELOG_HOT_BYTES", true),
            ("RUST_LOG", false),
            ("PATH", false),
            ("MY_RUNELOG_HOME", false),
        ] {
            assert_eq!(is_setting(OsStr::new(variable)), is_one, "{variable}");
        }
    }
}
