//! Writing a checkpoint: frames of bounded size, then the trailer, then the rename that makes it one.

use super::format::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Totals, encode_edit, encode_head,
};
use super::{CheckpointError, CheckpointHead, Edit, file_name};
use crate::aside::AsideFile;
use crate::disk::Io;
use crate::error::DiskError;
use crate::sabotage::{self, Bug};
use crc32c::crc32c;
use std::borrow::Borrow;

/// A checkpoint being written. Must end in [`CheckpointWriter::finish`] or
/// [`CheckpointWriter::abandon`].
pub struct CheckpointWriter {
    io: Io,
    dir: String,
    number: u64,
    out: AsideFile,
    totals: Totals,
    /// Body of the frame being filled.
    frame: Vec<u8>,
    /// The pieces of one edit, back to back, and the length of each.
    pieces: Vec<u8>,
    piece_bytes: Vec<usize>,
    scratch: Vec<u8>,
}

impl CheckpointWriter {
    /// Starts `<dir>/ckpt-<number>.new`.
    pub async fn create(
        io: &Io,
        dir: &str,
        head: &CheckpointHead,
    ) -> Result<CheckpointWriter, CheckpointError> {
        assert!(head.base.is_none_or(|base| base < head.number), "a delta builds on an earlier checkpoint");
        let path = format!("{dir}/{}", file_name(head.number));
        let failed = |error| CheckpointError::Disk { path: path.clone(), error };
        let out = AsideFile::create(io, path.clone()).await.map_err(failed)?;
        let mut writer = CheckpointWriter {
            io: io.clone(),
            dir: dir.to_owned(),
            number: head.number,
            out,
            totals: Totals::default(),
            frame: encode_head(head),
            pieces: Vec::new(),
            piece_bytes: Vec::new(),
            scratch: Vec::new(),
        };
        match writer.put_frame(FrameKind::Head).await {
            Ok(()) => Ok(writer),
            Err(error) => {
                writer.abandon().await;
                Err(failed(error))
            }
        }
    }

    /// Adds an edit; it holds after those before.
    pub async fn push(&mut self, edit: &Edit) -> Result<(), CheckpointError> {
        let (pieces, piece_bytes) = (&mut self.pieces, &mut self.piece_bytes);
        pieces.clear();
        piece_bytes.clear();
        encode_edit(edit, &mut self.scratch, |piece| {
            pieces.extend_from_slice(piece);
            piece_bytes.push(piece.len());
        });
        let mut at = 0;
        for index in 0..self.piece_bytes.len() {
            let bytes = self.piece_bytes[index];
            if self.frame.len() + bytes > FRAME_BODY_BYTES_MAX {
                self.put_frame(FrameKind::Edits).await.map_err(|error| self.failed(error))?;
            }
            self.frame.extend_from_slice(&self.pieces[at..at + bytes]);
            self.totals.pieces += 1;
            at += bytes;
            self.out.effort.spend(bytes).await;
        }
        Ok(())
    }

    /// Writes what is left and the trailer; syncs, renames, syncs the directory. Returns the bytes of
    /// the file. Only after this may anything be removed that the checkpoint replaces.
    pub async fn finish(mut self) -> Result<u64, CheckpointError> {
        if let Err(error) = self.put_end().await {
            let failed = self.failed(error);
            self.abandon().await;
            return Err(failed);
        }
        let CheckpointWriter { io, dir, number, out, .. } = self;
        let failed = |error| CheckpointError::Disk { path: format!("{dir}/{}", file_name(number)), error };
        let bytes = out.finish(None).await.map_err(failed)?;
        if !sabotage::is(Bug::CheckpointNameUnsynced) {
            io.sync_dir(&dir).await.map_err(failed)?;
        }
        Ok(bytes)
    }

    /// Gives the checkpoint up and removes its file.
    pub async fn abandon(self) {
        self.out.abandon().await;
    }

    fn failed(&self, error: DiskError) -> CheckpointError {
        CheckpointError::Disk { path: format!("{}/{}", self.dir, file_name(self.number)), error }
    }

    async fn put_end(&mut self) -> Result<(), DiskError> {
        if !self.frame.is_empty() {
            self.put_frame(FrameKind::Edits).await?;
        }
        self.frame.extend_from_slice(&self.totals.encode());
        self.put_frame(FrameKind::Trailer).await?;
        self.out.pad().await
    }

    async fn put_frame(&mut self, kind: FrameKind) -> Result<(), DiskError> {
        let header: [u8; FRAME_HEADER_BYTES] = FrameHeader {
            kind,
            body_bytes: self.frame.len() as u32,
            index: self.totals.frames,
            number: self.number,
            body_crc: crc32c(&self.frame),
        }
        .encode();
        self.totals.add(&header, self.frame.len());
        self.out.put(&header).await?;
        self.out.put(&self.frame).await?;
        self.frame.clear();
        Ok(())
    }
}

/// Writes a whole checkpoint; see [`CheckpointWriter`]. Edits may be made while it is written.
pub async fn write_checkpoint<E: Borrow<Edit>>(
    io: &Io,
    dir: &str,
    head: &CheckpointHead,
    edits: impl IntoIterator<Item = E>,
) -> Result<u64, CheckpointError> {
    let mut writer = CheckpointWriter::create(io, dir, head).await?;
    for edit in edits {
        if let Err(error) = writer.push(edit.borrow()).await {
            writer.abandon().await;
            return Err(error);
        }
    }
    writer.finish().await
}
