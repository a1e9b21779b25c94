//! What the benches in `benches/benches` share: records of a usual shape, and one shard on a simulated disk,
//! so that nothing of a machine's disk is in the figures.

use std::sync::Arc;

use runelog_engine::config::{Class, TopicConfig};
use runelog_engine::disk::sim::SimDisk;
use runelog_engine::disk::{Disk, Done, Io, Op, Tag};
use runelog_engine::error::No;
use runelog_engine::event::{Batch, RecordSpan, Span};
use runelog_engine::quota::Quota;
use runelog_engine::shard::recover::recover;
use runelog_engine::shard::{AppendRequest, ReadRequest, Shard, ShardSettings};

/// The daemon's allocator, so that pieces which allocate cost here what they cost there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Records of a batch as the edge hands them on: text, and spans into it.
#[derive(Default)]
pub struct Records {
    body: Vec<u8>,
    spans: Vec<RecordSpan>,
}

impl Records {
    /// `count` records of `data_bytes` bytes of JSON, each with a tag.
    pub fn new(count: usize, data_bytes: usize) -> Records {
        let mut records = Records::default();
        for index in 0..count {
            let text = format!("{{\"n\":{index},\"p\":\"");
            let pad = data_bytes.saturating_sub(text.len() + 2);
            let data = records.put(&format!("{text}{}\"}}", "x".repeat(pad)));
            let tag = records.put(&format!("sale:{}", index % 10));
            records.spans.push(RecordSpan { data, tag, ..RecordSpan::default() });
        }
        records
    }

    fn put(&mut self, text: &str) -> Span {
        let at = self.body.len();
        self.body.extend_from_slice(text.as_bytes());
        Span::body(at, text.len())
    }

    /// The records, borrowed.
    pub fn batch(&self) -> Batch<'_> {
        Batch { body: &self.body, side: &[], records: &self.spans }
    }
}

/// A shard and what moves it.
pub struct Rig {
    disk: SimDisk,
    /// The shard.
    pub shard: Shard,
    /// The wall clock in ms.
    pub now: i64,
    now_us: u64,
    outgoing: Vec<(Tag, Op)>,
    done: Vec<Done>,
}

impl Rig {
    /// A shard of an empty directory, with a block cache of `cache_bytes`.
    pub fn new(cache_bytes: u64) -> Rig {
        let settings = ShardSettings {
            shard: 0,
            shards: 1,
            layout: 1,
            directory: 0x5eed,
            file_bytes: 4 << 20,
            hot_bytes: 16 << 20,
            cache_bytes,
            commits_in_flight: 2,
            segment_max_events: 10_000,
            segment_max_bytes: 64 << 20,
            segment_max_age_ms: 1000,
            wal_keep_bytes: 0,
        };
        let (mut disk, io, now) = (SimDisk::new(7), Io::default(), 1_000_000);
        let dir = settings.dir();
        let making = async {
            for (made, within) in [("segments", ""), ("shards", ""), (&dir[..], "shards")] {
                io.make_dir(made).await?;
                io.sync_dir(within).await?;
            }
            Ok::<(), runelog_engine::error::DiskError>(())
        };
        disk.block_on(&io, making).expect("no crash").expect("directories");
        let quota = Arc::new(Quota::new(0, 0));
        let recovering = recover(&io, settings, quota, now, |_| ());
        let recovered = disk.block_on(&io, recovering).expect("no crash");
        let (shard, _) = recovered.unwrap_or_else(|_| panic!("an empty directory"));
        Rig { disk, shard, now, now_us: 0, outgoing: Vec::new(), done: Vec::new() }
    }

    /// A topic of class `disk`.
    pub fn create(&mut self, topic: &str) {
        let config = TopicConfig { class: Class::Disk, ..TopicConfig::default() };
        self.repeat(|shard, now| shard.put(topic.as_bytes(), config.clone(), now));
        self.settle();
    }

    /// Appends a batch, and waits until it is shown.
    pub fn append(&mut self, topic: &str, records: &Records) {
        let request = request(topic, records, None);
        self.repeat(|shard, now| shard.append(&request, now));
        self.settle();
    }

    /// Lets everything grow old enough to be sealed, and waits for it.
    pub fn seal(&mut self) {
        self.now += 10_000;
        self.now_us += 10_000_000;
        self.settle();
    }

    /// One turn of a core.
    pub fn turn(&mut self, wait: bool) {
        self.now_us += 50;
        self.shard.turn(self.now, self.now_us);
        drop(self.shard.take_fresh_chunks());
        self.shard.io().take_outgoing(&mut self.outgoing);
        self.outgoing.drain(..).for_each(|(tag, op)| self.disk.submit(tag, op));
        if wait {
            self.disk.wait();
        }
        self.disk.poll(&mut self.done);
        for done in self.done.drain(..) {
            self.shard.on_done(done, self.now_us);
        }
    }

    /// Turns until nothing is under way.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            self.turn(true);
            let busy = self.shard.has_work() || self.disk.in_flight() > 0 || self.shard.io().has_outgoing();
            quiet = if busy { 0 } else { quiet + 1 };
        }
    }

    /// Repeats an operation until it has what it needs.
    pub fn repeat<T>(&mut self, mut operation: impl FnMut(&mut Shard, i64) -> Result<T, No>) -> T {
        let mut loaded = Vec::new();
        loop {
            match operation(&mut self.shard, self.now) {
                Ok(outcome) => return outcome,
                Err(No::Refused(error, _)) => panic!("{error:?}"),
                Err(No::Busy) => self.turn(true),
                Err(No::Load(wanted)) => {
                    let id = self.shard.load(wanted);
                    loaded.clear();
                    while !loaded.iter().any(|(other, _)| *other == id) {
                        self.turn(true);
                        self.shard.take_loaded(&mut loaded);
                    }
                }
            }
        }
    }
}

/// An append to `topic`.
pub fn request<'a>(topic: &'a str, records: &'a Records, key: Option<&'a [u8]>) -> AppendRequest<'a> {
    AppendRequest { topic: topic.as_bytes(), batch: records.batch(), key, create: None, config: None }
}

/// A read of up to 1000 records.
pub fn read_from(from_seq: u64) -> ReadRequest<'static> {
    ReadRequest { from_seq, limit: 1000, max_bytes: 8 << 20, skip_node: None }
}
