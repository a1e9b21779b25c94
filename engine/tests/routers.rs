//! Routers: the registry, places after crashes, copies and what a source lost. What random histories show
//! of copies among other writes is in `model.rs` and `crash_points.rs`; here is what they cannot.

mod common;

use common::oracle::World;
use common::{Ask, Bring, Outcome, Rec, Rig, Stop, named, settings};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::error::EngineError;
use runelog_engine::ids::{RouterId, TopicId};
use runelog_engine::limits::{FILTER_BYTES_MAX, POSITION_UNLOGGED_MAX, RECORD_BYTES_MAX};
use runelog_engine::router::RouterDef;
use runelog_engine::shard::{Forwarded, ShardSettings, TagMatch};
use std::collections::{BTreeMap, BTreeSet};

fn of(class: Class) -> TopicConfig {
    TopicConfig { class, ..TopicConfig::default() }
}

fn made(seed: u64, topics: &[(&str, TopicConfig)]) -> Rig {
    let mut rig = Rig::open_new(seed);
    for (name, config) in topics {
        let (_, wait) = rig.put(name, config).unwrap();
        rig.wait(wait).unwrap();
    }
    rig
}

fn recs(texts: &[&str]) -> Vec<Rec> {
    texts.iter().map(|text| Rec::new(*text)).collect()
}

fn open_link(rig: &mut Rig, dest: &str, start: u64) -> RouterId {
    let id = rig.id_of(dest);
    let router = rig.make_router(dest, id, start).unwrap();
    rig.shard().open_link(router, id, start).unwrap();
    router
}

/// Brings records that stand one behind the other in the source.
fn bring(rig: &mut Rig, dest: &str, router: RouterId, vacant: u64, texts: &[&str]) -> Outcome<Forwarded> {
    let (dest, from) = (rig.id_of(dest), rig.shard().link(router).expect("a link").position);
    let through: Vec<u64> = (1..=texts.len() as u64).map(|index| from + vacant + index).collect();
    let end = from + vacant + texts.len() as u64;
    let bring = Bring { router, dest, from, through, end, vacant, hops: 1 };
    rig.forward(&bring, &recs(texts))
}

fn texts(rig: &mut Rig, topic: &str) -> Vec<(u64, String)> {
    let (_, seen) = rig.read_all(topic).unwrap();
    seen.into_iter().map(|seen| (seen.seq, String::from_utf8(seen.rec.data).unwrap())).collect()
}

fn def(id: RouterId, number: u64) -> RouterDef {
    RouterDef {
        id,
        name: format!("r{number}").into(),
        source: "a".into(),
        source_id: TopicId(1),
        dest: "b".into(),
        dest_id: TopicId(2),
        preserve_node: true,
        preserve_tag: number.is_multiple_of(2),
        filter: (number.is_multiple_of(3)).then(|| TagMatch::Prefix(vec![b'x'; 300])),
        allow_cycle: false,
        exactly_once: number.is_multiple_of(5),
        start: number,
    }
}

type Registry = BTreeMap<RouterId, RouterDef>;

/// Puts, replaces and drops routers while checkpoints are written; `states` after each operation with the
/// block that acknowledges it.
fn registry_history(rig: &mut Rig, states: &mut Vec<(u64, Registry)>) -> Outcome<()> {
    let mut registry = Registry::new();
    let mut ids = Vec::new();
    for round in 0..12u64 {
        let id = rig.shard().next_router_id();
        assert!(!ids.contains(&id), "I-70");
        ids.push(id);
        registry.insert(id, def(id, round));
        let wait = rig.repeat(|shard, _| shard.put_router(def(id, round)))?;
        states.push((wait.0, registry.clone()));
        if round % 3 == 1 {
            // replaced in place.
            registry.insert(ids[0], def(ids[0], 100 + round));
            let changed = def(ids[0], 100 + round);
            let wait = rig.repeat(|shard, _| shard.put_router(changed.clone()))?;
            states.push((wait.0, registry.clone()));
        }
        if round % 4 == 3 {
            let gone = [ids[round as usize - 1], RouterId(u64::MAX), ids[round as usize - 3]];
            gone.iter().for_each(|id| drop(registry.remove(id)));
            let wait = rig.repeat(|shard, _| shard.drop_routers(&gone))?;
            states.push((wait.0, registry.clone()));
        }
        if round % 2 == 0 {
            rig.step(true)?;
        } else {
            // Time for a seal, a checkpoint, and now and then a merged one.
            rig.append("t", &[Rec::new("x")], Ask { create: Some(true), ..Ask::default() })?;
            rig.settle()?;
            rig.advance(310);
            rig.settle()?;
            rig.settle()?;
        }
    }
    rig.stop()
}

#[test]
fn the_registry_is_what_was_acknowledged_after_any_crash() {
    // I-50, I-90, I-95, I-96
    for kind in [Crash::Kill, Crash::PowerLoss] {
        for cut in (1..3000).step_by(3) {
            let is_over = named(&format!("cut after {cut}, {kind:?}"), || {
                let mut rig = Rig::open_new(cut);
                let mut states = vec![(0, Registry::new())];
                rig.disk.cut_after(cut);
                let ended = registry_history(&mut rig, &mut states);
                assert!(matches!(ended, Ok(()) | Err(Stop::Cut)), "{ended:?}");
                let committed = rig.committed();
                let least = states.iter().rposition(|(wait, _)| *wait <= committed).unwrap();
                rig.crash(kind);
                let mut before = None;
                for _ in 0..3 {
                    rig.open().unwrap();
                    let found: Registry = rig.shard().routers().map(|def| (def.id, def.clone())).collect();
                    let at = states.iter().rposition(|(_, state)| *state == found);
                    assert!(at.is_some_and(|at| at >= least), "I-50: {least} was sure, found {at:?}");
                    assert!(before.is_none_or(|before| before == found), "I-90");
                    let fresh = rig.shard().next_router_id();
                    assert!(found.keys().all(|id| *id != fresh), "I-70: ids never come back");
                    // A checkpoint of this run must say what the log had gone.
                    rig.append("t", &[Rec::new("x")], Ask { create: Some(true), ..Ask::default() }).unwrap();
                    rig.settle().unwrap();
                    rig.advance(310);
                    rig.settle().unwrap();
                    before = Some(found);
                    rig.crash(kind);
                }
                ended.is_ok()
            });
            if is_over {
                assert!(cut > 100, "long enough to mean something: {cut}");
                break;
            }
        }
    }
}

#[test]
fn one_write_is_one_frame_whatever_the_number_of_routers() {
    // H-8, I-61
    for class in [Class::Fsync, Class::Memory, Class::Disk] {
        for routers in [1, 20] {
            let mut topics = vec![("source".to_owned(), of(class))];
            topics.extend((0..routers).map(|index| (format!("dest{index}"), of(class))));
            let named: Vec<(&str, TopicConfig)> =
                topics.iter().map(|(name, config)| (name.as_str(), config.clone())).collect();
            let mut rig = made(1, &named);
            let ids: Vec<_> =
                (0..routers).map(|index| open_link(&mut rig, &format!("dest{index}"), 0)).collect();
            let before = rig.shard().log.stats.clone();
            rig.append_and_wait("source", &recs(&["1", "2"])).unwrap();
            for (index, router) in ids.iter().enumerate() {
                let done = bring(&mut rig, &format!("dest{index}"), *router, 1, &["1", "2"]).unwrap();
                rig.wait(done.wait.0).unwrap();
                assert_eq!(texts(&mut rig, &format!("dest{index}")).len(), 2);
            }
            let after = rig.shard().log.stats.clone();
            assert_eq!(after.frames - before.frames, 1, "{class:?}, {routers} routers");
            assert_eq!(after.copies - before.copies, routers as u64);
            assert!(after.marks - before.marks >= 2 * routers as u64, "places and trims");
        }
    }
}

#[test]
fn a_wrong_forward_is_refused_and_changes_nothing() {
    // I-36, I-106
    let mut rig = Rig::new(1, settings());
    rig.quota_bytes = 1 << 20;
    rig.open().unwrap();
    rig.put("dest", &of(Class::Fsync)).unwrap();
    rig.put("other", &of(Class::Fsync)).unwrap();
    let router = open_link(&mut rig, "dest", 10);
    rig.settle().unwrap();
    let (dest, other) = (rig.id_of("dest"), rig.id_of("other"));
    let good = Bring { router, dest, from: 10, through: vec![11, 12], end: 12, vacant: 0, hops: 1 };
    let two = recs(&["a", "b"]);
    let invalid = |error: &EngineError| matches!(error, EngineError::RouterInvalid(_));
    type Expected<'a> = &'a dyn Fn(&EngineError) -> bool;
    let missing: Expected<'_> = &|error| *error == EngineError::LinkMissing;
    let gone: Expected<'_> = &|error| *error == EngineError::TopicMissing;
    let moved: Expected<'_> = &|error| *error == EngineError::LinkMoved { position: 10 };
    let huge = vec![Rec::new(vec![b'1'; RECORD_BYTES_MAX + 1]), Rec::new("b")];
    let wide = vec![Rec { node: Some(vec![b'n'; 129]), ..Rec::new("a") }, Rec::new("b")];
    let table: Vec<(&str, Bring, &[Rec], Expected<'_>)> = vec![
        ("no link", Bring { router: RouterId(9), ..good.clone() }, &two, missing),
        ("another dest", Bring { dest: other, ..good.clone() }, &two, gone),
        ("no such dest", Bring { dest: TopicId(9), ..good.clone() }, &two, gone),
        ("it stands above", Bring { from: 9, ..good.clone() }, &two, moved),
        ("it stands below", Bring { from: 11, ..good.clone() }, &two, moved),
        ("too few positions", Bring { through: vec![11], ..good.clone() }, &two, &invalid),
        ("too many", Bring { through: vec![11, 12, 13], end: 13, ..good.clone() }, &two, &invalid),
        ("not ascending", Bring { through: vec![12, 12], ..good.clone() }, &two, &invalid),
        ("below its place", Bring { through: vec![10, 12], ..good.clone() }, &two, &invalid),
        ("the end before the last", Bring { end: 11, ..good.clone() }, &two, &invalid),
        ("more vacancies than seqs", Bring { vacant: u64::MAX - 1, ..good.clone() }, &two, &invalid),
        ("a record too large", good.clone(), &huge, &invalid),
        ("a node too long", good.clone(), &wide, &invalid),
    ];
    let before = (rig.shard().link(router), rig.quota.bytes(), rig.shard().log.end());
    for (what, bring, records, expected) in table {
        let error = rig.forward(&bring, records).expect_err(what).refusal();
        assert!(expected(&error), "{what}: {error:?}");
        assert_eq!((rig.shard().link(router), rig.quota.bytes(), rig.shard().log.end()), before, "{what}");
    }
    assert_eq!(rig.state("dest").unwrap().head, 0);
    let long = RouterDef { filter: Some(TagMatch::Eq(vec![b'x'; FILTER_BYTES_MAX + 1])), ..def(router, 1) };
    let refused = rig.repeat(|shard, _| shard.put_router(long.clone())).expect_err("too long").refusal();
    assert!(invalid(&refused));
    let at = rig.repeat(|shard, _| shard.mark_position(router, 9, 12)).expect_err("elsewhere").refusal();
    assert_eq!(at, EngineError::LinkMoved { position: 10 });
    // And what is right is taken.
    let done = rig.forward(&good, &two).unwrap();
    assert_eq!((done.taken, done.position, done.forwarded_total, done.full), (2, 12, 2, false));
    // A dest that goes takes its links along (I-70), on a restart too.
    rig.drop_topic("dest", false).unwrap();
    assert!(rig.shard().link(router).is_none());
    rig.put("dest", &of(Class::Fsync)).unwrap();
    assert_eq!(rig.forward(&good, &two).expect_err("gone").refusal(), EngineError::LinkMissing);
    rig.settle().unwrap();
    rig.crash(Crash::PowerLoss);
    rig.open().unwrap();
    assert!(rig.shard().link(router).is_none());
}

#[test]
fn a_full_dest_or_quota_takes_what_fits_and_the_rest_when_there_is_room() {
    // R-35, I-34, I-69, I-105
    let rejecting = |cap_records, cap_bytes| TopicConfig {
        cap_records,
        cap_bytes,
        discard: Discard::Reject,
        ..of(Class::Fsync)
    };
    let table = [
        ("records", rejecting(3, 0), 0, Class::Fsync),
        ("bytes", rejecting(0, 7), 0, Class::Fsync),
        ("quota", of(Class::Disk), 7, Class::Disk),
        ("quota, in memory only", of(Class::Ephemeral), 7, Class::Ephemeral),
    ];
    for (what, config, quota_bytes, class) in table {
        let mut rig = Rig::new(1, settings());
        rig.quota_bytes = quota_bytes;
        rig.open().unwrap();
        rig.put("dest", &TopicConfig { class, ..config }).unwrap();
        let router = open_link(&mut rig, "dest", 0);
        rig.append_and_wait("dest", &recs(&["d1"])).unwrap();
        let first = bring(&mut rig, "dest", router, 4, &["s1", "s2", "s3", "s4"]).unwrap();
        // Two copies of two bytes beside two bytes; the vacancies come with the first of them (I-33).
        assert_eq!((first.taken, first.full, first.position), (2, true, 6), "{what}");
        assert_eq!(first.forwarded_total, 6, "R-36, R-37: {what}");
        rig.wait(first.wait.0).unwrap();
        let end = rig.shard().log.end();
        for _ in 0..3 {
            let stalled = bring(&mut rig, "dest", router, 2, &["s3", "s4"]).unwrap();
            assert_eq!((stalled.taken, stalled.full, stalled.position), (0, true, 6), "{what}");
            assert_eq!(stalled.forwarded_total, 6, "{what}");
        }
        assert_eq!(rig.shard().log.end(), end, "a stalled router writes nothing: {what}");
        assert_eq!(rig.state("dest").unwrap().head, 7, "{what}");
        rig.settle().unwrap();
        rig.delete("dest", Some(7), None).unwrap();
        rig.settle().unwrap();
        let rest = bring(&mut rig, "dest", router, 0, &["s3", "s4"]).unwrap();
        assert_eq!((rest.taken, rest.full, rest.position), (2, false, 8), "{what}");
        rig.settle().unwrap();
        let expected = [(7, "s2".to_owned()), (8, "s3".to_owned()), (9, "s4".to_owned())];
        assert_eq!(texts(&mut rig, "dest"), expected, "{what}");
        if quota_bytes > 0 {
            assert_eq!(rig.quota.bytes(), 6, "I-105: {what}");
        }
    }
}

#[test]
fn what_a_source_lost_is_one_gap_and_hides_nothing() {
    // I-68, R-36, I-26: a small source, a full dest that is drained later.
    for class in [Class::Disk, Class::Fsync] {
        let source = TopicConfig { cap_records: 4, ..of(class) };
        let dest = TopicConfig { cap_records: 3, discard: Discard::Reject, ..of(class) };
        let mut rig = made(1, &[("source", source), ("dest", dest)]);
        let router = open_link(&mut rig, "dest", 0);
        rig.append_and_wait("dest", &recs(&["direct"])).unwrap();
        for number in 1..=3 {
            rig.append_and_wait("source", &recs(&[&format!("s{number}")])).unwrap();
        }
        assert_eq!(pump(&mut rig, "source", "dest", router).unwrap(), (2, true));
        rig.settle().unwrap();
        // A crash pads the source: vacant seqs that nobody lost (I-33).
        rig.crash(Crash::Kill);
        rig.open().unwrap();
        let source = rig.shard().find(b"source").0.unwrap();
        let recovered = rig.shard().recovered_head(source).unwrap();
        assert!(class == Class::Fsync || recovered > 3, "padded: {recovered}");
        rig.shard().rewind_link(router, recovered).unwrap();
        for number in 4..=12 {
            rig.append_and_wait("source", &recs(&[&format!("s{number}")])).unwrap();
        }
        assert_eq!(pump(&mut rig, "source", "dest", router).unwrap(), (0, true));
        rig.delete("dest", Some(3), None).unwrap();
        rig.settle().unwrap();
        let head = rig.state("dest").unwrap().head;
        assert_eq!(pump(&mut rig, "source", "dest", router).unwrap(), (2, true));
        rig.settle().unwrap();
        // Six records were lost: 3 and 4 to 8.
        for restart in [None, Some(Crash::Kill), Some(Crash::PowerLoss)] {
            if let Some(kind) = restart {
                rig.crash(kind);
                rig.open().unwrap();
            }
            let (first, seen, gaps) = rig.read_gaps("dest").unwrap();
            let seen: Vec<_> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.rec.data)).collect();
            assert_eq!(seen, ["s2", "s9", "s10"], "{class:?}");
            assert_eq!(gaps, [(head + 1, head + 6)], "{class:?}");
            assert!(first.tombstone.is_none(), "a gap is no floor: {first:?}");
            assert_eq!(rig.shard().link(router).unwrap().forwarded_total, 10, "R-36");
        }
    }
}

/// Reads what the router has not seen and brings what matches; taken and full.
fn pump(rig: &mut Rig, source: &str, dest: &str, router: RouterId) -> Outcome<(u32, bool)> {
    let from = rig.shard().link(router).expect("a link").position;
    let (read, seen) = rig.pump(source, from, 100)?;
    let skipped = |rec: &Rec| rec.tag.as_deref() == Some(b"skip");
    let records: Vec<Rec> =
        seen.iter().map(|(seen, _)| seen.rec.clone()).filter(|rec| !skipped(rec)).collect();
    let through: Vec<u64> =
        seen.iter().filter(|(seen, _)| !skipped(&seen.rec)).map(|(seen, _)| seen.seq).collect();
    let dest = rig.id_of(dest);
    let bring = Bring { router, dest, from, through, end: read.next, vacant: read.lost, hops: 1 };
    rig.forward(&bring, &records).map(|done| (done.taken, done.full))
}

#[test]
fn a_place_above_what_the_source_recovered_moves_back_for_good() {
    // I-66. What a power loss takes depends on the seed.
    let lost = (0..16).filter(|seed| named(&format!("seed {seed}"), || loses_a_tail_twice(*seed))).count();
    assert!(lost > 3, "{lost} of 16 histories show something");
}

/// Two shards: the source's loses a tail that was copied, and then both crash again.
fn loses_a_tail_twice(seed: u64) -> bool {
    let mut source = made(seed, &[("s", of(Class::Memory))]);
    let mut dest = made(seed + 100, &[("d", of(Class::Fsync))]);
    let router = open_link(&mut dest, "d", 0);
    source.append("s", &recs(&["old1"]), Ask::default()).unwrap();
    source.settle().unwrap();
    source.advance(1000);
    source.settle().unwrap(); // syncs what is there
    source.append_and_wait("s", &recs(&["old2", "old3"])).unwrap();
    let copied = bring(&mut dest, "d", router, 0, &["old1", "old2", "old3"]).unwrap();
    dest.wait(copied.wait.0).unwrap();
    let heads = |rig: &mut Rig| {
        let topic = rig.shard().find(b"s").0.unwrap();
        (rig.shard().recovered_head(topic).unwrap(), rig.state("s").unwrap().head)
    };
    assert_eq!(heads(&mut source), (u64::MAX, 3), "made since the start: it lost nothing");
    source.crash(Crash::PowerLoss);
    source.open().unwrap();
    let (recovered, head) = heads(&mut source);
    assert_eq!(recovered, head);
    if recovered == 3 {
        return false;
    }
    dest.crash(Crash::Kill);
    dest.open().unwrap();
    let doubtful = dest.shard().link(router).unwrap();
    assert_eq!((doubtful.position, doubtful.epoch, doubtful.is_checked), (3, 0, false));
    let rewound = dest.repeat(|shard, _| shard.rewind_link(router, recovered)).unwrap();
    assert_eq!((rewound.position, rewound.epoch, rewound.is_checked), (recovered, 1, true));
    assert_eq!(rewound.forwarded_total, 3);
    dest.wait(rewound.wait.0).unwrap();
    // The source grows past the old place, durably; nothing was forwarded yet.
    source.put("s", &of(Class::Fsync)).unwrap();
    let new: Vec<String> = (0..8).map(|number| format!("new{number}")).collect();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    source.append_and_wait("s", &recs(&new)).unwrap();
    for rig in [&mut source, &mut dest] {
        rig.crash(Crash::PowerLoss);
        rig.open().unwrap();
    }
    let (recovered, _) = heads(&mut source);
    let kept = dest.shard().rewind_link(router, recovered).unwrap();
    assert_eq!((kept.position, kept.epoch), (rewound.position, 1), "it moves back once");
    let (read, seen) = source.pump("s", kept.position, 100).unwrap();
    assert_eq!((read.next, read.lost), (recovered, 0));
    let seen: Vec<_> = seen.iter().map(|(seen, _)| String::from_utf8_lossy(&seen.rec.data)).collect();
    assert_eq!(seen, new, "every record appended after the crash has its turn");
    true
}

#[test]
fn a_place_that_moves_without_copies_is_logged_now_and_then() {
    // what a crash sets back is looked at again, and it is never much.
    for class in [Class::Disk, Class::Ephemeral] {
        let mut rig = made(1, &[("d", of(class))]);
        let router = open_link(&mut rig, "d", 0);
        let step = 100;
        let marks = rig.shard().log.stats.marks;
        for number in 0..50 {
            let at = rig.repeat(|shard, _| shard.mark_position(router, number * step, (number + 1) * step));
            assert_eq!(at.unwrap().position, (number + 1) * step);
        }
        let marks = rig.shard().log.stats.marks - marks;
        assert!((1..=50 * step / POSITION_UNLOGGED_MAX).contains(&marks), "{marks} marks");
        rig.settle().unwrap();
        rig.crash(Crash::Kill);
        rig.open().unwrap();
        let position = rig.shard().link(router).unwrap().position;
        assert!((50 * step - POSITION_UNLOGGED_MAX..=50 * step).contains(&position), "{position}");
        assert_eq!(rig.shard().open_link(router, TopicId(0), 0).unwrap_err_text(), "TopicMissing");
        // A clean stop knows exactly (I-59).
        rig.repeat(|shard, _| shard.mark_position(router, position, 6000)).unwrap();
        rig.stop().unwrap();
        rig.crash(Crash::PowerLoss);
        rig.open().unwrap();
        assert_eq!(rig.shard().link(router).unwrap().position, 6000);
    }
}

trait ErrText {
    fn unwrap_err_text(self) -> String;
}

impl<T: std::fmt::Debug> ErrText for Result<T, runelog_engine::error::No> {
    fn unwrap_err_text(self) -> String {
        match self.expect_err("refused") {
            runelog_engine::error::No::Refused(error, _) => format!("{error:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_router_reads_live_records_with_their_hops_and_consumes_nothing() {
    // D-9
    let mut rig = made(1, &[("s", TopicConfig { ttl_ms: 500, ..of(Class::Fsync) })]);
    let router = open_link(&mut rig, "s", 0);
    rig.append_and_wait("s", &recs(&["1", "2"])).unwrap();
    rig.advance(400);
    rig.append_and_wait("s", &recs(&["3", "4"])).unwrap();
    let dest = rig.id_of("s");
    let copies = Bring { router, dest, from: 0, through: vec![1, 2], end: 2, vacant: 2, hops: 7 };
    rig.forward(&copies, &recs(&["c1", "c2"])).unwrap();
    rig.settle().unwrap();
    rig.delete("s", None, Some(TagMatch::Eq(b"none".to_vec()))).unwrap();
    let now = rig.now;
    let read_ts = |rig: &mut Rig| {
        let (view, _) = rig.shard().state(b"s", false, now).unwrap();
        (view.last_read_ts, view.last_consumed_ts)
    };
    let unread = read_ts(&mut rig);
    let all = |rig: &mut Rig, from, records| {
        let (read, seen) = rig.pump("s", from, records).unwrap();
        let seen: Vec<_> = seen.iter().map(|(seen, hops)| (seen.seq, *hops)).collect();
        (read.next, read.head, read.lost, seen)
    };
    let six = vec![(1, 0), (2, 0), (3, 0), (4, 0), (7, 7), (8, 7)];
    assert_eq!(all(&mut rig, 0, 100), (8, 8, 0, six.clone()), "a trim is nothing to a router");
    assert_eq!(all(&mut rig, 1, 2), (3, 8, 0, vec![(2, 0), (3, 0)]));
    assert_eq!(all(&mut rig, 8, 9), (8, 8, 0, vec![]));
    assert_eq!(all(&mut rig, 11, 9), (11, 8, 0, vec![]), "above the head: it stays there");
    assert_eq!(read_ts(&mut rig), unread);
    // Hops survive a seal and a start.
    rig.advance(90);
    rig.settle().unwrap();
    rig.advance(5);
    rig.settle().unwrap();
    rig.crash(Crash::Kill);
    rig.open().unwrap();
    assert_eq!(all(&mut rig, 0, 100).3, six);
    // Lost are records, not vacancies: 1 and 2 by age.
    rig.advance(10);
    assert_eq!(all(&mut rig, 0, 100), (8, 8, 2, six[2..].to_vec()));
    assert_eq!(all(&mut rig, 1, 100).2, 1);
    rig.settle().unwrap();
    rig.delete("s", Some(8), None).unwrap();
    rig.settle().unwrap();
    assert_eq!(all(&mut rig, 2, 100), (8, 8, 0, vec![(8, 7)]));
    rig.advance(1000);
    assert_eq!(all(&mut rig, 0, 100), (8, 8, 6, vec![]), "the trim within was never a record");
    let gone = runelog_engine::shard::TopicRef { slot: 0, id: TopicId(77) };
    assert_eq!(rig.shard().recovered_head(gone), None);
}

/// A source and its dest with everything that may happen to both, cut anywhere: whatever the source has
/// kept is in the dest once, or was taken out there (I-60, I-62…I-66, I-68).
#[test]
fn every_record_that_survived_in_the_source_is_copied_once_after_any_crash() {
    let classes = [(Class::Fsync, Class::Disk), (Class::Disk, Class::Fsync), (Class::Memory, Class::Fsync)];
    for (from, into) in classes {
        for kind in [Crash::Kill, Crash::PowerLoss] {
            for cut in (20..2000).step_by(17) {
                let what = format!("{from:?} into {into:?}, cut after {cut}, {kind:?}");
                if named(&what, || pipeline(from, into, kind, cut)) {
                    assert!(cut > 100, "{what}: long enough to mean something");
                    break;
                }
            }
        }
    }
}

fn pipeline(from: Class, into: Class, kind: Crash, cut: u64) -> bool {
    let mut rig = made(cut, &[("s", of(from)), ("d", of(into))]);
    let router = open_link(&mut rig, "d", 0);
    let mut serial = 0;
    let mut removed = BTreeSet::new();
    rig.disk.cut_after(cut);
    let mut ended = work(&mut rig, router, &mut serial, &mut removed);
    let is_over = ended.is_ok();
    for generation in 0..3 {
        assert!(matches!(ended, Ok(()) | Err(Stop::Cut)), "{ended:?}");
        rig.crash(kind);
        rig.open().unwrap();
        let source = rig.shard().find(b"s").0.unwrap();
        let recovered = rig.shard().recovered_head(source).unwrap();
        let link = rig.repeat(|shard, _| shard.rewind_link(router, recovered)).unwrap();
        assert!(link.position <= recovered, "I-66");
        rig.wait(link.wait.0).unwrap();
        let shown = texts(&mut rig, "d");
        while pump(&mut rig, "s", "d", router).unwrap().0 > 0 {}
        rig.settle().unwrap();
        let copies = texts(&mut rig, "d");
        assert_eq!(copies[..shown.len()], shown, "I-63: pumping moves nothing");
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        copies.iter().for_each(|(_, text)| *counts.entry(text).or_default() += 1);
        // One log holds both here, so nothing the source lost can have outlived it in the dest.
        assert!(counts.values().all(|count| *count == 1), "I-60: {counts:?}");
        let position = rig.shard().link(router).unwrap().position;
        let (_, kept) = rig.read_all("s").unwrap();
        for seen in &kept {
            let text = String::from_utf8_lossy(&seen.rec.data);
            assert!(seen.seq <= position, "nothing is pending: {} {position}", seen.seq);
            match seen.rec.tag.is_some() {
                true => assert!(!counts.contains_key(&*text), "R-34: {text}"),
                false => assert!(
                    counts.contains_key(&*text) || removed.contains(&*text),
                    "I-62: seq {} {text} is lost: {counts:?}",
                    seen.seq
                ),
            }
        }
        rig.disk.cut_after(30 + cut % 50 + 20 * generation);
        ended = work(&mut rig, router, &mut serial, &mut removed);
    }
    is_over
}

/// Writes to both, deletes in the dest, and copies; texts that a delete may have taken go to `removed`.
fn work(rig: &mut Rig, router: RouterId, serial: &mut u64, removed: &mut BTreeSet<String>) -> Outcome<()> {
    for round in 0..10u64 {
        let mut next = |tag: bool| {
            *serial += 1;
            let text = format!("{serial:05}{}", "x".repeat((*serial * 977 % 300_000) as usize % 70_000));
            Rec { tag: tag.then(|| b"skip".to_vec()), ..Rec::new(text) }
        };
        let records = [next(false), next(round % 3 == 0), next(false)];
        let direct = next(false);
        rig.append("s", &records, Ask::default())?;
        if round % 4 == 2 {
            rig.settle()?;
            rig.advance(310);
        }
        rig.step(true)?;
        pump(rig, "s", "d", router)?;
        rig.append("d", &[direct], Ask::default())?;
        if round % 3 == 1 {
            rig.settle()?;
            let (_, seen) = rig.read_all("d")?;
            let before = seen.get(seen.len() / 2).map_or(0, |seen| seen.seq);
            let gone = seen.iter().filter(|seen| seen.seq < before);
            removed.extend(gone.map(|seen| String::from_utf8_lossy(&seen.rec.data).into_owned()));
            rig.delete("d", Some(before), None)?;
        }
        rig.step(true)?;
        pump(rig, "s", "d", router)?;
    }
    rig.settle()
}

#[test]
fn a_checkpoint_says_of_places_and_gaps_only_what_is_committed() {
    // I-62, I-68, I-95: copies are on their way whenever a checkpoint is described, and a power loss takes
    // them after it is written.
    for class in [Class::Disk, Class::Memory] {
        for cut in (30..2000).step_by(3) {
            let is_over = named(&format!("{class:?}, cut after {cut}"), || {
                // One commit at a time, so that the newest copies wait longest.
                let mut rig = Rig::new(cut, ShardSettings { commits_in_flight: 1, ..settings() });
                rig.open().unwrap();
                let mut world = World::new(rig);
                world.put("d", &of(class)).unwrap();
                world.rig.settle().unwrap(); // so that no cut can take the topic (I-50)
                world.rig.disk.cut_after(cut);
                let ended = forward_without_rest(&mut world);
                world.crash_and_verify(Crash::PowerLoss).unwrap();
                world.check().unwrap();
                // And what comes next builds on it: seqs that were vacant only in a lost batch are used.
                let head = world.topics["d"].head;
                for _ in 0..9 {
                    let rec = world.rec(10);
                    world.append("d", &[rec], Ask::default()).unwrap();
                }
                world.check().unwrap();
                world.delete("d", Some(head + 1), None).unwrap();
                world.check().unwrap(); // I-20
                ended.is_ok()
            });
            if is_over {
                assert!(cut > 100, "long enough to mean something: {cut}");
                break;
            }
        }
    }
}

fn forward_without_rest(world: &mut World) -> Outcome<()> {
    for round in 0..4 {
        // A log at rest ends its chunk when that is old; what comes meanwhile goes to the next one.
        world.rig.settle()?;
        world.rig.advance(310);
        for at in 0..30 {
            for _ in 0..2 {
                let copies = [(1, world.rec(200)), (2, world.rec(100))];
                world.forward("d", [0, 2, 0, 7][(at + round) % 4], &copies, 1)?;
            }
            world.rig.step(at % 2 == 0)?;
            if at == 0 {
                world.rig.settle()?;
            }
        }
    }
    assert!(world.rig.shard().gauges().checkpoints > 1);
    world.rig.settle()
}
