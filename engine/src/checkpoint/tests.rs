//! Checkpoints as a whole: chains against a model, and damage in every byte of a file.

use super::format::{PIECE_ITEMS_MAX, Totals};
use super::*;
use crate::queue::{JobState, LeaseToken, StoredJob};
use crate::segment::{BlockMeta, TagPlace};
use crate::shard::TagMatch;
use crate::test_disk::{Rng, TestDisk};
use std::collections::BTreeMap;

const DIR: &str = "shard-0";

fn head(number: u64, base: Option<u64>) -> CheckpointHead {
    CheckpointHead {
        number,
        base,
        shard: 3,
        shards: 8,
        layout: 2,
        log_start: Lsn(number << 20),
        next_block: 77 + number,
        described_block: 99 + number,
        epoch: 5,
        next_topic: 1000 + number,
        next_segment: 2000 + number,
        clean: number.is_multiple_of(2),
        at_ms: -5,
    }
}

fn topic(id: u64, head: u64) -> TopicState {
    TopicState {
        id: TopicId(id),
        name: format!("topic-{id}").into_bytes(),
        config: TopicConfig { cap_records: id, dead_letter: Some("dead".into()), ..TopicConfig::default() },
        head,
        reserved: head + 1024,
        floor_cap: 1,
        floor_ttl: 2,
        floor_source: 3,
        count: head,
        bytes: head * 10,
        vacant: vec![(4, 6)],
        deleted: vec![(7, 7), (9, 12)],
        trims: if id.is_multiple_of(3) { vec![(5, 6)] } else { Vec::new() },
        last_write_ts: 99,
    }
}

fn router_def(id: u64, start: u64) -> RouterDef {
    RouterDef {
        id: RouterId(id),
        name: format!("r-{id}").into(),
        source: "from".into(),
        source_id: TopicId(start + 1),
        dest: "to".into(),
        dest_id: TopicId(start + 2),
        preserve_node: start.is_multiple_of(2),
        preserve_tag: start.is_multiple_of(3),
        filter: (start > 4).then(|| TagMatch::Eq(vec![b'x'; start as usize * 1000])),
        allow_cycle: false,
        exactly_once: start == 7,
        start,
    }
}

fn run(topic: u64, blocks: u64, sections: u64) -> Run {
    let block = |at| BlockMeta {
        offset: 4096 + at * 100,
        bytes: 100,
        first_seq: 1 + at * 10,
        last_seq: 10 + at * 10,
        count: 9,
        counted_bytes: 50,
        first_ts: 1,
        last_ts: 2,
        has_tags: at % 2 == 0,
    };
    let place = |at| TagPlace {
        offset: 9_000_000 + at * 100,
        bytes: 100,
        first_seq: 1 + at * 10,
        last_seq: 10 + at * 10,
    };
    Run {
        topic: TopicId(topic),
        blocks: (0..blocks).map(block).collect(),
        tags: (0..sections).map(place).collect(),
    }
}

fn dedup(topic: u64, key_hash: u128, first_seq: u64) -> Dedup {
    Dedup { topic: TopicId(topic), key_hash, first_seq, count: 4, ts: -8 }
}

fn segment(id: u64) -> Edit {
    Edit::AddSegment { id: SegmentId(id), file_bytes: id * 4096, shared: id.is_multiple_of(2) }
}

fn write(disk: &mut TestDisk, head: &CheckpointHead, edits: &[Edit]) -> u64 {
    let io = disk.io.clone();
    disk.run(write_checkpoint(&io, DIR, head, edits)).unwrap()
}

fn loaded(disk: &mut TestDisk) -> Result<Option<Loaded>, CheckpointError> {
    let io = disk.io.clone();
    let result = disk.run(load(&io, DIR));
    assert_eq!(disk.mem.open_count(), 0);
    result
}

fn bytes_of(disk: &mut TestDisk, number: u64) -> &mut Vec<u8> {
    disk.mem.files.get_mut(&format!("{DIR}/{}", file_name(number))).unwrap()
}

/// A full checkpoint, two deltas; each changes something of every kind.
fn three(disk: &mut TestDisk) {
    let run_of = |segment, topic| Edit::AddRun(SegmentId(segment), run(topic, 2, 1));
    let key = |topic, hash, seq| Edit::Dedup(dedup(topic, hash, seq));
    let full = [
        Edit::Topic(topic(1, 10)),
        Edit::Topic(topic(2, 20)),
        segment(1),
        segment(2),
        run_of(1, 1),
        run_of(2, 1),
        run_of(2, 2),
        key(1, u128::MAX, 5),
        key(2, 1, 6),
    ];
    write(disk, &head(1, None), &full);
    let delta = [
        Edit::Topic(topic(1, 15)),
        Edit::Drop(TopicId(2)),
        Edit::Topic(topic(3, 1)),
        segment(3),
        run_of(3, 3),
        key(1, u128::MAX, 9),
    ];
    write(disk, &head(2, Some(1)), &delta);
    write(disk, &head(4, Some(2)), &[Edit::RemoveSegment(SegmentId(1)), Edit::Topic(topic(4, 2))]);
}

fn heads_of(loaded: &Loaded) -> Vec<(u64, u64)> {
    loaded.topics.values().map(|state| (state.id.0, state.head)).collect()
}

fn runs_of(loaded: &Loaded) -> Vec<(u64, u64)> {
    loaded.runs.iter().map(|(segment, run)| (segment.0, run.topic.0)).collect()
}

#[test]
fn a_chain_adds_up() {
    let mut disk = TestDisk::default();
    assert_eq!(loaded(&mut disk), Ok(None));
    disk.mem.files.insert(format!("{DIR}/ckpt-0000000000000009.new"), vec![1; 4096]);
    disk.mem.files.insert(format!("{DIR}/log-9"), vec![1; 4096]);
    assert_eq!(loaded(&mut disk), Ok(None), "a file aside is no checkpoint");
    three(&mut disk);
    let got = loaded(&mut disk).unwrap().unwrap();
    assert_eq!(got.head, head(4, Some(2)));
    assert_eq!((&got.chain[..], got.highest), (&[1, 2, 4][..], 4));
    assert!(got.skipped.is_empty());
    assert_eq!(heads_of(&got), [(1, 15), (3, 1), (4, 2)]);
    assert_eq!(got.topics[&TopicId(1)], topic(1, 15));
    assert_eq!(runs_of(&got), [(2, 1), (3, 3)], "without those of removed segments and dropped topics");
    assert_eq!(got.segments.keys().map(|id| id.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(got.segments[&SegmentId(2)], SegmentState { file_bytes: 8192, shared: true });
    assert_eq!(got.dedup, [dedup(1, u128::MAX, 9)]);
}

fn job(seq: u64, state: JobState) -> StoredJob {
    let node = if state == JobState::Leased { vec![b'w'; 128] } else { Vec::new() };
    let at = if state == JobState::Ready { 0 } else { -3 };
    StoredJob { seq, state, deliveries: 2, bytes: 7, at, token: LeaseToken(1 << 127 | 5), node }
}

#[test]
fn jobs_follow_their_topic_through_a_chain() {
    let queue = |id| Edit::Topic(topic(id, 10));
    let states = [JobState::Ready, JobState::Leased, JobState::Delayed];
    let many: Vec<_> =
        (0..2 * JOBS_PER_EDIT_MAX as u64 + 3).map(|at| job(at, states[at as usize % 3])).collect();
    let mut disk = TestDisk::default();
    let mut full = vec![queue(1), queue(2), queue(3)];
    full.extend(job_edits(TopicId(1), &many));
    full.extend(job_edits(TopicId(2), &many[..1]));
    full.extend(job_edits(TopicId(3), &many[..2]));
    write(&mut disk, &head(1, None), &full);
    assert_eq!(loaded(&mut disk).unwrap().unwrap().leases[&TopicId(1)], many);
    // A topic is told with all of its jobs: those of before do not count (I-85). Dropped, it has none.
    let mut delta = vec![queue(1), Edit::Drop(TopicId(2))];
    delta.extend(job_edits(TopicId(1), &many[5..7]));
    write(&mut disk, &head(2, Some(1)), &delta);
    write(&mut disk, &head(3, Some(2)), &[queue(4)]);
    let got = loaded(&mut disk).unwrap().unwrap();
    let expected = [(TopicId(1), many[5..7].to_vec()), (TopicId(3), many[..2].to_vec())];
    assert_eq!(got.leases, expected.into_iter().collect());
    // Merged into one, it says the same.
    let leases = got.leases.clone();
    write(&mut disk, &head(4, None), &got.into_edits(|_, _| true));
    assert_eq!(loaded(&mut disk).unwrap().unwrap().leases, leases);
    // Jobs of nobody are refused.
    let mut stray = vec![queue(1)];
    stray.extend(job_edits(TopicId(9), &many[..1]));
    write(&mut disk, &head(5, None), &stray);
    assert_eq!(loaded(&mut disk).unwrap().unwrap().head.number, 4);
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    for number in [1, 2, 4] {
        let mut disk = TestDisk::default();
        three(&mut disk);
        let whole = loaded(&mut disk).unwrap().unwrap();
        for at in 0..bytes_of(&mut disk, number).len() {
            bytes_of(&mut disk, number)[at] ^= 1 << (at % 8);
            match loaded(&mut disk) {
                Ok(Some(got)) => {
                    assert!(got.head.number < number && !got.skipped.is_empty(), "byte {at} of {number}");
                    assert!(got.highest == 4);
                }
                Err(CheckpointError::NoneValid { skipped }) => {
                    assert_eq!((number, skipped.len()), (1, 3), "byte {at}");
                }
                other => panic!("byte {at} of {number}: {other:?}"),
            }
            bytes_of(&mut disk, number)[at] ^= 1 << (at % 8);
        }
        assert_eq!(loaded(&mut disk), Ok(Some(whole)));
    }
}

#[test]
fn a_cut_or_grown_file_is_noticed() {
    let mut disk = TestDisk::default();
    three(&mut disk);
    let whole = bytes_of(&mut disk, 4).clone();
    for len in 0..whole.len() {
        *bytes_of(&mut disk, 4) = whole[..len].to_vec();
        let got = loaded(&mut disk).unwrap().unwrap();
        assert_eq!((got.head.number, got.skipped.len()), (2, 1), "cut to {len}");
    }
    for extra in [1, 4096, 1 << 20] {
        *bytes_of(&mut disk, 4) = [&whole[..], &vec![0; extra]].concat();
        assert_eq!(loaded(&mut disk).unwrap().unwrap().head.number, 2, "{extra} more");
    }
    // Many frames, cut at each block: the end of a frame is not the end of the file.
    let mut disk = TestDisk::default();
    three(&mut disk);
    let many: Vec<Edit> = (10..4000).map(|id| Edit::Topic(topic(id, 1))).collect();
    let bytes = write(&mut disk, &head(5, Some(4)), &many);
    assert!(bytes > 3 * (256 << 10));
    let whole = bytes_of(&mut disk, 5).clone();
    for len in (0..whole.len()).step_by(4096) {
        *bytes_of(&mut disk, 5) = whole[..len].to_vec();
        assert_eq!(loaded(&mut disk).unwrap().unwrap().head.number, 4, "cut to {len}");
    }
}

#[test]
fn damage_in_a_chain_falls_back_below_it_and_says_so() {
    let spoil = |bytes: &mut Vec<u8>| bytes[40] ^= 1;
    let mut disk = TestDisk::default();
    three(&mut disk);
    spoil(bytes_of(&mut disk, 4));
    let got = loaded(&mut disk).unwrap().unwrap();
    assert_eq!((got.chain, got.highest), (vec![1, 2], 4));
    assert_eq!(got.skipped, [(file_name(4), "damaged: frame at offset 0".to_owned())]);

    let mut disk = TestDisk::default();
    three(&mut disk);
    spoil(bytes_of(&mut disk, 2));
    let got = loaded(&mut disk).unwrap().unwrap();
    assert_eq!(got.chain, [1]);
    assert_eq!(heads_of(&got), [(1, 10), (2, 20)], "nothing of the deltas");
    let why = "rests on ckpt-0000000000000002, which is damaged: frame at offset 0";
    assert_eq!(got.skipped[0], (file_name(4), why.to_owned()));
    assert_eq!(got.skipped[1].0, file_name(2));

    let mut disk = TestDisk::default();
    three(&mut disk);
    disk.mem.files.remove(&format!("{DIR}/{}", file_name(1)));
    let error = loaded(&mut disk).unwrap_err();
    let CheckpointError::NoneValid { skipped } = &error else { panic!("{error}") };
    assert_eq!(skipped.len(), 2);
    assert!(skipped[0].1.ends_with("rests on ckpt-0000000000000001, which is missing"), "{skipped:?}");
    // A full one above the hole needs nothing below.
    write(&mut disk, &head(6, None), &[Edit::Topic(topic(8, 8))]);
    assert_eq!(heads_of(&loaded(&mut disk).unwrap().unwrap()), [(8, 8)]);
}

#[test]
fn damage_behind_the_head_of_a_base_is_found_before_anything_is_used() {
    let mut disk = TestDisk::default();
    three(&mut disk);
    let end = bytes_of(&mut disk, 2).iter().rposition(|&byte| byte != 0).unwrap();
    bytes_of(&mut disk, 2)[end] ^= 1;
    let got = loaded(&mut disk).unwrap().unwrap();
    assert_eq!((got.chain, got.skipped.len()), (vec![1], 2));
}

/// Changes a header or body and makes the checksums of the first two frames hold again.
fn forged(disk: &mut TestDisk, number: u64, frame: usize, change: impl Fn(&mut [u8])) {
    let bytes = bytes_of(disk, number);
    let mut at = 0;
    let mut totals = Totals::default();
    for index in 0.. {
        let body_bytes = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let trailer = bytes[at + 6] == 3;
        let (header, body) = bytes[at..at + 32 + body_bytes].split_at_mut(32);
        if trailer {
            // Pieces, which no change here alters, come first.
            body[8..].copy_from_slice(&totals.encode()[8..]);
        }
        if index == frame {
            change(&mut body[..]);
        }
        header[24..28].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        let crc = crc32c::crc32c(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        totals.add(&header[..].try_into().unwrap(), body_bytes);
        at += 32 + body_bytes;
        if trailer {
            return;
        }
    }
}

#[test]
fn unknown_kinds_and_versions_are_refused_and_never_skipped() {
    let mut disk = TestDisk::default();
    three(&mut disk);
    forged(&mut disk, 4, 1, |_| {});
    assert_eq!(loaded(&mut disk).unwrap().unwrap().head.number, 4, "the forger is good");
    forged(&mut disk, 4, 1, |body| body[0] = 99);
    let got = loaded(&mut disk).unwrap().unwrap();
    assert!(got.skipped[0].1.contains("unknown kind"), "{:?}", got.skipped);
    forged(&mut disk, 4, 1, |body| body[0] = 7);
    assert_eq!(loaded(&mut disk).unwrap().unwrap().head.number, 4);
    forged(&mut disk, 4, 2, |body| body[0] ^= 1);
    let got = loaded(&mut disk).unwrap().unwrap();
    assert!(got.skipped[0].1.contains("trailer"), "{:?}", got.skipped);

    let bytes = bytes_of(&mut disk, 4);
    bytes[4] = 7;
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    let got = loaded(&mut disk).unwrap().unwrap();
    assert_eq!(got.skipped[0].1, "of format version 7, which is not known");
    assert_eq!(got.head.number, 2);
}

#[test]
fn a_whole_file_under_another_name_is_refused() {
    let mut disk = TestDisk::default();
    three(&mut disk);
    let bytes = bytes_of(&mut disk, 4).clone();
    disk.mem.files.insert(format!("{DIR}/{}", file_name(5)), bytes);
    let got = loaded(&mut disk).unwrap().unwrap();
    assert_eq!((got.head.number, got.skipped.len(), got.highest), (4, 1, 5));
}

#[test]
fn contradictions_are_refused() {
    let table: [(&str, Vec<Edit>); 5] = [
        ("a segment twice", vec![segment(2)]),
        ("a run of an unknown segment", vec![Edit::AddRun(SegmentId(77), run(1, 1, 0))]),
        ("a run twice", vec![Edit::AddRun(SegmentId(2), run(1, 1, 0))]),
        ("the end of an unknown segment", vec![Edit::RemoveSegment(SegmentId(77))]),
        ("a dropped topic", vec![Edit::Topic(topic(2, 1))]),
    ];
    for (what, edits) in table {
        let mut disk = TestDisk::default();
        three(&mut disk);
        write(&mut disk, &head(5, Some(4)), &edits);
        let got = loaded(&mut disk).unwrap().unwrap();
        assert_eq!(got.head.number, 4, "{what}");
        assert!(got.skipped[0].1.starts_with("refused: "), "{what}: {:?}", got.skipped);
    }
}

#[test]
fn large_edits_are_cut_into_pieces_and_come_back_whole() {
    let max = PIECE_ITEMS_MAX as u64;
    for (blocks, sections, vacant, deleted) in
        [(1, 0, 0, 0), (max, max, max, max), (max + 1, 1, 3, max + 1), (20_000, 3 * max + 5, 30_000, 7)]
    {
        let trims = vacant / 2;
        let run = Run { topic: TopicId(1), ..run(1, blocks, sections) };
        let ranges = |count| (1..=count).map(|at| (at * 3, at * 3 + 1)).collect();
        let state = TopicState {
            vacant: ranges(vacant),
            deleted: ranges(deleted),
            trims: ranges(trims),
            ..topic(1, 5)
        };
        let edits = [segment(1), Edit::AddRun(SegmentId(1), run.clone()), Edit::Topic(state.clone())];
        let mut disk = TestDisk::default();
        write(&mut disk, &head(1, None), &edits);
        let got = loaded(&mut disk).unwrap().unwrap();
        assert_eq!(got.runs, [(SegmentId(1), run)]);
        assert_eq!(got.topics[&TopicId(1)], state);
    }
}

#[test]
fn random_chains_agree_with_a_model() {
    for seed in 1..30 {
        let mut rng = Rng(seed);
        let mut disk = TestDisk::default();
        let mut topics: BTreeMap<TopicId, TopicState> = BTreeMap::new();
        let mut runs: BTreeMap<(SegmentId, TopicId), Run> = BTreeMap::new();
        let (mut next_topic, mut next_segment) = (1, 1);
        let mut live_segments: Vec<u64> = Vec::new();
        let mut routers: BTreeMap<RouterId, RouterDef> = BTreeMap::new();
        let mut links: BTreeMap<RouterId, LinkState> = BTreeMap::new();
        for number in 1..=12 {
            let mut edits = Vec::new();
            for _ in 0..rng.below(40) {
                let router = RouterId(rng.below(20));
                match rng.below(14) {
                    10 => {
                        let def = router_def(router.0, rng.below(9));
                        routers.insert(router, def.clone());
                        edits.push(Edit::Router(def));
                    }
                    11 => {
                        routers.remove(&router);
                        edits.push(Edit::RouterDrop(router));
                    }
                    12 if !topics.is_empty() => {
                        let dest = *topics.keys().nth(rng.below(topics.len() as u64) as usize).unwrap();
                        let (position, epoch) = (rng.below(99), router.0 as u32);
                        let link = LinkState { router, dest, position, forwarded_total: 3, epoch };
                        links.insert(router, link);
                        edits.push(Edit::Link(link));
                    }
                    13 => {
                        links.remove(&router);
                        edits.push(Edit::LinkGone(router));
                    }
                    0..4 => {
                        let state = topic(next_topic, rng.below(1000));
                        next_topic += 1;
                        topics.insert(state.id, state.clone());
                        edits.push(Edit::Topic(state));
                    }
                    4..6 if !topics.is_empty() => {
                        let id = *topics.keys().nth(rng.below(topics.len() as u64) as usize).unwrap();
                        let state = topic(id.0, rng.below(1000));
                        topics.insert(id, state.clone());
                        edits.push(Edit::Topic(state));
                    }
                    6 if !topics.is_empty() => {
                        let id = *topics.keys().nth(rng.below(topics.len() as u64) as usize).unwrap();
                        topics.remove(&id);
                        runs.retain(|(_, topic), _| *topic != id);
                        links.retain(|_, link| link.dest != id);
                        edits.push(Edit::Drop(id));
                    }
                    7 if !live_segments.is_empty() => {
                        let id = live_segments.swap_remove(rng.below(live_segments.len() as u64) as usize);
                        runs.retain(|(segment, _), _| segment.0 != id);
                        edits.push(Edit::RemoveSegment(SegmentId(id)));
                    }
                    _ => {
                        edits.push(segment(next_segment));
                        live_segments.push(next_segment);
                        for id in topics.keys().take(rng.below(5) as usize) {
                            let run = run(id.0, 1 + rng.below(3), rng.below(2));
                            runs.insert((SegmentId(next_segment), *id), run.clone());
                            edits.push(Edit::AddRun(SegmentId(next_segment), run));
                        }
                        next_segment += 1;
                    }
                }
            }
            write(&mut disk, &head(number, (number > 1).then(|| number - 1)), &edits);
            let mut got = loaded(&mut disk).unwrap().unwrap();
            if rng.below(4) == 0 {
                // Merged: the same state in one file, on which the next ones build.
                write(&mut disk, &head(number, None), &got.into_edits(|_, _| true));
                got = loaded(&mut disk).unwrap().unwrap();
            }
            assert_eq!(got.topics, topics, "seed {seed}");
            assert_eq!((&got.routers, &got.links), (&routers, &links), "I-95, I-96: seed {seed}");
            assert_eq!(got.runs.len(), runs.len(), "seed {seed}");
            assert!(got.runs.iter().all(|(id, run)| &runs[&(*id, run.topic)] == run), "seed {seed}");
            live_segments.sort_unstable();
            assert!(got.segments.keys().map(|id| id.0).eq(live_segments.iter().copied()), "seed {seed}");
        }
    }
}

#[test]
fn a_failed_operation_leaves_the_checkpoint_before() {
    let edits: Vec<Edit> = (1..9000).map(|id| Edit::Topic(topic(id, 1))).collect();
    for fail_at in 0.. {
        let mut disk = TestDisk::default();
        three(&mut disk);
        disk.mem.asked.clear();
        disk.mem.fail_at = Some(fail_at);
        let io = disk.io.clone();
        let result = disk.run(write_checkpoint(&io, DIR, &head(5, None), &edits));
        let untouched = disk.mem.asked.len() <= fail_at;
        disk.mem.fail_at = None;
        assert_eq!(disk.mem.open_count(), 0, "operation {fail_at}");
        let number = loaded(&mut disk).unwrap().unwrap().head.number;
        if untouched {
            let verbs: Vec<&str> = disk.mem.asked.iter().map(|a| a.split(' ').next().unwrap()).collect();
            assert_eq!(verbs[..8], ["open", "write", "write", "sync", "close", "rename", "syncdir", "list"]);
            assert_eq!((result.is_ok(), number), (true, 5));
            break;
        }
        // Failing to sync the directory is a failure too, though the name is there.
        assert!(result.is_err() || fail_at == 4, "operation {fail_at}");
        assert_eq!(number, if fail_at == 6 || fail_at == 4 { 5 } else { 4 }, "operation {fail_at}");
    }
}

#[test]
fn retention_keeps_the_two_newest_loadable() {
    let full = |number| (number, None);
    let delta = |number, base| (number, Some(base));
    type Existing = Vec<(u64, Option<u64>)>;
    let table: [(&str, Existing, Vec<u64>); 7] = [
        ("nothing", vec![], vec![]),
        ("one", vec![full(1)], vec![]),
        ("a chain", vec![full(1), delta(2, 1), delta(3, 2)], vec![]),
        ("a new full one", vec![full(1), delta(2, 1), full(3)], vec![]),
        ("and a delta on it", vec![delta(4, 3), full(1), delta(2, 1), full(3)], vec![1, 2]),
        ("the newest without its base", vec![full(1), full(2), full(3), delta(9, 8)], vec![1]),
        ("holes and leftovers", vec![delta(2, 1), full(3), delta(4, 2), full(5)], vec![2, 4]),
    ];
    for (what, existing, removable) in table {
        assert_eq!(plan_retention(&existing), removable, "{what}");
    }
}

#[test]
fn a_full_one_is_due_when_the_chain_is_long_or_heavy() {
    for (chain_len, delta_bytes, full_bytes, due) in [
        (0, 0, 0, true),
        (1, 0, 4096, false),
        (1, 2048, 4096, false),
        (1, 2049, 4096, true),
        (CHAIN_LEN_MAX - 1, 0, 4096, false),
        (CHAIN_LEN_MAX, 0, 4096, true),
    ] {
        assert_eq!(should_be_full(chain_len, delta_bytes, full_bytes), due, "{chain_len} {delta_bytes}");
    }
}

#[test]
fn names_in_a_shard_directory_are_told_apart() {
    for (name, expected) in [
        ("ckpt-00000000000000ff", Name::Checkpoint(255)),
        ("ckpt-00000000000000ff.new", Name::Leftover),
        ("ckpt-00000000000000FF", Name::Unknown),
        ("ckpt-ff", Name::Unknown),
        ("ckpt-+0000000000000ff", Name::Unknown),
        ("log-1", Name::Unknown),
    ] {
        assert_eq!(parse_name(name), expected, "{name}");
    }
}
