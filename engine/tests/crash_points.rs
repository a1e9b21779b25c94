//! A scripted history, cut after every n-th completed disk operation by both kinds of crash, recovered
//! (with crashes during the recovery too) and compared with a plain model by what each class promises
//! (I-50…I-58, I-60…I-65, I-68, I-70, I-72, I-90, I-96). `RUNELOG_STRIDE=1` cuts after every operation.

mod common;

use common::oracle::World;
use common::{Ask, Outcome, Rec, Rig, Stop, env, named, settings};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::shard::TagMatch;

fn of(class: Class) -> TopicConfig {
    TopicConfig { class, ..TopicConfig::default() }
}

fn add(world: &mut World, name: &str, sizes: &[usize]) -> Outcome<()> {
    let records: Vec<Rec> = sizes.iter().map(|bytes| world.rec(*bytes)).collect();
    world.append(name, &records, Ask { create: Some(false), ..Ask::default() }).map(drop)
}

/// A router brings copies behind `vacant` records that its source lost, between what clients do.
fn bring(world: &mut World, name: &str, vacant: u64, sizes: &[usize]) -> Outcome<()> {
    let steps: Vec<(u64, Rec)> = sizes.iter().map(|bytes| (2, world.rec(*bytes))).collect();
    world.forward(name, vacant, &steps, 1)
}

fn steps(world: &mut World, count: usize) -> Outcome<()> {
    (0..count).try_for_each(|_| world.rig.step(true))
}

/// All four classes, batches, deletes, caps, age, changes of settings, drops, keys, seals, checkpoints.
fn history(world: &mut World) -> Outcome<()> {
    let classes = [("ephemeral", Class::Ephemeral), ("memory", Class::Memory), ("disk", Class::Disk)];
    for (name, class) in classes {
        world.put(name, &of(class))?;
    }
    world.put("fsync", &of(Class::Fsync))?;
    let capped = TopicConfig { cap_records: 5, cap_bytes: 400, ..of(Class::Disk) };
    let rejecting = TopicConfig { cap_records: 6, discard: Discard::Reject, ..of(Class::Fsync) };
    let aging = TopicConfig { ttl_ms: 200, ..of(Class::Disk) };
    world.put("capped", &capped)?;
    world.put("rejecting", &rejecting)?;
    world.put("aging", &aging)?;
    let all = ["ephemeral", "memory", "disk", "fsync", "capped", "rejecting", "aging"];
    for name in all {
        add(world, name, &[10, 20, 30])?;
        steps(world, 1)?;
    }
    // Copies between direct writes and deletes; a full dest; a source that lost records (I-60…I-65, I-68).
    for name in all {
        bring(world, name, 0, &[15, 25])?;
        add(world, name, &[5])?;
        steps(world, 1)?;
        bring(world, name, 3, &[35, 45, 55])?;
    }
    world.delete("disk", Some(6), None)?;
    bring(world, "disk", 2, &[])?;
    bring(world, "fsync", 0, &[])?;
    // Keys, on a topic that the write creates.
    let rec = world.rec(40);
    let fsync = of(Class::Fsync);
    world.append("keyed", &[rec], Ask { key: Some(b"k1"), config: Some(&fsync), create: None })?;
    add(world, "disk", &[100_000, 100])?;
    add(world, "aging", &[10])?;
    world.delete("fsync", Some(3), None)?;
    world.delete("disk", Some(2), None)?;
    world.rig.settle()?;
    world.rig.advance(150);
    // A batch larger than a chunk, and one behind it.
    add(world, "fsync", &[900_000, 900_000, 900_000, 12])?;
    add(world, "capped", &[10, 350, 20])?;
    steps(world, 3)?;
    let mut tagged = vec![world.rec(30), world.rec(30), world.rec(30)];
    tagged[1].tag = Some(b"red".to_vec());
    world.append("disk", &tagged, Ask::default())?;
    world.delete("disk", None, Some(TagMatch::Eq(b"red".to_vec())))?;
    world.rig.settle()?;
    world.rig.advance(150);
    world.check()?; // notices that the first records of "aging" are over
    // Enough to fill chunks, so that sealing and checkpoints begin.
    for _ in 0..3 {
        add(world, "disk", &[600_000, 600_000, 64])?;
        add(world, "memory", &[300_000])?;
        add(world, "capped", &[10])?;
        bring(world, "fsync", 1, &[500_000, 20])?;
        bring(world, "capped", 2, &[10, 10])?;
        steps(world, 2)?;
    }
    world.rig.settle()?;
    world.rig.advance(310);
    world.check()?;
    // Settings: ephemeral → fsync → disk (I-57), a tightened cap.
    add(world, "ephemeral", &[10, 10])?;
    world.put("ephemeral", &of(Class::Fsync))?;
    add(world, "ephemeral", &[10, 10])?;
    world.delete("ephemeral", Some(5), None)?;
    world.put("ephemeral", &of(Class::Disk))?;
    add(world, "ephemeral", &[10])?;
    world.put("capped", &TopicConfig { cap_records: 2, ..of(Class::Fsync) })?;
    steps(world, 4)?;
    world.put("disk", &TopicConfig { cap_bytes: 1_300_000, ..of(Class::Disk) })?;
    bring(world, "ephemeral", 2, &[10])?;
    bring(world, "rejecting", 0, &[10])?;
    // Dropped and made again (I-70).
    world.drop_topic("keyed", false)?;
    let rec = world.rec(40);
    world.append("keyed", &[rec], Ask { key: Some(b"k1"), config: Some(&fsync), create: None })?;
    bring(world, "keyed", 4, &[10, 10])?;
    world.close_link("memory");
    world.drop_topic("rejecting", true)?;
    world.delete("rejecting", Some(3), None)?;
    add(world, "rejecting", &[10, 10, 10, 10])?;
    for _ in 0..3 {
        add(world, "disk", &[700_000])?;
        add(world, "fsync", &[900_000])?;
        steps(world, 2)?;
        world.rig.settle()?;
        world.rig.advance(310);
    }
    world.check()?;
    add(world, "disk", &[10])?;
    world.rig.stop()?;
    // Whatever comes after an acknowledged clean stop changes nothing (I-59).
    steps(world, 3)
}

/// What a client does after a start: retries, new records everywhere, another topic.
fn second_life(world: &mut World) -> Outcome<()> {
    for name in world.topics.keys().cloned().collect::<Vec<_>>() {
        for key in world.topics[&name].keys.keys().cloned().collect::<Vec<_>>() {
            let rec = world.rec(10);
            world.append(&name, &[rec], Ask { key: Some(&key), ..Ask::default() })?; // I-72
        }
        add(world, &name, &[20, 20])?;
        bring(world, &name, 1, &[10])?;
    }
    let fsync = of(Class::Fsync);
    let rec = world.rec(10);
    world.append("later", &[rec], Ask { create: Some(true), config: Some(&fsync), key: None })?;
    steps(world, 4)
}

/// Starts, with the start itself cut off `cuts` times.
fn start(world: &mut World, kind: Crash, cuts: u64) -> Outcome<()> {
    for cut in 0..cuts {
        world.rig.disk.cut_after(3 + 11 * cut);
        let opened = world.rig.open();
        assert!(!matches!(opened, Err(Stop::Recover(_) | Stop::Refused(_))), "I-90: {opened:?}");
        if opened.is_ok() {
            // And the first writes of the new run: its log file is made.
            let _ = world.rig.settle();
        }
        world.rig.crash(kind);
    }
    world.rig.open()
}

fn run(seed: u64, cut: u64, kind: Crash) -> (bool, u64) {
    let mut world = World::new(Rig::new(seed, settings()));
    world.rig.disk.cut_after(cut);
    let ended = world.rig.open().and_then(|()| history(&mut world));
    let cut_short = match ended {
        Ok(()) => false,
        Err(Stop::Cut) => true,
        Err(stop) => panic!("{stop:?}"),
    };
    let completed = world.rig.disk.completed();
    let result = (|| {
        let mut committed = world.crash(kind);
        for generation in 0..3 {
            start(&mut world, kind, (cut + generation) % 3)?;
            world.verify(kind, committed)?;
            world.check()?;
            world.rig.disk.cut_after(20 + (cut + generation * 7) % 60);
            match second_life(&mut world) {
                Ok(()) | Err(Stop::Cut) => {}
                Err(stop) => return Err(stop),
            }
            committed = world.crash(if generation == 1 { Crash::Kill } else { kind });
        }
        world.rig.open()?;
        world.verify(kind, committed)?;
        world.check()
    })();
    result.unwrap_or_else(|stop: Stop| panic!("{stop:?}"));
    (cut_short, completed)
}

fn cut_everywhere(kind: Crash) {
    let stride = env("RUNELOG_STRIDE", 11);
    let seed = env("RUNELOG_SEED", 1);
    let mut cut = env("RUNELOG_CUT", 1);
    loop {
        let what = format!("RUNELOG_SEED={seed} RUNELOG_CUT={cut}, {kind:?}");
        let (cut_short, completed) = named(&what, || run(seed, cut, kind));
        if !cut_short {
            assert!(completed > 200, "the history is long enough to mean something: {completed}");
            return;
        }
        cut += stride;
    }
}

#[test]
fn a_kill_after_any_disk_operation_loses_nothing_acknowledged_as_disk_or_fsync() {
    cut_everywhere(Crash::Kill);
}

#[test]
fn a_power_loss_after_any_disk_operation_loses_nothing_acknowledged_as_fsync() {
    cut_everywhere(Crash::PowerLoss);
}
