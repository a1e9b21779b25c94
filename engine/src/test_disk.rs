//! A disk in memory for the tests of modules above it: no crashes, no timing, but it is strict about
//! alignment and use of files, keeps a list of what was asked, and can fail one chosen operation.

use crate::disk::{Disk, Done, FileId, Io, Op, OpenMode, Tag, io};
use crate::error::DiskError;
use crate::limits::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::future::Future;

/// The disk, its files, and the [`Io`] on it.
#[derive(Default)]
pub(crate) struct TestDisk {
    pub(crate) io: Io,
    pub(crate) mem: Mem,
}

#[derive(Default)]
pub(crate) struct Mem {
    /// Contents by path.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Operations so far, as `verb path`.
    pub(crate) asked: Vec<String>,
    /// The operation of this number fails with `EIO`.
    pub(crate) fail_at: Option<usize>,
    open: BTreeMap<u32, String>,
    next_file: u32,
    done: Vec<Done>,
}

impl TestDisk {
    /// Runs a future to its end.
    pub(crate) fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        io::block_on(&self.io.clone(), &mut self.mem, future)
    }

    /// Opens a file for reading.
    pub(crate) fn open(&mut self, path: &str) -> FileId {
        let io = self.io.clone();
        self.run(io.open(path, OpenMode::Read)).unwrap()
    }
}

impl Mem {
    /// Files that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    fn perform(&mut self, op: &mut Op) -> Result<u64, DiskError> {
        let asked = match op {
            Op::Open { path, .. } => format!("open {path}"),
            Op::Close { file } => format!("close {}", self.open[&file.0]),
            Op::Read { file, .. } => format!("read {}", self.open[&file.0]),
            Op::Write { file, .. } => format!("write {}", self.open[&file.0]),
            Op::Sync { file } => format!("sync {}", self.open[&file.0]),
            Op::SyncDir { path } => format!("syncdir {path}"),
            Op::Rename { to, .. } => format!("rename {to}"),
            Op::Remove { path } => format!("remove {path}"),
            Op::List { path } => format!("list {path}"),
            other => panic!("not needed here: {other:?}"),
        };
        self.asked.push(asked);
        // A close always frees the number, as the real one does.
        if self.fail_at == Some(self.asked.len() - 1) && !matches!(op, Op::Close { .. }) {
            return Err(DiskError(libc::EIO));
        }
        let aligned = |offset: u64, len: usize| {
            assert!(offset.is_multiple_of(BLOCK_BYTES as u64) && len.is_multiple_of(BLOCK_BYTES));
        };
        match op {
            Op::Open { path, mode } => {
                match mode {
                    OpenMode::Create => drop(self.files.insert(path.clone(), Vec::new())),
                    _ if self.files.contains_key(path) => {}
                    _ => return Err(DiskError(libc::ENOENT)),
                }
                self.next_file += 1;
                self.open.insert(self.next_file, path.clone());
                Ok(u64::from(self.next_file))
            }
            Op::Close { file } => {
                self.open.remove(&file.0).expect("closed once");
                Ok(0)
            }
            Op::Read { file, offset, buf } => {
                aligned(*offset, buf.len());
                let bytes = &self.files[&self.open[&file.0]];
                let rest = bytes.get(*offset as usize..).unwrap_or(&[]);
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len as u64)
            }
            Op::Write { file, offset, buf, len } => {
                aligned(*offset, *len as usize);
                let bytes = self.files.get_mut(&self.open[&file.0]).expect("an open file");
                let end = *offset as usize + *len as usize;
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset as usize..end].copy_from_slice(&buf[..*len as usize]);
                Ok(u64::from(*len))
            }
            Op::Rename { from, to } => {
                let bytes = self.files.remove(from).ok_or(DiskError(libc::ENOENT))?;
                self.files.insert(to.clone(), bytes);
                Ok(0)
            }
            Op::Remove { path } => {
                self.files.remove(path);
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}

impl Disk for Mem {
    fn submit(&mut self, tag: Tag, mut op: Op) {
        let result = self.perform(&mut op);
        let mut names = Vec::new();
        if let Op::List { path } = &op {
            let below = format!("{path}/");
            let inside = |(path, bytes): (&String, &Vec<u8>)| {
                Some((path.strip_prefix(&below)?.to_owned(), bytes.len() as u64))
            };
            names = self.files.iter().filter_map(inside).collect();
        }
        let buf = match op {
            Op::Read { buf, .. } | Op::Write { buf, .. } => Some(buf),
            _ => None,
        };
        self.done.push(Done { tag, result, buf, names });
    }

    fn poll(&mut self, out: &mut Vec<Done>) {
        // Last come, first served: nobody may rely on an order.
        out.extend(self.done.drain(..).rev());
    }

    fn wait(&mut self) {}
}

/// A small generator of numbers (xorshift) for model tests.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
