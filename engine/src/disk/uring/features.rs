//! What this kernel and file system offer, probed once at start-up, and said in words.

use super::super::ring::Ring;
use crate::mem::AlignedBuf;
use io_uring::{Probe, opcode};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Written and removed by the probe; the name is of no other use.
const PROBE_NAME: &str = ".runelog.probe";

/// How a disk may use its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Operations handed to the kernel at a time; more wait inside.
    pub in_flight_max: usize,
    /// Chunks that may be registered with the ring; 0 for none.
    pub buffer_slots: u16,
    /// Log files that may be registered with the ring; 0 for none.
    pub file_slots: u32,
    /// Whether to bypass the page cache where the file system can.
    pub o_direct: bool,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings { in_flight_max: 1024, buffer_slots: 1024, file_slots: 64, o_direct: true }
    }
}

/// What a disk uses, and why it does not use the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFeatures {
    /// Files bypass the page cache.
    pub o_direct: bool,
    /// Chunks that are registered now.
    pub registered_buffers: usize,
    /// Log files are registered.
    pub registered_files: bool,
    /// Space can be reserved (assumed until the file system says otherwise).
    pub fallocate: bool,
    pub(super) o_direct_refusal: Option<String>,
    pub(super) buffers_refusal: Option<String>,
    pub(super) files_refusal: Option<String>,
}

impl fmt::Display for DiskFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.o_direct_refusal {
            None => write!(f, "O_DIRECT")?,
            Some(why) => write!(f, "through the page cache (no O_DIRECT: {why})")?,
        }
        write!(f, ", {} chunks registered", self.registered_buffers)?;
        if let Some(why) = &self.buffers_refusal {
            write!(f, " (the others are written the plain way: {why})")?;
        }
        match &self.files_refusal {
            None => write!(f, ", log files registered")?,
            Some(why) => write!(f, ", log files not registered ({why})")?,
        }
        if !self.fallocate {
            write!(f, ", space reserved by writing zeros (no fallocate)")?;
        }
        Ok(())
    }
}

/// Asks whether files below `root` open and take a block with `O_DIRECT`. `Err` says why not.
pub(super) fn probe_o_direct(root: &Path) -> Result<(), String> {
    let path = root.join(PROBE_NAME);
    let file = OpenOptions::new().write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
    let result = match file {
        Ok(file) => match file.write_at(&AlignedBuf::zeroed(1), 0) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Err("the device wants more than 4 KiB alignment".to_owned())
            }
            _ => Ok(()), // a full disk says nothing about O_DIRECT
        },
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err("the file system refuses it".to_owned())
        }
        Err(error) => Err(format!("could not probe: {error}")),
    };
    let _ = fs::remove_file(&path); // absent where the probe could not create it
    result
}

/// Without these there is no fallback.
pub(super) fn require_opcodes(ring: &Ring) -> io::Result<()> {
    let needed = [
        ("OPENAT", opcode::OpenAt::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("RENAMEAT", opcode::RenameAt::CODE),
        ("UNLINKAT", opcode::UnlinkAt::CODE),
        ("MKDIRAT", opcode::MkDirAt::CODE),
    ];
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((name, _)) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("io_uring lacks {name} (kernel < 5.15)")))
        }
    }
}
