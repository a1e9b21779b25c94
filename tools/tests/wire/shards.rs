//! Ports of single cores, and who tells of them.

use crate::harness::Server;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};

/// A port that is free, as the next one is, below those that the system gives to clients.
fn two_ports() -> u16 {
    let first = 12_000 + (std::process::id() % 9_000) as u16;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (first..first + 1_000).find(|port| is_free(*port) && is_free(port + 1)).expect("a thousand ports")
}

#[test]
fn a_topic_s_own_port_reaches_its_core_without_a_hop() {
    let first = two_ports();
    let server = Server::start(&[("RUNELOG_SHARD_PORTS", &first.to_string())]);
    let mut client = server.connect();
    let row = |shard: u16| json!({"shard": shard, "port": first + shard});
    assert_eq!(client.get("/v0/shards").steady(), json!({"count": 2, "shards": [row(0), row(1)]}));
    let topics = server.names("own-port");
    let mut forwarded = || {
        let answer = client.get("/v0/metrics");
        let of_cores = answer.text().lines().filter(|line| line.starts_with("runelog_forwarded_total{"));
        let numbers =
            of_cores.map(|line| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()));
        numbers
            .collect::<Option<Vec<f64>>>()
            .filter(|cores| cores.len() == 2)
            .expect("counters")
            .iter()
            .sum::<f64>()
    };
    let asking = -forwarded() + forwarded();
    for (shard, topic) in topics.iter().enumerate() {
        let shard = shard as u16;
        let told = server.connect().get(&format!("/v0/shards?topic={topic}")).steady();
        assert_eq!(told, json!({"count": 2, "shards": [row(shard)]}), "it need not exist");
        // Four connections each: those of a port of all cores would be spread.
        for (port, hops) in [(first + shard, 0.0), (first + 1 - shard, 4.0)] {
            let before = forwarded();
            for _ in 0..4 {
                let mut client = Server::connect_at(SocketAddr::new(server.addr.ip(), port));
                client.append_all(topic, &["1", "2", "3"]);
            }
            assert_eq!(forwarded() - before - asking, hops, "{topic} at {port}");
        }
    }
}

#[test]
fn without_ports_of_their_own_cores_are_told_all_the_same() {
    let server = Server::shared();
    let mut client = server.connect();
    let [_, topic] = server.names("no-port");
    let row = |shard: u16| json!({"shard": shard, "port": null});
    assert_eq!(client.get("/v0/shards").steady(), json!({"count": 2, "shards": [row(0), row(1)]}));
    let of_topic = format!("/v0/shards?topic={topic}");
    assert_eq!(client.get(&of_topic).steady(), json!({"count": 2, "shards": [row(1)]}));
    assert_eq!(client.call("HEAD", &of_topic, "").status, 200, "T-13");
    for name in ["", "%00", &"x".repeat(300)] {
        let answer = client.get(&format!("/v0/shards?topic={name}"));
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &json!("invalid_request")),
            "{name}"
        );
    }
}

#[test]
fn a_key_asks_for_the_topics_that_it_may_use() {
    let server = Server::start(&[("RUNELOG_API_KEYS", "reader:r:own-,writer:w")]);
    let mut client = server.connect();
    for (key, query, status) in [
        ("reader", "?topic=own-a", 200),
        ("reader", "", 200),
        ("reader", "?topic=other", 403),
        ("writer", "", 403),
        ("nobody", "", 401),
    ] {
        let answer = client.call_as(key, "GET", &format!("/v0/shards{query}"), "");
        assert_eq!(answer.status, status, "A-6 A-10 {key} {query}");
    }
}
