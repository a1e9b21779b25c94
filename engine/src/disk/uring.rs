//! The real disk, through `io_uring`. An operation becomes one ring entry or a short chain of them.
//! Lives here: the open files, the operations in flight, and what each does after a completion.
//! Not here: entries as the kernel reads them (`flight`), registered buffers and files (`tables`), what
//! the machine lacks (`features`), waiting (`own`).
//! Always true: memory the kernel may still touch is owned by the slab of operations in flight.
//! Nothing here blocks, with two documented exceptions at start-up: the probe and the lists ([`Op::List`], [`Op::ListDirs`]).

use super::ring::{Cqe, OWNER_DISK, OWNER_SHIFT, Ring};
use super::{Done, FileId, Op, OpenMode, Tag};
use crate::error::DiskError;
use crate::mem::{AlignedBuf, Chunk};
use ahash::AHashMap;
use flight::{Flight, Next, Step};
use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{fs, io};
use tables::{BufferTable, FileTable};

mod features;
mod flight;
mod own;
mod tables;
#[cfg(test)]
mod tests;

pub use features::{DiskFeatures, DiskSettings};
pub use own::OwnDisk;

/// Directories kept open for [`Op::SyncDir`]; one more and the cache starts anew.
const DIRS_CACHED_MAX: usize = 64;
/// Zeros written at a time where the file system cannot reserve space.
const ZEROS_BYTES: usize = 256 << 10;

/// The files below one directory, through a [`Ring`] that others use too.
pub struct UringDisk {
    root: OwnedFd,
    root_path: PathBuf,
    o_direct: Result<(), String>,
    fallocate: bool,
    buffers: BufferTable,
    file_slots: FileTable,
    files: Vec<Option<OpenFile>>,
    files_free: Vec<u32>,
    dirs: AHashMap<String, Rc<OwnedFd>>,
    flights: Vec<Option<Flight>>,
    flights_free: Vec<u32>,
    in_flight_max: usize,
    waiting: VecDeque<Flight>,
}

struct OpenFile {
    fd: OwnedFd,
    slot: Option<u32>,
    /// Operations accepted and not completed.
    busy: u32,
}

impl UringDisk {
    /// A disk over the existing directory `root`. Probes what the kernel and the file system can do
    /// and registers empty tables with the ring; only a kernel without the needed operations is an error.
    pub fn new(root: &Path, ring: &mut Ring, settings: DiskSettings) -> io::Result<UringDisk> {
        features::require_opcodes(ring)?;
        let root_fd = OwnedFd::from(fs::File::open(root)?);
        let o_direct = match settings.o_direct {
            true => features::probe_o_direct(root),
            false => Err("switched off".to_owned()),
        };
        Ok(UringDisk {
            root: root_fd,
            root_path: root.to_owned(),
            o_direct,
            fallocate: true,
            buffers: BufferTable::new(ring, settings.buffer_slots),
            file_slots: FileTable::new(ring, settings.file_slots),
            files: Vec::new(),
            files_free: Vec::new(),
            dirs: AHashMap::new(),
            flights: Vec::new(),
            flights_free: Vec::new(),
            in_flight_max: settings.in_flight_max.max(1),
            waiting: VecDeque::new(),
        })
    }

    /// Accepts an operation and queues its entry in the ring, or holds it back while too many are in
    /// flight. The caller enters the ring. Every answer, even an immediate one, comes as a completion.
    pub fn submit(&mut self, ring: &mut Ring, tag: Tag, op: Op) {
        op.assert_sound();
        let mut flight = Flight::new(tag, op);
        if let Err(error) = self.prepare(ring, &mut flight) {
            flight.step = Step::Answer(Err(error));
        }
        if self.flights.len() - self.flights_free.len() < self.in_flight_max {
            self.start(ring, flight);
        } else {
            self.waiting.push_back(flight);
        }
    }

    /// Takes a completion whose [`Cqe::owner`] is [`OWNER_DISK`]; an operation that ended goes to `out`.
    pub fn on_completion(&mut self, ring: &mut Ring, cqe: Cqe, out: &mut Vec<Done>) {
        assert_eq!(cqe.owner(), OWNER_DISK, "not a completion of the disk");
        let at = (cqe.user_data & u64::from(u32::MAX)) as usize;
        let mut flight = self.flights[at].take().expect("one completion for each entry");
        let result = match self.advance(ring, &mut flight, cqe.result) {
            Next::Again => return self.push(ring, at, flight),
            Next::Ended(result) => result,
        };
        self.flights_free.push(at as u32);
        if let Some(file) = flight.file {
            self.files[file.0 as usize].as_mut().expect("open while in use").busy -= 1;
        }
        out.push(flight.into_done(result));
        if let Some(next) = self.waiting.pop_front() {
            self.start(ring, next);
        }
    }

    /// Operations accepted and not completed, held back ones included.
    pub fn in_flight(&self) -> usize {
        self.flights.len() - self.flights_free.len() + self.waiting.len()
    }

    /// Lets the kernel pin the chunk, so that writing it costs no page lookup. `false` when that is not
    /// possible: such chunks are written the plain way. Call [`UringDisk::unregister_chunk`] before the
    /// chunk is dropped, or its memory stays pinned until the slot is used again.
    pub fn register_chunk(&mut self, ring: &Ring, chunk: &Chunk) -> bool {
        let index = self.buffers.register(ring, chunk);
        chunk.set_registered(index);
        index.is_some()
    }

    /// Unpins a chunk; writes of it that are in flight end as they began.
    pub fn unregister_chunk(&mut self, ring: &Ring, chunk: &Chunk) {
        self.buffers.unregister(ring, chunk);
        chunk.set_registered(None);
    }

    /// What is in use, and what falls back and why.
    pub fn features(&self) -> DiskFeatures {
        DiskFeatures {
            o_direct: self.o_direct.is_ok(),
            registered_buffers: self.buffers.used(),
            registered_files: self.file_slots.refusal().is_none(),
            fallocate: self.fallocate,
            o_direct_refusal: self.o_direct.clone().err(),
            buffers_refusal: self.buffers.refusal().map(str::to_owned),
            files_refusal: self.file_slots.refusal().map(str::to_owned),
        }
    }

    /// Resolves names and files of a new operation and chooses its first step.
    fn prepare(&mut self, ring: &Ring, flight: &mut Flight) -> Result<(), DiskError> {
        match &flight.op {
            Op::Open { path, .. } | Op::Remove { path } | Op::MakeDir { path } => {
                flight.path = Some(c_path(path)?);
            }
            Op::RemoveDir { path } => {
                self.dirs.remove(path);
                flight.path = Some(c_path(path)?);
            }
            Op::Rename { from, to } => {
                flight.path = Some(c_path(from)?);
                flight.to = Some(c_path(to)?);
            }
            Op::SyncDir { path } => match self.dirs.get(path) {
                Some(fd) => flight.step = Step::SyncDir(fd.clone()),
                None => {
                    flight.path = Some(c_path(path)?);
                    flight.step = Step::OpenDir;
                }
            },
            Op::List { path } | Op::ListDirs { path } => {
                let dirs = matches!(flight.op, Op::ListDirs { .. });
                let listed = list(&self.root_path.join(path), dirs);
                flight.step = Step::Answer(listed.map(|names| {
                    flight.names = names;
                    flight.names.len() as u64
                }));
            }
            Op::Close { file } => {
                let open = self.take_file(*file)?;
                if let Some(slot) = open.slot {
                    self.file_slots.release(ring, slot);
                }
                flight.step = Step::Close(Some(open.fd));
            }
            Op::Allocate { bytes: 0, .. } => flight.step = Step::Answer(Ok(0)),
            Op::Allocate { file, .. } => {
                let file = *file;
                self.use_file(file, flight)?;
                if !self.fallocate {
                    flight.step = self.first_zeros(file, &flight.op)?;
                }
            }
            Op::Read { file, .. }
            | Op::ReadChunk { file, .. }
            | Op::Write { file, .. }
            | Op::Sync { file } => {
                let file = *file;
                self.use_file(file, flight)?;
            }
            Op::WriteChunk { file, chunk, .. } => {
                flight.buffer = self.buffers.index_of(chunk);
                let file = *file;
                self.use_file(file, flight)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, ring: &mut Ring, flight: Flight) {
        let at = match self.flights_free.pop() {
            Some(at) => at as usize,
            None => {
                self.flights.push(None);
                self.flights.len() - 1
            }
        };
        self.push(ring, at, flight);
    }

    fn push(&mut self, ring: &mut Ring, at: usize, mut flight: Flight) {
        let flags = if self.o_direct.is_ok() { libc::O_DIRECT } else { 0 };
        let entry = flight.entry(self.root.as_raw_fd(), flags);
        let entry = entry.user_data(OWNER_DISK << OWNER_SHIFT | at as u64);
        self.flights[at] = Some(flight);
        // SAFETY: the entry points into heap memory (buffers, chunks, paths) and names descriptors
        // that the flight or the file table owns; the flight stays in the slab until its completion
        // was collected (`Drop` leaks it otherwise), and nobody looks into its buffers meanwhile.
        unsafe { ring.push(&entry) };
    }

    /// What follows from a completion of the flight's current entry.
    fn advance(&mut self, ring: &Ring, flight: &mut Flight, result: i32) -> Next {
        if flight.may_retry(result) {
            return Next::Again;
        }
        let result = if result < 0 { Err(DiskError(-result)) } else { Ok(result as u32) };
        match &mut flight.step {
            Step::Answer(answer) => return Next::Ended(*answer),
            Step::SyncDir(_) => return Next::Ended(result.map(|_| 0)),
            Step::Close(fd) => {
                let fd = fd.take().expect("closed once");
                let _ = fd.into_raw_fd(); // the kernel has closed it, whatever it answers
                return Next::Ended(result.map(|_| 0));
            }
            Step::OpenDir => return self.dir_opened(flight, result),
            Step::Zeros { at, end, .. } => {
                match result {
                    Ok(0) => return Next::Ended(Err(DiskError(libc::EIO))),
                    Ok(bytes) => *at += u64::from(bytes),
                    Err(error) => return Next::Ended(Err(error)),
                }
                return if *at < *end { Next::Again } else { Next::Ended(Ok(0)) };
            }
            Step::Whole => {}
        }
        match (&flight.op, result) {
            (Op::Allocate { file, .. }, Err(DiskError(libc::EOPNOTSUPP))) => {
                self.fallocate = false;
                match self.first_zeros(*file, &flight.op) {
                    Ok(step) => flight.step = step,
                    Err(error) => return Next::Ended(Err(error)),
                }
                Next::Again
            }
            (Op::Remove { .. } | Op::RemoveDir { .. }, Err(DiskError(libc::ENOENT)))
            | (Op::MakeDir { .. }, Err(DiskError(libc::EEXIST))) => Next::Ended(Ok(0)),
            (_, Err(error)) => Next::Ended(Err(error)),
            (Op::Open { mode, .. }, Ok(fd)) => {
                // SAFETY: the kernel has just opened this descriptor for us; nobody else owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                Next::Ended(Ok(self.add_file(ring, fd, *mode)))
            }
            (Op::Read { .. } | Op::ReadChunk { .. }, Ok(bytes)) => flight.have_read(bytes),
            (Op::Write { .. } | Op::WriteChunk { .. }, Ok(bytes)) => flight.have_written(bytes),
            (_, Ok(_)) => Next::Ended(Ok(0)),
        }
    }

    fn dir_opened(&mut self, flight: &mut Flight, result: Result<u32, DiskError>) -> Next {
        match result {
            Err(error) => Next::Ended(Err(error)),
            Ok(fd) => {
                // SAFETY: as for files.
                let fd = Rc::new(unsafe { OwnedFd::from_raw_fd(fd as i32) });
                if let Op::SyncDir { path } = &flight.op {
                    if self.dirs.len() >= DIRS_CACHED_MAX {
                        self.dirs.clear(); // flights that use one hold it open
                    }
                    self.dirs.insert(path.clone(), fd.clone());
                }
                flight.step = Step::SyncDir(fd);
                Next::Again
            }
        }
    }

    /// The step that extends a file by zeros where space cannot be reserved.
    fn first_zeros(&self, file: FileId, op: &Op) -> Result<Step, DiskError> {
        let Op::Allocate { bytes, .. } = op else { unreachable!("asked for allocations only") };
        let open = self.files[file.0 as usize].as_ref().expect("in use");
        let metadata = fs::File::from(open.fd.try_clone().map_err(disk_error)?).metadata();
        let at = metadata.map_err(disk_error)?.len().next_multiple_of(crate::limits::BLOCK_BYTES as u64);
        Ok(match at >= *bytes {
            true => Step::Answer(Ok(0)),
            false => Step::Zeros { at, end: *bytes, zeros: AlignedBuf::zeroed(ZEROS_BYTES) },
        })
    }

    fn add_file(&mut self, ring: &Ring, fd: OwnedFd, mode: OpenMode) -> u64 {
        // Only files of the log are written often enough to be worth a slot.
        let slot = match mode {
            OpenMode::ReadWrite => self.file_slots.assign(ring, fd.as_raw_fd()),
            OpenMode::Read | OpenMode::Create => None,
        };
        let file = Some(OpenFile { fd, slot, busy: 0 });
        match self.files_free.pop() {
            Some(at) => {
                self.files[at as usize] = file;
                u64::from(at)
            }
            None => {
                self.files.push(file);
                self.files.len() as u64 - 1
            }
        }
    }

    fn take_file(&mut self, file: FileId) -> Result<OpenFile, DiskError> {
        let place = self.files.get_mut(file.0 as usize).ok_or(DiskError(libc::EBADF))?;
        let open = place.take().ok_or(DiskError(libc::EBADF))?;
        assert_eq!(open.busy, 0, "a file is closed after its operations have completed");
        self.files_free.push(file.0);
        Ok(open)
    }

    fn use_file(&mut self, file: FileId, flight: &mut Flight) -> Result<(), DiskError> {
        let open = self.files.get_mut(file.0 as usize).and_then(Option::as_mut);
        let open = open.ok_or(DiskError(libc::EBADF))?;
        open.busy += 1;
        flight.file = Some(file);
        flight.target = match open.slot {
            Some(slot) => flight::Target::Slot(slot),
            None => flight::Target::Fd(open.fd.as_raw_fd()),
        };
        Ok(())
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        // The kernel may still write into these buffers: memory lost is better than memory corrupted.
        for flight in self.flights.drain(..).flatten() {
            std::mem::forget(flight);
        }
    }
}

/// A path for the kernel; the empty one is the root.
fn c_path(path: &str) -> Result<CString, DiskError> {
    assert!(!path.starts_with('/'), "paths are relative to the data directory: {path}");
    let path = if path.is_empty() { "." } else { path };
    CString::new(path).map_err(|_| DiskError(libc::EINVAL))
}

/// The files of a directory, or the directories in it; names that are not UTF-8 are none of ours.
fn list(path: &Path, dirs: bool) -> Result<Vec<(String, u64)>, DiskError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(disk_error)? {
        let entry = entry.map_err(disk_error)?;
        let metadata = entry.metadata().map_err(disk_error)?;
        let wanted = if dirs { metadata.is_dir() } else { metadata.is_file() };
        if let (true, Ok(name)) = (wanted, entry.file_name().into_string()) {
            names.push((name, if dirs { 0 } else { metadata.len() }));
        }
    }
    Ok(names)
}

fn disk_error(error: io::Error) -> DiskError {
    DiskError(error.raw_os_error().unwrap_or(libc::EIO))
}
