//! Histories on a full disk: what is refused, what goes on, and what is so again when there is room (PR-5).

mod common;

use common::{Ask, Rec, Rig, Stop, lay_out, settings};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::error::{EngineError, No};
use runelog_engine::event::Batch;
use runelog_engine::shard::AppendRequest;

fn of(class: Class) -> TopicConfig {
    TopicConfig { class, ..TopicConfig::default() }
}

#[test]
fn a_write_before_the_first_log_file_is_refused_if_none_can_be_made() {
    // PR-5: what nobody can promise is refused, also between a start and its first log file.
    let mut rig = Rig::open_new(8);
    rig.disk.full_after_bytes(0);
    for _ in 0..3 {
        let put = rig.put("t", &of(Class::Fsync)).and_then(|(_, block)| rig.wait(block));
        assert!(matches!(put, Err(Stop::Refused(EngineError::NoLogFile(_)))), "{put:?}");
        assert!(rig.shard().find(b"t").0.is_none(), "nothing was taken");
    }
    rig.disk.lift_full();
    rig.advance(1001);
    rig.settle().unwrap();
    rig.put("t", &of(Class::Fsync)).unwrap();
    assert_eq!(rig.append_and_wait("t", &[Rec::new("1")]).unwrap().first_seq, 1);
}

/// Topics with a record each that is over by age in 100 ms and was written, then one that is not, after a start on
/// a disk so full that not even a first log file can be made.
fn over_by_age_on_a_full_disk(seed: u64, topics: &[(&str, TopicConfig)]) -> Rig {
    let mut rig = Rig::open_new(seed);
    rig.disk.full_after_bytes(settings().file_bytes * 3 / 2); // the first log file, and no other
    for (name, config) in topics {
        let put = rig.put(name, &TopicConfig { class: Class::Fsync, ttl_ms: 100, ..config.clone() }).unwrap();
        rig.wait(put.1).unwrap();
        rig.append_and_wait(name, &[Rec::new("1")]).unwrap();
    }
    rig.advance(100);
    for (name, config) in topics {
        rig.append_and_wait(name, &[Rec::new("2")]).unwrap();
        let put = rig.put(name, &TopicConfig { ttl_ms: 100, ..config.clone() }).unwrap();
        rig.wait(put.1).unwrap();
    }
    rig.crash(Crash::Kill);
    rig.open().unwrap();
    rig.advance(1);
    rig
}

/// Whether the log holds what it has no file for.
fn is_unplaced(rig: &mut Rig) -> bool {
    let log = &rig.shard().log;
    log.file_room() == 0 && log.committed() < log.entry_block()
}

#[test]
fn reads_of_what_is_over_by_age_go_on_while_a_full_disk_has_no_place_for_the_mark() {
    // PR-5, CF-10, I-24: answers do not wait for the mark, which follows when there is room, in front of what is
    // written then.
    let mut rig = over_by_age_on_a_full_disk(9, &[("t", of(Class::Fsync))]);
    for _ in 0..2 {
        let (first, records) = rig.read_all("t").unwrap();
        assert!(records.len() == 1 && first.tombstone.is_some(), "{first:?}");
        // The first of them is asked before it turns out that there will be no file.
        rig.wait(first.wait.0).expect("an answer that does not wait for room");
        assert!(is_unplaced(&mut rig), "the mark has no place");
    }
    assert_eq!((rig.state("t").unwrap().count, rig.state("t").unwrap().earliest), (1, 2));
    let refusal = rig.append("t", &[Rec::new("3")], Ask::default()).unwrap_err().refusal();
    assert!(matches!(refusal, EngineError::NoLogFile(_)), "{refusal:?}");
    rig.disk.lift_full();
    rig.advance(1001);
    rig.settle().unwrap();
    assert!(!is_unplaced(&mut rig));
    let put = rig.put("t", &of(Class::Fsync)).unwrap();
    rig.wait(put.1).unwrap();
    rig.crash(Crash::Kill);
    rig.open().unwrap();
    let (first, records) = rig.read_all("t").unwrap();
    assert!(records.len() == 1 && first.tombstone.is_some(), "{first:?}");
}

#[test]
fn no_answer_waits_for_a_mark_that_a_full_disk_has_no_place_for() {
    // PR-5, TD-3, W-31: what rests on the newest effect of a topic, or of the log, rests on a mark here.
    let full = TopicConfig { cap_records: 2, discard: Discard::Reject, ..of(Class::Fsync) };
    let mut rig = over_by_age_on_a_full_disk(11, &[("t", of(Class::Fsync)), ("full", full)]);
    assert_eq!(rig.list().unwrap().iter().map(|shown| shown.count).collect::<Vec<_>>(), [1, 1]);
    assert!(is_unplaced(&mut rig), "the marks have no place");
    (0..100).for_each(|_| rig.step(true).unwrap()); // and no file is made
    let (now, committed) = (rig.now, rig.committed());
    let refused = |no: No| match no {
        No::Refused(error, wait) => {
            assert!(wait.0 <= committed, "{error:?} would wait for room");
            error
        }
        other => panic!("{other:?}"),
    };
    let no = rig.shard().drop_topic(b"t", true, now).unwrap_err();
    assert_eq!(refused(no), EngineError::NotEmpty { count: 1 });
    let (body, side, spans) = lay_out(&[Rec::new("3"), Rec::new("4")]);
    let batch = Batch { body: &body, side: &side, records: &spans };
    let append = AppendRequest { topic: b"full", batch, key: None, create: None, config: None };
    let no = rig.shard().append(&append, now).unwrap_err();
    assert!(matches!(refused(no), EngineError::TopicFull { .. }));
}

#[test]
fn a_delete_that_would_show_only_behind_a_mark_without_a_place_is_refused() {
    // PR-5: what only memory holds is deleted without the log, but in order. Marks write the last log file to its
    // end here, each in a block of its own.
    let mut rig = Rig::open_new(12);
    rig.disk.full_after_bytes(settings().file_bytes * 3 / 2);
    let (heap, t) =
        (TopicConfig { ttl_ms: 3200, ..of(Class::Fsync) }, TopicConfig { ttl_ms: 2000, ..of(Class::Fsync) });
    for (name, config) in [("heap", &heap), ("t", &t)] {
        let put = rig.put(name, config).unwrap();
        rig.wait(put.1).unwrap();
    }
    rig.append_and_wait("heap", &[Rec::new("1")]).unwrap();
    let put = rig.put("heap", &TopicConfig { class: Class::Ephemeral, ..heap }).unwrap();
    rig.wait(put.1).unwrap();
    for _ in 0..1100 {
        rig.append("t", &[Rec::new("1")], Ask::default()).unwrap();
        rig.advance(1);
    }
    rig.append_and_wait("heap", &[Rec::new("2")]).unwrap();
    rig.settle().unwrap();
    rig.advance(901);
    for gone in 1..=1100 {
        let first = rig.read_all("t").unwrap().0;
        assert_eq!(first.earliest_seq, gone + 1);
        rig.wait(first.wait.0).unwrap();
        rig.advance(1);
    }
    assert!(is_unplaced(&mut rig), "the file is full");
    rig.advance(100);
    assert_eq!(rig.read_all("heap").unwrap().1.len(), 1);
    let refusal = rig.delete("heap", None, None).unwrap_err().refusal();
    assert!(matches!(refusal, EngineError::NoLogFile(_)), "{refusal:?}");
    assert_eq!(rig.read_all("heap").unwrap().1.len(), 1, "nothing was deleted");
    rig.disk.lift_full();
    rig.advance(1001);
    rig.settle().unwrap();
    assert_eq!(rig.delete("heap", None, None).unwrap().1.deleted, 1);
}

#[test]
fn a_full_disk_does_not_keep_the_last_file_that_could_be_begun_again() {
    // PR-5: what frees room needs a log file. The next run needs the only one that there is, though it tells the
    // newest epoch alone (I-86).
    let mut rig = Rig::open_new(10);
    let put = rig.put("t", &of(Class::Fsync)).unwrap();
    rig.wait(put.1).unwrap();
    rig.crash(Crash::Kill);
    rig.open().unwrap();
    rig.repeat(|shard, _| if shard.log.has_file() { Ok(()) } else { Err(No::Busy) }).unwrap();
    rig.disk.full_after_bytes(0);
    rig.crash(Crash::Kill);
    rig.open().unwrap();
    (0..100).for_each(|_| rig.step(true).unwrap());
    rig.advance(1001);
    rig.settle().unwrap();
    assert!(rig.shard().log.has_file());
    let dropped = rig.drop_topic("t", false).unwrap();
    rig.wait(dropped.1).unwrap();
}
