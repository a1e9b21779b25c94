//! The job that writes live records of the log's oldest chunks into segments. It owns what it needs and
//! knows nothing of the shard, which goes on meanwhile.

use super::TopicRef;
use crate::disk::Io;
use crate::event::Record;
use crate::ids::SegmentId;
use crate::limits::CHUNK_BYTES;
use crate::mem::Chunk;
use crate::ranges::RangeSet;
use crate::sabotage::{self, Bug};
use crate::segment::{self, SegmentError, SegmentMeta, SegmentWriter};
use crate::wal::chunks::records_at;
use crate::wal::frame::{ENTRY_HEADER_BYTES, RecordsEntry};
use crate::wal::log::FrameRef;

/// A topic with this much in one seal gets a segment of its own.
const OWN_SEGMENT_BYTES: u64 = 4 << 20;

/// What a seal takes of one topic.
pub(super) struct Item {
    pub(super) topic: TopicRef,
    pub(super) frames: Vec<FrameRef>,
    pub(super) bytes: u64,
    /// Seqs up to here are dead.
    pub(super) dead_through: u64,
    /// So are these.
    pub(super) deleted: RangeSet,
    /// A block must not span these seqs: other records lie between, elsewhere.
    pub(super) cuts: Vec<u64>,
}

pub(super) struct SealJob {
    pub(super) io: Io,
    pub(super) chunks: Vec<Option<Chunk>>,
    pub(super) base: u64,
    /// High bits of this shard's segment ids.
    pub(super) ids: u64,
    pub(super) next_segment: u64,
    pub(super) events_max: u32,
    pub(super) bytes_max: u64,
}

impl SealJob {
    pub(super) async fn run(mut self, items: Vec<Item>) -> Result<Vec<SegmentMeta>, SegmentError> {
        let (mut segments, mut writer) = (Vec::new(), None);
        match self.write(items, &mut segments, &mut writer).await {
            Ok(()) => Ok(segments),
            Err(error) => {
                // The next try makes all of them anew: on a full disk none may be left behind.
                if let Some(begun) = writer {
                    begun.abandon().await;
                }
                for segment in segments {
                    let _ = self.io.remove(&segment::path(segment.id)).await;
                }
                Err(error)
            }
        }
    }

    async fn write(
        &mut self,
        mut items: Vec<Item>,
        segments: &mut Vec<SegmentMeta>,
        writer: &mut Option<SegmentWriter>,
    ) -> Result<(), SegmentError> {
        // Big topics first, each in a file of its own; what remains shares packs.
        items.sort_by_key(|item| (item.bytes < OWN_SEGMENT_BYTES, item.topic.id));
        for item in &items {
            let own = item.bytes >= OWN_SEGMENT_BYTES;
            if let Some(full) = writer.take_if(|writer| own || writer.bytes() >= self.bytes_max) {
                segments.push(full.finish().await?);
            }
            self.write_item(item, writer).await?;
            if own && let Some(full) = writer.take() {
                segments.push(full.finish().await?);
            }
        }
        if let Some(last) = writer.take() {
            segments.push(last.finish().await?);
        }
        if !segments.is_empty() && !sabotage::is(Bug::SegmentNamesUnsynced) {
            let failed = |error| SegmentError::Disk { file: segment::DIR.to_owned(), error };
            self.io.sync_dir(segment::DIR).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn write_item(
        &mut self,
        item: &Item,
        writer: &mut Option<SegmentWriter>,
    ) -> Result<(), SegmentError> {
        let mut begun = false;
        let mut last_seq = 0;
        for frame in &item.frames {
            if frame.last_seq() <= item.dead_through {
                continue;
            }
            let place = (frame.lsn.0 / CHUNK_BYTES as u64 - self.base) as usize;
            let chunk = self.chunks[place].clone().expect("entries lie in chunks");
            let entry = records_at(&chunk, frame.lsn);
            let partly = frame.first_seq <= item.dead_through
                || item.deleted.intersects(frame.first_seq, frame.last_seq());
            let live: Vec<Record<'_>> = match partly {
                true => entry
                    .records_from(item.dead_through + 1)
                    .flatten()
                    .filter(|record| !item.deleted.contains(record.seq))
                    .collect(),
                false => Vec::new(),
            };
            if partly && live.is_empty() {
                continue;
            }
            if writer.is_none() {
                let id = SegmentId(self.ids | self.next_segment);
                self.next_segment += 1;
                *writer = Some(SegmentWriter::create(&self.io, id, self.events_max).await?);
            }
            let out = writer.as_mut().expect("just made sure");
            if !begun {
                out.begin_run(item.topic.id).await?;
                begun = true;
            } else if item.cuts.iter().any(|cut| (last_seq..frame.first_seq).contains(cut)) {
                out.cut_block().await?;
            }
            last_seq = frame.last_seq();
            if partly {
                out.push_records(&entry.header, &live).await?;
            } else {
                out.push_entry(whole_entry(&chunk, frame, &entry), true).await?;
            }
        }
        Ok(())
    }
}

/// The bytes of an entry, its header included.
fn whole_entry<'a>(chunk: &'a Chunk, frame: &FrameRef, entry: &RecordsEntry<'_>) -> &'a [u8] {
    let start = (frame.lsn.0 % CHUNK_BYTES as u64) as usize;
    let bytes = entry.header.entry_bytes();
    debug_assert!(bytes > ENTRY_HEADER_BYTES);
    chunk.bytes(start, start + bytes)
}
