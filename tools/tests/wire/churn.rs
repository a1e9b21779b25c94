//! Topics, routers, queues and streams that come and go while others use them: whatever the order, every
//! request has its answer, none of them is a failure of the server's own, and what is made afterwards works.

use crate::harness::{Client, Server};
use serde_json::json;

const TOPICS: u64 = 6;
const STEPS: u64 = 220;

/// Numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// One request, of any kind.
fn step(client: &mut Client, random: &mut Random) {
    let topic = format!("churn-{}", random.below(TOPICS));
    let other = format!("churn-{}", random.below(TOPICS));
    let router = format!("/v0/routers/churn-{}", random.below(5));
    let path = |action: &str| format!("/v0/topics/{topic}{action}");
    let class = ["ephemeral", "memory", "disk", "fsync"][random.below(4) as usize];
    let seqs = json!([random.below(20), random.below(20)]);
    let (method, target, body) = match random.below(24) {
        0 => ("DELETE", path(""), String::new()),
        1 | 2 => {
            let limits = [
                json!({}),
                json!({"cap_records": 3}),
                json!({"cap_bytes": 20}),
                json!({"discard": "reject", "cap_records": 4}),
                json!({"ttl_ms": 2}),
            ];
            let mut config = limits[random.below(5) as usize].clone();
            config["durability"] = class.into();
            if random.below(2) == 0 {
                config["type"] = "queue".into();
                config["max_deliveries"] = random.below(3).into();
                config["dead_letter"] = format!("churn-{}", random.below(TOPICS + 1)).into();
                config["lease_ms"] = 100.into();
                config["leases_durable"] = (random.below(2) == 0).into();
            }
            ("PUT", path(""), config.to_string())
        }
        3..=6 => {
            let cyclic = random.below(2) == 0;
            let guarantee = ["at_least_once", "exactly_once"][random.below(2) as usize];
            let body = json!({"source": topic, "dest": other, "allow_cycle": cyclic, "guarantee": guarantee});
            ("PUT", router, body.to_string())
        }
        7 => ("DELETE", router, String::new()),
        8 => ("GET", router, String::new()),
        9 => ("GET", "/v0/routers".into(), String::new()),
        10 => ("GET", "/v0/topics?touch=true".into(), String::new()),
        11 => ("GET", path(""), String::new()),
        12 => ("POST", path("/diff"), json!({"from_seq": random.below(9), "wait_ms": 3}).to_string()),
        13 => ("POST", path("/delete"), json!({"before_seq": random.below(30)}).to_string()),
        14 | 15 => ("POST", path("/claim"), json!({"node": "w", "max": 3}).to_string()),
        16 => ("POST", path("/ack"), json!({"node": "w", "seqs": seqs}).to_string()),
        17 => ("POST", path("/nack"), json!({"node": "w", "seqs": seqs}).to_string()),
        _ => {
            let records = vec![json!({"data": random.below(100), "tag": "t"}); 1 + random.below(5) as usize];
            ("POST", path(""), json!({"records": records}).to_string())
        }
    };
    let answer = client.call(method, &target, &body);
    let fine = matches!(answer.status, 200 | 201 | 400 | 404 | 409 | 422);
    assert!(fine, "{method} {target} {body}: {}", answer.text());
}

#[test]
fn everything_may_come_and_go_at_the_same_time() {
    let server = &Server::start(&[]);
    let seed = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    std::thread::scope(|scope| {
        for number in 0..5 {
            scope.spawn(move || {
                let (mut client, mut random) = (server.connect(), Random(seed + number));
                for _ in 0..STEPS {
                    step(&mut client, &mut random);
                }
            });
        }
        // Streams that are given up at any moment, of queues and of sessions.
        scope.spawn(move || {
            let mut random = Random(!seed);
            for _ in 0..40 {
                let topic = format!("churn-{}", random.below(TOPICS));
                let work = format!("/v0/topics/{topic}/work?node=w&max=2");
                drop(server.stream_with(&work, ""));
                let mut client = server.connect();
                let session = client.call(
                    "POST",
                    "/v0/watch?lenient=true",
                    &format!(r#"{{"topics":{{"{topic}":{{}}}}}}"#),
                );
                let target = session.member("stream_url").as_str().expect("S-1").to_owned();
                drop(server.stream(&target));
            }
        });
    });
    // All of it can be taken away, and what is made then is as new (I-70, R-31).
    let mut client = server.connect();
    for number in 0..=TOPICS {
        client.drop_topic(&format!("churn-{number}"));
    }
    assert_eq!(client.get("/v0/routers").member("routers"), json!([]), "R-22");
    assert_eq!(client.get("/v0/topics").member("topics"), json!([]), "TD-4");
    let text = client.get("/v0/metrics").text().to_owned();
    for line in [
        "topics_records_live 0",
        "topics_bytes_live 0",
        "topics_queue_leases_in_flight 0",
        "topics_routers 0",
    ] {
        assert!(text.lines().any(|known| known == line), "I-105 I-106: {line} in {text}");
    }
    for number in 0..TOPICS {
        let (source, dest) = (format!("churn-{number}"), format!("churn-{}-dest", (number + 1) % TOPICS));
        client.link(&source, [&source, &dest], "");
        client.append_all(&source, &["1", "2"]);
        assert_eq!(client.data(&dest), [1, 2], "R-30 R-31 I-70");
        assert_eq!(client.state(&dest)["head_seq"], 2, "I-70");
    }
}
