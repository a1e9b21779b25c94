//! `runelog serve` as a child process, and directories for it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;

/// A start or a stop that takes longer has failed. Test machines can be slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Settings of every server: small files and little memory, so that much happens in a short time.
const SMALL: &[(&str, &str)] = &[
    ("RUNELOG_PORT", "0"),
    ("RUNELOG_SHARDS", "2"),
    ("RUNELOG_WAL_FILE_BYTES", "4194304"),
    ("RUNELOG_HOT_BYTES", "16777216"),
    ("RUNELOG_CACHE_BYTES", "8388608"),
];

/// A directory that goes with the test, unless the test fails.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("runelog-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a scratch directory");
        Dir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for a look: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The binary with a clean environment.
pub(crate) fn runelog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runelog"));
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("RUNELOG_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    end_with_us(&mut command);
    command
}

/// A server must not outlive a test that was aborted. (The signal comes when the starting thread ends.)
fn end_with_us(command: &mut Command) {
    // SAFETY: `prctl` is async-signal-safe and touches nothing of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// A command for `serve` over `home`: data in `home/data`, port file and log beside it.
pub(crate) fn serve(home: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = runelog();
    command.arg("serve").envs(SMALL.iter().copied());
    command.env("RUNELOG_DATA_DIR", home.join("data")).env("RUNELOG_PORT_FILE", home.join("port"));
    command.envs(settings.iter().copied());
    command.stdout(Stdio::null());
    command
}

/// What `runelog verify` says of a data directory: its exit status and its text.
pub(crate) fn verify(data: &Path) -> (i32, String) {
    let output = runelog().arg("verify").arg(data).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it is not killed"), text + &errors)
}

/// A crash leaves nothing that is damage.
pub(crate) fn assert_whole(data: &Path) {
    let (status, text) = verify(data);
    assert_eq!(status, 0, "{text}");
}

/// A port for a server that comes back to it: below those that the system gives to others meanwhile.
pub(crate) fn lasting_port() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 20_000 + (std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port.to_string();
        }
    }
}

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

/// A server that did not come up.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Server {
    /// Starts over `home` and waits until it serves.
    pub(crate) fn start(home: &Path, settings: &[(&str, &str)]) -> Server {
        Server::run(home, serve(home, settings))
            .unwrap_or_else(|refused| panic!("did not start: {refused:?}"))
    }

    /// Starts what is expected not to come up.
    pub(crate) fn refused(home: &Path, settings: &[(&str, &str)]) -> Refused {
        match Server::run(home, serve(home, settings)) {
            Ok(server) => panic!("started, and should not have:\n{}", server.log()),
            Err(refused) => refused,
        }
    }

    /// Runs a command of [`serve`] and waits for its port file, or its end. Each start has a log of
    /// its own.
    pub(crate) fn run(home: &Path, mut command: Command) -> Result<Server, Refused> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = home.join(format!("log-{:04}", NEXT.fetch_add(1, Ordering::Relaxed)));
        command.stderr(File::create(&log).expect("a log file"));
        Server::spawn(home, command, log)
    }

    /// The same, with the stderr that the command has.
    pub(crate) fn run_quietly(home: &Path, command: Command) -> Result<Server, Refused> {
        Server::spawn(home, command, PathBuf::new())
    }

    fn spawn(home: &Path, mut command: Command, log: PathBuf) -> Result<Server, Refused> {
        let port_file = home.join("port");
        let _ = fs::remove_file(&port_file);
        let mut child = command.spawn().expect("the binary runs");
        let began = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(&port_file) {
                let address = text.parse().expect("host:port, written at once");
                return Ok(Server { child, address, log });
            }
            if let Some(status) = child.try_wait().expect("our child") {
                return Err(Refused { status, log: read_log(&log) });
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("no start within {PATIENCE:?}; log:\n{}", read_log(&log));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::open(self.address).expect("the server accepts")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a signal to our own child, which was not waited for yet.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(result, 0, "a signal to our child");
    }

    /// Kills it at once, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// SIGTERM; the exit status and how long it took.
    pub(crate) fn stop(self) -> (ExitStatus, Duration) {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// A stop that must end well.
    pub(crate) fn stop_well(self) {
        let log = self.log.clone();
        let (status, _) = self.stop();
        assert!(status.success(), "{status}; log:\n{}", read_log(&log));
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "still there; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        read_log(&self.log)
    }
}

fn read_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
