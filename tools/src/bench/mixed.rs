//! A mixed load: each connection draws its next request by weight. Lives here: weights, and whose turn it is.
//! Not here: the kinds themselves (`modes`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::answer::Keep;
use super::drive::Work;
use super::modes::{Append, Queue, Read};
use super::pick::Picker;

/// Kinds of requests, in the order of [`Mix::weights`].
pub(crate) const KINDS: [&str; 5] = ["append", "read", "catchup", "claim", "push"];
const APPEND: usize = 0;
const READ: usize = 1;
const CATCH_UP: usize = 2;
const CLAIM: usize = 3;
const PUSH: usize = 4;

/// How often each kind is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    /// By [`KINDS`].
    pub(crate) weights: [f64; KINDS.len()],
}

impl Mix {
    /// Whether queues are needed.
    pub(crate) fn has_queues(&self) -> bool {
        self.weights[CLAIM] + self.weights[PUSH] > 0.0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut weights = [0.0; KINDS.len()];
        for item in text.split(',') {
            let (name, weight) =
                item.split_once('=').ok_or_else(|| format!("{item:?} is not kind=weight"))?;
            let kind = KINDS.iter().position(|kind| *kind == name.trim());
            let kind = kind.ok_or_else(|| format!("{name:?} is none of {}", KINDS.join(", ")))?;
            let weight =
                weight.trim().parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight >= 0.0);
            weights[kind] = weight.ok_or_else(|| format!("{item:?} has no weight"))?;
        }
        match weights.iter().sum::<f64>() > 0.0 {
            true => Ok(Mix { weights }),
            false => Err("all weights are 0".to_owned()),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = KINDS.iter().zip(self.weights).filter(|(_, weight)| *weight > 0.0);
        let items: Vec<String> = used.map(|(kind, weight)| format!("{kind}={weight}")).collect();
        out.write_str(&items.join(","))
    }
}

impl serde::Serialize for Mix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The kinds, and which one each connection waits for.
pub(crate) struct Mixed {
    pub(crate) append: Append,
    pub(crate) read: Read,
    pub(crate) catch_up: Read,
    pub(crate) queue: Queue,
    pub(crate) push: Append,
    picker: Picker,
    /// By connection.
    asked: Vec<usize>,
}

impl Mixed {
    pub(crate) fn new(
        mix: &Mix,
        connections: usize,
        (append, push): (Append, Append),
        (read, catch_up): (Read, Read),
        queue: Queue,
    ) -> Mixed {
        let (picker, asked) = (Picker::weighted(&mix.weights), vec![0; connections]);
        Mixed { append, read, catch_up, queue, push, picker, asked }
    }
}

impl Work for Mixed {
    const KEEP: Keep = Keep::All; // the jobs of a claim
    const PARTS: &'static [&'static str] = &KINDS;

    fn part(&self, number: usize) -> usize {
        self.asked[number]
    }

    fn ask(&mut self, number: usize, now: Duration, out: &mut Vec<u8>) {
        // Jobs that a connection has claimed it acknowledges first.
        if !self.queue.holds(number) {
            self.asked[number] = self.picker.pick();
        }
        match self.asked[number] {
            APPEND => self.append.ask(number, now, out),
            READ => self.read.ask(number, now, out),
            CATCH_UP => self.catch_up.ask(number, now, out),
            CLAIM => self.queue.ask(number, now, out),
            _ => self.push.ask(number, now, out),
        }
    }

    fn answered(&mut self, number: usize, body: &[u8]) -> Option<(u64, u64)> {
        match self.asked[number] {
            APPEND => self.append.answered(number, body),
            READ => self.read.answered(number, body),
            CATCH_UP => self.catch_up.answered(number, body),
            CLAIM => self.queue.answered(number, body),
            _ => self.push.answered(number, body),
        }
    }
}

const _: () = assert!(PUSH + 1 == KINDS.len());

#[cfg(test)]
mod tests {
    use super::super::modes::From;
    use super::*;

    #[test]
    fn weights_are_read_and_shown() {
        let mix: Mix = "append=7, read=2,claim=0.5".parse().expect("a mix");
        assert_eq!(mix.weights, [7.0, 2.0, 0.0, 0.5, 0.0]);
        assert_eq!(mix.to_string(), "append=7,read=2,claim=0.5");
        assert!(mix.has_queues() && !"read=1".parse::<Mix>().expect("a mix").has_queues());
        for wrong in ["", "append", "write=1", "append=x", "append=-1", "append=0,read=0", "append=inf"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_claim_is_acknowledged_before_anything_else_is_drawn() {
        let topics = ["t".to_owned()];
        let append = || Append::new(&topics, 1, 20, 0.0);
        let read = |from| Read::new(&topics, vec![10], 1, from, 5, 0.0);
        let mix = "append=1,read=1,catchup=1,claim=1,push=1".parse().expect("a mix");
        let queue = Queue::new(&topics, 1, 4);
        let mut mixed =
            Mixed::new(&mix, 1, (append(), append()), (read(From::Head), read(From::Start)), queue);
        let (mut seen, mut acks) = ([0; KINDS.len()], 0);
        for _ in 0..2000 {
            let mut out = Vec::new();
            mixed.ask(0, Duration::ZERO, &mut out);
            let text = String::from_utf8(out).expect("text");
            seen[mixed.part(0)] += 1;
            if text.starts_with("POST /v0/topics/t/claim ") {
                let jobs = b"{\"claimed\":[{\"$seq\":41,\"data\":1}],\"count\":1}";
                assert_eq!(mixed.answered(0, jobs), None);
                out = Vec::new();
                mixed.ask(0, Duration::ZERO, &mut out);
                assert!(out.starts_with(b"POST /v0/topics/t/ack "));
                assert_eq!(mixed.answered(0, b"{\"acked\":1}"), Some((1, 0)));
                acks += 1;
            } else {
                mixed.answered(0, b"{\"next_from_seq\":10,\"head_seq\":10,\"records_scanned\":5}");
            }
        }
        assert_eq!(acks, seen[CLAIM]);
        assert!(seen.iter().all(|count| (300..500).contains(count)), "{seen:?}");
    }
}
