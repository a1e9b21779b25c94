//! Batches on their way: a bounded queue, a worker per connection, what became of each batch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;

use super::batch::Batch;
use crate::client::{Client, persist};

/// Where batches go, and how.
pub(crate) struct Target<'a> {
    /// The server.
    pub(crate) url: &'a str,
    /// A legal topic name, so it needs no escapes in a path.
    pub(crate) topic: &'a str,
    /// How long a failing batch is tried again.
    pub(crate) patience: Duration,
    /// Connections, each with one request in flight.
    pub(crate) connections: usize,
    /// The configuration with which the first write creates the topic; `None` if it is there. It goes
    /// with the write, where it is ignored if someone else was faster: a PUT would overwrite theirs.
    pub(crate) config: Option<String>,
    /// What the numbers of a batch count.
    pub(crate) word: &'static str,
}

/// What became of the batches that were answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Records appended.
    pub(crate) sent: u64,
    /// Records of batches that the server already had.
    pub(crate) skipped: u64,
    /// Bytes of data of both.
    pub(crate) data_bytes: u64,
    /// Lowest and highest seq of both.
    pub(crate) seqs: Option<(u64, u64)>,
}

#[derive(serde::Deserialize)]
struct Written {
    first_seq: u64,
    last_seq: u64,
    count: u64,
    deduped: bool,
}

/// What the workers share.
struct Shared<'a> {
    target: &'a Target<'a>,
    bar: &'a ProgressBar,
    exists: AtomicBool,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    failure: Mutex<Option<String>>,
}

/// Runs `produce`, which hands batches to the function it is given, and sends them. The tally holds
/// also what was done before an error.
pub(crate) fn run(
    target: &Target<'_>,
    bar: &ProgressBar,
    produce: impl FnOnce(&mut dyn FnMut(Batch) -> Result<(), String>) -> Result<(), String>,
) -> (Tally, Result<(), String>) {
    let shared = Shared {
        target,
        bar,
        exists: AtomicBool::new(target.config.is_none()),
        stop: AtomicBool::new(false),
        tally: Mutex::default(),
        failure: Mutex::default(),
    };
    let produced = std::thread::scope(|scope| {
        let (queue, batches) = sync_channel(1);
        let batches = Arc::new(Mutex::new(batches));
        for _ in 0..target.connections {
            let (shared, batches) = (&shared, batches.clone());
            scope.spawn(move || work(shared, &batches));
        }
        // Only the workers hold the receiver: when all have ended, handing over fails, not hangs.
        drop(batches);
        produce(&mut |batch| hand_over(&queue, &shared, batch))
    });
    let failure = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    let tally = shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    (tally, failure.map_or(produced, Err))
}

fn hand_over(queue: &SyncSender<Batch>, shared: &Shared<'_>, batch: Batch) -> Result<(), String> {
    let stopped = shared.stop.load(Ordering::Relaxed) || queue.send(batch).is_err();
    if stopped { Err("a batch failed".into()) } else { Ok(()) }
}

fn work(shared: &Shared<'_>, batches: &Mutex<Receiver<Batch>>) {
    let fail = |why: String| {
        shared.stop.store(true, Ordering::Relaxed);
        shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    };
    let client = match Client::new(shared.target.url) {
        Ok(client) => client,
        Err(why) => return fail(why),
    };
    loop {
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return };
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let (word, first, last) = (shared.target.word, batch.first, batch.last);
        if let Err(why) = send(shared, &client, batch) {
            return fail(format!("{word}s {first} to {last}: {why}"));
        }
    }
}

fn send(shared: &Shared<'_>, client: &Client, batch: Batch) -> Result<(), String> {
    let Batch { mut body, records, data_bytes, .. } = batch;
    match &shared.target.config {
        Some(config) if !shared.exists.load(Ordering::Relaxed) => {
            body.extend_from_slice(format!(",\"create\":true,\"config\":{config}}}").as_bytes());
        }
        // A topic that is deleted while the import runs must not come back with a part of it.
        _ => body.extend_from_slice(b",\"create\":false}"),
    }
    let path = format!("/v0/topics/{}?return_seqs=false", shared.target.topic);
    let told = |why: &str| shared.bar.suspend(|| eprintln!("runelog: {why}"));
    let answer = persist(shared.target.patience, &told, || client.post(&path, &body))?;
    if !matches!(answer.status, 200 | 201) {
        return Err(answer.complaint());
    }
    let written: Written = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("the answer is not that of a write: {error}"))?;
    if written.count != records {
        return Err(format!("the server wrote {} records where {records} were sent", written.count));
    }
    shared.exists.store(true, Ordering::Relaxed);
    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    *(if written.deduped { &mut tally.skipped } else { &mut tally.sent }) += records;
    tally.data_bytes += data_bytes;
    let (low, high) = tally.seqs.unwrap_or((u64::MAX, 0));
    tally.seqs = Some((low.min(written.first_seq), high.max(written.last_seq)));
    Ok(())
}
