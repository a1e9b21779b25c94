//! Records that must be there before a point begins: for reads and queues. Lives here: putting them in.

use std::time::Duration;

use super::answer::{Answers, Keep};
use super::modes::{data_of, post};
use super::wire::{Happened, Wire};

/// Records in one request of these.
const BATCH: u64 = 1000;

/// Puts about `count` records of `record_bytes` into the topics, evenly.
pub(crate) fn fill(
    wire: &mut Wire,
    address: std::net::SocketAddr,
    topics: &[String],
    count: u64,
    record_bytes: usize,
) -> Result<(), String> {
    let batch = BATCH.min(count.max(1));
    let record = format!("{{\"data\":{}}}", data_of(record_bytes, 0));
    let body = format!("{{\"records\":[{}]}}", vec![record; batch as usize].join(","));
    let first = wire.connect(address, topics.len()).map_err(|error| error.to_string())?;
    let each = count.div_ceil(batch * topics.len() as u64);
    let mut left = vec![each; topics.len()];
    let mut answers: Vec<Answers> = topics.iter().map(|_| Answers::new(Keep::Tail)).collect();
    let request = |index: usize| post(&format!("/v0/topics/{}?return_seqs=false", topics[index]), &body);
    for index in 0..topics.len() {
        wire.out(first + index).ok_or("the server closed a connection")?.extend_from_slice(&request(index));
    }
    let mut trouble = None;
    while trouble.is_none() && left.iter().any(|left| *left > 0) {
        wire.turn(Some(Duration::from_millis(100)), |_, number, happened| {
            let Some(index) = number.checked_sub(first).filter(|index| *index < left.len()) else { return };
            let Happened::Bytes(bytes, out) = happened else {
                trouble = Some("the server closed a connection".to_owned());
                return;
            };
            let pushed = answers[index].push(bytes, |status, _| {
                // A full log asks to come again.
                left[index] -= u64::from(status < 300);
                if status >= 300 && status != 429 {
                    trouble = Some(format!("filling was answered {status}"));
                }
                if left[index] > 0 {
                    out.extend_from_slice(&request(index));
                }
            });
            trouble = trouble.take().or(pushed.err().map(str::to_owned));
        });
    }
    trouble.map_or(Ok(()), Err)
}
