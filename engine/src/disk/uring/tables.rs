//! Buffers and files registered with the ring. Both are optional: without them the same operations go
//! the plain way, a little slower. The first refusal is kept, in words, for the start-up log line.

use super::super::ring::Ring;
use crate::limits::CHUNK_BYTES;
use crate::mem::Chunk;
use std::io;
use std::os::fd::RawFd;

/// Chunks whose pages the kernel keeps pinned.
pub(super) struct BufferTable {
    /// Address of the chunk in each slot; 0 is free.
    owners: Vec<usize>,
    refusal: Option<String>,
    /// The kernel refused one; asking again costs a call and changes nothing until one is given back.
    full: bool,
}

impl BufferTable {
    pub(super) fn new(ring: &Ring, slots: u16) -> BufferTable {
        let mut table = BufferTable { owners: vec![0; slots.into()], refusal: None, full: false };
        let result = match slots {
            0 => Err("switched off".to_owned()),
            _ => ring.submitter().register_buffers_sparse(slots.into()).map_err(|e| no_table(&e)),
        };
        if let Err(refusal) = result {
            (table.owners, table.refusal) = (Vec::new(), Some(refusal));
        }
        table
    }

    pub(super) fn register(&mut self, ring: &Ring, chunk: &Chunk) -> Option<u16> {
        let address = chunk.as_ptr() as usize;
        // A chunk that was dropped without notice may have had this address: its slot pins old pages.
        let stale = self.owners.iter().position(|&owner| owner == address);
        let at = stale.or_else(|| self.owners.iter().position(|&owner| owner == 0))?;
        if self.full && stale.is_none() {
            return None;
        }
        match update(ring, at, chunk.as_ptr(), CHUNK_BYTES) {
            Ok(()) => {
                self.owners[at] = address;
                Some(at as u16)
            }
            Err(error) => {
                self.owners[at] = 0;
                self.full = true;
                let pinned = self.used();
                self.refusal = Some(match error.raw_os_error() {
                    Some(libc::ENOMEM) => format!("memlock limit reached after {pinned} chunks"),
                    _ => format!("the kernel refused after {pinned} chunks: {error}"),
                });
                None
            }
        }
    }

    pub(super) fn unregister(&mut self, ring: &Ring, chunk: &Chunk) {
        if let Some(at) = self.index_of(chunk) {
            // Should it fail, the pages stay pinned until the ring closes; nothing else is lost.
            let _ = update(ring, at.into(), std::ptr::null(), 0);
            self.owners[usize::from(at)] = 0;
            self.full = false;
        }
    }

    /// The chunk's slot in this very ring (it may have been registered with another).
    pub(super) fn index_of(&self, chunk: &Chunk) -> Option<u16> {
        let index = chunk.registered()?;
        (self.owners.get(usize::from(index)) == Some(&(chunk.as_ptr() as usize))).then_some(index)
    }

    pub(super) fn used(&self) -> usize {
        self.owners.iter().filter(|&&owner| owner != 0).count()
    }

    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

fn update(ring: &Ring, at: usize, address: *const u8, bytes: usize) -> io::Result<()> {
    let buffer = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: bytes };
    // SAFETY: the chunk is alive during the call. Later the kernel holds the pages themselves, not the
    // address, and an entry names the slot only while the chunk it was made for is alive (`index_of`).
    unsafe { ring.submitter().register_buffers_update(at as u32, &[buffer], None) }
}

/// Slots for files that are used often.
pub(super) struct FileTable {
    free: Vec<u32>,
    refusal: Option<String>,
}

impl FileTable {
    pub(super) fn new(ring: &Ring, slots: u32) -> FileTable {
        let result = match slots {
            0 => Err("switched off".to_owned()),
            _ => ring.submitter().register_files_sparse(slots).map_err(|e| no_table(&e)),
        };
        match result {
            Ok(()) => FileTable { free: (0..slots).rev().collect(), refusal: None },
            Err(refusal) => FileTable { free: Vec::new(), refusal: Some(refusal) },
        }
    }

    pub(super) fn assign(&mut self, ring: &Ring, fd: RawFd) -> Option<u32> {
        let slot = self.free.pop()?;
        match ring.submitter().register_files_update(slot, &[fd]) {
            Ok(_) => Some(slot),
            Err(error) => {
                self.refusal = Some(format!("the kernel refused a file: {error}"));
                self.free.push(slot);
                None
            }
        }
    }

    pub(super) fn release(&mut self, ring: &Ring, slot: u32) {
        // A slot that cannot be emptied is not used again; its file stays open until the ring closes.
        if ring.submitter().register_files_update(slot, &[-1]).is_ok() {
            self.free.push(slot);
        }
    }

    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

fn no_table(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => "the kernel is too old for sparse tables".to_owned(),
        Some(libc::EBUSY) => "the ring has a table already".to_owned(),
        _ => format!("the kernel refused the table: {error}"),
    }
}
