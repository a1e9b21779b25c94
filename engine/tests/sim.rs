//! The simulator in its short form. `RUNELOG_SEED` is the first seed, `RUNELOG_SEEDS` their number. A failure
//! prints its shortest history; with RUNELOG_REPLAY=FILE, or by `runelog sim --replay FILE`, it runs again.

use runelog_engine::sim::{Options, Report, parse_history, run_ops, run_seed, shrink};
use std::path::Path;

/// A number from the environment.
fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs the history in a file.
fn replay(path: &Path) {
    let text = std::fs::read_to_string(path).expect("a file");
    let history = parse_history(&text);
    let (seed, options, ops) = history.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    run_ops(seed, &options, &ops).unwrap_or_else(|failure| panic!("{}: {failure}", path.display()));
}

/// I-1…I-107 as far as the table in `sim/mod.rs` says.
#[test]
fn random_histories_keep_every_rule() {
    let (first, seeds) = (env("RUNELOG_SEED", 1), env("RUNELOG_SEEDS", 40));
    let options = Options { operations: env("RUNELOG_OPS", 500) as usize, ..Options::default() };
    if let Ok(path) = std::env::var("RUNELOG_REPLAY") {
        return replay(path.as_ref());
    }
    let mut total = Report::default();
    for seed in first..first + seeds {
        match run_seed(seed, &options) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{}", shrink(&failure, 300)),
        }
    }
    // A generator that left out half of it would keep every rule as well.
    if seeds >= 1000 {
        for (what, count) in total.counts() {
            assert!(count > 0, "no history had any {what}");
        }
    }
}

/// Each file in `found` is the shortest history of a bug of the engine, or of the model: it keeps every rule now.
#[test]
fn histories_that_broke_a_rule_once_keep_it() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/found")).expect("a directory");
    let mut paths: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        replay(&path);
    }
}
