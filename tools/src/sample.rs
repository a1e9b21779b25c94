//! A small data directory made by a real shard on a real disk, for the tests of `inspect` and `verify`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use runelog_engine::config::{Class, TopicConfig};
use runelog_engine::disk::uring::{DiskSettings, OwnDisk};
use runelog_engine::disk::{Disk, Io, io::block_on};
use runelog_engine::error::{EngineError, No};
use runelog_engine::event::{Batch, RecordSpan, Span};
use runelog_engine::layout::{FreshLayout, open_layout};
use runelog_engine::quota::Quota;
use runelog_engine::shard::recover::{RecoverError, recover};
use runelog_engine::shard::{AppendRequest, ReadRequest, Shard, ShardSettings};

/// A directory that goes with the test.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("runelog-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    /// Every file with its bytes.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut dirs) = (BTreeMap::new(), vec![self.0.clone()]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => drop(files.insert(path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        files
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.files().into_keys().rfind(|path| path.to_string_lossy().contains(part)).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes one bit of a file another one.
pub(crate) fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// One shard, served without sockets.
pub(crate) struct Server {
    disk: OwnDisk,
    pub(crate) shard: Shard,
    now: i64,
    /// The steady clock: a new log file is filled as it passes.
    now_us: u64,
}

impl Server {
    pub(crate) fn start(dir: &Dir) -> Server {
        Server::try_start(dir).unwrap()
    }

    pub(crate) fn try_start(dir: &Dir) -> Result<Server, RecoverError> {
        let mut disk = OwnDisk::new(&dir.0, DiskSettings::default()).unwrap();
        let io = Io::default();
        let fresh = FreshLayout { directory: 0xabc, file_bytes: 4 << 20 };
        let (layout, _) = block_on(&io, &mut disk, open_layout(&io, fresh, 1))?;
        let settings = ShardSettings { segment_max_age_ms: 1000, ..layout.settings_of(0) };
        let recovering = recover(&io, settings, Arc::new(Quota::default()), 0, |_| {});
        let (shard, _) = block_on(&io, &mut disk, recovering)?;
        Ok(Server { disk, shard, now: 0, now_us: 0 })
    }

    /// How many records a reader of the whole topic gets; none if one cannot be read.
    pub(crate) fn read(&mut self, topic: &str) -> Option<usize> {
        let (mut from_seq, mut count) = (0, 0);
        loop {
            let request = ReadRequest { from_seq, limit: 1000, max_bytes: 1 << 20, skip_node: None };
            let mut step = 0;
            match self.shard.read(topic.as_bytes(), &request, self.now, |_| step += 1) {
                Ok(outcome) => {
                    (from_seq, count) = (outcome.next_from_seq, count + step);
                    if outcome.caught_up() {
                        return Some(count);
                    }
                }
                Err(No::Load(wanted)) => {
                    let id = self.shard.load(wanted);
                    let mut loaded = Vec::new();
                    while loaded.is_empty() {
                        self.settle();
                        self.shard.take_loaded(&mut loaded);
                    }
                    assert_eq!(loaded[0].0, id);
                    loaded.remove(0).1.ok()?;
                }
                Err(No::Refused(EngineError::Unreadable(_), _)) => return None,
                Err(no) => panic!("{no:?}"),
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        loop {
            self.now_us += 50;
            self.shard.turn(self.now, self.now_us);
            self.shard.io().take_outgoing(&mut outgoing);
            if outgoing.is_empty() && self.disk.in_flight() == 0 && !self.shard.has_work() {
                return;
            }
            outgoing.drain(..).for_each(|(tag, op)| self.disk.submit(tag, op));
            self.disk.wait();
            self.disk.poll(&mut done);
            done.drain(..).for_each(|done| self.shard.on_done(done, self.now_us));
        }
    }

    pub(crate) fn append(&mut self, topic: &str, count: usize) {
        let body = b"{\"n\":1}";
        let records = vec![RecordSpan { data: Span::body(0, body.len()), ..RecordSpan::default() }; count];
        let batch = Batch { body, side: &[], records: &records };
        let config = TopicConfig { class: Class::Fsync, ..TopicConfig::default() };
        let topic = topic.as_bytes();
        let request = AppendRequest { topic, batch, key: None, create: None, config: Some(&config) };
        while let Err(no) = self.shard.append(&request, self.now) {
            assert!(matches!(no, No::Busy), "{no:?}");
            self.settle(); // just started: its first log file is made
        }
        self.settle();
    }

    pub(crate) fn seal(&mut self) {
        for _ in 0..4 {
            self.now += 1001;
            self.settle();
        }
    }

    pub(crate) fn stop(mut self) {
        self.shard.begin_stop();
        while !self.shard.is_stopped() {
            self.now += 1;
            self.settle();
        }
    }
}

/// Sealed records, then some that only the log holds.
pub(crate) fn filled(name: &str) -> (Dir, Server) {
    let dir = Dir::new(name);
    let mut server = Server::start(&dir);
    server.append("orders", 10);
    server.append("users", 3);
    server.seal();
    server.append("orders", 5);
    server.append("orders", 2);
    (dir, server)
}
