//! Clients that ask at random and write down what they are told, and a server that is killed under them.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checker::Span;
use super::history::{Answer, Ask, Beside, Counts, History, Job, Named, Op, Record, Token};
use super::model::{Cap, Settings};
use crate::client::{Client, Reply};
use crate::random::Random;
use crate::server::{Dir, Server};

/// Clients at work at once, and topics that they share at once.
const CLIENTS: u64 = 8;
const TOPICS_AT_ONCE: usize = 3;
const NODES: u64 = 3;
const TAGS: u64 = 3;

/// How long a recording is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) topics: usize,
    /// Operations of each, about.
    pub(crate) ops: u64,
    pub(crate) kills: u64,
    /// No server lives longer under load.
    pub(crate) life_ms: u64,
}

/// A topic at work.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    asked: AtomicU64,
    /// A kill took more than can be known.
    over: AtomicBool,
    notes: Mutex<Notes>,
}

/// What clients of a topic know from one another.
#[derive(Default)]
struct Notes {
    head: u64,
    next_key: u64,
    /// Leases, the latest last.
    leases: Vec<(u8, u64, Token)>,
    tokens: HashSet<Token>,
    /// The first `$ts` seen of each seq.
    times: BTreeMap<u64, i64>,
}

/// Everything that clients share.
struct Life<'a> {
    address: SocketAddr,
    subjects: &'a [Subject],
    length: Length,
    next_write: &'a AtomicU64,
    origin: Instant,
    /// Set before the server is killed: from then on connections may break.
    killed: AtomicBool,
}

/// What was recorded.
#[derive(Default)]
pub(crate) struct Recorded {
    /// Each topic's settings and history.
    pub(crate) topics: Vec<(String, Settings, History)>,
    pub(crate) kills: u64,
    /// Operations that were answered with 429: they are in no history.
    pub(crate) refused: u64,
}

fn any_settings(random: &mut Random) -> Settings {
    let queue = random.one_in(2);
    let class = ["fsync", "disk", "fsync", "disk", "memory", "ephemeral"][random.below(6) as usize];
    // The oldest jobs of a queue that go while they are leased are no part of the contract.
    let cap = match random.below(3) {
        0 => Cap::Reject(6 + random.below(10)),
        1 if !queue => Cap::Old(4 + random.below(12)),
        _ => Cap::None,
    };
    Settings { class, queue, leases_durable: queue && random.one_in(2), cap }
}

/// Runs one server after the other over `home`, killed under its clients, until all topics had their load.
pub(crate) fn record(home: &Dir, length: Length, random: &mut Random) -> Recorded {
    let origin = Instant::now();
    let next_write = AtomicU64::new(1);
    let subjects: Vec<Subject> = (0..length.topics)
        .map(|index| Subject {
            name: format!("t{index}-{}", random.below(1 << 30)),
            settings: any_settings(random),
            asked: AtomicU64::new(0),
            over: AtomicBool::new(false),
            notes: Mutex::default(),
        })
        .collect();
    let mut histories: Vec<History> = subjects.iter().map(|_| Vec::new()).collect();
    let mut recorded = Recorded::default();
    let mut ended = 0;
    // Without a kill there is one life, and an orderly stop once all is done.
    let lives = length.kills.max(1);
    for life in 0..=lives {
        let server = Server::start(home.path(), &[("RUNELOG_SEGMENT_MAX_AGE_MS", "100")]);
        let mut client = server.client();
        let live = Life {
            address: server.address,
            subjects: &subjects,
            length,
            next_write: &next_write,
            origin,
            killed: AtomicBool::new(false),
        };
        for (subject, history) in subjects.iter().zip(&mut histories) {
            if life == 0 {
                client.call("PUT", &subject.path(""), &subject.settings.json()).expect("an answer").good();
            } else if !history.is_empty() && !subject.is_over() {
                live.recovered(subject, history, &mut client, ended);
                if life == lives {
                    // All is quiet: what is there in the end is what everything led to.
                    history.extend(live.look(subject, &mut client));
                }
            }
        }
        if life == lives {
            server.stop_well();
            break;
        }
        let killed_after = Duration::from_millis(5 + random.below(length.life_ms));
        let work: Vec<Work> = std::thread::scope(|scope| {
            let seeds: Vec<_> = (1..=CLIENTS).map(|number| (number, Random(random.next()))).collect();
            let live = &live;
            let clients: Vec<_> = seeds
                .into_iter()
                .map(|(number, seed)| scope.spawn(move || live.work(number, seed)))
                .collect();
            if length.kills > 0 {
                std::thread::sleep(killed_after);
                live.killed.store(true, Ordering::SeqCst);
                server.kill();
                recorded.kills += 1;
                ended = live.ns();
                return clients.into_iter().map(joined).collect();
            }
            let work = clients.into_iter().map(joined).collect();
            server.stop_well();
            ended = live.ns();
            work
        });
        for Work { spans, refused } in work {
            recorded.refused += refused;
            for (index, mut span) in spans {
                // What was answered, was before the server ended; what was asked after it, never.
                span.ended = span.ended.min(ended);
                if span.began <= ended {
                    histories[index].push(span);
                }
            }
        }
        let lost =
            |class| if length.kills > 0 { !matches!(class, "disk" | "fsync") } else { class == "ephemeral" };
        for (subject, history) in subjects.iter().zip(&histories) {
            if !history.is_empty() && lost(subject.settings.class) {
                subject.over.store(true, Ordering::SeqCst);
            }
        }
    }
    let all = subjects.iter().zip(histories).filter(|(_, history)| !history.is_empty());
    recorded.topics =
        all.map(|(subject, history)| (subject.name.clone(), subject.settings, history)).collect();
    recorded
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn clock_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

fn number(value: &Value, member: &str) -> u64 {
    value[member].as_u64().unwrap_or_else(|| panic!("{member} in {value}"))
}

fn numbers(value: &Value) -> Vec<u64> {
    let all = value.as_array().unwrap_or_else(|| panic!("an array: {value}"));
    all.iter().map(|one| one.as_u64().expect("a number")).collect()
}

impl Subject {
    fn path(&self, rest: &str) -> String {
        format!("/v0/topics/{}{rest}", self.name)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().expect("no client panicked")
    }

    /// A record or job as shown; one that was shown before is the same (I-5).
    fn shown(&self, value: &Value) -> (u64, Record) {
        let (seq, ts) = (number(value, "$seq"), number(value, "$ts") as i64);
        let tag = value["$tag"].as_str().and_then(|tag| tag.strip_prefix('t')?.parse().ok());
        let tag = tag.unwrap_or_else(|| panic!("a tag in {value}"));
        let first = *self.notes().times.entry(seq).or_insert(ts);
        assert_eq!(ts, first, "{}: the time of seq {seq} changed (I-5)", self.name);
        (seq, Record { data: number(value, "data"), tag })
    }
}

/// What one client did in one life of the server.
#[derive(Default)]
struct Work {
    spans: Vec<(usize, Span<Op>)>,
    refused: u64,
}

impl Life<'_> {
    /// Asks until all topics had their load, or the server is gone.
    fn work(&self, number: u64, mut random: Random) -> Work {
        let mut work = Work::default();
        let Ok(mut client) = Client::open(self.address) else {
            assert!(self.killed.load(Ordering::SeqCst), "the server lives and takes no connection");
            return work;
        };
        let mut idle = 0;
        while idle < TOPICS_AT_ONCE {
            let slot = random.below(TOPICS_AT_ONCE as u64) as usize;
            let Some(index) = self.topic_of(slot) else {
                idle += 1;
                continue;
            };
            idle = 0;
            let subject = &self.subjects[index];
            let ask = self.any_ask(subject, &mut random);
            match self.ask(subject, number, ask, &mut client) {
                (Ok(false), _) => work.refused += 1,
                (Ok(true), span) => work.spans.push((index, span)),
                (Err(error), span) => {
                    let killed = self.killed.load(Ordering::SeqCst);
                    assert!(killed, "the connection broke while the server lived: {error} after {}", span.op);
                    work.spans.push((index, span));
                    return work;
                }
            }
            if random.one_in(6) {
                std::thread::sleep(Duration::from_micros(random.below(3000)));
            }
        }
        work
    }

    /// The topic that a slot is at: the first of its own that did not have its load.
    fn topic_of(&self, slot: usize) -> Option<usize> {
        let own = (0..self.subjects.len()).skip(slot).step_by(TOPICS_AT_ONCE);
        own.into_iter().find(|index| {
            let subject = &self.subjects[*index];
            !subject.is_over() && subject.asked.fetch_add(1, Ordering::Relaxed) < self.length.ops
        })
    }

    fn ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Notes what a topic is after the server ended at `ended`: its head, before anybody else asks.
    fn recovered(&self, subject: &Subject, history: &mut History, client: &mut Client, ended: u64) {
        let clock = clock_ms();
        let reply = client.call("GET", &subject.path("?touch=false"), "").expect("an answer").good();
        let head = number(&reply, "head_seq");
        subject.notes().head = head;
        let answer = Some(Answer::Recovered { head });
        let op =
            Op { client: 0, ask: Ask::Crash, answer, clock_ms: (clock, clock), beside: Beside::default() };
        history.push(Span { op, began: ended + 1, ended: self.ns(), certain: true });
    }

    /// The last questions to a topic.
    fn look(&self, subject: &Subject, client: &mut Client) -> Vec<Span<Op>> {
        let mut asks = vec![Ask::State, Ask::Read { from: 0, limit: 1000, wait_ms: 0 }];
        if subject.settings.queue {
            asks.push(Ask::Claim { node: 9, max: 1000, lease_ms: 1000 });
            asks.push(Ask::State);
        }
        asks.into_iter()
            .map(|ask| {
                let (outcome, span) = self.ask(subject, 0, ask, client);
                assert!(outcome.expect("an answer"), "refused");
                span
            })
            .collect()
    }

    fn any_ask(&self, subject: &Subject, random: &mut Random) -> Ask {
        let mut notes = subject.notes();
        let head = notes.head;
        let queue = subject.settings.queue;
        match random.below(if queue { 18 } else { 10 }) {
            0..4 => {
                let key = random.one_in(2).then(|| match notes.next_key {
                    // Again: of a write that is under way, was answered, or ended with a kill.
                    next if next > 0 && random.one_in(2) => next - 1 - random.below(next.min(4)),
                    next => {
                        notes.next_key += 1;
                        next
                    }
                });
                let count = 1 + random.below(3);
                let write = self.next_write.fetch_add(count, Ordering::Relaxed);
                Ask::Append { write, count, tag: random.below(TAGS) as u8, key }
            }
            4..7 => {
                let from = match random.below(3) {
                    0 => head,
                    _ => random.below(head + 1),
                };
                let limit = if random.one_in(3) { 1 + random.below(4) } else { 1000 };
                let wait_ms = if random.one_in(3) { random.below(12) } else { 0 };
                Ask::Read { from, limit, wait_ms }
            }
            7 | 8 => Ask::State,
            9 => {
                let before = random.one_in(2).then(|| 1 + random.below(head + 2));
                let tag = (before.is_none() || random.one_in(4)).then(|| random.below(TAGS) as u8);
                Ask::Delete { before, tag }
            }
            10..14 => Ask::Claim {
                node: random.below(NODES) as u8,
                max: 1 + random.below(3),
                lease_ms: [100, 150, 1000, 60_000][random.below(4) as usize],
            },
            settle => {
                let (node, jobs) = any_jobs(&notes, random);
                match settle {
                    14 | 15 => Ask::Ack { node, jobs },
                    16 => Ask::Nack { node, jobs, delay_ms: random.below(3) * random.below(60) },
                    _ => Ask::Extend { node, jobs, lease_ms: [100, 200, 60_000][random.below(3) as usize] },
                }
            }
        }
    }

    /// Whether the question was taken, or why nobody knows; and what to write down.
    fn ask(
        &self,
        subject: &Subject,
        number: u64,
        ask: Ask,
        client: &mut Client,
    ) -> (io::Result<bool>, Span<Op>) {
        let (method, path, body) = request(&ask);
        let clock = clock_ms();
        let began = self.ns();
        let reply = client.call(method, &subject.path(path), &body);
        let ended = self.ns();
        let mut op = Op {
            client: number,
            ask,
            answer: None,
            clock_ms: (clock, clock_ms()),
            beside: Beside::default(),
        };
        let taken = reply.map(|reply| {
            let taken = reply.status != 429;
            if taken {
                op.answer = Some(answer(subject, &op.ask, &reply));
            }
            taken
        });
        let certain = op.answer.is_some();
        (taken, Span { op, began, ended: if certain { ended } else { u64::MAX }, certain })
    }
}

/// Jobs to settle: mostly of one holder, now and then a stranger's, one twice, or one that never was.
fn any_jobs(notes: &Notes, random: &mut Random) -> (u8, Vec<Named>) {
    let late = notes.leases.len().saturating_sub(12);
    let pick = |random: &mut Random| match notes.leases.len() - late {
        0 => (0, 1, 0),
        count => notes.leases[late + random.below(count as u64) as usize],
    };
    let node = if random.one_in(8) { random.below(NODES) as u8 } else { pick(random).0 };
    let mut jobs: BTreeMap<u64, Option<Token>> = BTreeMap::new();
    for _ in 0..=random.below(3) {
        let (holder, seq, token) = pick(random);
        if holder == node || random.one_in(4) {
            jobs.insert(seq, random.one_in(2).then_some(token));
        }
    }
    if jobs.is_empty() || random.one_in(10) {
        jobs.insert(1 + random.below(notes.head + 2), None);
    }
    (node, jobs.into_iter().collect())
}

fn request(ask: &Ask) -> (&'static str, &'static str, String) {
    let named = |node: &u8, jobs: &[Named]| {
        let seqs: Vec<_> = jobs.iter().map(|(seq, _)| seq.to_string()).collect();
        let fence =
            |token: &Option<Token>| token.map_or("\"\"".into(), |token| format!("\"lease_{token:032x}\""));
        let fences: Vec<String> = jobs.iter().map(|(_, token)| fence(token)).collect();
        format!("{{\"node\":\"n{node}\",\"seqs\":[{}],\"lease_ids\":[{}]", seqs.join(","), fences.join(","))
    };
    match ask {
        Ask::Append { write, count, tag, key } => {
            let record = |index| format!("{{\"data\":{},\"tag\":\"t{tag}\"}}", write + index);
            let records: Vec<_> = (0..*count).map(record).collect();
            let key = key.map_or(String::new(), |key| format!(",\"idempotency_key\":\"k{key}\""));
            ("POST", "", format!("{{\"records\":[{}]{key}}}", records.join(",")))
        }
        Ask::Read { from, limit, wait_ms } => {
            let rest = format!("\"limit\":{limit},\"wait_ms\":{wait_ms},\"include_tags\":true");
            ("POST", "/diff", format!("{{\"from_seq\":{from},{rest}}}"))
        }
        Ask::State => ("GET", "", String::new()),
        Ask::Delete { before, tag } => {
            let before = before.map(|before| format!("\"before_seq\":{before}"));
            let tag = tag.map(|tag| format!("\"match\":\"t{tag}\""));
            let parts: Vec<_> = before.into_iter().chain(tag).collect();
            ("POST", "/delete", format!("{{{}}}", parts.join(",")))
        }
        Ask::Claim { node, max, lease_ms } => {
            ("POST", "/claim", format!("{{\"node\":\"n{node}\",\"max\":{max},\"lease_ms\":{lease_ms}}}"))
        }
        Ask::Ack { node, jobs } => ("POST", "/ack", named(node, jobs) + "}"),
        Ask::Nack { node, jobs, delay_ms } => {
            ("POST", "/nack", format!("{},\"delay_ms\":{delay_ms}}}", named(node, jobs)))
        }
        Ask::Extend { node, jobs, lease_ms } => {
            ("POST", "/extend", format!("{},\"lease_ms\":{lease_ms}}}", named(node, jobs)))
        }
        Ask::Crash => unreachable!("nobody asks for it"),
    }
}

/// Understands an answer, and notes what others can make use of.
fn answer(subject: &Subject, ask: &Ask, reply: &Reply) -> Answer {
    let value = reply.json();
    if reply.status == 422 {
        assert!(matches!(ask, Ask::Append { .. }), "{reply}");
        let detail = &value["error"]["detail"];
        return Answer::Full { head: number(detail, "head_seq"), earliest: number(detail, "earliest_seq") };
    }
    assert_eq!(reply.status, 200, "{ask:?}: {reply}");
    let head = || {
        let head = number(&value, "head_seq");
        let mut notes = subject.notes();
        notes.head = notes.head.max(head);
        head
    };
    let list = |member: &str| {
        value[member]
            .as_array()
            .unwrap_or_else(|| panic!("{member} in {value}"))
            .iter()
            .map(|one| subject.shown(one))
    };
    let counts =
        |value: &Value| Counts { ready: number(value, "ready"), in_flight: number(value, "in_flight") };
    match ask {
        Ask::Append { .. } => {
            let (first, last) = (number(&value, "first_seq"), number(&value, "last_seq"));
            assert_eq!(numbers(&value["seqs"]), (first..=last).collect::<Vec<_>>(), "W-2");
            Answer::Appended { first, last, head: head(), deduped: value["deduped"] == true }
        }
        Ask::Read { .. } => {
            let tombstone = &value["tombstone"];
            let gap =
                (!tombstone.is_null()).then(|| (number(tombstone, "gap_from"), number(tombstone, "gap_to")));
            let (next, earliest) = (number(&value, "next_from_seq"), number(&value, "earliest_seq"));
            Answer::Read { records: list("records").collect(), next, head: head(), earliest, gap }
        }
        Ask::State => Answer::State {
            head: head(),
            earliest: number(&value, "earliest_seq"),
            count: number(&value, "count"),
            queue: subject.settings.queue.then(|| counts(&value["queue"])),
        },
        Ask::Delete { .. } => Answer::Deleted {
            deleted: number(&value, "deleted"),
            head: head(),
            earliest: number(&value, "earliest_seq"),
            count: number(&value, "count"),
        },
        Ask::Claim { node, .. } => {
            let all = value["claimed"].as_array().expect("jobs");
            let jobs: Vec<Job> = list("claimed")
                .zip(all)
                .map(|((seq, record), one)| {
                    let id = one["lease_id"].as_str().and_then(|id| id.strip_prefix("lease_"));
                    let token = id.and_then(|id| Token::from_str_radix(id, 16).ok());
                    let token = token.unwrap_or_else(|| panic!("Q-13: {one}"));
                    Job { seq, token, deliveries: number(one, "deliveries"), record }
                })
                .collect();
            let mut notes = subject.notes();
            for job in &jobs {
                assert!(notes.tokens.insert(job.token), "lease {:x} was issued twice (I-86)", job.token);
                notes.leases.push((*node, job.seq, job.token));
            }
            let deadlines = all.iter().map(|one| number(one, "deadline") as i64);
            let deadline = deadlines.clone().next().unwrap_or(0);
            assert!(deadlines.clone().all(|one| one == deadline), "one deadline for all (Q-12): {value}");
            Answer::Claimed { jobs, deadline, ready: number(&value, "ready") }
        }
        Ask::Ack { jobs, .. } | Ask::Nack { jobs, .. } | Ask::Extend { jobs, .. } => {
            let skipped = numbers(&value["skipped"]);
            let done = ["acked", "nacked", "extended"].into_iter().find_map(|name| value[name].as_u64());
            assert_eq!(done, Some((jobs.len() - skipped.len()) as u64), "Q-31: {value}");
            if !matches!(ask, Ask::Extend { .. }) {
                return Answer::Settled { skipped, counts: counts(&value) };
            }
            let deadlines = value["deadlines"].as_object().expect("deadlines");
            let deadlines: Vec<i64> = deadlines.values().map(|one| one.as_i64().expect("a time")).collect();
            assert!(deadlines.windows(2).all(|pair| pair[0] == pair[1]), "Q-55: {value}");
            Answer::Extended { skipped, deadline: deadlines.first().copied() }
        }
        Ask::Crash => unreachable!("nobody asks for it"),
    }
}
