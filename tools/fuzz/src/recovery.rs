//! A whole shard that starts from files which somebody changed.

use std::collections::BTreeMap;

use runelog_engine::config::{Class, TopicConfig};
use runelog_engine::disk::sim::{Crash, SimDisk};

use crate::common::{Rec, Rig, Seen, settings};
use crate::images::{reseal_checkpoint, reseal_log, reseal_segment};
use crate::input::Input;

const TOPICS: [&str; 2] = ["a", "b"];

/// What there was before anything was changed.
struct Base {
    disk: SimDisk,
    now: i64,
    records: BTreeMap<&'static str, BTreeMap<u64, Seen>>,
    /// Files with the bytes of each that are in use, in blocks of 4 KiB.
    files: Vec<(String, usize)>,
}

thread_local! {
    static BASE: Base = base();
}

/// Two topics with sealed records, a checkpoint, deletes, and a log behind.
fn base() -> Base {
    let mut rig = Rig::open_new(11);
    let fsync = TopicConfig { class: Class::Fsync, ..TopicConfig::default() };
    for round in 0..2 {
        for name in TOPICS {
            rig.put(name, &fsync).expect("put");
            for number in 0..5 {
                let record = Rec::tagged(format!("{name} {round} {number:050}"), "tag");
                rig.append_and_wait(name, &[record]).expect("append");
            }
        }
        rig.settle().expect("no fault was asked for");
        let before = rig.shard().gauges().checkpoints;
        while round == 0 && rig.shard().gauges().checkpoints == before {
            rig.advance(301);
            rig.settle().expect("no fault was asked for");
        }
    }
    let records = TOPICS.map(|name| {
        let (_, seen) = rig.read_all(name).expect("it is whole");
        (name, seen.into_iter().map(|seen| (seen.seq, seen)).collect())
    });
    rig.settle().expect("no fault was asked for");
    rig.crash(Crash::Kill);
    let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last / 4096 + 1);
    let files = rig.disk.files().into_iter().map(|(path, _)| {
        let blocks = used(rig.disk.contents(&path).expect("listed"));
        (path, blocks)
    });
    let files = files.collect();
    Base { disk: rig.disk.fork(), now: rig.now, records: records.into(), files }
}

/// `mode, changes`: of files chosen by number, in the blocks that are in use.
pub(crate) fn recovery(input: &[u8]) {
    BASE.with(|base| {
        let mut rig = Rig::new(11, settings());
        (rig.disk, rig.now) = (base.disk.fork(), base.now);
        let mut input = Input::new(input);
        let resealed = input.byte() & 1 != 0;
        let mut changed = BTreeMap::new();
        while !input.is_empty() {
            let (path, blocks) = &base.files[usize::from(input.byte()) % base.files.len()];
            let bytes = changed
                .entry(path.as_str())
                .or_insert_with(|| rig.disk.contents(path).expect("listed").to_vec());
            let what = input.byte();
            let at = usize::from(input.byte()) % blocks * 4096 + usize::from(input.u16() & 4095);
            if at >= bytes.len() {
                continue;
            }
            let end = (at + 8).min(bytes.len());
            match what % 4 {
                0 => bytes[at] ^= 1 << (input.byte() & 7),
                1 => bytes[at] = input.byte(),
                2 => bytes[at..end].copy_from_slice(&input.u64().to_le_bytes()[..end - at]),
                _ => bytes.truncate(at),
            }
        }
        for (path, mut bytes) in changed {
            match path {
                _ if !resealed => {}
                _ if path.contains("/wal-") => reseal_log(&mut bytes),
                _ if path.contains("/ckpt-") => reseal_checkpoint(&mut bytes),
                _ => reseal_segment(&mut bytes),
            }
            rewrite(&mut rig.disk, path, &bytes);
        }
        started(&mut rig, base, resealed);
    });
}

/// Makes a file say this, which is no longer than what it said.
fn rewrite(disk: &mut SimDisk, path: &str, bytes: &[u8]) {
    disk.truncate(path, bytes.len() as u64);
    let old = disk.contents(path).expect("it is there").to_vec();
    for (at, (old, new)) in old.iter().zip(bytes).enumerate().filter(|(_, (old, new))| old != new) {
        (0..8).filter(|bit| (old ^ new) >> bit & 1 == 1).for_each(|bit| disk.flip_bit(path, at as u64, bit));
    }
}

/// Starts it, reads everything, goes on, starts it again.
fn started(rig: &mut Rig, base: &Base, resealed: bool) {
    for _ in 0..2 {
        if rig.open().is_err() {
            return; // it says why
        }
        for name in TOPICS {
            let Ok((_, seen)) = rig.read_all(name) else { continue };
            for seen in seen.into_iter().filter(|seen| !resealed && seen.rec.data != b"new") {
                assert_eq!(Some(&seen), base.records[name].get(&seen.seq), "I-97: invented in {name}");
            }
        }
        let _ = rig.append_and_wait(TOPICS[0], &[Rec::new("new")]);
        rig.settle().expect("no fault was asked for");
        rig.crash(Crash::Kill);
    }
}
