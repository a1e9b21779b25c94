//! Who takes jobs: half by claims, half by work streams. Leases are longer than the test, so that a job
//! which is handed out twice without a kill or a nack between is a fault.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::Load;
use super::ledger::{Kind, Topic};
use crate::client::Client;
use crate::random::Random;
use crate::stream::Stream;

#[derive(Deserialize)]
struct Job {
    #[serde(rename = "$seq")]
    seq: u64,
    lease_id: String,
}

struct Worker<'a> {
    load: &'a Load,
    queue: &'a Topic,
    node: String,
    random: Random,
}

/// Works until every queue is empty for good.
pub(super) fn work(load: &Load, number: u64, random: Random) {
    let queues = load.of(&[Kind::Queue]);
    let queue = &load.topics[queues[number as usize % queues.len()]];
    let mut worker = Worker { load, queue, node: format!("worker-{number}"), random };
    let is_stream = number as usize / queues.len() % 2 == 1;
    while !load.is_drained.load(Ordering::SeqCst) && !load.is_over() {
        let Some((epoch, mut client)) = load.connect(Client::open) else {
            return;
        };
        let outcome =
            if is_stream { worker.stream(epoch, &mut client) } else { worker.claim(epoch, &mut client) };
        match outcome {
            Err(error) => load.broken(epoch, &error),
            Ok(()) if is_stream && !load.is_drained.load(Ordering::SeqCst) => {
                load.fault(format!("{}: a work stream ended by itself", queue.name));
                return;
            }
            Ok(()) => {}
        }
    }
}

impl Worker<'_> {
    fn claim(&mut self, epoch: u64, client: &mut Client) -> io::Result<()> {
        let path = format!("/v0/topics/{}/claim", self.queue.name);
        while !self.load.is_drained.load(Ordering::SeqCst) && !self.load.is_over() {
            let max = 1 + self.random.below(6);
            let body = json!({"node": self.node, "max": max, "lease_ms": 600_000}).to_string();
            let mut answer = client.call("POST", &path, &body)?.good();
            let jobs: Vec<Job> = serde_json::from_value(answer["claimed"].take()).expect("Q-11");
            if jobs.is_empty() {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            jobs.iter().for_each(|job| self.take(epoch, job));
            self.finish(epoch, client, &jobs)?;
        }
        Ok(())
    }

    fn stream(&mut self, epoch: u64, client: &mut Client) -> io::Result<()> {
        let target = format!("/v0/topics/{}/work?node={}&max=4&lease_ms=600000", self.queue.name, self.node);
        let mut stream = match Stream::open(self.load.address, &target)? {
            Ok(stream) => stream,
            Err(status) => panic!("status {status}"),
        };
        while let Some(event) = stream.next()? {
            if event.kind == "job" {
                let job: Job = serde_json::from_slice(&event.data).expect("Q-71");
                self.take(epoch, &job);
                self.finish(epoch, client, &[job])?;
            }
        }
        Ok(())
    }

    /// A job was handed out.
    fn take(&self, epoch: u64, job: &Job) {
        let mut jobs = self.queue.jobs();
        jobs.handed_out += 1;
        if let Some(acked_in) = jobs.acked.get(&job.seq)
            && *acked_in <= epoch
        {
            self.load.fault(format!("{}: job {} comes back after its ack", self.queue.name, job.seq));
        }
        if let Some((holder, held_in)) = jobs.held.get(&job.seq)
            && *held_in == epoch
        {
            self.load.fault(format!("{}: job {} is with {holder} already", self.queue.name, job.seq));
        }
        if !jobs.leases.insert(job.lease_id.clone()) {
            self.load.fault(format!("{}: {} was given out before", self.queue.name, job.lease_id));
        }
        if jobs.held.get(&job.seq).is_none_or(|(_, held_in)| *held_in < epoch) {
            jobs.held.insert(job.seq, (self.node.clone(), epoch));
        }
    }

    /// Acks them, or now and then gives them back.
    fn finish(&mut self, epoch: u64, client: &mut Client, taken: &[Job]) -> io::Result<()> {
        let is_nack = self.random.one_in(10) && self.load.is_writing.load(Ordering::SeqCst);
        let seqs: Vec<u64> = taken.iter().map(|job| job.seq).collect();
        let leases: Vec<&str> = taken.iter().map(|job| job.lease_id.as_str()).collect();
        let what = if is_nack { "nack" } else { "ack" };
        let body = json!({"node": self.node, "seqs": seqs, "lease_ids": leases}).to_string();
        {
            let jobs = &mut *self.queue.jobs();
            for seq in &seqs {
                // From the moment that it is sent another worker may have it.
                if jobs.held.get(seq).is_some_and(|(_, held_in)| *held_in == epoch) {
                    jobs.held.remove(seq);
                }
            }
        }
        let reply = client.call("POST", &format!("/v0/topics/{}/{what}", self.queue.name), &body);
        let jobs = &mut *self.queue.jobs();
        match reply {
            Ok(reply) => {
                let answer = reply.good();
                if answer["skipped"] != json!([]) {
                    self.load.fault(format!("{}: {what} {body}: {answer}", self.queue.name));
                }
                if !is_nack {
                    jobs.acked.extend(seqs.iter().map(|seq| (*seq, epoch)));
                }
                Ok(())
            }
            Err(error) => {
                if !is_nack {
                    jobs.unsure.extend(&seqs);
                }
                Err(error)
            }
        }
    }
}
