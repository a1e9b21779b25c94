//! A disk with a ring of its own, for start-up, tools and tests: the only place that waits.

use super::super::ring::{OWNER_DISK, Ring};
use super::super::{Disk, Done, Op, Tag};
use super::{DiskFeatures, DiskSettings, UringDisk};
use crate::mem::Chunk;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Ring entries; more operations are submitted in several calls.
const RING_ENTRIES: u32 = 128;
/// One wait in the kernel; waits are repeated, this only bounds what a lost wake-up would cost.
const WAIT: Duration = Duration::from_millis(100);
/// Waits until a dropped disk leaves its operations (and their memory) to the kernel.
const DROP_WAITS_MAX: u32 = 50;

/// A [`UringDisk`] and its ring.
pub struct OwnDisk {
    disk: UringDisk,
    ring: Ring,
    ready: Vec<Done>,
}

impl OwnDisk {
    /// A disk over the existing directory `root`.
    pub fn new(root: &Path, settings: DiskSettings) -> io::Result<OwnDisk> {
        let mut ring = Ring::new(RING_ENTRIES)?;
        let disk = UringDisk::new(root, &mut ring, settings)?;
        Ok(OwnDisk { disk, ring, ready: Vec::new() })
    }

    /// See [`UringDisk::register_chunk`].
    pub fn register_chunk(&mut self, chunk: &Chunk) -> bool {
        self.disk.register_chunk(&self.ring, chunk)
    }

    /// See [`UringDisk::unregister_chunk`].
    pub fn unregister_chunk(&mut self, chunk: &Chunk) {
        self.disk.unregister_chunk(&self.ring, chunk);
    }

    /// See [`UringDisk::features`].
    pub fn features(&self) -> DiskFeatures {
        self.disk.features()
    }

    /// Operations accepted and not completed.
    pub fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }

    #[cfg(test)]
    pub(super) fn force_fallocate(&mut self, works: bool) {
        self.disk.fallocate = works;
    }

    fn collect(&mut self) {
        while let Some(cqe) = self.ring.next_completion() {
            assert_eq!(cqe.owner(), OWNER_DISK, "nobody else uses this ring");
            self.disk.on_completion(&mut self.ring, cqe, &mut self.ready);
        }
    }
}

impl Disk for OwnDisk {
    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.submit(&mut self.ring, tag, op);
    }

    fn poll(&mut self, out: &mut Vec<Done>) {
        self.ring.enter(None);
        self.collect();
        out.append(&mut self.ready);
    }

    fn wait(&mut self) {
        while self.ready.is_empty() && self.disk.in_flight() > 0 {
            self.ring.enter(Some(WAIT));
            self.collect();
        }
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        for _ in 0..DROP_WAITS_MAX {
            if self.disk.in_flight() == 0 {
                break;
            }
            self.ring.enter(Some(WAIT));
            self.collect();
        }
    }
}
