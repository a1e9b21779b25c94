//! Another disk with its writing taken away, for whoever only looks: the engine's own readers and its
//! recovery run on it as they would on the disk itself, and nothing below it changes.

use super::{Disk, Done, Op, OpenMode, Tag};
use crate::error::DiskError;

/// Passes on what reads. What recovery does to leave a tidy directory behind (syncs, removals) succeeds
/// without being done; everything that would store bytes is `EROFS`.
#[derive(Debug)]
pub struct ReadOnly<D> {
    disk: D,
    done: Vec<Done>,
}

impl<D: Disk> ReadOnly<D> {
    /// Looks at `disk`.
    pub fn new(disk: D) -> ReadOnly<D> {
        ReadOnly { disk, done: Vec::new() }
    }
}

impl<D: Disk> Disk for ReadOnly<D> {
    fn submit(&mut self, tag: Tag, op: Op) {
        let (result, buf) = match op {
            Op::Open { mode: OpenMode::Read, .. }
            | Op::Close { .. }
            | Op::Read { .. }
            | Op::ReadChunk { .. }
            | Op::List { .. }
            | Op::ListDirs { .. } => return self.disk.submit(tag, op),
            Op::Sync { .. } | Op::SyncDir { .. } | Op::Remove { .. } => (Ok(0), None),
            Op::Write { buf, .. } => (Err(DiskError(libc::EROFS)), Some(buf)),
            Op::Open { .. }
            | Op::WriteChunk { .. }
            | Op::Rename { .. }
            | Op::Allocate { .. }
            | Op::MakeDir { .. }
            | Op::RemoveDir { .. } => (Err(DiskError(libc::EROFS)), None),
        };
        self.done.push(Done { tag, result, buf, names: Vec::new() });
    }

    fn poll(&mut self, out: &mut Vec<Done>) {
        out.append(&mut self.done);
        self.disk.poll(out);
    }

    fn wait(&mut self) {
        if self.done.is_empty() {
            self.disk.wait();
        }
    }
}
