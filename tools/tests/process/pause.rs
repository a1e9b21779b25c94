//! The whole server stops for moments, as a virtual machine or a debugger makes it (SIGSTOP, SIGCONT):
//! no wake-up may be lost over it, within a core or between cores.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::random::{Random, body_of};
use crate::server::{Dir, Server};

const PAUSES: u64 = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// A stall of seconds is a lost wake-up; on a busy test machine a request may still take long.
const LONGEST: Duration = Duration::from_secs(10);
const TOPICS: u64 = 8;

struct Load {
    address: SocketAddr,
    over: AtomicBool,
    requests: AtomicU64,
    longest_us: AtomicU64,
}

impl Load {
    fn call(&self, client: &mut Client, method: &str, path: &str, body: &str) -> serde_json::Value {
        let began = Instant::now();
        let reply = client.call(method, path, body).expect("an answer");
        let took = began.elapsed();
        assert!(took < LONGEST, "{method} {path} took {took:?}");
        self.longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        reply.good()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    fn client(&self) -> Client {
        Client::open(self.address).expect("the server accepts")
    }
}

#[test]
fn every_request_is_answered_although_the_server_is_stopped_again_and_again() {
    let home = Dir::new("pause");
    let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "2")]);
    let mut client = server.client();
    for topic in 0..TOPICS {
        let class = ["fsync", "disk"][topic as usize % 2];
        let config = format!("{{\"durability\":\"{class}\",\"cap_records\":1000}}");
        client.call("PUT", &format!("/v0/topics/t{topic}"), &config).expect("an answer").good();
    }
    let load = Load { address: server.address, over: false.into(), requests: 0.into(), longest_us: 0.into() };
    let mut random = Random(7);
    std::thread::scope(|scope| {
        let load = &load;
        for id in 0..6 {
            scope.spawn(move || append(load, id));
        }
        for id in 0..6 {
            scope.spawn(move || wait_for_records(load, id));
        }
        for _ in 0..4 {
            scope.spawn(move || ask_every_core(load));
        }
        for _ in 0..PAUSES {
            std::thread::sleep(Duration::from_millis(20 + random.below(60)));
            server.signal(libc::SIGSTOP);
            std::thread::sleep(PAUSE);
            server.signal(libc::SIGCONT);
        }
        // Whatever is on its way now is answered, although soon nothing new comes in to wake a core.
        std::thread::sleep(Duration::from_millis(300));
        load.over.store(true, Ordering::SeqCst);
    });
    println!(
        "{} requests, the longest took {} ms",
        load.requests.load(Ordering::Relaxed),
        load.longest_us.load(Ordering::Relaxed) / 1000
    );
    server.stop_well();
}

/// Each connection goes round all topics, so that half of its requests cross to the other core.
fn append(load: &Load, id: u64) {
    let mut client = load.client();
    let mut write = id << 32;
    while load.goes_on() {
        write += 1;
        load.call(&mut client, "POST", &format!("/v0/topics/t{}", write % TOPICS), &body_of(write, 2, None));
    }
}

/// Long-polls that mostly find something at once, and now and then wait.
fn wait_for_records(load: &Load, id: u64) {
    let mut client = load.client();
    let topic = id % TOPICS;
    let mut from = 0;
    while load.goes_on() {
        let ask = format!("{{\"from_seq\":{from},\"limit\":1000,\"wait_ms\":1000}}");
        let answer = load.call(&mut client, "POST", &format!("/v0/topics/t{topic}/diff"), &ask);
        from = answer["next_from_seq"].as_u64().expect("a number");
    }
}

fn ask_every_core(load: &Load) {
    let mut client = load.client();
    while load.goes_on() {
        load.call(&mut client, "GET", "/v0/topics?prefix=t", "");
        load.call(&mut client, "GET", "/v0/topics/t3", "");
        std::thread::sleep(Duration::from_millis(2));
    }
}
