//! A log file looked at without replaying it, for tools: every whole block of a chunk, also behind one
//! that does not hold, and what its entries say. Pure.
//! Recovery has rules of its own ([`recover`](crate::shard::recover)); here nothing is judged.

use super::format::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, SKIP, is_unknown_version};
use super::frame::{Kind, RecordsEntry, split_entry};
use crate::config::TopicConfig;
use crate::error::FormatError;
use crate::ids::{RouterId, TopicId};
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::queue::StoredJob;
use crate::queue::entry::decode_jobs;
use crate::router::{LinkState, RouterDef};

/// What lies at a place where a block could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A whole block of this file's present use.
    Block {
        /// Where in the file.
        offset: u64,
        /// Its header.
        header: BlockHeader,
        /// The header's checksum, which the next block repeats.
        crc: u32,
        /// Its entries.
        payload: &'a [u8],
    },
    /// None, from here to the next block or the end of the chunk.
    Gap {
        /// Where in the file.
        offset: u64,
        /// What is there instead.
        why: Gap,
    },
}

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Zeros: nothing was written here yet.
    Zeros,
    /// A block of an earlier use of the file, or of another place.
    Stale,
    /// The header does not hold.
    Header,
    /// The header holds, the payload does not.
    Payload,
    /// A whole header of a version that this program does not know (I-99).
    Version,
    /// The file ends.
    End,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Gap::Zeros => "zeros",
            Gap::Stale => "a block of an earlier use of the file",
            Gap::Header => "a block header that does not hold",
            Gap::Payload => "a block whose payload does not hold",
            Gap::Version => "a block header of an unknown version",
            Gap::End => "the end of the file",
        })
    }
}

/// Walks the chunk that begins at `chunk_offset` of the file; `bytes` are what the file has of it. The
/// file's first block of 4 KiB, its header, is passed over.
pub fn walk_chunk<'a>(file: &FileHeader, bytes: &'a [u8], chunk_offset: u64) -> Vec<Place<'a>> {
    let mut places: Vec<Place<'a>> = Vec::new();
    let mut at = if chunk_offset == 0 { BLOCK_BYTES } else { 0 };
    while at < CHUNK_BYTES {
        let offset = chunk_offset + at as u64;
        match judge(file, bytes.get(at..).unwrap_or(&[]), offset) {
            Ok((header, crc, payload)) => {
                places.push(Place::Block { offset, header, crc, payload });
                at += header.stored_bytes();
                if header.flags & SKIP != 0 {
                    break;
                }
            }
            Err(why) => {
                if !matches!(places.last(), Some(Place::Gap { .. })) {
                    places.push(Place::Gap { offset, why });
                }
                if why == Gap::End {
                    break;
                }
                at += BLOCK_BYTES;
            }
        }
    }
    places
}

fn judge<'a>(file: &FileHeader, bytes: &'a [u8], offset: u64) -> Result<(BlockHeader, u32, &'a [u8]), Gap> {
    let head = bytes.get(..BLOCK_HEADER_BYTES).ok_or(Gap::End)?;
    if head.iter().all(|byte| *byte == 0) {
        return Err(Gap::Zeros);
    }
    let (header, crc) = BlockHeader::decode(bytes).map_err(|error| match is_unknown_version(&error) {
        true => Gap::Version,
        false => Gap::Header,
    })?;
    let ours = header.shard == file.shard
        && header.epoch == file.epoch
        && header.lsn == file.number * file.file_bytes + offset;
    if !ours {
        return Err(Gap::Stale);
    }
    let end = BLOCK_HEADER_BYTES + header.payload_bytes as usize;
    let payload = bytes.get(BLOCK_HEADER_BYTES..end).ok_or(Gap::Payload)?;
    if crc32c::crc32c(payload) != header.payload_crc {
        return Err(Gap::Payload);
    }
    Ok((header, crc, payload))
}

/// An entry as its bytes say it.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// Appended records.
    Records(RecordsEntry<'a>),
    /// Deleted records, and their seqs as ranges.
    Delete {
        /// Whose.
        topic: TopicId,
        /// How many.
        count: u64,
        /// Their bytes (J-23).
        bytes: u64,
        /// First and last seqs.
        ranges: Vec<(u64, u64)>,
    },
    /// A topic made or changed.
    Topic {
        /// Which.
        id: TopicId,
        /// Its head then.
        head: u64,
        /// Its name.
        name: &'a [u8],
        /// Its settings.
        config: Box<TopicConfig>,
    },
    /// A topic deleted.
    Drop(TopicId),
    /// Seqs promised.
    Reserve {
        /// Whose.
        topic: TopicId,
        /// Up to here.
        through: u64,
    },
    /// Records lost to a cap or to age.
    Floor {
        /// Whose.
        topic: TopicId,
        /// Why: 0 cap, 1 age, 2 source.
        loss: u64,
        /// The highest lost seq.
        seq: u64,
        /// Live records among them.
        count: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Seqs left vacant for what a router's source lost.
    Trim {
        /// Whose.
        topic: TopicId,
        /// First of them.
        first: u64,
        /// Last of them.
        last: u64,
    },
    /// How far a router has come.
    Link {
        /// Its place.
        state: LinkState,
        /// Whether the router is gone.
        is_gone: bool,
    },
    /// A router made or changed.
    Router(Box<RouterDef>),
    /// Routers deleted.
    RouterDrop(Vec<RouterId>),
    /// What jobs of a queue are doing.
    Lease {
        /// Whose.
        topic: TopicId,
        /// The jobs.
        jobs: Vec<StoredJob>,
    },
}

impl Entry<'_> {
    /// Which topic it is about, if any.
    pub fn topic(&self) -> Option<TopicId> {
        match self {
            Entry::Records(records) => Some(records.header.topic),
            Entry::Delete { topic, .. }
            | Entry::Reserve { topic, .. }
            | Entry::Floor { topic, .. }
            | Entry::Trim { topic, .. }
            | Entry::Lease { topic, .. } => Some(*topic),
            Entry::Topic { id, .. } | Entry::Drop(id) => Some(*id),
            Entry::Link { state, .. } => Some(state.dest),
            Entry::Router(_) | Entry::RouterDrop(_) => None,
        }
    }
}

/// Reads the entries of a payload, in order: each with whether its batch ends with it. The first that
/// does not decode is the last item.
pub fn entries(mut payload: &[u8]) -> impl Iterator<Item = Result<(Entry<'_>, bool), FormatError>> {
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let read = split_entry(payload).and_then(|(header, body, rest)| {
            payload = rest;
            Ok((read_entry(header.kind, body)?, header.last))
        });
        if read.is_err() {
            payload = &[];
        }
        Some(read)
    })
}

fn read_entry(kind: Kind, body: &[u8]) -> Result<Entry<'_>, FormatError> {
    let number = |index: usize| {
        let bytes = body.get(index * 8..index * 8 + 8).ok_or(FormatError::new("log entry"))?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    };
    Ok(match kind {
        Kind::Records => Entry::Records(RecordsEntry::decode(body)?),
        Kind::Delete => {
            let count = body.len().saturating_sub(24) / 16;
            let range = |index: usize| Ok((number(3 + 2 * index)?, number(4 + 2 * index)?));
            Entry::Delete {
                topic: TopicId(number(0)?),
                count: number(1)?,
                bytes: number(2)?,
                ranges: (0..count).map(range).collect::<Result<_, FormatError>>()?,
            }
        }
        Kind::Topic => {
            let bad = || FormatError::new("topic entry");
            let length = body.get(16..18).ok_or_else(bad)?;
            let end = 18 + usize::from(u16::from_le_bytes([length[0], length[1]]));
            let name = body.get(18..end).ok_or_else(bad)?;
            let (config, _) = TopicConfig::decode(&body[end..])?;
            Entry::Topic { id: TopicId(number(0)?), head: number(1)?, name, config: Box::new(config) }
        }
        Kind::Drop => Entry::Drop(TopicId(number(0)?)),
        Kind::Reserve => Entry::Reserve { topic: TopicId(number(0)?), through: number(1)? },
        Kind::Floor => Entry::Floor {
            topic: TopicId(number(0)?),
            loss: number(1)?,
            seq: number(2)?,
            count: number(3)?,
            bytes: number(4)?,
        },
        Kind::Trim => Entry::Trim { topic: TopicId(number(0)?), first: number(1)?, last: number(2)? },
        Kind::Link => {
            let (state, is_gone) = LinkState::decode(body)?;
            Entry::Link { state, is_gone }
        }
        Kind::Router => Entry::Router(Box::new(RouterDef::decode(body)?)),
        Kind::RouterDrop => {
            let ids = (0..body.len() / 8).map(|index| number(index).map(RouterId));
            Entry::RouterDrop(ids.collect::<Result<_, FormatError>>()?)
        }
        Kind::Lease => {
            let (topic, jobs) = decode_jobs(body)?;
            Entry::Lease { topic, jobs }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileHeader = FileHeader {
        shard: 1,
        directory: 2,
        number: 3,
        file_bytes: 4 << 20,
        epoch: 5,
        first_block: 6,
        prev_crc: 7,
    };

    fn put(bytes: &mut [u8], at: usize, number: u64, payload: &[u8], flags: u16, epoch: u64) {
        let header = BlockHeader {
            flags,
            shard: 1,
            payload_bytes: payload.len() as u32,
            epoch,
            number,
            lsn: 3 * FILE.file_bytes + at as u64,
            synced_through: 0,
            prev_crc: 0,
            payload_crc: crc32c::crc32c(payload),
        };
        let (head, _) = header.encode();
        bytes[at..at + BLOCK_HEADER_BYTES].copy_from_slice(&head);
        bytes[at + BLOCK_HEADER_BYTES..at + BLOCK_HEADER_BYTES + payload.len()].copy_from_slice(payload);
    }

    fn seen(bytes: &[u8]) -> Vec<(u64, Result<u64, Gap>)> {
        let places = walk_chunk(&FILE, bytes, 0).into_iter();
        places
            .map(|place| match place {
                Place::Block { offset, header, .. } => (offset / 4096, Ok(header.number)),
                Place::Gap { offset, why } => (offset / 4096, Err(why)),
            })
            .collect()
    }

    #[test]
    fn blocks_behind_a_gap_are_found() {
        let mut bytes = vec![0; CHUNK_BYTES];
        put(&mut bytes, 4096, 6, &[1; 5000], 0, 5);
        put(&mut bytes, 3 * 4096, 7, &[2; 50], 0, 5);
        put(&mut bytes, 4 * 4096, 8, &[3; 50], 0, 5);
        assert_eq!(seen(&bytes), [(1, Ok(6)), (3, Ok(7)), (4, Ok(8)), (5, Err(Gap::Zeros))]);
        bytes[3 * 4096 + 70] ^= 1;
        assert_eq!(seen(&bytes)[1..3], [(3, Err(Gap::Payload)), (4, Ok(8))]);
        bytes[3 * 4096] ^= 1;
        assert_eq!(seen(&bytes)[1..3], [(3, Err(Gap::Header)), (4, Ok(8))]);
        put(&mut bytes, 3 * 4096, 7, &[2; 50], 0, 4);
        assert_eq!(seen(&bytes)[1..3], [(3, Err(Gap::Stale)), (4, Ok(8))]);
        put(&mut bytes, 3 * 4096, 7, &[2; 50], SKIP, 5);
        assert_eq!(seen(&bytes), [(1, Ok(6)), (3, Ok(7))], "the rest of the chunk is nobody's");
        assert_eq!(seen(&bytes[..2 * 4096]), [(1, Err(Gap::Payload))]);
        assert_eq!(seen(&[]), [(1, Err(Gap::End))]);
    }
}
