//! The highest rate that a server holds: rates that grow until one is too much, then ever closer between the
//! last two. Lives here: which rate is tried next. Not here: trying it (`load`).

/// Each growing step is this much more.
const GROWTH: f64 = 1.5;
/// The first step, as a part of what a closed loop reached.
const START: f64 = 0.4;
/// A knee between two rates as near as this is known well enough: points of one rate differ by as much.
const NEAR: f64 = 1.07;

/// A rate that was tried.
#[derive(Clone, Debug)]
pub(crate) struct Step<T> {
    /// Requests a second that were asked for.
    pub(crate) rate: f64,
    /// Whether it was held.
    pub(crate) held: bool,
    /// What was measured.
    pub(crate) found: T,
}

/// What a search found: the steps in the order in which they were taken.
#[derive(Clone, Debug)]
pub(crate) struct Knee<T> {
    pub(crate) steps: Vec<Step<T>>,
}

impl<T> Knee<T> {
    /// The highest rate that was held, below each that was not: one that was held by luck, above another
    /// that was not, is none to build on.
    pub(crate) fn held(&self) -> Option<&Step<T>> {
        let broke = self.broke().map_or(f64::INFINITY, |step| step.rate);
        let held = self.steps.iter().filter(|step| step.held && step.rate < broke);
        held.max_by(|a, b| a.rate.total_cmp(&b.rate))
    }

    /// The lowest rate that was not held.
    pub(crate) fn broke(&self) -> Option<&Step<T>> {
        self.steps.iter().filter(|step| !step.held).min_by(|a, b| a.rate.total_cmp(&b.rate))
    }
}

/// Searches with at most `steps_max` steps. `closed` is the rate that a closed loop reached. `attempt` tells
/// whether a rate was held.
pub(crate) fn search<T>(
    closed: f64,
    steps_max: usize,
    mut attempt: impl FnMut(f64) -> Result<(bool, T), String>,
) -> Result<Knee<T>, String> {
    let mut knee = Knee { steps: Vec::new() };
    let mut next = Some((closed * START).max(1.0));
    while let Some(rate) = next.filter(|_| knee.steps.len() < steps_max) {
        let (held, found) = attempt(rate)?;
        knee.steps.push(Step { rate, held, found });
        next = match (knee.held().map(|step| step.rate), knee.broke().map(|step| step.rate)) {
            (Some(held), None) => Some(held * GROWTH),
            (None, Some(broke)) => Some(broke / 2.0).filter(|rate| *rate >= 1.0),
            (Some(held), Some(broke)) => Some((held * broke).sqrt()).filter(|_| broke / held > NEAR),
            (None, None) => None,
        };
    }
    Ok(knee)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that holds everything up to `limit`.
    fn knee_of(limit: f64, closed: f64, steps_max: usize) -> Knee<()> {
        search(closed, steps_max, |rate| Ok((rate <= limit, ()))).expect("no trouble")
    }

    #[test]
    fn the_knee_is_found_from_above_and_from_below() {
        for (limit, closed) in [(100.0, 100.0), (1000.0, 100.0), (7.0, 1000.0), (123_456.0, 200_000.0)] {
            let knee = knee_of(limit, closed, 30);
            let (held, broke) = (knee.held().expect("held").rate, knee.broke().expect("broke").rate);
            assert!(held <= limit && limit < broke, "{held} {limit} {broke}");
            assert!(broke / held <= NEAR, "{held} to {broke}");
            assert!(knee.steps.len() < 20, "{} steps", knee.steps.len());
        }
    }

    #[test]
    fn steps_grow_before_they_close_in() {
        let rates: Vec<f64> = knee_of(100.0, 100.0, 5).steps.iter().map(|step| step.rate.round()).collect();
        assert_eq!(rates, [40.0, 60.0, 90.0, 135.0, 110.0]);
    }

    #[test]
    fn a_search_that_runs_out_of_steps_says_what_it_knows() {
        assert!(knee_of(1e9, 100.0, 3).broke().is_none());
        assert!(knee_of(0.0, 1e9, 3).held().is_none());
        assert_eq!(knee_of(0.0, 2.0, 30).steps.len(), 1, "less than one request a second is no rate");
    }

    #[test]
    fn what_was_held_above_a_failure_does_not_count() {
        let outcomes = [(10.0, true), (30.0, true), (20.0, false), (14.0, true)];
        let steps = outcomes.map(|(rate, held)| Step { rate, held, found: () }).to_vec();
        let knee = Knee { steps };
        assert_eq!(
            (knee.held().map(|step| step.rate), knee.broke().map(|step| step.rate)),
            (Some(14.0), Some(20.0))
        );
    }

    #[test]
    fn trouble_ends_the_search() {
        let mut tries = 0;
        let result = search(10.0, 5, |_| {
            tries += 1;
            Err::<(bool, ()), _>("gone".to_owned())
        });
        assert_eq!((result.map(|_| ()), tries), (Err("gone".to_owned()), 1));
    }
}
