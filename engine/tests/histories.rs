//! The shortest histories that showed a bug, each named by what must hold.

mod common;

use common::oracle::World;
use common::{Ask, Outcome, Rec, Rig, Stop, env, named, settings};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::error::EngineError;
use runelog_engine::shard::{ReadRequest, ShardSettings};

fn of(class: Class) -> TopicConfig {
    TopicConfig { class, ..TopicConfig::default() }
}

fn world(seed: u64) -> World {
    World::new(Rig::open_new(seed))
}

/// One group commit at a time: batches stay half committed for long.
fn slow_world(seed: u64) -> World {
    let mut rig = Rig::new(seed, ShardSettings { commits_in_flight: 1, ..settings() });
    rig.open().expect("an empty directory");
    World::new(rig)
}

fn add(world: &mut World, name: &str, sizes: &[usize]) -> Outcome<()> {
    let records: Vec<Rec> = sizes.iter().map(|bytes| world.rec(*bytes)).collect();
    world.append(name, &records, Ask { create: Some(false), ..Ask::default() }).map(drop)
}

/// Runs `history` cut after each number of disk operations until it ends by itself.
fn cut_everywhere(kind: Crash, stride: usize, history: impl Fn(&mut World) -> Outcome<()>) {
    for cut in (1..2000).step_by(stride) {
        let ended = named(&format!("cut after {cut}, {kind:?}"), || {
            let mut world = slow_world(7 + cut);
            world.rig.disk.cut_after(cut);
            let ended = history(&mut world);
            world.crash_and_verify(kind).and_then(|()| world.check()).expect("it starts");
            if world.topics.contains_key("t") {
                // Retries are known exactly if what they retry is there (I-72).
                for number in 0..12u8 {
                    let rec = world.rec(10);
                    world.append("t", &[rec], Ask { key: Some(&[number]), ..Ask::default() }).unwrap();
                }
                world.check().unwrap();
            }
            ended.is_ok()
        });
        if ended {
            return;
        }
    }
    panic!("the history never ends");
}

#[test]
fn a_batch_over_several_chunks_is_sealed_only_when_it_is_committed_as_a_whole() {
    // I-55: its first chunk was sealed while the last was on its way; a crash left a part of it, and
    // vacant seqs in place of the records that the segment held.
    for kind in [Crash::Kill, Crash::PowerLoss] {
        cut_everywhere(kind, 3, |world| {
            world.put("t", &of(Class::Fsync))?;
            add(world, "t", &[10])?;
            world.rig.settle()?;
            add(world, "t", &[900_000; 18])?;
            world.rig.settle()
        });
    }
}

#[test]
fn losses_of_what_only_memory_held_are_not_counted_again_by_replay() {
    // I-57, I-8: the delete was logged with the records of class `ephemeral` in its counts.
    for kind in [Crash::Kill, Crash::PowerLoss] {
        for class in [Class::Fsync, Class::Ephemeral] {
            let mut world = world(1);
            let run = |world: &mut World| {
                world.put("t", &of(Class::Fsync))?;
                add(world, "t", &[10, 20, 30])?;
                world.put("t", &of(Class::Ephemeral))?;
                add(world, "t", &[10, 20])?;
                world.put("t", &TopicConfig { cap_records: 4, ..of(class) })?;
                world.delete("t", Some(5), None)?;
                add(world, "t", &[10, 20])?;
                world.rig.settle()?;
                world.crash_and_verify(kind)?;
                world.check()
            };
            named(&format!("{kind:?} {class:?}"), || run(&mut world).unwrap());
        }
    }
}

#[test]
fn a_start_that_wrote_nothing_can_be_repeated() {
    // I-90: the newest log file was prepared and held no block yet.
    let mut world = world(1);
    for kind in [Crash::Kill, Crash::PowerLoss, Crash::Kill] {
        world.rig.settle().unwrap();
        world.crash_and_verify(kind).unwrap();
    }
}

#[test]
fn what_a_killed_process_wrote_is_durable_before_the_next_one_builds_on_it() {
    // I-51, I-56: kill, start, an acknowledged fsync write, power loss.
    for seed in 0..20 {
        let mut world = world(seed);
        let run = |world: &mut World| {
            world.put("d", &of(Class::Disk))?;
            world.put("f", &of(Class::Fsync))?;
            add(world, "d", &[10])?;
            world.rig.settle()?;
            add(world, "d", &[10])?;
            world.rig.settle()?;
            world.crash_and_verify(Crash::Kill)?;
            add(world, "f", &[10])?;
            add(world, "d", &[10])?;
            world.rig.settle()?;
            world.crash_and_verify(Crash::PowerLoss)?;
            world.check()
        };
        named(&format!("seed {seed}"), || run(&mut world).unwrap());
    }
}

#[test]
fn a_creating_batch_larger_than_the_cap_loses_its_front_at_once() {
    // W-33
    let mut world = world(1);
    let config = TopicConfig { cap_records: 3, ..of(Class::Disk) };
    let records: Vec<Rec> = (0..7).map(|_| world.rec(10)).collect();
    world.append("t", &records, Ask { config: Some(&config), ..Ask::default() }).unwrap();
    world.check().unwrap();
}

#[test]
fn what_a_read_finds_to_be_over_by_age_it_does_not_deliver() {
    // CF-10, TS-3, D-12: also with other losses of the topic still on their way.
    let mut world = world(1);
    let config = TopicConfig { ttl_ms: 100, cap_records: 6, ..of(Class::Fsync) };
    world.put("t", &config).unwrap();
    add(&mut world, "t", &[10, 20, 30, 40, 50]).unwrap();
    world.rig.settle().unwrap();
    world.rig.advance(60);
    add(&mut world, "t", &[60]).unwrap();
    world.rig.settle().unwrap();
    world.rig.advance(60);
    let request = ReadRequest { from_seq: 0, limit: 100, max_bytes: 1 << 20, skip_node: None };
    world.read("t", &request).unwrap();
    world.read("t", &request).unwrap();
    world.check().unwrap();
    // A delete and an eviction are under way when the next expiry is noticed.
    add(&mut world, "t", &[10, 20, 30]).unwrap();
    world.rig.settle().unwrap();
    world.delete("t", Some(8), None).unwrap();
    world.rig.advance(101);
    world.read("t", &request).unwrap();
    let shown = world.rig.state("t").unwrap();
    assert_eq!((shown.count, shown.bytes, shown.earliest), (0, 0, 10), "{shown:?}");
    world.check().unwrap();
    world.crash_and_verify(Crash::PowerLoss).unwrap();
}

#[test]
fn what_was_once_over_by_age_stays_gone_when_the_clock_steps_back() {
    // I-24, I-25
    let mut rig = Rig::open_new(1);
    rig.put("t", &TopicConfig { ttl_ms: 100, ..of(Class::Fsync) }).unwrap();
    rig.append_and_wait("t", &[Rec::new("1"), Rec::new("2")]).unwrap();
    rig.advance(101);
    assert_eq!(rig.state("t").unwrap().count, 0);
    rig.advance(-101);
    assert_eq!(rig.state("t").unwrap().count, 0);
    rig.put("t", &of(Class::Fsync)).unwrap(); // relaxing brings nothing back (CF-14)
    rig.settle().unwrap();
    assert_eq!(rig.state("t").unwrap().earliest, 3);
    rig.crash(Crash::PowerLoss);
    rig.open().unwrap();
    assert_eq!(rig.read_all("t").unwrap().1, []);
}

#[test]
fn disk_data_is_durable_within_a_second() {
    // Semantics, section 5: at 700 ms of age, and not much earlier, or syncs would hold up the writes beside them.
    let mut rig = Rig::new(1, ShardSettings { segment_max_age_ms: 0, ..settings() });
    rig.open().unwrap();
    rig.put("t", &of(Class::Disk)).unwrap();
    rig.append_and_wait("t", &[Rec::new("1")]).unwrap(); // synced with the mark that reserves its seq (I-58)
    rig.advance(10_000);
    rig.settle().unwrap();
    for _ in 0..3 {
        let block = rig.append_and_wait("t", &[Rec::new("2")]).unwrap().wait.0;
        rig.advance(650);
        rig.settle().unwrap();
        assert!(!rig.shard().log.is_durable(block));
        rig.advance(50);
        rig.settle().unwrap();
        assert!(rig.shard().log.is_durable(block));
    }
}

#[test]
fn recovery_padding_neither_evicts_nor_brings_evictions_closer() {
    // I-33, as its recipe in §11 says, and no tombstone over vacant seqs (I-23).
    for kind in [Crash::Kill, Crash::PowerLoss] {
        let mut world = world(3);
        world.put("t", &TopicConfig { cap_records: 100, ..of(Class::Disk) }).unwrap();
        add(&mut world, "t", &[10; 50]).unwrap();
        world.rig.settle().unwrap();
        world.rig.advance(1000); // time for the sync that `disk` data gets
        world.rig.settle().unwrap();
        world.crash_and_verify(kind).unwrap();
        assert_eq!(world.topics["t"].count(), 50);
        for live in [51, 52] {
            add(&mut world, "t", &[10]).unwrap();
            world.check().unwrap();
            assert_eq!(world.topics["t"].count(), live);
        }
        add(&mut world, "t", &[10; 98]).unwrap();
        world.check().unwrap();
        assert_eq!((world.topics["t"].count(), world.topics["t"].floor()), (100, 50));
    }
}

#[test]
fn a_pack_is_kept_while_any_topic_needs_it() {
    // I-96: after a start the first topic of a pack was let go before the second was counted.
    let mut world = world(1);
    let run = |world: &mut World| {
        for name in ["a", "b"] {
            world.put(name, &of(Class::Fsync))?;
            add(world, name, &[100, 100])?;
        }
        seal(world)?;
        assert!(world.rig.shard().gauges().segments > 0);
        world.delete("a", Some(9), None)?;
        world.rig.settle()?;
        world.crash_and_verify(Crash::PowerLoss)?;
        for _ in 0..3 {
            add(world, "a", &[100])?;
            seal(world)?;
            world.check()?;
        }
        world.crash_and_verify(Crash::PowerLoss)?;
        world.check()
    };
    run(&mut world).unwrap();
}

/// Lets what was written grow old, so that it is sealed and a checkpoint written.
fn seal(world: &mut World) -> Outcome<()> {
    let before = world.rig.shard().gauges().checkpoints;
    for _ in 0..20 {
        world.rig.settle()?;
        world.rig.advance(301);
        world.rig.settle()?;
        if world.rig.shard().gauges().checkpoints > before {
            return Ok(());
        }
    }
    panic!("nothing is sealed");
}

#[test]
fn a_key_is_known_only_if_its_batch_is() {
    // I-72: a checkpoint described the key of a batch that was not committed yet.
    for kind in [Crash::Kill, Crash::PowerLoss] {
        cut_everywhere(kind, 3, |world| {
            world.put("t", &of(Class::Fsync))?;
            add(world, "t", &[900_000; 3])?;
            world.rig.settle()?;
            // While this batch is on its way, block by block, what came before is sealed.
            let records: Vec<Rec> = (0..16).map(|_| world.rec(900_000)).collect();
            world.append("t", &records, Ask { key: Some(&[0]), ..Ask::default() })?;
            world.rig.settle()
        });
    }
}

#[test]
fn nothing_follows_the_checkpoint_of_a_clean_stop() {
    // I-59: a late seal wrote a block behind it, and the heads of `disk` topics were padded.
    for seed in 0..8 {
        let mut world = world(seed);
        world.put("t", &of(Class::Disk)).unwrap();
        add(&mut world, "t", &[10]).unwrap();
        world.rig.settle().unwrap();
        world.rig.step(true).unwrap();
        world.rig.advance(301);
        world.restart().unwrap();
        assert_eq!(world.topics["t"].head, 1);
    }
}

#[test]
fn a_read_of_more_than_the_cache_holds_comes_to_an_end() {
    // D-3, D-4: it loaded in circles.
    let mut world = world(1);
    world.put("t", &of(Class::Disk)).unwrap();
    for _ in 0..9 {
        add(&mut world, "t", &[900_000]).unwrap();
        world.rig.settle().unwrap();
    }
    seal(&mut world).unwrap();
    let request = ReadRequest { from_seq: 0, limit: 100, max_bytes: 8 << 20, skip_node: None };
    let (outcome, seen) = world.rig.read("t", &request).unwrap();
    assert!(!seen.is_empty() && outcome.next_from_seq == seen.len() as u64, "{outcome:?}");
    world.check().unwrap();
}

#[test]
fn a_full_reject_topic_keeps_what_it_has() {
    // I-34, I-35
    let mut world = world(1);
    world.put("t", &TopicConfig { cap_records: 3, discard: Discard::Reject, ..of(Class::Disk) }).unwrap();
    add(&mut world, "t", &[1, 1, 1]).unwrap();
    world.rig.settle().unwrap();
    let rec = world.rec(1);
    assert!(world.append("t", &[rec], Ask::default()).unwrap().is_some());
    world.delete("t", Some(2), None).unwrap();
    add(&mut world, "t", &[1]).unwrap();
    world.check().unwrap();
    let live: Vec<u64> = world.topics["t"].live.keys().copied().collect();
    assert_eq!(live, [2, 3, 4]);
}

#[test]
fn a_full_topic_is_refused_with_numbers_of_one_moment() {
    // I-47: beside a delete on its way the refusal had the head after it and the earliest seq before it.
    let mut world = world(1);
    world.put("t", &TopicConfig { cap_records: 2, discard: Discard::Reject, ..of(Class::Fsync) }).unwrap();
    add(&mut world, "t", &[1, 1]).unwrap();
    world.rig.settle().unwrap();
    let deleted = world.rig.delete("t", Some(2), None).unwrap().1;
    assert_eq!((deleted.head_seq, deleted.earliest_seq), (2, 2));
    let records = [world.rec(1), world.rec(1)];
    let refusal = world.rig.append("t", &records, Ask::default()).unwrap_err().refusal();
    let full = EngineError::TopicFull { cap_records: 2, cap_bytes: 0, head_seq: 2, earliest_seq: 2 };
    assert_eq!(refusal, full, "I-47");
}

#[test]
fn a_failed_write_or_sync_ends_acknowledgements_and_loses_none() {
    // I-44, I-45: no write and no sync of the log is ever tried a second time.
    for seed in 0..env("RUNELOG_SEEDS", 40) {
        named(&format!("seed {seed}"), || {
            let mut world = world(seed);
            world.flawed = true;
            let nth = 1 + seed / 2 % 12;
            match seed % 2 {
                0 => world.rig.disk.fail_nth_write(nth),
                _ => world.rig.disk.fail_nth_sync(nth),
            }
            let run = |world: &mut World| {
                for (name, class) in [("d", Class::Disk), ("f", Class::Fsync)] {
                    world.put(name, &of(class))?;
                    world.rig.step(true)?;
                }
                for _ in 0..20 {
                    add(world, "d", &[50])?;
                    add(world, "f", &[50])?;
                    world.rig.step(true)?;
                    world.rig.advance(50);
                }
                world.rig.advance(1001); // a file that could not be made is tried again
                world.rig.settle()
            };
            match run(&mut world) {
                // A log file that could not be made refuses for a while; nothing is lost by it.
                Ok(()) | Err(Stop::Refused(EngineError::NoLogFile(_))) => {}
                Err(Stop::Refused(error)) => assert_eq!(world.rig.shard().halted(), Some(error)),
                Err(stop) => panic!("{stop:?}"),
            }
            if world.rig.shard().halted().is_some() {
                // Reads continue, on what was committed.
                world.observe().unwrap();
            }
            // A fault that did not fire yet may meet the recovery, which then refuses.
            if world.crash_and_verify(Crash::PowerLoss).is_err() {
                return;
            }
            world.check().unwrap();
        });
    }
}

#[test]
fn checkpoints_of_earlier_runs_do_not_pile_up() {
    let mut world = world(2);
    world.put("t", &of(Class::Fsync)).unwrap();
    for _ in 0..6 {
        for _ in 0..12 {
            add(&mut world, "t", &[100]).unwrap();
            seal(&mut world).unwrap();
        }
        world.crash_and_verify(Crash::Kill).unwrap();
    }
    add(&mut world, "t", &[100]).unwrap();
    seal(&mut world).unwrap();
    let files = world.rig.disk.files();
    let checkpoints = files.iter().filter(|(path, _)| path.contains("/ckpt-")).count();
    assert!(checkpoints <= 5, "{checkpoints} of them");
}

#[test]
fn an_older_checkpoint_leads_over_the_start_of_a_run_that_saw_no_block() {
    // I-95: everything was sealed when the run began, so its first block chained to nothing.
    let mut world = world(2);
    world.put("t", &of(Class::Fsync)).unwrap();
    for _ in 0..3 {
        add(&mut world, "t", &[100]).unwrap();
        seal(&mut world).unwrap();
    }
    world.crash_and_verify(Crash::Kill).unwrap();
    add(&mut world, "t", &[100]).unwrap();
    add(&mut world, "t", &[100]).unwrap();
    world.rig.settle().unwrap();
    let committed = world.crash(Crash::Kill);
    let files = world.rig.disk.files();
    // The newest is the one before it, merged: both say the same.
    for (path, _) in files.iter().rev().filter(|(path, _)| path.contains("/ckpt-")).take(2) {
        world.rig.disk.flip_bit(path, 50, 1);
        world.flawed = true;
    }
    world.rig.open().unwrap();
    world.verify(Crash::Kill, committed).unwrap();
    world.check().unwrap();
}

#[test]
fn topics_that_come_and_go_around_a_checkpoint_are_there_or_not() {
    // I-50, I-70: a checkpoint knew of a drop that a crash then took back, and replay brought the topic
    // in again, which no later checkpoint could be built on.
    for kind in [Crash::Kill, Crash::PowerLoss] {
        for cut in (40..400).step_by(11) {
            let ended = named(&format!("cut after {cut}, {kind:?}"), || {
                let mut world = slow_world(cut);
                world.rig.disk.cut_after(cut);
                let history = |world: &mut World| {
                    world.put("t", &of(Class::Fsync))?;
                    add(world, "t", &[900_000; 3])?;
                    world.rig.settle()?;
                    // On its way block by block: the drop is ordered long before it is committed.
                    add(world, "t", &[900_000; 8])?;
                    world.put("u", &of(Class::Fsync))?;
                    add(world, "t", &[900_000; 8])?;
                    world.drop_topic("u", false)?;
                    world.rig.settle()
                };
                let ended = history(&mut world).is_ok();
                let after = |world: &mut World| {
                    world.crash_and_verify(kind)?;
                    add(world, "t", &[100])?;
                    seal(world)?;
                    world.crash_and_verify(kind)?;
                    add(world, "t", &[100])?;
                    seal(world)?;
                    world.crash_and_verify(kind)?;
                    world.check()
                };
                if world.rig.shard.is_some() && world.topics.contains_key("t") {
                    let committed = world.crash(kind);
                    world.rig.open().unwrap();
                    world.verify(kind, committed).unwrap();
                    if world.topics.contains_key("t") {
                        after(&mut world).unwrap();
                    }
                }
                ended
            });
            if ended {
                break;
            }
        }
    }
}

#[test]
fn a_tightened_cap_is_durable_with_what_it_evicts_even_where_a_chunk_ends_between_the_two() {
    // I-50, CF-14: the eviction went to a block of its own, which was not synced.
    for slack in (60..260).step_by(12) {
        for seed in 0..4 {
            named(&format!("slack {slack}, seed {seed}"), || {
                let mut world = world(seed);
                let run = |world: &mut World| {
                    world.put("t", &of(Class::Memory))?;
                    add(world, "t", &[10; 4])?;
                    world.rig.settle()?;
                    // Fills the chunk up to `slack` bytes.
                    let end = |world: &mut World| world.rig.shard().log.end().0 as usize % (2 << 20);
                    add(world, "t", &[900_000])?;
                    world.rig.settle()?;
                    let left = (2 << 20) - end(world);
                    add(world, "t", &[left - slack - 76 - 50_000])?;
                    let left = (2 << 20) - end(world);
                    add(world, "t", &[left - slack - 76])?;
                    world.put("t", &TopicConfig { cap_records: 2, ..of(Class::Memory) })?;
                    world.rig.settle()?;
                    world.crash_and_verify(Crash::PowerLoss)?;
                    world.check()
                };
                run(&mut world).unwrap();
            });
        }
    }
}

#[test]
fn a_block_may_fill_its_chunk_to_the_last_byte() {
    // Found by importing real tweets: a block that begins its chunk can hold more than one that comes
    // behind a file header, and recovery refused the longest of them as damaged (I-51, I-94).
    for record_bytes in [100, 700, 1000, 3000] {
        named(&format!("records of {record_bytes} bytes"), || {
            // Nothing is sealed, so that recovery sees every block.
            let mut rig = Rig::new(3, ShardSettings { hot_bytes: 64 << 20, ..settings() });
            rig.open().expect("an empty directory");
            let mut world = World::new(rig);
            world.put("t", &of(Class::Fsync)).unwrap();
            // Cut where chunks end, so that every chunk but the last is filled but for less than a record.
            let count = (5 << 20) / record_bytes;
            add(&mut world, "t", &vec![record_bytes; count.min(10_000)]).unwrap();
            add(&mut world, "t", &vec![record_bytes; count.min(10_000)]).unwrap();
            world.rig.settle().unwrap();
            world.crash_and_verify(Crash::Kill).unwrap();
            world.check().unwrap();
        });
    }
}

/// I-36, I-106: memory for `ephemeral` records is used up, and a topic that would be made for more of them
/// is refused. What it had taken of the quota was not given back.
#[test]
fn a_new_topic_refused_for_memory_takes_no_quota() {
    let mut rig = Rig::new(1, settings());
    rig.quota_bytes = 1 << 40;
    rig.open().expect("an empty directory");
    let config = of(Class::Ephemeral);
    let ask = Ask { create: Some(true), config: Some(&config), key: None };
    let records = [Rec::new(vec![b'1'; 900_000])];
    while rig.append("full", &records, ask).is_ok() {}
    let before = (rig.quota.topics(), rig.quota.bytes());
    let refusal = rig.append("other", &records, ask).expect_err("no memory is left").refusal();
    assert_eq!(refusal, EngineError::LogFull);
    assert_eq!((rig.quota.topics(), rig.quota.bytes()), before, "I-106");
}

#[test]
fn a_first_checkpoint_names_no_segment_that_goes_with_it() {
    // I-95: sealed, and dead before the checkpoint that would have named it; a full one takes nothing back.
    let mut removed = 0;
    for turns in 0..40 {
        let mut world = world(3);
        world.put("t", &TopicConfig { cap_records: 1, ..of(Class::Fsync) }).unwrap();
        add(&mut world, "t", &[10]).unwrap();
        world.rig.settle().unwrap();
        world.rig.advance(1001);
        (0..turns).for_each(|_| world.rig.step(true).unwrap());
        add(&mut world, "t", &[10]).unwrap();
        world.rig.settle().unwrap();
        let files = world.rig.disk.files();
        let count = |part: &str| files.iter().filter(|(path, _)| path.contains(part)).count();
        removed += u64::from(count("/ckpt-") > 0 && count(".seg") == 0);
        world.rig.crash(Crash::Kill);
        world.rig.judge_whole();
    }
    assert!(removed > 0, "a segment went with its checkpoint at least once");
}
