//! What the log says of jobs, as bytes. Pure.

use super::{JobState, LeaseToken, StoredJob};
use crate::error::FormatError;
use crate::ids::TopicId;
use crate::limits::NODE_BYTES_MAX;

const HEADER_BYTES: usize = 20;
/// Bytes of a job in an entry.
pub const JOB_BYTES: usize = 32;

/// The body of a lease entry: jobs that share state, time and holder.
///
/// ```text
///   at  bytes  field
///    0      8  topic
///    8      8  at: when the lease or the delay is over
///   16      1  state: 0 ready, 1 leased, 2 delayed
///   17      1  node_bytes
///   18      2  zero
///   20         node, then for each job: 8 seq, 4 deliveries, 4 bytes, 16 token
/// ```
pub fn encode_jobs(topic: TopicId, jobs: &[StoredJob], out: &mut Vec<u8>) {
    let first = &jobs[0];
    out.extend_from_slice(&topic.0.to_le_bytes());
    out.extend_from_slice(&first.at.to_le_bytes());
    out.extend_from_slice(&[first.state as u8, first.node.len() as u8, 0, 0]);
    out.extend_from_slice(&first.node);
    for job in jobs {
        out.extend_from_slice(&job.seq.to_le_bytes());
        out.extend_from_slice(&job.deliveries.to_le_bytes());
        out.extend_from_slice(&job.bytes.to_le_bytes());
        out.extend_from_slice(&job.token.0.to_le_bytes());
    }
}

/// Reads the body of a lease entry.
pub fn decode_jobs(body: &[u8]) -> Result<(TopicId, Vec<StoredJob>), FormatError> {
    let bad = || FormatError::new("lease entry");
    let head = body.get(..HEADER_BYTES).ok_or_else(bad)?;
    let u64_of = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let (topic, at) = (u64_of(&head[..8]), u64_of(&head[8..16]) as i64);
    let state = match head[16] {
        0 => JobState::Ready,
        1 => JobState::Leased,
        2 => JobState::Delayed,
        _ => return Err(bad()),
    };
    let (node, jobs) = body[HEADER_BYTES..].split_at_checked(usize::from(head[17])).ok_or_else(bad)?;
    // Checkpoints keep it too, and hold names to this bound.
    let node_is_long = node.len() > NODE_BYTES_MAX;
    if node_is_long || head[18..20] != [0, 0] || jobs.is_empty() || !jobs.len().is_multiple_of(JOB_BYTES) {
        return Err(bad());
    }
    let jobs = jobs.chunks_exact(JOB_BYTES).map(|job| StoredJob {
        seq: u64_of(&job[..8]),
        state,
        deliveries: u32::from_le_bytes(job[8..12].try_into().expect("four bytes")),
        bytes: u32::from_le_bytes(job[12..16].try_into().expect("four bytes")),
        at,
        token: LeaseToken(u128::from_le_bytes(job[16..].try_into().expect("sixteen bytes"))),
        node: node.to_vec(),
    });
    Ok((TopicId(topic), jobs.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_survive_their_entry_and_cut_ones_are_refused() {
        for state in [JobState::Ready, JobState::Leased, JobState::Delayed] {
            let job = |seq| StoredJob {
                seq,
                state,
                deliveries: 3,
                bytes: 7,
                at: -5,
                token: LeaseToken(1 << 100 | u128::from(seq)),
                node: b"w1".to_vec(),
            };
            let (jobs, mut body) = (vec![job(1), job(u64::MAX)], Vec::new());
            encode_jobs(TopicId(9), &jobs, &mut body);
            assert_eq!(body.len(), HEADER_BYTES + 2 + 2 * JOB_BYTES);
            for cut in (0..body.len()).filter(|cut| *cut != body.len() - JOB_BYTES) {
                assert!(decode_jobs(&body[..cut]).is_err(), "cut at {cut}");
            }
            assert_eq!(decode_jobs(&body), Ok((TopicId(9), jobs)));
            body[16] = 3;
            assert!(decode_jobs(&body).is_err(), "moving is never stored");
        }
    }

    #[test]
    fn a_holder_has_a_name_that_a_checkpoint_can_keep_too() {
        for (bytes, taken) in [(NODE_BYTES_MAX, true), (NODE_BYTES_MAX + 1, false)] {
            let node = vec![b'w'; bytes];
            let (state, token) = (JobState::Leased, LeaseToken(1));
            let job = StoredJob { seq: 1, state, deliveries: 1, bytes: 7, at: 5, token, node };
            let mut body = Vec::new();
            encode_jobs(TopicId(9), &[job], &mut body);
            assert_eq!(decode_jobs(&body).is_ok(), taken, "{bytes}");
        }
    }
}
