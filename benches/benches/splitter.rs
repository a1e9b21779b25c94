//! How fast the body of an append is split into spans (`net::json::write`).

// The macros of criterion make public functions without documentation.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runelog_benches as _;
use runelog_net::json::control::parse_diff;
use runelog_net::json::write::{WriteScratch, parse_write};

/// Small members of every type: many tokens, the hard case for a scanner.
fn dense(index: usize) -> String {
    format!(
        r#"{{"id":{},"kind":"order.created","sku":"A-{}","qty":{},"price":19.{:02},"ok":true,"at":1790000{:06}}}"#,
        1_000_000 + index * 7919,
        10_000 + index * 31,
        index % 12 + 1,
        index % 100,
        index * 137,
    )
}

/// One longer string, like a log line.
fn text(index: usize) -> String {
    format!(
        r#"{{"level":"info","message":"till {} closed its drawer and handed over to the next shift, {:04}"}}"#,
        index % 9,
        index
    )
}

fn body(records: usize, data: impl Fn(usize) -> String) -> Vec<u8> {
    let records: Vec<String> =
        (0..records).map(|index| format!(r#"{{"data":{},"tag":"sale:{index}"}}"#, data(index))).collect();
    format!(r#"{{"node":"till-3","records":[{}]}}"#, records.join(",")).into_bytes()
}

fn splitter(criterion: &mut Criterion) {
    let single = format!(r#"{{"id":7,"note":"{}","lines":[1,2,3],"ok":true}}"#, "n".repeat(100));
    let pretty = |index| dense(index).replace(',', ",\n      ").replace(':', ": ");
    let mut scratch = WriteScratch::default();
    let mut group = criterion.benchmark_group("splitter");
    for (name, body) in [
        ("100x100_dense", body(100, dense)),
        ("100x100_text", body(100, text)),
        ("100x100_pretty", body(100, pretty)),
        ("100x100_utf8", body(100, |index| text(index).replace("closed", "schloß"))),
        ("1x200", body(1, |_| single.clone())),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let head = parse_write(std::hint::black_box(&body), &mut scratch).expect("a legal body");
                head.check_limits(None).expect("within the limits");
                scratch.records.len()
            });
        });
    }
    let diff = br#"{"from_seq":1234567,"limit":500,"include_tags":true,"wait_ms":1000}"#;
    group.throughput(Throughput::Bytes(diff.len() as u64));
    group.bench_function("diff", |bencher| bencher.iter(|| parse_diff(std::hint::black_box(diff))));
    group.finish();
}

criterion_group!(benches, splitter);
criterion_main!(benches);
