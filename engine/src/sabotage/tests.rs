//! The proof that the simulator can fail: with each deliberate bug switched on it finds a history in which
//! a rule is broken, and it is a rule that the bug breaks. The same histories without a bug break none.
//!
//! ```text
//! cargo test -p runelog-engine --lib sabotage
//! cargo test -p runelog-engine --lib sabotage -- --ignored --nocapture
//! ```
//!
//! The first starts at the seed that caught each bug when [`case`] was last written down. The second looks
//! from seed 1 on, makes each history as short as it gets, and prints the table of `TESTING.md`;
//! `RUNELOG_BUGS=ForgetKeys,HalfBatch` names some of them, `RUNELOG_SEED` and `RUNELOG_SEEDS` other seeds.

use super::{ALL, Bug};
use crate::sim::{Failure, Options, run_seed, shrink};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// The bug that is switched on.
    pub(super) static ON: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Seeds within which a bug must be found.
const SEEDS_MAX: u64 = 10_000;
/// Seeds that the short form tries from the recorded one on: after a change of the simulator a recorded
/// seed means another history.
const SEEDS_TRIED: u64 = 150;
/// Runs spent on making a history short.
const SHRINK_RUNS: usize = 1500;

/// A seed that catches the bug, and the rules that the bug breaks.
fn case(bug: Bug) -> (u64, &'static [&'static str]) {
    match bug {
        Bug::AckBeforeSync => (1, &["I-24", "I-50", "I-51", "I-52", "I-58"]),
        Bug::PublishBeforeCommit => (24, &["I-40", "I-44"]),
        Bug::RetryFailedSync => (9, &["I-45", "I-51", "I-90"]),
        Bug::SkipBarrier => (2, &["I-51", "I-56", "I-90"]),
        Bug::SegmentNamesUnsynced => (2, &["I-51"]),
        Bug::CheckpointNameUnsynced => (3, &["I-59", "I-90"]),
        Bug::RecycleTooEarly => (372, &["I-51", "I-90"]),
        Bug::ForgetDeletes => (1, &["I-20", "I-8", "I-24"]),
        Bug::ForgetKeys => (16, &["I-72"]),
        Bug::ForgetLeases => (6, &["I-85"]),
        Bug::DescribeEphemeral => (1, &["I-8"]),
        Bug::ReuseSeqs => (3, &["I-58"]),
        Bug::ReserveUnsynced => (24, &["I-58"]),
        Bug::CountPadding => (2, &["I-33", "I-51"]),
        Bug::GapEndsReplay => (1, &["I-51", "I-58"]),
        Bug::HalfBatch => (4, &["I-55", "I-90"]),
        Bug::TrustPayload => (3, &["I-8", "I-90", "I-97"]),
        Bug::TornTailInside => (61, &["I-24", "I-50", "I-51", "I-58", "I-94"]),
        Bug::RecoveredUnsynced => (29, &["I-51", "I-90"]),
        Bug::StaleCache => (1, &["I-5", "I-8"]),
        Bug::ConfigUnsynced => (29, &["I-50"]),
        Bug::ExpiryUnlogged => (8, &["I-24", "I-8", "I-25"]),
        Bug::EvictionUnlogged => (5, &["I-24", "I-8"]),
        Bug::KeepQuota => (1, &["I-105"]),
        Bug::DeleteUnlogged => (1, &["I-24", "I-8", "I-52"]),
        Bug::AckUnlogged => (5, &["I-24", "I-87", "I-52"]),
        Bug::TokensFromOne => (5, &["I-86"]),
        Bug::LeaseOverEarly => (11, &["I-80", "I-81", "I-88"]),
        Bug::DeadLetterEarly => (30, &["I-81", "I-83"]),
        Bug::PlaceUnlogged => (54, &["I-60", "I-62", "I-67"]),
        Bug::NoRewind => (6, &["I-66"]),
        Bug::TrimUntold => (4, &["I-68"]),
        Bug::ReshardForgetsLog => (1, &["I-8", "I-51", "I-92"]),
    }
}

/// Shorter histories than the simulator's own campaigns have, so that many fit a minute; but a source must lose
/// a tail that was copied already, and that takes longer.
fn options(bug: Bug) -> Options {
    let operations = if bug == Bug::NoRewind { 500 } else { 150 };
    Options { operations, ..Options::default() }
}

/// Runs with the bug switched on.
fn with<T>(bug: Bug, run: impl FnOnce() -> T) -> T {
    ON.set(Some(bug));
    let result = run();
    ON.set(None);
    result
}

/// The first of the seeds whose history breaks, with the bug, one of the rules that the bug breaks, and none
/// without it.
fn catch(bug: Bug, seeds: RangeInclusive<u64>) -> Result<Failure, String> {
    let rules = case(bug).1;
    let options = options(bug);
    let mut others = Vec::new();
    for seed in seeds.clone() {
        let Err(failure) = with(bug, || run_seed(seed, &options)) else { continue };
        match rules.contains(&failure.violation.rule.as_str()) {
            false => others.push(brief(&failure)),
            true => match run_seed(seed, &options) {
                Ok(_) => return Ok(failure),
                Err(failure) => others.push(format!("without a bug: {}", brief(&failure))),
            },
        }
    }
    others.truncate(3);
    Err(format!("seeds {seeds:?} do not find it by {rules:?}; {}", others.join("\n")))
}

/// A failure without its history, which its seed tells.
fn brief(failure: &Failure) -> String {
    let Failure { seed, index, violation, .. } = failure;
    let message: String = violation.message.chars().take(2000).collect();
    format!("{}, seed {seed}, operation {}: {message}", violation.rule, index + 1)
}

/// Does `work` for each bug, two at a time; fails if one of them did, after all of them.
fn for_each(bugs: &[Bug], work: impl Fn(Bug) -> Result<(), String> + Sync) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = work(*bug) {
                        failed.lock().expect("nobody panicked").push(format!("{bug:?}: {why}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panicked");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_bug_is_found_by_a_rule_that_it_breaks() {
    for_each(ALL, |bug| {
        let first = case(bug).0;
        catch(bug, first..=first + SEEDS_TRIED - 1).map(drop)
    });
}

#[test]
#[ignore = "takes minutes; prints the table of TESTING.md"]
fn every_bug_is_found_within_ten_thousand_seeds() {
    let named = std::env::var("RUNELOG_BUGS").unwrap_or_default();
    let is_named = |bug: &Bug| named.is_empty() || named.split(',').any(|name| name == format!("{bug:?}"));
    let bugs: Vec<Bug> = ALL.iter().copied().filter(is_named).collect();
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let first = number("RUNELOG_SEED", 1);
    let last = first + number("RUNELOG_SEEDS", SEEDS_MAX) - 1;
    let rows = Mutex::new(BTreeMap::new());
    for_each(&bugs, |bug| {
        let failure = catch(bug, first..=last)?;
        let short = with(bug, || shrink(&failure, SHRINK_RUNS));
        let (seed, rule, length) = (failure.seed, &failure.violation.rule, short.ops.len());
        let row = format!("| `{bug:?}` | {seed} | {rule} | {length} |");
        println!("{row}");
        rows.lock().expect("nobody panicked").insert(bug as usize, row);
        Ok(())
    });
    println!("\n| Bug | Seed | Rule | Operations |\n|---|---|---|---|");
    rows.into_inner().expect("nobody panicked").values().for_each(|row| println!("{row}"));
}
