//! Pieces of the engine: an entry of the log encoded, a seq found in an index, an append as a whole, a key
//! looked up, sealed records read with and without their blocks in the cache.

// The macros of criterion make public functions without documentation.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runelog_benches::{Records, Rig, read_from, request};
use runelog_engine::ids::{Lsn, TopicId};
use runelog_engine::index::Index;
use runelog_engine::topic::{Dedup, Remembered};
use runelog_engine::wal::frame::{Piece, PieceOf};
use runelog_engine::wal::log::FrameRef;

fn entry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("entry_encode");
    for (name, records) in [("1x200", Records::new(1, 200)), ("100x100", Records::new(100, 100))] {
        let batch = records.batch();
        let to = PieceOf { topic: TopicId(7), batch_first_seq: 1, ts: 5, key: None, hops: 0, last: true };
        let mut out: Vec<u8> = Vec::new();
        group.throughput(Throughput::Elements(batch.records.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                Piece::cut(black_box(&batch), 0, 0, 1 << 20).put(&mut out, &batch, &to);
                out.len()
            });
        });
    }
    group.finish();
}

fn index(criterion: &mut Criterion) {
    const FRAMES: u64 = 100_000;
    const EACH: u64 = 100;
    let mut index = Index::default();
    for number in 0..FRAMES {
        let (lsn, first_seq) = (Lsn(number * 12_000), number * EACH + 1);
        index.push_hot(FrameRef { lsn, first_seq, count: EACH as u32, counted_bytes: 10_000, ts: 5 });
    }
    let mut seq = 1;
    criterion.bench_function("index_lookup/100000_frames", |bencher| {
        bencher.iter(|| {
            // Steps that visit every part of the index, so that its cache lines are not always warm.
            seq = (seq + 7_368_787) % (FRAMES * EACH) + 1;
            index.at_or_after(black_box(seq)).map(|found| found.range())
        });
    });
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard_append");
    for (name, records) in [("1x200", Records::new(1, 200)), ("100x100", Records::new(100, 100))] {
        let mut rig = Rig::new(1 << 20);
        rig.create("t");
        let request = request("t", &records, None);
        group.throughput(Throughput::Elements(records.batch().records.len() as u64));
        // With the commit and the seals that follow, on a disk that is memory.
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let appended = rig.repeat(|shard, now| shard.append(&request, now));
                rig.turn(false);
                appended.first_seq
            });
        });
    }
    group.finish();
}

fn dedup(criterion: &mut Criterion) {
    const KEYS: u128 = 100_000;
    const WINDOW_MS: u64 = 120_000;
    let hash = |number: u128| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let outcome = |ts| Remembered { first_seq: 1, count: 1, ts, block: 0 };
    let mut keys = Dedup::default();
    (0..KEYS).for_each(|number| keys.insert(hash(number), outcome(0), 0, WINDOW_MS));
    let mut group = criterion.benchmark_group("dedup");
    let mut number = 0;
    group.bench_function("hit", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % KEYS;
            keys.get(black_box(hash(number)), 1, WINDOW_MS).expect("was put in")
        });
    });
    group.bench_function("miss", |bencher| {
        bencher.iter(|| {
            number += 1;
            assert!(keys.get(black_box(hash(KEYS + number)), 1, WINDOW_MS).is_none());
        });
    });
    // One key comes and, as in a steady state, one goes.
    let (mut now, mut next) = (0, KEYS);
    group.bench_function("insert", |bencher| {
        bencher.iter(|| {
            (now, next) = (now + 2, next + 1);
            keys.insert(hash(next), outcome(now), now, WINDOW_MS);
        });
    });
    group.finish();
}

fn sealed(criterion: &mut Criterion) {
    const RECORDS: u64 = 20_000;
    let filled = |cache_bytes| {
        let mut rig = Rig::new(cache_bytes);
        rig.create("t");
        let records = Records::new(1000, 100);
        (0..RECORDS / 1000).for_each(|_| rig.append("t", &records));
        rig.seal();
        rig
    };
    let read = |rig: &mut Rig, from_seq| {
        let mut bytes = 0;
        let outcome = rig.repeat(|shard, now| {
            bytes = 0;
            shard.read(b"t", &read_from(from_seq), now, |record| bytes += record.data.len())
        });
        assert_eq!(outcome.next_from_seq, from_seq + 1000);
        bytes
    };
    let mut group = criterion.benchmark_group("sealed_read");
    group.throughput(Throughput::Elements(1000));
    let mut warm = filled(64 << 20);
    assert!(warm.shard.segments_in_use().next().is_some(), "nothing was sealed");
    let mut at = 0;
    group.bench_function("1000x100_cache_hit", |bencher| {
        bencher.iter(|| {
            at = (at + 1000) % (RECORDS - 1000);
            read(&mut warm, at)
        });
    });
    let hits = warm.shard.cache_stats().hits;
    assert!(hits > 0, "read from the cache");
    // The cache has room for a few blocks: with each read they are others. The disk is memory: what is
    // measured is the load, its checks, and the read.
    let mut cold = filled(256 << 10);
    let before = cold.shard.cache_stats().misses;
    group.bench_function("1000x100_cache_miss", |bencher| {
        bencher.iter(|| {
            at = (at + 7000) % (RECORDS - 1000);
            read(&mut cold, at)
        });
    });
    assert!(cold.shard.cache_stats().misses > before, "loaded from the disk");
    group.finish();
}

criterion_group!(benches, entry, index, append, dedup, sealed);
criterion_main!(benches);
