//! Memory that the kernel may read and write while we hold it: aligned buffers and log chunks.
//! One of the few modules with unsafe code; each block says why it holds.

use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;

/// A zeroed heap buffer aligned to [`BLOCK_BYTES`], as `O_DIRECT` wants it. Owned by one side at a
/// time: whoever submits a disk operation gives it away and gets it back with the completion.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is plain memory with a single owner.
unsafe impl Send for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes, rounded up to a whole number of blocks (at least one).
    pub fn zeroed(len: usize) -> AlignedBuf {
        let len = len.max(1).next_multiple_of(BLOCK_BYTES);
        AlignedBuf { ptr: allocate(len), len }
    }

    /// Address for the kernel.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// Address for the kernel to fill.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is `len` initialised (zeroed) bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated by `allocate` with this very layout, and freed once.
        unsafe { dealloc(self.ptr.as_ptr(), layout(self.len)) }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

fn layout(len: usize) -> Layout {
    Layout::from_size_align(len, BLOCK_BYTES).expect("a sane length")
}

fn allocate(len: usize) -> NonNull<u8> {
    // SAFETY: `len` is above zero (callers round up).
    let raw = unsafe { alloc_zeroed(layout(len)) };
    NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout(len)))
}

/// The memory of a [`Chunk`] on its way to the core that will own it. No part of it is there before it is touched,
/// which takes the kernel a while: it clears a huge page as a whole, and below a hypervisor the host may have to
/// find the memory first.
pub struct ChunkPages(NonNull<u8>);

// SAFETY: plain memory with a single owner.
unsafe impl Send for ChunkPages {}

impl ChunkPages {
    /// [`CHUNK_BYTES`] of zeros.
    pub fn zeroed() -> ChunkPages {
        // Newer kernels align a mapping of this size by themselves, next to the one before, so that many of them are
        // one area to the kernel, which counts areas.
        let mapped = map_anonymous(CHUNK_BYTES);
        let before = mapped.align_offset(CHUNK_BYTES);
        let chunk = if before == 0 { mapped } else { realign(mapped) };
        ChunkPages(NonNull::new(chunk).expect("never at 0"))
    }

    /// The same, with its memory there, as one huge page where the system has them.
    pub fn touched() -> ChunkPages {
        let pages = ChunkPages::zeroed();
        // SAFETY: advice on a mapping of ours. A refusal leaves small pages, which do as well.
        unsafe { libc::madvise(pages.0.as_ptr().cast(), CHUNK_BYTES, libc::MADV_HUGEPAGE) };
        for at in (0..CHUNK_BYTES).step_by(BLOCK_BYTES) {
            // SAFETY: inside the mapping, which nobody else knows. Volatile: the zero that is there already counts.
            unsafe { pages.0.as_ptr().add(at).write_volatile(0) };
        }
        pages
    }
}

fn map_anonymous(bytes: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping; nothing is replaced.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        handle_alloc_error(layout(bytes));
    }
    mapped.cast()
}

/// Another mapping of a chunk's size instead of that one, aligned to it: out of the middle of a larger one.
fn realign(mapped: *mut u8) -> *mut u8 {
    // SAFETY: mapped with this size just before, and nobody else knows it.
    unsafe { libc::munmap(mapped.cast(), CHUNK_BYTES) };
    let mapped = map_anonymous(2 * CHUNK_BYTES);
    let before = mapped.align_offset(CHUNK_BYTES);
    // SAFETY: all inside the mapping, which is twice as large as the chunk.
    unsafe {
        let chunk = mapped.add(before);
        if before > 0 {
            libc::munmap(mapped.cast(), before);
        }
        libc::munmap(chunk.add(CHUNK_BYTES).cast(), CHUNK_BYTES - before);
        chunk
    }
}

impl Drop for ChunkPages {
    fn drop(&mut self) {
        // SAFETY: mapped by `zeroed`, unmapped once.
        unsafe { libc::munmap(self.0.as_ptr().cast(), CHUNK_BYTES) };
    }
}

/// One chunk of the log in memory, a mirror of the same bytes in the log file.
///
/// Bytes are written once, front to back, by the log writer, and frozen entry by entry; readers (and
/// the kernel) look only at bytes below that mark. So shared reads never meet a write. `Rc`: a chunk
/// never leaves its core.
#[derive(Clone)]
pub struct Chunk(Rc<ChunkMem>);

struct ChunkMem {
    pages: ChunkPages,
    /// Bytes below this may be read; the writer may touch only what is above.
    frozen: Cell<u32>,
    /// Index among the ring's registered buffers, if it has one.
    registered: Cell<Option<u16>>,
}

impl Chunk {
    /// A zeroed chunk of [`CHUNK_BYTES`].
    pub fn zeroed() -> Chunk {
        Chunk::of(ChunkPages::zeroed())
    }

    /// A chunk in memory that was made elsewhere.
    pub fn of(pages: ChunkPages) -> Chunk {
        Chunk(Rc::new(ChunkMem { pages, frozen: Cell::new(0), registered: Cell::new(None) }))
    }

    /// Whether this handle is the only one: nobody reads the chunk any more.
    pub fn is_unshared(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }

    /// Makes a chunk that nobody reads any more writable from its front again. Old bytes stay.
    pub fn reset(&mut self) {
        assert!(self.is_unshared(), "a chunk is reused only when nobody reads it");
        self.0.frozen.set(0);
    }

    /// Index among the ring's registered buffers.
    pub fn registered(&self) -> Option<u16> {
        self.0.registered.get()
    }

    /// Remembers the index under which the chunk was registered with the ring.
    pub fn set_registered(&self, index: Option<u16>) {
        self.0.registered.set(index);
    }

    fn start(&self) -> *mut u8 {
        self.0.pages.0.as_ptr()
    }

    /// Address of the chunk's first byte, for registration and submission.
    pub fn as_ptr(&self) -> *const u8 {
        self.start()
    }

    /// Bytes that may be read.
    pub fn frozen(&self) -> usize {
        self.0.frozen.get() as usize
    }

    /// Frozen bytes `start..end`.
    pub fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(start <= end && end <= self.frozen(), "{start}..{end} of {} frozen", self.frozen());
        // SAFETY: inside the allocation (frozen ≤ CHUNK_BYTES); bytes below the mark are never
        // written again while a handle other than the writer's lives (`reset` asserts that).
        unsafe { std::slice::from_raw_parts(self.start().add(start), end - start) }
    }

    /// Copies `bytes` to `at`, which must lie above the frozen mark and inside the chunk.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at >= self.frozen() && at + bytes.len() <= CHUNK_BYTES);
        // SAFETY: the range is inside the allocation and above the mark, so no `&[u8]` from
        // `bytes` covers it; source and target are different allocations.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start().add(at), bytes.len());
        }
    }

    /// Zeroes `start..end`, above the frozen mark.
    pub fn zero(&self, start: usize, end: usize) {
        assert!(start >= self.frozen() && start <= end && end <= CHUNK_BYTES);
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(self.start().add(start), 0, end - start) }
    }

    /// Writes the header of a block that is about to be sent, for which room was left below the frozen mark when
    /// the block was opened. Once, before the kernel reads it; readers keep slices of entries only, which never
    /// cover a block header.
    pub fn patch_header(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= CHUNK_BYTES);
        // SAFETY: inside the allocation; no slice covers the range (above), and the chunk is used by
        // one thread.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start().add(at), bytes.len());
        }
    }

    /// Everything below `end` is final from now on.
    pub fn freeze(&self, end: usize) {
        assert!(end >= self.frozen() && end <= CHUNK_BYTES);
        self.0.frozen.set(end as u32);
    }

    /// The whole chunk as a target for a read from disk, at recovery. Nothing may be frozen yet.
    pub fn as_mut_ptr_for_fill(&self) -> *mut u8 {
        assert_eq!(self.frozen(), 0, "a chunk is filled before anybody reads it");
        self.start()
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} frozen)", self.frozen())
    }
}
