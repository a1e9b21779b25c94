//! The simulator in its short form. `RUNELOG_SEED` is the first seed, `RUNELOG_SEEDS` their number. A failure
//! prints its shortest history; `runelog sim --replay FILE` runs one again.

use runelog_engine::sim::{Options, Report, run_seed, shrink};

/// A number from the environment.
fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// I-1…I-107 as far as the table in `sim/mod.rs` says.
#[test]
fn random_histories_keep_every_rule() {
    let (first, seeds) = (env("RUNELOG_SEED", 1), env("RUNELOG_SEEDS", 40));
    let options = Options { operations: env("RUNELOG_OPS", 500) as usize, ..Options::default() };
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
