//! The disk as the engine sees it: operations out, completions in. Two makes: `uring` on the real
//! one, [`sim`] from a seed. Background work (sealing, checkpoints, recovery) is written as `async`
//! functions over [`Io`]; the commit path submits through the same [`Io`] without a future.
//!
//! Paths are relative to the data directory, `/`-separated. Buffers, lengths and offsets are multiples
//! of [`BLOCK_BYTES`], so every file can be `O_DIRECT`.

use crate::error::DiskError;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::mem::{AlignedBuf, Chunk};

pub mod io;
pub mod read_only;
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
#[expect(missing_docs, reason = "the fields say it; what an operation does stands at its variant")]
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
    /// Lists the directories in a directory, in [`Done::names`], lengths zero; otherwise as
    /// [`Op::List`].
    ListDirs { path: String },
    /// Removes a directory that is empty or absent. Start-up only.
    RemoveDir { path: String },
}

impl Op {
    /// Both disks refuse what `O_DIRECT` would, so that a mistake shows on every file system.
    pub(crate) fn assert_sound(&self) {
        let (offset, len) = match self {
            Op::Read { offset, .. } => (*offset, 0),
            Op::ReadChunk { offset, len, .. } | Op::Write { offset, len, .. } => (*offset, *len),
            Op::WriteChunk { offset, start, len, .. } => {
                assert!((*start as usize).is_multiple_of(BLOCK_BYTES), "chunk bytes from {start}");
                (*offset, *len)
            }
            Op::Allocate { bytes, .. } => (*bytes, 0),
            _ => return,
        };
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "offset {offset}");
        assert!((len as usize).is_multiple_of(BLOCK_BYTES), "length {len}");
        match self {
            Op::ReadChunk { chunk, len, .. } => {
                assert_eq!(chunk.frozen(), 0, "a chunk is filled before anybody reads it");
                assert!(*len as usize <= CHUNK_BYTES, "{len} bytes into a chunk");
            }
            Op::Write { buf, len, .. } => assert!(*len as usize <= buf.len(), "{len} bytes of {buf:?}"),
            Op::WriteChunk { chunk, start, len, .. } => {
                let end = *start as usize + *len as usize;
                assert!(end <= chunk.frozen(), "only frozen bytes are written: {end} of {chunk:?}");
            }
            _ => {}
        }
    }
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
    /// The answer to [`Op::List`] and [`Op::ListDirs`].
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

#[cfg(test)]
mod tests {
    //! What both disks must do alike.

    use super::io::{Io, Jobs, breathe};
    use super::{Disk, OpenMode};
    use crate::error::DiskError;
    use crate::mem::AlignedBuf;

    /// Two jobs beside each other, each writing a file aside, putting it in place and reading it back.
    pub(super) fn write_aside_and_rename(io: &Io, disk: &mut dyn Disk) {
        async fn job(io: Io, name: &'static str, byte: u8) -> Result<(usize, u8), DiskError> {
            io.make_dir("jobs").await?;
            let (aside, place) = (format!("jobs/{name}.new"), format!("jobs/{name}"));
            let file = io.open(&aside, OpenMode::Create).await?;
            let mut buf = AlignedBuf::zeroed(8192);
            buf.fill(byte);
            let buf = io.write(file, 0, buf, 8192).await?;
            breathe().await;
            io.sync(file).await?;
            io.close(file).await;
            io.rename(&aside, &place).await?;
            io.sync_dir("jobs").await?;
            io.sync_dir("").await?;
            let file = io.open(&place, OpenMode::Read).await?;
            let (buf, bytes) = io.read(file, 4096, buf).await?;
            io.close(file).await;
            Ok((bytes, buf[4095]))
        }
        let (mut jobs, mut results) = (Jobs::default(), Vec::new());
        jobs.add(job(io.clone(), "one", 1));
        jobs.add(job(io.clone(), "two", 2));
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        while !jobs.is_empty() {
            jobs.run(&mut results);
            io.take_outgoing(&mut outgoing);
            outgoing.drain(..).for_each(|(tag, op)| disk.submit(tag, op));
            disk.wait();
            disk.poll(&mut done);
            done.drain(..).for_each(|done| io.complete(done).expect("a job waits for it"));
        }
        results.sort_by_key(|result| result.map(|(_, byte)| byte).unwrap_or(0));
        assert_eq!(results, [Ok((4096, 1)), Ok((4096, 2))]);
        let names = super::io::block_on(io, disk, io.list("jobs"));
        assert_eq!(names, Ok(vec![("one".to_owned(), 8192), ("two".to_owned(), 8192)]));
        for (path, dirs) in [("", vec!["jobs".to_owned()]), ("jobs", vec![]), ("absent", vec![])] {
            assert_eq!(super::io::block_on(io, disk, io.list_dirs(path)), Ok(dirs), "{path}");
        }
    }
}
