//! Whether a history could have been one operation after another.
//! Lives here: the search, and the reduction of a history that fails to what is needed to see it.
//! Not here: what the operations do ([`super::model`]).
//!
//! The search is Wing and Gong's in the form of Lowe: it walks the calls and returns in the order of their
//! times and keeps every configuration (a state, and the open operations that took effect in it) that explains
//! what returned so far. At a return the operation must have taken effect; others that are open may have before
//! it. Equal configurations are one, so that the work follows the number of operations open at once, and not
//! the length of the history. Crates that do this want complete histories, a state that follows from the
//! answers alone, and say no more than yes or no; here a kill leaves operations without an answer, time lets
//! leases end, and a failure has to be read by somebody.

use std::collections::HashSet;
use std::hash::Hash;

/// More configurations than this are no longer a check that ends soon.
const CONFIGURATIONS_MAX: usize = 30_000;
/// The same while a history is reduced: a step that makes it too wide is not taken.
const REDUCING_MAX: usize = 5_000;

/// What operations do.
pub(crate) trait Model {
    type State: Clone + Eq + Hash;
    type Op: Clone;

    fn start(&self) -> Self::State;

    /// The states in which `op` can leave `state` with the answer that it had; none if it cannot have had it.
    fn after(&self, state: &Self::State, op: &Self::Op) -> Vec<Self::State>;

    /// Whether `op` changes nothing, so that a history without it is right if one with it is.
    fn is_read(&self, op: &Self::Op) -> bool;

    /// The same operation with an answer that nobody saw.
    fn unanswered(&self, op: &Self::Op) -> Self::Op;
}

/// An operation and when it was under way, both ends included.
#[derive(Clone, Debug)]
pub(crate) struct Span<O> {
    pub(crate) op: O,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// It took effect. Otherwise it may have, until `ended`.
    pub(crate) certain: bool,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With the most configurations that there were at once.
    Right { widest: usize },
    /// No order explains the history up to the return of this operation.
    Wrong { at: usize },
    /// Too much was open at once to say.
    TooWide,
}

/// Checks a history, in any order.
pub(crate) fn check<M: Model>(model: &M, history: &[Span<M::Op>]) -> Verdict {
    check_within(model, history, CONFIGURATIONS_MAX)
}

fn check_within<M: Model>(model: &M, history: &[Span<M::Op>], most: usize) -> Verdict {
    // At one instant calls come before returns: what touches may have overlapped.
    let calls = history.iter().enumerate().map(|(index, span)| (span.began, false, index));
    let returns = history.iter().enumerate().map(|(index, span)| (span.ended, true, index));
    let mut events: Vec<_> = calls.chain(returns).collect();
    events.sort_unstable();

    let mut open: Vec<Option<usize>> = Vec::new();
    let mut configurations = HashSet::from([(model.start(), 0_u64)]);
    let mut widest = 1;
    for (_, returned, index) in events {
        if !returned {
            let slot = open.iter().position(Option::is_none).unwrap_or_else(|| {
                open.push(None);
                open.len() - 1
            });
            assert!(slot < 64, "more than 64 operations open at once");
            open[slot] = Some(index);
            continue;
        }
        let slot = open.iter().position(|found| *found == Some(index)).expect("it was called");
        match settle(model, history, &open, slot, configurations, most) {
            Some(settled) => configurations = settled,
            None => return Verdict::TooWide,
        }
        widest = widest.max(configurations.len());
        open[slot] = None;
        if configurations.is_empty() {
            return Verdict::Wrong { at: index };
        }
    }
    Verdict::Right { widest }
}

/// The configurations after the return of the operation in `slot`, if they are not too many.
fn settle<M: Model>(
    model: &M,
    history: &[Span<M::Op>],
    open: &[Option<usize>],
    slot: usize,
    before: HashSet<(M::State, u64)>,
    most: usize,
) -> Option<HashSet<(M::State, u64)>> {
    let bit = 1 << slot;
    let certain = history[open[slot].expect("it is open")].certain;
    let mut settled = HashSet::new();
    let mut seen = HashSet::new();
    let mut waiting = Vec::new();
    for (state, done) in before {
        if done & bit != 0 {
            settled.insert((state, done & !bit));
        } else {
            if !certain {
                settled.insert((state.clone(), done));
            }
            seen.insert((state.clone(), done));
            waiting.push((state, done));
        }
    }
    while let Some((state, done)) = waiting.pop() {
        for (other, index) in open.iter().enumerate() {
            let Some(index) = index.filter(|_| done & 1 << other == 0) else { continue };
            for next in model.after(&state, &history[index].op) {
                if other == slot {
                    settled.insert((next, done));
                } else if seen.insert((next.clone(), done | 1 << other)) {
                    waiting.push((next, done | 1 << other));
                }
            }
        }
        if seen.len() + settled.len() > most {
            return None;
        }
    }
    Some(settled)
}

/// What of a wrong history is needed to see that it is wrong. Each step leaves a history that is right whenever
/// the one before was: the end goes, reads go, and answers are forgotten (of an operation without an answer not
/// even its effect is certain).
pub(crate) fn reduce<M: Model>(model: &M, history: &[Span<M::Op>]) -> Vec<Span<M::Op>> {
    let mut least = history.to_vec();
    let cut = |history: &mut Vec<Span<M::Op>>| match check_within(model, history, REDUCING_MAX) {
        Verdict::Right { .. } | Verdict::TooWide => false,
        Verdict::Wrong { at } => {
            let end = history[at].ended;
            history.retain(|span| span.began <= end && (span.ended <= end || !model.is_read(&span.op)));
            for span in history.iter_mut().filter(|span| span.ended > end) {
                (span.ended, span.certain, span.op) = (end, false, model.unanswered(&span.op));
            }
            true
        }
    };
    if !cut(&mut least) {
        return Vec::new();
    }
    least.sort_by_key(|span| span.began);
    // The latest first: what is left is then close to the beginning.
    for index in (0..least.len()).rev() {
        // One that may not have happened stays: without it less would be explained.
        let Some(span) = least.get(index).filter(|span| span.certain) else { continue };
        let mut fewer = least.clone();
        if model.is_read(&span.op) {
            fewer.remove(index);
        } else {
            (fewer[index].certain, fewer[index].op) = (false, model.unanswered(&span.op));
        }
        if cut(&mut fewer) {
            fewer.sort_by_key(|span| span.began);
            least = fewer;
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: `Write`, or `Read` with what it saw; `None` is an answer that nobody saw.
    struct Register;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Op {
        Write(u8),
        Read(Option<u8>),
    }

    impl Model for Register {
        type State = u8;
        type Op = Op;

        fn start(&self) -> u8 {
            0
        }

        fn after(&self, state: &u8, op: &Op) -> Vec<u8> {
            match op {
                Op::Write(value) => vec![*value],
                Op::Read(seen) if seen.is_none_or(|seen| seen == *state) => vec![*state],
                Op::Read(_) => Vec::new(),
            }
        }

        fn is_read(&self, op: &Op) -> bool {
            matches!(op, Op::Read(_))
        }

        fn unanswered(&self, op: &Op) -> Op {
            match op {
                Op::Write(value) => Op::Write(*value),
                Op::Read(_) => Op::Read(None),
            }
        }
    }

    fn span(began: u64, ended: u64, op: Op) -> Span<Op> {
        Span { op, began, ended, certain: true }
    }

    fn maybe(began: u64, ended: u64, op: Op) -> Span<Op> {
        Span { op, began, ended, certain: false }
    }

    fn read(began: u64, ended: u64, seen: u8) -> Span<Op> {
        span(began, ended, Op::Read(Some(seen)))
    }

    fn write(began: u64, ended: u64, value: u8) -> Span<Op> {
        span(began, ended, Op::Write(value))
    }

    #[test]
    fn a_history_is_right_if_some_order_explains_it() {
        let table: &[(&str, &[Span<Op>], bool)] = &[
            ("nothing at all", &[], true),
            ("one after the other", &[write(1, 2, 1), read(3, 4, 1)], true),
            ("a stale read", &[write(1, 2, 1), read(3, 4, 0)], false),
            ("a read beside the write sees it", &[write(1, 4, 1), read(2, 3, 1)], true),
            ("or does not", &[write(1, 4, 1), read(2, 3, 0)], true),
            ("what touches overlaps", &[write(1, 2, 1), read(2, 3, 0)], true),
            ("seen, then not seen", &[write(1, 9, 1), read(2, 3, 1), read(4, 5, 0)], false),
            ("from the future", &[read(1, 2, 1), write(3, 4, 1)], false),
            ("two writes in either order", &[write(1, 4, 1), write(2, 5, 2), read(6, 7, 1)], true),
            (
                "but in one for all",
                &[write(1, 4, 1), write(2, 5, 2), read(6, 9, 1), read(7, 10, 1), read(11, 12, 2)],
                false,
            ),
            ("a write without an answer happened", &[maybe(1, 5, Op::Write(1)), read(6, 7, 1)], true),
            ("or it did not", &[maybe(1, 5, Op::Write(1)), read(6, 7, 0)], true),
            ("but not after its end", &[maybe(1, 5, Op::Write(1)), read(6, 7, 0), read(8, 9, 1)], false),
            ("and not back", &[maybe(1, 5, Op::Write(1)), read(2, 3, 1), read(6, 7, 0)], false),
        ];
        for (name, history, right) in table {
            let verdict = check(&Register, history);
            assert_eq!(matches!(verdict, Verdict::Right { .. }), *right, "{name}: {verdict:?}");
            let mut turned = history.to_vec();
            turned.reverse();
            assert_eq!(check(&Register, &turned).is_right(), *right, "{name}, listed the other way round");
        }
    }

    impl Verdict {
        fn is_right(self) -> bool {
            matches!(self, Verdict::Right { .. })
        }
    }

    /// Against the definition itself: small random histories, all orders tried.
    #[test]
    fn it_agrees_with_trying_every_order() {
        let mut random = crate::random::Random(7);
        let mut right = 0;
        for round in 0..4000 {
            let history: Vec<_> = (0..2 + random.below(5))
                .map(|_| {
                    let began = random.below(12);
                    let op = match random.below(2) {
                        0 => Op::Write(random.below(3) as u8),
                        _ => Op::Read(Some(random.below(3) as u8)),
                    };
                    Span { op, began, ended: began + random.below(6), certain: !random.one_in(4) }
                })
                .collect();
            let expected = some_order(&history, &mut vec![false; history.len()], 0);
            assert_eq!(check(&Register, &history).is_right(), expected, "round {round}: {history:?}");
            right += u32::from(expected);
        }
        assert!((800..3200).contains(&right), "{right} of 4000 are right: the histories are of no use");
    }

    fn some_order(history: &[Span<Op>], used: &mut Vec<bool>, state: u8) -> bool {
        // Those without an answer that are left over did not happen.
        if (0..history.len()).all(|index| used[index] || !history[index].certain) {
            return true;
        }
        (0..history.len()).any(|index| {
            let first = (0..history.len()).all(|other| {
                used[other] || !history[other].certain || history[other].ended >= history[index].began
            });
            if used[index] || !first {
                return false;
            }
            // One without an answer that this one follows has had its chance.
            let passed: Vec<usize> = (0..history.len())
                .filter(|other| !used[*other] && history[*other].ended < history[index].began)
                .collect();
            passed.iter().for_each(|other| used[*other] = true);
            used[index] = true;
            let found = Register
                .after(&state, &history[index].op)
                .into_iter()
                .any(|next| some_order(history, used, next));
            used[index] = false;
            passed.iter().for_each(|other| used[*other] = false);
            found
        })
    }

    #[test]
    fn what_is_not_needed_to_see_the_fault_goes() {
        let history = [
            write(1, 2, 1),
            read(3, 4, 1),
            write(5, 6, 2),
            read(7, 8, 2),
            read(9, 10, 1), // stale
            write(11, 12, 3),
            read(13, 14, 3),
        ];
        assert_eq!(check(&Register, &history), Verdict::Wrong { at: 4 });
        let least = reduce(&Register, &history);
        let ops: Vec<Op> = least.iter().filter(|span| span.certain).map(|span| span.op).collect();
        assert_eq!(ops, [Op::Write(2), Op::Read(Some(1))]);
        assert!(reduce(&Register, &history[..4]).is_empty(), "nothing is wrong with its beginning");
    }
}
