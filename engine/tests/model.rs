//! Random operations on a shard beside a plain model of it. `RUNELOG_SEEDS` sets how many seeds run,
//! `RUNELOG_SEED` the first one; a failing one is printed and replays exactly.

mod common;

use common::oracle::World;
use common::{Ask, Outcome, Rig, Stop, env, named, settings};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::rng::Rng;
use runelog_engine::shard::{ReadRequest, TagMatch};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const TAGS: [&str; 4] = ["", "x", "xy", "y"];
const NODES: [&str; 3] = ["", "n1", "n2"];

fn config(rng: &mut Rng, name: &str) -> TopicConfig {
    let class = [Class::Disk, Class::Fsync, Class::Disk, Class::Fsync, Class::Memory, Class::Ephemeral];
    TopicConfig {
        class: class[rng.index(6)],
        cap_records: [0, 0, 0, 3, 20][rng.index(5)],
        cap_bytes: [0, 0, 0, 300, 5000][rng.index(5)],
        discard: [Discard::Old, Discard::Old, Discard::Reject][rng.index(3)],
        ttl_ms: [0, 0, 100, 1000][rng.index(4)],
        // One a name: whether a key outlives a window that is widened afterwards is left open (U-8).
        idempotency_window_ms: if name < "d" { 120_000 } else { 500 },
        dedupe_node: rng.chance(7, 8),
        ..TopicConfig::default()
    }
}

/// A router brings copies, vacancies, or only its position.
fn forward(world: &mut World, rng: &mut Rng, name: &str) -> Outcome<()> {
    let count = [0, 1, 1, 2, 5, 30][rng.index(6)];
    let steps: Vec<_> = (0..count)
        .map(|_| {
            let mut rec = world.rec(rng.below(60) as usize);
            rec.tag = rng.chance(1, 2).then(|| TAGS[rng.index(4)].into());
            (1 + rng.below(3), rec)
        })
        .collect();
    let vacant = [0, 0, 0, 1, 7, 3000][rng.index(6)];
    world.forward(name, vacant, &steps, [0, 3, 2000][rng.index(3)])
}

fn operation(world: &mut World, rng: &mut Rng) -> Outcome<()> {
    let name = NAMES[rng.index(NAMES.len())];
    let head = world.topics.get(name).map_or(0, |topic| topic.head);
    match rng.below(100) {
        0..=39 => {
            let count = [1, 1, 2, 3, 7, 70][rng.index(6)];
            // Now and then something large, so that chunks fill.
            let large = rng.chance(1, 12);
            let records: Vec<_> = (0..count)
                .map(|_| {
                    let bytes = if large { rng.below(400_000) / count } else { rng.below(60) } as usize;
                    let mut rec = world.rec(bytes);
                    rec.meta = rng.chance(1, 4).then(|| b"{\"m\":1}".to_vec());
                    rec.tag = rng.chance(1, 2).then(|| TAGS[rng.index(4)].into());
                    rec.node = rng.chance(1, 2).then(|| NODES[rng.index(3)].into());
                    rec
                })
                .collect();
            let config = config(rng, name);
            // Keys of class `ephemeral` are nobody's promise after a restart (I-72).
            let class = world.topics.get(name).map_or(config.class, |topic| topic.config.class);
            let keyed = class != Class::Ephemeral && rng.chance(1, 3);
            let key = format!("{name}{}", rng.below(12));
            let ask = Ask { key: keyed.then_some(key.as_bytes()), create: Some(true), config: Some(&config) };
            world.append(name, &records, ask)?;
        }
        40..=44 if world.topics.contains_key(name) => forward(world, rng, name)?,
        45..=54 => {
            let before = rng.chance(2, 3).then(|| rng.below(head + 4));
            let tag = TAGS[rng.index(4)].as_bytes().to_vec();
            let matcher = match rng.below(3) {
                0 if before.is_some() => None,
                1 => Some(TagMatch::Prefix(tag)),
                _ => Some(TagMatch::Eq(tag)),
            };
            world.delete(name, before, matcher)?;
        }
        55..=59 => {
            let mut config = config(rng, name);
            if let Some(topic) = world.topics.get(name).filter(|_| rng.chance(1, 4)) {
                config = topic.config.clone(); // TP-3
            }
            world.put(name, &config)?;
        }
        60..=61 => world.drop_topic(name, rng.chance(1, 2))?,
        62..=79 => {
            world.rig.settle()?;
            let nodes: Vec<Vec<u8>> =
                NODES.iter().filter(|_| rng.chance(1, 3)).map(|node| node.as_bytes().to_vec()).collect();
            let skip = |node: &[u8]| nodes.iter().any(|other| other == node);
            let request = ReadRequest {
                from_seq: rng.below(head + 3),
                limit: 1 + rng.below(40) as u32,
                max_bytes: [0, 100, 1000, 1 << 20][rng.index(4)],
                skip_node: if nodes.is_empty() { None } else { Some(&skip) },
            };
            world.read(name, &request)?;
        }
        80..=86 => {
            // Time passes only while nothing is under way, so that the model knows what is shown.
            world.rig.settle()?;
            world.rig.advance([1, 40, 150, 500, 2000][rng.index(5)]);
        }
        87 if world.topics.contains_key(name) => match rng.below(4) {
            0 => world.close_link(name),
            _ => forward(world, rng, name)?,
        },
        88..=91 => world.check()?,
        92..=96 => {
            for _ in 0..rng.below(30) {
                world.rig.step(rng.chance(1, 2))?;
            }
        }
        97 => {
            world.restart()?;
            world.forget_unclear()?;
        }
        98 => world.crash_and_verify(Crash::Kill)?,
        99 => world.crash_and_verify(Crash::PowerLoss)?,
        _ => {} // no such topic to bring anything into
    }
    Ok(())
}

fn run(seed: u64) -> Outcome<()> {
    let mut rng = Rng::new(seed);
    let mut rig = Rig::new(seed, settings());
    rig.settings.commits_in_flight = 1 + rng.index(4);
    rig.settings.segment_max_age_ms = [0, 100, 1000][rng.index(3)];
    rig.quota_bytes = if rng.chance(1, 2) { 1 << 40 } else { 0 };
    rig.open()?;
    let mut world = World::new(rig);
    for _ in 0..250 {
        operation(&mut world, &mut rng)?;
    }
    world.check()?;
    world.crash_and_verify(Crash::PowerLoss)?;
    world.check()
}

#[test]
fn a_shard_does_what_the_plain_model_does() {
    let first = env("RUNELOG_SEED", 1);
    for seed in first..first + env("RUNELOG_SEEDS", 80) {
        named(&format!("RUNELOG_SEED={seed} RUNELOG_SEEDS=1"), || {
            run(seed).unwrap_or_else(|stop: Stop| panic!("{stop:?}"));
        });
    }
}
