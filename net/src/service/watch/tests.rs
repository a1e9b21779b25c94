use super::*;
use runelog_engine::config::TopicConfig;
use runelog_engine::disk::sim::SimDisk;
use runelog_engine::disk::{Disk, Io};
use runelog_engine::event::{Batch, RecordSpan, Span};
use runelog_engine::quota::Quota;
use runelog_engine::rng::Rng;
use runelog_engine::shard::recover::recover;
use runelog_engine::shard::{AppendRequest, ShardSettings};
use std::collections::{BTreeMap, BTreeSet};

const CORES: usize = 2;

/// A shard on a simulated disk with its watchers.
struct Rig {
    disk: SimDisk,
    shard: Shard,
    watchers: Watchers,
    now: Millis,
    /// What streams were told and did not look at yet.
    fed: Vec<(usize, Feed)>,
}

impl Rig {
    fn new(seed: u64) -> Rig {
        let settings = ShardSettings {
            shard: 0,
            shards: 1,
            layout: 1,
            directory: 0x5eed,
            file_bytes: 4 << 20,
            hot_bytes: 8 << 20,
            cache_bytes: 1 << 20,
            commits_in_flight: 2,
            segment_max_events: 16,
            segment_max_bytes: 1 << 20,
            segment_max_age_ms: 200,
            wal_keep_bytes: 0,
        };
        let (mut disk, io) = (SimDisk::new(seed), Io::default());
        let dir = settings.dir();
        let making = async {
            for (made, in_dir) in [("segments", ""), ("shards", ""), (&dir[..], "shards")] {
                io.make_dir(made).await?;
                io.sync_dir(in_dir).await?;
            }
            Ok::<(), runelog_engine::error::DiskError>(())
        };
        disk.block_on(&io, making).expect("not cut").expect("directories");
        let recovering = recover(&io, settings, Arc::new(Quota::new(0, 0)), 1, |_| ());
        let (shard, _) = disk.block_on(&io, recovering).expect("not cut").expect("an empty directory");
        Rig { disk, shard, watchers: Watchers::new(CORES), now: 1_000_000, fed: Vec::new() }
    }

    /// A turn of the core; with `wait` at least one operation of the disk ends, if any is under way.
    fn turn(&mut self, wait: bool) {
        self.shard.turn(self.now, self.now as u64 * 1000);
        let _ = self.shard.take_fresh_chunks();
        let (mut published, mut loaded) = (Vec::new(), Vec::new());
        self.shard.take_published(&mut published);
        self.watchers.published(&published);
        self.shard.take_loaded(&mut loaded);
        for (id, result) in loaded {
            assert!(self.watchers.loaded(id, &result), "only watchers load here");
        }
        self.fed.extend(self.watchers.turn(&mut self.shard, self.now));
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        self.shard.io().take_outgoing(&mut outgoing);
        outgoing.into_iter().for_each(|(tag, op)| self.disk.submit(tag, op));
        if wait {
            self.disk.wait();
        }
        self.disk.poll(&mut done);
        done.into_iter().for_each(|done| self.shard.on_done(done, self.now as u64 * 1000));
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.turn(true);
            let busy = self.shard.has_work() || self.shard.log.is_busy() || self.disk.in_flight() > 0;
            if !busy && !self.watchers.has_work() && !self.watchers.is_waiting() {
                self.turn(false);
                return;
            }
            if self.disk.in_flight() == 0 {
                self.now += 1; // log files are filled at a pace
            }
        }
        panic!("it does not come to rest");
    }

    fn put(&mut self, topic: &str, config: TopicConfig) {
        while let Err(no) = self.shard.put(topic.as_bytes(), config.clone(), self.now) {
            assert!(matches!(no, No::Busy), "{no:?}");
            self.turn(true); // just started: its first log file is made
        }
    }

    fn append(&mut self, topic: &str, nodes: &[&str]) {
        let (mut body, mut side, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for node in nodes {
            let data = Span::body(body.len(), 2);
            body.extend_from_slice(b"17");
            let at = side.len();
            side.extend_from_slice(node.as_bytes());
            let node = Span::side(at, node.len());
            records.push(RecordSpan { data, node, ..RecordSpan::default() });
        }
        let batch = Batch { body: &body, side: &side, records: &records };
        let request = AppendRequest { topic: topic.as_bytes(), batch, key: None, create: None, config: None };
        for _ in 0..1000 {
            match self.shard.append(&request, self.now) {
                Ok(_) => return,
                Err(No::Busy) => self.turn(true),
                Err(No::Load(wanted)) => {
                    // Loaded for the append alone.
                    let id = self.shard.load(wanted);
                    self.watchers.loading.insert(id, Vec::new());
                    self.turn(true);
                }
                Err(No::Refused(error, _)) => panic!("{error:?}"),
            }
        }
        panic!("the append is never taken");
    }

    fn open(&mut self, core: usize, token: u64, topic: &str, from_seq: u64, window_bytes: u64) {
        self.open_with(core, token, topic, from_seq, window_bytes, delivery(256));
    }

    fn open_with(
        &mut self,
        core: usize,
        token: u64,
        topic: &str,
        from_seq: u64,
        window_bytes: u64,
        options: Delivery,
    ) {
        let options = Arc::new(options);
        let open = OpenWatch { token, topic: topic.into(), from_seq, options, window_bytes };
        self.watchers.command(core, WatchCommand::Open(Box::new(open)), &self.shard);
    }

    /// What was told since: token, item.
    fn told(&mut self) -> Vec<(u64, Arc<FeedItem>)> {
        let fed = std::mem::take(&mut self.fed);
        fed.into_iter()
            .flat_map(|(_, feed)| feed.watchers.into_iter().map(move |token| (token, feed.item.clone())))
            .collect()
    }
}

fn delivery(limit: u32) -> Delivery {
    Delivery {
        nodes: Default::default(),
        limit,
        max_batch_bytes: 1 << 20,
        include_data: true,
        include_tags: false,
        include_meta: true,
    }
}

fn read_of(item: &FeedItem) -> &crate::feed::FeedRead {
    match item {
        FeedItem::Read(read) => read,
        other => panic!("{other:?}"),
    }
}

/// The seqs of an item's records.
fn seqs(read: &crate::feed::FeedRead) -> Vec<u64> {
    if read.record.is_empty() {
        return Vec::new();
    }
    let json = [b"{", &*read.record, b"}"].concat();
    let event: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(event["to_seq"].as_u64(), Some(read.to_seq), "V-12");
    let records = event["records"].as_array().expect("an array");
    records.iter().map(|record| record["$seq"].as_u64().expect("a seq")).collect()
}

#[test]
fn equal_watchers_share_one_item_and_a_core_gets_one_message() {
    let mut rig = Rig::new(1);
    rig.put("t", TopicConfig::default());
    rig.append("t", &["a"]);
    rig.settle();
    for token in 0..10 {
        rig.open((token % 2) as usize, token, "t", 1, 1 << 20);
    }
    rig.settle();
    assert_eq!(rig.fed.len(), CORES, "one message a core");
    let told = rig.told();
    assert_eq!(told.len(), 10, "V-11: each is told at least once");
    assert!(told.iter().all(|(_, item)| read_of(item).caught_up() && !read_of(item).has_news()));
    rig.append("t", &["a", "b"]);
    rig.settle();
    assert_eq!(rig.fed.len(), CORES, "one message a core");
    let told = rig.told();
    assert!(told.iter().all(|(_, item)| Arc::ptr_eq(item, &told[0].1)), "rendered once");
    assert_eq!(seqs(read_of(&told[0].1)), [2, 3], "I-43");
    let tokens: BTreeSet<u64> = told.iter().map(|(token, _)| *token).collect();
    assert_eq!(tokens, (0..10).collect());
    for core in 0..CORES {
        rig.watchers.command(core, WatchCommand::Close((0..10).collect()), &rig.shard);
    }
    assert!(rig.watchers.options.is_empty() && rig.watchers.by_topic.is_empty(), "nothing stays behind");
}

#[test]
fn a_watcher_without_credit_holds_nobody_back_and_loses_nothing() {
    let mut rig = Rig::new(2);
    rig.put("t", TopicConfig::default());
    rig.open(0, 1, "t", 0, 1); // one item at a time
    rig.open(0, 2, "t", 0, 1 << 20);
    rig.settle();
    let first: u64 = rig.told().iter().filter(|(token, _)| *token == 1).map(|(_, i)| i.window_bytes()).sum();
    for _ in 0..5 {
        rig.append("t", &["a"]);
        rig.settle();
        let told = rig.told();
        assert_eq!(told.len(), 1, "V-16");
        assert_eq!(told[0].0, 2, "V-16");
    }
    rig.watchers.command(0, WatchCommand::Credit(vec![(1, first)]), &rig.shard);
    rig.settle();
    let told = rig.told();
    assert_eq!((told.len(), told[0].0), (1, 1));
    assert_eq!(seqs(read_of(&told[0].1)), [1, 2, 3, 4, 5], "V-16");
}

#[test]
fn a_deleted_topic_is_told_once_it_is_certain_and_a_new_one_of_the_name_is_another() {
    let mut rig = Rig::new(3);
    rig.put("t", TopicConfig::default());
    rig.open(1, 1, "t", 0, 1 << 20);
    rig.settle();
    rig.told();
    let (instance, _) = rig.shard.find(b"t");
    let (deleted, wait) = rig.shard.drop_topic(b"t", false, rig.now).expect("room");
    assert!(deleted);
    rig.watchers.dropped(instance.expect("it was there"), wait);
    rig.fed.extend(rig.watchers.turn(&mut rig.shard, rig.now));
    assert!(rig.told().is_empty(), "I-40");
    rig.open(1, 2, "t", 0, 1 << 20);
    rig.settle();
    let told = rig.told();
    let gone: Vec<u64> = told
        .iter()
        .map(|(token, item)| {
            assert!(matches!(**item, FeedItem::Deleted), "V-30");
            *token
        })
        .collect();
    assert_eq!(gone, [1, 2], "V-30, V-31");
    rig.append("t", &["a"]);
    rig.settle();
    assert!(rig.told().is_empty(), "V-31");
    rig.open(1, 3, "t", 0, 1 << 20);
    rig.settle();
    assert_eq!(seqs(read_of(&rig.told()[0].1)), [1], "V-31: who looks again finds the new one");
}

#[test]
fn many_places_of_one_topic_leave_turns_to_others() {
    let mut rig = Rig::new(4);
    rig.put("busy", TopicConfig::default());
    rig.put("quiet", TopicConfig::default());
    for _ in 0..10 {
        rig.append("busy", &["a"; 20]);
    }
    rig.append("quiet", &["a"]);
    rig.settle();
    for token in 0..200 {
        rig.open(0, token, "busy", token, 1 << 20);
    }
    rig.open(0, 1000, "quiet", 0, 1 << 20);
    rig.turn(false);
    let told = rig.told();
    assert!(told.len() <= FEED_RENDERS_PER_TURN_MAX, "{} items in one turn", told.len());
    assert!(told.iter().any(|(token, _)| *token == 1000), "topics take turns");
    rig.settle();
    let tokens: BTreeSet<u64> = told.into_iter().chain(rig.told()).map(|(token, _)| token).collect();
    assert_eq!(tokens.len(), 201, "all are served");
}

/// How far a watcher of the random histories is.
struct Reader {
    topic: usize,
    nodes: bool,
    at: u64,
    owed: u64,
}

#[test]
fn random_histories_account_for_every_record() {
    for seed in 0..12 {
        let mut random = Rng::new(seed);
        let mut below = |bound: u64| random.next_u64() % bound;
        let mut rig = Rig::new(seed);
        let topics = ["capped", "plain", "memory"];
        rig.put("capped", TopicConfig { cap_records: 60, ..TopicConfig::default() });
        rig.put("plain", TopicConfig::default());
        let class = runelog_engine::config::Class::Ephemeral;
        rig.put("memory", TopicConfig { class, ..TopicConfig::default() });
        // By topic: which seqs are of node `b`.
        let mut filtered: [Vec<bool>; 3] = Default::default();
        let mut readers: BTreeMap<u64, Reader> = BTreeMap::new();
        let (mut next_token, mut records, mut gaps) = (0, 0u64, 0u64);
        let check = |rig: &mut Rig, readers: &mut BTreeMap<u64, Reader>, filtered: &[Vec<bool>; 3]| {
            let (mut seen, mut lost) = (0, 0);
            for (token, item) in rig.told() {
                let Some(reader) = readers.get_mut(&token) else { continue };
                reader.owed += item.window_bytes();
                let read = read_of(&item);
                if let Some(gap) = &read.tombstone {
                    assert_eq!(gap.gap_from, reader.at + 1, "I-22, seed {seed}");
                    reader.at = gap.gap_to;
                    lost += 1;
                }
                for seq in seqs(read) {
                    for passed in reader.at + 1..seq {
                        let skipped = reader.nodes && filtered[reader.topic][passed as usize - 1];
                        let topic = topics[reader.topic];
                        assert!(
                            skipped,
                            "I-26: {passed} of {topic}, seed {seed}, before {seq}, after {}: {read:?}",
                            reader.at
                        );
                    }
                    assert!(seq > reader.at, "I-42, seed {seed}");
                    assert!(!(reader.nodes && filtered[reader.topic][seq as usize - 1]), "D-7");
                    reader.at = seq;
                    seen += 1;
                }
                for passed in reader.at + 1..=read.to_seq {
                    assert!(reader.nodes && filtered[reader.topic][passed as usize - 1], "V-12 {passed}");
                }
                reader.at = read.to_seq;
            }
            (seen, lost)
        };
        for _ in 0..600 {
            match below(10) {
                0..4 => {
                    let topic = below(3) as usize;
                    let nodes: Vec<&str> =
                        (0..1 + below(12)).map(|_| if below(3) == 0 { "b" } else { "a" }).collect();
                    filtered[topic].extend(nodes.iter().map(|node| *node == "b"));
                    rig.append(topics[topic], &nodes);
                }
                4 if readers.len() < 40 => {
                    let topic = below(3) as usize;
                    let nodes = below(3) == 0;
                    let at = below(filtered[topic].len() as u64 + 1);
                    // Not beyond what is committed, or it would be taken for a topic made anew.
                    rig.settle();
                    let mut options = delivery([1, 3, 256][below(3) as usize]);
                    if nodes {
                        let body = br#"{"node":["b"]}"#;
                        options.nodes = crate::json::control::parse_diff(body).expect("JSON").nodes;
                    }
                    let window = [1, 2_000, 1 << 20][below(3) as usize];
                    let core = below(CORES as u64) as usize;
                    rig.open_with(core, next_token << 1 | core as u64, topics[topic], at, window, options);
                    readers.insert(next_token << 1 | core as u64, Reader { topic, nodes, at, owed: 0 });
                    next_token += 1;
                }
                5 => {
                    let skip = below(readers.len() as u64 + 1) as usize;
                    if let Some(token) = readers.keys().nth(skip).copied() {
                        readers.remove(&token);
                        rig.watchers.command(
                            token as usize & 1,
                            WatchCommand::Close(vec![token]),
                            &rig.shard,
                        );
                    }
                }
                6 => {
                    for (token, reader) in &mut readers {
                        let credit = vec![(*token, std::mem::take(&mut reader.owed))];
                        rig.watchers.command(*token as usize & 1, WatchCommand::Credit(credit), &rig.shard);
                    }
                }
                7 => rig.now += 1 + below(300) as i64,
                _ => rig.turn(below(2) == 0),
            }
            let (seen, lost) = check(&mut rig, &mut readers, &filtered);
            (records, gaps) = (records + seen, gaps + lost);
        }
        // Whatever held them up: with credit, all come to the head (I-46).
        for _ in 0..5_000 {
            rig.settle();
            let (seen, lost) = check(&mut rig, &mut readers, &filtered);
            (records, gaps) = (records + seen, gaps + lost);
            let mut owed = false;
            for (token, reader) in &mut readers {
                let bytes = std::mem::take(&mut reader.owed);
                owed |= bytes > 0;
                let credit = WatchCommand::Credit(vec![(*token, bytes)]);
                rig.watchers.command(*token as usize & 1, credit, &rig.shard);
            }
            if !owed {
                break;
            }
        }
        for reader in readers.values() {
            assert_eq!(reader.at, filtered[reader.topic].len() as u64, "I-46, seed {seed}");
        }
        assert!(records > 500 && gaps > 0 || seed > 0, "{records} records, {gaps} gaps: too quiet a history");
    }
}
