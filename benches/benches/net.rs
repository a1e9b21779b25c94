//! Pieces of the way of a request: the answer of a diff, and what a router makes of records. The body of an
//! append is in `splitter`.

// The macros of criterion make public functions without documentation.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runelog_benches::{Records, Rig};
use runelog_engine::event::Record;
use runelog_engine::ids::{RouterId, TopicId};
use runelog_engine::router::RouterDef;
use runelog_engine::shard::TagMatch;
use runelog_net::json::control::parse_diff;
use runelog_net::pieces::{Copying, render_diff};

fn diff(criterion: &mut Criterion) {
    let mut rig = Rig::new(1 << 20);
    rig.create("t");
    (0..4).for_each(|_| rig.append("t", &Records::new(1000, 100)));
    let mut group = criterion.benchmark_group("diff_render");
    for (name, body, count) in [
        ("1x100", r#"{"from_seq":2500,"limit":1}"#, 1),
        ("1000x100", r#"{"from_seq":2500,"limit":1000,"max_batch_bytes":8388608}"#, 1000),
        (
            "1000x100_tags",
            r#"{"from_seq":2500,"limit":1000,"max_batch_bytes":8388608,"include_tags":true}"#,
            1000,
        ),
    ] {
        let request = parse_diff(body.as_bytes()).unwrap_or_else(|_| panic!("a legal body"));
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                let scanned =
                    rig.repeat(|shard, now| render_diff(shard, "t", black_box(&request), now, &mut out));
                assert_eq!(scanned, count);
                out.len()
            });
        });
    }
    group.finish();
}

fn router(criterion: &mut Criterion) {
    let data = format!("{{\"p\":\"{}\"}}", "x".repeat(92));
    let tags: Vec<String> = (0..10).map(|number| format!("sale:{number}")).collect();
    let records = || {
        (1..=1000_u64).map(|seq| Record {
            seq,
            ts: 5,
            data: data.as_bytes(),
            meta: None,
            tag: Some(tags[seq as usize % 10].as_bytes()),
            node: None,
            hops: 0,
        })
    };
    let def = |filter, exactly_once| RouterDef {
        id: RouterId(1),
        name: "r".into(),
        source: "a".into(),
        source_id: TopicId(1),
        dest: "b".into(),
        dest_id: TopicId(2),
        preserve_node: true,
        preserve_tag: true,
        filter,
        allow_cycle: false,
        exactly_once,
        start: 0,
    };
    let mut group = criterion.benchmark_group("router");
    group.throughput(Throughput::Elements(1000));
    for (name, def, copied) in [
        ("copy_all_1000x100", def(None, false), 1000),
        ("copy_a_tenth", def(Some(TagMatch::Eq(b"sale:3".to_vec())), false), 100),
        ("copy_none", def(Some(TagMatch::Prefix(b"refund:".to_vec())), false), 0),
        ("copy_all_exactly_once", def(None, true), 1000),
    ] {
        let copying = Copying::new(def);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (count, bytes) = copying.copy(black_box(records()));
                assert_eq!(count, copied);
                bytes
            });
        });
    }
    group.finish();
}

criterion_group!(benches, diff, router);
criterion_main!(benches);
