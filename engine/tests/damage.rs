//! Damaged files: a torn tail is cut, damage is reported with file, offset and seqs, and what is stored
//! elsewhere stays readable (I-93, I-94, I-95, I-98, I-99).

mod common;

use common::oracle::World;
use common::{Ask, Rec, Rig, Stop, named, settings};
use runelog_engine::config::{Class, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::error::EngineError;
use runelog_engine::shard::ShardSettings;
use runelog_engine::shard::recover::RecoverError;
use runelog_engine::verify::Weight;
use runelog_engine::wal::format::{BlockHeader, FileHeader};

const RECORDS: u64 = 12;

fn fsync() -> TopicConfig {
    TopicConfig { class: Class::Fsync, ..TopicConfig::default() }
}

/// A log of one topic with a synced block for each record, of an ended process.
fn synced_log() -> Rig {
    let mut rig = Rig::open_new(5);
    rig.put("t", &fsync()).unwrap();
    for number in 0..RECORDS {
        rig.append_and_wait("t", &[Rec::new(format!("{number:0900}"))]).unwrap();
    }
    rig.settle().unwrap();
    rig.crash(Crash::Kill);
    rig
}

/// Places of the blocks in a log file.
fn blocks(rig: &Rig, path: &str) -> Vec<(u64, BlockHeader)> {
    let bytes = rig.disk.contents(path).unwrap();
    let (mut at, mut found) = (4096, Vec::new());
    while let Ok((header, _)) = BlockHeader::decode(&bytes[at..]) {
        found.push((at as u64, header));
        at += header.stored_bytes();
    }
    found
}

/// Makes a file say something else.
fn poke(rig: &mut Rig, path: &str, at: u64, new: &[u8]) {
    let old = rig.disk.contents(path).unwrap()[at as usize..at as usize + new.len()].to_vec();
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        for bit in (0..8).filter(|bit| (old ^ new) >> bit & 1 == 1) {
            rig.disk.flip_bit(path, at + index as u64, bit);
        }
    }
}

fn seqs(rig: &mut Rig, topic: &str) -> Vec<u64> {
    match rig.read_all(topic) {
        Ok((_, seen)) => seen.iter().map(|seen| seen.seq).collect(),
        Err(Stop::Refused(EngineError::TopicMissing)) => Vec::new(),
        Err(stop) => panic!("{stop:?}"),
    }
}

#[test]
fn a_log_cut_off_anywhere_starts_with_what_is_whole() {
    // I-93
    let rig = synced_log();
    let (_, path) = rig.log_files()[0].clone();
    let places = blocks(&rig, &path);
    let (last, header) = *places.last().unwrap();
    let used = last + header.stored_bytes() as u64;
    assert_eq!(rig.log_files().len(), 2, "the next file is prepared and empty");
    for cut in (0..=used).step_by(512) {
        named(&format!("{path} cut at {cut}"), || {
            let mut rig = synced_log();
            for (_, prepared) in &rig.log_files()[1..] {
                rig.disk.truncate(prepared, 0); // so that the cut file is the last
            }
            rig.disk.truncate(&path, cut);
            rig.open().unwrap();
            // Each block holds a record, the first one the topic too.
            let whole = |(at, header): &&(u64, BlockHeader)| at + 64 + u64::from(header.payload_bytes) <= cut;
            let records = places.iter().filter(whole).count() as u64;
            assert_eq!(seqs(&mut rig, "t"), (1..=records).collect::<Vec<_>>(), "I-93, I-54");
            // And it goes on from there, also once more.
            rig.put("t", &fsync()).unwrap();
            rig.append_and_wait("t", &[Rec::new("after")]).unwrap();
            rig.crash(Crash::PowerLoss);
            rig.open().unwrap();
            assert_eq!(seqs(&mut rig, "t"), (1..=records + 1).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_flipped_bit_inside_the_log_refuses_to_start_and_says_where() {
    // I-94
    let rig = synced_log();
    let (_, path) = rig.log_files()[0].clone();
    let places = blocks(&rig, &path);
    // What the newest block knew to be durable when it was made.
    let durable = places.last().unwrap().1.synced_through;
    assert!(durable + 2 >= places.last().unwrap().1.number);
    for (at, header) in places.iter().filter(|(_, header)| header.number <= durable) {
        for byte in [0, 5, 20, 45, 61, 64, 70, 63 + u64::from(header.payload_bytes)] {
            named(&format!("block {} byte {byte}", header.number), || {
                let mut rig = synced_log();
                rig.disk.flip_bit(&path, at + byte, (byte % 8) as u8);
                let Err(Stop::Recover(error)) = rig.open() else { panic!("I-94: it starts") };
                let text = error.to_string();
                // What the block holds is at risk too, its one record; of the first one nothing is known.
                let first = header.number.max(2);
                let risk = format!("seqs {first}..={RECORDS}");
                for part in [path.as_str(), &format!("offset {at}"), &risk, "\"t\""] {
                    // The very first block holds the topic's name itself.
                    let nameless = header.number == 1 && part == "\"t\"";
                    assert!(nameless || text.contains(part), "SU-5: {part} is not in: {text}");
                }
                let judged = rig.judge().findings;
                let found = judged.iter().find(|found| found.weight == Weight::Start).expect("a finding");
                let risk = found.at_risk.iter().map(|risk| (risk.first_seq, risk.last_seq));
                assert_eq!((found.offset, risk.collect()), (Some(*at), vec![(first, RECORDS)]), "{judged:?}");
            });
        }
    }
}

/// Two topics, sealed twice with checkpoints, and some log behind; of an ended process.
fn sealed(kind: Crash) -> World {
    let mut world = World::new(Rig::open_new(9));
    for name in ["a", "b"] {
        world.put(name, &fsync()).unwrap();
    }
    for _ in 0..3 {
        for name in ["a", "b"] {
            let records = [world.rec(500), world.rec(500)];
            world.append(name, &records, Ask { key: Some(b"key"), ..Ask::default() }).unwrap();
            world.rig.settle().unwrap();
            world.delete(name, Some(2), None).unwrap();
        }
        let before = world.rig.shard().gauges().checkpoints;
        while world.rig.shard().gauges().checkpoints == before {
            world.rig.advance(301);
            world.rig.settle().unwrap();
        }
        let rec = world.rec(10);
        world.append("a", &[rec], Ask::default()).unwrap();
        world.rig.settle().unwrap();
    }
    let committed = world.crash(kind);
    assert!(committed > 0);
    world
}

fn paths(world: &World, part: &str) -> Vec<String> {
    let files = world.rig.disk.files();
    files.into_iter().map(|(path, _)| path).filter(|path| path.contains(part)).collect()
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    // I-95
    for byte in [0, 40, 100, 300, 1000] {
        named(&format!("byte {byte}"), || {
            let mut world = sealed(Crash::Kill);
            let checkpoints = paths(&world, "/ckpt-");
            assert!(checkpoints.len() > 1, "{checkpoints:?}");
            let newest = checkpoints.last().unwrap();
            world.rig.disk.flip_bit(newest, byte, 3);
            world.flawed = true;
            world.rig.open().unwrap();
            assert!(world.rig.report.notes.iter().any(|note| note.contains(newest.as_str())));
            world.verify(Crash::Kill, u64::MAX).unwrap();
            world.check().unwrap();
            let rec = world.rec(10);
            world.append("b", &[rec], Ask { key: Some(b"key"), ..Ask::default() }).unwrap(); // I-72
            let rec = world.rec(10);
            world.append("b", &[rec], Ask::default()).unwrap();
            world.rig.settle().unwrap();
            world.crash_and_verify(Crash::PowerLoss).unwrap();
            world.check().unwrap();
        });
    }
}

#[test]
fn a_damaged_sealed_block_is_unreadable_and_nothing_else_is() {
    // I-98
    let mut world = sealed(Crash::Kill);
    world.rig.open().unwrap();
    let (_, all) = world.rig.read_all("a").unwrap();
    world.rig.crash(Crash::Kill);
    let needle = &all[0].rec.data;
    let hit = paths(&world, "segments/").into_iter().find_map(|path| {
        let bytes = world.rig.disk.contents(&path).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((path, at as u64))
    });
    let (path, at) = hit.expect("the first record is sealed");
    world.rig.disk.flip_bit(&path, at + 7, 2);
    world.rig.open().unwrap();
    match world.rig.read_all("a") {
        Err(Stop::Refused(EngineError::Unreadable(text))) => assert!(text.contains(&path), "{text}"),
        other => panic!("I-98: {other:?}"),
    }
    let request = runelog_engine::shard::ReadRequest {
        from_seq: all.last().unwrap().seq - 1,
        limit: 10,
        max_bytes: 1 << 20,
        skip_node: None,
    };
    assert_eq!(world.rig.read("a", &request).unwrap().1.len(), 1, "records stored elsewhere");
    assert!(!world.rig.read_all("b").unwrap().1.is_empty(), "other topics");
    world.rig.append_and_wait("a", &[Rec::new("more")]).unwrap();
}

/// A log of several files, of an ended process.
fn long_log() -> Rig {
    let mut rig = Rig::new(3, ShardSettings { hot_bytes: 64 << 20, segment_max_age_ms: 0, ..settings() });
    rig.open().unwrap();
    rig.put("t", &fsync()).unwrap();
    for number in 0..14 {
        rig.append_and_wait("t", &[Rec::new(vec![b'0' + number; 900_000])]).unwrap();
    }
    rig.settle().unwrap();
    rig.crash(Crash::Kill);
    assert!(rig.log_files().len() > 3, "{:?}", rig.log_files());
    rig
}

#[test]
fn a_log_file_that_is_missing_or_cut_inside_the_log_refuses_to_start() {
    // I-94
    for (at, cut) in [(0, None), (1, None), (0, Some(8192)), (1, Some(3 << 20)), (1, Some(512)), (1, Some(0))]
    {
        let mut rig = long_log();
        let (_, path) = rig.log_files()[at].clone();
        match cut {
            Some(bytes) => rig.disk.truncate(&path, bytes),
            None => {
                let io = runelog_engine::disk::Io::default();
                rig.disk.block_on(&io, io.remove(&path)).unwrap().unwrap();
            }
        }
        let opened = rig.open();
        let refused =
            matches!(opened, Err(Stop::Recover(RecoverError::Damage(_) | RecoverError::DamagedBlock { .. })));
        assert!(refused, "{path} {cut:?}: {opened:?}");
    }
    let mut rig = long_log();
    rig.open().unwrap();
    assert_eq!(seqs(&mut rig, "t").len(), 14);
}

#[test]
fn an_unknown_version_is_refused_not_guessed() {
    // I-99
    let (path, place) = {
        let rig = synced_log();
        let (_, path) = rig.log_files()[0].clone();
        let place = blocks(&rig, &path)[RECORDS as usize - 1].0;
        (path, place)
    };
    for at in [0, place] {
        let mut rig = synced_log();
        let mut header = rig.disk.contents(&path).unwrap()[at as usize..at as usize + 64].to_vec();
        assert!(at > 0 || FileHeader::decode(&header).is_ok());
        header[if at == 0 { 8 } else { 4 }] = 2;
        let crc = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        poke(&mut rig, &path, at, &header);
        let opened = rig.open();
        let Err(Stop::Recover(RecoverError::Version(text))) = &opened else { panic!("{opened:?}") };
        assert!(text.contains("version") && text.contains(&path), "{text}");
    }
}

#[test]
fn a_log_whose_entries_contradict_each_other_is_refused_although_its_checksums_hold() {
    // I-97: neither a number that wrapped below zero nor a panic in the middle of a start.
    let deleted = || {
        let mut rig = Rig::open_new(5);
        rig.put("t", &fsync()).unwrap();
        rig.append_and_wait("t", &[Rec::new("one"), Rec::new("two")]).unwrap();
        rig.delete("t", Some(2), None).unwrap();
        rig.settle().unwrap();
        rig.crash(Crash::Kill);
        rig
    };
    let rig = deleted();
    let (_, path) = rig.log_files()[0].clone();
    let (at, header) = *blocks(&rig, &path).last().unwrap();
    let block = rig.disk.contents(&path).unwrap()[at as usize..][..header.stored_bytes()].to_vec();
    // An entry's header, then topic, count, bytes and one range, first and last.
    assert_eq!((block[64 + 4], block[64 + 16]), (2, 1), "a delete of one record");
    for (what, place, number) in [("count", 80, 3u64), ("bytes", 88, 7), ("range", 96, 9)] {
        let mut changed = block.clone();
        changed[place..place + 8].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c(&changed[64..64 + header.payload_bytes as usize]);
        changed[52..56].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&changed[..60]);
        changed[60..64].copy_from_slice(&crc.to_le_bytes());
        let mut rig = deleted();
        poke(&mut rig, &path, at, &changed);
        let opened = rig.open();
        let Err(Stop::Recover(error)) = &opened else { panic!("{what}: {opened:?}") };
        assert!(error.to_string().contains(&path), "SU-5 {what}: {error}");
    }
    let mut rig = deleted();
    rig.open().unwrap();
    assert_eq!(seqs(&mut rig, "t"), [2]);
}
