//! One operation on its way through the ring: what the kernel is asked next, and what it has moved.
//! Lives here: ring entries, short reads and writes, retries. Not here: open files and directories.

use super::super::{Done, FileId, Op, OpenMode, Tag};
use crate::error::DiskError;
use crate::limits::BLOCK_BYTES;
use crate::mem::AlignedBuf;
use io_uring::{opcode, squeue, types};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// Times an entry is sent again after `EINTR` or `EAGAIN`.
const RETRIES_MAX: u8 = 8;
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// An operation in flight. Owns all memory and descriptors that its entry names.
pub(super) struct Flight {
    pub(super) tag: Tag,
    pub(super) op: Op,
    pub(super) step: Step,
    /// The file it keeps busy.
    pub(super) file: Option<FileId>,
    pub(super) target: Target,
    /// Registered buffer that holds the chunk to write.
    pub(super) buffer: Option<u16>,
    pub(super) path: Option<CString>,
    pub(super) to: Option<CString>,
    pub(super) names: Vec<(String, u64)>,
    /// Where the current entry begins, and how far the ones before it came.
    from: u32,
    reached: u32,
    retries: u8,
}

/// What the current entry does.
pub(super) enum Step {
    /// The operation itself.
    Whole,
    /// The answer is known; an empty entry carries it through the ring like any other.
    Answer(Result<u64, DiskError>),
    /// Opens the directory of a `SyncDir`.
    OpenDir,
    /// Syncs it.
    SyncDir(Rc<OwnedFd>),
    /// Closes the descriptor; ours until the kernel has it.
    Close(Option<OwnedFd>),
    /// Extends a file by zeros.
    Zeros { at: u64, end: u64, zeros: AlignedBuf },
}

/// A file as the kernel knows it.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Fd(RawFd),
    Slot(u32),
}

pub(super) enum Next {
    /// Send the (changed) entry.
    Again,
    Ended(Result<u64, DiskError>),
}

/// Builds an entry for a plain or a registered file; the crate has a type for each.
macro_rules! on_file {
    ($target:expr, $file:ident => $entry:expr) => {
        match $target {
            Target::Fd(fd) => {
                let $file = types::Fd(fd);
                $entry
            }
            Target::Slot(slot) => {
                let $file = types::Fixed(slot);
                $entry
            }
        }
    };
}

impl Flight {
    pub(super) fn new(tag: Tag, op: Op) -> Flight {
        Flight {
            tag,
            op,
            step: Step::Whole,
            file: None,
            target: Target::Fd(-1),
            buffer: None,
            path: None,
            to: None,
            names: Vec::new(),
            from: 0,
            reached: 0,
            retries: 0,
        }
    }

    /// The entry for the current step, without its `user_data`.
    pub(super) fn entry(&mut self, root: RawFd, direct: i32) -> squeue::Entry {
        let root = types::Fd(root);
        let target = self.target;
        match &self.step {
            Step::Whole => self.whole(root, direct),
            Step::Answer(_) => opcode::Nop::new().build(),
            Step::OpenDir => opcode::OpenAt::new(root, c_str(&self.path))
                .flags(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
                .build(),
            Step::SyncDir(fd) => opcode::Fsync::new(types::Fd(fd.as_raw_fd())).build(),
            Step::Close(fd) => {
                let fd = fd.as_ref().expect("not closed yet").as_raw_fd();
                opcode::Close::new(types::Fd(fd)).build()
            }
            Step::Zeros { at, end, zeros } => {
                let len = (end - at).min(zeros.len() as u64) as u32;
                on_file!(target, file => opcode::Write::new(file, zeros.as_ptr(), len).offset(*at).build())
            }
        }
    }

    fn whole(&mut self, root: types::Fd, direct: i32) -> squeue::Entry {
        let (target, from) = (self.target, self.from);
        match &mut self.op {
            Op::Open { mode, .. } => {
                let mode_flags = match mode {
                    OpenMode::Read => libc::O_RDONLY,
                    OpenMode::ReadWrite => libc::O_RDWR | libc::O_CREAT,
                    OpenMode::Create => libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
                };
                opcode::OpenAt::new(root, c_str(&self.path))
                    .flags(mode_flags | direct | libc::O_CLOEXEC)
                    .mode(FILE_MODE)
                    .build()
            }
            Op::Read { offset, buf, .. } => {
                let len = buf.len() as u32 - from;
                let (to, offset) = (buf.as_mut_ptr().wrapping_add(from as usize), *offset + u64::from(from));
                on_file!(target, file => opcode::Read::new(file, to, len).offset(offset).build())
            }
            Op::ReadChunk { offset, chunk, len, .. } => {
                let len = *len - from;
                let to = chunk.as_mut_ptr_for_fill().wrapping_add(from as usize);
                let offset = *offset + u64::from(from);
                on_file!(target, file => opcode::Read::new(file, to, len).offset(offset).build())
            }
            Op::Write { offset, buf, len, .. } => {
                let (at, len) = (buf.as_ptr().wrapping_add(from as usize), *len - from);
                let offset = *offset + u64::from(from);
                on_file!(target, file => opcode::Write::new(file, at, len).offset(offset).build())
            }
            Op::WriteChunk { offset, chunk, start, len, sync, .. } => {
                let at = chunk.as_ptr().wrapping_add((*start + from) as usize);
                let (offset, len) = (*offset + u64::from(from), *len - from);
                let flags = if *sync { libc::RWF_DSYNC } else { 0 };
                match self.buffer {
                    Some(index) => on_file!(target, file =>
                        opcode::WriteFixed::new(file, at, len, index).offset(offset).rw_flags(flags).build()),
                    None => on_file!(target, file =>
                        opcode::Write::new(file, at, len).offset(offset).rw_flags(flags).build()),
                }
            }
            Op::Sync { .. } => {
                let flags = types::FsyncFlags::DATASYNC;
                on_file!(target, file => opcode::Fsync::new(file).flags(flags).build())
            }
            Op::Rename { .. } => {
                opcode::RenameAt::new(root, c_str(&self.path), root, c_str(&self.to)).build()
            }
            Op::Remove { .. } => opcode::UnlinkAt::new(root, c_str(&self.path)).build(),
            Op::RemoveDir { .. } => {
                opcode::UnlinkAt::new(root, c_str(&self.path)).flags(libc::AT_REMOVEDIR).build()
            }
            Op::MakeDir { .. } => opcode::MkDirAt::new(root, c_str(&self.path)).mode(DIR_MODE).build(),
            Op::Allocate { bytes, .. } => {
                on_file!(target, file => opcode::Fallocate::new(file, *bytes).build())
            }
            Op::Close { .. } | Op::SyncDir { .. } | Op::List { .. } | Op::ListDirs { .. } => {
                unreachable!("these have own steps")
            }
        }
    }

    /// Whether the entry was interrupted and may go out again. A sync never does: after a failed one
    /// the kernel may have dropped the very pages a second one would claim to have written.
    pub(super) fn may_retry(&mut self, result: i32) -> bool {
        let interrupted = result == -libc::EINTR || result == -libc::EAGAIN;
        let sync = matches!(self.op, Op::Sync { .. }) || matches!(self.step, Step::SyncDir(_));
        if !interrupted || sync || matches!(self.step, Step::Close(_)) || self.retries == RETRIES_MAX {
            return false;
        }
        self.retries += 1;
        true
    }

    /// Goes on reading until nothing more comes, from a whole block as `O_DIRECT` asks.
    pub(super) fn have_read(&mut self, bytes: u32) -> Next {
        let wanted = match &self.op {
            Op::Read { buf, .. } => buf.len() as u32,
            Op::ReadChunk { len, .. } => *len,
            _ => unreachable!("only reads read"),
        };
        let reached = self.from + bytes;
        if reached <= self.reached || reached == wanted {
            return Next::Ended(Ok(u64::from(reached.max(self.reached))));
        }
        self.reached = reached;
        self.from = whole_blocks(reached);
        Next::Again
    }

    /// A short write is continued once: what stopped it then gives its own error, or is one.
    pub(super) fn have_written(&mut self, bytes: u32) -> Next {
        let wanted = match &self.op {
            Op::Write { len, .. } | Op::WriteChunk { len, .. } => *len,
            _ => unreachable!("only writes write"),
        };
        let reached = self.from + bytes;
        if reached == wanted {
            return Next::Ended(Ok(u64::from(wanted)));
        }
        if bytes == 0 || self.reached > 0 {
            return Next::Ended(Err(DiskError(libc::EIO)));
        }
        self.reached = reached;
        self.from = whole_blocks(reached);
        Next::Again
    }

    pub(super) fn into_done(self, result: Result<u64, DiskError>) -> Done {
        let buf = match self.op {
            Op::Read { buf, .. } | Op::Write { buf, .. } => Some(buf),
            _ => None,
        };
        Done { tag: self.tag, result, buf, names: self.names }
    }
}

fn whole_blocks(bytes: u32) -> u32 {
    bytes - bytes % BLOCK_BYTES as u32
}

fn c_str(path: &Option<CString>) -> *const libc::c_char {
    path.as_ref().expect("set when the operation was accepted").as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read() -> Flight {
        Flight::new(Tag(0), Op::Read { file: FileId(0), offset: 0, buf: AlignedBuf::zeroed(16384) })
    }

    fn write() -> Flight {
        let buf = AlignedBuf::zeroed(16384);
        Flight::new(Tag(0), Op::Write { file: FileId(0), offset: 0, buf, len: 16384 })
    }

    fn ended(next: Next) -> Option<Result<u64, DiskError>> {
        match next {
            Next::Again => None,
            Next::Ended(result) => Some(result),
        }
    }

    #[test]
    fn a_short_read_goes_on_from_a_whole_block_until_nothing_comes() {
        let table: [(&[u32], u64); 5] = [
            (&[16384], 16384),
            (&[0], 0),
            (&[4096, 0], 4096),
            (&[5000, 904], 5000), // the second entry begins at 4096 and finds the same end
            (&[8192, 8192], 16384),
        ];
        for (results, total) in table {
            let mut flight = read();
            for (i, &bytes) in results.iter().enumerate() {
                let end = (i + 1 == results.len()).then_some(Ok(total));
                assert_eq!(ended(flight.have_read(bytes)), end, "{results:?} at {i}");
                assert!(flight.from.is_multiple_of(BLOCK_BYTES as u32));
            }
        }
    }

    #[test]
    fn a_short_write_is_continued_once() {
        let eio = Err(DiskError(libc::EIO));
        let table: [(&[u32], Result<u64, DiskError>); 4] =
            [(&[16384], Ok(16384)), (&[8192, 8192], Ok(16384)), (&[5000, 4096], eio), (&[0], eio)];
        for (results, total) in table {
            let mut flight = write();
            for (i, &bytes) in results.iter().enumerate() {
                let end = (i + 1 == results.len()).then_some(total);
                assert_eq!(ended(flight.have_written(bytes)), end, "{results:?} at {i}");
            }
        }
    }

    #[test]
    fn interrupted_entries_are_sent_again_but_never_a_sync() {
        let mut flight = write();
        let sent = (0..100).take_while(|_| flight.may_retry(-libc::EINTR)).count();
        assert_eq!(sent, usize::from(RETRIES_MAX));
        assert!(!write().may_retry(-libc::EIO));
        assert!(!Flight::new(Tag(0), Op::Sync { file: FileId(0) }).may_retry(-libc::EINTR));
    }
}
