//! What clients know of a topic that they share, and what must be there after a kill.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use super::{Round, taken};
use crate::client::{Client, Got, View};
use crate::random::{Random, Rec, body_of, tag_of};

/// Seqs that recovery may leave vacant above the last one assigned (I-58).
const PADDING: u64 = 1024;

/// A delete by one of three selectors. Each takes whole writes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletion {
    /// One write, by its tag.
    Write(u64),
    /// Eight writes, by the prefix of their tags.
    Group(u64),
    /// All below the first seq of some write.
    Before(u64),
}

impl Deletion {
    fn covers(self, write: u64, first: u64) -> bool {
        match self {
            Deletion::Write(wanted) => write == wanted,
            Deletion::Group(group) => write >> 3 == group,
            Deletion::Before(seq) => first < seq,
        }
    }

    fn body(self) -> String {
        match self {
            Deletion::Write(write) => format!("{{\"match\":[\"tag\",\"Eq\",\"{}\"]}}", tag_of(write)),
            Deletion::Group(group) => format!("{{\"match\":\"g{group}/*\"}}"),
            Deletion::Before(seq) => format!("{{\"before_seq\":{seq}}}"),
        }
    }
}

/// A write as it was acknowledged or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// See the module's text.
pub(super) struct Book {
    pub(super) name: &'static str,
    pub(super) class: &'static str,
    /// Writes that are there, or were deleted.
    writes: HashMap<u64, Known>,
    /// Seqs that were acknowledged or delivered, by the first of their write: they keep their content.
    owners: BTreeMap<u64, (u64, u64)>,
    /// Sent, not answered: records, and whether with a key.
    pending: HashMap<u64, (u64, bool)>,
    /// Deleted by tag, and when that was acknowledged.
    gone: HashMap<u64, Instant>,
    /// Everything below is deleted.
    before: u64,
    /// Deletes sent, not answered.
    unsure: Vec<Deletion>,
    /// Shown to readers since the last start.
    delivered: HashMap<u64, Known>,
    head: u64,
    last_keyed: Option<(u64, Known)>,
}

impl Book {
    pub(super) fn new(name: &'static str, class: &'static str) -> Book {
        Book {
            name,
            class,
            writes: HashMap::new(),
            owners: BTreeMap::new(),
            pending: HashMap::new(),
            gone: HashMap::new(),
            before: 0,
            unsure: Vec::new(),
            delivered: HashMap::new(),
            head: 0,
            last_keyed: None,
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self.class, "disk" | "fsync")
    }

    fn path(&self) -> String {
        format!("/v0/topics/{}", self.name)
    }

    /// Puts down that a write has these seqs. They must be its own, for ever (I-5, I-58).
    fn owns(&mut self, write: u64, first: u64, count: u64) {
        let before = self.owners.range(..first + count).next_back();
        match before {
            Some((other, owner)) if *other == first => {
                assert_eq!(*owner, (write, count), "{}: seq {first} has two contents (I-58)", self.name);
            }
            Some((other, (owner, others))) => assert!(
                other + others <= first,
                "{}: write {write} got seq {first}, where write {owner} has {others} from {other} (I-58)",
                self.name
            ),
            None => {}
        }
        self.owners.insert(first, (write, count));
        self.head = self.head.max(first + count - 1);
    }

    fn acknowledged(&mut self, write: u64, known: Known, keyed: bool) {
        self.pending.remove(&write);
        self.owns(write, known.first, known.count);
        let before = self.writes.insert(write, known);
        assert!(before.is_none_or(|before| before == known), "{}: write {write} twice", self.name);
        if keyed {
            self.last_keyed = Some((write, known));
        }
    }

    fn is_gone(&self, write: u64, first: u64) -> bool {
        first < self.before || self.gone.contains_key(&write)
    }

    fn deleted(&mut self, deletion: Deletion) {
        let found = self.unsure.iter().position(|other| *other == deletion).expect("it was put down");
        self.unsure.swap_remove(found);
        if let Deletion::Before(seq) = deletion {
            self.before = self.before.max(seq);
        }
        let now = Instant::now();
        let covered = self.writes.iter().filter(|(write, known)| deletion.covers(**write, known.first));
        let covered: Vec<u64> = covered.map(|(write, _)| *write).collect();
        for write in covered {
            self.gone.entry(write).or_insert(now);
        }
    }

    /// Judges the topic after a start, and takes what is there for the truth from then on. Returns how
    /// many records were looked at.
    pub(super) fn check(&mut self, client: &mut Client) -> usize {
        let name = self.name;
        let view = client.view(name).expect("an answer").expect("a topic whose creation was acknowledged");
        let state = client.call("GET", &self.path(), "").expect("an answer").good();
        assert_eq!(state["config"]["durability"], self.class, "{name}: the last settings (I-50)");
        assert_eq!(view.floor, 0, "{name}: nothing is lost here, so there is no tombstone");
        let found = whole_writes(name, &view);
        for (write, known) in &found {
            let gone = self.owners.get(&known.first).is_some_and(|(owner, _)| owner == write);
            let sent = self.writes.contains_key(write) || self.pending.contains_key(write);
            assert!(sent || !gone, "{name}: write {write} was deleted and is back (I-52)");
            assert!(sent, "{name}: write {write} was never sent here (I-97)");
        }
        match self.class {
            "ephemeral" => {
                assert_eq!(view.count, 0, "{name}: nothing of class ephemeral survives a kill");
                *self = Book { head: view.head, ..Book::new(name, self.class) };
            }
            "memory" => self.check_prefix(&view, &found),
            _ => self.check_kept(&view, &found),
        }
        let unsure = std::mem::take(&mut self.unsure);
        self.retry(client, &found, &unsure);
        self.forget_old();
        view.records.len()
    }

    fn check_kept(&mut self, view: &View, found: &HashMap<u64, Known>) {
        let name = self.name;
        let in_flight: u64 = self.pending.values().map(|(count, _)| count).sum();
        let padding = if self.class == "disk" { PADDING } else { 0 };
        assert!(view.head >= self.head, "{name}: head {} below {} (I-6)", view.head, self.head);
        let most = self.head + in_flight + padding;
        assert!(view.head <= most, "{name}: head {} above {most} (I-58)", view.head);
        for (write, known) in found {
            if let Some(before) = self.writes.get(write) {
                assert_eq!(known, before, "{name}: write {write} moved (I-5)");
            }
            assert!(!self.is_gone(*write, known.first), "{name}: write {write} was deleted (I-52)");
            self.owns(*write, known.first, known.count);
        }
        // What a delete in flight covers is all there or all gone, unless another one takes a part.
        let unsure = self.unsure.clone();
        let mut missing = HashSet::new();
        for (write, known) in &self.writes {
            if found.contains_key(write) || self.is_gone(*write, known.first) {
                continue;
            }
            let covered = unsure.iter().any(|deletion| deletion.covers(*write, known.first));
            assert!(covered, "{name}: write {write} was acknowledged with {known:?} and is lost (I-51)");
            missing.insert(*write);
        }
        for deletion in &unsure {
            let mine = |write: u64, first: u64| {
                let others = unsure.iter().filter(|other| *other != deletion);
                deletion.covers(write, first) && !others.into_iter().any(|other| other.covers(write, first))
            };
            let kept = found.iter().any(|(write, known)| mine(*write, known.first));
            let lost = missing.iter().any(|write| mine(*write, self.writes[write].first));
            assert!(!(kept && lost), "{name}: {deletion:?} was done in part (I-29)");
            if let (false, true, Deletion::Before(seq)) = (kept, lost, deletion) {
                self.before = self.before.max(*seq);
            }
        }
        // A reader had it, so it was committed, and a kill takes nothing back that was.
        for (write, known) in &self.delivered {
            let covered = self.is_gone(*write, known.first)
                || unsure.iter().any(|deletion| deletion.covers(*write, known.first));
            let there = covered || found.contains_key(write);
            assert!(there, "{name}: write {write} was delivered as {known:?} and is lost (I-40)");
        }
        self.delivered.clear();
        let now = Instant::now();
        self.gone.extend(missing.iter().map(|write| (*write, now)));
        for (write, known) in found {
            self.writes.insert(*write, *known);
        }
        self.head = view.head;
    }

    /// Class `memory`: no promise but that a prefix survives (I-54), each batch whole (I-55).
    fn check_prefix(&mut self, view: &View, found: &HashMap<u64, Known>) {
        let name = self.name;
        let last = view.records.last().map_or(0, |record| record.seq);
        for (write, known) in &self.writes {
            let there = found.get(write);
            assert!(there.is_none_or(|there| there == known), "{name}: write {write} moved (I-5)");
            assert!(known.first > last || there.is_some(), "{name}: a hole at {known:?} (I-54)");
        }
        self.writes = found.clone();
        self.owners = found.iter().map(|(write, known)| (known.first, (*write, known.count))).collect();
        self.head = view.head;
        if self.last_keyed.is_some_and(|(write, _)| !found.contains_key(&write)) {
            self.last_keyed = None;
        }
    }

    /// Sends keyed writes again: those without an answer, and the last one that had one (I-72).
    fn retry(&mut self, client: &mut Client, found: &HashMap<u64, Known>, unsure: &[Deletion]) {
        let name = self.name;
        let pending = std::mem::take(&mut self.pending);
        let last = self.last_keyed.filter(|_| self.is_kept());
        if let Some((write, known)) = last {
            let again = append(client, &self.path(), write, known.count, true).expect("an answer");
            assert_eq!(again, Some((known, true)), "{name}: the retry of write {write} (I-72)");
        }
        for (write, (count, keyed)) in pending {
            if !keyed || !self.is_kept() {
                continue;
            }
            let answer = append(client, &self.path(), write, count, true).expect("an answer");
            let Some((known, deduped)) = answer else { continue };
            match found.get(&write) {
                Some(there) => {
                    assert_eq!(
                        (known, deduped),
                        (*there, true),
                        "{name}: retry of found write {write} (I-72)"
                    );
                }
                // Its key was there, and its records were not: only a delete can have taken them.
                None if deduped => {
                    let covered = known.first < self.before
                        || unsure.iter().any(|deletion| deletion.covers(write, known.first));
                    assert!(covered, "{name}: of write {write} only the key survived (I-55)");
                    self.gone.insert(write, Instant::now());
                }
                None => {}
            }
            self.acknowledged(write, known, true);
        }
    }

    /// What was deleted long ago is not looked for any more; only its seqs stay taken.
    fn forget_old(&mut self) {
        let (before, gone) = (self.before, &self.gone);
        self.writes.retain(|write, known| known.first >= before && !gone.contains_key(write));
        self.gone.retain(|_, when| when.elapsed().as_secs() < 60);
    }
}

/// The writes in a view: each record is as it was sent, each write whole and in one piece (I-55).
fn whole_writes(name: &str, view: &View) -> HashMap<u64, Known> {
    let mut writes: HashMap<u64, Known> = HashMap::new();
    let mut open: Option<(u64, u64, u64)> = None;
    for got in &view.records {
        let (write, index, count) = identity(name, got);
        match open {
            None => {
                assert_eq!(index, 0, "{name}: seq {} begins inside of write {write} (I-55)", got.seq);
                let before = writes.insert(write, Known { first: got.seq, count });
                assert_eq!(before, None, "{name}: write {write} is there twice");
            }
            Some((expected_write, expected_index, expected_seq)) => {
                let expected = (expected_write, expected_index, expected_seq);
                assert_eq!((write, index, got.seq), expected, "{name}: a batch is not whole (I-55)");
            }
        }
        open = (index + 1 < count).then_some((write, index + 1, got.seq + 1));
    }
    assert_eq!(open, None, "{name}: the last batch is not whole (I-55)");
    writes
}

/// Which record this is; every byte must be as sent.
pub(crate) fn identity(name: &str, got: &Got) -> (u64, u64, u64) {
    #[derive(serde::Deserialize)]
    struct Identity {
        w: u64,
        i: u64,
        n: u64,
    }
    let Identity { w, i, n } = serde_json::from_str(&got.data)
        .unwrap_or_else(|error| panic!("{name}: seq {} is nothing we sent: {error}", got.seq));
    let sent = Rec::of(w, i, n);
    let same = (&sent.data, &sent.tag, &sent.node, &sent.meta) == (&got.data, &got.tag, &got.node, &got.meta);
    assert!(same, "{name}: seq {} is not as it was sent (I-5)", got.seq);
    (w, i, n)
}

/// Appends write `write`; where it went, and whether it was there. `None`: refused for now.
pub(super) fn append(
    client: &mut Client,
    path: &str,
    write: u64,
    count: u64,
    keyed: bool,
) -> std::io::Result<Option<(Known, bool)>> {
    let key = format!("key-{write}");
    let reply = client.call("POST", path, &body_of(write, count, keyed.then_some(&key)))?;
    if !taken(&reply) {
        return Ok(None);
    }
    let answer = reply.good();
    let number = |name: &str| answer[name].as_u64().expect("a number");
    let known = Known { first: number("first_seq"), count: number("count") };
    assert_eq!(known.count, count, "{answer}");
    assert_eq!(number("last_seq"), known.first + count - 1, "{answer}");
    Ok(Some((known, answer["deduped"] == true)))
}

/// A client that writes and deletes until the server is gone.
pub(super) fn write(round: &Round<'_>, mut random: Random) {
    let Some(mut client) = round.connect() else { return };
    let mut next = round.group();
    // (topic, write, first seq) of what this client wrote.
    let mut mine: Vec<(usize, u64, u64)> = Vec::new();
    while !round.is_over() {
        let outcome = match random.below(30) {
            0 | 1 => delete(round, &mut client, &mut random, &mut mine),
            _ => {
                if next & 7 == 7 {
                    next = round.group();
                }
                next += 1;
                write_one(round, &mut client, &mut random, next, &mut mine)
            }
        };
        if let Err(error) = outcome {
            return round.broken(&error);
        }
    }
}

fn write_one(
    round: &Round<'_>,
    client: &mut Client,
    random: &mut Random,
    write: u64,
    mine: &mut Vec<(usize, u64, u64)>,
) -> std::io::Result<()> {
    let topic = random.below(round.books.len() as u64) as usize;
    let count = match random.below(40) {
        0 => 100 + random.below(300),
        1..16 => 2 + random.below(20),
        _ => 1,
    };
    let keyed = random.one_in(2);
    let path = {
        let mut book = round.books[topic].lock().expect("no client panicked");
        book.pending.insert(write, (count, keyed));
        book.path()
    };
    let outcome = append(client, &path, write, count, keyed)?;
    let mut book = round.books[topic].lock().expect("no client panicked");
    match outcome {
        Some((known, deduped)) => {
            assert!(!deduped, "{path}: write {write} is new");
            book.acknowledged(write, known, keyed);
            mine.push((topic, write, known.first));
        }
        None => {
            book.pending.remove(&write);
        }
    }
    Ok(())
}

fn delete(
    round: &Round<'_>,
    client: &mut Client,
    random: &mut Random,
    mine: &mut Vec<(usize, u64, u64)>,
) -> std::io::Result<()> {
    if mine.len() < 4 {
        return Ok(());
    }
    let (topic, write, first) = mine.swap_remove(random.below(mine.len() as u64 / 2) as usize);
    let newest = mine.iter().map(|(_, write, _)| write >> 3).max();
    let (path, deletion) = {
        let mut book = round.books[topic].lock().expect("no client panicked");
        if book.class == "memory" {
            return Ok(()); // a kill may undo it (I-24)
        }
        let deletion = match random.below(4) {
            0 => Deletion::Before(first),
            // The whole group has its answers: nothing of it is still to come.
            1 | 2 if newest.is_some_and(|newest| write >> 3 < newest) => Deletion::Group(write >> 3),
            _ => Deletion::Write(write),
        };
        book.unsure.push(deletion);
        (book.path() + "/delete", deletion)
    };
    let reply = client.call("POST", &path, &deletion.body())?;
    let mut book = round.books[topic].lock().expect("no client panicked");
    if taken(&reply) {
        book.deleted(deletion);
    } else {
        let found = book.unsure.iter().position(|other| *other == deletion).expect("it was put down");
        book.unsure.swap_remove(found);
    }
    Ok(())
}

/// A client that reads, old and new, until the server is gone.
pub(super) fn read(round: &Round<'_>, mut random: Random) {
    let Some(mut client) = round.connect() else { return };
    while !round.is_over() {
        let topic = random.below(round.books.len() as u64) as usize;
        let (name, head, before) = {
            let book = round.books[topic].lock().expect("no client panicked");
            (book.name, book.head, book.before)
        };
        let back = if random.one_in(2) { random.below(20) } else { random.below(head + 1) };
        let from = head.saturating_sub(back);
        let wait_ms = if random.one_in(8) { 30 } else { 0 };
        let sent = Instant::now();
        let view = match client.read_some(name, from, 60, wait_ms) {
            Ok(view) => view,
            Err(error) => return round.broken(&error),
        };
        let mut book = round.books[topic].lock().expect("no client panicked");
        for got in &view {
            let (write, index, count) = identity(name, got);
            let first = got.seq - index;
            assert!(first >= before, "{name}: seq {} had been deleted (I-28)", got.seq);
            let gone = book.gone.get(&write).is_some_and(|when| *when < sent);
            assert!(!gone, "{name}: write {write} had been deleted (I-28 X-11)");
            book.owns(write, first, count);
            book.delivered.insert(write, Known { first, count });
        }
    }
}
