//! Health, readiness, metrics (§11).

use crate::harness::{Client, Server, request};
use serde_json::{Value, json};

fn with_accept(client: &mut Client, accept: &str) -> Value {
    client.send(format!("GET /v0/metrics HTTP/1.1\r\nAccept: {accept}\r\n\r\n"));
    let answer = client.answer();
    assert_eq!(answer.header("content-type"), Some("application/json"), "H-4 {accept}");
    answer.json()
}

fn series(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn health_and_readiness() {
    let mut client = Server::shared().connect();
    for path in ["/v0/health", "/healthz"] {
        let health = client.get(path).json();
        assert_eq!(health["status"], "ok", "H-1");
        let version: Vec<&str> = health["version"].as_str().expect("H-1").split('.').collect();
        assert!(version.len() == 3 && version[0].parse::<u32>().is_ok(), "H-1: {version:?}");
        assert!(health["uptime_ms"].is_u64(), "H-1");
        assert_eq!(health.as_object().map(serde_json::Map::len), Some(3), "H-1 P-1");
    }
    for path in ["/v0/ready", "/readyz"] {
        let ready = client.get(path).json();
        assert_eq!((&ready["status"], &ready["wal_replay_complete"]), (&json!("ready"), &json!(true)), "H-2");
        assert!(ready["topics"].is_u64(), "H-2");
        assert_eq!(ready.as_object().map(serde_json::Map::len), Some(3), "H-2 P-1");
    }
}

#[test]
fn metrics_count_what_there_is() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let names = server.names("metric");
    for (topic, class) in names.iter().zip(["fsync", "memory"]) {
        client.put(topic, &format!(r#"{{"durability":"{class}"}}"#));
        client.append_all(topic, &["1", "22", "333"]);
        client.delete(topic, r#"{"before_seq":2}"#);
    }
    let [queue, _] = server.names("queue");
    client.put(&queue, r#"{"type":"queue","durability":"ephemeral"}"#);
    client.append_all(&queue, &["1"]);
    assert_eq!(client.get("/v0/ready").u64("topics"), 3, "H-2");

    let answer = client.get("/v0/metrics");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/plain; version=0.0.4")),
        "H-4"
    );
    let text = answer.text();
    let expected = [
        ("topics_topics", 3.0),
        ("topics_topics_by_class{class=\"ephemeral\"}", 1.0),
        ("topics_topics_by_class{class=\"memory\"}", 1.0),
        ("topics_topics_by_class{class=\"disk\"}", 0.0),
        ("topics_topics_by_class{class=\"fsync\"}", 1.0),
        ("topics_routers", 0.0),
        ("topics_records_live", 5.0),
        ("topics_bytes_live", 11.0),
        ("topics_topic_metrics_truncated", 0.0),
        ("topics_queue_topics", 1.0),
        ("topics_queue_leases_in_flight", 0.0),
        ("topics_sse_connections", 0.0),
        ("topics_watch_sessions", 0.0),
        ("topics_ready", 1.0),
        ("topics_recovery_progress", 1.0),
        ("topics_wal_read_only", 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(series(text, name), Some(value), "11 {name}");
    }
    let of = |name: &str, topic: &str| series(text, &format!("{name}{{topic=\"{topic}\"}}"));
    for topic in &names {
        assert_eq!(of("topics_topic_head_seq", topic), Some(3.0), "11");
        assert_eq!(of("topics_topic_earliest_seq", topic), Some(2.0), "11");
        assert_eq!(of("topics_topic_records_live", topic), Some(2.0), "11");
        assert_eq!(of("topics_topic_bytes_live", topic), Some(5.0), "11");
        assert_eq!(of("topics_topic_queue_ready", topic), None, "H-6");
    }
    assert_eq!(of("topics_topic_queue_ready", &queue), Some(1.0), "H-6");
    for name in [
        "topics_uptime_ms",
        "topics_wal_frames_total",
        "topics_wal_batches_total",
        "topics_wal_fsyncs_total",
        "topics_wal_bytes_written_total",
        "topics_wal_rotations_total",
        "topics_wal_submit_full_total",
        "topics_wal_queue_depth",
        "topics_wal_queue_depth_peak",
        "topics_wal_fsync_latency_us_sum",
    ] {
        assert!(series(text, name).is_some(), "11 {name}");
    }
    let syncs = series(text, "topics_wal_fsyncs_total");
    assert_eq!(series(text, "topics_wal_fsync_latency_us_count"), syncs, "H-8");
    let buckets: Vec<f64> = ["50", "100", "250", "500", "1000", "5000", "10000", "50000", "100000", "+Inf"]
        .iter()
        .map(|le| series(text, &format!("topics_wal_fsync_latency_us_bucket{{le=\"{le}\"}}")).expect(le))
        .collect();
    assert!(buckets.is_sorted(), "H-8 cumulative: {buckets:?}");
    assert_eq!(buckets.last().copied(), syncs, "H-8");
    // H-9: each series under its own help and type.
    let mut described = "";
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => described = rest.split(' ').next().expect("a name"),
            None if line.starts_with("# HELP ") => {}
            None => {
                assert!(line.starts_with(described), "H-9: {line} under {described}");
                assert!(line.starts_with("topics_") || line.starts_with("runelog_"), "H-5: {line}");
            }
        }
    }
    assert!(!text.contains("performance"), "P-1");
}

#[test]
fn metrics_come_as_json_to_who_accepts_it() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let [topic, _] = server.names("json");
    client.put(&topic, r#"{"durability":"fsync"}"#);
    let before = with_accept(&mut client, "text/plain, application/json;q=0.1");
    client.append_all(&topic, &["1"]);
    let after = with_accept(&mut client, "application/json");
    let members = |value: &Value| {
        let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names
    };
    let mut expected = [
        "topics",
        "topics_ephemeral",
        "topics_memory",
        "topics_disk",
        "topics_fsync",
        "routers",
        "records_live",
        "bytes_live",
        "queue_topics",
        "queue_leases_in_flight",
        "sse_connections",
        "watch_sessions",
        "ready",
        "replay_progress",
        "uptime_ms",
        "wal",
    ];
    expected.sort_unstable();
    assert_eq!(members(&after), expected, "H-7");
    let mut wal = [
        "fsyncs",
        "frames",
        "batches",
        "bytes_written",
        "rotations",
        "queue_depth",
        "queue_depth_peak",
        "submit_full_total",
        "read_only",
        "fsync_count",
        "fsync_micros_total",
    ];
    wal.sort_unstable();
    assert_eq!(members(&after["wal"]), wal, "H-7");
    assert_eq!((&after["ready"], &after["wal"]["read_only"]), (&json!(true), &json!(false)), "H-7");
    let frames = |json: &Value| json["wal"]["frames"].as_u64().expect("a number");
    assert_eq!(frames(&after) - frames(&before), 1, "H-8: one append, one frame");
    assert_eq!((&after["records_live"], &after["bytes_live"]), (&json!(1), &json!(1)), "H-7");
}

#[test]
fn per_topic_series_are_bounded() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut bytes = Vec::new();
    for number in 0..1001 {
        bytes.extend(request("PUT", &format!("/v0/topics/t{number}"), r#"{"durability":"memory"}"#));
    }
    let mut sender = server.connect();
    sender.send(&bytes);
    for _ in 0..1001 {
        assert_eq!(sender.answer().status, 201);
    }
    let text = client.get("/v0/metrics").text().to_owned();
    assert_eq!(series(&text, "topics_topic_metrics_truncated"), Some(1.0), "H-6");
    assert_eq!(text.matches("\ntopics_topic_head_seq{").count(), 1000, "H-6");
    assert_eq!(series(&text, "topics_topics"), Some(1001.0), "H-6");
}
