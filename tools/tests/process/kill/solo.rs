//! One client alone with its topics, so that it can say exactly what must be there: a topic with a cap
//! (I-33), one whose class changes (I-57), some that come and go (I-50, I-70).

use std::collections::VecDeque;
use std::io;

use super::book::{append, identity};
use super::{Round, taken};
use crate::client::{Client, View};
use crate::random::Random;

const CAP: usize = 100;
const CHURN: [&str; 3] = ["churn-a", "churn-b", "churn-c"];
const CLASSES: [&str; 4] = ["ephemeral", "memory", "disk", "fsync"];

/// A record by the number of its write, its place in it and the records of the write.
type Name = (u64, u64, u64);

/// See the module's text.
pub(super) struct Solo {
    started: bool,
    capped: Capped,
    flip: Flip,
    churn: [Churn; 3],
}

/// A `disk` topic that keeps its last hundred records.
#[derive(Default)]
struct Capped {
    live: VecDeque<(u64, Name)>,
    pending: Option<(u64, u64)>,
    floor: u64,
}

/// A topic whose class changes while it is written to.
struct Flip {
    class: usize,
    version: u64,
    /// Settings sent, not answered: class and version.
    pending_put: Option<(usize, u64)>,
    pending: Option<(u64, u64)>,
    writes: Vec<FlipWrite>,
}

#[derive(Clone, Copy)]
struct FlipWrite {
    write: u64,
    first: u64,
    count: u64,
    class: usize,
    /// A barrier came after it (I-56).
    safe: bool,
}

#[derive(Clone, Debug)]
struct Instance {
    version: u64,
    class: &'static str,
    /// Write, first seq, records.
    writes: Vec<(u64, u64, u64)>,
}

/// A topic that is created, reconfigured and deleted.
#[derive(Default)]
struct Churn {
    now: Option<Instance>,
    pending: Option<Change>,
}

enum Change {
    Put(u64, &'static str),
    Drop,
    Append(u64, u64),
}

fn config(class: &str, version: u64) -> String {
    // The lease has no meaning for a log; it tells one configuration from the next.
    format!("{{\"durability\":\"{class}\",\"lease_ms\":{}}}", 1000 + version)
}

fn names(topic: &str, view: &View) -> Vec<(u64, Name)> {
    view.records.iter().map(|got| (got.seq, identity(topic, got))).collect()
}

impl Solo {
    pub(super) fn new() -> Solo {
        Solo {
            started: false,
            capped: Capped::default(),
            flip: Flip { class: 3, version: 1, pending_put: None, pending: None, writes: Vec::new() },
            churn: Default::default(),
        }
    }

    /// Judges what came back after a start.
    pub(super) fn check(&mut self, client: &mut Client) {
        if !std::mem::replace(&mut self.started, true) {
            let cap = format!("{{\"durability\":\"disk\",\"cap_records\":{CAP}}}");
            client.call("PUT", "/v0/topics/capped", &cap).expect("an answer").good();
            client.call("PUT", "/v0/topics/flip", &config("fsync", 1)).expect("an answer").good();
        }
        self.capped.check(client);
        self.flip.check(client);
        for (name, churn) in CHURN.iter().zip(&mut self.churn) {
            churn.check(client, name);
        }
    }

    /// Works until the server is gone.
    pub(super) fn work(&mut self, round: &Round<'_>, mut random: Random) {
        let Some(mut client) = round.connect() else { return };
        while !round.is_over() {
            let which = random.below(6) as usize;
            let outcome = match which {
                0 | 1 => self.capped.step(round, &mut client, &mut random),
                2 => self.flip.step(round, &mut client, &mut random),
                _ => self.churn[which - 3].step(round, &mut client, &mut random, CHURN[which - 3]),
            };
            if let Err(error) = outcome {
                return round.broken(&error);
            }
        }
    }
}

impl Capped {
    fn step(&mut self, round: &Round<'_>, client: &mut Client, random: &mut Random) -> io::Result<()> {
        let count = if random.one_in(20) { CAP as u64 + 20 } else { 1 + random.below(5) };
        let write = round.group();
        self.pending = Some((write, count));
        let answer = append(client, "/v0/topics/capped", write, count, false)?;
        self.pending = None;
        if let Some((known, _)) = answer {
            assert!(self.live.back().is_none_or(|(seq, _)| *seq < known.first), "seqs grow (I-1)");
            self.add(write, known.first, count);
        }
        Ok(())
    }

    fn add(&mut self, write: u64, first: u64, count: u64) {
        self.live.extend((0..count).map(|index| (first + index, (write, index, count))));
        self.live.drain(..self.live.len().saturating_sub(CAP));
    }

    fn check(&mut self, client: &mut Client) {
        let view = client.view("capped").expect("an answer").expect("it was created");
        let found = names("capped", &view);
        assert!(view.floor >= self.floor, "the floor went back from {} to {} (I-25)", self.floor, view.floor);
        self.floor = view.floor;
        let last = found.last().map(|(_, (write, _, _))| *write);
        if let Some((write, count)) = self.pending.take().filter(|(write, _)| last == Some(*write)) {
            let seq = found.last().expect("just seen").0;
            self.add(write, seq + 1 - count, count);
        }
        let found: VecDeque<_> = found.into();
        assert!(
            found == self.live,
            "a capped topic after a kill (I-33): {found:?} instead of {:?}",
            self.live
        );
    }
}

impl Flip {
    fn step(&mut self, round: &Round<'_>, client: &mut Client, random: &mut Random) -> io::Result<()> {
        if random.one_in(4) {
            let class = random.below(4) as usize;
            let version = self.version + 1;
            self.pending_put = Some((class, version));
            let reply = client.call("PUT", "/v0/topics/flip", &config(CLASSES[class], version))?;
            self.pending_put = None;
            if taken(&reply) {
                (self.class, self.version) = (class, version);
                self.barrier();
            }
            return Ok(());
        }
        let (write, count) = (round.group(), 1 + random.below(4));
        self.pending = Some((write, count));
        let answer = append(client, "/v0/topics/flip", write, count, false)?;
        self.pending = None;
        if let Some((known, _)) = answer {
            let highest = self.writes.iter().map(|write| write.first + write.count).max();
            assert!(highest.is_none_or(|highest| highest <= known.first), "seqs grow (I-1)");
            let class = self.class;
            self.writes.push(FlipWrite { write, first: known.first, count, class, safe: class >= 2 });
            if class == 3 {
                self.barrier();
            }
        }
        Ok(())
    }

    fn barrier(&mut self) {
        self.writes.iter_mut().for_each(|write| write.safe = write.class > 0);
    }

    fn check(&mut self, client: &mut Client) {
        let view = client.view("flip").expect("an answer").expect("it was created");
        let state = client.call("GET", "/v0/topics/flip", "").expect("an answer").good();
        let found = names("flip", &view);
        let is = |class: usize, version: u64| {
            state["config"]["durability"] == CLASSES[class] && state["config"]["lease_ms"] == 1000 + version
        };
        if let Some((class, version)) = self.pending_put.take()
            && is(class, version)
        {
            (self.class, self.version) = (class, version);
        }
        assert!(is(self.class, self.version), "the last settings are in force (I-50): {state}");
        let there = |write: u64, first: u64, count: u64| {
            let at = found.partition_point(|(seq, _)| *seq < first);
            let part = found.get(at..at + count as usize).unwrap_or(&[]);
            let whole = !part.is_empty()
                && part.iter().zip(0..).all(|(got, index)| *got == (first + index, (write, index, count)));
            let any = found.iter().any(|(_, (other, _, _))| *other == write);
            assert_eq!(whole, any, "write {write} at {first} moved or is not whole (I-5, I-55)");
            whole
        };
        let mut lost = false;
        self.writes.retain(|write| {
            let FlipWrite { write, first, count, class, safe } = *write;
            let kept = there(write, first, count);
            assert!(
                kept || !safe,
                "write {write} at {first} of class {} is lost (I-51, I-57)",
                CLASSES[class]
            );
            assert!(!kept || class > 0, "write {write} at {first} of class ephemeral is back (I-57)");
            assert!(!kept || !lost, "write {write} at {first} survived one before it (I-54)");
            lost |= !kept && class > 0;
            kept
        });
        if let Some((write, count)) = self.pending.take() {
            let first = found.iter().find(|(_, (other, _, _))| *other == write).map(|(seq, _)| *seq);
            if let Some(first) = first {
                assert!(there(write, first, count) && self.class > 0, "write {write} (I-55, I-57)");
                self.writes.push(FlipWrite { write, first, count, class: self.class, safe: self.class >= 2 });
            }
        }
        let known: u64 = self.writes.iter().map(|write| write.count).sum();
        assert_eq!(known, found.len() as u64, "nothing is there that was not sent (I-97)");
        // What was kept was in the log when the server died, and the log is synced by now.
        self.barrier();
        if self.writes.len() > 3000 {
            let keep = self.writes[self.writes.len() - 100].first;
            let ask = format!("{{\"before_seq\":{keep}}}");
            client.call("POST", "/v0/topics/flip/delete", &ask).expect("an answer").good();
            // In class `memory` or `ephemeral` a kill may undo a delete, so make it safe.
            let class = self.class;
            self.version += 1;
            let settings = config(CLASSES[class], self.version);
            client.call("PUT", "/v0/topics/flip", &settings).expect("an answer").good();
            self.writes.retain(|write| write.first >= keep);
        }
    }
}

impl Churn {
    fn step(
        &mut self,
        round: &Round<'_>,
        client: &mut Client,
        random: &mut Random,
        name: &str,
    ) -> io::Result<()> {
        let path = format!("/v0/topics/{name}");
        let change = match (&self.now, random.below(10)) {
            (None, _) | (Some(_), 0) => {
                Change::Put(1 + random.below(1 << 20), CLASSES[2 + random.below(2) as usize])
            }
            (Some(_), 1 | 2) => Change::Drop,
            (Some(_), _) => Change::Append(round.group(), 1 + random.below(9)),
        };
        let done = match &change {
            Change::Put(version, class) => {
                let (version, class) = (*version, *class);
                self.pending = Some(change);
                let reply = client.call("PUT", &path, &config(class, version))?;
                let done = taken(&reply);
                assert!(!done || (reply.status == 201) == self.now.is_none(), "{name}: {reply}");
                done.then_some(Change::Put(version, class))
            }
            Change::Drop => {
                self.pending = Some(change);
                let reply = client.call("DELETE", &path, "")?;
                let done = taken(&reply);
                assert!(!done || reply.json()["deleted"] == true, "{name}: {reply}");
                done.then_some(Change::Drop)
            }
            Change::Append(write, count) => {
                let (write, count) = (*write, *count);
                self.pending = Some(change);
                let answer = append(client, &path, write, count, random.one_in(2))?;
                let now = self.now.as_mut().expect("it exists");
                if let Some((known, _)) = answer {
                    if now.writes.is_empty() {
                        assert_eq!(known.first, 1, "{name}: a new instance begins with seq 1 (I-70)");
                    }
                    now.writes.push((write, known.first, count));
                }
                None
            }
        };
        self.pending = None;
        if let Some(change) = done {
            self.apply(change);
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match (change, &mut self.now) {
            (Change::Put(version, class), Some(now)) => (now.version, now.class) = (version, class),
            (Change::Put(version, class), None) => {
                self.now = Some(Instance { version, class, writes: Vec::new() });
            }
            (Change::Drop, _) => self.now = None,
            (Change::Append(..), _) => unreachable!("applied by its answer"),
        }
    }

    fn check(&mut self, client: &mut Client, name: &str) {
        let view = client.view(name).expect("an answer");
        let pending = self.pending.take();
        let Some(view) = view else {
            let dropped = self.now.is_none() || matches!(pending, Some(Change::Drop));
            assert!(dropped, "{name}: {:?} is gone (I-50, I-51)", self.now);
            self.now = None;
            return;
        };
        let state = client.call("GET", &format!("/v0/topics/{name}"), "").expect("an answer").good();
        let in_force = |version: u64, class: &str| {
            state["config"]["durability"] == class && state["config"]["lease_ms"] == 1000 + version
        };
        if let Some(Change::Put(version, class)) = pending
            && in_force(version, class)
        {
            self.apply(Change::Put(version, class));
        }
        let now = self.now.as_mut().unwrap_or_else(|| panic!("{name} was deleted and is back (I-50, TD-5)"));
        assert!(in_force(now.version, now.class), "{name}: {now:?} is in force (I-50), and not {state}");
        let found = names(name, &view);
        if let (Some(Change::Append(write, count)), Some((seq, last))) = (pending, found.last())
            && last.0 == write
        {
            now.writes.push((write, seq + 1 - count, count));
        }
        let wanted: Vec<(u64, Name)> = now
            .writes
            .iter()
            .flat_map(|(write, first, count)| {
                (0..*count).map(move |index| (first + index, (*write, index, *count)))
            })
            .collect();
        assert!(found == wanted, "{name} after a kill (I-51, I-70): {found:?} instead of {wanted:?}");
    }
}
