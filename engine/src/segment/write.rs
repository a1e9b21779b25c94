//! Writing a segment: runs in ascending topic order, entries in ascending seq order, cut into blocks
//! of about 64 KiB, each with its checksum. Used by seals and by compaction.

use super::format::{
    BLOCK_TARGET_BYTES, BlockMeta, End, Frame, PART_HEADER_BYTES, PartHeader, PartKind, Run, SegmentMeta,
    TagPlace, put_run,
};
use super::tags::TagsBuilder;
use super::{SegmentError, path};
use crate::aside::AsideFile;
use crate::disk::Io;
use crate::error::DiskError;
use crate::event::Record;
use crate::ids::{SegmentId, TopicId};
use crate::limits::BLOCK_BYTES;
use crate::wal::frame::{
    ENTRY_HEADER_BYTES, Kind, RECORDS_HEADER_BYTES, RecordsEntry, RecordsHeader, put_records, record_bytes,
    skip_entries, split_entry,
};
use crc32c::{crc32c, crc32c_append};

/// Records re-encoded at a time: bounds the memory and the time between two breaths.
const GROUP_RECORDS: usize = 512;
/// With less room than this left, a block is closed rather than filled with a sliver of an entry.
const SLIVER_BYTES: usize = BLOCK_TARGET_BYTES / 8;

/// A segment being written. Must end in [`SegmentWriter::finish`] or [`SegmentWriter::abandon`].
pub struct SegmentWriter {
    out: AsideFile,
    id: SegmentId,
    block_records_max: u32,
    runs: Vec<Run>,
    /// Body of the block being filled.
    body: Vec<u8>,
    /// What `body` holds, if anything.
    open: Option<BlockMeta>,
    tags: TagsBuilder,
}

impl SegmentWriter {
    /// Starts `segments/<id>.seg.new`. No block gets more than `block_records_max` records
    /// (`RUNELOG_SEGMENT_MAX_EVENTS`).
    pub async fn create(
        io: &Io,
        id: SegmentId,
        block_records_max: u32,
    ) -> Result<SegmentWriter, SegmentError> {
        let failed = |error| disk_error(id, error);
        let mut out = AsideFile::create(io, path(id)).await.map_err(failed)?;
        // The header is written at the end; until then the file is no segment whatever its name.
        if let Err(error) = out.put(&[0; BLOCK_BYTES]).await {
            out.abandon().await;
            return Err(failed(error));
        }
        Ok(SegmentWriter {
            out,
            id,
            block_records_max: block_records_max.max(1),
            runs: Vec::new(),
            body: Vec::with_capacity(BLOCK_TARGET_BYTES),
            open: None,
            tags: TagsBuilder::default(),
        })
    }

    /// Which segment.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Bytes of blocks and tag sections so far.
    pub fn bytes(&self) -> u64 {
        self.out.offset() + self.body.len() as u64
    }

    /// Ends the current run and starts that of `topic`, which must be above all before.
    pub async fn begin_run(&mut self, topic: TopicId) -> Result<(), SegmentError> {
        self.end_run().await?;
        assert!(self.runs.last().is_none_or(|run| run.topic < topic), "runs ascend in topic");
        self.runs.push(Run { topic, blocks: Vec::new(), tags: Vec::new() });
        Ok(())
    }

    /// Adds a fully live entry, its header included, of the current run's topic and above all seqs
    /// before. It is copied as it is, or cut along its records if it is larger than a block should be.
    /// `has_tags`: whether some record has a tag (`true` costs a walk, no more).
    pub async fn push_entry(&mut self, entry: &[u8], has_tags: bool) -> Result<(), SegmentError> {
        let (head, body, rest) = split_entry(entry).map_err(SegmentError::Entry)?;
        assert!(head.kind == Kind::Records && rest.is_empty(), "one records entry at a time");
        let records = RecordsEntry::decode(body).map_err(SegmentError::Entry)?;
        let header = records.header;
        self.expect(&header, header.first_seq);
        if entry.len() > BLOCK_TARGET_BYTES && header.count > 1 || header.count > self.block_records_max {
            let mut walk = records.records_from(0);
            let mut group = Vec::with_capacity(GROUP_RECORDS.min(header.count as usize));
            loop {
                group.clear();
                for record in walk.by_ref().take(GROUP_RECORDS) {
                    group.push(record.map_err(SegmentError::Entry)?);
                }
                if group.is_empty() {
                    return Ok(());
                }
                self.push_records(&header, &group).await?;
            }
        }
        let mut tagged = false;
        if has_tags || cfg!(debug_assertions) {
            for record in records.records_from(0) {
                let record = record.map_err(SegmentError::Entry)?;
                if let Some(tag) = record.tag {
                    assert!(has_tags, "seq {} has a tag that was not announced", record.seq);
                    self.tags.add(tag, record.seq);
                    tagged = true;
                }
            }
        }
        let full = self.body.len() + entry.len() > BLOCK_TARGET_BYTES;
        if full || self.open_count() + header.count > self.block_records_max {
            self.close_block().await?;
        }
        self.body.extend_from_slice(entry);
        self.note(&header, header.first_seq, header.last_seq(), u64::from(header.counted_bytes), tagged);
        self.settle(entry.len()).await
    }

    /// Adds live records of an entry that is only partly alive: ascending seqs of one batch, gaps
    /// allowed, above all seqs before. `header` is the entry's.
    pub async fn push_records(
        &mut self,
        header: &RecordsHeader,
        records: &[Record<'_>],
    ) -> Result<(), SegmentError> {
        let mut rest = records;
        while let Some(first) = rest.first() {
            self.expect(header, first.seq);
            let fit = self.fitting(rest);
            if fit == 0 {
                self.close_block().await?;
                continue;
            }
            let (now, later) = rest.split_at(fit);
            let mut tagged = false;
            for record in now {
                if let Some(tag) = record.tag {
                    self.tags.add(tag, record.seq);
                    tagged = true;
                }
            }
            let before = self.body.len();
            put_records(&mut self.body, header, now);
            let counted_bytes = now.iter().map(Record::counted_bytes).sum();
            self.note(header, first.seq, now[fit - 1].seq, counted_bytes, tagged);
            self.settle(self.body.len() - before).await?;
            rest = later;
        }
        Ok(())
    }

    /// Writes what is left, the footer and both ends, syncs the file and gives it its final name. The
    /// caller syncs the directory, once for all segments of a seal.
    pub async fn finish(mut self) -> Result<SegmentMeta, SegmentError> {
        let id = self.id;
        match self.put_footer().await {
            Ok(header) => {
                let file_bytes = self.out.finish(Some(header)).await.map_err(|e| disk_error(id, e))?;
                Ok(SegmentMeta { id, file_bytes, runs: self.runs })
            }
            Err(error) => {
                self.abandon().await;
                Err(error)
            }
        }
    }

    /// Gives the segment up and removes its file.
    pub async fn abandon(self) {
        self.out.abandon().await;
    }

    /// How many of `records` go into the open block as one entry; 0 asks for a new block.
    fn fitting(&self, records: &[Record<'_>]) -> usize {
        let room = BLOCK_TARGET_BYTES.saturating_sub(self.body.len());
        let count_room = (self.block_records_max - self.open_count()) as usize;
        let (mut fit, mut bytes) = (0, ENTRY_HEADER_BYTES + RECORDS_HEADER_BYTES);
        for (index, record) in records.iter().enumerate() {
            if index == count_room || record.seq != records[0].seq + index as u64 {
                break;
            }
            let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
            bytes += record_bytes(record.data.len(), len(record.meta), len(record.tag), len(record.node));
            if bytes + skip_entries(index + 1) * 4 > room {
                // A record larger than a block should be gets one of its own.
                let alone = self.open.is_none() && index == 0;
                let sliver = self.open.is_some() && room < SLIVER_BYTES;
                return if alone { 1 } else { fit * usize::from(!sliver) };
            }
            fit = index + 1;
        }
        fit
    }

    fn open_count(&self) -> u32 {
        self.open.map_or(0, |open| open.count)
    }

    /// Panics if records of `header` from `first_seq` on may not come now: a seal out of order would
    /// become a file that cannot be read.
    fn expect(&self, header: &RecordsHeader, first_seq: u64) {
        let run = self.runs.last().expect("begin_run comes first");
        assert_eq!(header.topic, run.topic, "entry of another topic");
        let last = self.open.as_ref().or(run.blocks.last()).map_or(0, |block| block.last_seq);
        assert!(first_seq > last, "seq {first_seq} after {last}");
    }

    /// Takes note of records just added to the body.
    fn note(&mut self, header: &RecordsHeader, first_seq: u64, last_seq: u64, counted: u64, tagged: bool) {
        let open = self.open.get_or_insert(BlockMeta {
            offset: 0,
            bytes: 0,
            first_seq,
            last_seq,
            count: 0,
            counted_bytes: 0,
            first_ts: header.ts,
            last_ts: header.ts,
            has_tags: false,
        });
        open.last_seq = last_seq;
        open.count += (last_seq - first_seq + 1) as u32;
        open.counted_bytes += counted;
        open.last_ts = open.last_ts.max(header.ts);
        open.has_tags |= tagged;
    }

    /// Closes the block and the tag section if they are full, and breathes after `bytes` of work.
    async fn settle(&mut self, bytes: usize) -> Result<(), SegmentError> {
        self.out.effort.spend(bytes).await;
        if self.body.len() >= BLOCK_TARGET_BYTES || self.open_count() >= self.block_records_max {
            self.close_block().await?;
        }
        if self.tags.is_full() {
            self.close_tags().await?;
        }
        Ok(())
    }

    async fn end_run(&mut self) -> Result<(), SegmentError> {
        self.close_block().await?;
        self.close_tags().await?;
        self.runs.pop_if(|run| run.blocks.is_empty());
        Ok(())
    }

    /// Ends the open block: what follows must not share one with what came before.
    pub async fn cut_block(&mut self) -> Result<(), SegmentError> {
        self.close_block().await
    }

    async fn close_block(&mut self) -> Result<(), SegmentError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let run = self.runs.last_mut().expect("a block belongs to a run");
        let header = PartHeader {
            body_bytes: self.body.len() as u32,
            segment: self.id,
            topic: run.topic,
            first_seq: open.first_seq,
            count: open.count,
            body_crc: crc32c(&self.body),
        };
        open.offset = self.out.offset();
        open.bytes = (PART_HEADER_BYTES + self.body.len()) as u32;
        run.blocks.push(open);
        let id = self.id;
        self.out.put(&header.encode(PartKind::Block)).await.map_err(|e| disk_error(id, e))?;
        self.out.put(&self.body).await.map_err(|e| disk_error(id, e))?;
        self.body.clear();
        self.body.shrink_to(BLOCK_TARGET_BYTES);
        Ok(())
    }

    async fn close_tags(&mut self) -> Result<(), SegmentError> {
        let Some(section) = self.tags.take(&mut self.out.effort).await else { return Ok(()) };
        let run = self.runs.last_mut().expect("tags belong to a run");
        let header = PartHeader {
            body_bytes: section.body.len() as u32,
            segment: self.id,
            topic: run.topic,
            first_seq: section.first_seq,
            count: section.tag_count,
            body_crc: crc32c(&section.body),
        };
        run.tags.push(TagPlace {
            offset: self.out.offset(),
            bytes: (PART_HEADER_BYTES + section.body.len()) as u32,
            first_seq: section.first_seq,
            last_seq: section.last_seq,
        });
        let id = self.id;
        self.out.put(&header.encode(PartKind::Tags)).await.map_err(|e| disk_error(id, e))?;
        self.out.put(&section.body).await.map_err(|e| disk_error(id, e))
    }

    /// Writes footer and trailer; gives the header block back.
    async fn put_footer(&mut self) -> Result<crate::mem::AlignedBuf, SegmentError> {
        self.end_run().await?;
        let id = self.id;
        let failed = |error| disk_error(id, error);
        let footer_offset = self.out.offset();
        let mut footer_crc = 0;
        let mut piece = Vec::new();
        for run in &self.runs {
            // A run of a gigabyte has a megabyte of blocks: bounded, if not by much.
            piece.clear();
            put_run(&mut piece, run.topic, &run.blocks, &run.tags);
            footer_crc = crc32c_append(footer_crc, &piece);
            self.out.put(&piece).await.map_err(failed)?;
        }
        let footer_bytes = self.out.offset() - footer_offset;
        self.out.pad().await.map_err(failed)?;
        let frame = Frame {
            id,
            file_bytes: self.out.offset() + BLOCK_BYTES as u64,
            footer_offset,
            footer_bytes,
            footer_crc,
            run_count: self.runs.len() as u32,
        };
        self.out.put(&frame.encode(End::Trailer)).await.map_err(failed)?;
        Ok(frame.encode(End::Header))
    }
}

fn disk_error(id: SegmentId, error: DiskError) -> SegmentError {
    SegmentError::Disk { file: path(id), error }
}
