//! Operations whose records have left memory, and appends beyond what memory holds: they wait, on
//! either core, and answer like any other (D-1 on, X-4, I-5).

use crate::harness::{Client, Server, request};
use serde_json::Value;

const BATCHES: u64 = 24;
const PER_BATCH: u64 = 50;
const RECORDS: u64 = BATCHES * PER_BATCH;

/// Records of some 20 KiB, more of them than the 16 MiB of memory.
fn fill(client: &mut Client, topic: &str) {
    client.fresh(topic, r#"{"durability":"memory"}"#);
    let pad = "p".repeat(20 << 10);
    for batch in 0..BATCHES {
        let records: Vec<String> = (1..=PER_BATCH)
            .map(|number| batch * PER_BATCH + number)
            .map(|seq| format!(r#"{{"data":[{seq},"{pad}"],"tag":"{}"}}"#, seq % 10))
            .collect();
        client
            .append(&format!("{topic}?return_seqs=0"), &format!(r#"{{"records":[{}]}}"#, records.join(",")));
    }
}

/// Reads from 0 to the end; the seqs.
fn read_all(client: &mut Client, topic: &str) -> Vec<u64> {
    let (mut seqs, mut cursor) = (Vec::new(), 0);
    loop {
        let body = format!(r#"{{"from_seq":{cursor},"max_batch_bytes":2000000}}"#);
        let read = client.diff(topic, &body).json();
        assert_eq!(read["tombstone"], Value::Null, "I-26");
        for record in read["records"].as_array().expect("records") {
            assert_eq!(record["data"][0], record["$seq"], "I-5");
            seqs.push(record["$seq"].as_u64().expect("a seq"));
        }
        cursor = read["next_from_seq"].as_u64().expect("a cursor");
        if read["caught_up"] == true {
            return seqs;
        }
    }
}

/// One topic of one core, read over connections of both.
fn cold_records(cache_bytes: &str, core: usize) {
    let server = Server::start(&[("RUNELOG_HOT_BYTES", "16777216"), ("RUNELOG_CACHE_BYTES", cache_bytes)]);
    let topic = &server.names("cold")[core];
    let mut client = server.connect();
    fill(&mut client, topic);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                assert_eq!(read_all(&mut server.connect(), topic), (1..=RECORDS).collect::<Vec<_>>(), "D-2");
            });
        }
    });
    // I-103: while a cold topic is read, others of its core are written and read.
    let hot = format!("{topic}-hot");
    client.fresh(&hot, "");
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(read_all(&mut server.connect(), topic).len(), RECORDS as usize, "D-2"));
        for seq in 1..=50_u64 {
            client.append_all(&hot, &[&seq.to_string()]);
            assert_eq!(client.diff(&hot, "").u64("head_seq"), seq, "I-103");
        }
    });
    let metrics = client.get("/v0/metrics").text().to_owned();
    assert!(!metrics.contains("\nrunelog_cold_reads_total 0\n"), "the records left memory");
    for mut client in [server.connect(), server.connect()] {
        // Pipelined behind a read that waits for the disk, answers keep their order (T-4).
        let diff = format!("/v0/topics/{topic}/diff");
        let mut bytes = Vec::new();
        for from in [0, 600, 3] {
            bytes.extend(request("POST", &diff, &format!(r#"{{"from_seq":{from},"limit":1}}"#)));
            bytes.extend(request("GET", "/v0/health", ""));
        }
        client.send(bytes);
        for from in [0, 600, 3] {
            assert_eq!(client.answer().member("records")[0]["$seq"], from + 1, "T-4");
            assert_eq!(client.answer().member("status"), "ok", "T-4");
        }
    }
    if core == 0 {
        // It has to look at what it evicts: without holes, at one block at most.
        return tighten(&mut client, topic);
    }
    let answer = client.delete(topic, r#"{"match":"3"}"#);
    assert_eq!(answer.u64("deleted"), RECORDS / 10, "X-7");
    let body = format!(r#"{{"from_seq":{},"limit":1000}}"#, RECORDS / 2);
    let read = client.diff(topic, &body).json();
    let read = read["records"].as_array().expect("records").iter();
    let left = (RECORDS / 2 + 1..).filter(|seq| seq % 10 != 3);
    assert!(
        read.filter_map(|record| record["$seq"].as_u64()).zip(left).all(|(read, left)| read == left),
        "X-5"
    );
}

fn tighten(client: &mut Client, topic: &str) {
    client.put(topic, r#"{"durability":"memory","cap_bytes":1000000}"#);
    let state = client.get(&format!("/v0/topics/{topic}"));
    assert!((900_000..=1_000_000).contains(&state.u64("bytes")), "CF-14: {}", state.text());
}

#[test]
fn a_cap_that_evicts_more_blocks_with_holes_than_the_cache_holds() {
    let server = Server::start(&[("RUNELOG_HOT_BYTES", "16777216"), ("RUNELOG_CACHE_BYTES", "4194304")]);
    let mut client = server.connect();
    for topic in server.names("holes") {
        fill(&mut client, &topic);
        client.delete(&topic, r#"{"match":"3"}"#);
        tighten(&mut client, &topic);
    }
}

#[test]
fn cold_records_are_read_and_deleted_with_little_memory() {
    cold_records("4194304", 1);
}

#[test]
fn cold_records_are_read_and_evicted_without_a_cache() {
    cold_records("0", 0);
}
