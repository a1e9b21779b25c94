//! From options to a running server and back: lock, layout, one recovered core after the other (all at
//! once), listeners, signals, stop. The only file of this crate that knows all cores.
//!
//! Order at start: lock → bind (not yet listening, so clients are refused, H-3) → layout → recover every
//! shard on its own core → clear the pool → routers (`start`) → listen → port file. Nothing is served before
//! every shard has recovered (I-91).

use crate::auth::Keys;
use crate::caps::{CapSettings, Caps};
use crate::memory::{self, Supply};
use crate::mesh::{self, Mesh};
use crate::message::Message;
use crate::service::Service;
use crate::service::start::{self, Word};
use crate::sockets::Sockets;
use crate::sys;
use crate::worker::{Stop, Worker};
use glommio::{LocalExecutorBuilder, Placement};
use runelog_engine::disk::io::block_on;
use runelog_engine::disk::ring::{OWNER_DISK, Ring};
use runelog_engine::disk::uring::{DiskSettings, OwnDisk, UringDisk};
use runelog_engine::disk::{Disk, Done, Io, Op, Tag};
use runelog_engine::ids::SegmentId;
use runelog_engine::layout::{FreshLayout, Layout, collect_garbage, open_layout};
use runelog_engine::quota::Quota;
use runelog_engine::router::RouterDef;
use runelog_engine::shard::recover::{RecoveryReport, recover};
use runelog_engine::shard::{Shard, ShardSettings};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Submissions of a core's ring; completions get eight times as many.
const RING_ENTRIES: u32 = 1024;
/// glommio's own memory for its rings, which this server does not use for data.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Each executor has one task, which never gives way, so nothing needs preemption. And glommio 0.9 goes to
/// sleep for good with its first task runnable when this timer fires before that task had its first turn:
/// at 500 µs one start in sixty of eight cores on two processors hung in recovery. So it never fires.
const PREEMPT: Duration = Duration::from_secs(24 * 3600);
/// A killed process leaves its listener for a moment: the kernel takes its rings down, and with them the
/// accept that holds the socket, some time after the process is gone. A supervisor restarts faster.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
/// A file in the data directory that whoever serves it holds locked (I-101).
pub const LOCK_FILE: &str = ".runelog.lock";

/// How to run. Sizes are per core where they say so.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; the first one goes to the port file.
    pub addresses: Vec<SocketAddr>,
    /// Core n takes connections on this port + n too, at the same addresses, and keeps them: a client that
    /// asks the owner of a topic is answered without a hop between cores.
    pub shard_ports: Option<u16>,
    /// Gets `host:port` once listening.
    pub port_file: Option<PathBuf>,
    /// Created if missing.
    pub data_dir: PathBuf,
    /// Cores to use, each with its own log.
    pub shards: u16,
    /// Processors to pin them to, in turn.
    pub cpus: Vec<usize>,
    /// 0 = unlimited.
    pub max_topics: u64,
    /// 0 = unlimited.
    pub max_total_bytes: u64,
    /// Largest request body.
    pub max_body_bytes: u64,
    /// Who may ask; none: everyone.
    pub keys: Keys,
    /// Whether health and readiness need a key too.
    pub probe_auth: bool,
    /// Caps on what the cores hold together.
    pub caps: CapSettings,
    /// Shortest heartbeat that a watch may ask for.
    pub heartbeat_ms_min: u64,
    /// Per core: memory for records that are not sealed yet.
    pub hot_bytes: u64,
    /// Per core: memory for sealed blocks.
    pub cache_bytes: u64,
    /// Size of a log file, for a fresh data directory.
    pub wal_file_bytes: u64,
    /// Log bytes kept beyond what recovery needs, per core.
    pub wal_keep_bytes: u64,
    /// Group commits in flight per core.
    pub commits_in_flight: usize,
    /// Records in a sealed block at most.
    pub segment_max_events: u32,
    /// Bytes of a segment file, about.
    pub segment_max_bytes: u64,
    /// Age at which records are sealed, 0 = never for age alone.
    pub segment_max_age_ms: u64,
}

/// Why the server did not start, or ended badly.
#[derive(Debug)]
pub struct ServerError(String);

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerError {}

fn failed(what: impl fmt::Display, why: impl fmt::Display) -> ServerError {
    ServerError(format!("{what}: {why}"))
}

/// A core that has recovered and waits to serve.
struct Recovered {
    core: usize,
    segments: Vec<SegmentId>,
    report: RecoveryReport,
    features: String,
    took: Duration,
    /// What shard 0 knows.
    routers: Vec<RouterDef>,
}

/// Serves until SIGTERM or SIGINT. Must be called on the main thread, before others are started, so
/// that every thread leaves the signals to this one.
pub fn run(options: Options) -> Result<(), ServerError> {
    sys::block_stop_signals();
    let origin = Instant::now();
    let data_dir = &options.data_dir;
    fs::create_dir_all(data_dir).map_err(|error| failed(data_dir.display(), error))?;
    let _lock = lock(data_dir)?;
    let sockets = options
        .addresses
        .iter()
        .map(|address| bind(address).map_err(|error| failed(address, error)))
        .collect::<Result<Vec<_>, _>>()?;
    let of_cores = bind_shard_ports(&options)?;

    let (layout, mut disk) = open(&options)?;
    let stop = Arc::new(Stop::default());
    let caps = Arc::new(Caps::new(&options.caps, options.keys.count()));
    let quota = Arc::new(Quota::new(options.max_topics, options.max_total_bytes));
    let max_routers = options.caps.max_routers;
    let meshes =
        mesh::connect::<Message>(usize::from(layout.shards)).map_err(|error| failed("mesh", error))?;
    let supplies = memory::start(usize::from(layout.shards));
    let supplies = supplies.map_err(|error| failed("the thread for memory", error))?;
    let (report_to, reports) = mpsc::channel();
    let mut cores = Vec::new();
    for (core, (mesh, memory)) in meshes.into_iter().zip(supplies).enumerate() {
        let (go, wait) = mpsc::channel();
        let start = CoreStart {
            core,
            mesh,
            memory,
            settings: shard_settings(&options, &layout, core as u16),
            data_dir: data_dir.clone(),
            max_body_bytes: options.max_body_bytes,
            keys: options.keys.clone(),
            probe_auth: options.probe_auth,
            shard_ports: options.shard_ports,
            caps: caps.clone(),
            heartbeat_ms_min: options.heartbeat_ms_min,
            quota: quota.clone(),
            stop: stop.clone(),
            origin,
            report_to: report_to.clone(),
            go: wait,
        };
        let cpu = options.cpus[core % options.cpus.len()];
        let thread = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("runelog-core-{core}"))
            .preempt_timer(PREEMPT)
            .io_memory(IO_MEMORY_BYTES)
            .spawn(move || start.run())
            .map_err(|error| failed(format!("executor of core {core}"), error))?;
        cores.push((thread, go));
    }
    drop(report_to);

    let mut referenced = BTreeSet::new();
    let mut routers = Vec::new();
    for _ in 0..cores.len() {
        let recovered =
            reports.recv().map_err(|_| ServerError("a core ended while it recovered".into()))??;
        announce(&recovered);
        referenced.extend(recovered.segments);
        routers.extend(recovered.routers);
    }
    let io = Io::default();
    let collected = block_on(&io, &mut disk, collect_garbage(&io, &layout, &referenced));
    let collected = collected.map_err(|error| failed("clearing the pool of segments", error))?;
    if collected.segments > 0 || collected.directories > 0 {
        let (segments, bytes, directories) = (collected.segments, collected.bytes, collected.directories);
        tracing::info!(segments, bytes, directories, "removed what no topic needs");
    }
    for id in &collected.missing {
        tracing::error!("segment {:016x} is missing: reads of its records will fail", id.0);
    }
    collected.notes.iter().for_each(|note| tracing::warn!("{note}"));
    drop(disk);
    let words: Vec<mpsc::Sender<Word>> = cores.iter().map(|(_, go)| go.clone()).collect();
    let routers = start::join(&words, layout.directory, routers, max_routers);
    let routers = routers.map_err(|error| failed("routers", error))?;

    let mut bound = Vec::new();
    for socket in of_cores.iter().flatten() {
        sys::listen(socket).map_err(|error| failed("listen on a shard port", error))?;
    }
    for socket in &sockets {
        bound.push(sys::listen(socket).map_err(|error| failed("listen", error))?);
    }
    for address in &bound {
        tracing::info!(%address, shards = layout.shards, topics = quota.topics(), routers, "serving");
    }
    if let Some(path) = &options.port_file {
        write_port_file(path, bound[0]).map_err(|error| failed(path.display(), error))?;
    }
    let mut sockets = Some(sockets);
    for ((_, go), own) in cores.iter().zip(of_cores) {
        // The first core accepts for all.
        let _ = go.send(Word::Serve { shared: sockets.take().unwrap_or_default(), own });
    }

    let signal = sys::wait_for_stop_signal();
    tracing::info!(signal, "stopping");
    stop.asked.store(true, Ordering::SeqCst);
    for (core, (thread, _)) in cores.into_iter().enumerate() {
        thread.join().map_err(|error| failed(format!("core {core}"), error))?;
    }
    match stop.failed.load(Ordering::SeqCst) {
        0 => Ok(()),
        _ => Err(ServerError("a core could not stop cleanly (its disk failed or is full); the next start recovers from its log".into())),
    }
}

/// The sockets of each core's own port; none for any if there are no such ports.
fn bind_shard_ports(options: &Options) -> Result<Vec<Vec<OwnedFd>>, ServerError> {
    let bind_core = |core: u16| {
        let Some(first) = options.shard_ports else { return Ok(Vec::new()) };
        let port = first.checked_add(core).ok_or_else(|| failed("shard ports", "beyond port 65535"))?;
        let own = options.addresses.iter().map(|address| {
            let address = SocketAddr::new(address.ip(), port);
            bind(&address).map_err(|error| failed(format!("{address}, the port of shard {core}"), error))
        });
        own.collect()
    };
    (0..options.shards).map(bind_core).collect()
}

/// Binds an address, with patience while it is taken (SU-4 comes after that).
fn bind(address: &SocketAddr) -> std::io::Result<OwnedFd> {
    let began = Instant::now();
    loop {
        match sys::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < BIND_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Takes the data directory for this process (SU-3, I-100).
fn lock(data_dir: &Path) -> Result<File, ServerError> {
    let path = data_dir.join(LOCK_FILE);
    let options = File::options().create(true).truncate(false).write(true).read(true).open(&path);
    let file = options.map_err(|error| failed(path.display(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(failed(data_dir.display(), "another process serves this data directory"))
        }
        Err(TryLockError::Error(error)) => Err(failed(path.display(), error)),
    }
}

/// Opens the data directory as a whole.
fn open(options: &Options) -> Result<(Layout, OwnDisk), ServerError> {
    let data_dir = &options.data_dir;
    let disk = OwnDisk::new(data_dir, DiskSettings::default());
    let mut disk = disk.map_err(|error| failed(data_dir.display(), error))?;
    let io = Io::default();
    let fresh = FreshLayout { directory: sys::random_u64(), file_bytes: options.wal_file_bytes };
    let opened = block_on(&io, &mut disk, open_layout(&io, fresh, options.shards));
    let (layout, report) = opened.map_err(|error| failed(data_dir.display(), error))?;
    if report.created {
        tracing::info!(data_dir = %data_dir.display(), "a new data directory");
    }
    if let Some(before) = report.resharded_from {
        tracing::info!(before, now = layout.shards, "topics moved to another number of cores");
    }
    report.notes.iter().for_each(|note| tracing::warn!("{note}"));
    Ok((layout, disk))
}

fn shard_settings(options: &Options, layout: &Layout, shard: u16) -> ShardSettings {
    ShardSettings {
        hot_bytes: options.hot_bytes,
        cache_bytes: options.cache_bytes,
        commits_in_flight: options.commits_in_flight,
        segment_max_events: options.segment_max_events,
        segment_max_bytes: options.segment_max_bytes,
        segment_max_age_ms: options.segment_max_age_ms,
        wal_keep_bytes: options.wal_keep_bytes,
        ..layout.settings_of(shard)
    }
}

fn announce(recovered: &Recovered) {
    let Recovered { core, report, features, took, .. } = recovered;
    tracing::info!(core, "log device: {features}");
    if report.blocks > 0 {
        let seconds = took.as_secs_f64();
        tracing::info!(
            core,
            records = report.records,
            bytes = report.bytes,
            seconds = format!("{seconds:.3}"),
            "replayed the log"
        );
    }
    report.notes.iter().for_each(|note| tracing::warn!(core, "{note}"));
}

/// `host:port`, without a line break, there as a whole or not at all (SU-6).
fn write_port_file(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    fs::write(&aside, address.to_string())?;
    fs::rename(&aside, path)
}

/// What a core's thread starts from.
struct CoreStart {
    core: usize,
    mesh: Mesh<Message>,
    memory: Supply,
    settings: ShardSettings,
    data_dir: PathBuf,
    max_body_bytes: u64,
    keys: Keys,
    probe_auth: bool,
    shard_ports: Option<u16>,
    heartbeat_ms_min: u64,
    caps: Arc<Caps>,
    quota: Arc<Quota>,
    stop: Arc<Stop>,
    origin: Instant,
    report_to: mpsc::Sender<Result<Recovered, ServerError>>,
    go: mpsc::Receiver<Word>,
}

impl CoreStart {
    /// Recovers, reports, waits for the word, serves.
    async fn run(self) {
        let _end = EndWithCore;
        sys::ask_for_long_slices();
        let core = self.core;
        let report_to = self.report_to.clone();
        let go = self.recover();
        let (mut worker, go) = match go {
            Ok((worker, recovered, go)) => {
                let _ = report_to.send(Ok(recovered));
                (worker, go)
            }
            Err(error) => {
                let _ = report_to.send(Err(error));
                return;
            }
        };
        drop(report_to);
        while let Ok(word) = go.recv() {
            match word {
                Word::Serve { shared, own } => {
                    tracing::debug!(core, "serving");
                    return Worker { listeners: shared, own_listeners: own, ..worker }.run();
                }
                word => worker.prepare(word),
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn recover(mut self) -> Result<(Worker, Recovered, mpsc::Receiver<Word>), ServerError> {
        let began = Instant::now();
        let name = |error| failed(format!("core {}", self.core), error);
        let mut ring = Ring::new(RING_ENTRIES).map_err(name)?;
        let disk = UringDisk::new(&self.data_dir, &mut ring, DiskSettings::default()).map_err(name)?;
        let mut disk = CoreDisk { ring, disk, done: Vec::new() };
        let io = Io::default();
        let recovery = recover(&io, self.settings, self.quota, sys::wall_clock_ms(), |_| {});
        let (mut shard, report) = block_on(&io, &mut disk, recovery)
            .map_err(|error| failed(format!("{}, core {}", self.data_dir.display(), self.core), error))?;
        let CoreDisk { mut ring, mut disk, .. } = disk;
        for chunk in shard.take_fresh_chunks() {
            disk.register_chunk(&ring, &chunk);
        }
        let steady_ms = self.origin.elapsed().as_millis() as u64;
        let sockets = Sockets::new(&ring, steady_ms)
            .map_err(|error| failed(format!("receive buffers of core {}", self.core), error))?;
        self.mesh.attach(&mut ring);
        let recovered = Recovered {
            core: self.core,
            segments: segments_of(&shard),
            report,
            features: disk.features().to_string(),
            took: began.elapsed(),
            routers: shard.routers().cloned().collect(),
        };
        let service = Service::new(self.core, shard, self.mesh, self.caps, steady_ms);
        let worker = Worker {
            ring,
            disk,
            sockets,
            service,
            memory: self.memory,
            stop: self.stop,
            listeners: Vec::new(),
            own_listeners: Vec::new(),
            shard_ports: self.shard_ports,
            max_body_bytes: self.max_body_bytes,
            keys: self.keys,
            probe_auth: self.probe_auth,
            heartbeat_ms_min: self.heartbeat_ms_min,
            origin: self.origin,
        };
        Ok((worker, recovered, self.go))
    }
}

fn segments_of(shard: &Shard) -> Vec<SegmentId> {
    shard.segments_in_use().collect()
}

/// A core's disk before there are sockets on its ring.
struct CoreDisk {
    ring: Ring,
    disk: UringDisk,
    done: Vec<Done>,
}

impl CoreDisk {
    fn collect(&mut self) {
        while let Some(cqe) = self.ring.next_completion() {
            assert_eq!(cqe.owner(), OWNER_DISK, "only the disk uses the ring yet");
            self.disk.on_completion(&mut self.ring, cqe, &mut self.done);
        }
    }
}

impl Disk for CoreDisk {
    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.submit(&mut self.ring, tag, op);
    }

    fn poll(&mut self, out: &mut Vec<Done>) {
        self.ring.enter(None);
        self.collect();
        out.append(&mut self.done);
    }

    fn wait(&mut self) {
        if self.done.is_empty() && self.disk.in_flight() > 0 {
            self.ring.enter(Some(Duration::from_secs(1)));
            self.collect();
        }
    }
}

/// Ends the process when a core's thread unwinds: the others must not go on without it.
struct EndWithCore;

impl Drop for EndWithCore {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a defect ended a core; what was acknowledged is in its log, start again");
            std::process::abort();
        }
    }
}
