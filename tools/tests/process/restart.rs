//! What a restart keeps of settings and forgets of connections, what nobody is told before it is over, and
//! what a failed log says (TP-6, I-73, I-91, EV-2).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ask::{Ask, live, view};
use crate::client::{Client, View};
use crate::server::{Dir, Server, lasting_port};
use crate::start::{furnish, views};

const CLASSES: [&str; 4] = ["ephemeral", "memory", "disk", "fsync"];

#[test]
fn a_configuration_outlives_a_kill_whatever_the_class() {
    let home = Dir::new("tp6");
    let mut server = Server::start(home.path(), &[]);
    let mut configs: BTreeMap<String, Value> = BTreeMap::new();
    for round in 0..3_u64 {
        let mut client = server.client();
        for class in CLASSES {
            for kind in ["log", "queue"] {
                let topic = format!("{class}-{kind}");
                let config = json!({
                    "type": kind, "durability": class, "ttl_ms": 86_400_000 + round, "cap_records": 1000 + round,
                    "cap_bytes": u64::MAX - round, "discard": (["old", "reject"][round as usize % 2]),
                    "priority": -5, "auto_priority": false, "auto_create": false, "dedupe_node": false,
                    "idempotency_window_ms": 7 + round, "lease_ms": 777 + round, "claim_jitter_ms": 3,
                    "max_deliveries": 4, "dead_letter": "dead", "leases_durable": (round % 2 == 0),
                });
                let answer = client.ask("PUT", &format!("/v0/topics/{topic}"), &config.to_string());
                configs.insert(topic, answer["config"].clone());
            }
        }
        drop(client);
        server.kill();
        server = Server::start(home.path(), &[]);
        let mut client = server.client();
        for (topic, config) in &configs {
            let state = client.ask("GET", &format!("/v0/topics/{topic}"), "");
            assert_eq!(state["config"], *config, "{topic}, round {round} (TP-6 I-50)");
            assert_eq!(state["count"], 0, "{topic}");
            for member in ["last_write_ts", "last_read_ts"] {
                assert!(state[member].is_null() || state[member].is_u64(), "{topic}: {state} (TS-6)");
            }
        }
    }
    server.stop_well();
}

#[test]
fn settings_of_segments_and_tiers_change_no_answer() {
    let home = Dir::new("ev2");
    let cold = home.join("cold").display().to_string();
    let server = Server::start(home.path(), &[]);
    let topics = furnish(&mut server.client());
    let before = views(&mut server.client(), &topics);
    server.stop_well();
    for settings in [
        vec![("RUNELOG_SEGMENT_MAX_EVENTS", "1")],
        vec![("RUNELOG_SEGMENT_MAX_BYTES", "4096"), ("RUNELOG_SEGMENT_MAX_AGE_MS", "50")],
        vec![("RUNELOG_SEGMENT_MAX_AGE_MS", "0"), ("RUNELOG_CACHE_BYTES", "0")],
        // I-102: the settings of a cold tier, which other servers of this API have, change nothing either.
        vec![
            ("RUNELOG_COLD_DIR", &cold),
            ("RUNELOG_HOT_RETAIN_SEGMENTS", "0"),
            ("RUNELOG_HOT_RETAIN_BYTES", "1"),
        ],
    ] {
        let server = Server::start(home.path(), &settings);
        let mut client = server.client();
        let after: Vec<View> = views(&mut client, &topics);
        for ((name, before), after) in topics.iter().zip(&before).zip(&after) {
            assert!(before == after, "{name} with {settings:?} (EV-2 I-102): {after:?}, not {before:?}");
        }
        // What is written under these settings is like anything else under the next.
        client.add("written", [1, 2, 3]);
        drop(client);
        server.stop_well();
    }
    let server = Server::start(home.path(), &[]);
    assert_eq!(view(&mut server.client(), "written").count, 12, "EV-2");
    server.stop_well();
}

#[test]
fn nobody_is_answered_from_half_a_recovery() {
    let home = Dir::new("h3");
    let port = lasting_port();
    let settings = [("RUNELOG_PORT", port.as_str())];
    let mut server = Server::start(home.path(), &settings);
    let mut client = server.client();
    for class in ["disk", "fsync"] {
        client.topic(class, &format!("{{\"durability\":\"{class}\"}}"));
        let pad = "p".repeat(1000);
        let records = vec![json!({"data": pad}); 1000];
        for _ in 0..8 {
            let body = json!({"records": records}).to_string();
            client.ask("POST", &format!("/v0/topics/{class}?return_seqs=false"), &body);
        }
    }
    drop(client);
    for _ in 0..3 {
        server.kill();
        let ready = AtomicBool::new(false);
        let address = ([127, 0, 0, 1], port.parse().expect("a port")).into();
        server = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    // H-3: either the port is closed, or the answer is `503`, or everything is there.
                    let began = Instant::now();
                    let (mut refused, mut complete) = (0_u32, 0_u32);
                    while complete == 0 {
                        assert!(began.elapsed() < Duration::from_secs(30), "{refused} refused");
                        let was_ready = ready.load(Ordering::SeqCst);
                        let Ok(mut client) = Client::open(address) else {
                            assert!(!was_ready, "it is ready, and refuses");
                            refused += 1;
                            std::thread::sleep(Duration::from_millis(1));
                            continue;
                        };
                        let reply = match client.call("GET", "/v0/topics/disk", "") {
                            Ok(reply) => reply,
                            Err(error) => {
                                // The one that was killed had its port a moment longer.
                                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "I-91");
                                continue;
                            }
                        };
                        if reply.status == 503 {
                            continue;
                        }
                        assert_eq!(reply.good()["count"], 8000, "I-91 H-3");
                        assert_eq!(client.ask("GET", "/v0/ready", "")["wal_replay_complete"], true, "H-2");
                        complete += 1;
                    }
                });
            }
            let server = Server::start(home.path(), &settings);
            ready.store(true, Ordering::SeqCst);
            server
        });
    }
    server.stop_well();
}

#[test]
fn accepted_sockets_do_not_wait_for_more_bytes() {
    // T-9, seen from outside: the server's ends of our connections, taken out of it one by one.
    let home = Dir::new("t9");
    let server = Server::start(home.path(), &[]);
    let ours: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(server.address).expect("it accepts")).collect();
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        client.ask("GET", "/v0/health", "");
    }
    let process = server.pid();
    // SAFETY: the system calls take numbers only; what they return is checked, and ours.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    assert!(pidfd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that is ours since the line above.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as i32) };
    let began = Instant::now();
    loop {
        let mut seen = 0;
        for entry in std::fs::read_dir(format!("/proc/{process}/fd")).expect("our child") {
            let entry = entry.expect("an entry");
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            if !link.to_string_lossy().starts_with("socket:") {
                continue;
            }
            let number: i32 = entry.file_name().to_string_lossy().parse().expect("a number");
            // SAFETY: as above.
            let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
            if taken < 0 {
                println!("skipped: {}", std::io::Error::last_os_error());
                return server.stop_well();
            }
            // SAFETY: a descriptor that is ours since the line above.
            let stream = unsafe { TcpStream::from_raw_fd(taken as i32) };
            let Ok(peer) = stream.peer_addr() else { continue };
            if ours.iter().any(|ours| ours.local_addr().expect("connected") == peer) {
                assert!(stream.nodelay().expect("an option"), "T-9");
                seen += 1;
            }
        }
        if seen == ours.len() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "T-9: {seen} sockets found");
    }
    server.stop_well();
}

#[test]
fn a_relaxed_limit_brings_nothing_back_after_a_kill() {
    // I-24, I-25: evicted by a limit that is gone when the server dies.
    let home = Dir::new("relaxed");
    let mut server = Server::start(home.path(), &[]);
    let mut client = server.client();
    for class in ["disk", "fsync"] {
        client.topic(class, &format!("{{\"durability\":\"{class}\",\"cap_records\":5}}"));
        client.add(class, 1..=20);
        client.topic(class, &format!("{{\"durability\":\"{class}\",\"ttl_ms\":86400000}}"));
    }
    let before: Vec<View> = ["disk", "fsync"].map(|class| view(&mut client, class)).into();
    assert_eq!((before[0].count, before[0].floor), (5, 15), "CF-11");
    for round in 0..3 {
        drop(client);
        server.kill();
        server = Server::start(home.path(), &[]);
        client = server.client();
        for (class, before) in ["disk", "fsync"].iter().zip(&before) {
            let after = view(&mut client, class);
            assert_eq!(after.records, before.records, "{class}, round {round} (I-24)");
            assert_eq!(after.floor, before.floor, "{class}, round {round} (I-25)");
            let read = client.ask("POST", &format!("/v0/topics/{class}/diff"), "");
            assert_eq!(read["tombstone"]["reason"], "cap", "{class}, round {round} (I-25 D-14)");
        }
    }
    server.stop_well();
}

/// All files below a directory that hold these bytes, and where.
fn holders(path: &Path, bytes: &[u8], found: &mut Vec<(PathBuf, u64)>) {
    for entry in std::fs::read_dir(path).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            holders(&path, bytes, found);
            continue;
        }
        let content = match std::fs::read(&path) {
            // The server is at work: it renames what is complete and removes what is not needed any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            content => content.expect("readable"),
        };
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            found.push((path, at as u64));
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_and_no_gap() {
    let home = Dir::new("i98");
    let age = [("RUNELOG_SEGMENT_MAX_AGE_MS", "50"), ("RUNELOG_SHARDS", "1"), ("RUNELOG_CACHE_BYTES", "0")];
    let server = Server::start(home.path(), &age);
    let mut client = server.client();
    let record = |number: u64| json!({"data": format!("{number:06}-{}", "x".repeat(2000))});
    for topic in ["other", "t"] {
        for batch in 0..10 {
            let records: Vec<Value> = (0..50).map(|at| record(batch * 50 + at + 1)).collect();
            let body = json!({"records": records}).to_string();
            client.ask("POST", &format!("/v0/topics/{topic}"), &body);
        }
    }
    // Sealed when a file below `segments` has it; the log has it all the same.
    let wanted = b"000400-xxxx";
    let began = Instant::now();
    let sealed = loop {
        let mut found = Vec::new();
        holders(&home.join("data/segments"), wanted, &mut found);
        // Both topics have such a record. A file may get its name, or go, between two looks.
        let all = found.iter().filter_map(|(path, _)| std::fs::read(path).ok());
        let count: usize = all.map(|bytes| bytes.windows(11).filter(|window| window == wanted).count()).sum();
        if count == 2 {
            break found;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "not sealed: {found:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    drop(client);
    server.stop_well();
    // Of the two records of this number, the one that comes last in the last file.
    let (path, _) = sealed.last().expect("just seen");
    let mut bytes = std::fs::read(path).expect("readable");
    let at = bytes.windows(11).rposition(|window| window == wanted).expect("just seen");
    bytes[at + 1000] ^= 1;
    std::fs::write(path, bytes).expect("written");

    let server = Server::start(home.path(), &age);
    let mut client = server.client();
    let read = |client: &mut Client, topic: &str, from: u64| {
        let body = format!("{{\"from_seq\":{from},\"limit\":1}}");
        client.call("POST", &format!("/v0/topics/{topic}/diff"), &body).expect("an answer")
    };
    let mut broken = Vec::new();
    for topic in ["other", "t"] {
        for seq in 1..=500 {
            let reply = read(&mut client, topic, seq - 1);
            if reply.status == 200 {
                let answer = reply.json();
                assert_eq!(answer["tombstone"], Value::Null, "I-98: {topic} {seq}");
                assert_eq!(answer["records"][0]["$seq"], seq, "I-98: {topic} {seq}");
                assert_eq!(answer["records"][0]["data"], record(seq)["data"], "I-98: {topic} {seq}");
                continue;
            }
            assert_eq!((reply.status, &reply.json()["error"]["code"]), (500, &json!("internal")), "I-98");
            broken.push((topic, seq));
        }
    }
    // A block of one topic is lost, the record among it; everything stored elsewhere is there.
    assert!(broken.iter().any(|(_, seq)| *seq == 400) && broken.len() < 100, "I-98: {broken:?}");
    assert!(broken.iter().all(|(topic, _)| *topic == broken[0].0), "I-98: {broken:?}");
    let whole = client.ask("GET", "/v0/topics/t", "");
    assert_eq!((&whole["count"], &whole["earliest_seq"]), (&json!(500), &json!(1)), "I-98: not empty");
    server.stop_well();
}

#[test]
fn sessions_end_with_the_process() {
    let home = Dir::new("i73");
    let server = Server::start(home.path(), &[]);
    let mut client = server.client();
    client.add("t", [1]);
    let session = client.ask("POST", "/v0/watch", "{\"topics\":{\"t\":{}}}");
    let before = view(&mut client, "t");
    drop(client);
    server.kill();
    let server = Server::start(home.path(), &[]);
    let mut client = server.client();
    let target = session["stream_url"].as_str().expect("S-1");
    let reply = client.call("GET", target, "").expect("an answer");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("not_found")), "I-73 S-5");
    let after = view(&mut client, "t");
    assert_eq!(after.records, before.records, "I-73 I-74");
    server.stop_well();
}

#[test]
fn above_a_lowered_quota_nothing_goes_and_nothing_comes() {
    let home = Dir::new("i107");
    let server = Server::start(home.path(), &[]);
    let mut client = server.client();
    client.add("kept", 100..200); // three bytes each
    client.link("r", "kept", "copies", "");
    let before = view(&mut client, "kept");
    drop(client);
    server.stop_well();
    let server = Server::start(home.path(), &[("RUNELOG_MAX_TOTAL_BYTES", "30")]);
    let mut client = server.client();
    assert_eq!(view(&mut client, "kept"), before, "I-107: existing data stays");
    let write = "{\"records\":[{\"data\":500}]}";
    let delete = |client: &mut Client, before_seq: u64| {
        let body = json!({"before_seq": before_seq}).to_string();
        client.ask("POST", "/v0/topics/kept/delete", &body)["bytes"].as_u64().expect("a number")
    };
    // Refused until it fits: equality is admitted (L-7).
    for (before_seq, bytes, status) in [(50, 153, 429), (92, 27, 200), (92, 30, 429)] {
        assert_eq!(delete(&mut client, before_seq), bytes, "I-105");
        assert_eq!(client.status("POST", "/v0/topics/kept", write), status, "I-107 L-7: {bytes}");
    }
    // What a router brings is growth, too: it waits, and its source does not (§13, I-69).
    assert_eq!(view(&mut client, "copies").count, 0, "I-107 L-7");
    assert_eq!(delete(&mut client, 101), 3, "I-105");
    assert_eq!(live(&view(&mut client, "copies")), [(1, 500)], "I-107 R-35");
    server.stop_well();
}
