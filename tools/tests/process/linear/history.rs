//! What clients asked of one topic, what they were told, and when; as data and as text.

use std::fmt::{self, Display, Formatter};

use super::checker::Span;

/// A worker's name is `n` and this number.
pub(crate) type Node = u8;
/// A lease, by the number in its id.
pub(crate) type Token = u128;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// `count` records; the one at `index` holds the number `write + index`.
    Append {
        write: u64,
        count: u64,
        tag: u8,
        key: Option<u64>,
    },
    Read {
        from: u64,
        limit: u64,
        wait_ms: u64,
    },
    State,
    Delete {
        before: Option<u64>,
        tag: Option<u8>,
    },
    Claim {
        node: Node,
        max: u64,
        lease_ms: u64,
    },
    Ack {
        node: Node,
        jobs: Vec<Named>,
    },
    Nack {
        node: Node,
        jobs: Vec<Named>,
        delay_ms: u64,
    },
    Extend {
        node: Node,
        jobs: Vec<Named>,
        lease_ms: u64,
    },
    /// The server was killed and is back.
    Crash,
}

/// A job and the lease that it must be under, if any is named.
pub(crate) type Named = (u64, Option<Token>);

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) data: u64,
    pub(crate) tag: u8,
}

/// A job as handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) seq: u64,
    pub(crate) token: Token,
    pub(crate) deliveries: u64,
    pub(crate) record: Record,
}

/// Jobs ready and in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ready: u64,
    pub(crate) in_flight: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Appended { first: u64, last: u64, head: u64, deduped: bool },
    Full { head: u64, earliest: u64 },
    Read { records: Vec<(u64, Record)>, next: u64, head: u64, earliest: u64, gap: Option<(u64, u64)> },
    State { head: u64, earliest: u64, count: u64, queue: Option<Counts> },
    Deleted { deleted: u64, head: u64, earliest: u64, count: u64 },
    Claimed { jobs: Vec<Job>, deadline: i64, ready: u64 },
    Settled { skipped: Vec<u64>, counts: Counts },
    Extended { skipped: Vec<u64>, deadline: Option<i64> },
    Recovered { head: u64 },
}

impl Answer {
    /// The head that it shows, 0 if none.
    fn head(&self) -> u64 {
        match self {
            Answer::Appended { head, .. }
            | Answer::Full { head, .. }
            | Answer::Read { head, .. }
            | Answer::State { head, .. }
            | Answer::Deleted { head, .. }
            | Answer::Recovered { head } => *head,
            Answer::Claimed { .. } | Answer::Settled { .. } | Answer::Extended { .. } => 0,
        }
    }
}

/// An operation on the topic.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) client: u64,
    pub(crate) ask: Ask,
    /// `None`: the server was killed before one came.
    pub(crate) answer: Option<Answer>,
    /// The wall clock at both ends, for what leases go by.
    pub(crate) clock_ms: (i64, i64),
    /// What else was under way.
    pub(crate) beside: Beside,
}

/// What an operation may or may not have met. A removal has two ends: from the moment at which it is ordered
/// nobody gets or settles a job that it takes, and it selects what is published by then (X-4, I-27); readers see
/// the job until it is committed (I-40).
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// Acks and deletes.
    removals: Vec<Ask>,
    /// Nothing but reads was under way, so that counters of a queue can be held against it.
    pub(crate) only_reads: bool,
    /// A nack or an extend that never had an answer: it is in force at once, and the kill may take it back.
    pub(crate) half_settled: bool,
    /// The highest head that somebody was shown before.
    pub(crate) head_before: u64,
}

impl Beside {
    /// Whether a removal that was under way takes this record, if it is there.
    pub(crate) fn takes(&self, seq: u64, record: Option<&Record>) -> bool {
        self.removals.iter().any(|ask| match ask {
            Ask::Ack { jobs, .. } => jobs.iter().any(|(one, _)| *one == seq),
            Ask::Delete { before, tag } => {
                before.is_none_or(|before| seq < before)
                    && tag.is_none_or(|tag| record.is_none_or(|record| record.tag == tag))
            }
            _ => false,
        })
    }
}

/// Finds out for each operation what was beside it.
pub(crate) fn note_beside(history: &mut History) {
    let besides: Vec<Beside> = history
        .iter()
        .enumerate()
        .map(|(index, span)| {
            let mut beside = Beside { only_reads: true, ..Beside::default() };
            for (_, other) in history.iter().enumerate().filter(|(other, _)| *other != index) {
                if other.ended < span.began {
                    let head = other.op.answer.as_ref().map_or(0, Answer::head);
                    beside.head_before = beside.head_before.max(head);
                } else if other.began <= span.ended {
                    beside.only_reads &= matches!(other.op.ask, Ask::Read { .. } | Ask::State);
                    beside.half_settled |=
                        !other.certain && matches!(other.op.ask, Ask::Nack { .. } | Ask::Extend { .. });
                    if matches!(other.op.ask, Ask::Ack { .. } | Ask::Delete { .. }) {
                        beside.removals.push(other.op.ask.clone());
                    }
                }
            }
            beside
        })
        .collect();
    history.iter_mut().zip(besides).for_each(|(span, beside)| span.op.beside = beside);
}

/// All of one topic.
pub(crate) type History = Vec<Span<Op>>;

/// A history as text, in the order in which its operations began.
pub(crate) fn text(history: &[Span<Op>]) -> String {
    let mut spans: Vec<_> = history.iter().collect();
    spans.sort_by_key(|span| span.began);
    let origin = spans.first().map_or(0, |span| span.began);
    let us = |at: u64| (at - origin) as f64 / 1e3;
    let line = |span: &&Span<Op>| {
        let Op { client, clock_ms, .. } = span.op;
        format!(
            "{:>11.1} …{:>11.1} us  clock {}…{}  c{client:<2} {}\n",
            us(span.began),
            us(span.ended),
            clock_ms.0,
            clock_ms.1,
            span.op
        )
    };
    spans.iter().map(line).collect()
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.ask {
            Ask::Append { write, count, tag, key } => {
                write!(f, "append {count} from {write}, tag {tag}")?;
                if let Some(key) = key {
                    write!(f, ", key {key}")?;
                }
            }
            Ask::Read { from, limit, wait_ms } => write!(f, "read {limit} after {from}, wait {wait_ms} ms")?,
            Ask::State => write!(f, "state")?,
            Ask::Delete { before, tag } => {
                write!(f, "delete")?;
                before.map_or(Ok(()), |before| write!(f, " before {before}"))?;
                tag.map_or(Ok(()), |tag| write!(f, " tag {tag}"))?;
            }
            Ask::Claim { node, max, lease_ms } => write!(f, "claim {max} as n{node} for {lease_ms} ms")?,
            Ask::Ack { node, jobs } => write!(f, "ack as n{node} {}", Jobs(jobs))?,
            Ask::Nack { node, jobs, delay_ms } => {
                write!(f, "nack as n{node} {}, delay {delay_ms} ms", Jobs(jobs))?;
            }
            Ask::Extend { node, jobs, lease_ms } => {
                write!(f, "extend as n{node} {} to {lease_ms} ms", Jobs(jobs))?;
            }
            Ask::Crash => write!(f, "KILL")?,
        }
        match &self.answer {
            Some(answer) => write!(f, "  →  {answer}"),
            None => write!(f, "  →  ?"),
        }
    }
}

struct Jobs<'a>(&'a [Named]);

impl Display for Jobs<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (seq, token) in self.0 {
            write!(f, "[{seq}")?;
            token.map_or(Ok(()), |token| write!(f, " lease {token:x}"))?;
            write!(f, "]")?;
        }
        Ok(())
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Appended { first, last, head, deduped } => {
                let known = if *deduped { ", known" } else { "" };
                write!(f, "{first}…{last}, head {head}{known}")
            }
            Answer::Full { head, earliest } => write!(f, "full, head {head}, earliest {earliest}"),
            Answer::Read { records, next, head, earliest, gap } => {
                for (seq, record) in records {
                    write!(f, "{seq}:{}/{} ", record.data, record.tag)?;
                }
                write!(f, "next {next}, head {head}, earliest {earliest}")?;
                gap.map_or(Ok(()), |(from, to)| write!(f, ", gap {from}…{to}"))
            }
            Answer::State { head, earliest, count, queue } => {
                write!(f, "head {head}, earliest {earliest}, count {count}")?;
                queue.map_or(Ok(()), |counts| write!(f, ", {counts}"))
            }
            Answer::Deleted { deleted, head, earliest, count } => {
                write!(f, "{deleted} gone, head {head}, earliest {earliest}, count {count}")
            }
            Answer::Claimed { jobs, deadline, ready } => {
                for Job { seq, token, deliveries, record } in jobs {
                    write!(f, "{seq}:{}/{} lease {token:x} time {deliveries}, ", record.data, record.tag)?;
                }
                write!(f, "ready {ready}, deadline {deadline}")
            }
            Answer::Settled { skipped, counts } => write!(f, "skipped {skipped:?}, {counts}"),
            Answer::Extended { skipped, deadline } => write!(f, "skipped {skipped:?}, deadline {deadline:?}"),
            Answer::Recovered { head } => write!(f, "recovered, head {head}"),
        }
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ready {}, in flight {}", self.ready, self.in_flight)
    }
}
