//! `runelog sim`: random histories of the engine on a simulated disk, seed after seed, beside a model of what
//! must be there. Here: seeds onto threads, progress, and what is printed of a failure. Not here: the
//! simulator (`runelog_engine::sim`).

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use clap::Args;
use runelog_engine::sim::{Failure, Options, Report, parse_history, run_ops, run_seed, shrink};

/// Shorter histories that are tried for each failure.
const SHRINK_BUDGET: usize = 2_000;

/// Arguments of `runelog sim`.
#[derive(Args)]
pub(crate) struct SimArgs {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; `--from S --seeds 1` runs one again
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    from: u64,
    /// Operations of each history
    #[arg(long, default_value_t = 500, value_name = "N")]
    ops: usize,
    /// Threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    /// Run the history in this file, as a failure printed it, instead of seeds
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// Runs the seeds. Fails when one does.
pub(crate) fn run(args: &SimArgs) -> ExitCode {
    match &args.replay {
        Some(path) => replay(path),
        None => seeds(args),
    }
}

fn replay(path: &PathBuf) -> ExitCode {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let (seed, options, ops) = match text.and_then(|text| parse_history(&text)) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("runelog: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    match run_ops(seed, &options, &ops) {
        Ok(report) => {
            print_counts(&report);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            print!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn seeds(args: &SimArgs) -> ExitCode {
    let options = Options { operations: args.ops, ..Options::default() };
    let (next, end) = (AtomicU64::new(args.from), args.from.saturating_add(args.seeds));
    let (send, outcomes) = mpsc::channel();
    let began = Instant::now();
    let mut total = Report::default();
    let (mut done, mut failures) = (0, Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            let (send, next, options) = (send.clone(), &next, &options);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || send.send(run_seed(seed, options)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for outcome in outcomes {
            done += 1;
            match outcome {
                Ok(report) => total.add(&report),
                Err(failure) => {
                    eprintln!("\nseed {}: {}", failure.seed, failure.violation.rule);
                    failures.push(failure);
                }
            }
            progress(done, args.seeds, failures.len(), &total, began);
        }
    });
    eprintln!();
    let seconds = began.elapsed().as_secs_f64();
    println!("{done} seeds in {seconds:.0} s, {:.0} operations/s", total.operations as f64 / seconds);
    print_counts(&total);
    let Some(first) = failures.iter().min_by_key(|failure| failure.seed) else { return ExitCode::SUCCESS };
    println!("{} seeds failed; the first of them, made short:", failures.len());
    print_failure(first);
    ExitCode::FAILURE
}

fn print_failure(failure: &Failure) {
    let seed = failure.seed;
    println!("{}", shrink(failure, SHRINK_BUDGET));
    println!(
        "`runelog sim --from {seed} --seeds 1 --ops {}` runs all of it again;",
        failure.options.operations
    );
    println!("`runelog sim --replay FILE` runs the lines from `seed=` on.");
}

fn progress(done: u64, seeds: u64, failures: usize, total: &Report, began: Instant) {
    let last = done == seeds;
    if !std::io::stderr().is_terminal() && !done.is_multiple_of(1000) && !last {
        return;
    }
    let rate = total.operations as f64 / began.elapsed().as_secs_f64();
    let ends = total.kills + total.power_losses;
    eprint!(
        "\r{done}/{seeds} seeds, {} operations, {ends} crashes, {failures} failures, {rate:.0}/s ",
        total.operations
    );
}

fn print_counts(report: &Report) {
    for (what, count) in report.counts() {
        println!("{count:>12} {what}");
    }
}
