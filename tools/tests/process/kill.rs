//! SIGKILL at random moments under load, with a ledger of everything that was acknowledged.
//!
//! Several clients share topics of all four classes ([`book`]); one more works alone on topics whose
//! state it can predict exactly ([`solo`]): a capped one, one that changes its class, some that are
//! deleted and recreated. After each kill the server starts with another number of cores and another
//! sealing age, now and then it is killed again while it recovers, and the ledgers judge what came back.

mod book;
mod solo;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::random::Random;
use crate::server::{Dir, Server, assert_whole, serve};
use book::Book;
pub(crate) use book::identity;
use solo::Solo;

/// Clients that share topics.
const WRITERS: u64 = 5;
const READERS: u64 = 2;

/// What every client of a round needs.
struct Round<'a> {
    address: SocketAddr,
    /// Set before the server is killed: from then on connections may break.
    over: AtomicBool,
    books: &'a [Mutex<Book>],
    next_write: &'a AtomicU64,
}

impl Round<'_> {
    fn connect(&self) -> Option<Client> {
        match Client::open(self.address) {
            Ok(client) => Some(client),
            Err(error) => {
                self.broken(&error);
                None
            }
        }
    }

    /// A connection ended: right only once the server was killed.
    fn broken(&self, error: &std::io::Error) {
        assert!(self.over.load(Ordering::SeqCst), "the connection broke while the server lived: {error}");
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Eight numbers for writes of one group.
    fn group(&self) -> u64 {
        self.next_write.fetch_add(8, Ordering::Relaxed)
    }
}

/// Whether a write or delete was taken; a refusal must be a passing one.
fn taken(reply: &Reply) -> bool {
    assert!(matches!(reply.status, 200 | 201 | 429), "{reply}");
    reply.status != 429
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn what_was_acknowledged_outlives_every_kill() {
    let rounds = setting("RUNELOG_KILL_ROUNDS", 8);
    let longest_ms = setting("RUNELOG_KILL_MS", 1200);
    let clock = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let seed = setting("RUNELOG_KILL_SEED", clock);
    println!("RUNELOG_KILL_SEED={seed}");
    let mut random = Random(seed);
    let home = Dir::new("kill");
    let topics = [
        ("fsync-a", "fsync"),
        ("fsync-b", "fsync"),
        ("disk-a", "disk"),
        ("disk-b", "disk"),
        ("memory-a", "memory"),
        ("ephemeral-a", "ephemeral"),
    ];
    let books: Vec<_> = topics.iter().map(|(name, class)| Mutex::new(Book::new(name, class))).collect();
    let next_write = AtomicU64::new(8);
    let mut solo = Solo::new();

    for round in 0..=rounds {
        let shards = (1 + random.below(3)).to_string();
        let age = ["0", "100", "400"][random.below(3) as usize];
        let settings = [("RUNELOG_SHARDS", shards.as_str()), ("RUNELOG_SEGMENT_MAX_AGE_MS", age)];
        while random.one_in(3) {
            kill_while_it_starts(&home, &settings, Duration::from_millis(1 + random.below(80)));
        }
        if round > 0 {
            assert_whole(&home.join("data"));
        }
        let server = Server::start(home.path(), &settings);
        let mut client = server.client();
        let began = Instant::now();
        let mut records = 0;
        for book in &books {
            let book = &mut *book.lock().expect("no client panicked");
            if round == 0 {
                let config = format!("{{\"durability\":\"{}\"}}", book.class);
                let path = format!("/v0/topics/{}", book.name);
                client.call("PUT", &path, &config).expect("an answer").good();
            }
            records += book.check(&mut client);
        }
        solo.check(&mut client);
        println!(
            "round {round}: {shards} cores, age {age}, {records} records checked in {:?}, {} writes so far",
            began.elapsed(),
            next_write.load(Ordering::Relaxed)
        );
        if round == rounds {
            server.stop_well();
            break;
        }
        if random.one_in(5) {
            server.kill(); // idle: recovery of what recovery left (I-90)
            continue;
        }
        let round =
            Round { address: server.address, over: false.into(), books: &books, next_write: &next_write };
        let load = Duration::from_millis(longest_ms / 8 + random.below(longest_ms.max(1)));
        std::thread::scope(|scope| {
            let (round, solo) = (&round, &mut solo);
            for _ in 0..WRITERS {
                let seed = random.next();
                scope.spawn(move || book::write(round, Random(seed)));
            }
            for _ in 0..READERS {
                let seed = random.next();
                scope.spawn(move || book::read(round, Random(seed)));
            }
            let seed = random.next();
            scope.spawn(move || solo.work(round, Random(seed)));
            std::thread::sleep(load);
            round.over.store(true, Ordering::SeqCst);
            server.kill();
        });
    }
}

/// Recovery is cut off, too (I-90, I-96).
fn kill_while_it_starts(home: &Dir, settings: &[(&str, &str)], after: Duration) {
    let mut command = serve(home.path(), settings);
    command.stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("the binary runs");
    std::thread::sleep(after);
    let _ = child.kill();
    let status = child.wait().expect("our child");
    assert_eq!(status.code(), None, "it ended by itself before it was killed: {status}");
}
