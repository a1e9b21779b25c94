//! The simulator about itself.

use super::{Failure, Options, Violation, parse_history, run_seed};

#[test]
fn a_history_is_read_as_it_was_written() {
    let options = Options { operations: 20, ..Options::default() };
    let ops = super::plan::history(3, &options);
    let violation = Violation { rule: "I-1".to_owned(), message: String::new() };
    let failure = Failure { seed: 3, options: options.clone(), violation, index: 0, ops: ops.clone() };
    assert_eq!(parse_history(&failure.history()), Ok((3, options, ops)));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = Options { operations: 150, ..Options::default() };
    for seed in 1..6 {
        let runs = [(); 2].map(|()| run_seed(seed, &options).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}
