//! Every kind of client at once over two cores, killed and started again on its data, with one ledger that
//! has to balance in the end: every acknowledged write is found where it was acknowledged, every reader of
//! an event stream can account for every seq, every job whose producer was answered is acked once and never
//! comes back, and what routers copied is complete and in the order of its source.
//!
//! The short form runs with the other tests. The long one, 60 s with 64 writers, 1000 readers over 100
//! topics, 32 workers, 8 chains of routers and two kills:
//!
//! ```text
//! RUNELOG_INTEROP=full cargo test -p runelog --test process interop -- --nocapture
//! ```
//!
//! `RUNELOG_INTEROP_SECONDS`, `_KILLS`, `_WRITERS`, `_READERS`, `_WORKERS`, `_CHAINS`, `_PLAIN` change either.

mod ledger;
mod readers;
mod workers;
mod writers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::random::Random;
use crate::server::{Dir, Server, lasting_port};
use ledger::{Kind, Seen, Topic, View};

/// How much of everything.
#[derive(Debug)]
struct Plan {
    seconds: u64,
    kills: u64,
    /// One in eight writes jobs.
    writers: u64,
    readers: u64,
    workers: u64,
    /// Chains of two routers, from core to core.
    chains: u64,
    /// Topics that only take appends. One in eight has a cap.
    plain: u64,
    queues: u64,
}

impl Plan {
    fn from_env() -> Plan {
        let is_full = std::env::var("RUNELOG_INTEROP").is_ok_and(|form| form == "full");
        let of = |name: &str, short: u64, full: u64| {
            let default = if is_full { full } else { short };
            std::env::var(format!("RUNELOG_INTEROP_{name}"))
                .map_or(default, |text| text.parse().expect("a number"))
        };
        Plan {
            seconds: of("SECONDS", 4, 60),
            kills: of("KILLS", 1, 2),
            writers: of("WRITERS", 12, 64),
            readers: of("READERS", 40, 1000),
            workers: of("WORKERS", 8, 32),
            chains: of("CHAINS", 2, 8),
            plain: of("PLAIN", 12, 72),
            queues: of("QUEUES", 2, 4),
        }
    }

    fn topics(&self) -> Vec<Topic> {
        let class = |number: u64| if number.is_multiple_of(2) { "fsync" } else { "disk" };
        let mut topics = Vec::new();
        for number in 0..self.plain {
            let kind = if number % 8 == 7 { Kind::Capped } else { Kind::Plain };
            topics.push(Topic::new(format!("plain-{number}"), kind, class(number)));
        }
        for number in 0..self.chains {
            topics.push(Topic::new(format!("source-{number}"), Kind::Source, class(number)));
            topics.push(Topic::new(format!("middle-{number}"), Kind::Copy, class(number / 2)));
            topics.push(Topic::new(format!("dest-{number}"), Kind::Copy, class(number / 4)));
        }
        for number in 0..self.queues {
            topics.push(Topic::new(format!("queue-{number}"), Kind::Queue, class(number)));
        }
        topics
    }
}

/// What every client needs.
struct Load {
    address: SocketAddr,
    topics: Vec<Topic>,
    /// Even while the server is up. A connection may break once this is not what it was.
    epoch: AtomicU64,
    is_writing: AtomicBool,
    /// Every queue is empty, and workers go home.
    is_drained: AtomicBool,
    /// Where readers may stop, per topic.
    heads: OnceLock<Vec<u64>>,
    next_write: AtomicU64,
    faults: Mutex<Vec<String>>,
    ends_at: Instant,
}

impl Load {
    /// Something does not balance. Told at the end, beside the ledger.
    fn fault(&self, text: String) {
        let mut faults = self.faults.lock().expect("no client panicked");
        if faults.len() < 20 {
            eprintln!("FAULT: {text}");
        }
        faults.push(text);
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.ends_at
    }

    /// Connects while the server is up, and tells in which epoch. None if the time is over.
    fn connect<T>(&self, open: impl Fn(SocketAddr) -> std::io::Result<T>) -> Option<(u64, T)> {
        while !self.is_over() {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch % 2 == 1 {
                // Seldom: a thousand of these share the processor with a server that recovers.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            match open(self.address) {
                Ok(opened) if self.epoch.load(Ordering::SeqCst) == epoch => return Some((epoch, opened)),
                Ok(_) => {}
                Err(error) => self.broken(epoch, &error),
            }
        }
        self.fault("a client had to give up: no time left".into());
        None
    }

    /// A connection of that epoch broke: right only if the server was killed since.
    fn broken(&self, epoch: u64, error: &std::io::Error) {
        if self.epoch.load(Ordering::SeqCst) == epoch {
            self.fault(format!("a connection broke while the server lived: {error}"));
        }
    }

    fn of(&self, kinds: &[Kind]) -> Vec<usize> {
        (0..self.topics.len()).filter(|at| kinds.contains(&self.topics[*at].kind)).collect()
    }
}

#[test]
fn all_clients_together_balance_over_kills() {
    let plan = Plan::from_env();
    let clock = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let seed = std::env::var("RUNELOG_INTEROP_SEED").map_or(clock, |text| text.parse().expect("a number"));
    println!("RUNELOG_INTEROP_SEED={seed} {plan:?}");
    let mut random = Random(seed);
    let home = Dir::new("interop");
    let port = lasting_port();
    let settings = [("RUNELOG_PORT", port.as_str()), ("RUNELOG_TEST_MIN_HEARTBEAT_MS", "100")];
    let mut server = Server::start(home.path(), &settings);
    let load = Load {
        address: server.address,
        topics: plan.topics(),
        epoch: AtomicU64::new(0),
        is_writing: AtomicBool::new(true),
        is_drained: AtomicBool::new(false),
        heads: OnceLock::new(),
        next_write: AtomicU64::new(1),
        faults: Mutex::new(Vec::new()),
        ends_at: Instant::now() + Duration::from_secs(plan.seconds * 2 + 90),
    };
    set_up(&load, &plan, &mut server.client());

    let began = Instant::now();
    let (seen, views) = std::thread::scope(|scope| {
        let load = &load;
        let small = || std::thread::Builder::new().stack_size(256 << 10);
        let readers: Vec<_> = (0..plan.readers)
            .map(|number| {
                let watched = readers::choose(load, number);
                small().spawn_scoped(scope, move || readers::read(load, watched)).expect("a thread")
            })
            .collect();
        let mut writers = Vec::new();
        for number in 0..plan.writers {
            let kinds: &[Kind] =
                if number % 8 == 0 { &[Kind::Queue] } else { &[Kind::Plain, Kind::Capped, Kind::Source] };
            let (targets, random) = (load.of(kinds), Random(random.next()));
            writers.push(scope.spawn(move || writers::write(load, random, &targets)));
        }
        for number in 0..plan.workers {
            let random = Random(random.next());
            small().spawn_scoped(scope, move || workers::work(load, number, random)).expect("a thread");
        }

        for kill in 1..=plan.kills {
            let at = Duration::from_millis(plan.seconds * 1000 * kill / (plan.kills + 1));
            std::thread::sleep(at.saturating_sub(began.elapsed()));
            let killed = began.elapsed();
            load.epoch.fetch_add(1, Ordering::SeqCst);
            server.kill();
            server = Server::start(home.path(), &settings);
            load.epoch.fetch_add(1, Ordering::SeqCst);
            println!("killed after {killed:?}, up again after {:?}", began.elapsed());
        }
        std::thread::sleep(Duration::from_secs(plan.seconds).saturating_sub(began.elapsed()));
        load.is_writing.store(false, Ordering::SeqCst);
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        println!("writers ended after {:?}", began.elapsed());

        let mut client = server.client();
        ledger::settle(load, &plan, &mut client);
        let heads = load.topics.iter().map(|topic| ledger::head(&mut client, &topic.name)).collect();
        load.heads.set(heads).expect("set once");
        let seen: Vec<Seen> =
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect();
        println!("readers ended after {:?}", began.elapsed());
        ledger::wait_for_empty_queues(load, &mut client);
        load.is_drained.store(true, Ordering::SeqCst);
        let views: Vec<View> =
            load.topics.iter().map(|topic| ledger::view(&mut client, &topic.name)).collect();
        // Streams of workers end with their server (Q-76).
        load.epoch.fetch_add(1, Ordering::SeqCst);
        server.stop_well();
        (seen, views)
    });

    // What was there at the stop is there after it (I-59).
    let server = Server::start(home.path(), &settings);
    let mut client = server.client();
    for (topic, view) in load.topics.iter().zip(&views) {
        if ledger::view(&mut client, &topic.name) != *view {
            load.fault(format!("{}: not as before the stop", topic.name));
        }
    }
    server.stop_well();

    ledger::balance(&load, &plan, &views, &seen);
    let faults = load.faults.into_inner().expect("no client panicked");
    assert!(faults.is_empty(), "{} entries do not balance, the first: {}", faults.len(), faults[0]);
}

fn set_up(load: &Load, plan: &Plan, client: &mut Client) {
    for topic in &load.topics {
        let path = format!("/v0/topics/{}", topic.name);
        client.call("PUT", &path, &topic.config()).expect("an answer").good();
    }
    for number in 0..plan.chains {
        let guarantee = ledger::guarantee(number);
        for (from, to) in [("source", "middle"), ("middle", "dest")] {
            let body =
                format!(r#"{{"source":"{from}-{number}","dest":"{to}-{number}","guarantee":"{guarantee}"}}"#);
            let path = format!("/v0/routers/{from}-{number}");
            client.call("PUT", &path, &body).expect("an answer").good();
        }
    }
}
