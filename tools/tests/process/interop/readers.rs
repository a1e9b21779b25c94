//! Who watches: one session each, made anew from its cursors after every kill.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;
use serde_json::json;

use super::Load;
use super::ledger::{Data, Kind, Seen};
use crate::client::Client;
use crate::stream::{Event, Stream};

#[derive(Deserialize)]
struct Shown {
    topic: String,
    #[serde(default)]
    to_seq: u64,
    #[serde(default)]
    gap_from: u64,
    #[serde(default)]
    gap_to: u64,
    #[serde(default)]
    head_seq: u64,
    #[serde(default)]
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "$seq")]
    seq: u64,
    data: Data,
}

/// Every topic has its readers; every tenth reader has three topics.
pub(super) fn choose(load: &Load, number: u64) -> Vec<usize> {
    let count = load.topics.len();
    let at = number as usize;
    let mut chosen = vec![at % count];
    if number % 10 == 9 {
        chosen.extend([(at * 7 + 1) % count, (at * 13 + 2) % count]);
        chosen.sort_unstable();
        chosen.dedup();
    }
    chosen
}

/// Reads until it has everything up to the heads that the end shows.
pub(super) fn read(load: &Load, watched: Vec<usize>) -> Vec<Seen> {
    let mut all: BTreeMap<String, Seen> =
        watched.into_iter().map(|at| (load.topics[at].name.clone(), Seen::new(at))).collect();
    while !has_all(load, &all) {
        let Some((epoch, mut stream)) = load.connect(|address| open(address, &all)) else {
            break;
        };
        if let Err(error) = follow(load, &mut all, &mut stream) {
            load.broken(epoch, &error);
        }
    }
    all.into_values().collect()
}

/// Jobs that are done already are passed in silence (V-13), so a queue does not tell where its end is.
fn has_all(load: &Load, all: &BTreeMap<String, Seen>) -> bool {
    let at_end = |seen: &Seen, heads: &[u64]| {
        load.topics[seen.topic].kind == Kind::Queue || seen.cursor >= heads[seen.topic]
    };
    load.heads.get().is_some_and(|heads| all.values().all(|seen| at_end(seen, heads)))
}

/// A session of what each cursor has not seen yet, and its stream.
fn open(address: std::net::SocketAddr, all: &BTreeMap<String, Seen>) -> io::Result<Stream> {
    let topics: BTreeMap<&str, _> =
        all.iter().map(|(name, seen)| (name.as_str(), json!({"from_seq": seen.cursor}))).collect();
    let body = json!({"topics": topics, "heartbeat_ms": 300}).to_string();
    let session = Client::open(address)?.call("POST", "/v0/watch", &body)?.good();
    let url = session["stream_url"].as_str().expect("S-1");
    match Stream::open(address, url)? {
        Ok(stream) => Ok(stream),
        // Killed between the two: sessions do not survive (S-5).
        Err(404) => Err(io::ErrorKind::ConnectionReset.into()),
        Err(status) => panic!("status {status}"),
    }
}

fn follow(load: &Load, all: &mut BTreeMap<String, Seen>, stream: &mut Stream) -> io::Result<()> {
    while !has_all(load, all) {
        if load.is_over() {
            load.fault(format!(
                "a reader does not get on: {:?}",
                all.values().map(|seen| seen.cursor).collect::<Vec<_>>()
            ));
            return Ok(());
        }
        let Some(event) = stream.next()? else {
            load.fault("a stream ended by itself".into());
            return Ok(());
        };
        if event.kind != ":" {
            take(load, all, &event);
        }
    }
    Ok(())
}

fn take(load: &Load, all: &mut BTreeMap<String, Seen>, event: &Event) {
    let shown: Shown = match serde_json::from_slice(&event.data) {
        Ok(shown) => shown,
        Err(error) => return load.fault(format!("{error}: {}", String::from_utf8_lossy(&event.data))),
    };
    let Some(seen) = all.get_mut(&shown.topic) else {
        return load.fault(format!("{}: not watched", shown.topic));
    };
    let topic = &load.topics[seen.topic];
    match event.kind.as_str() {
        "record" => {
            for record in &shown.records {
                let last = seen.delivered.last().map_or(0, |(seq, _)| *seq).max(seen.cursor);
                if record.seq <= last {
                    load.fault(format!("{}: {} again after {last}", topic.name, record.seq));
                }
                seen.delivered.push((record.seq, record.data.id));
                seen.cursor = record.seq;
            }
            seen.cursor = seen.cursor.max(shown.to_seq);
        }
        "tombstone" => {
            if topic.kind != Kind::Capped || shown.gap_from != seen.cursor + 1 {
                load.fault(format!(
                    "{} at {}: {}",
                    topic.name,
                    seen.cursor,
                    String::from_utf8_lossy(&event.data)
                ));
            }
            seen.gaps.push((shown.gap_from, shown.gap_to));
            seen.cursor = shown.gap_to;
        }
        "caught-up" => {
            if shown.head_seq < seen.cursor {
                load.fault(format!("{}: caught up at {} after {}", topic.name, shown.head_seq, seen.cursor));
            }
            seen.cursor = shown.head_seq;
        }
        other => load.fault(format!("{}: an event {other}", topic.name)),
    }
}
