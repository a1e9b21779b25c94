//! A data directory made, opened, resharded, crashed and cleared.

mod rig;

use super::*;
use crate::config::TopicConfig;
use crate::config::{Class, Discard, TopicType};
use crate::disk::sim::{Crash, SimDisk};
use rig::{Answers, FRESH, Rig, open_only};
use std::collections::{BTreeMap, BTreeSet};

const CLASSES: [Class; 4] = [Class::Ephemeral, Class::Memory, Class::Disk, Class::Fsync];

fn refusal(disk: &mut SimDisk, shards: u16) -> RecoverError {
    open_only(disk, shards).expect("not cut").expect_err("refused")
}

/// The path of every file.
fn paths(disk: &SimDisk) -> Vec<String> {
    disk.files().into_iter().map(|(path, _)| path).collect()
}

/// Puts something of everything into the directory: every class, sealed and not, deleted, evicted,
/// dropped, remembered.
fn fill(rig: &mut Rig, round: u64) {
    for class in CLASSES {
        for index in 0..3 {
            let name = format!("{class:?}-{index}");
            let cap_records = if index == 1 { 12 } else { 0 };
            let discard = Discard::Old;
            rig.put(&name, TopicConfig { class, cap_records, discard, ..TopicConfig::default() });
            rig.append(&name, 8, Some(&format!("a{round}")));
            rig.append(&name, 5, None);
        }
        rig.put(&format!("gone-{class:?}-{round}"), TopicConfig { class, ..TopicConfig::default() });
        rig.append(&format!("gone-{class:?}-{round}"), 4, None);
    }
    rig.delete("Disk-0", Some(3 + round * 10), None);
    rig.seal();
    for class in CLASSES {
        let name = format!("{class:?}-2");
        rig.delete(&name, None, Some("tag"));
        rig.append(&name, 4, Some(&format!("b{round}")));
        rig.drop_topic(&format!("gone-{class:?}-{round}"));
    }
    rig.delete("Fsync-0", Some(2 + round * 10), None);
    for shard in 0..rig.shards.len() {
        rig.settle(shard);
    }
}

/// What a plain restart shows: every class as it is after it.
fn restarted(disk: &SimDisk, like: &Rig) -> Answers {
    Rig::open(disk.fork(), like.layout.shards, like.now).answers()
}

#[test]
fn a_layout_survives_its_stored_form_and_every_flipped_bit_is_noticed() {
    let layout = Layout { directory: 9, file_bytes: 1 << 26, generation: 3, shards: 5 };
    let bytes = layout.encode();
    assert_eq!(Layout::decode(&bytes), Ok(layout));
    // Golden: a change here is a change of the format, and a new VERSION.
    let mut expected = b"RUNELAY\0\x01\0\x05\0\0\0\0\0".to_vec();
    [9u64, 1 << 26, 3].iter().for_each(|number| expected.extend_from_slice(&number.to_le_bytes()));
    assert_eq!(bytes[..40], expected);
    for bit in 0..BLOCK_BYTES * 8 {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Layout::decode(&changed).is_err(), "bit {bit}");
    }
    for wrong in [
        Layout { shards: 0, ..layout },
        Layout { shards: 257, ..layout },
        Layout { file_bytes: 4096, ..layout },
        Layout { generation: 0, ..layout },
        Layout { generation: GENERATION_MAX + 1, ..layout },
    ] {
        assert_eq!(Layout::decode(&wrong.encode()), Err(LayoutFault::Damaged), "{wrong:?}");
    }
    assert_eq!(Layout::decode(&bytes[..4095]), Err(LayoutFault::Damaged));
    assert_eq!(Layout::decode(b"dear diary"), Err(LayoutFault::NotOurs));
}

#[test]
fn a_fresh_directory_is_made_and_opened_again_as_it_was() {
    let mut disk = SimDisk::new(1);
    let (layout, report) = open_only(&mut disk, 3).unwrap().unwrap();
    assert_eq!(layout, Layout { directory: 77, file_bytes: FRESH.file_bytes, generation: 1, shards: 3 });
    assert!(report.created);
    assert_eq!(paths(&disk), ["layout"]);
    disk.crash(Crash::PowerLoss);
    let io = Io::default();
    let other = FreshLayout { directory: 5, file_bytes: 2 * FRESH.file_bytes };
    let again = disk.block_on(&io, open_layout(&io, other, 3)).unwrap().unwrap();
    assert_eq!(again, (layout, LayoutReport::default()), "its id and file size stay");
}

#[test]
fn a_cut_while_a_directory_is_made_leaves_nothing_or_all_of_it() {
    // I-96
    for kind in [Crash::Kill, Crash::PowerLoss] {
        for cut in 0.. {
            let mut disk = SimDisk::new(cut);
            disk.cut_after(cut);
            let ended = open_only(&mut disk, 4).is_some();
            disk.crash(kind);
            let (layout, report) = open_only(&mut disk, 2).unwrap().unwrap();
            assert_eq!((layout.shards, layout.directory), (2, 77), "cut {cut}");
            assert!(report.created || report.resharded_from == Some(4));
            let mut rig = Rig::open(disk, 2, 0);
            rig.collect();
            let io = Io::default();
            let dirs = rig.disk.block_on(&io, shard_dirs(&io)).unwrap().unwrap();
            assert_eq!(dirs.len(), 2, "cut {cut}: {dirs:?}");
            if ended {
                break;
            }
        }
    }
}

/// Replaces a file by other bytes.
fn overwrite(disk: &mut SimDisk, path: &str, bytes: AlignedBuf) {
    let io = Io::default();
    disk.block_on(&io, async {
        let file = io.open(path, OpenMode::Create).await.unwrap();
        let len = bytes.len();
        io.write(file, 0, bytes, len).await.unwrap();
        io.sync(file).await.unwrap();
        io.close(file).await;
    })
    .expect("not cut");
}

#[test]
fn what_is_not_understood_is_refused_and_not_touched() {
    // I-94, I-99
    let mut block = FRESH_LAYOUT.encode();
    block[8] = 7;
    let crc = crc32c::crc32c(&block[..CRC_AT]);
    block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    let mut text = AlignedBuf::zeroed(BLOCK_BYTES);
    text[..10].copy_from_slice(b"dear diary");
    let mut flipped = FRESH_LAYOUT.encode();
    flipped[30] ^= 4;
    for (bytes, words) in [(block, "of format version 7"), (text, "not a layout file"), (flipped, "damaged")]
    {
        let mut disk = SimDisk::new(1);
        open_only(&mut disk, 1).unwrap().unwrap();
        overwrite(&mut disk, FILE, bytes);
        let before = disk.files();
        assert!(refusal(&mut disk, 2).to_string().contains(words), "{words}");
        assert_eq!(disk.files(), before);
    }
}

const FRESH_LAYOUT: Layout =
    Layout { directory: 77, file_bytes: CHUNK_BYTES as u64, generation: 1, shards: 1 };

#[test]
fn a_foreign_directory_is_ours_only_if_it_holds_none_of_our_names() {
    for (path, ours) in [
        ("diary.txt", false),
        ("segments/diary.txt", false),
        ("shards/00000001-000/diary.txt", false),
        ("shards/old/wal-0000.log", false),
        ("shards/00000001-000/wal-0000.log", true),
        ("shards/00000001-000/ckpt-0000000000000001", true),
        ("segments/0001000000000001.seg", true),
    ] {
        let mut disk = SimDisk::new(1);
        let io = Io::default();
        for dir in ["segments", "shards", "shards/old", "shards/00000001-000"] {
            disk.block_on(&io, io.make_dir(dir)).unwrap().unwrap();
        }
        overwrite(&mut disk, path, AlignedBuf::zeroed(BLOCK_BYTES));
        if ours {
            let error = refusal(&mut disk, 1);
            assert!(matches!(error, RecoverError::Damage(_)) && error.to_string().contains(path), "{error}");
            assert_eq!(paths(&disk), [path]);
        } else {
            assert!(open_only(&mut disk, 1).unwrap().unwrap().1.created, "{path}");
            let mut rig = Rig::open(disk, 1, 0);
            rig.collect();
            assert!(paths(&rig.disk).contains(&path.to_owned()), "{path} is left alone");
        }
    }
}

#[test]
fn a_shard_whose_files_vanished_is_not_taken_for_an_empty_one() {
    // I-94: it would lose its topics, and then its segments to the garbage collection.
    let mut rig = Rig::open(SimDisk::new(3), 1, 0);
    fill(&mut rig, 0);
    let now = rig.now;
    let disk = rig.stop();
    let io = Io::default();
    let mut without = disk.fork();
    for path in paths(&disk).iter().filter(|path| path.starts_with("shards/")) {
        without.block_on(&io, io.remove(path)).unwrap().unwrap();
    }
    assert!(refusal(&mut without, 1).to_string().contains("the log in shards/00000001-000"));
    // After a change of the number of shards each has a checkpoint, whatever it holds.
    let disk = Rig::open(disk, 2, now).stop();
    for path in paths(&disk).iter().filter(|path| path.contains("ckpt-")) {
        let mut without = disk.fork();
        without.block_on(&io, io.remove(path)).unwrap().unwrap();
        let found = open_only(&mut without, 2).unwrap();
        let alone = !paths(&without).iter().any(|other| other.starts_with(&path[..path.len() - 16]));
        assert_eq!(found.is_err(), alone, "{path}");
    }
}

#[test]
fn a_damaged_first_checkpoint_of_a_resharded_directory_is_never_passed_over() {
    // I-95: its log does not reach back to the beginning, though nothing was ever removed from it.
    let mut rig = Rig::open(SimDisk::new(4), 1, 0);
    fill(&mut rig, 0);
    let now = rig.now;
    let mut rig = Rig::open(rig.stop(), 2, now);
    for shard in 0..2 {
        rig.settle(shard);
    }
    let mut disk = rig.crash(Crash::Kill);
    let dir = shard_dir(2, 0);
    assert!(paths(&disk).iter().any(|path| path.starts_with(&format!("{dir}/wal-"))));
    disk.flip_bit(&format!("{dir}/ckpt-0000000000000001"), 100, 3);
    let (layout, _) = open_only(&mut disk, 2).unwrap().unwrap();
    let io = Io::default();
    let quota = std::sync::Arc::default();
    let recovered =
        disk.block_on(&io, crate::shard::recover::recover(&io, layout.settings_of(0), quota, 0, |_| {}));
    assert!(matches!(recovered, Some(Err(RecoverError::Damage(_)))));
}

#[test]
fn another_number_of_shards_changes_no_answer() {
    // I-92, with I-32 (keys), I-57, I-58 (heads), I-104 (nothing is left over)
    for (seed, clean) in [(1, true), (2, false), (3, false)] {
        let mut rig = Rig::open(SimDisk::new(seed), 1, 1_000_000);
        let mut ids = std::collections::BTreeSet::new();
        for (round, shards) in [2u16, 3, 1, 5].into_iter().enumerate() {
            fill(&mut rig, round as u64);
            let (keys, now) = (rig.keys.clone(), rig.now);
            let before = rig.answers();
            ids.extend(before.values().map(|seen| seen.id));
            let like = Layout { ..rig.layout };
            let disk = match clean {
                true => rig.stop(),
                false => rig.crash(Crash::Kill),
            };
            let mut plain = Rig::open(disk.fork(), like.shards, now);
            let expected = plain.answers();
            assert_eq!(before.len(), expected.len());
            assert_eq!(before["Fsync-0"], expected["Fsync-0"], "what is synced does not even move");
            rig = Rig::open(disk, shards, now);
            assert_eq!(rig.report.resharded_from, Some(like.shards));
            assert_eq!((rig.layout.generation, rig.layout.shards), (like.generation + 1, shards));
            assert_eq!(rig.layout.directory, 77);
            let collected = rig.collect();
            assert_eq!(collected.directories, u64::from(like.shards));
            assert_eq!((collected.missing, collected.notes), (vec![], vec![]));
            assert!(paths(&rig.disk).iter().all(|path| !path.starts_with("shards/")
                || path.starts_with(&format!("shards/{:08x}-", rig.layout.generation))));
            assert_eq!(rig.answers(), expected, "seed {seed}, {} to {shards}", like.shards);
            rig.keys = keys.into_iter().filter(|((name, _), _)| !name.starts_with("Ephemeral")).collect();
            rig.check_keys();
            let new = format!("new-{round}");
            rig.append(&new, 1, None);
            let home = rig.home(&new);
            let found = rig.shards[home].find(new.as_bytes()).0.unwrap();
            assert!(ids.insert(found.id), "an id of its own");
        }
    }
}

#[test]
fn a_cut_anywhere_in_a_change_of_the_number_of_shards_changes_no_answer() {
    // I-92, I-96: whatever is left, and however many shards the next start wants.
    let mut rig = Rig::open(SimDisk::new(5), 3, 1_000_000);
    fill(&mut rig, 0);
    let (keys, now) = (rig.keys.clone(), rig.now);
    let keys: std::collections::BTreeMap<_, _> =
        keys.into_iter().filter(|((name, _), _)| !name.starts_with("Ephemeral")).collect();
    let like = Rig { shards: Vec::new(), ..Rig::open(rig.disk.fork(), 3, now) };
    let disk = rig.crash(Crash::Kill);
    let expected = restarted(&disk, &like);
    let segments = |disk: &SimDisk| paths(disk).iter().filter(|path| path.starts_with("segments/")).count();
    assert!(expected["Disk-1"].floors[0] > 0 && expected["Memory-2"].records.len() > 10);
    assert!(segments(&disk) > 0, "some of it is sealed");
    let mut whole = disk.fork();
    let before = whole.completed();
    open_only(&mut whole, 2).unwrap().unwrap();
    assert!(segments(&whole) > segments(&disk), "some of it was not");
    let points = whole.completed() - before;
    assert!(points > 50, "{points}");
    for cut in 0..=points {
        for kind in [Crash::Kill, Crash::PowerLoss] {
            let mut disk = disk.fork();
            disk.cut_after(cut);
            assert_eq!(open_only(&mut disk, 2).is_some(), cut == points);
            disk.crash(kind);
            let mut again = disk.fork();
            let (layout, _) = open_only(&mut again, 3).unwrap().unwrap();
            let later = |path: &&String| {
                let made = path.contains("/00000002") || path.contains("/0002");
                made && !path.ends_with(ASIDE_SUFFIX)
            };
            // Undone at once, or done.
            let left = paths(&again).iter().find(later).cloned();
            assert_eq!(left.is_none(), layout.generation == 1, "cut {cut}, {kind:?}: {left:?}");
            let shards = [3, 2, 4][(cut as usize + kind as usize) % 3];
            let mut rig = Rig::open(disk, shards, now);
            let collected = rig.collect();
            assert_eq!((collected.missing, collected.notes), (vec![], vec![]));
            assert!(rig.answers() == expected, "cut {cut}, {kind:?}, {shards} shards");
            rig.keys.clone_from(&keys);
            rig.check_keys();
        }
    }
}

#[test]
fn only_what_no_shard_needs_is_collected() {
    // I-104
    let mut rig = Rig::open(SimDisk::new(6), 2, 0);
    fill(&mut rig, 0);
    let now = rig.now;
    let mut disk = rig.stop();
    let expected = Rig::open(disk.fork(), 2, now).answers();
    let needed = paths(&disk);
    let io = Io::default();
    for dir in ["shards/00000000-000", "shards/00000001-007", "shards/mine"] {
        disk.block_on(&io, io.make_dir(dir)).unwrap().unwrap();
    }
    let garbage = [
        "segments/0001000000ffffff.seg",
        "segments/0001000000fffffe.seg.new",
        "shards/00000001-007/wal-0000.log",
    ];
    let foreign = ["segments/mine.seg", "shards/mine/wal-0000.log", "mine"];
    for path in garbage.iter().chain(&foreign) {
        overwrite(&mut disk, path, AlignedBuf::zeroed(BLOCK_BYTES));
    }
    let mut rig = Rig::open(disk, 2, now);
    let collected = rig.collect();
    assert_eq!((collected.segments, collected.bytes, collected.directories), (2, 8192, 2));
    let mut left: Vec<String> = needed.into_iter().chain(foreign.map(str::to_owned)).collect();
    left.sort();
    assert_eq!(paths(&rig.disk), left);
    assert_eq!(rig.answers(), expected);
    // A segment that is gone is told, for reads of it will fail (I-98).
    let lost =
        *rig.shards.iter().flat_map(|shard| shard.segments_in_use()).collect::<Vec<_>>().first().unwrap();
    rig.disk.block_on(&io, io.remove(&segment::path(lost))).unwrap().unwrap();
    assert_eq!(rig.collect().missing, [lost]);
}

#[test]
fn leases_move_with_their_queues_to_any_number_of_shards() {
    // I-85, I-86, I-92: the holder keeps its job, nobody else gets it, and no token comes twice.
    for kind in [None, Some(Crash::Kill)] {
        let mut rig = Rig::open(SimDisk::new(6), 2, 0);
        let queues = ["Disk-q", "Disk-r", "Disk-s"];
        let config = TopicConfig { kind: TopicType::Queue, leases_durable: true, ..TopicConfig::default() };
        let mut tokens = BTreeSet::new();
        let mut held = BTreeMap::new();
        for queue in queues {
            rig.put(queue, config.clone());
            rig.append(queue, 8, None);
            held.insert(queue, rig.claim(queue, "w", 2, 80_000_000));
            rig.seal();
            // Some in checkpoints, some in the log only.
            held.get_mut(queue).unwrap().extend(rig.claim(queue, "w", 1, 80_000_000));
        }
        tokens.extend(held.values().flatten().map(|(_, token)| *token));
        let mut disk = match kind {
            None => rig.stop(),
            Some(kind) => rig.crash(kind),
        };
        for shards in [1, 3, 2, 4] {
            let mut rig = Rig::open(disk, shards, 1_000_000);
            for queue in queues {
                let held = held.get_mut(queue).unwrap();
                let others = rig.claim(queue, "other", 1, 100);
                assert!(others.iter().all(|(seq, _)| held.iter().all(|(other, _)| seq != other)), "I-85");
                assert!(others.iter().all(|(_, token)| tokens.insert(*token)), "I-86: {shards} shards");
                if let Some((seq, token)) = held.pop() {
                    assert_eq!(rig.ack(queue, "w", seq, token), 1, "I-85: {queue}, {shards} shards");
                }
            }
            disk = rig.stop();
        }
    }
}

#[test]
fn routers_and_their_places_move_with_their_topics_to_any_number_of_shards() {
    // I-92, I-59: the registry to the first shard, a place to where the copies are.
    for kind in [None, Some(Crash::Kill)] {
        let mut rig = Rig::open(SimDisk::new(5), 3, 0);
        fill(&mut rig, 0);
        for dest in ["Disk-0", "Fsync-1", "Memory-2", "Disk-2"] {
            rig.route(dest, 4, 3);
            rig.append(dest, 2, None);
        }
        let gone = rig.route("Fsync-2", 2, 2);
        rig.seal();
        // Some of it in checkpoints, some in the log only.
        rig.route("Disk-0", 1, 2);
        rig.route("Fsync-1", 0, 1);
        let home = rig.home("Fsync-2");
        rig.shards[home].close_link(gone);
        rig.shards[0].drop_routers(&[gone]).unwrap();
        (0..3).for_each(|shard| rig.settle(shard));
        let (routers, links) = rig.routers();
        assert_eq!((routers.len(), links.len()), (4, 4));
        let mut disk = match kind {
            None => rig.stop(),
            Some(kind) => rig.crash(kind),
        };
        let now = 1_000_000;
        let answers = Rig::open(disk.fork(), 3, now).answers();
        for shards in [1, 5, 2, 3] {
            let mut rig = Rig::open(disk, shards, now);
            assert_eq!(rig.routers(), (routers.clone(), links.clone()), "{kind:?}, {shards} shards");
            assert_eq!(rig.answers(), answers, "{kind:?}, {shards} shards");
            let fresh = rig.shards[0].next_router_id();
            assert!(routers.iter().all(|def| def.id != fresh), "an id never comes back");
            disk = rig.stop();
        }
    }
}
