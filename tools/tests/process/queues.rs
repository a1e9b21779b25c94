//! Queues over kills and stops: leases, tokens, acks and dead letters (§8 of the model).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ask::{Ask, live, view};
use crate::client::Client;
use crate::server::{Dir, Server};

const AGE: (&str, &str) = ("RUNELOG_SEGMENT_MAX_AGE_MS", "100");
const PATIENCE: Duration = Duration::from_secs(30);

fn number(job: &Value, member: &str) -> u64 {
    job[member].as_u64().unwrap_or_else(|| panic!("{member} in {job}"))
}

fn token(job: &Value) -> String {
    job["lease_id"].as_str().unwrap_or_else(|| panic!("Q-13: {job}")).to_owned()
}

fn fence(tokens: &[&str]) -> String {
    format!(",\"lease_ids\":{}", json!(tokens))
}

/// Ready and in flight.
fn counts(client: &mut Client, queue: &str) -> (u64, u64) {
    let state = client.ask("GET", &format!("/v0/topics/{queue}"), "");
    (number(&state["queue"], "ready"), number(&state["queue"], "in_flight"))
}

fn restart(home: &Dir, server: Server, round: usize) -> Server {
    match round % 3 {
        2 => server.stop_well(),
        _ => server.kill(),
    }
    Server::start(home.path(), &[AGE, ("RUNELOG_SHARDS", ["2", "1", "3"][round % 3])])
}

#[test]
fn leases_in_memory_end_with_the_process_and_tokens_are_never_used_again() {
    let home = Dir::new("leases");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    let queues = [("memory", "disk", false), ("logged", "disk", true), ("synced", "fsync", true)];
    let mut tokens: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (queue, class, durable) in queues {
        let config =
            json!({"type": "queue", "durability": class, "leases_durable": durable, "lease_ms": 3_600_000});
        client.topic(queue, &config.to_string());
        client.add(queue, 1..=9);
    }
    let mut held: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for round in 0..6 {
        for (queue, _, durable) in queues {
            let jobs = client.claimed(queue, "w", 3);
            for job in &jobs {
                // I-86: never twice, over restarts and for both settings.
                assert!(tokens.entry(queue).or_default().insert(token(job)), "{queue} {job} (I-86)");
            }
            if durable {
                // I-85: those of the rounds before are still out; there are nine jobs in all.
                assert_eq!(jobs.len(), if round < 3 { 3 } else { 0 }, "{queue}, round {round} (I-85)");
                held.entry(queue).or_default().extend(jobs);
                let out = 3 * (round as u64 + 1).min(3);
                assert_eq!(counts(&mut client, queue), (9 - out, out), "{queue}, round {round} (I-88)");
            } else {
                // I-84: all of them are ready again, and for the first time.
                let shown: Vec<_> =
                    jobs.iter().map(|job| (number(job, "$seq"), number(job, "deliveries"))).collect();
                assert_eq!(shown, [(1, 1), (2, 1), (3, 1)], "{queue}, round {round} (I-84)");
                // I-86: what was a token before the restart fences nothing.
                for old in held.insert(queue, jobs.clone()).unwrap_or_default() {
                    let acked =
                        client.settle(queue, "ack", "w", &[number(&old, "$seq")], &fence(&[&token(&old)]));
                    assert_eq!(acked, 0, "{queue}: {old} (I-86)");
                }
            }
        }
        drop(client);
        server = restart(&home, server, round);
        client = server.client();
    }
    // I-85: the tokens of long ago are good, for their holder only; deadlines are as they were.
    for queue in ["logged", "synced"] {
        for job in &held[queue] {
            let (seq, fence) = (number(job, "$seq"), fence(&[&token(job)]));
            assert_eq!(client.settle(queue, "ack", "v", &[seq], &fence), 0, "{queue} {job} (I-82)");
            assert_eq!(client.settle(queue, "ack", "w", &[seq], &fence), 1, "{queue} {job} (I-85)");
        }
        assert_eq!(view(&mut client, queue).count, 0, "I-87");
    }
    server.stop_well();
}

#[test]
fn durable_leases_keep_deadlines_delays_and_deliveries() {
    let home = Dir::new("durable");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    let config = "{\"type\":\"queue\",\"leases_durable\":true,\"lease_ms\":3600000}";
    for queue in ["a", "b", "c"] {
        client.topic(queue, config);
        client.add(queue, 1..=6);
    }
    let mut expected = BTreeMap::new();
    for queue in ["a", "b", "c"] {
        let jobs = client.claimed(queue, "w", 6);
        // 1 kept as it is, 2 extended, 3 nacked, 4 nacked for long, 5 acked, 6 left to run out.
        let extended = client.ask(
            "POST",
            &format!("/v0/topics/{queue}/extend"),
            "{\"node\":\"w\",\"seqs\":[2],\"lease_ms\":7200000}",
        );
        expected.insert(queue, (token(&jobs[0]), token(&jobs[1]), extended["deadlines"]["2"].clone()));
        assert_eq!(client.settle(queue, "nack", "w", &[3], ""), 1);
        assert_eq!(client.settle(queue, "nack", "w", &[4], ",\"delay_ms\":3600000"), 1);
        assert_eq!(client.settle(queue, "ack", "w", &[5], ""), 1);
        assert_eq!(client.settle(queue, "extend", "w", &[6], ",\"lease_ms\":100"), 1);
    }
    for round in 0..4 {
        // Much else is written in between, so that checkpoints and sealing fall here (I-96).
        for write in 0..20 {
            client.add("other", (0..50).map(|at| write * 50 + at));
        }
        drop(client);
        server = restart(&home, server, round);
        client = server.client();
        for queue in ["a", "b"] {
            // The last of them runs out some time, also while the server is down.
            let began = Instant::now();
            while counts(&mut client, queue) != (2, 2) {
                assert!(began.elapsed() < PATIENCE, "I-85: {:?}, round {round}", counts(&mut client, queue));
            }
            assert_eq!(view(&mut client, queue).count, 5, "{queue}: an ack is for good (I-87)");
        }
    }
    for queue in ["a", "b", "c"] {
        let shown: Vec<_> = client
            .claimed(queue, "v", 9)
            .iter()
            .map(|job| (number(job, "$seq"), number(job, "deliveries")))
            .collect();
        assert_eq!(shown, [(3, 2), (6, 2)], "{queue}: what was out once (I-85 Q-3)");
        let (first, second, deadline) = &expected[queue];
        let read = client.ask(
            "POST",
            &format!("/v0/topics/{queue}/extend"),
            &json!({"node": "w", "seqs": [1, 2], "lease_ids": [first, second], "lease_ms": 7_300_000})
                .to_string(),
        );
        assert_eq!(read["extended"], 2, "{queue}: {read} (I-85 Q-57)");
        assert!(read["deadlines"]["2"].as_u64() > deadline.as_u64(), "{queue}: {read}");
    }
    server.stop_well();
}

#[test]
fn a_durable_lease_runs_out_while_the_server_is_down() {
    let home = Dir::new("downtime");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    client.topic("q", "{\"type\":\"queue\",\"leases_durable\":true,\"durability\":\"fsync\"}");
    client.add("q", 1..=2);
    let body = "{\"node\":\"w\",\"max\":1,\"lease_ms\":600}";
    let mut job = client.ask("POST", "/v0/topics/q/claim", body)["claimed"][0].clone();
    for deliveries in 2..=4_u64 {
        drop(client);
        server.kill();
        server = Server::start(home.path(), &[AGE]);
        client = server.client();
        let began = Instant::now();
        let next = loop {
            // Whoever gets it, gets it after the deadline (I-80, I-85); the other one is never in the way.
            let answer = client.ask("POST", "/v0/topics/q/claim", body);
            if let Some(job) = answer["claimed"].as_array().and_then(|jobs| jobs.first())
                && job["$seq"] == 1
            {
                break job.clone();
            }
            assert!(began.elapsed() < PATIENCE, "I-81");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(number(&next, "deadline") - 600 > number(&job, "deadline"), "I-80 I-85: {job} {next}");
        assert_eq!(number(&next, "deliveries"), deliveries, "I-85");
        assert_eq!(client.settle("q", "nack", "w", &[1], &fence(&[&token(&job)])), 0, "I-86 I-82");
        job = next;
    }
    server.stop_well();
}

#[test]
fn a_strict_queue_keeps_its_jobs_over_kills() {
    // I-34, I-35 and I-33 by their recipes, with a kill at each step.
    let home = Dir::new("strict");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    client.topic("q", "{\"type\":\"queue\",\"discard\":\"reject\",\"cap_records\":3}");
    client.topic("window", "{\"cap_records\":100}");
    client.topic("flip", "{\"durability\":\"ephemeral\"}");
    client.add("q", 1..=3);
    client.add("window", 1..=50);
    client.add("flip", 1..=5);
    client.topic("flip", "{\"durability\":\"fsync\"}");
    client.add("flip", 6..=8);
    for (round, acked) in [2, 1, 3].into_iter().enumerate() {
        let job = client.claimed("q", "w", 3).into_iter().find(|job| job["data"] == acked).expect("I-34");
        assert_eq!(client.settle("q", "ack", "w", &[number(&job, "$seq")], ""), 1, "I-87");
        drop(client);
        server = restart(&home, server, round);
        client = server.client();
        assert_eq!(
            client.status("POST", "/v0/topics/q", "{\"records\":[{\"data\":1},{\"data\":1}]}"),
            422,
            "I-35"
        );
        client.add("q", [acked + 10]);
        let jobs: Vec<u64> = live(&view(&mut client, "q")).iter().map(|(_, data)| *data).collect();
        assert_eq!((jobs.len(), jobs.contains(&acked)), (3, false), "I-34 CF-13 I-87: {jobs:?}");
        client.add("window", [51 + round as u64]);
        assert_eq!(view(&mut client, "window").count, 51 + round as u64, "I-33");
        let kept: Vec<u64> = live(&view(&mut client, "flip")).iter().map(|(_, data)| *data).collect();
        assert_eq!(kept, [6, 7, 8], "I-57");
    }
    server.stop_well();
}

/// A queue whose jobs move to a dead-letter topic, killed while they do.

#[test]
fn dead_letters_are_in_the_queue_or_moved_after_every_kill() {
    let home = Dir::new("dead");
    let mut server = Server::start(home.path(), &[AGE]);
    let pairs = [("fsync", "disk"), ("disk", "fsync"), ("disk", "disk"), ("fsync", "fsync")];
    let mut sent: Vec<BTreeSet<u64>> = Vec::new();
    let mut client = server.client();
    for (at, (class, dead)) in pairs.iter().enumerate() {
        client.topic(
            &format!("q-{at}"),
            &json!({"type": "queue", "durability": class, "max_deliveries": 1, "dead_letter": format!("dead-{at}"),
                "lease_ms": 300,
                "leases_durable": (at % 2 == 0)})
            .to_string(),
        );
        client.topic(&format!("dead-{at}"), &format!("{{\"durability\":\"{dead}\"}}"));
        sent.push(BTreeSet::new());
    }
    for round in 0..6_u64 {
        for (at, sent) in sent.iter_mut().enumerate() {
            let jobs: Vec<u64> = (0..40).map(|job| round * 100 + job).collect();
            client.add(&format!("q-{at}"), jobs.iter().copied());
            sent.extend(jobs);
        }
        drop(client);
        let address = server.address;
        std::thread::scope(|scope| {
            for at in 0..pairs.len() {
                scope.spawn(move || {
                    // Hands out, gives back, and so moves, until the server is gone.
                    let queue = format!("q-{at}");
                    let Ok(mut client) = Client::open(address) else { return };
                    let claim = format!("/v0/topics/{queue}/claim");
                    while let Ok(reply) = client.call("POST", &claim, "{\"node\":\"w\",\"max\":3}") {
                        let seqs: Vec<Value> = reply.good()["claimed"]
                            .as_array()
                            .map(|jobs| jobs.iter().map(|job| job["$seq"].clone()).collect())
                            .unwrap_or_default();
                        let back = json!({"node": "w", "seqs": seqs}).to_string();
                        if client.call("POST", &format!("/v0/topics/{queue}/nack"), &back).is_err() {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(10 + 15 * round));
            server.kill();
        });
        server = Server::start(home.path(), &[AGE, ("RUNELOG_SHARDS", ["2", "3", "1"][round as usize % 3])]);
        client = server.client();
        for (at, sent) in sent.iter().enumerate() {
            let [queue, dead] = ["q", "dead"].map(|name| {
                let view = view(&mut client, &format!("{name}-{at}"));
                live(&view).into_iter().map(|(_, data)| data).collect::<Vec<u64>>()
            });
            let found: BTreeSet<u64> = queue.iter().chain(&dead).copied().collect();
            assert_eq!(found, *sent, "q-{at}, round {round}: in neither, or invented (I-83 Q-63 I-97)");
            let distinct: HashSet<_> = queue.iter().collect();
            assert_eq!(distinct.len(), queue.len(), "q-{at}: twice in the queue (I-83)");
        }
    }
    // In the end all of them are moved, and each is told where it came from.
    for at in 0..pairs.len() {
        let (queue, began) = (format!("q-{at}"), Instant::now());
        while view(&mut client, &queue).count > 0 {
            let seqs: Vec<u64> =
                client.claimed(&queue, "w", 100).iter().map(|job| number(job, "$seq")).collect();
            client.settle(&queue, "nack", "w", &seqs, "");
            assert!(began.elapsed() < PATIENCE * 2, "I-81");
        }
        let dead = view(&mut client, &format!("dead-{at}"));
        let about = format!("\"$dead_letter_from\":\"{queue}\"");
        assert!(
            dead.records.iter().all(|got| got.meta.as_ref().is_some_and(|meta| meta.contains(&about))),
            "Q-61"
        );
    }
    server.stop_well();
}

#[test]
fn a_dead_letter_topic_without_room_loses_nothing_over_a_kill() {
    let home = Dir::new("no-room");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    client.topic("dead", "{\"discard\":\"reject\",\"cap_records\":1}");
    client.topic(
        "q",
        "{\"type\":\"queue\",\"max_deliveries\":1,\"dead_letter\":\"dead\",\"leases_durable\":true}",
    );
    client.add("q", 1..=3);
    assert_eq!(client.claimed("q", "w", 3).len(), 3);
    client.settle("q", "nack", "w", &[1, 2, 3], "");
    for round in 0..3 {
        assert_eq!(client.claimed("q", "w", 9).len(), 0, "Q-64: not handed out again");
        let values = |client: &mut Client, topic: &str| -> Vec<u64> {
            live(&view(client, topic)).iter().map(|(_, data)| *data).collect()
        };
        assert_eq!(values(&mut client, "dead"), [1], "Q-64, round {round}");
        assert_eq!(values(&mut client, "q"), [2, 3], "Q-64 Q-62 I-83, round {round}");
        drop(client);
        server = restart(&home, server, round);
        client = server.client();
    }
    client.topic("dead", "");
    assert_eq!(client.claimed("q", "w", 9).len(), 0, "Q-62");
    assert_eq!((view(&mut client, "dead").count, view(&mut client, "q").count), (3, 0), "Q-62: tried again");
    server.stop_well();
}

#[test]
fn an_orderly_stop_ends_work_streams_and_gives_their_jobs_back() {
    let home = Dir::new("work-stop");
    let server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    client.topic("q", "{\"type\":\"queue\",\"leases_durable\":true,\"lease_ms\":3600000}");
    client.add("q", 1..=3);
    let mine = client.claimed("q", "w", 1);
    let mut stream = std::net::TcpStream::connect(server.address).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /v0/topics/q/work?node=w&max=1 HTTP/1.1\r\nHost: t\r\n\r\n").expect("taken");
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !text.contains("\"$seq\":2") {
        let count = stream.read(&mut piece).expect("more");
        assert!(count > 0, "Q-72: {text}");
        text.push_str(std::str::from_utf8(&piece[..count]).expect("ASCII"));
    }
    assert_eq!(counts(&mut client, "q"), (1, 2), "Q-72");
    drop(client);
    server.stop_well();
    stream.read_to_string(&mut text).expect("to its end");
    let last = text.rfind("event: error").unwrap_or_else(|| panic!("Q-76 SH-3: {text}"));
    assert!(text[last..].contains("\"code\":\"server_shutting_down\""), "Q-76: {text}");
    assert!(text[last..].contains("\"topic\":\"q\"") && text.contains("\"$seq\":2"), "Q-76: {text}");
    assert!(!text[..last].ends_with("id: 2\n"), "Q-76: no id");
    assert!(text.ends_with("0\r\n\r\n"), "SH-3: the stream ends properly: {text:?}");
    // SH-3, Q-73: its lease is gone, also where leases are durable; the one of the claim is not (I-85).
    let server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    assert_eq!(counts(&mut client, "q"), (2, 1), "SH-3 Q-73 I-59");
    assert_eq!(client.settle("q", "ack", "w", &[1], &fence(&[&token(&mine[0])])), 1, "I-85 I-59");
    server.stop_well();
}
