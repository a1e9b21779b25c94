//! The model, on histories written by hand: what the contract allows passes, and each kind of wrong does not.

use super::checker::Span;
use super::history::{Answer, Ask, Beside, Counts, Job, Op, Record};
use super::is_wrong;
use super::model::{Cap, Settings};

const LOG: Settings = Settings { class: "disk", queue: false, leases_durable: false, cap: Cap::None };
const OLD_2: Settings = Settings { cap: Cap::Old(2), ..LOG };
const REJECT_2: Settings = Settings { cap: Cap::Reject(2), ..LOG };
const QUEUE: Settings = Settings { queue: true, ..LOG };
const DURABLE: Settings = Settings { leases_durable: true, ..QUEUE };

/// The wall clock of these histories, ms; the steady one counts single steps.
const NOON: i64 = 1_000_000;

fn op(at: (u64, u64), ask: Ask, answer: Option<Answer>) -> Span<Op> {
    let clock_ms = (NOON + at.0 as i64, NOON + at.1 as i64);
    let certain = answer.is_some();
    Span {
        op: Op { client: 1, ask, answer, clock_ms, beside: Beside::default() },
        began: at.0,
        ended: at.1,
        certain,
    }
}

/// One record with the number `write`, tag 0.
fn append(at: (u64, u64), write: u64, key: Option<u64>, seq: u64) -> Span<Op> {
    op(at, write_of(write, key), Some(Answer::Appended { first: seq, last: seq, head: seq, deduped: false }))
}

fn write_of(write: u64, key: Option<u64>) -> Ask {
    Ask::Append { write, count: 1, tag: 0, key }
}

fn known(at: (u64, u64), write: u64, key: u64, seq: u64) -> Span<Op> {
    let answer = Answer::Appended { first: seq, last: seq, head: seq, deduped: true };
    op(at, write_of(write, Some(key)), Some(answer))
}

fn records(found: &[(u64, u64)]) -> Vec<(u64, Record)> {
    found.iter().map(|(seq, data)| (*seq, Record { data: *data, tag: 0 })).collect()
}

/// Everything after `from`, on a topic with this head and earliest seq.
fn read(at: (u64, u64), from: u64, found: &[(u64, u64)], head: u64, earliest: u64) -> Span<Op> {
    let answer = Answer::Read { records: records(found), next: head, head, earliest, gap: None };
    op(at, Ask::Read { from, limit: 100, wait_ms: 0 }, Some(answer))
}

fn gap(mut read: Span<Op>, seqs: (u64, u64)) -> Span<Op> {
    if let Some(Answer::Read { gap, .. }) = &mut read.op.answer {
        *gap = Some(seqs);
    }
    read
}

/// `left` of `had` records stay below `before`.
fn delete(at: (u64, u64), before: u64, deleted: u64, head: u64, count: u64) -> Span<Op> {
    let earliest = head + 1 - count;
    let answer = Answer::Deleted { deleted, head, earliest, count };
    op(at, Ask::Delete { before: Some(before), tag: None }, Some(answer))
}

fn kill(at: (u64, u64), head: u64) -> Span<Op> {
    op(at, Ask::Crash, Some(Answer::Recovered { head }))
}

/// One job, for 100 ms from the beginning of the claim on.
fn claim(at: (u64, u64), node: u8, job: (u64, u64), token: u128, deliveries: u64, ready: u64) -> Span<Op> {
    let record = Record { data: job.1, tag: 0 };
    let jobs = vec![Job { seq: job.0, token, deliveries, record }];
    let answer = Answer::Claimed { jobs, deadline: NOON + at.0 as i64 + 100, ready };
    op(at, Ask::Claim { node, max: 1, lease_ms: 100 }, Some(answer))
}

fn nothing(at: (u64, u64), ready: u64) -> Span<Op> {
    let answer = Answer::Claimed { jobs: Vec::new(), deadline: 0, ready };
    op(at, Ask::Claim { node: 1, max: 1, lease_ms: 100 }, Some(answer))
}

fn ack(at: (u64, u64), node: u8, job: (u64, Option<u128>), done: bool, counts: (u64, u64)) -> Span<Op> {
    let skipped = if done { vec![] } else { vec![job.0] };
    let counts = Counts { ready: counts.0, in_flight: counts.1 };
    op(at, Ask::Ack { node, jobs: vec![job] }, Some(Answer::Settled { skipped, counts }))
}

#[test]
fn the_model_allows_what_the_contract_allows_and_nothing_else() {
    let table: Vec<(&str, Settings, Vec<Span<Op>>, bool)> = vec![
        // Reads.
        (
            "I-41 read your write",
            LOG,
            vec![append((1, 2), 10, None, 1), read((3, 4), 0, &[(1, 10)], 1, 1)],
            true,
        ),
        ("I-41 a stale read", LOG, vec![append((1, 2), 10, None, 1), read((3, 4), 0, &[], 0, 1)], false),
        (
            "I-42 seen, and then not",
            LOG,
            vec![append((1, 9), 10, None, 1), read((2, 3), 0, &[(1, 10)], 1, 1), read((4, 5), 0, &[], 0, 1)],
            false,
        ),
        (
            "I-97 what nobody wrote",
            LOG,
            vec![append((1, 2), 10, None, 1), read((3, 4), 0, &[(1, 11)], 1, 1)],
            false,
        ),
        // Appends.
        (
            "I-4 in the order of time",
            LOG,
            vec![append((1, 2), 10, None, 1), append((3, 4), 11, None, 2)],
            true,
        ),
        ("I-4 reordered", LOG, vec![append((1, 2), 10, None, 2), append((3, 4), 11, None, 1)], false),
        ("I-4 beside one another", LOG, vec![append((1, 4), 10, None, 2), append((2, 3), 11, None, 1)], true),
        ("I-2 a hole", LOG, vec![append((1, 2), 10, None, 1), append((3, 4), 11, None, 3)], false),
        (
            "I-51 an append that is lost",
            LOG,
            vec![append((1, 2), 10, None, 1), append((3, 4), 11, None, 2), read((5, 6), 0, &[(2, 11)], 2, 2)],
            false,
        ),
        // Keys.
        ("U-3 the second is known", LOG, vec![append((1, 2), 10, Some(7), 1), known((3, 4), 11, 7, 1)], true),
        (
            "U-5 of two at once one appends",
            LOG,
            vec![append((1, 4), 10, Some(7), 1), known((2, 3), 11, 7, 1)],
            true,
        ),
        ("U-5 both append", LOG, vec![append((1, 4), 10, Some(7), 1), append((2, 3), 11, Some(7), 2)], false),
        (
            "U-3 known before the first",
            LOG,
            vec![known((1, 2), 10, 7, 1), append((3, 4), 11, Some(7), 1)],
            false,
        ),
        (
            "I-72 a retry after a kill",
            LOG,
            vec![op((1, 5), write_of(10, Some(7)), None), kill((6, 7), 1), known((8, 9), 11, 7, 1)],
            true,
        ),
        (
            "I-72 it was not there before it",
            LOG,
            vec![op((1, 5), write_of(10, Some(7)), None), kill((6, 7), 0), append((8, 9), 11, Some(7), 1)],
            true,
        ),
        (
            "I-72 both",
            LOG,
            vec![
                op((1, 5), write_of(10, Some(7)), None),
                kill((6, 7), 1),
                append((8, 9), 11, Some(7), 2),
                read((10, 11), 0, &[(1, 10), (2, 11)], 2, 1),
            ],
            false,
        ),
        // Kills.
        (
            "I-58 a head that skips",
            LOG,
            vec![append((1, 2), 10, None, 1), kill((3, 4), 1025), read((5, 6), 0, &[(1, 10)], 1025, 1)],
            true,
        ),
        ("I-58 too far", LOG, vec![append((1, 2), 10, None, 1), kill((3, 4), 1026)], false),
        ("I-51 acknowledged and gone", LOG, vec![append((1, 2), 10, None, 1), kill((3, 4), 0)], false),
        (
            "I-40 seen before the kill, gone after it",
            LOG,
            vec![op((1, 5), write_of(10, None), None), read((2, 3), 0, &[(1, 10)], 1, 1), kill((6, 7), 0)],
            false,
        ),
        (
            "what has no answer never comes later",
            LOG,
            vec![
                op((1, 5), write_of(10, None), None),
                kill((6, 7), 8),
                read((8, 9), 0, &[], 8, 9),
                append((10, 11), 11, None, 9),
                read((12, 13), 0, &[(1, 10), (9, 11)], 9, 1),
            ],
            false,
        ),
        // Deletes.
        (
            "I-24 a delete",
            LOG,
            vec![append((1, 2), 10, None, 1), delete((3, 4), 2, 1, 1, 0), read((5, 6), 0, &[], 1, 2)],
            true,
        ),
        (
            "I-28 not yet",
            LOG,
            vec![append((1, 2), 10, None, 1), delete((3, 4), 2, 1, 1, 0), read((5, 6), 0, &[(1, 10)], 1, 1)],
            false,
        ),
        (
            "I-52 a delete that comes back with a kill",
            LOG,
            vec![
                append((1, 2), 10, None, 1),
                delete((3, 4), 2, 1, 1, 0),
                kill((5, 6), 1),
                read((7, 8), 0, &[(1, 10)], 1, 1),
            ],
            false,
        ),
        (
            "I-27 what was written after it",
            LOG,
            vec![append((1, 2), 10, None, 1), append((3, 4), 11, None, 2), delete((5, 6), 2, 2, 2, 0)],
            false,
        ),
        (
            "X-4 an append beside the delete may stay",
            LOG,
            vec![append((1, 4), 10, None, 1), delete((2, 5), 9, 0, 1, 1), read((6, 7), 0, &[(1, 10)], 1, 1)],
            true,
        ),
        (
            "X-4 but not once it was seen",
            LOG,
            vec![append((1, 9), 10, None, 1), read((2, 3), 0, &[(1, 10)], 1, 1), delete((4, 8), 9, 0, 1, 1)],
            false,
        ),
        // Caps.
        (
            "CF-11 the oldest goes, and says so",
            OLD_2,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                append((5, 6), 12, None, 3),
                gap(read((7, 8), 0, &[(2, 11), (3, 12)], 3, 2), (1, 1)),
            ],
            true,
        ),
        (
            "D-12 without a word",
            OLD_2,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                append((5, 6), 12, None, 3),
                read((7, 8), 0, &[(2, 11), (3, 12)], 3, 2),
            ],
            false,
        ),
        (
            "W-31 full",
            REJECT_2,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                op((5, 6), write_of(12, None), Some(Answer::Full { head: 2, earliest: 1 })),
            ],
            true,
        ),
        (
            "I-34 too many",
            REJECT_2,
            vec![append((1, 2), 10, None, 1), append((3, 4), 11, None, 2), append((5, 6), 12, None, 3)],
            false,
        ),
        (
            "I-35 room after a delete",
            REJECT_2,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                delete((5, 6), 2, 1, 2, 1),
                op((7, 8), write_of(12, None), Some(Answer::Full { head: 2, earliest: 2 })),
            ],
            false,
        ),
        // Leases.
        (
            "I-80 claimed twice",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                claim((9, 10), 2, (1, 10), 2, 2, 0),
            ],
            false,
        ),
        (
            "Q-1 claimed again when it is over",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                claim((104, 105), 2, (1, 10), 2, 2, 0),
            ],
            true,
        ),
        (
            "Q-1 one moment too early",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                claim((103, 104), 2, (1, 10), 2, 2, 0),
            ],
            false,
        ),
        (
            "Q-3 a delivery is not counted",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                claim((104, 105), 2, (1, 10), 2, 1, 0),
            ],
            false,
        ),
        (
            "I-81 nothing, although there is",
            QUEUE,
            vec![append((1, 2), 10, None, 1), nothing((3, 4), 0)],
            false,
        ),
        (
            "Q-2 out of order",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                claim((5, 6), 1, (2, 11), 1, 1, 1),
            ],
            false,
        ),
        (
            "I-82 the holder acks",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                ack((5, 6), 1, (1, Some(1)), true, (0, 0)),
                ack((7, 8), 1, (1, Some(1)), false, (0, 0)),
                read((9, 10), 0, &[], 1, 2),
            ],
            true,
        ),
        (
            "I-82 somebody else does",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                ack((5, 6), 2, (1, None), true, (0, 0)),
            ],
            false,
        ),
        (
            "Q-32 with a wrong lease",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                ack((5, 6), 1, (1, Some(2)), true, (0, 0)),
            ],
            false,
        ),
        (
            "Q-31 the holder is skipped",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                ack((5, 6), 1, (1, None), false, (0, 1)),
            ],
            false,
        ),
        (
            "I-87 an acked job comes back",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                ack((5, 6), 1, (1, None), true, (0, 0)),
                kill((7, 8), 1),
                claim((9, 10), 1, (1, 10), 2, 1, 0),
            ],
            false,
        ),
        (
            "I-84 a kill ends a lease",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                kill((7, 8), 1),
                claim((9, 10), 2, (1, 10), 2, 1, 0),
            ],
            true,
        ),
        (
            "I-85 but not a durable one",
            DURABLE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                kill((7, 8), 1),
                claim((9, 10), 2, (1, 10), 2, 2, 0),
            ],
            false,
        ),
        (
            "I-85 whose holder can ack",
            DURABLE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                kill((7, 8), 1),
                ack((9, 10), 1, (1, Some(1)), true, (0, 0)),
            ],
            true,
        ),
        (
            "Q-45 deleted while it is held",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                delete((5, 6), 2, 1, 1, 0),
                nothing((7, 8), 0),
                ack((9, 10), 1, (1, Some(1)), true, (0, 0)),
            ],
            true,
        ),
        (
            "I-40 nobody gets what a delete beside takes",
            QUEUE,
            vec![append((1, 2), 10, None, 1), delete((3, 8), 2, 1, 1, 0), nothing((4, 5), 1)],
            true,
        ),
        (
            "I-40 nor is it gone before",
            QUEUE,
            vec![append((1, 2), 10, None, 1), nothing((4, 5), 1), delete((6, 8), 2, 1, 1, 0)],
            false,
        ),
        (
            "I-85 of two claims without an answer one is in the log",
            DURABLE,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                op((5, 19), Ask::Claim { node: 1, max: 1, lease_ms: 60_000 }, None),
                op((10, 19), Ask::Claim { node: 2, max: 1, lease_ms: 60_000 }, None),
                op(
                    (12, 13),
                    Ask::State,
                    Some(Answer::State {
                        head: 2,
                        earliest: 1,
                        count: 2,
                        queue: Some(Counts { ready: 0, in_flight: 2 }),
                    }),
                ),
                kill((20, 21), 2),
                claim((22, 23), 1, (2, 11), 3, 1, 0),
            ],
            true,
        ),
        (
            "I-40 a claim without an answer passes what a delete beside takes",
            DURABLE,
            vec![
                append((1, 2), 10, None, 1),
                append((3, 4), 11, None, 2),
                op((5, 19), Ask::Delete { before: Some(2), tag: None }, None),
                op((6, 19), Ask::Claim { node: 1, max: 1, lease_ms: 60_000 }, None),
                op(
                    (7, 8),
                    Ask::State,
                    Some(Answer::State {
                        head: 2,
                        earliest: 1,
                        count: 2,
                        queue: Some(Counts { ready: 1, in_flight: 1 }),
                    }),
                ),
                kill((20, 21), 2),
                nothing((22, 23), 0),
            ],
            true,
        ),
        (
            "Q-80 a lease that nobody counts",
            QUEUE,
            vec![
                append((1, 2), 10, None, 1),
                claim((3, 4), 1, (1, 10), 1, 1, 0),
                op(
                    (5, 6),
                    Ask::State,
                    Some(Answer::State {
                        head: 1,
                        earliest: 1,
                        count: 1,
                        queue: Some(Counts { ready: 1, in_flight: 0 }),
                    }),
                ),
            ],
            false,
        ),
    ];
    for (name, settings, history, right) in table {
        assert_eq!(is_wrong(&settings, &history), !right, "{name}");
    }
}
