//! Log files and their blocks as bytes. Pure. What is *in* a block is [`frame`](super::frame).
//!
//! A shard's log is a sequence of files of one fixed size, zero-filled ahead of use and recycled. A
//! file starts with a header block; then come blocks, each the outcome of one group commit, each
//! starting at a multiple of 4 KiB and zero-padded to one. No block crosses a chunk (2 MiB): where
//! the next one does not fit, a block flagged [`SKIP`] sends the reader to the next chunk.
//! Little-endian; a changed row is a new version.
//!
//! ```text
//! file header  at  bytes  field
//!               0      8  magic "RUNELOG\0"
//!               8      2  version
//!              10      2  shard
//!              12      4  zero
//!              16      8  directory id: a file of another data directory is refused
//!              24      8  file number; a byte's lsn is number * file size + offset
//!              32      8  file size
//!              40      8  epoch
//!              48      8  first block number if the file opens its epoch, else all ones (unknown
//!                         when the file was prepared)
//!              56      4  checksum of the block before that one, same condition
//!              60      4  checksum over 0..60
//!
//! block        at  bytes  field
//!               0      4  magic "RBLK"
//!               4      2  version
//!               6      2  flags: 1 skip to the next chunk
//!               8      2  shard
//!              10      2  zero
//!              12      4  payload_bytes
//!              16      8  epoch: one run of the server
//!              24      8  block number, dense over the life of the shard
//!              32      8  lsn of this header: a misdirected write is noticed
//!              40      8  synced_through: blocks up to this number were durable when this one was
//!                         made, so an unreadable one among them is damage, not a torn tail (I-94)
//!              48      4  header checksum of the previous block: the chain
//!              52      4  payload checksum
//!              56      4  zero
//!              60      4  checksum over 0..60
//!              64         payload: entries
//! ```

use super::bytes::{u16_at, u32_at, u64_at};
use crate::error::FormatError;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};

/// Bytes before a block's payload.
pub const BLOCK_HEADER_BYTES: usize = 64;
/// The largest payload of a block: one that fills a chunk from its first byte to its last.
pub const PAYLOAD_BYTES_MAX: usize = CHUNK_BYTES - BLOCK_HEADER_BYTES;
/// The log format this build writes and reads.
pub const VERSION: u16 = 1;
/// Block flag: the next block is at the start of the next chunk.
pub const SKIP: u16 = 1;
/// First block of a file that was prepared before that was known.
pub const UNKNOWN_BLOCK: u64 = u64::MAX;

const FILE_VERSION_UNKNOWN: &str = "log file header of an unknown version";
const BLOCK_VERSION_UNKNOWN: &str = "block header of an unknown version";

/// Whether a header was whole and of a version that this build does not read: never a torn tail,
/// always a reason to refuse (I-99).
pub fn is_unknown_version(error: &FormatError) -> bool {
    [FILE_VERSION_UNKNOWN, BLOCK_VERSION_UNKNOWN].iter().any(|what| *error == FormatError::new(what))
}

const FILE_MAGIC: [u8; 8] = *b"RUNELOG\0";
const BLOCK_MAGIC: [u8; 4] = *b"RBLK";

/// The first block of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Whose log.
    pub shard: u16,
    /// Which data directory.
    pub directory: u64,
    /// Position of the file in the log.
    pub number: u64,
    /// Size of every file of this log.
    pub file_bytes: u64,
    /// The run that prepared it.
    pub epoch: u64,
    /// First block in it, or [`UNKNOWN_BLOCK`].
    pub first_block: u64,
    /// Header checksum of the block before, if the first block is known.
    pub prev_crc: u32,
}

impl FileHeader {
    /// The header's 64 bytes; the rest of its block is zero.
    pub fn encode(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = [0; BLOCK_HEADER_BYTES];
        out[0..8].copy_from_slice(&FILE_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&self.shard.to_le_bytes());
        out[16..24].copy_from_slice(&self.directory.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        out[48..56].copy_from_slice(&self.first_block.to_le_bytes());
        out[56..60].copy_from_slice(&self.prev_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header. `Ok(None)`: all zero, a file that was never headed.
    pub fn decode(bytes: &[u8]) -> Result<Option<FileHeader>, FormatError> {
        let head = bytes.get(..BLOCK_HEADER_BYTES).ok_or(FormatError::new("log file header"))?;
        if head.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if head[0..8] != FILE_MAGIC || u32_at(head, 60) != crc32c::crc32c(&head[..60]) {
            return Err(FormatError::new("log file header"));
        }
        if u16_at(head, 8) != VERSION {
            return Err(FormatError::new(FILE_VERSION_UNKNOWN));
        }
        Ok(Some(FileHeader {
            shard: u16_at(head, 10),
            directory: u64_at(head, 16),
            number: u64_at(head, 24),
            file_bytes: u64_at(head, 32),
            epoch: u64_at(head, 40),
            first_block: u64_at(head, 48),
            prev_crc: u32_at(head, 56),
        }))
    }
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// [`SKIP`] or nothing.
    pub flags: u16,
    /// Whose log.
    pub shard: u16,
    /// Bytes after the header, before the padding.
    pub payload_bytes: u32,
    /// The run that wrote it.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// Its place.
    pub lsn: u64,
    /// Blocks up to this number were durable when this one was made.
    pub synced_through: u64,
    /// Header checksum of the previous block.
    pub prev_crc: u32,
    /// Checksum of the payload.
    pub payload_crc: u32,
}

impl BlockHeader {
    /// The header as bytes, and its checksum (the next block's `prev_crc`).
    pub fn encode(&self) -> ([u8; BLOCK_HEADER_BYTES], u32) {
        let mut out = [0; BLOCK_HEADER_BYTES];
        out[0..4].copy_from_slice(&BLOCK_MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..10].copy_from_slice(&self.shard.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.lsn.to_le_bytes());
        out[40..48].copy_from_slice(&self.synced_through.to_le_bytes());
        out[48..52].copy_from_slice(&self.prev_crc.to_le_bytes());
        out[52..56].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Reads a header; returns it with its checksum. The length is believed only after this.
    pub fn decode(bytes: &[u8]) -> Result<(BlockHeader, u32), FormatError> {
        let head = bytes.get(..BLOCK_HEADER_BYTES).ok_or(FormatError::new("block header"))?;
        let crc = u32_at(head, 60);
        if head[0..4] != BLOCK_MAGIC || crc != crc32c::crc32c(&head[..60]) {
            return Err(FormatError::new("block header"));
        }
        if u16_at(head, 4) != VERSION {
            return Err(FormatError::new(BLOCK_VERSION_UNKNOWN));
        }
        let header = BlockHeader {
            flags: u16_at(head, 6),
            shard: u16_at(head, 8),
            payload_bytes: u32_at(head, 12),
            epoch: u64_at(head, 16),
            number: u64_at(head, 24),
            lsn: u64_at(head, 32),
            synced_through: u64_at(head, 40),
            prev_crc: u32_at(head, 48),
            payload_crc: u32_at(head, 52),
        };
        if header.payload_bytes as usize > PAYLOAD_BYTES_MAX || header.flags & !SKIP != 0 {
            return Err(FormatError::new("block header"));
        }
        Ok((header, crc))
    }

    /// Bytes the block takes on disk.
    pub fn stored_bytes(&self) -> usize {
        stored_bytes(self.payload_bytes as usize)
    }
}

/// Bytes a block of `payload` bytes takes on disk.
pub fn stored_bytes(payload: usize) -> usize {
    (BLOCK_HEADER_BYTES + payload).next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_every_flipped_bit_is_noticed() {
        let file = FileHeader {
            shard: 3,
            directory: 9,
            number: 4,
            file_bytes: 1 << 26,
            epoch: 2,
            first_block: 77,
            prev_crc: 5,
        };
        let block = BlockHeader {
            flags: SKIP,
            shard: 3,
            payload_bytes: 100,
            epoch: 2,
            number: 78,
            lsn: 8192,
            synced_through: 70,
            prev_crc: 1,
            payload_crc: 2,
        };
        assert_eq!(FileHeader::decode(&file.encode()), Ok(Some(file)));
        assert_eq!(FileHeader::decode(&[0; 64]), Ok(None));
        let (bytes, crc) = block.encode();
        assert_eq!(BlockHeader::decode(&bytes), Ok((block, crc)));
        for bit in 0..BLOCK_HEADER_BYTES * 8 {
            let mut changed = file.encode();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&changed).is_err(), "bit {bit}");
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHeader::decode(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn golden_bytes_of_a_block_header() {
        // A change here is a change of the format: raise VERSION and keep reading the old one.
        let (bytes, _) = BlockHeader {
            flags: 0,
            shard: 1,
            payload_bytes: 2,
            epoch: 3,
            number: 4,
            lsn: 5,
            synced_through: 6,
            prev_crc: 7,
            payload_crc: 8,
        }
        .encode();
        let mut expected = b"RBLK\x01\0\0\0\x01\0\0\0\x02\0\0\0".to_vec();
        for number in [3u64, 4, 5, 6] {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        expected.extend_from_slice(&[7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[..60], expected);
    }
}
