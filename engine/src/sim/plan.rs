//! What a seed decides before anything runs: the settings, and the history.
//! Each seed leaves some operations, classes, sizes and faults out and takes others more often, so that rare
//! combinations come about that a mixture of everything would hardly ever show (swarm testing).

use super::Options;
use super::op::Op;
use crate::config::{Class, Discard, TopicConfig, TopicType};
use crate::rng::Rng;

pub(super) const TAGS: [&str; 5] = ["x", "", "xy", "y", "yz"];
pub(super) const NODES: [&str; 3] = ["", "n1", "n2"];
/// Topics of a history.
const TOPICS: u64 = 6;
/// The first of the names that are queues, where there are any.
const QUEUES_FROM: u64 = 4;

/// Settings of a seed.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) shards: u16,
    pub(super) commits_in_flight: usize,
    pub(super) segment_max_age_ms: u64,
    pub(super) segment_max_events: u32,
    pub(super) cache_bytes: u64,
    pub(super) quota_bytes: u64,
    classes: Vec<Class>,
    has_caps: bool,
    has_ages: bool,
    rejects: bool,
    queues: bool,
    leases_durable: [bool; TOPICS as usize],
    max_deliveries: u64,
    has_keys: bool,
}

impl Setup {
    pub(super) fn of(seed: u64, options: &Options) -> Setup {
        let mut rng = Rng::new(seed ^ 0x5e70);
        let all = [Class::Disk, Class::Fsync, Class::Memory, Class::Ephemeral];
        let odds = [4, 4, 2, 1];
        let mut classes: Vec<Class> = all
            .into_iter()
            .zip(odds)
            .filter(|(_, odds)| rng.chance(*odds, 5))
            .map(|(class, _)| class)
            .collect();
        if classes.is_empty() {
            classes.push(Class::Disk);
        }
        let mut flip = |part| rng.chance(part, 4);
        Setup {
            has_caps: flip(2),
            has_ages: flip(1),
            rejects: flip(1),
            queues: flip(2),
            leases_durable: std::array::from_fn(|_| flip(2)),
            max_deliveries: if flip(2) { 2 } else { 0 },
            has_keys: flip(2),
            shards: 1 + rng.below(u64::from(options.shards_max)) as u16,
            commits_in_flight: 1 + rng.index(4),
            segment_max_age_ms: [0, 100, 300, 1000][rng.index(4)],
            segment_max_events: [4, 16, 200][rng.index(3)],
            cache_bytes: [256 << 10, 1 << 20][rng.index(2)],
            quota_bytes: [0, 1 << 40, 1 << 40, 20_000, 400_000][rng.index(5)],
            classes,
        }
    }

    pub(super) fn name(&self, number: u64) -> String {
        format!("t{}", number % TOPICS)
    }

    /// Where queues send what was delivered too often.
    pub(super) fn dead_letters(&self) -> String {
        self.name(0)
    }

    /// Settings number `number` of a topic. What must stay the same for the model to stay exact depends on the
    /// name alone: the kind, whether leases are durable, and how long keys are kept (U-8 leaves open what a
    /// wider window brings back).
    pub(super) fn config(&self, number: u64, name: &str) -> TopicConfig {
        let index = name[1..].parse::<u64>().unwrap_or(0);
        let mut rng = Rng::new(number.wrapping_mul(0x9e37).wrapping_add(index));
        let is_queue = self.queues && index >= QUEUES_FROM;
        let caps = |rng: &mut Rng, some: [u64; 4]| if self.has_caps { some[rng.index(4)] } else { 0 };
        TopicConfig {
            kind: if is_queue { TopicType::Queue } else { TopicType::Log },
            class: self.classes[rng.index(self.classes.len())],
            cap_records: caps(&mut rng, [0, 0, 3, 20]),
            cap_bytes: caps(&mut rng, [0, 0, 300, 5000]),
            discard: if self.rejects && rng.chance(1, 2) { Discard::Reject } else { Discard::Old },
            ttl_ms: if self.has_ages { [0, 0, 100, 1000][rng.index(4)] } else { 0 },
            idempotency_window_ms: if index < 3 { 120_000 } else { 500 },
            dedupe_node: rng.chance(7, 8),
            max_deliveries: if is_queue { self.max_deliveries } else { 0 },
            dead_letter: (is_queue && self.max_deliveries > 0).then(|| self.dead_letters()),
            leases_durable: is_queue && self.leases_durable[index as usize],
            ..TopicConfig::default()
        }
    }
}

/// Makes one kind of operation from random numbers.
type Make = fn(&mut Rng) -> Op;

/// Kinds of operations: how often, whether a seed may leave it out, what it looks like.
const KINDS: [(u64, bool, Make); 32] = [
    (300, false, |rng| append(rng, false)),
    (12, true, |rng| append(rng, true)),
    (60, true, |rng| Op::Delete {
        topic: rng.below(TOPICS),
        back: [0, 1, 2, 5, 10, 30, 100][rng.index(7)],
        tag: rng.below(6),
    }),
    (25, true, |rng| Op::Put { topic: rng.below(TOPICS), config: rng.below(60) }),
    (12, true, |rng| Op::Drop { topic: rng.below(TOPICS), if_empty: rng.below(2) }),
    (80, true, |rng| Op::Read {
        topic: rng.below(TOPICS),
        back: [0, 1, 3, 10, 40, 200][rng.index(6)],
        limit: 1 + rng.below(40),
        bytes: [0, 100, 1000, 100_000][rng.index(4)],
        skip: [0, 0, 1, 2, 6][rng.index(5)],
    }),
    (20, false, |_| Op::Check {}),
    (40, true, |rng| Op::Advance { ms: [1, 40, 150, 500, 2000][rng.index(5)] }),
    (3, true, |rng| Op::Rewind { ms: [1, 40, 500][rng.index(3)] }),
    (60, true, |rng| Op::Turn { count: 1 + rng.below(30) }),
    (20, true, |_| Op::Settle {}),
    (12, true, |_| Op::Seal {}),
    (20, true, |rng| Op::Route { source: rng.below(TOPICS), dest: rng.below(TOPICS), style: rng.below(128) }),
    (5, true, |rng| Op::Reroute { router: rng.below(8), style: rng.below(128) }),
    (5, true, |rng| Op::Unroute { router: rng.below(8) }),
    (60, true, |rng| Op::Pump { router: rng.below(8), records: [1, 3, 20, 500][rng.index(4)] }),
    (50, true, |rng| Op::Deliver { count: 1 + rng.below(4) }),
    (10, true, |_| Op::Flow {}),
    (60, true, |rng| Op::Claim {
        topic: queue(rng),
        node: rng.below(3),
        claimers: 1 + rng.below(3),
        max: 1 + rng.below(5),
        lease: rng.below(2000),
        holder: [0, 0, 0, 1, 2][rng.index(5)],
    }),
    (50, true, |rng| {
        let (topic, node, first) = (queue(rng), rng.below(3), rng.below(8));
        Op::Ack { topic, node, first, jobs: 1 + rng.below(4), fence: rng.below(3) }
    }),
    (20, true, |rng| {
        let (topic, node, first) = (queue(rng), rng.below(3), rng.below(8));
        let delay = rng.below(2) * rng.below(300);
        Op::Nack { topic, node, first, jobs: 1 + rng.below(4), fence: rng.below(2), delay }
    }),
    (12, true, |rng| {
        let (topic, node, first) = (queue(rng), rng.below(3), rng.below(8));
        Op::Extend { topic, node, first, jobs: 1 + rng.below(4), fence: rng.below(2), lease: rng.below(2000) }
    }),
    (5, true, |rng| Op::Release { topic: queue(rng), holder: 1 + rng.below(2) }),
    (8, true, |rng| Op::Stop { shards: reshard(rng), cuts: cuts(rng) }),
    (12, true, |rng| Op::Kill { shards: reshard(rng), cuts: cuts(rng) }),
    (12, true, |rng| Op::PowerLoss { shards: reshard(rng), cuts: cuts(rng) }),
    (14, true, |rng| Op::Cut { count: 1 + rng.below(60), power: rng.below(2) }),
    (2, true, |rng| Op::FailWrite { nth: 1 + rng.below(12) }),
    (2, true, |rng| Op::FailSync { nth: 1 + rng.below(8) }),
    (2, true, |rng| Op::FailRead { nth: 1 + rng.below(6) }),
    (2, true, |rng| Op::FailName { nth: 1 + rng.below(6) }),
    (4, true, |rng| match rng.below(2) {
        0 => Op::Full { kib: [0, 64, 1024, 4096][rng.index(4)] },
        _ => Op::Room {},
    }),
];

/// The first kind that is a fault.
const FAULTS_FROM: usize = 27;

fn append(rng: &mut Rng, large: bool) -> Op {
    let records = [1, 1, 2, 3, 7, 70][rng.index(6)];
    let bytes = if large { rng.below(400_000) / records } else { rng.below(60) };
    let key = if rng.chance(1, 3) { 1 + rng.below(12) } else { 0 };
    Op::Append { topic: rng.below(TOPICS), records, bytes, style: rng.below(8), key, config: rng.below(60) }
}

fn queue(rng: &mut Rng) -> u64 {
    QUEUES_FROM + rng.below(TOPICS - QUEUES_FROM)
}

fn reshard(rng: &mut Rng) -> u64 {
    if rng.chance(1, 6) { 1 + rng.below(3) } else { 0 }
}

fn cuts(rng: &mut Rng) -> u64 {
    [0, 0, 0, 1, 2][rng.index(5)]
}

/// The history of a seed.
pub(super) fn history(seed: u64, options: &Options) -> Vec<Op> {
    let mut rng = Rng::new(seed ^ 0x09_ce);
    let faults = options.faults && rng.chance(1, 2);
    let setup = Setup::of(seed, options);
    let mut weights = [0; KINDS.len()];
    for (index, (weight, optional, _)) in KINDS.iter().enumerate() {
        let left_out = *optional && rng.chance(1, 4) || index >= FAULTS_FROM && !faults;
        weights[index] = if left_out { 0 } else { weight * [1, 1, 2, 4][rng.index(4)] };
    }
    let total: u64 = weights.iter().sum();
    let mut ops = Vec::with_capacity(options.operations);
    while ops.len() < options.operations {
        let mut at = rng.below(total);
        let kind = weights.iter().position(|weight| match at.checked_sub(*weight) {
            Some(left) => {
                at = left;
                false
            }
            None => true,
        });
        let mut op = KINDS[kind.expect("below the total")].2(&mut rng);
        match &mut op {
            Op::Append { key, .. } if !setup.has_keys => *key = 0,
            Op::Claim { .. } | Op::Ack { .. } | Op::Nack { .. } | Op::Extend { .. } | Op::Release { .. }
                if !setup.queues =>
            {
                continue;
            }
            Op::Stop { shards, .. } | Op::Kill { shards, .. } | Op::PowerLoss { shards, .. }
                if options.shards_max == 1 =>
            {
                *shards = 0;
            }
            _ => {}
        }
        ops.push(op);
    }
    if options.flips && rng.chance(1, 4) {
        ops.push(Op::Flip { file: rng.below(1000), byte: rng.below(1 << 40), bit: rng.below(8) });
    }
    ops
}
