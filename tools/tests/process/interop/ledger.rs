//! What was acknowledged, what was seen, and whether the two balance.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde::Deserialize;

use super::{Load, Plan};
use crate::client::Client;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Keeps the newest records only.
    Capped,
    /// The first of a chain.
    Source,
    /// Filled by a router.
    Copy,
    Queue,
}

const CAP_RECORDS: u64 = 60;

pub(super) struct Topic {
    pub(super) name: String,
    pub(super) kind: Kind,
    class: &'static str,
    book: Mutex<Book>,
    jobs: Mutex<Jobs>,
}

/// Appends to a topic.
#[derive(Default)]
pub(super) struct Book {
    /// First seq, write, number of records.
    pub(super) acked: Vec<(u64, u64, u64)>,
    /// Writes without an answer, and their number of records.
    pub(super) unknown: HashMap<u64, u64>,
}

/// Jobs of a queue, by seq.
#[derive(Default)]
pub(super) struct Jobs {
    /// In which epoch.
    pub(super) acked: HashMap<u64, u64>,
    /// Acks without an answer.
    pub(super) unsure: HashSet<u64>,
    /// Who has it, since which epoch.
    pub(super) held: HashMap<u64, (String, u64)>,
    pub(super) leases: HashSet<String>,
    pub(super) handed_out: u64,
}

/// What a reader saw of a topic.
pub(super) struct Seen {
    pub(super) topic: usize,
    pub(super) cursor: u64,
    /// Seq and id.
    pub(super) delivered: Vec<(u64, u64)>,
    /// First and last seq.
    pub(super) gaps: Vec<(u64, u64)>,
}

impl Seen {
    pub(super) fn new(topic: usize) -> Seen {
        Seen { topic, cursor: 0, delivered: Vec::new(), gaps: Vec::new() }
    }
}

/// A topic at the end.
#[derive(PartialEq, Eq)]
pub(super) struct View {
    head: u64,
    floor: u64,
    /// Seq and id.
    records: Vec<(u64, u64)>,
}

/// The part of a payload that says which it is.
#[derive(Deserialize)]
pub(super) struct Data {
    pub(super) id: u64,
}

/// Record `index` of a write.
pub(super) fn id_of(write: u64, index: u64) -> u64 {
    write << 4 | index
}

pub(super) fn guarantee(chain: u64) -> &'static str {
    if chain.is_multiple_of(2) { "exactly_once" } else { "at_least_once" }
}

impl Topic {
    pub(super) fn new(name: String, kind: Kind, class: &'static str) -> Topic {
        Topic { name, kind, class, book: Mutex::default(), jobs: Mutex::default() }
    }

    pub(super) fn config(&self) -> String {
        let more = match self.kind {
            Kind::Capped => format!(r#","cap_records":{CAP_RECORDS}"#),
            Kind::Queue => r#","type":"queue""#.to_owned(),
            _ => String::new(),
        };
        format!(r#"{{"durability":"{}"{more}}}"#, self.class)
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no client panicked")
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().expect("no client panicked")
    }
}

fn state(client: &mut Client, topic: &str) -> serde_json::Value {
    client.call("GET", &format!("/v0/topics/{topic}"), "").expect("an answer").good()
}

pub(super) fn head(client: &mut Client, topic: &str) -> u64 {
    state(client, topic)["head_seq"].as_u64().expect("a number")
}

pub(super) fn view(client: &mut Client, topic: &str) -> View {
    let view = client.read_all(topic, 0).expect("an answer").expect("a topic");
    let id = |data: &str| serde_json::from_str::<Data>(data).expect("ours").id;
    let records = view.records.iter().map(|record| (record.seq, id(&record.data))).collect();
    View { head: view.head, floor: view.floor, records }
}

/// Waits until the end of every chain has as much as its source.
pub(super) fn settle(load: &Load, plan: &Plan, client: &mut Client) {
    for number in 0..plan.chains {
        let wanted = distinct(&view(client, &format!("source-{number}")));
        while distinct(&view(client, &format!("dest-{number}"))) < wanted {
            if load.is_over() {
                return load.fault(format!("chain {number} does not get on"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn distinct(view: &View) -> usize {
    view.records.iter().map(|(_, id)| id).collect::<HashSet<_>>().len()
}

pub(super) fn wait_for_empty_queues(load: &Load, client: &mut Client) {
    for topic in load.topics.iter().filter(|topic| topic.kind == Kind::Queue) {
        loop {
            let state = state(client, &topic.name);
            if state["count"] == 0 {
                break;
            }
            if load.is_over() {
                return load.fault(format!("{} is not emptied: {state}", topic.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Judges everything and prints the sums.
pub(super) fn balance(load: &Load, plan: &Plan, views: &[View], seen: &[Seen]) {
    let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut add = |what: &'static str, count: u64| *sums.entry(what).or_default() += count;
    for (topic, view) in load.topics.iter().zip(views) {
        match topic.kind {
            Kind::Plain | Kind::Capped | Kind::Source => appends(load, topic, view, &mut add),
            Kind::Queue => jobs(load, topic, view, &mut add),
            Kind::Copy => {}
        }
    }
    for number in 0..plan.chains {
        chain(load, number, views, &mut add);
    }
    for seen in seen {
        reader(load, seen, &views[seen.topic], &mut add);
    }
    println!("ledger:");
    sums.iter().for_each(|(what, count)| println!("  {count:>10}  {what}"));
    println!("  {:>10}  faults", load.faults.lock().expect("no client panicked").len());
}

/// Every acknowledged record is where it was acknowledged, and nothing else is there.
fn appends(load: &Load, topic: &Topic, view: &View, add: &mut impl FnMut(&'static str, u64)) {
    let book = topic.book();
    let mut found: HashMap<u64, u64> = view.records.iter().copied().collect();
    for &(first, write, count) in &book.acked {
        add("writes acknowledged", 1);
        for index in 0..count {
            let (seq, id) = (first + index, id_of(write, index));
            match found.remove(&seq) {
                Some(at) if at == id => add("records acknowledged and found", 1),
                None if topic.kind == Kind::Capped && seq <= view.floor => {
                    add("records acknowledged, gone by a cap", 1)
                }
                other => load.fault(format!("{}: {id} at {seq} became {other:?}", topic.name)),
            }
        }
    }
    // The rest is of writes without an answer, whole (I-55) and once.
    let mut rest: HashMap<u64, HashSet<u64>> = HashMap::new();
    for (seq, id) in found {
        if !rest.entry(id >> 4).or_default().insert(id & 15) {
            load.fault(format!("{}: {id} twice, at {seq} too", topic.name));
        }
    }
    for (write, indices) in rest {
        add("writes without an answer that took place", 1);
        match book.unknown.get(&write) {
            Some(count) if *count == indices.len() as u64 || topic.kind == Kind::Capped => {}
            other => load.fault(format!(
                "{}: {write} has {} records, expected {other:?}",
                topic.name,
                indices.len()
            )),
        }
    }
    add("writes without an answer", book.unknown.len() as u64);
}

/// Every job that was acknowledged to its producer was acked, and the queue is empty.
fn jobs(load: &Load, topic: &Topic, view: &View, add: &mut impl FnMut(&'static str, u64)) {
    let (book, jobs) = (topic.book(), topic.jobs());
    if !view.records.is_empty() {
        load.fault(format!("{}: {} jobs are left", topic.name, view.records.len()));
    }
    for &(first, _, count) in &book.acked {
        for seq in first..first + count {
            add("jobs acknowledged to their producer", 1);
            if jobs.acked.contains_key(&seq) {
                add("jobs acked", 1);
            } else if jobs.unsure.contains(&seq) {
                add("jobs acked without an answer", 1);
            } else {
                load.fault(format!("{}: job {seq} is gone and nobody acked it", topic.name));
            }
        }
    }
    add("jobs handed out", jobs.handed_out);
    add("lease tokens, all different", jobs.leases.len() as u64);
}

/// Each copy once (or more often where that is allowed), in the order of the source.
fn chain(load: &Load, number: u64, views: &[View], add: &mut impl FnMut(&'static str, u64)) {
    let of = |name: &str| {
        let name = format!("{name}-{number}");
        &views[load.topics.iter().position(|topic| topic.name == name).expect("a topic")]
    };
    let ids = |view: &View| view.records.iter().map(|(_, id)| *id).collect::<Vec<u64>>();
    let source = ids(of("source"));
    for name in ["middle", "dest"] {
        let copies = ids(of(name));
        let mut known = HashSet::new();
        let firsts: Vec<u64> = copies.iter().copied().filter(|id| known.insert(*id)).collect();
        if firsts != source {
            let at = firsts.iter().zip(&source).position(|(copy, original)| copy != original);
            load.fault(format!(
                "{name}-{number}: {} copies of {} records differ from {at:?} on",
                firsts.len(),
                source.len()
            ));
        }
        let again = (copies.len() - firsts.len()) as u64;
        if again > 0 && guarantee(number) == "exactly_once" {
            load.fault(format!("{name}-{number}: {again} copies made twice"));
        }
        add("copies by routers", copies.len() as u64);
        add("copies made twice (at_least_once)", again);
    }
}

/// Every seq was delivered as it is, or lies in a gap that was told.
fn reader(load: &Load, seen: &Seen, view: &View, add: &mut impl FnMut(&'static str, u64)) {
    let topic = &load.topics[seen.topic];
    let delivered: HashMap<u64, u64> = seen.delivered.iter().copied().collect();
    let is_told = |seq: u64| seen.gaps.iter().any(|(from, to)| (*from..=*to).contains(&seq));
    add("topics followed by readers", 1);
    add("records delivered to readers", seen.delivered.len() as u64);
    add("gaps told to readers", seen.gaps.len() as u64);
    match topic.kind {
        Kind::Plain | Kind::Source | Kind::Copy => {
            if seen.delivered != view.records {
                let at = seen.delivered.iter().zip(&view.records).position(|(one, other)| one != other);
                load.fault(format!(
                    "{}: a reader got {} of {} records, other ones from {at:?} on",
                    topic.name,
                    seen.delivered.len(),
                    view.records.len()
                ));
            }
        }
        Kind::Capped => {
            let missed = view.records.iter().filter(|(seq, id)| delivered.get(seq) != Some(id)).count();
            if missed > 0 {
                load.fault(format!("{}: a reader missed {missed} records that are live", topic.name));
            }
        }
        Kind::Queue => {}
    }
    // What was acknowledged has its seq for good, whether it is still there or not.
    for &(first, write, count) in &topic.book().acked {
        for index in 0..count {
            let (seq, id) = (first + index, id_of(write, index));
            match delivered.get(&seq) {
                Some(got) if *got == id => {}
                None if is_told(seq) => add("records in gaps told to readers", 1),
                // Jobs may be done before a reader comes to them.
                None if topic.kind == Kind::Queue => {}
                other => load.fault(format!("{}: {seq} was {other:?} for a reader, not {id}", topic.name)),
            }
        }
    }
}
