//! Who appends: small batches, some of them with a key, which are sent again until they are answered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Load;
use super::ledger::id_of;
use crate::client::Client;
use crate::random::Random;

/// Writes until it is told to stop; what was sent is then answered, or its outcome unknown.
pub(super) fn write(load: &Load, mut random: Random, targets: &[usize]) {
    let mut connection: Option<(u64, Client)> = None;
    while load.is_writing.load(Ordering::SeqCst) && !load.is_over() {
        let topic = &load.topics[targets[random.below(targets.len() as u64) as usize]];
        let count = 1 + random.below(4);
        let write = load.next_write.fetch_add(1, Ordering::Relaxed);
        let key = random.one_in(4).then(|| format!("key-{write}"));
        let body = body(write, count, key.as_deref(), random.below(300) as usize);
        let path = format!("/v0/topics/{}", topic.name);
        loop {
            let Some((epoch, mut client)) = connection.take().or_else(|| load.connect(Client::open)) else {
                topic.book().unknown.insert(write, count);
                return;
            };
            match client.call("POST", &path, &body) {
                Ok(reply) if reply.status == 200 => {
                    let first = reply.json()["first_seq"].as_u64().expect("W-2");
                    topic.book().acked.push((first, write, count));
                    connection = Some((epoch, client));
                    break;
                }
                Ok(reply) => {
                    if reply.status != 429 {
                        load.fault(format!("{}: {reply}", topic.name));
                    }
                    connection = Some((epoch, client));
                    break;
                }
                Err(error) => {
                    load.broken(epoch, &error);
                    if key.is_none() {
                        topic.book().unknown.insert(write, count);
                        break;
                    }
                    // With a key it may be sent again: it is appended once (I-72).
                }
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(4000)));
    }
}

fn body(write: u64, count: u64, key: Option<&str>, pad: usize) -> String {
    let pad = "~".repeat(pad);
    let records: Vec<String> = (0..count)
        .map(|index| format!(r#"{{"data":{{"id":{},"pad":"{pad}"}}}}"#, id_of(write, index)))
        .collect();
    let key = key.map(|key| format!(r#","idempotency_key":"{key}""#)).unwrap_or_default();
    format!(r#"{{"records":[{}]{key}}}"#, records.join(","))
}
