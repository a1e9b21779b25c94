//! The leases of a queue (§10 of the contract), as far as clients can know them.
//!
//! The end of a lease is known when its claim was answered; otherwise, and for delays, it lies between two
//! times. What is not known is not held against anybody: a job then may be ready and may be not.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Answer, Ask, Counts, Job, Named, Node, Op, Record, Token};

/// A core looks at its clock when its turn begins, which can be before a request came to it.
const TURN_MS: i64 = 1000;

/// A moment between two, both included.
type Between = (i64, i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Is {
    Ready,
    /// Until then and no longer; the token is unknown if the claim had no answer.
    Leased {
        node: Node,
        token: Option<Token>,
        until: Between,
    },
    Delayed {
        until: Between,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Known {
    is: Is,
    deliveries: u64,
    /// Deleted while leased: its holder's ack counts.
    deleted: bool,
}

/// The jobs that were handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Jobs(BTreeMap<u64, Known>);

/// Yes, no, or as you like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whether {
    No,
    Maybe,
    Yes,
}

/// Whether it is past a moment.
fn is_past(now: i64, until: Between) -> Whether {
    match () {
        () if now <= until.0 => Whether::No,
        () if now <= until.1 => Whether::Maybe,
        () => Whether::Yes,
    }
}

fn not(whether: Whether) -> Whether {
    match whether {
        Whether::No => Whether::Yes,
        Whether::Maybe => Whether::Maybe,
        Whether::Yes => Whether::No,
    }
}

impl Known {
    fn is_ready(&self, now: i64) -> Whether {
        match self.is {
            Is::Ready => Whether::Yes,
            Is::Leased { until, .. } | Is::Delayed { until } => is_past(now, until),
        }
    }

    /// Whether the caller may act on it.
    fn is_held(&self, now: i64, by: Node, fence: Option<Token>) -> Whether {
        match self.is {
            Is::Leased { node, token, until } if node == by => match (not(is_past(now, until)), token, fence)
            {
                (_, Some(token), Some(fence)) if token != fence => Whether::No,
                (Whether::Yes, None, Some(_)) => Whether::Maybe,
                (unexpired, _, _) => unexpired,
            },
            _ => Whether::No,
        }
    }
}

impl Jobs {
    /// The record is gone; a lease on it is not.
    pub(crate) fn deleted(&mut self, seq: u64) {
        if let Some(known) = self.0.get_mut(&seq) {
            match known.is {
                Is::Leased { .. } => known.deleted = true,
                _ => {
                    self.0.remove(&seq);
                }
            }
        }
    }

    fn is_ready(&self, seq: u64, now: i64) -> Whether {
        self.0.get(&seq).map_or(Whether::Yes, |known| known.is_ready(now))
    }

    /// After a kill. Without durable leases all are over, and deliveries begin again (I-84); with them, of each
    /// claim that had no answer both is right: it is in force at once, and answered when it is in the log.
    pub(crate) fn crashed(&self, durable: bool) -> Vec<Jobs> {
        if !durable {
            return vec![Jobs::default()];
        }
        let unanswered = |known: &Known| match known.is {
            Is::Leased { node, token: None, until } => Some((node, until)),
            _ => None,
        };
        let claims: BTreeSet<_> = self.0.values().filter_map(unanswered).collect();
        let mut outcomes = vec![self.clone()];
        for claim in claims {
            for index in 0..outcomes.len() {
                let mut less = outcomes[index].clone();
                less.0.retain(|_, known| {
                    if unanswered(known) == Some(claim) {
                        (known.is, known.deliveries) = (Is::Ready, known.deliveries - 1);
                    }
                    known.deliveries > 0
                });
                outcomes.push(less);
            }
        }
        // A lease on a deleted job may be forgotten with it: nothing is left to be handed out.
        for index in 0..outcomes.len() {
            let mut less = outcomes[index].clone();
            less.0.retain(|_, known| !known.deleted);
            outcomes.push(less);
        }
        outcomes
    }

    /// The moments at which an operation without a time of its own can have been carried out: of those between
    /// which nothing ends, the first.
    fn moments(&self, op: &Op) -> Vec<i64> {
        let (from, to) = (op.clock_ms.0 - TURN_MS, op.clock_ms.1);
        let ends = self.0.values().filter_map(|known| match known.is {
            Is::Ready => None,
            Is::Leased { until, .. } | Is::Delayed { until } => Some([until.0 + 1, until.1 + 1]),
        });
        let mut moments: Vec<i64> = ends.flatten().filter(|at| (from..=to).contains(at)).collect();
        moments.push(from);
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// Whether a queue can show these numbers.
    fn counts_fit(&self, live: &BTreeMap<u64, Record>, now: i64, counts: Counts) -> bool {
        let (mut ready, mut in_flight) = ((0, 0), (0, 0));
        let add = |sum: &mut (u64, u64), whether: Whether| {
            sum.0 += u64::from(whether == Whether::Yes);
            sum.1 += u64::from(whether != Whether::No);
        };
        for seq in live.keys() {
            let is_ready = self.is_ready(*seq, now);
            add(&mut ready, is_ready);
            if let Some(Known { is: Is::Leased { .. }, .. }) = self.0.get(seq) {
                add(&mut in_flight, not(is_ready));
            }
        }
        (ready.0..=ready.1).contains(&counts.ready) && (in_flight.0..=in_flight.1).contains(&counts.in_flight)
    }

    /// The same at some moment of the operation.
    pub(crate) fn may_count(&self, op: &Op, live: &BTreeMap<u64, Record>, counts: Counts) -> bool {
        op.beside.half_settled || self.moments(op).into_iter().any(|now| self.counts_fit(live, now, counts))
    }

    /// After a claim, ack, nack or extend: what can be, and which jobs are gone in each.
    pub(crate) fn after(&self, op: &Op, live: &BTreeMap<u64, Record>) -> Vec<(Jobs, Vec<u64>)> {
        let lease_ms = match op.ask {
            Ask::Claim { lease_ms, .. } | Ask::Extend { lease_ms, .. } => lease_ms as i64,
            _ => 0,
        };
        let told = match &op.answer {
            Some(Answer::Claimed { jobs, deadline, .. }) if !jobs.is_empty() => Some(deadline - lease_ms),
            Some(Answer::Extended { deadline: Some(deadline), .. }) => Some(deadline - lease_ms),
            _ => None,
        };
        let moments = match told {
            None => self.moments(op),
            Some(now) if now < op.clock_ms.0 - TURN_MS || now > op.clock_ms.1 => Vec::new(),
            Some(now) => vec![now],
        };
        let mut outcomes = Vec::new();
        for (index, now) in moments.iter().copied().enumerate() {
            // Nothing ends before the next of them.
            let until = moments.get(index + 1).map_or(op.clock_ms.1, |next| next - 1);
            let found = match (&op.ask, &op.answer) {
                (Ask::Claim { .. }, Some(Answer::Claimed { jobs, deadline, ready })) => {
                    self.claimed(op, live, (now, *deadline), jobs, *ready).into_iter().collect()
                }
                (Ask::Claim { .. }, _) => self.claimed_unseen(op, live, (now, until)),
                _ => self.settled(op, live, now),
            };
            for outcome in found {
                if !outcomes.contains(&outcome) {
                    outcomes.push(outcome);
                }
            }
        }
        outcomes
    }

    /// Live jobs in the order in which they are handed out, unless they are certainly not ready.
    fn in_order(&self, live: &BTreeMap<u64, Record>, now: i64) -> Vec<(u64, Whether)> {
        let ready = live.keys().map(|seq| (*seq, self.is_ready(*seq, now)));
        let (back, fresh): (Vec<_>, Vec<_>) = ready
            .filter(|(_, whether)| *whether != Whether::No)
            .partition(|(seq, _)| self.0.contains_key(seq));
        back.into_iter().chain(fresh).collect()
    }

    fn lease(&mut self, seq: u64, node: Node, token: Option<Token>, until: Between) -> u64 {
        let deliveries = self.0.get(&seq).map_or(0, |known| known.deliveries) + 1;
        self.0.insert(seq, Known { is: Is::Leased { node, token, until }, deliveries, deleted: false });
        deliveries
    }

    fn claimed(
        &self,
        op: &Op,
        live: &BTreeMap<u64, Record>,
        (now, deadline): (i64, i64),
        jobs: &[Job],
        ready: u64,
    ) -> Option<(Jobs, Vec<u64>)> {
        let Ask::Claim { node, max, .. } = op.ask else { return None };
        let mut next = self.clone();
        let order = self.in_order(live, now);
        let mut left = jobs.len();
        for (seq, whether) in order {
            if left == 0 && jobs.len() as u64 == max {
                break;
            }
            match jobs.iter().find(|job| job.seq == seq) {
                Some(job) => {
                    let deliveries = next.lease(seq, node, Some(job.token), (deadline, deadline));
                    if live[&seq] != job.record || deliveries != job.deliveries {
                        return None;
                    }
                    left -= 1;
                }
                // It would have been handed out before one that was, or beside them.
                None if whether == Whether::Yes && !op.beside.takes(seq, live.get(&seq)) => return None,
                None => {}
            }
        }
        let ascending = jobs.is_sorted_by(|one, other| one.seq < other.seq);
        let fits = left == 0 && ascending && jobs.len() as u64 <= max;
        let fits = fits && (!op.beside.only_reads || next.ready_fits(live, now, ready));
        fits.then_some((next, Vec::new()))
    }

    fn ready_fits(&self, live: &BTreeMap<u64, Record>, now: i64, ready: u64) -> bool {
        let order = self.in_order(live, now);
        let certain = order.iter().filter(|(_, whether)| *whether == Whether::Yes).count() as u64;
        (certain..=order.len() as u64).contains(&ready)
    }

    /// A claim whose answer nobody saw, made between two moments: the first that are ready, with or without each
    /// that may be.
    fn claimed_unseen(
        &self,
        op: &Op,
        live: &BTreeMap<u64, Record>,
        (now, latest): Between,
    ) -> Vec<(Jobs, Vec<u64>)> {
        let Ask::Claim { node, max, lease_ms } = op.ask else { return Vec::new() };
        let until = (now + lease_ms as i64, latest + lease_ms as i64);
        let mut outcomes = vec![(0, self.clone())];
        for (seq, whether) in self.in_order(live, now) {
            for index in 0..outcomes.len() {
                if outcomes[index].0 == max {
                    continue;
                }
                if whether == Whether::Maybe || op.beside.takes(seq, live.get(&seq)) {
                    outcomes.push(outcomes[index].clone());
                }
                outcomes[index].0 += 1;
                outcomes[index].1.lease(seq, node, None, until);
            }
        }
        outcomes.into_iter().map(|(_, next)| (next, Vec::new())).collect()
    }

    fn settled(&self, op: &Op, live: &BTreeMap<u64, Record>, now: i64) -> Vec<(Jobs, Vec<u64>)> {
        let (node, jobs): (Node, &[Named]) = match &op.ask {
            Ask::Ack { node, jobs } | Ask::Nack { node, jobs, .. } | Ask::Extend { node, jobs, .. } => {
                (*node, jobs)
            }
            _ => return Vec::new(),
        };
        let (skipped, counts) = match &op.answer {
            Some(Answer::Settled { skipped, counts }) => (Some(skipped), Some(*counts)),
            Some(Answer::Extended { skipped, .. }) => (Some(skipped), None),
            Some(_) => return Vec::new(),
            None => (None, None),
        };
        // What is to be done to each job, one possibility after the other. Each is named once.
        let mut choices: Vec<Vec<(u64, bool)>> = vec![Vec::new()];
        for (seq, fence) in jobs {
            let known = self.0.get(seq).filter(|known| !known.deleted || matches!(op.ask, Ask::Ack { .. }));
            let held = known.map_or(Whether::No, |known| known.is_held(now, node, *fence));
            let said = skipped.map(|skipped| !skipped.contains(seq));
            let both = [true, false].into_iter().filter(|done| said.is_none_or(|said| said == *done));
            let leaves = op.beside.takes(*seq, live.get(seq));
            let can = |done: bool| if done { held != Whether::No } else { held != Whether::Yes || leaves };
            let fits: Vec<bool> = both.filter(|done| can(*done)).collect();
            let with = |choice: &Vec<(u64, bool)>, done: bool| {
                let mut choice = choice.clone();
                choice.push((*seq, done));
                choice
            };
            choices =
                choices.iter().flat_map(|choice| fits.iter().map(move |done| with(choice, *done))).collect();
        }
        let outcome = |choice: Vec<(u64, bool)>| {
            let done: Vec<u64> = choice.iter().filter(|(_, done)| *done).map(|(seq, _)| *seq).collect();
            let mut next = self.clone();
            done.iter().for_each(|seq| next.settle(*seq, op));
            let gone = if matches!(op.ask, Ask::Ack { .. }) { done } else { Vec::new() };
            let fits = counts.filter(|_| op.beside.only_reads).is_none_or(|counts| {
                let mut live = live.clone();
                live.retain(|seq, _| !gone.contains(seq));
                next.counts_fit(&live, now, counts)
            });
            fits.then_some((next, gone))
        };
        choices.into_iter().filter_map(outcome).collect()
    }

    /// Does to a held job what its holder says.
    fn settle(&mut self, seq: u64, op: &Op) {
        let until = |ms: u64| (op.clock_ms.0 - TURN_MS + ms as i64, op.clock_ms.1 + ms as i64);
        let known = self.0.get_mut(&seq).expect("it is held");
        match (op.ask.clone(), &mut known.is) {
            (Ask::Ack { .. }, _) => {
                self.0.remove(&seq);
            }
            (Ask::Nack { delay_ms: 0, .. }, is) => *is = Is::Ready,
            (Ask::Nack { delay_ms, .. }, is) => {
                let (from, to) = until(delay_ms);
                *is = Is::Delayed { until: (from - 1, to) };
            }
            (Ask::Extend { lease_ms, .. }, Is::Leased { until: end, .. }) => {
                *end = match &op.answer {
                    Some(Answer::Extended { deadline: Some(deadline), .. }) => (*deadline, *deadline),
                    _ => until(lease_ms),
                };
            }
            _ => unreachable!("a held job is leased"),
        }
    }
}
