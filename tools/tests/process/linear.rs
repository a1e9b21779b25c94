//! Linearizability: many clients share topics, over kills; what each was told, and when, must be explained by
//! one order of their operations, each whole and at one moment between its question and its answer.
//!
//! [`record`] has the clients, [`history`] what they write down, [`checker`] the search for an order, [`model`]
//! and [`jobs`] what the contract says of one operation after another; [`tests`] shows that the model refuses
//! what is wrong, [`damage`] that a recorded history does not pass any more once something in it is changed.
//! Topics are independent of one another, so each is checked by itself.
//!
//! A kill divides a history: what was asked before it and has no answer took effect before it or never. After
//! it a topic of class `disk` or `fsync` is what it was, with its keys, and without leases unless they are
//! durable; the histories of the other classes end with it.

mod checker;
mod damage;
mod history;
mod jobs;
mod model;
mod record;
mod tests;

use std::fs;
use std::time::Instant;

use crate::random::Random;
use crate::server::Dir;
use checker::{Verdict, check, reduce};
use history::{History, note_beside};
use model::Settings;
use record::{Length, Recorded, record};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Whether no order explains a history.
fn is_wrong(settings: &Settings, history: &History) -> bool {
    let mut history = history.clone();
    note_beside(&mut history);
    matches!(check(settings, &history), Verdict::Wrong { .. })
}

/// Checks a history; one that is wrong is written beside the server's data. Returns the most explanations
/// that it had at once, none if they were too many to go on.
fn judge(home: &Dir, name: &str, settings: &Settings, history: &History) -> Option<usize> {
    let mut history = history.clone();
    note_beside(&mut history);
    match check(settings, &history) {
        Verdict::Right { widest } => Some(widest),
        Verdict::TooWide => None,
        Verdict::Wrong { at } => {
            let file = home.join(&format!("history-{name}.txt"));
            fs::write(&file, format!("{settings:?}\n{}", history::text(&history))).expect("a file");
            panic!(
                "{name}, {settings:?}: no order explains all answers up to\n{}\n\nenough to see it:\n{}\n\
                 all of it: {}",
                history[at].op,
                history::text(&reduce(settings, &history)),
                file.display()
            );
        }
    }
}

/// What was checked.
#[derive(Debug, Default)]
struct Sum {
    histories: usize,
    ops: usize,
    unanswered: usize,
    kills: u64,
    refused: u64,
    longest: usize,
    widest: usize,
    /// Histories of which nobody knows: several operations that never had an answer allow too much.
    too_wide: usize,
}

impl Sum {
    /// Checks all histories of a recording.
    fn add(&mut self, home: &Dir, recorded: &Recorded) {
        self.kills += recorded.kills;
        self.refused += recorded.refused;
        for (name, settings, history) in &recorded.topics {
            self.histories += 1;
            self.ops += history.len();
            self.unanswered += history.iter().filter(|span| span.op.answer.is_none()).count();
            self.longest = self.longest.max(history.len());
            match judge(home, name, settings, history) {
                Some(widest) => self.widest = self.widest.max(widest),
                None => self.too_wide += 1,
            }
        }
    }
}

#[test]
fn every_history_is_that_of_one_operation_after_another() {
    let rounds = setting("RUNELOG_LINEAR_ROUNDS", 4);
    let clock = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let seed = setting("RUNELOG_LINEAR_SEED", clock);
    println!("RUNELOG_LINEAR_SEED={seed}");
    let mut random = Random(seed);
    let began = Instant::now();
    let mut sum = Sum::default();
    for round in 0..rounds {
        let home = Dir::new("linear");
        let kills = if round % 4 == 0 { 0 } else { 2 + random.below(4) };
        let length = Length { topics: 20, ops: 40 + random.below(80), kills, life_ms: 60 };
        let recorded = record(&home, length, &mut random);
        sum.add(&home, &recorded);
    }
    println!("{sum:?} in {:?}", began.elapsed());
    assert!(50 * sum.too_wide <= sum.histories + 50, "too much is left open: {sum:?}");
    assert!(sum.histories as u64 >= rounds && sum.ops > 10 * sum.histories, "too little happened: {sum:?}");
}
