//! Recorded histories, changed in one place: none passes any more.

use super::history::{Answer, Ask, History, Op};
use super::record::{Length, record};
use super::{is_wrong, judge};
use crate::random::Random;
use crate::server::Dir;

/// Recordings to find a place for every change in.
const RECORDINGS_MAX: u64 = 12;

/// Changes a history; false if it has no place for it.
type Change = fn(&mut History, &mut Random) -> bool;

/// What would be seen of a server with that fault.
const CHANGES: &[(&str, Change)] = &[
    ("I-51 an acknowledged append is gone from the history of writes", drop_append),
    ("I-4 two appends have one another's seqs", reorder),
    ("U-5 a retry appended", append_twice),
    ("I-5 two records of a read change places", swap_records),
    ("I-41 a read misses the last record", miss_last),
    ("I-24 a deleted record is back", come_back),
    ("I-6 a head goes back", head_back),
    ("I-51 a kill took what was acknowledged", forget_all),
    ("I-80 a job is claimed twice", claim_twice),
    ("I-82 an ack that removed a job says that it was not held", deny_ack),
    ("Q-3 a delivery is not counted", count_less),
    ("I-87 an ack is forgotten", drop_ack),
];

fn pick(history: &History, random: &mut Random, wanted: impl Fn(&Op) -> bool) -> Option<usize> {
    let found: Vec<usize> =
        (0..history.len()).filter(|index| history[*index].certain && wanted(&history[*index].op)).collect();
    (!found.is_empty()).then(|| found[random.below(found.len() as u64) as usize])
}

/// The last read: all is quiet, and it shows everything. Histories that a kill ended have none.
fn last_read(history: &History) -> Option<usize> {
    let last = history.len().checked_sub(5)?..history.len();
    last.rev()
        .find(|index| history[*index].op.client == 0 && matches!(history[*index].op.ask, Ask::Read { .. }))
}

fn shown(op: &Op) -> &[(u64, super::history::Record)] {
    match &op.answer {
        Some(Answer::Read { records, .. }) => records,
        _ => &[],
    }
}

fn fresh(op: &Op) -> Option<(u64, u64)> {
    match op.answer {
        Some(Answer::Appended { first, last, deduped: false, .. }) => Some((first, last)),
        _ => None,
    }
}

fn drop_append(history: &mut History, random: &mut Random) -> bool {
    let Some(end) = last_read(history) else { return false };
    let shown: Vec<u64> = shown(&history[end].op).iter().map(|(seq, _)| *seq).collect();
    let seen = |op: &Op| fresh(op).is_some_and(|(first, _)| shown.contains(&first));
    pick(history, random, seen).map(|index| history.remove(index)).is_some()
}

fn reorder(history: &mut History, random: &mut Random) -> bool {
    let Some(early) = pick(history, random, |op| fresh(op).is_some()) else { return false };
    let ended = history[early].ended;
    let size = |op: &Op| fresh(op).map(|(first, last)| last - first);
    let wanted = size(&history[early].op);
    let late = (0..history.len()).find(|index| {
        let span = &history[*index];
        span.certain && span.began > ended && size(&span.op) == wanted
    });
    late.map(|late| {
        let answer = history[late].op.answer.take();
        history[late].op.answer = std::mem::replace(&mut history[early].op.answer, answer);
    })
    .is_some()
}

fn append_twice(history: &mut History, random: &mut Random) -> bool {
    let firsts: Vec<u64> = history.iter().filter_map(|span| Some(fresh(&span.op)?.0)).collect();
    // Without an answer to the first, the retry may have been the first.
    let is_known = |op: &Op| match op.answer {
        Some(Answer::Appended { first, deduped: true, .. }) => firsts.contains(&first),
        _ => false,
    };
    let Some(index) = pick(history, random, is_known) else { return false };
    if let Some(Answer::Appended { deduped, .. }) = &mut history[index].op.answer {
        *deduped = false;
    }
    true
}

fn swap_records(history: &mut History, random: &mut Random) -> bool {
    // Of two that had no answer either order can be right.
    let answered: Vec<(u64, u64)> = history.iter().filter_map(|span| fresh(&span.op)).collect();
    let is_known = |seq: u64| answered.iter().any(|(first, last)| (*first..=*last).contains(&seq));
    let place = |op: &Op| shown(op).windows(2).position(|pair| is_known(pair[0].0));
    let Some(index) = pick(history, random, |op| place(op).is_some()) else { return false };
    let at = place(&history[index].op).expect("just seen");
    if let Some(Answer::Read { records, .. }) = &mut history[index].op.answer {
        (records[at].1, records[at + 1].1) = (records[at + 1].1, records[at].1);
    }
    true
}

fn miss_last(history: &mut History, _: &mut Random) -> bool {
    let Some(index) = last_read(history) else { return false };
    match &mut history[index].op.answer {
        Some(Answer::Read { records, .. }) => records.pop().is_some(),
        _ => false,
    }
}

fn come_back(history: &mut History, _: &mut Random) -> bool {
    let Some(end) = last_read(history) else { return false };
    let known = |seq| shown(&history[end].op).iter().any(|(one, _)| *one == seq);
    let lost = history.iter().flat_map(|span| shown(&span.op)).find(|(seq, _)| !known(*seq)).copied();
    let Some(lost) = lost else { return false };
    if let Some(Answer::Read { records, .. }) = &mut history[end].op.answer {
        let at = records.partition_point(|(seq, _)| *seq < lost.0);
        records.insert(at, lost);
    }
    true
}

fn head_back(history: &mut History, _: &mut Random) -> bool {
    let Some(end) = last_read(history) else { return false };
    match &mut history[end - 1].op.answer {
        Some(Answer::State { head, .. }) if *head > 0 => *head -= 1,
        _ => return false,
    }
    true
}

fn forget_all(history: &mut History, _: &mut Random) -> bool {
    let Some(index) = history.iter().position(|span| matches!(span.op.ask, Ask::Crash)) else { return false };
    let began = history[index].began;
    let newest = history.iter().filter(|span| span.ended < began).filter_map(|span| fresh(&span.op)).max();
    let Some((_, newest)) = newest else { return false };
    history[index].op.answer = Some(Answer::Recovered { head: newest - 1 });
    true
}

fn has_jobs(op: &Op) -> bool {
    matches!(&op.answer, Some(Answer::Claimed { jobs, .. }) if !jobs.is_empty())
}

fn claim_twice(history: &mut History, random: &mut Random) -> bool {
    let Some(index) = pick(history, random, has_jobs) else { return false };
    let mut again = history[index].clone();
    again.began = again.ended;
    again.op.client = 99;
    if let Some(Answer::Claimed { jobs, .. }) = &mut again.op.answer {
        jobs.iter_mut().for_each(|job| job.token += 1 << 40);
    }
    history.push(again);
    true
}

/// An ack of one job, held by who asked.
fn removes_one(op: &Op) -> bool {
    let Ask::Ack { jobs, .. } = &op.ask else { return false };
    matches!(&op.answer, Some(Answer::Settled { skipped, .. }) if skipped.is_empty() && jobs.len() == 1)
}

/// Nothing that may have been explains that a job is gone, or was handed out.
fn all_is_known(history: &History) -> bool {
    let is_open = |op: &Op| !matches!(op.ask, Ask::Append { .. } | Ask::Read { .. } | Ask::State);
    last_read(history).is_some() && !history.iter().any(|span| !span.certain && is_open(&span.op))
}

/// Nor does a delete.
fn only_acks_remove(history: &History) -> bool {
    let removes = |op: &Op| matches!(op.answer, Some(Answer::Deleted { deleted: 1.., .. }));
    all_is_known(history) && !history.iter().any(|span| removes(&span.op))
}

fn deny_ack(history: &mut History, random: &mut Random) -> bool {
    if !only_acks_remove(history) {
        return false;
    }
    let Some(index) = pick(history, random, removes_one) else { return false };
    let Ask::Ack { jobs, .. } = &history[index].op.ask else { return false };
    let seqs: Vec<u64> = jobs.iter().map(|(seq, _)| *seq).collect();
    if let Some(Answer::Settled { skipped, .. }) = &mut history[index].op.answer {
        *skipped = seqs;
    }
    true
}

fn count_less(history: &mut History, random: &mut Random) -> bool {
    if !all_is_known(history) {
        return false;
    }
    let again = |op: &Op| match &op.answer {
        Some(Answer::Claimed { jobs, .. }) => jobs.iter().any(|job| job.deliveries > 1),
        _ => false,
    };
    let Some(index) = pick(history, random, again) else { return false };
    if let Some(Answer::Claimed { jobs, .. }) = &mut history[index].op.answer {
        jobs.iter_mut().filter(|job| job.deliveries > 1).for_each(|job| job.deliveries -= 1);
    }
    true
}

/// The end of the history shows that the job is gone, and nobody else says to have removed it.
fn drop_ack(history: &mut History, random: &mut Random) -> bool {
    if !only_acks_remove(history) {
        return false;
    }
    pick(history, random, removes_one).map(|index| history.remove(index)).is_some()
}

#[test]
fn a_recorded_history_with_one_change_is_wrong() {
    let clock = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let mut random = Random(clock);
    println!("seed {clock}");
    let mut places = vec![0_u32; CHANGES.len()];
    for number in 0..RECORDINGS_MAX {
        let home = Dir::new("linear-damage");
        let length = Length { topics: 30, ops: 50, kills: 2 * (number % 2), life_ms: 200 };
        for (name, settings, history) in record(&home, length, &mut random).topics {
            if judge(&home, &name, &settings, &history).is_none() {
                continue;
            }
            for ((what, change), places) in CHANGES.iter().zip(&mut places) {
                let mut changed = history.clone();
                if change(&mut changed, &mut random) {
                    let text = || format!("{name}, {settings:?}:\n{}", super::history::text(&changed));
                    assert!(is_wrong(&settings, &changed), "{what}: nobody noticed in {}", text());
                    *places += 1;
                }
            }
            // The other way round: an answer that nobody saw is no reason to object.
            for _ in 0..4 {
                let mut less = history.clone();
                let Some(index) = pick(&less, &mut random, |op| !matches!(op.ask, Ask::Crash)) else { break };
                less[index].certain = false;
                less[index].op.answer = None;
                assert!(!is_wrong(&settings, &less), "without the answer to {}", history[index].op);
            }
        }
        if places.iter().all(|places| *places > 0) {
            let found: Vec<_> = CHANGES.iter().map(|(what, _)| *what).zip(places).collect();
            println!("{found:#?}");
            return;
        }
    }
    panic!("no place in {RECORDINGS_MAX} recordings for some change: {places:?}");
}
