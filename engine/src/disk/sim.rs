//! A disk made of memory and a seed. The same seed and the same operations give the same completions,
//! in the same order, and the same survivors of a crash.
//! Lives here: operations in flight, their order, faults, crashes, cuts, and looks inside for tests.
//! Not here: which bytes (`file`) and names (`names`) a power loss may take back.
//!
//! Rules, stricter than most real disks so that a missing sync shows:
//! - an operation happens when it completes, and completions come in any order;
//! - bytes become durable by a [`Op::Sync`] submitted after their write completed, or by their own
//!   `sync` flag, which says nothing about other writes;
//! - names become durable by [`Op::SyncDir`] of their directory only, lengths by [`Op::Sync`] or by a
//!   synced write at the end.

use super::{Disk, Done, FileId, Io, Op, OpenMode, Tag};
use crate::error::DiskError;
use crate::rng::Rng;
use file::SimFile;
use names::{Names, Node};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

mod file;
mod names;
#[cfg(test)]
mod tests;

/// How everything ends, the worse last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crash {
    /// The process dies. What completed stays; what was in flight has happened, or not, or in part.
    Kill,
    /// The power fails. Whatever no completed sync covers has survived or not, at random.
    PowerLoss,
}

/// A simulated disk. Its root directory exists, empty and durable.
pub struct SimDisk {
    rng: Rng,
    names: Names,
    nodes: BTreeMap<Node, SimFile>,
    next_node: Node,
    open: BTreeMap<FileId, Handle>,
    next_file: u32,
    in_flight: Vec<Pending>,
    /// Completed operations: the disk's only time.
    completed: u64,
    /// The caller has waited: the next poll must find something.
    owed: bool,
    cut_at: Option<u64>,
    fail_write: Option<u64>,
    fail_sync: Option<u64>,
    fail_read: Option<u64>,
    fail_name: Option<u64>,
    failed_syncs: u64,
    failed: u64,
    bytes_max: Option<u64>,
}

#[derive(Clone, Copy)]
struct Handle {
    node: Node,
    mode: OpenMode,
}

struct Pending {
    tag: Tag,
    op: Op,
    /// The open file it works on, if it is a file operation.
    handle: Result<Option<Handle>, DiskError>,
    /// The time of its submission, and the length of its file then.
    began: u64,
    len: usize,
}

impl SimDisk {
    /// An empty disk whose every choice follows from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            rng: Rng::new(seed),
            names: Names::new(),
            nodes: BTreeMap::new(),
            next_node: 0,
            open: BTreeMap::new(),
            next_file: 0,
            in_flight: Vec::new(),
            completed: 0,
            owed: false,
            cut_at: None,
            fail_write: None,
            fail_sync: None,
            fail_read: None,
            fail_name: None,
            failed_syncs: 0,
            failed: 0,
            bytes_max: None,
        }
    }

    /// A second disk in the same state, for trying several futures of one past. Nothing is in flight.
    pub fn fork(&self) -> SimDisk {
        assert!(self.in_flight.is_empty(), "operations cannot be on two disks");
        SimDisk {
            rng: self.rng.clone(),
            names: self.names.clone(),
            nodes: self.nodes.clone(),
            open: self.open.clone(),
            in_flight: Vec::new(),
            ..*self
        }
    }

    /// Ends all operations in flight and forgets open files; the disk is then as the next start finds
    /// it. Lifts a cut. Faults that were asked for and did not happen yet stay.
    pub fn crash(&mut self, kind: Crash) {
        let mut in_flight = std::mem::take(&mut self.in_flight);
        while !in_flight.is_empty() {
            let pending = in_flight.swap_remove(self.rng.index(in_flight.len()));
            self.tear(pending);
        }
        if kind == Crash::PowerLoss {
            self.nodes.values_mut().for_each(|file| file.lose_power(&mut self.rng));
            self.names.lose_power(&mut self.rng);
        }
        self.open.clear();
        (self.cut_at, self.owed) = (None, false);
        self.forget_unreachable();
    }

    /// Completes `count` more operations and then none, until [`SimDisk::crash`].
    pub fn cut_after(&mut self, count: u64) {
        self.cut_at = Some(self.completed + count);
    }

    /// Whether nothing completes any more.
    pub fn is_cut(&self) -> bool {
        self.cut_at == Some(self.completed)
    }

    /// Operations completed so far: a run without a cut tells how many crash points there are.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Operations accepted and not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The `nth` write to complete from now on (1 is the next) fails with `EIO` and leaves its range
    /// undefined.
    pub fn fail_nth_write(&mut self, nth: u64) {
        self.fail_write = Some(nth.max(1));
    }

    /// The `nth` file or directory sync to complete from now on (1 is the next) fails with `EIO`. What
    /// it should have made durable is undefined, and no later sync of the file helps.
    pub fn fail_nth_sync(&mut self, nth: u64) {
        self.fail_sync = Some(nth.max(1));
    }

    /// The `nth` read to complete from now on (1 is the next) fails with `EIO`.
    pub fn fail_nth_read(&mut self, nth: u64) {
        self.fail_read = Some(nth.max(1));
    }

    /// The `nth` open, rename or removal to complete from now on (1 is the next) fails with `EIO` and has not
    /// happened.
    pub fn fail_nth_name(&mut self, nth: u64) {
        self.fail_name = Some(nth.max(1));
    }

    /// Syncs that failed so far.
    pub fn failed_syncs(&self) -> u64 {
        self.failed_syncs
    }

    /// Operations that failed so far for a fault or for want of room.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Faults that were asked for and did not happen yet are not to happen, and there is room again.
    pub fn lift_faults(&mut self) {
        (self.fail_write, self.fail_sync, self.fail_read, self.fail_name) = (None, None, None, None);
        self.bytes_max = None;
    }

    /// Whether no fault is still to happen.
    pub fn is_sound(&self) -> bool {
        let waiting = [self.fail_write, self.fail_sync, self.fail_read, self.fail_name];
        waiting.iter().all(Option::is_none) && self.bytes_max.is_none()
    }

    /// Files may grow by `bytes` more, all together; then `ENOSPC`. A removed
    /// file makes room once its removal is durable.
    pub fn full_after_bytes(&mut self, bytes: u64) {
        self.bytes_max = Some(self.bytes() + bytes);
    }

    /// There is room again.
    pub fn lift_full(&mut self) {
        self.bytes_max = None;
    }

    /// Flips one bit of a stored file.
    pub fn flip_bit(&mut self, path: &str, byte: u64, bit: u8) {
        self.file_mut(path).flip_bit(byte as usize, bit);
    }

    /// Every read of the file that stands there now fails with `EIO`.
    pub fn read_error(&mut self, path: &str) {
        self.file_mut(path).unreadable = true;
    }

    /// Cuts the file off, durably.
    pub fn truncate(&mut self, path: &str, bytes: u64) {
        self.file_mut(path).truncate(bytes as usize);
    }

    /// All files with their lengths, sorted by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        let files = self.names.files().iter();
        files.map(|(path, node)| (path.clone(), self.nodes[node].data().len() as u64)).collect()
    }

    /// The bytes of a file, as a read would see them.
    pub fn contents(&self, path: &str) -> Option<&[u8]> {
        self.names.find(path).ok().map(|node| self.nodes[&node].data())
    }

    /// As [`io::block_on`](super::io::block_on), but ends with `None` when the disk is cut before the
    /// future ended.
    pub fn block_on<T>(&mut self, io: &Io, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return Some(result);
            }
            io.take_outgoing(&mut outgoing);
            outgoing.drain(..).for_each(|(tag, op)| self.submit(tag, op));
            if self.is_cut() {
                return None;
            }
            self.wait();
            self.poll(&mut done);
            for done in done.drain(..) {
                let _ = io.complete(done); // others are nobody's
            }
        }
    }

    fn complete(&mut self, pending: Pending) -> Done {
        self.completed += 1;
        let Pending { tag, mut op, handle, began, len } = pending;
        let mut names = Vec::new();
        let result = match handle {
            Err(error) => Err(error),
            Ok(handle) => self.perform(&mut op, handle, began, len, &mut names),
        };
        self.failed += u64::from(matches!(result, Err(DiskError(libc::EIO | libc::ENOSPC))));
        let buf = match op {
            Op::Read { buf, .. } | Op::Write { buf, .. } => Some(buf),
            _ => None,
        };
        Done { tag, result, buf, names }
    }

    fn perform(
        &mut self,
        op: &mut Op,
        handle: Option<Handle>,
        began: u64,
        len_then: usize,
        names: &mut Vec<(String, u64)>,
    ) -> Result<u64, DiskError> {
        let now = self.completed;
        let node = handle.map_or(Node::MAX, |handle| handle.node);
        let failed = match op {
            Op::Read { .. } | Op::ReadChunk { .. } => due(&mut self.fail_read),
            Op::Open { .. } | Op::Rename { .. } | Op::Remove { .. } => due(&mut self.fail_name),
            _ => false,
        };
        if failed {
            return Err(DiskError(libc::EIO));
        }
        match op {
            Op::Open { path, mode } => return self.open_file(path, *mode),
            Op::Close { .. } => self.forget_unreachable(),
            Op::Read { offset, buf, .. } => {
                let bytes = self.stored(node, *offset, buf.len())?;
                buf[..bytes.len()].copy_from_slice(bytes);
                return Ok(bytes.len() as u64);
            }
            Op::ReadChunk { offset, chunk, len, .. } => {
                let bytes = self.stored(node, *offset, *len as usize)?;
                chunk.write(0, bytes);
                return Ok(bytes.len() as u64);
            }
            Op::Write { offset, .. } | Op::WriteChunk { offset, .. } => {
                let (offset, sync) = (*offset as usize, matches!(op, Op::WriteChunk { sync: true, .. }));
                let bytes = written_bytes(op).expect("a write");
                self.admit(node, offset + bytes.len())?;
                let file = self.nodes.get_mut(&node).expect("open");
                if due(&mut self.fail_write) {
                    file.write_failed(now, offset, bytes, &mut self.rng);
                    return Err(DiskError(libc::EIO));
                }
                file.write(now, offset, bytes);
                if sync {
                    file.make_durable(offset, bytes.len());
                }
                return Ok(bytes.len() as u64);
            }
            Op::Sync { .. } => {
                let file = self.nodes.get_mut(&node).expect("open");
                if due(&mut self.fail_sync) {
                    self.failed_syncs += 1;
                    file.sync_failed(&mut self.rng);
                    return Err(DiskError(libc::EIO));
                }
                file.synced(began, len_then);
            }
            Op::SyncDir { path } => {
                if !self.names.is_dir(path) {
                    let is_file = self.names.find(path).is_ok();
                    return Err(DiskError(if is_file { libc::ENOTDIR } else { libc::ENOENT }));
                }
                if due(&mut self.fail_sync) {
                    return Err(DiskError(libc::EIO));
                }
                self.names.synced(began, path);
                self.forget_unreachable();
            }
            Op::Rename { from, to } => self.names.rename(now, from, to)?,
            Op::Remove { path } => self.names.unlink(now, path)?,
            Op::Allocate { bytes, .. } => {
                self.admit(node, *bytes as usize)?;
                self.nodes.get_mut(&node).expect("open").grow(*bytes as usize);
            }
            Op::MakeDir { path } => self.names.make_dir(now, path)?,
            Op::RemoveDir { path } => self.names.remove_dir(now, path)?,
            Op::List { path } => {
                let files = self.names.list(path)?.into_iter();
                names.extend(files.map(|(name, node)| (name, self.nodes[&node].data().len() as u64)));
                return Ok(names.len() as u64);
            }
            Op::ListDirs { path } => {
                names.extend(self.names.list_dirs(path)?.into_iter().map(|name| (name, 0)));
                return Ok(names.len() as u64);
            }
        }
        Ok(0)
    }

    fn open_file(&mut self, path: &str, mode: OpenMode) -> Result<u64, DiskError> {
        let node = match (self.names.find(path), mode) {
            (Ok(node), OpenMode::Create) => {
                self.nodes.get_mut(&node).expect("named").empty(self.completed);
                node
            }
            (Ok(node), OpenMode::Read | OpenMode::ReadWrite) => node,
            (Err(DiskError(libc::ENOENT)), OpenMode::Create | OpenMode::ReadWrite) => {
                self.names.link(self.completed, path, self.next_node)?;
                self.nodes.insert(self.next_node, SimFile::default());
                self.next_node += 1;
                self.next_node - 1
            }
            (Err(error), _) => return Err(error),
        };
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.open.insert(file, Handle { node, mode });
        Ok(u64::from(file.0))
    }

    /// What is left of an operation that a crash cut off.
    fn tear(&mut self, mut pending: Pending) {
        let Ok(handle) = pending.handle else { return };
        if let (Some(handle), Some(bytes)) = (handle, written_bytes(&pending.op)) {
            let (Op::Write { offset, .. } | Op::WriteChunk { offset, .. }) = pending.op else { return };
            if self.admit(handle.node, offset as usize + bytes.len()).is_err() {
                return;
            }
            let file = self.nodes.get_mut(&handle.node).expect("open");
            match self.rng.below(3) {
                0 => file.write(self.completed, offset as usize, bytes),
                1 => file.write_torn(self.completed, offset as usize, bytes, &mut self.rng),
                _ => {}
            }
            return;
        }
        let changes = matches!(
            pending.op,
            Op::Open { .. }
                | Op::Rename { .. }
                | Op::Remove { .. }
                | Op::Allocate { .. }
                | Op::MakeDir { .. }
                | Op::RemoveDir { .. }
        );
        if changes && self.rng.chance(1, 2) {
            let Pending { op, began, len, .. } = &mut pending;
            let _ = self.perform(op, handle, *began, *len, &mut Vec::new()); // nobody hears the answer
        }
    }

    /// Stored bytes from `offset`, as many as there are of `len`.
    fn stored(&self, node: Node, offset: u64, len: usize) -> Result<&[u8], DiskError> {
        let file = &self.nodes[&node];
        if file.unreadable {
            return Err(DiskError(libc::EIO));
        }
        let data = file.data();
        let start = data.len().min(offset as usize);
        Ok(&data[start..data.len().min(start + len)])
    }

    /// Whether the disk has room for the file to reach `end`.
    fn admit(&self, node: Node, end: usize) -> Result<(), DiskError> {
        let growth = end.saturating_sub(self.nodes[&node].data().len()) as u64;
        match self.bytes_max {
            Some(max) if growth > 0 && self.bytes() + growth > max => Err(DiskError(libc::ENOSPC)),
            _ => Ok(()),
        }
    }

    fn bytes(&self) -> u64 {
        self.nodes.values().map(|file| file.data().len() as u64).sum()
    }

    fn file_mut(&mut self, path: &str) -> &mut SimFile {
        let node = self.names.find(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        self.nodes.get_mut(&node).expect("named")
    }

    fn forget_unreachable(&mut self) {
        let mut reachable = self.names.reachable();
        reachable.extend(self.open.values().map(|handle| handle.node));
        self.nodes.retain(|node, _| reachable.contains(node));
    }

    /// The open file that an operation names, if it names one.
    fn handle_of(&mut self, op: &Op) -> Result<Option<Handle>, DiskError> {
        let (file, writes) = match op {
            Op::Read { file, .. } | Op::ReadChunk { file, .. } => (file, false),
            Op::Sync { file } | Op::Close { file } => (file, false),
            Op::Write { file, .. } | Op::WriteChunk { file, .. } | Op::Allocate { file, .. } => (file, true),
            _ => return Ok(None),
        };
        let handle = *self.open.get(file).ok_or(DiskError(libc::EBADF))?;
        if writes && handle.mode == OpenMode::Read {
            return Err(DiskError(libc::EBADF));
        }
        if let Op::Close { file } = op {
            let busy = self.in_flight.iter().any(|pending| file_of(&pending.op) == Some(*file));
            assert!(!busy, "a file is closed after its operations have completed");
            self.open.remove(file);
        }
        Ok(Some(handle))
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, tag: Tag, op: Op) {
        op.assert_sound();
        let handle = self.handle_of(&op);
        let node = handle.ok().flatten().and_then(|handle| self.nodes.get(&handle.node));
        let len = node.map_or(0, |file| file.data().len());
        self.in_flight.push(Pending { tag, op, handle, began: self.completed, len });
    }

    fn poll(&mut self, out: &mut Vec<Done>) {
        if self.in_flight.is_empty() || self.is_cut() {
            return; // an idle poll leaves the seed as it is
        }
        let most = self.in_flight.len() as u64;
        let least = u64::from(std::mem::take(&mut self.owed)).min(most);
        for _ in 0..self.rng.below(most + 1).max(least) {
            if self.is_cut() {
                break;
            }
            let pending = self.in_flight.swap_remove(self.rng.index(self.in_flight.len()));
            out.push(self.complete(pending));
        }
    }

    fn wait(&mut self) {
        self.owed = true;
    }
}

fn file_of(op: &Op) -> Option<FileId> {
    match op {
        Op::Read { file, .. }
        | Op::ReadChunk { file, .. }
        | Op::Write { file, .. }
        | Op::WriteChunk { file, .. }
        | Op::Sync { file }
        | Op::Allocate { file, .. } => Some(*file),
        _ => None,
    }
}

fn written_bytes(op: &Op) -> Option<&[u8]> {
    match op {
        Op::Write { buf, len, .. } => Some(&buf[..*len as usize]),
        Op::WriteChunk { chunk, start, len, .. } => {
            Some(chunk.bytes(*start as usize, *start as usize + *len as usize))
        }
        _ => None,
    }
}

/// Counts one event down to a fault that was asked for.
fn due(nth: &mut Option<u64>) -> bool {
    *nth = nth.map(|left| left - 1);
    let due = *nth == Some(0);
    if due {
        *nth = None;
    }
    due
}
