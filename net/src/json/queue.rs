//! The bodies of claim, ack, nack and extend (§10) as values.
//! Lives here: their members, defaults and clamps, lease tokens as text, the checks of §10.2 and §10.3
//! that need no queue.
//! Not here: jobs, leases and what becomes of them.

use runelog_engine::limits::NODE_BYTES_MAX;

use super::config::LEASE_MS;
use super::fault::{BodyError, Fault, Why};
use super::reader::{Reader, each_member};

/// Jobs of one claim at most; more are cut to this (§10.2).
pub const CLAIM_MAX: u32 = 1000;
/// Jobs named by one ack, nack or extend at most; more are refused (§10.3).
pub const SEQS_MAX: usize = 1000;
/// Longest delay of a nack.
pub const DELAY_MS_MAX: u64 = 86_400_000;

/// The body of a claim, with defaults and clamps applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The worker; [`check_worker`] judges it, after the queue was found (§10.2).
    pub node: Box<str>,
    /// Jobs to hand out at most, 1…1000.
    pub max: u32,
    /// The lease, or the queue's.
    pub lease_ms: Option<u64>,
}

/// Reads the body of a claim. An empty one is refused like any text that ends too early.
pub fn parse_claim(body: &[u8]) -> Result<ClaimRequest, BodyError> {
    let mut node = None;
    let mut max = 1;
    let mut lease_ms = None;
    each_member(body, &["node", "max", "lease_ms"], |reader, member| {
        match member {
            "node" => node = Some(reader.text()?),
            "max" => max = reader.u32()?.clamp(1, CLAIM_MAX),
            _ if reader.null()? => {}
            _ => lease_ms = Some(clamped_lease(reader.u64()?)),
        }
        Ok(())
    })?;
    let node = node.ok_or_else(|| BodyError::invalid("`node` is missing"))?;
    Ok(ClaimRequest { node, max, lease_ms })
}

/// The identity of a worker as claim and work take it: 1…128 bytes.
pub fn check_worker(node: &str) -> Result<(), BodyError> {
    match node.len() {
        0 => Err(BodyError::invalid("`node` must not be empty")),
        1..=NODE_BYTES_MAX => Ok(()),
        bytes => {
            Err(BodyError::invalid(format!("`node` has {bytes} bytes, at most {NODE_BYTES_MAX} are allowed")))
        }
    }
}

/// A lease's length inside its bounds (§10.2, Q-55).
pub fn clamped_lease(lease_ms: u64) -> u64 {
    lease_ms.clamp(*LEASE_MS.start(), *LEASE_MS.end())
}

/// What a client says of the lease it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Nothing: any lease of its node.
    None,
    /// The lease with this token.
    Token(LeaseToken),
    /// A well-formed token that we never gave: no lease.
    Foreign,
}

/// A lease token: unique across restarts because every start has another epoch. On the wire `lease_` and
/// the two numbers, 16 hexadecimal digits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// Which start of which log gave it.
    pub epoch: u64,
    /// Which lease of that start.
    pub counter: u64,
}

impl From<runelog_engine::queue::LeaseToken> for LeaseToken {
    fn from(token: runelog_engine::queue::LeaseToken) -> LeaseToken {
        LeaseToken { epoch: (token.0 >> 64) as u64, counter: token.0 as u64 }
    }
}

impl Fence {
    /// What the engine makes of it: `None` is any lease, `Some(None)` one that never was.
    pub fn to_engine(self) -> Option<Option<runelog_engine::queue::LeaseToken>> {
        match self {
            Fence::None => None,
            Fence::Foreign => Some(None),
            Fence::Token(LeaseToken { epoch, counter }) => {
                let token = u128::from(epoch) << 64 | u128::from(counter);
                Some(Some(runelog_engine::queue::LeaseToken(token)))
            }
        }
    }
}

const TOKEN_PREFIX: &[u8] = b"lease_";

impl LeaseToken {
    /// Appends it as text, without quotes.
    pub fn render(self, out: &mut Vec<u8>) {
        out.extend_from_slice(TOKEN_PREFIX);
        for number in [self.epoch, self.counter] {
            out.extend((0..16).rev().map(|digit| b"0123456789abcdef"[(number >> (4 * digit) & 15) as usize]));
        }
    }
}

impl Fence {
    /// Reads an entry of `lease_ids`; none if it is neither empty nor `lease_` and hex digits.
    fn read(text: &[u8]) -> Option<Fence> {
        if text.is_empty() {
            return Some(Fence::None);
        }
        let digits = text.strip_prefix(TOKEN_PREFIX)?;
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let Some((epoch, counter)) = digits.split_at_checked(16) else { return Some(Fence::Foreign) };
        if counter.len() != 16 {
            return Some(Fence::Foreign);
        }
        let number = |digits: &[u8]| {
            let digits = digits.iter().map(|&digit| (digit as char).to_digit(16).expect("checked above"));
            digits.fold(0, |number, digit| number << 4 | u64::from(digit))
        };
        Some(Fence::Token(LeaseToken { epoch: number(epoch), counter: number(counter) }))
    }
}

/// The body of an ack, a nack or an extend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The holder; an over-long one matches nothing.
    pub node: Box<str>,
    /// The jobs with what is said of their leases, in request order, at most 1000.
    pub jobs: Vec<(u64, Fence)>,
}

/// Reads the body of an ack.
pub fn parse_ack(body: &[u8]) -> Result<LeaseRequest, BodyError> {
    Ok(parse_leases(body, None)?.0)
}

/// Reads the body of a nack: with the delay, clamped.
pub fn parse_nack(body: &[u8]) -> Result<(LeaseRequest, u64), BodyError> {
    let (request, delay_ms) = parse_leases(body, Some("delay_ms"))?;
    Ok((request, delay_ms.unwrap_or(0).min(DELAY_MS_MAX)))
}

/// Reads the body of an extend: with the new lease, clamped.
pub fn parse_extend(body: &[u8]) -> Result<(LeaseRequest, u64), BodyError> {
    let (request, lease_ms) = parse_leases(body, Some("lease_ms"))?;
    Ok((request, clamped_lease(lease_ms.expect("parse_leases asks for it"))))
}

/// What the three have in common, and the number called `extra`, which an extend cannot do without. The
/// checks after the JSON stand in the order of §10.3; all of them come before the topic is looked up.
fn parse_leases(body: &[u8], extra: Option<&'static str>) -> Result<(LeaseRequest, Option<u64>), BodyError> {
    let mut node = None;
    let mut seqs = None;
    let mut fences = Fences::default();
    let mut number = None;
    let known = ["node", "seqs", "lease_ids", extra.unwrap_or_default()];
    let known = if extra.is_some() { &known[..] } else { &known[..3] };
    each_member(body, known, |reader, member| {
        match member {
            "node" => node = Some(reader.text()?),
            "seqs" => seqs = Some(read_seqs(reader)?),
            "lease_ids" => fences = Fences::read(reader)?,
            _ => number = Some(reader.u64()?),
        }
        Ok(())
    })?;
    let missing = |member| BodyError::invalid(format!("`{member}` is missing"));
    let node: Box<str> = node.ok_or_else(|| missing("node"))?;
    let (seqs, count) = seqs.ok_or_else(|| missing("seqs"))?;
    if extra == Some("lease_ms") && number.is_none() {
        return Err(missing("lease_ms"));
    }
    if let Some(index) = fences.malformed {
        return Err(BodyError::invalid(format!("`lease_ids[{index}]` is not a lease token")));
    }
    if node.is_empty() {
        return Err(BodyError::invalid("`node` must not be empty"));
    }
    if count > SEQS_MAX as u64 {
        return Err(BodyError::TooManySeqs(count));
    }
    if fences.count != 0 && fences.count != count {
        return Err(BodyError::invalid(format!(
            "`lease_ids` has {} entries for {count} `seqs`; it must have as many, or none",
            fences.count
        )));
    }
    fences.kept.resize(seqs.len(), Fence::None);
    let jobs = seqs.into_iter().zip(fences.kept).collect();
    Ok((LeaseRequest { node, jobs }, number))
}

/// The seqs, those past the maximum only counted.
fn read_seqs(reader: &mut Reader<'_>) -> Result<(Vec<u64>, u64), Fault> {
    let mut seqs = Vec::new();
    let mut count = 0;
    reader.open_array()?;
    while reader.next_element()? {
        let seq = reader.u64()?;
        count += 1;
        if seqs.len() < SEQS_MAX {
            seqs.push(seq);
        }
    }
    Ok((seqs, count))
}

/// The entries of `lease_ids`, those past the maximum only judged and counted.
#[derive(Default)]
struct Fences {
    kept: Vec<Fence>,
    count: u64,
    /// Index of the first entry that is no token.
    malformed: Option<u64>,
}

impl Fences {
    fn read(reader: &mut Reader<'_>) -> Result<Fences, Fault> {
        let mut fences = Fences::default();
        reader.open_array()?;
        while reader.next_element()? {
            if reader.peek() != b'"' {
                return Err(Fault::new(reader.at(), Why::Type("an array of strings")));
            }
            let text = reader.string()?;
            let fence = Fence::read(&reader.owned(text));
            if fence.is_none() {
                fences.malformed = fences.malformed.or(Some(fences.count));
            }
            fences.count += 1;
            if fences.kept.len() < SEQS_MAX {
                fences.kept.push(fence.unwrap_or(Fence::Foreign));
            }
        }
        Ok(fences)
    }
}

#[cfg(test)]
mod tests;
