//! Shorter histories that fail the same way: leaves operations out, halves by halves (ddmin), then makes
//! numbers smaller.

use super::op::Op;
use super::{Failure, run_ops};

/// Tries up to `budget` shorter histories, and returns the shortest that still fails by the same rule.
pub fn shrink(failure: &Failure, mut budget: usize) -> Failure {
    let mut best = failure.clone();
    // Nothing behind the failing operation matters.
    best.ops.truncate(best.index + 1);
    let mut pieces = 2;
    while best.ops.len() > 1 && budget > 0 {
        let len = best.ops.len().div_ceil(pieces);
        let mut at = 0;
        let mut shorter = false;
        while at < best.ops.len() && budget > 0 {
            let mut ops = best.ops.clone();
            ops.drain(at..(at + len).min(best.ops.len()));
            match attempt(&best, ops, &mut budget) {
                Some(found) => (best, shorter) = (found, true),
                None => at += len,
            }
        }
        match (shorter, len) {
            (true, _) => pieces = (pieces - 1).max(2),
            (false, 1) => break,
            (false, _) => pieces = (pieces * 2).min(best.ops.len()),
        }
    }
    for index in 0..best.ops.len() {
        let mut number = 0;
        while budget > 0 {
            let mut changed = false;
            for smaller in [|_: u64| 0, |number: u64| number / 2, |number: u64| number.saturating_sub(1)] {
                let Some(mut op) = best.ops.get(index).copied() else { break };
                let mut numbers = op.numbers();
                let Some(place) = numbers.get_mut(number) else { break };
                let (old, new) = (**place, smaller(**place));
                if old == new {
                    continue;
                }
                **place = new;
                let mut ops = best.ops.clone();
                ops[index] = op;
                if let Some(found) = attempt(&best, ops, &mut budget) {
                    (best, changed) = (found, true);
                    break;
                }
            }
            let has_more = best.ops.get(index).copied().is_some_and(|mut op| number + 1 < op.numbers().len());
            match (changed, has_more) {
                (true, _) => {}
                (false, true) => number += 1,
                (false, false) => break,
            }
        }
    }
    best
}

/// The failure of these operations, if it is the same kind.
fn attempt(known: &Failure, ops: Vec<Op>, budget: &mut usize) -> Option<Failure> {
    *budget = budget.saturating_sub(1);
    let mut found = run_ops(known.seed, &known.options, &ops).err()?;
    if !found.is_like(known) {
        return None;
    }
    found.ops.truncate(found.index + 1);
    Some(found)
}
