//! A disk that cannot write: the engine's own readers run on it, so that looking at a data directory
//! never changes it, whoever else uses it meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use runelog_engine::disk::{Disk, Done, FileId, Op, OpenMode, Tag};
use runelog_engine::error::DiskError;

/// The files below a directory, read through `std`.
pub(super) struct ReadOnlyDisk {
    root: PathBuf,
    files: Vec<Option<File>>,
    done: Vec<Done>,
}

impl ReadOnlyDisk {
    pub(super) fn new(root: PathBuf) -> ReadOnlyDisk {
        ReadOnlyDisk { root, files: Vec::new(), done: Vec::new() }
    }

    fn perform(&mut self, op: &mut Op, names: &mut Vec<(String, u64)>) -> std::io::Result<u64> {
        match op {
            Op::Open { path, mode: OpenMode::Read } => {
                self.files.push(Some(File::open(self.root.join(path))?));
                Ok(self.files.len() as u64 - 1)
            }
            Op::Close { file } => {
                self.files[file.0 as usize] = None;
                Ok(0)
            }
            Op::Read { file, offset, buf } => {
                let file = self.file(*file);
                let mut filled = 0;
                while filled < buf.len() {
                    match file.read_at(&mut buf[filled..], *offset + filled as u64)? {
                        0 => break,
                        bytes => filled += bytes,
                    }
                }
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

impl Disk for ReadOnlyDisk {
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
