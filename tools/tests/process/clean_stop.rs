//! SIGTERM and SIGINT: what a stop may take, and that the next start shows the same (§15.3, I-59).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, View};
use crate::random::{Random, body_of};
use crate::server::{Dir, Server};

const CLASSES: [&str; 4] = ["ephemeral", "memory", "disk", "fsync"];
const AGE: (&str, &str) = ("RUNELOG_SEGMENT_MAX_AGE_MS", "200");

/// Writes of one topic: first seq and records of those that were acknowledged, and records of those
/// that were not answered.
#[derive(Default)]
struct Sent {
    acknowledged: BTreeMap<u64, (u64, u64)>,
    unanswered: BTreeMap<u64, u64>,
}

#[test]
fn a_stop_under_load_loses_nothing_and_keeps_every_head() {
    let home = Dir::new("stop");
    for round in 0..3 {
        let server = Server::start(home.path(), &[AGE]);
        let mut client = server.client();
        let topics: Vec<String> =
            (0..8).map(|topic| format!("r{round}-{}-{topic}", CLASSES[topic % 4])).collect();
        for (topic, name) in topics.iter().enumerate() {
            let config = format!("{{\"durability\":\"{}\"}}", CLASSES[topic % 4]);
            client.call("PUT", &format!("/v0/topics/{name}"), &config).expect("an answer").good();
        }
        client.call("PUT", "/v0/topics/quiet", "{}").expect("an answer").good();
        let sent: Vec<Mutex<Sent>> = topics.iter().map(|_| Mutex::default()).collect();
        let stopping = AtomicBool::new(false);
        let next = AtomicU64::new(round << 40);
        let address = server.address;
        let (status, took) = std::thread::scope(|scope| {
            for seed in 0..6 {
                let (topics, sent, stopping, next) = (&topics, &sent, &stopping, &next);
                let client = server.client();
                scope.spawn(move || load(client, topics, sent, stopping, next, Random(seed)));
            }
            let mut idle = server.client();
            let mut poll = server.client();
            poll.send("POST", "/v0/topics/quiet/diff", "{\"wait_ms\":1500}").expect("sent");
            std::thread::sleep(Duration::from_millis(500));
            stopping.store(true, Ordering::SeqCst);
            server.signal(if round == 1 { libc::SIGINT } else { libc::SIGTERM });
            let asked = Instant::now();
            // SH-2: the listener closes at once, while the long-poll goes on.
            while TcpStream::connect(address).is_ok() {
                assert!(asked.elapsed() < Duration::from_secs(1), "new connections are still taken (SH-2)");
                std::thread::sleep(Duration::from_millis(5));
            }
            let refused = TcpStream::connect(address).expect_err("just seen").kind();
            assert_eq!(refused, ErrorKind::ConnectionRefused);
            assert!(idle.receive().is_err(), "an idle connection is closed (SH-2)");
            let answer = poll.receive().expect("a long-poll runs to completion (SH-2 E-11)").good();
            assert_eq!((answer["caught_up"].as_bool(), answer["head_seq"].as_u64()), (Some(true), Some(0)));
            server.wait()
        });
        assert!(status.success(), "round {round}: {status} (SH-1)");
        assert!(took < Duration::from_secs(10), "round {round}: the stop took {took:?} (SH-4)");

        let server = Server::start(home.path(), &[AGE]);
        let mut client = server.client();
        for ((topic, name), sent) in topics.iter().enumerate().zip(&sent) {
            let sent = sent.lock().expect("no client panicked");
            let view = client.view(name).expect("an answer").expect("it was created");
            judge(name, CLASSES[topic % 4], &sent, &view);
        }
        server.stop_well();
    }
}

/// Appends until the connection ends.
fn load(
    mut client: Client,
    topics: &[String],
    sent: &[Mutex<Sent>],
    stopping: &AtomicBool,
    next: &AtomicU64,
    mut random: Random,
) {
    loop {
        let topic = random.below(topics.len() as u64) as usize;
        let (write, count) = (next.fetch_add(1, Ordering::Relaxed), 1 + random.below(8));
        sent[topic].lock().expect("no client panicked").unanswered.insert(write, count);
        let path = format!("/v0/topics/{}", topics[topic]);
        match client.call("POST", &path, &body_of(write, count, None)) {
            Ok(reply) => {
                let first = reply.good()["first_seq"].as_u64().expect("a number");
                let mut sent = sent[topic].lock().expect("no client panicked");
                sent.unanswered.remove(&write);
                sent.acknowledged.insert(first, (write, count));
            }
            Err(error) => {
                assert!(stopping.load(Ordering::SeqCst), "the connection broke before the stop: {error}");
                return;
            }
        }
    }
}

fn judge(name: &str, class: &str, sent: &Sent, view: &View) {
    let highest = sent.acknowledged.iter().next_back().map_or(0, |(first, (_, count))| first + count - 1);
    let unanswered: u64 = sent.unanswered.values().sum();
    assert!((highest..=highest + unanswered).contains(&view.head), "{name}: head {}", view.head);
    assert_eq!(view.floor, 0, "{name}: no tombstone (I-59)");
    if class == "ephemeral" {
        assert_eq!((view.count, view.earliest), (0, view.head + 1), "{name} (I-59)");
        return;
    }
    // Nothing was deleted, so the head is exact only if every seq up to it is there (I-2, I-59).
    assert_eq!(view.head, view.count, "{name}: the head is exact (I-59)");
    for (first, (write, count)) in &sent.acknowledged {
        for index in 0..*count {
            let got = &view.records[(first + index - 1) as usize];
            let found = crate::kill::identity(name, got);
            assert_eq!((got.seq, found), (first + index, (*write, index, *count)), "{name} (SH-6)");
        }
    }
}

#[test]
fn after_a_stop_at_rest_the_next_start_shows_the_same() {
    let home = Dir::new("rest");
    let mut server = Server::start(home.path(), &[AGE]);
    let topics = crate::start::furnish(&mut server.client());
    let before: Vec<View> = crate::start::views(&mut server.client(), &topics);
    for _ in 0..3 {
        server.stop_well();
        server = Server::start(home.path(), &[AGE]);
        let after = crate::start::views(&mut server.client(), &topics);
        for ((name, before), after) in topics.iter().zip(&before).zip(&after) {
            assert!(before == after, "{name} after a clean stop (I-59): {after:?} instead of {before:?}");
        }
        crate::start::keys_are_known(&mut server.client());
    }
    server.stop_well();
}

/// Opens the event stream of a session over `topic`.
fn stream(server: &Server, topic: &str) -> TcpStream {
    let body = format!("{{\"topics\":{{\"{topic}\":{{}}}}}}");
    let session = server.client().call("POST", "/v0/watch", &body).expect("an answer").good();
    let url = session["stream_url"].as_str().expect("a path");
    let mut stream = TcpStream::connect(server.address).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    write!(stream, "GET {url} HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
    stream
}

#[test]
fn a_stop_is_the_last_event_of_every_stream() {
    let home = Dir::new("stop-streams");
    let server = Server::start(home.path(), &[]);
    let mut client = server.client();
    client.call("PUT", "/v0/topics/t", "{}").expect("an answer").good();
    let mut streams: Vec<TcpStream> = (0..8).map(|_| stream(&server, "t")).collect();
    for stream in &mut streams {
        let mut so_far = Vec::new();
        while !String::from_utf8_lossy(&so_far).contains("event: caught-up\n") {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).expect("the stream goes on");
            assert!(count > 0, "the stream ended early");
            so_far.extend_from_slice(&bytes[..count]);
        }
    }
    server.signal(libc::SIGTERM);
    for stream in &mut streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("a clean end (SH-3)");
        assert_eq!(rest.matches("event: ").count(), 1, "nothing else comes (SH-3): {rest}");
        assert!(rest.contains("event: error\n") && rest.contains("\"server_shutting_down\""), "SH-3: {rest}");
        assert!(rest.ends_with("0\r\n\r\n"), "the end of the answer is told (V-2): {rest}");
    }
    let (status, _) = server.wait();
    assert!(status.success(), "{status} (SH-1)");
}

#[test]
fn a_stop_cuts_off_after_ten_seconds_who_is_still_there() {
    let home = Dir::new("stop-late");
    let server = Server::start(home.path(), &[]);
    let mut client = server.client();
    client.call("PUT", "/v0/topics/t", "{}").expect("an answer").good();
    let record = format!("{{\"data\":\"{}\"}}", "x".repeat(900_000));
    for _ in 0..16 {
        let body = format!("{{\"records\":[{record}]}}");
        client.call("POST", "/v0/topics/t", &body).expect("an answer").good();
    }
    // One waits longer than a stop may take, one does not read what it asked for.
    let mut poll = server.client();
    poll.send("POST", "/v0/topics/t/diff", "{\"from_seq\":16,\"wait_ms\":30000}").expect("sent");
    let _deaf = stream(&server, "t");
    std::thread::sleep(Duration::from_millis(500));
    server.signal(libc::SIGTERM);
    let (status, took) = server.wait();
    assert!(status.success(), "{status} (SH-1)");
    let seconds = took.as_secs_f64();
    assert!(seconds > 9.0, "cut off after {seconds:.1} s already (SH-4)");
    assert!(poll.receive().is_err(), "its 30 s were not over, and it was cut off (SH-4)");
    let server = Server::start(home.path(), &[]);
    let view = server.client().view("t").expect("an answer").expect("it was created");
    assert_eq!((view.head, view.count), (16, 16), "SH-6");
    server.stop_well();
}
