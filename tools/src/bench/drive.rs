//! Requests on many connections, one at a time on each: as fast as answers come (closed loop), or at a
//! fixed rate (open loop). In an open loop a latency counts from the moment at which the request was meant
//! to be sent, so that a server that stalls is not asked less while it does (coordinated omission).

use std::collections::VecDeque;
use std::time::Duration;

use super::answer::{Answers, Keep};
use super::measure::Measure;
use super::wire::{Happened, Wire};

/// Requests that may be late at once before a point is given up: the server is far below the rate.
const LATE_MAX: usize = 10_000_000;

/// What is asked, and what an answer says.
pub(crate) trait Work {
    /// What is kept of answers.
    const KEEP: Keep;

    /// Appends the next request of connection `number`.
    fn ask(&mut self, number: usize, now: Duration, out: &mut Vec<u8>);

    /// An answer of status 2xx: how many records, and how many of their bytes, it is worth; `None`: it is a
    /// step of something larger, whose latency goes on.
    fn answered(&mut self, number: usize, body: &[u8]) -> Option<(u64, u64)>;
}

/// How requests are spread over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// The next one when the last is answered.
    Closed,
    /// This many a second, whatever the server does.
    Open(f64),
}

struct Asking {
    answers: Answers,
    /// Since when the request in flight counts.
    since: Option<Duration>,
}

/// Runs one point. `progress` hears of the time and the records so far about once a second.
pub(crate) fn drive<W: Work>(
    wire: &mut Wire,
    first: usize,
    count: usize,
    work: &mut W,
    pace: Pace,
    mut measure: Measure,
    mut progress: impl FnMut(Duration, u64),
) -> Result<Measure, String> {
    let answers = || Asking { answers: Answers::new(W::KEEP), since: None };
    let mut asking: Vec<Asking> = (0..count).map(|_| answers()).collect();
    let began = wire.now();
    let mut idle: VecDeque<usize> = (0..count).collect();
    let mut late: VecDeque<Duration> = VecDeque::new();
    let mut meant = 0_u64;
    let mut told = began;
    loop {
        let now = wire.now();
        if measure.is_over(now) {
            return Ok(measure);
        }
        if now - told >= Duration::from_secs(1) {
            told = now;
            progress(now, measure.records());
        }
        let mut wait = measure.ends() - now;
        match pace {
            Pace::Closed => {
                // Only at the begin: later each answer brings the next request.
                for index in idle.drain(..) {
                    if let Some(out) = wire.out(first + index) {
                        asking[index].since = Some(now);
                        work.ask(index, now, out);
                    }
                }
            }
            Pace::Open(per_second) => {
                let due = |meant: u64| began + Duration::from_secs_f64(meant as f64 / per_second);
                while due(meant) <= now {
                    late.push_back(due(meant));
                    meant += 1;
                }
                wait = wait.min(due(meant) - now);
                if late.len() > LATE_MAX {
                    return Err(format!("the server is {} requests behind this rate", late.len()));
                }
                while let (Some(since), Some(index)) = (late.front().copied(), idle.pop_front()) {
                    late.pop_front();
                    if let Some(out) = wire.out(first + index) {
                        asking[index].since = Some(since);
                        work.ask(index, now, out);
                    }
                }
            }
        }
        let mut trouble = None;
        wire.turn(Some(wait), |now, number, happened| {
            let Some(one) = number.checked_sub(first).and_then(|index| asking.get_mut(index)) else { return };
            let index = number - first;
            let Happened::Bytes(bytes, out) = happened else {
                trouble = Some("the server closed a connection".to_owned());
                return;
            };
            let Asking { answers, since } = one;
            let pushed = answers.push(bytes, |status, body| {
                let Some(asked) = *since else { return };
                let more = if (200..300).contains(&status) {
                    let worth = work.answered(index, body);
                    if let Some((records, bytes)) = worth {
                        measure.answer(asked, now, records, bytes);
                    }
                    worth.is_none()
                } else {
                    measure.refusal(asked, now, status);
                    false
                };
                match pace {
                    _ if more => work.ask(index, now, out),
                    Pace::Closed => {
                        *since = Some(now);
                        work.ask(index, now, out);
                    }
                    Pace::Open(_) => {
                        *since = None;
                        idle.push_back(index);
                    }
                }
            });
            if let Err(why) = pushed {
                trouble = Some(why.to_owned());
            }
        });
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
    }
}
