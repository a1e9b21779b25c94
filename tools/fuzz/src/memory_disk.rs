//! A disk of files in memory, for code that reads and writes whole files: no crashes, no timing.

use std::collections::BTreeMap;
use std::future::Future;

use runelog_engine::disk::{Disk, Done, Io, Op, OpenMode, Tag, io};
use runelog_engine::error::DiskError;

/// The disk and the [`Io`] on it.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    io: Io,
    files: Files,
}

#[derive(Default)]
struct Files {
    contents: BTreeMap<String, Vec<u8>>,
    open: BTreeMap<u32, String>,
    opened: u32,
    done: Vec<Done>,
}

impl MemoryDisk {
    /// One file on it.
    pub(crate) fn with(path: &str, bytes: &[u8]) -> MemoryDisk {
        let mut disk = MemoryDisk::default();
        disk.files.contents.insert(path.into(), bytes.to_vec());
        disk
    }

    /// Runs a future to its end.
    pub(crate) fn run<T, F: Future<Output = T>>(&mut self, future: impl FnOnce(Io) -> F) -> T {
        io::block_on(&self.io, &mut self.files, future(self.io.clone()))
    }

    /// What a file holds.
    pub(crate) fn contents(&self, path: &str) -> &[u8] {
        &self.files.contents[path]
    }
}

impl Files {
    fn perform(&mut self, op: &mut Op) -> Result<u64, DiskError> {
        let absent = DiskError(libc::ENOENT);
        Ok(match op {
            Op::Open { path, mode } => {
                match mode {
                    OpenMode::Create => drop(self.contents.insert(path.clone(), Vec::new())),
                    _ if self.contents.contains_key(path) => {}
                    _ => return Err(absent),
                }
                self.opened += 1;
                self.open.insert(self.opened, path.clone());
                self.opened.into()
            }
            Op::Close { file } => {
                self.open.remove(&file.0).expect("closed once");
                0
            }
            Op::Read { file, offset, buf } => {
                let bytes = &self.contents[&self.open[&file.0]];
                let from = bytes.get(usize::try_from(*offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
                let count = from.len().min(buf.len());
                buf[..count].copy_from_slice(&from[..count]);
                count as u64
            }
            Op::Write { file, offset, buf, len } => {
                let bytes = self.contents.get_mut(&self.open[&file.0]).expect("an open file");
                let (start, end) = (*offset as usize, *offset as usize + *len as usize);
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(&buf[..*len as usize]);
                u64::from(*len)
            }
            Op::Rename { from, to } => {
                let bytes = self.contents.remove(from).ok_or(absent)?;
                self.contents.insert(to.clone(), bytes);
                0
            }
            Op::Remove { path } => {
                self.contents.remove(path);
                0
            }
            Op::Sync { .. } | Op::SyncDir { .. } | Op::MakeDir { .. } | Op::List { .. } => 0,
            other => panic!("nothing here asks for {other:?}"),
        })
    }
}

impl Disk for Files {
    fn submit(&mut self, tag: Tag, mut op: Op) {
        let result = self.perform(&mut op);
        let mut names = Vec::new();
        if let Op::List { path } = &op {
            let below = format!("{path}/");
            let inside = self.contents.iter().filter_map(|(name, bytes)| {
                Some((name.strip_prefix(&below)?.to_owned(), bytes.len() as u64))
            });
            names = inside.collect();
        }
        let buf = match op {
            Op::Read { buf, .. } | Op::Write { buf, .. } => Some(buf),
            _ => None,
        };
        self.done.push(Done { tag, result, buf, names });
    }

    fn poll(&mut self, out: &mut Vec<Done>) {
        out.append(&mut self.done);
    }

    fn wait(&mut self) {}
}
