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

    /// The kinds of requests of a mixed load; none if all are of one kind.
    const PARTS: &'static [&'static str] = &[];

    /// Which of them the request in flight on a connection is.
    fn part(&self, _number: usize) -> usize {
        0
    }

    /// Appends the next request of connection `number`.
    fn ask(&mut self, number: usize, now: Duration, out: &mut Vec<u8>);

    /// An answer of status 2xx: how many records, and how many of their bytes, it is worth; with none it is an
    /// empty answer. `None`: it is a step of something larger, whose latency goes on.
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
    mut progress: impl FnMut(Duration, Duration, u64),
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
            for (index, one) in asking.iter().enumerate() {
                if let Some(since) = one.since {
                    measure.unanswered(Some(work.part(index)), since);
                }
            }
            if let Pace::Open(per_second) = pace {
                // Due since the last look.
                let dues = (meant..).map(|meant| due(began, meant, per_second));
                late.extend(dues.take_while(|due| *due < measure.ends()));
            }
            late.into_iter().for_each(|since| measure.unanswered(None, since));
            return Ok(measure);
        }
        if now - told >= Duration::from_secs(1) {
            told = now;
            progress(now - began, now, measure.records());
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
                let due = |meant| due(began, meant, per_second);
                let before = meant;
                while due(meant) <= now {
                    measure.slip(due(meant), now);
                    late.push_back(due(meant));
                    meant += 1;
                }
                wait = wait.min(due(meant) - now);
                if late.len() > LATE_MAX {
                    return Err(format!("the server is {} requests behind this rate", late.len()));
                }
                // Not both in one pattern: a connection taken while nothing is due would never come back.
                while !late.is_empty()
                    && let Some(index) = idle.pop_front()
                    && let Some(since) = late.pop_front()
                {
                    if let Some(out) = wire.out(first + index) {
                        asking[index].since = Some(since);
                        work.ask(index, now, out);
                    }
                }
                // Those that stay are the youngest.
                measure.waited(now, (meant - before).min(late.len() as u64));
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
                    let part = work.part(index);
                    let worth = work.answered(index, body);
                    if let Some((records, bytes)) = worth {
                        measure.answer(part, asked, now, records, bytes);
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

/// When a request of an open loop is meant to leave.
pub(super) fn due(began: Duration, meant: u64, per_second: f64) -> Duration {
    began + Duration::from_secs_f64(meant as f64 / per_second)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::super::measure::Point;
    use super::super::modes::Append;
    use super::super::probe::Probe;
    use super::*;

    const STALL: Duration = Duration::from_secs(1);
    const CONNECTIONS: usize = 4;
    const PER_SECOND: f64 = 500.0;

    /// A server that answers at once, but for one stall of everything at its 100th request.
    fn stalling(request_bytes: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a bound listener");
        let seen = Arc::new(Mutex::new(0));
        let serve = move |mut stream: TcpStream, seen: Arc<Mutex<u32>>| {
            let mut request = vec![0; request_bytes];
            while stream.read_exact(&mut request).is_ok() {
                let mut seen = seen.lock().expect("no panic while held");
                *seen += 1;
                if *seen == 100 {
                    std::thread::sleep(STALL);
                }
                drop(seen);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            }
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || serve(stream, seen));
            }
        });
        address
    }

    fn against_a_stall(pace: Pace, lasting: Duration) -> (u64, Point) {
        let mut work = Append::new(&["t".to_owned()], 1, 50, 0.0);
        let address = stalling(work.request_bytes());
        let mut wire = Wire::new().expect("a ring");
        let first = wire.connect(address, CONNECTIONS).expect("connections");
        let measure = Measure::new(wire.now(), Duration::ZERO, lasting, &[], Probe::default());
        let measure = drive(&mut wire, first, CONNECTIONS, &mut work, pace, measure, |_, _, _| {});
        let measure = measure.expect("a point");
        (measure.slower_than(STALL / 2), measure.finish())
    }

    /// What was due in the first half of the stall was answered after it, so each of these took longer than
    /// half of it, however slow this machine is. Counted from when they were sent, only those that were on
    /// their way would have.
    #[test]
    fn an_open_loop_shows_a_stall_in_everything_that_was_due_meanwhile() {
        let (slow, point) = against_a_stall(Pace::Open(PER_SECOND), Duration::from_secs(4));
        let due = (PER_SECOND * STALL.as_secs_f64() / 2.0) as u64;
        assert!(slow + CONNECTIONS as u64 >= due, "{slow} of {due}");
        assert!(point.requests as f64 <= PER_SECOND * point.seconds + 1.0, "{} requests", point.requests);
        assert!(point.waited_for_connection + CONNECTIONS as u64 >= due && point.slip_us.is_some());
    }

    #[test]
    fn a_closed_loop_has_no_schedule() {
        let (slow, point) = against_a_stall(Pace::Closed, Duration::from_secs(4));
        assert!(slow >= 1, "the stall was seen");
        assert_eq!((point.waited_for_connection, point.slip_us), (0, None));
    }

    /// The server stalls after 0.2 s, for longer than is left: nothing that was due then is ever answered.
    #[test]
    fn a_stall_that_outlasts_the_point_is_in_its_latencies() {
        let lasting = Duration::from_millis(700);
        let (_, point) = against_a_stall(Pace::Open(PER_SECOND), lasting);
        let due = (PER_SECOND * lasting.as_secs_f64()) as u64;
        let told = point.requests + point.unanswered;
        // The point began a little before the first request; on a busy machine that is 14 ms.
        assert!(told <= due && told + 50 >= due, "{told} of {due} requests");
        assert!(point.requests < 100 && point.latency_us.p90 > 300_000.0, "{:?}", point.latency_us);
        let (_, point) = against_a_stall(Pace::Closed, lasting);
        assert_eq!(point.unanswered, CONNECTIONS as u64);
    }
}
