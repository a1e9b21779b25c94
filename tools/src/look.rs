//! A disk that cannot write: the engine's own readers, and its recovery, run on it, so that looking at a
//! data directory never changes it, whoever else uses it meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use runelog_engine::disk::read_only::ReadOnly;
use runelog_engine::disk::{Disk, Done, FileId, Op, OpenMode, Tag};
use runelog_engine::error::DiskError;

/// The files below `root`, to look at.
pub(crate) fn files_below(root: PathBuf) -> ReadOnly<StdDisk> {
    ReadOnly::new(StdDisk { root, files: Vec::new(), free: Vec::new(), done: Vec::new() })
}

/// Files read through `std`: no ring is needed, and no locked memory.
pub(crate) struct StdDisk {
    root: PathBuf,
    files: Vec<Option<File>>,
    /// Places among the files that can be used again.
    free: Vec<u32>,
    done: Vec<Done>,
}

impl StdDisk {
    fn perform(&mut self, op: &mut Op, names: &mut Vec<(String, u64)>) -> std::io::Result<u64> {
        match op {
            Op::Open { path, mode: OpenMode::Read } => {
                let file = Some(File::open(self.root.join(path))?);
                let at = self.free.pop().unwrap_or(self.files.len() as u32);
                match self.files.get_mut(at as usize) {
                    Some(place) => *place = file,
                    None => self.files.push(file),
                }
                Ok(u64::from(at))
            }
            Op::Close { file } => {
                self.files[file.0 as usize] = None;
                self.free.push(file.0);
                Ok(0)
            }
            Op::Read { file, offset, buf } => Ok(fill(self.file(*file), buf, *offset)? as u64),
            Op::ReadChunk { file, offset, chunk, len } => {
                let mut bytes = vec![0; *len as usize];
                let filled = fill(self.file(*file), &mut bytes, *offset)?;
                chunk.write(0, &bytes[..filled]);
                Ok(filled as u64)
            }
            Op::List { path } | Op::ListDirs { path } => {
                let path = self.root.join(path);
                let dirs = matches!(op, Op::ListDirs { .. });
                for entry in fs::read_dir(path)? {
                    let entry = entry?;
                    // What is removed while we look was not there.
                    let Ok(metadata) = entry.metadata() else { continue };
                    let wanted = if dirs { metadata.is_dir() } else { metadata.is_file() };
                    if let (true, Ok(name)) = (wanted, entry.file_name().into_string()) {
                        names.push((name, metadata.len()));
                    }
                }
                Ok(names.len() as u64)
            }
            _ => Err(std::io::Error::from_raw_os_error(libc::EROFS)),
        }
    }

    fn file(&self, file: FileId) -> &File {
        self.files[file.0 as usize].as_ref().expect("an open file")
    }
}

/// Reads until `buf` is full or the file ends.
fn fill(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64)? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    Ok(filled)
}

impl Disk for StdDisk {
    fn submit(&mut self, tag: Tag, mut op: Op) {
        let mut names = Vec::new();
        let result = self.perform(&mut op, &mut names);
        let result = result.map_err(|error| DiskError(error.raw_os_error().unwrap_or(libc::EIO)));
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
