//! A file written aside: front to back, in whole blocks, through two buffers of which one is on its
//! way to the disk while the other fills; then synced and renamed to its final name. Segments and
//! checkpoints are written so, and nothing else may appear under a final name (I-95, I-96).
//!
//! Every bounded piece of work gives the core back: this runs where requests are served.

use crate::disk::io::breathe;
use crate::disk::{Done, FileId, Io, Op, OpenMode};
use crate::error::DiskError;
use crate::limits::BLOCK_BYTES;
use crate::mem::AlignedBuf;
use std::future::Future;
use std::pin::Pin;

/// Size of each of the two buffers.
const BUFFER_BYTES: usize = 1 << 20;
/// Computation between two breaths: copying and summing this much takes some tens of microseconds.
pub const BREATH_BYTES: usize = 128 << 10;
/// What is appended to the final name while the file is not complete.
pub const ASIDE_SUFFIX: &str = ".new";

/// Counts work and breathes when enough was done.
#[derive(Debug, Default)]
pub struct Effort {
    bytes: usize,
}

impl Effort {
    /// Notes that about `bytes` bytes were worked through.
    pub async fn spend(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= BREATH_BYTES {
            self.bytes = 0;
            breathe().await;
        }
    }
}

type Flight = Pin<Box<dyn Future<Output = Done>>>;

/// The file being written. Must end in [`AsideFile::finish`] or [`AsideFile::abandon`]; one that is
/// merely dropped leaves an open file and a `.new` name, which the next start removes.
pub struct AsideFile {
    io: Io,
    file: FileId,
    path: String,
    filling: AlignedBuf,
    filled: usize,
    /// Offset in the file of the first byte of `filling`.
    base: u64,
    in_flight: Option<Flight>,
    /// Work done, shared with whoever fills the file.
    pub effort: Effort,
}

impl AsideFile {
    /// Creates `path` + `.new`, replacing a leftover of that name.
    pub async fn create(io: &Io, path: String) -> Result<AsideFile, DiskError> {
        let file = io.open(&format!("{path}{ASIDE_SUFFIX}"), OpenMode::Create).await?;
        Ok(AsideFile {
            io: io.clone(),
            file,
            path,
            filling: AlignedBuf::zeroed(BUFFER_BYTES),
            filled: 0,
            base: 0,
            in_flight: None,
            effort: Effort::default(),
        })
    }

    /// Where the next byte goes.
    pub fn offset(&self) -> u64 {
        self.base + self.filled as u64
    }

    /// Appends bytes.
    pub async fn put(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let room = (BUFFER_BYTES - self.filled).min(BREATH_BYTES);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.filling[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            self.effort.spend(now.len()).await;
            if self.filled == BUFFER_BYTES {
                self.flush().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Fills the current block with zeros.
    pub async fn pad(&mut self) -> Result<(), DiskError> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        let short = self.offset().next_multiple_of(BLOCK_BYTES as u64) - self.offset();
        self.put(&ZEROS[..short as usize]).await
    }

    /// Overwrites the first block of the file, which is then complete, syncs it and gives it its
    /// final name. The directory is not synced. Returns the length of the file.
    pub async fn finish(mut self, first_block: Option<AlignedBuf>) -> Result<u64, DiskError> {
        let result = self.complete(first_block).await;
        match result {
            Ok(()) => {
                self.io.close(self.file).await;
                self.io.rename(&format!("{}{ASIDE_SUFFIX}", self.path), &self.path).await?;
                Ok(self.base)
            }
            Err(error) => {
                self.abandon().await;
                Err(error)
            }
        }
    }

    async fn complete(&mut self, first_block: Option<AlignedBuf>) -> Result<(), DiskError> {
        assert!(self.offset().is_multiple_of(BLOCK_BYTES as u64), "the file ends with a whole block");
        self.flush().await?;
        self.land().await?;
        if let Some(block) = first_block {
            self.io.write(self.file, 0, block, BLOCK_BYTES).await?;
        }
        self.io.sync(self.file).await
    }

    /// Gives the file up and removes it, as far as the disk lets us.
    pub async fn abandon(mut self) {
        let _ = self.land().await;
        self.io.close(self.file).await;
        // What cannot be removed now is removed by the next start.
        let _ = self.io.remove(&format!("{}{ASIDE_SUFFIX}", self.path)).await;
    }

    /// Sends the filled part off and goes on with the other buffer.
    async fn flush(&mut self) -> Result<(), DiskError> {
        if self.filled == 0 {
            return Ok(());
        }
        let next = self.land().await?.unwrap_or_else(|| AlignedBuf::zeroed(BUFFER_BYTES));
        let buf = std::mem::replace(&mut self.filling, next);
        let op = Op::Write { file: self.file, offset: self.base, buf, len: self.filled as u32 };
        self.in_flight = Some(Box::pin(self.io.run(op)));
        self.base += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Waits for the write under way; gives its buffer back.
    async fn land(&mut self) -> Result<Option<AlignedBuf>, DiskError> {
        let Some(flight) = self.in_flight.take() else { return Ok(None) };
        let done = flight.await;
        done.result?;
        Ok(done.buf)
    }
}
