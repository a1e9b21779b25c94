//! The disk as the engine sees it: operations out, completions in. Two makes: `uring` on the real
//! one, [`sim`] from a seed. Background work (sealing, checkpoints, recovery) is written as `async`
//! functions over [`Io`]; the commit path submits through the same [`Io`] without a future.
//!
//! Paths are relative to the data directory, `/`-separated. Buffers, lengths and offsets are multiples
//! of [`BLOCK_BYTES`](crate::limits::BLOCK_BYTES), so every file can be `O_DIRECT`.

use crate::error::DiskError;
use crate::mem::{AlignedBuf, Chunk};

pub mod io;
pub mod ring;
pub mod sim;
pub mod uring;

pub use io::{Io, Jobs};

/// An open file of a [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// Names an operation until its completion came; unique per [`Io`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing, read only.
    Read,
    /// Existing or new, read and write, contents kept (log files).
    ReadWrite,
    /// New and empty; an existing file of that name is truncated (files written aside).
    Create,
}

/// One operation. Buffers travel with it and come back with its completion.
#[derive(Debug)]
pub enum Op {
    /// Result: the [`FileId`] as a number.
    Open { path: String, mode: OpenMode },
    /// Forgets the file. Operations on it must have completed.
    Close { file: FileId },
    /// Fills `buf` from `offset`. Result: bytes read, short only at the end of the file.
    Read { file: FileId, offset: u64, buf: AlignedBuf },
    /// Fills `chunk` (nothing of it frozen) from `offset`, `len` bytes. Result: bytes read.
    ReadChunk { file: FileId, offset: u64, chunk: Chunk, len: u32 },
    /// Writes the first `len` bytes of `buf`. Result: bytes written; a short write is an error (`EIO`).
    Write { file: FileId, offset: u64, buf: AlignedBuf, len: u32 },
    /// Writes frozen bytes of a chunk. With `sync`, completes when *these bytes* are durable
    /// (`RWF_DSYNC`; says nothing about earlier writes). A short write is an error (`EIO`).
    WriteChunk { file: FileId, offset: u64, chunk: Chunk, start: u32, len: u32, sync: bool },
    /// Makes every completed write of the file durable, and its length (fdatasync).
    Sync { file: FileId },
    /// Makes creations, renames and removals in the directory durable (fsync of the directory).
    SyncDir { path: String },
    /// Atomically replaces `to`.
    Rename { from: String, to: String },
    /// Removes a file; removing an absent one succeeds.
    Remove { path: String },
    /// Reserves space and sets the length to at least `bytes`; contents of new space read as zero.
    Allocate { file: FileId, bytes: u64 },
    /// Creates a directory; an existing one is fine. Start-up only.
    MakeDir { path: String },
    /// Lists a directory: file names with their lengths, in [`Done::names`]. An absent directory
    /// is `ENOENT`. Start-up only: may block.
    List { path: String },
    /// Removes a directory that is empty or absent. Start-up only.
    RemoveDir { path: String },
}

/// A completed operation.
#[derive(Debug)]
pub struct Done {
    /// Which one.
    pub tag: Tag,
    /// Its result as described at [`Op`].
    pub result: Result<u64, DiskError>,
    /// The buffer it carried.
    pub buf: Option<AlignedBuf>,
    /// The answer to [`Op::List`].
    pub names: Vec<(String, u64)>,
}

/// Performs operations. Completions may come in any order.
pub trait Disk {
    /// Accepts an operation. It may be held back until the caller next drives the disk.
    fn submit(&mut self, tag: Tag, op: Op);
    /// Moves completions that are there into `out`; never waits.
    fn poll(&mut self, out: &mut Vec<Done>);
    /// Waits (really, or by moving simulated time) until [`Disk::poll`] would find something, if
    /// anything is in flight. Used at start-up and in tests, never on a serving core.
    fn wait(&mut self);
}
