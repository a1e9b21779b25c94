//! One bit flipped, in every part of every file; files cut, exchanged, lost. Each time a start and a full
//! read do what the rules say (I-93…I-99), never silently less and never something else, and `verify` finds
//! what was done, unless the byte is of no use to anybody, and then it is said why.
//! `RUNELOG_STRIDE=1` takes every byte.

mod common;

use common::judge::{Judged, judge};
use common::{Ask, Rec, Rig, Seen, Stop, env, named, settings};
use runelog_engine::config::{Class, TopicConfig};
use runelog_engine::disk::sim::{Crash, SimDisk};
use runelog_engine::disk::{Io, OpenMode};
use runelog_engine::error::EngineError;
use runelog_engine::layout::{FILE, Layout, read_layout};
use runelog_engine::limits::{BLOCK_BYTES, CHUNK_BYTES};
use runelog_engine::mem::AlignedBuf;
use runelog_engine::shard::recover::RecoverError;
use runelog_engine::shard::{ShardSettings, TagMatch};
use runelog_engine::verify::Weight;
use runelog_engine::wal::format::{BlockHeader, FileHeader, SKIP};
use std::collections::BTreeMap;

const TOPICS: [&str; 2] = ["a", "b"];
const BLOCK: u64 = BLOCK_BYTES as u64;

fn small() -> ShardSettings {
    ShardSettings { file_bytes: CHUNK_BYTES as u64, ..settings() }
}

/// Two topics with tags, sealed three times into shared segments, with checkpoints that rest on one
/// another, deletes, a log of several files, and behind the last checkpoint some blocks; killed.
fn specimen(settings: ShardSettings, began: i64) -> Rig {
    let mut rig = Rig::new(7, settings);
    rig.now = began;
    rig.open().unwrap();
    let fsync = TopicConfig { class: Class::Fsync, ..TopicConfig::default() };
    for name in TOPICS {
        rig.put(name, &fsync).unwrap();
    }
    let mut serial = 0;
    let mut rec = |bytes: usize, tag: Option<&str>| {
        serial += 1;
        let mut data = format!("{serial:04}").into_bytes();
        data.resize(bytes.max(4), b'0');
        let mut rec = Rec::new(data);
        rec.tag = tag.map(|tag| tag.as_bytes().to_vec());
        rec
    };
    for round in 0..3 {
        for name in TOPICS {
            let batch = [rec(300, Some("x")), rec(200, Some("y")), rec(100, None), rec(50, Some("x"))];
            rig.append(name, &batch, Ask { key: Some(b"key"), ..Ask::default() }).unwrap();
            rig.append(name, &batch, Ask::default()).unwrap();
            rig.settle().unwrap();
            rig.delete(name, Some(2), None).unwrap();
        }
        let before = rig.shard().gauges().checkpoints;
        while rig.shard().gauges().checkpoints == before {
            rig.advance(301);
            rig.settle().unwrap();
        }
        // So that the log goes on into another file.
        rig.append_and_wait("b", &[rec(if round < 2 { 900_000 } else { 10 }, None)]).unwrap();
        rig.settle().unwrap();
    }
    for number in 0..5 {
        rig.append_and_wait(TOPICS[number % 2], &[rec(700 * number, Some("z"))]).unwrap();
    }
    rig.settle().unwrap();
    rig.crash(Crash::Kill);
    rig
}

/// What a start and a reader of everything found.
#[derive(Debug)]
enum Start {
    Refused(RecoverError),
    Up {
        /// The records of each topic, or why they cannot be read.
        topics: BTreeMap<String, Result<Vec<Seen>, String>>,
        /// Whether a delete by tag could be done in each.
        tags: BTreeMap<String, Result<u64, String>>,
        notes: Vec<String>,
    },
}

fn start(disk: &SimDisk, settings: &ShardSettings) -> Start {
    let mut rig = Rig::new(1, settings.clone());
    rig.disk = disk.fork();
    match rig.open() {
        Ok(()) => {}
        Err(Stop::Recover(error)) => return Start::Refused(error),
        Err(stop) => panic!("{stop:?}"),
    }
    let notes = rig.report.notes.clone();
    let (mut topics, mut tags) = (BTreeMap::new(), BTreeMap::new());
    let text = |stop| match stop {
        Stop::Refused(EngineError::Unreadable(text)) => text,
        other => panic!("{other:?}"),
    };
    let names: Vec<String> =
        rig.list().unwrap().into_iter().map(|shown| String::from_utf8(shown.name).unwrap()).collect();
    for name in &names {
        let read = rig.read_all(name).map(|(_, seen)| seen).map_err(text);
        if let Ok(seen) = &read {
            let state = rig.state(name).unwrap();
            let bytes: u64 = seen.iter().map(|seen| seen.counted_bytes).sum();
            assert_eq!((state.count, state.bytes), (seen.len() as u64, bytes), "{name} (I-8)");
        }
        topics.insert(name.clone(), read);
    }
    for name in names {
        let deleted = rig.delete(&name, None, Some(TagMatch::Prefix(Vec::new())));
        tags.insert(name, deleted.map(|(_, deleted)| deleted.count).map_err(text));
    }
    Start::Up { topics, tags, notes }
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The start is refused.
    Refused,
    /// A read or a delete by tag fails.
    Unreadable,
    /// Everything is there, and what could have stood in for other damage is found to be broken.
    Spare,
    /// A file was cut, and that is told.
    Short,
    /// The last block is taken for an unfinished write, and that is told.
    Torn,
    /// Nobody can tell, and nobody needs to.
    Unused,
}

/// A start, a full read and the judge about one disk, held against what was there before.
fn agree(pristine: &Start, disk: &SimDisk, settings: &ShardSettings, file: &str) -> (End, Judged) {
    let judged = judge(disk, settings);
    let count = |weight| judged.summary.count(weight);
    let Start::Up { topics: before, tags: tags_before, .. } = pristine else { panic!("{pristine:?}") };
    let end = match start(disk, settings) {
        Start::Refused(error) => {
            assert!(count(Weight::Start) + count(Weight::Unjudged) > 0, "{error}, and {judged:#?}");
            assert!(judged.names(file), "{file} in {judged:#?}");
            End::Refused
        }
        Start::Up { topics, tags, notes } => {
            assert_eq!(count(Weight::Start), 0, "it starts, and {judged:#?}");
            let mut fails = false;
            for (name, before) in before {
                let before = before.as_ref().expect("read");
                match topics.get(name) {
                    Some(Err(text)) => {
                        assert!(text.contains(file), "I-98: {text}");
                        fails = true;
                    }
                    Some(Ok(seen)) if seen == before => {}
                    Some(Ok(seen)) => {
                        assert!(before.starts_with(seen), "{name}: no prefix (I-54)");
                        assert!(notes.iter().any(|note| note.contains(file)), "silently less: {notes:?}");
                        assert!(judged.names(file), "silently less: {judged:#?}");
                    }
                    None => panic!("{name} is gone, and nobody says so: {notes:?}"),
                }
            }
            assert_eq!(topics.len(), before.len(), "I-97");
            for (name, deleted) in &tags {
                match deleted {
                    Ok(count) => assert!(*count <= *tags_before[name].as_ref().unwrap()),
                    Err(text) => {
                        assert!(text.contains(file), "I-98: {text}");
                        fails = true;
                    }
                }
            }
            assert_eq!(count(Weight::Read) > 0, fails, "{judged:#?}");
            let same = topics.iter().all(|(name, seen)| *seen == before[name]);
            match judged.summary.heaviest() {
                Weight::Read => End::Unreadable,
                Weight::Spare => End::Spare,
                Weight::Loss => End::Short,
                Weight::Note if !same => End::Torn,
                Weight::Note => End::Unused,
                Weight::Start | Weight::Unjudged => panic!("{judged:#?}"),
            }
        }
    };
    if !matches!(end, End::Unused) {
        assert!(judged.names(file), "{file} is not named: {judged:#?}");
    }
    (end, judged)
}

/// Blocks of a log file's present use: offset, header. Those of an earlier one stay until they are
/// written over.
fn blocks(disk: &SimDisk, path: &str) -> Vec<(u64, BlockHeader)> {
    let bytes = disk.contents(path).unwrap();
    let (mut at, mut found) = (BLOCK_BYTES, Vec::new());
    let Ok(Some(file)) = FileHeader::decode(bytes) else { return found };
    while at < bytes.len() {
        let Ok((header, _)) = BlockHeader::decode(&bytes[at..]) else { break };
        if (header.epoch, header.lsn) != (file.epoch, file.number * file.file_bytes + at as u64) {
            break;
        }
        found.push((at as u64, header));
        at = match header.flags & SKIP {
            0 => at + header.stored_bytes(),
            _ => (at + header.stored_bytes()).next_multiple_of(CHUNK_BYTES),
        };
    }
    found
}

/// Why nobody reads this byte of a log file, if nobody does.
fn unused(disk: &SimDisk, path: &str, at: u64) -> Option<&'static str> {
    let blocks = blocks(disk, path);
    if (64..BLOCK).contains(&at) {
        return Some("behind the file header");
    }
    if blocks.is_empty() {
        return Some("a file that takes the next blocks, and is made ready again");
    }
    if at < 64 {
        return None;
    }
    let before = blocks.iter().rfind(|(offset, _)| *offset <= at)?;
    let used = before.0 + 64 + u64::from(before.1.payload_bytes);
    (at >= used).then_some("behind a block's payload")
}

/// Offsets that meet every part: all of headers, some of what is alike.
fn places(disk: &SimDisk, path: &str, stride: u64) -> Vec<u64> {
    let len = disk.contents(path).unwrap().len() as u64;
    if !path.contains("/wal-") {
        // A large record is alike all over.
        let edge = 3 * BLOCK;
        let inside = (edge..len.saturating_sub(edge).max(edge)).step_by((len / 60).max(stride) as usize);
        let ends = (0..len.min(edge)).chain(len.saturating_sub(edge).max(edge)..len.max(edge));
        return ends.step_by(stride as usize).chain(inside).filter(|place| *place < len).collect();
    }
    let mut places: Vec<u64> = (0..64).chain([64, 70, 2000, BLOCK - 1]).collect();
    for (offset, header) in blocks(disk, path) {
        let (payload, end) = (offset + 64, offset + 64 + u64::from(header.payload_bytes));
        let (header_step, body_step) = (stride.min(3), (stride * 16).max((end - payload) / 40));
        places.extend((offset..payload).step_by(header_step as usize));
        places.extend((payload..end).step_by(body_step as usize));
        places.extend([end - 1, end, end + (offset + header.stored_bytes() as u64 - end) / 2]);
        places.push(offset + header.stored_bytes() as u64 - 1);
    }
    places.retain(|place| *place < len);
    places.sort_unstable();
    places.dedup();
    places
}

#[test]
fn a_bit_flipped_anywhere_is_refused_or_unreadable_or_found_and_never_wrong_data() {
    let stride = env("RUNELOG_STRIDE", 97);
    let settings = small();
    let rig = specimen(settings.clone(), 1_000_000);
    let pristine = start(&rig.disk, &settings);
    assert!(rig.judge().summary.is_whole());
    let mut ends: BTreeMap<(&str, End), u64> = BTreeMap::new();
    let mut whys: BTreeMap<&str, u64> = BTreeMap::new();
    for (path, _) in rig.disk.files() {
        let kind = ["wal-", "ckpt-", ".seg"].into_iter().find(|part| path.contains(part)).unwrap();
        for place in places(&rig.disk, &path, stride) {
            named(&format!("{path}, byte {place}"), || {
                let mut disk = rig.disk.fork();
                disk.flip_bit(&path, place, (place % 8) as u8);
                let (end, judged) = agree(&pristine, &disk, &settings, &path);
                *ends.entry((kind, end)).or_default() += 1;
                match end {
                    End::Unused => {
                        let why = unused(&rig.disk, &path, place);
                        let why = why.unwrap_or_else(|| panic!("nobody finds it: {judged:#?}"));
                        *whys.entry(why).or_default() += 1;
                    }
                    // Nothing in the log says that its very last block was durable (I-93).
                    End::Torn => {
                        let last = *blocks(&rig.disk, &path).last().expect("a block");
                        let durable = last.1.synced_through;
                        let hit = *blocks(&rig.disk, &path).iter().rfind(|(at, _)| *at <= place).unwrap();
                        assert!(hit.1.number > durable, "block {} was durable (I-94)", hit.1.number);
                    }
                    End::Short => panic!("nothing was cut: {judged:#?}"),
                    End::Refused | End::Unreadable | End::Spare => {}
                }
            });
        }
    }
    println!("{ends:?}\nunused: {whys:?}");
    for must in [
        ("wal-", End::Refused),
        ("wal-", End::Spare),
        ("wal-", End::Torn),
        ("wal-", End::Unused),
        ("ckpt-", End::Spare),
        (".seg", End::Unreadable),
        (".seg", End::Spare),
    ] {
        assert!(ends.contains_key(&must), "{must:?} never came: {ends:?}");
    }
    for never in [("ckpt-", End::Unused), (".seg", End::Unused), (".seg", End::Torn)] {
        assert!(!ends.contains_key(&never), "{never:?}: {ends:?}");
    }
}

fn paths(disk: &SimDisk, part: &str) -> Vec<String> {
    disk.files().into_iter().map(|(path, _)| path).filter(|path| path.contains(part)).collect()
}

/// Makes a file of these bytes, whole blocks of them.
fn put(disk: &mut SimDisk, path: &str, bytes: &[u8]) {
    let io = Io::default();
    let mut buf = AlignedBuf::zeroed(bytes.len());
    buf[..bytes.len()].copy_from_slice(bytes);
    let making = async {
        let file = io.open(path, OpenMode::Create).await?;
        io.write(file, 0, buf, bytes.len()).await?;
        io.sync(file).await?;
        io.close(file).await;
        Ok::<(), runelog_engine::error::DiskError>(())
    };
    disk.block_on(&io, making).unwrap().unwrap();
}

fn remove(disk: &mut SimDisk, path: &str) {
    let io = Io::default();
    disk.block_on(&io, io.remove(path)).unwrap().unwrap();
}

#[test]
fn the_last_log_file_cut_anywhere_starts_and_what_is_gone_is_told() {
    // I-93
    let stride = env("RUNELOG_STRIDE", 509);
    let settings = small();
    let rig = specimen(settings.clone(), 1_000_000);
    let pristine = start(&rig.disk, &settings);
    let logs = rig.log_files();
    let is_written = |(_, path): &&(u64, String)| !blocks(&rig.disk, path).is_empty();
    let (_, last) = logs.iter().rfind(is_written).expect("a file with blocks");
    let end = blocks(&rig.disk, last).last().map(|(at, header)| at + header.stored_bytes() as u64).unwrap();
    let mut ends = BTreeMap::new();
    for cut in (0..=end).step_by(stride as usize).chain([0, 1, 63, 64, 4095, 4096, 4097]) {
        named(&format!("{last} cut to {cut}"), || {
            let mut disk = rig.disk.fork();
            for (_, prepared) in logs.iter().filter(|(_, path)| blocks(&rig.disk, path).is_empty()) {
                remove(&mut disk, prepared);
            }
            disk.truncate(last, cut);
            let (end, _) = agree(&pristine, &disk, &settings, last);
            // An emptied file looks like one whose making was cut off: then that is what is told.
            assert_eq!(end, if cut < 64 { End::Torn } else { End::Short });
            *ends.entry(end).or_insert(0) += 1;
        });
    }
    println!("{ends:?}");
}

#[test]
fn files_that_are_cut_emptied_lost_or_grown_are_found() {
    // I-93, I-94, I-95, I-98
    let settings = small();
    let rig = specimen(settings.clone(), 1_000_000);
    let pristine = start(&rig.disk, &settings);
    for (path, len) in rig.disk.files() {
        let is_empty_log = path.contains("/wal-") && blocks(&rig.disk, &path).is_empty();
        for cut in [Some(0), Some(1), Some(len / 2), Some(len - 1), Some(len - BLOCK), None] {
            named(&format!("{path} cut to {cut:?}"), || {
                let mut disk = rig.disk.fork();
                match cut {
                    Some(cut) => disk.truncate(&path, cut),
                    None => remove(&mut disk, &path),
                }
                // A log file that is gone is missed by its number.
                let is_lost_log = cut.is_none() && path.contains("/wal-");
                let name = if is_lost_log { settings.dir() } else { path.clone() };
                let (end, judged) = agree(&pristine, &disk, &settings, &name);
                // What is gone without a trace and not needed is missed by nobody: an older checkpoint or
                // the newest, an older log file, a file that was only prepared. All data is there (`agree`).
                let may_be = is_empty_log || cut.is_none() || path.contains("/wal-") && cut < Some(BLOCK);
                assert!(end != End::Unused || may_be, "{judged:#?}");
            });
        }
        if !path.contains("/wal-") {
            named(&format!("{path} with a block more"), || {
                let mut bytes = rig.disk.contents(&path).unwrap().to_vec();
                bytes.resize(bytes.len() + BLOCK_BYTES, 0);
                let mut disk = rig.disk.fork();
                put(&mut disk, &path, &bytes);
                assert_eq!(agree(&pristine, &disk, &settings, &path).0, End::Spare);
            });
        }
    }
}

#[test]
fn files_of_other_places_are_no_files_of_this_one() {
    // I-94, I-97, I-98: never somebody else's data
    let settings = small();
    let rig = specimen(settings.clone(), 1_000_000);
    let pristine = start(&rig.disk, &settings);
    let (logs, segments) = (rig.log_files(), paths(&rig.disk, ".seg"));
    let contents = |path: &str| rig.disk.contents(path).unwrap().to_vec();
    let try_it = |what: &str, changes: &[(&str, Vec<u8>)], file: &str| {
        named(what, || {
            let mut disk = rig.disk.fork();
            changes.iter().for_each(|(path, bytes)| put(&mut disk, path, bytes));
            agree(&pristine, &disk, &settings, file)
        })
    };
    // Names of log files mean nothing: the header says which one it is.
    let (one, two) = (logs[0].1.as_str(), logs[1].1.as_str());
    let (end, _) = try_it("names exchanged", &[(one, contents(two)), (two, contents(one))], one);
    assert_eq!(end, End::Unused);
    // One that is there twice, the copy older: it must not stand in for what came since.
    let (_, last) = logs.iter().rfind(|(_, path)| !blocks(&rig.disk, path).is_empty()).unwrap();
    let mut older = contents(last);
    let at = blocks(&rig.disk, last).last().unwrap().0 as usize;
    older[at..].fill(0);
    for slot in ["0000", "0099"] {
        let free = format!("{}/wal-{slot}.log", settings.dir());
        let (end, judged) = match last.contains(slot) {
            true => continue,
            false if logs.iter().any(|(_, path)| *path == free) => continue,
            false => try_it("an older copy", &[(&free, older.clone())], last),
        };
        assert_eq!(end, End::Refused);
        assert!(judged.names(&free) || judged.says(Weight::Start, &settings.dir(), "both claim"));
    }
    // Segments exchanged; the same segment of a directory with other data of the same sizes.
    let (one, two) = (segments[0].as_str(), segments[1].as_str());
    let (end, _) = try_it("segments exchanged", &[(one, contents(two))], one);
    assert_eq!(end, End::Unreadable);
    let other = specimen(ShardSettings { directory: 0xbad, ..settings.clone() }, 1_000_017);
    let (end, _) = try_it("a foreign segment", &[(one, other.disk.contents(one).unwrap().to_vec())], one);
    assert_eq!(end, End::Unreadable);
    // A log file of another directory; a checkpoint of another shard.
    let (_, path) = &logs[logs.len() - 2];
    let (end, _) = try_it("a foreign log", &[(path, other.disk.contents(path).unwrap().to_vec())], path);
    assert_eq!(end, End::Refused);
    let dir = settings.dir();
    let newest = paths(&rig.disk, "/ckpt-").pop().unwrap();
    let shards = ShardSettings { shards: 2, ..settings.clone() };
    let second = specimen(ShardSettings { shard: 1, ..shards }, 1_000_000);
    let all = paths(&second.disk, "/ckpt-");
    let foreign: Vec<(String, Vec<u8>)> = all
        .iter()
        .map(|path| {
            let name = path.rsplit('/').next().unwrap();
            (format!("{dir}/{name}"), second.disk.contents(path).unwrap().to_vec())
        })
        .collect();
    let foreign: Vec<(&str, Vec<u8>)> =
        foreign.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    assert!(foreign.iter().any(|(path, _)| *path == newest));
    let (end, _) = try_it("checkpoints of another shard", &foreign, &dir);
    assert_eq!(end, End::Refused);
}

#[test]
fn a_layout_with_any_bit_flipped_is_refused() {
    // I-99
    let settings = small();
    let mut rig = Rig::new(7, settings.clone());
    rig.open().unwrap();
    rig.crash(Crash::Kill);
    let layout =
        Layout { directory: settings.directory, file_bytes: settings.file_bytes, generation: 1, shards: 1 };
    put(&mut rig.disk, FILE, &layout.encode());
    assert!(rig.judge().summary.is_whole());
    let stride = env("RUNELOG_STRIDE", 37) as usize;
    for byte in (0..64).chain((64..BLOCK_BYTES).step_by(stride)).chain(BLOCK_BYTES - 8..BLOCK_BYTES) {
        named(&format!("byte {byte}"), || {
            let mut disk = rig.disk.fork();
            disk.flip_bit(FILE, byte as u64, (byte % 8) as u8);
            let judged = judge(&disk, &settings);
            let heaviest = judged.summary.heaviest();
            assert!(heaviest == Weight::Start && judged.names(FILE), "{judged:#?}");
            let io = Io::default();
            assert!(disk.block_on(&io, read_layout(&io)).unwrap().is_err(), "a start");
        });
    }
}

/// Makes the version of a header, and the checksum over it, another one.
fn of_another_version(bytes: &mut [u8], version_at: usize, crc_at: usize) {
    bytes[version_at] = 9;
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_another_version_wrote_is_not_judged_and_not_guessed() {
    // I-99; a checkpoint is passed over for the one before (I-95)
    let settings = small();
    let rig = specimen(settings.clone(), 1_000_000);
    let contents = |path: &str| rig.disk.contents(path).unwrap().to_vec();
    let (_, log) =
        rig.log_files().into_iter().rfind(|(_, path)| !blocks(&rig.disk, path).is_empty()).unwrap();
    let newest = paths(&rig.disk, "/ckpt-").pop().unwrap();
    let segment = paths(&rig.disk, ".seg").remove(0);
    let layout =
        Layout { directory: settings.directory, file_bytes: settings.file_bytes, generation: 1, shards: 1 };
    let last_block = blocks(&rig.disk, &log).last().unwrap().0 as usize;
    let table = [
        // file, its bytes, where the header, version and checksum are, whether it starts
        (FILE, layout.encode().to_vec(), 0, 8, BLOCK_BYTES - 4, false),
        (&log, contents(&log), 0, 8, 60, false),
        (&log, contents(&log), last_block, 4, 60, false),
        (&newest, contents(&newest), 0, 4, 28, true),
        (&segment, contents(&segment), 0, 8, BLOCK_BYTES - 4, true),
    ];
    for (path, mut bytes, header, version, crc, starts) in table {
        named(path, || {
            of_another_version(&mut bytes[header..], version, crc);
            let mut disk = rig.disk.fork();
            put(&mut disk, path, &bytes);
            let before: Vec<_> = disk.files();
            let judged = judge(&disk, &settings);
            assert!(judged.summary.count(Weight::Unjudged) > 0 && judged.names(path), "{judged:#?}");
            assert!(judged.findings.iter().any(|found| found.what.contains("version")), "{judged:#?}");
            assert_eq!(disk.files(), before);
            let io = Io::default();
            let opened = match path {
                FILE => disk.block_on(&io, read_layout(&io)).unwrap().map(drop),
                _ => match start(&disk, &settings) {
                    Start::Refused(error) => Err(error),
                    Start::Up { .. } => Ok(()),
                },
            };
            match opened {
                Ok(()) => assert!(starts),
                Err(RecoverError::Version(text)) => assert!(!starts && text.contains("version"), "{text}"),
                Err(error) => panic!("{error}"),
            }
        });
    }
}
