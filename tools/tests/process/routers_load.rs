//! SIGKILL while routers copy, and while others write to their destinations, delete from them and work on
//! them. What was shown and what was acknowledged is put down, and judged after each start (I-62 to I-67).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::ask::{Ask, live, view};
use crate::client::Client;
use crate::random::Random;
use crate::server::{Dir, Server};

/// A router's ends, and what clients know of them. Records are numbers, each sent once.
#[derive(Default)]
struct Book {
    is_queue: bool,
    is_once: bool,
    /// Acknowledged writes: to the source, and to dest with their seqs.
    sent: BTreeSet<u64>,
    direct: BTreeMap<u64, u64>,
    /// Writes without an answer, to either.
    unsure: BTreeSet<u64>,
    /// By seq, what readers of dest were shown.
    shown: BTreeMap<u64, u64>,
    /// Deleted or acked, with an answer and without.
    removed: BTreeSet<u64>,
    perhaps_removed: BTreeSet<u64>,
    /// Seqs of dest that were found empty after they had been shown.
    gone: BTreeSet<u64>,
}

struct Load<'a> {
    address: SocketAddr,
    over: &'a AtomicBool,
    next: &'a AtomicU64,
}

impl Load<'_> {
    /// Repeats a step until the server is gone.
    fn run(&self, mut step: impl FnMut(&mut Client) -> io::Result<()>) {
        let Ok(mut client) = Client::open(self.address) else { return };
        while !self.over.load(Ordering::SeqCst) {
            if let Err(error) = step(&mut client) {
                assert!(self.over.load(Ordering::SeqCst), "broken while the server lived: {error}");
            }
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn records(data: &[u64]) -> String {
    let records: Vec<Value> =
        data.iter().map(|data| json!({"data": data, "tag": format!("t{data}")})).collect();
    json!({"records": records}).to_string()
}

/// One write of a few records, to the source or straight to dest.
fn write(
    load: &Load<'_>,
    client: &mut Client,
    at: usize,
    book: &Mutex<Book>,
    direct: bool,
) -> io::Result<()> {
    let count = if direct { 1 } else { 1 + load.number() % 7 };
    let data: Vec<u64> = (0..count).map(|_| load.number()).collect();
    book.lock().expect("no client panicked").unsure.extend(&data);
    let topic = if direct { "dest" } else { "source" };
    let answer = client.call("POST", &format!("/v0/topics/{topic}-{at}"), &records(&data))?.good();
    let first = answer["first_seq"].as_u64().expect("a seq");
    let book = &mut *book.lock().expect("no client panicked");
    book.unsure.retain(|number| !data.contains(number));
    match direct {
        true => _ = book.direct.insert(first, data[0]),
        false => book.sent.extend(data),
    }
    Ok(())
}

/// Reads the end of dest, and deletes one of what it saw.
fn read_and_remove(
    client: &mut Client,
    at: usize,
    book: &Mutex<Book>,
    random: &mut Random,
) -> io::Result<()> {
    let dest = format!("dest-{at}");
    let (last, is_queue) = {
        let book = book.lock().expect("no client panicked");
        (book.shown.keys().next_back().copied().unwrap_or(0), book.is_queue)
    };
    let mut seen = Vec::new();
    for got in client.read_some(&dest, last.saturating_sub(random.below(30)), 50, 20)? {
        let data: u64 = got.data.parse().expect("a number (I-97)");
        let book = &mut *book.lock().expect("no client panicked");
        let before = book.shown.insert(got.seq, data);
        assert!(
            before.is_none_or(|before| before == data),
            "{dest}: seq {} was {before:?}, is {data}",
            got.seq
        );
        seen.push(data);
    }
    let Some(data) = seen.get(random.below(40) as usize).copied().filter(|_| !is_queue) else {
        return Ok(());
    };
    book.lock().expect("no client panicked").perhaps_removed.insert(data);
    let body = json!({"match": ["tag", "Eq", format!("t{data}")]}).to_string();
    client.call("POST", &format!("/v0/topics/{dest}/delete"), &body)?.good();
    book.lock().expect("no client panicked").removed.insert(data);
    Ok(())
}

/// Claims a few jobs, acks most of them, gives the others back.
fn work(client: &mut Client, at: usize, book: &Mutex<Book>, random: &mut Random) -> io::Result<()> {
    let path = |what: &str| format!("/v0/topics/dest-{at}/{what}");
    let claim = client.call("POST", &path("claim"), "{\"node\":\"w\",\"max\":4}")?.good();
    let (mut done, mut back) = (Vec::new(), Vec::new());
    for job in claim["claimed"].as_array().expect("jobs") {
        let (seq, data) = (job["$seq"].as_u64().expect("a seq"), job["data"].as_u64().expect("a number"));
        let book = &mut *book.lock().expect("no client panicked");
        assert!(!book.removed.contains(&data), "dest-{at}: {job} was acked (I-65 I-87)");
        let before = book.shown.insert(seq, data);
        assert!(before.is_none_or(|before| before == data), "dest-{at}: {job}, and was {before:?} (I-63)");
        match random.one_in(5) {
            true => back.push(seq),
            false => {
                book.perhaps_removed.insert(data);
                done.push((seq, data));
            }
        }
    }
    let seqs: Vec<u64> = done.iter().map(|(seq, _)| *seq).collect();
    let answer = client.call("POST", &path("ack"), &json!({"node": "w", "seqs": seqs}).to_string())?.good();
    assert_eq!(answer["skipped"], json!([]), "I-82");
    book.lock().expect("no client panicked").removed.extend(done.iter().map(|(_, data)| *data));
    client.call("POST", &path("nack"), &json!({"node": "w", "seqs": back}).to_string())?.good();
    Ok(())
}

impl Book {
    /// Judges what a start brought back, and takes it for the truth.
    fn check(&mut self, client: &mut Client, at: usize) -> usize {
        let source: Vec<u64> =
            live(&view(client, &format!("source-{at}"))).iter().map(|(_, data)| *data).collect();
        let whole: BTreeSet<u64> = source.iter().copied().collect();
        for data in &self.sent {
            assert!(whole.contains(data), "source-{at}: {data} was acknowledged (I-51)");
        }
        let view = view(client, &format!("dest-{at}"));
        let found: BTreeMap<u64, u64> = live(&view).into_iter().collect();
        let there: BTreeSet<u64> = found.values().copied().collect();
        if self.is_once {
            assert_eq!(there.len(), found.len(), "dest-{at}: a copy twice (I-67)");
        }
        let may_be_gone = |data: &u64| self.removed.contains(data) || self.perhaps_removed.contains(data);
        for (seq, data) in &self.shown {
            match found.get(seq) {
                Some(other) => {
                    assert_eq!(other, data, "dest-{at}: seq {seq} changed (I-63)");
                    assert!(!self.gone.contains(seq), "dest-{at}: seq {seq} came back (I-63 I-65)");
                }
                None => assert!(may_be_gone(data), "dest-{at}: {data} at {seq} was shown and is lost (I-63)"),
            }
        }
        for data in &self.removed {
            assert!(!there.contains(data), "dest-{at}: {data} was deleted and is back (I-65)");
        }
        for (seq, data) in &self.direct {
            let right = found.get(seq) == Some(data) || may_be_gone(data);
            assert!(right, "dest-{at}: direct write {data} at {seq} (I-64): {:?}", found.get(seq));
        }
        for data in &source {
            assert!(there.contains(data) || may_be_gone(data), "dest-{at}: no copy of {data} (I-62)");
        }
        // In the order of the source, first copies only: the tail may be there again.
        let mut copied = BTreeSet::new();
        let copies: Vec<u64> =
            found.values().filter(|data| whole.contains(data) && copied.insert(**data)).copied().collect();
        let wanted: Vec<u64> = source.iter().filter(|data| copied.contains(data)).copied().collect();
        assert_eq!(copies, wanted, "dest-{at}: the order of the source (I-60)");
        for data in there.difference(&whole) {
            let known = self.unsure.contains(data) || self.direct.values().any(|direct| direct == data);
            assert!(known, "dest-{at}: {data} is nobody's (I-97)");
        }
        self.gone.extend(self.shown.keys().filter(|seq| !found.contains_key(seq)));
        self.shown.extend(&found);
        // A delete without an answer has happened, or never will.
        self.perhaps_removed.retain(|data| !there.contains(data));
        self.removed.append(&mut self.perhaps_removed);
        found.len()
    }
}

#[test]
fn routers_keep_their_word_through_kills() {
    let home = Dir::new("routers-load");
    let seed = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut books: Vec<Mutex<Book>> = Vec::new();
    let next = AtomicU64::new(1);
    let mut server = Server::start(home.path(), &[]);
    let mut client = server.client();
    for (at, (source, dest, is_queue, is_once)) in
        [("disk", "disk", false, false), ("fsync", "disk", true, false), ("disk", "fsync", true, true)]
            .into_iter()
            .enumerate()
    {
        client.topic(&format!("source-{at}"), &json!({"durability": source}).to_string());
        let kind = if is_queue { "queue" } else { "log" };
        client.topic(&format!("dest-{at}"), &json!({"durability": dest, "type": kind}).to_string());
        let more = if is_once { ",\"guarantee\":\"exactly_once\"" } else { "" };
        client.link(&format!("router-{at}"), &format!("source-{at}"), &format!("dest-{at}"), more);
        books.push(Mutex::new(Book { is_queue, is_once, ..Book::default() }));
    }
    for round in 0..6 {
        drop(client);
        let over = AtomicBool::new(false);
        let load = &Load { address: server.address, over: &over, next: &next };
        std::thread::scope(|scope| {
            for (at, book) in books.iter().enumerate() {
                scope.spawn(move || load.run(|client| write(load, client, at, book, false)));
                let mut random = Random(random.next());
                scope.spawn(move || {
                    load.run(|client| match random.below(3) {
                        0 => write(load, client, at, book, true),
                        1 if book.lock().expect("no client panicked").is_queue => {
                            work(client, at, book, &mut random)
                        }
                        _ => read_and_remove(client, at, book, &mut random),
                    });
                });
            }
            std::thread::sleep(Duration::from_millis(80 + random.below(500)));
            over.store(true, Ordering::SeqCst);
            server.kill();
        });
        let shards = (1 + random.below(3)).to_string();
        let age = ["0", "100", "300"][random.below(3) as usize];
        server = Server::start(
            home.path(),
            &[("RUNELOG_SHARDS", shards.as_str()), ("RUNELOG_SEGMENT_MAX_AGE_MS", age)],
        );
        client = server.client();
        for (at, book) in books.iter_mut().enumerate() {
            let count = book.get_mut().expect("no client panicked").check(&mut client, at);
            println!("round {round}, {shards} cores, age {age}: {count} records in dest-{at}");
        }
    }
    server.stop_well();
}
