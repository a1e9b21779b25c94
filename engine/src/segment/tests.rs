//! Segments as a whole: written on a disk in memory, read back, damaged in every byte.

use super::format::{BLOCK_TARGET_BYTES, End, Frame, PART_HEADER_BYTES};
use super::*;
use crate::event::Record;
use crate::limits::BLOCK_BYTES;
use crate::test_disk::{Rng, TestDisk};
use crate::wal::frame::{RecordsHeader, put_records};
use std::collections::BTreeMap;

/// A record with its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    seq: u64,
    ts: i64,
    data: Vec<u8>,
    tag: Option<Vec<u8>>,
    hops: u8,
}

impl Own {
    fn new(seq: u64, data: &[u8], tag: Option<&[u8]>) -> Own {
        Own { seq, ts: seq as i64 / 10, data: data.to_vec(), tag: tag.map(<[u8]>::to_vec), hops: 3 }
    }

    fn lent(&self) -> Record<'_> {
        let Own { seq, ts, hops, .. } = *self;
        Record { seq, ts, data: &self.data, meta: None, tag: self.tag.as_deref(), node: None, hops }
    }

    fn of(record: &Record<'_>) -> Own {
        let (data, tag) = (record.data.to_vec(), record.tag.map(<[u8]>::to_vec));
        Own { seq: record.seq, ts: record.ts, data, tag, hops: record.hops }
    }
}

type Topics = BTreeMap<u64, Vec<Own>>;

fn header(topic: u64, ts: i64) -> RecordsHeader {
    RecordsHeader {
        topic: TopicId(topic),
        first_seq: 1,
        batch_first_seq: 1,
        ts,
        count: 1,
        batch_count: 1,
        records_bytes: 0,
        counted_bytes: 0,
        key_bytes: None,
    }
}

/// Neighbours of one commit time make an entry.
fn entries(records: &[Own]) -> impl Iterator<Item = &[Own]> {
    records.chunk_by(|a, b| a.ts == b.ts && a.seq + 1 == b.seq)
}

async fn write(
    io: &crate::disk::Io,
    id: u64,
    block_records_max: u32,
    topics: &Topics,
) -> Result<SegmentMeta, SegmentError> {
    let mut writer = SegmentWriter::create(io, SegmentId(id), block_records_max).await?;
    if let Err(error) = fill(&mut writer, topics).await {
        writer.abandon().await;
        return Err(error);
    }
    writer.finish().await
}

async fn fill(writer: &mut SegmentWriter, topics: &Topics) -> Result<(), SegmentError> {
    for (&topic, records) in topics {
        writer.begin_run(TopicId(topic)).await?;
        for batch in entries(records) {
            let lent: Vec<_> = batch.iter().map(Own::lent).collect();
            let mut entry = Vec::new();
            put_records(&mut entry, &header(topic, batch[0].ts), &lent);
            writer.push_entry(&entry, batch.iter().any(|record| record.tag.is_some())).await?;
        }
    }
    Ok(())
}

fn made(disk: &mut TestDisk, id: u64, block_records_max: u32, topics: &Topics) -> SegmentMeta {
    let io = disk.io.clone();
    let meta = disk.run(write(&io, id, block_records_max, topics)).unwrap();
    assert_eq!(disk.mem.files[&path(SegmentId(id))].len() as u64, meta.file_bytes);
    assert_eq!(disk.run(verify(&io, SegmentId(id))), Ok(meta.clone()));
    assert_eq!(disk.mem.open_count(), 0);
    meta
}

/// Every record, through the blocks that `meta` names.
fn read_all(disk: &mut TestDisk, meta: &SegmentMeta) -> Result<Topics, SegmentError> {
    let (io, file) = (disk.io.clone(), disk.open(&path(meta.id)));
    let mut topics = Topics::new();
    let mut result = Ok(());
    'runs: for run in &meta.runs {
        let records = topics.entry(run.topic.0).or_default();
        for block in &run.blocks {
            match disk.run(read_block(&io, file, meta.id, run.topic, block)) {
                Ok(cached) => records.extend(cached.records_from(0).map(|record| Own::of(&record.unwrap()))),
                Err(error) => {
                    result = Err(error);
                    break 'runs;
                }
            }
        }
    }
    disk.run(io.close(file));
    result.map(|()| topics)
}

fn small() -> Topics {
    let own =
        |seq, tag: Option<&str>| Own::new(seq, format!("{{\"n\":{seq}}}").as_bytes(), tag.map(str::as_bytes));
    let two = (1..40).map(|seq| own(seq, ["a", "ab", "b"].get(seq as usize % 5).copied())).collect();
    Topics::from([(2, two), (7, vec![own(5, None), own(6, None), own(9, None)])])
}

#[test]
fn a_pack_of_a_thousand_topics_reads_as_written() {
    let mut rng = Rng(0x5EED_0001);
    let mut topics = Topics::new();
    for topic in 0..1000 {
        let mut seq = 0;
        for _ in 0..1 + rng.below(30) {
            seq += 1 + rng.below(10) / 9 * rng.below(5);
            let data = vec![b'x'; rng.below(600) as usize];
            let tag = (rng.below(3) == 0).then(|| format!("t{}", rng.below(4)));
            let own = Own::new(seq, &data, tag.as_deref().map(str::as_bytes));
            topics.entry(topic).or_default().push(own);
        }
    }
    let mut disk = TestDisk::default();
    let meta = made(&mut disk, 1, 10_000, &topics);
    assert_eq!(meta.runs.len(), 1000);
    assert_eq!(read_all(&mut disk, &meta), Ok(topics.clone()));
    for run in &meta.runs {
        let records = &topics[&run.topic.0];
        let counted: u64 = run.blocks.iter().map(|block| block.counted_bytes).sum();
        assert_eq!(counted, records.iter().map(|record| record.data.len() as u64).sum());
        assert_eq!(run.blocks.iter().map(|block| block.count as usize).sum::<usize>(), records.len());
        assert_eq!(run.blocks[0].first_ts, records[0].ts);
        assert_eq!(run.blocks.last().unwrap().last_ts, records.last().unwrap().ts);
        assert_eq!(run.blocks.iter().any(|b| b.has_tags), records.iter().any(|r| r.tag.is_some()));
        assert_eq!(run.tags.is_empty(), records.iter().all(|record| record.tag.is_none()));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_and_never_other_records() {
    let mut disk = TestDisk::default();
    let topics = small();
    let meta = made(&mut disk, 3, 16, &topics);
    assert!(meta.runs[0].blocks.len() > 1 && !meta.runs[0].tags.is_empty());
    let io = disk.io.clone();
    let whole = disk.mem.files[&path(meta.id)].clone();
    for at in 0..whole.len() {
        disk.mem.files.get_mut(&path(meta.id)).unwrap()[at] ^= 1 << (at % 8);
        assert!(disk.run(verify(&io, meta.id)).is_err(), "byte {at}");
        // A reader that has the index from a checkpoint never looks at the footer.
        if let Ok(read) = read_all(&mut disk, &meta) {
            assert_eq!(read, topics, "byte {at}");
        }
        let file = disk.open(&path(meta.id));
        for run in &meta.runs {
            for place in &run.tags {
                if let Ok(section) = disk.run(read_tags(&io, file, meta.id, run.topic, place)) {
                    assert_eq!(section.tags_eq(b"ab").unwrap(), (1..40).step_by(5).collect::<Vec<_>>());
                }
            }
        }
        disk.run(io.close(file));
        disk.mem.files.get_mut(&path(meta.id)).unwrap()[at] ^= 1 << (at % 8);
    }
}

#[test]
fn a_cut_or_grown_file_is_an_error() {
    let mut disk = TestDisk::default();
    let meta = made(&mut disk, 3, 16, &small());
    let io = disk.io.clone();
    let whole = disk.mem.files[&path(meta.id)].clone();
    for len in 0..whole.len() {
        disk.mem.files.insert(path(meta.id), whole[..len].to_vec());
        assert!(disk.run(verify(&io, meta.id)).is_err(), "cut to {len}");
        if let Ok(read) = read_all(&mut disk, &meta) {
            assert_eq!(read, small(), "cut to {len}");
        }
    }
    let grown = [&whole[..], &[0; BLOCK_BYTES]].concat();
    disk.mem.files.insert(path(meta.id), grown);
    assert!(disk.run(read_footer(&io, meta.id)).is_err());
}

#[test]
fn damage_names_file_offset_and_seqs() {
    let mut disk = TestDisk::default();
    let meta = made(&mut disk, 0xAB, 16, &small());
    let block = meta.runs[0].blocks[1];
    disk.mem.files.get_mut(&path(meta.id)).unwrap()[block.offset as usize + 60] ^= 1;
    let error = read_all(&mut disk, &meta).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "segments/00000000000000ab.seg: damaged block at offset {}, topic 0000000000000002 seqs {}…{}",
            block.offset, block.first_seq, block.last_seq
        )
    );
}

#[test]
fn a_whole_block_is_refused_where_another_is_expected() {
    let mut disk = TestDisk::default();
    let meta = made(&mut disk, 3, 16, &small());
    let (io, file) = (disk.io.clone(), disk.open(&path(meta.id)));
    let (run, block) = (&meta.runs[0], meta.runs[0].blocks[0]);
    let mut read = |id, topic, block: &BlockMeta| disk.run(read_block(&io, file, id, topic, block));
    assert!(read(meta.id, run.topic, &block).is_ok());
    assert!(read(SegmentId(4), run.topic, &block).is_err(), "another segment");
    assert!(read(meta.id, TopicId(7), &block).is_err(), "another topic");
    assert!(read(meta.id, run.topic, &run.blocks[1]).is_ok());
    let elsewhere = BlockMeta { offset: run.blocks[1].offset, bytes: run.blocks[1].bytes, ..block };
    assert!(read(meta.id, run.topic, &elsewhere).is_err(), "another place");
    let fewer = BlockMeta { count: block.count - 1, ..block };
    assert!(read(meta.id, run.topic, &fewer).is_err(), "another count");
    let section = BlockMeta { offset: run.tags[0].offset, bytes: run.tags[0].bytes, ..block };
    assert!(read(meta.id, run.topic, &section).is_err(), "another kind");
}

#[test]
fn another_version_is_refused_by_name() {
    let mut disk = TestDisk::default();
    let meta = made(&mut disk, 3, 16, &small());
    let io = disk.io.clone();
    let bytes = disk.mem.files.get_mut(&path(meta.id)).unwrap();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..BLOCK_BYTES - 4]);
    bytes[BLOCK_BYTES - 4..BLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
    let error = disk.run(read_footer(&io, meta.id)).unwrap_err();
    assert_eq!(error, SegmentError::Version { file: path(meta.id), version: 9 });
}

#[test]
fn large_entries_are_cut_along_records() {
    let table = [
        // records, bytes each, blocks at least, largest block
        (10_000, 150, 24, BLOCK_TARGET_BYTES + PART_HEADER_BYTES),
        (30, 40_000, 30, BLOCK_TARGET_BYTES + PART_HEADER_BYTES),
        (2, 1 << 20, 2, (1 << 20) + 4096),
        (1, 1 << 20, 1, (1 << 20) + 4096),
    ];
    for (count, bytes, blocks_min, block_bytes_max) in table {
        let own = |seq| Own { ts: 5, ..Own::new(seq, &vec![b'0' + (seq % 7) as u8; bytes], Some(b"t")) };
        let topics = Topics::from([(1, (1..=count).map(own).collect())]);
        let mut disk = TestDisk::default();
        let meta = made(&mut disk, 1, 10_000, &topics);
        let blocks = &meta.runs[0].blocks;
        assert!(blocks.len() >= blocks_min && blocks.len() <= 2 * blocks_min, "{} blocks", blocks.len());
        assert!(blocks.iter().all(|block| block.bytes as usize <= block_bytes_max));
        assert_eq!(read_all(&mut disk, &meta).as_ref(), Ok(&topics));
    }
}

#[test]
fn no_block_holds_more_records_than_allowed() {
    for max in [1, 2, 7, 64, 1000] {
        let own = |seq| Own { ts: seq as i64 / 100, ..Own::new(seq, b"1", None) };
        let topics = Topics::from([(1, (1..=1000).map(own).collect())]);
        let mut disk = TestDisk::default();
        let meta = made(&mut disk, 1, max, &topics);
        assert!(meta.runs[0].blocks.iter().all(|block| block.count <= max), "at most {max}");
        assert!(meta.runs[0].blocks.len() <= 1 + 2 * 1000 / max as usize, "at most {max}");
        assert_eq!(read_all(&mut disk, &meta).as_ref(), Ok(&topics));
    }
}

#[test]
fn whole_entries_keep_their_bytes_and_partly_live_ones_their_live_records() {
    let mut disk = TestDisk::default();
    let io = disk.io.clone();
    let body = b"123456";
    let spans: Vec<_> = (0..6)
        .map(|at| crate::event::RecordSpan { data: crate::event::Span::body(at, 1), ..Default::default() })
        .collect();
    let batch = crate::event::Batch { body, side: &[], records: &spans };
    let piece = crate::wal::frame::Piece::cut(&batch, 0, 3, usize::MAX);
    let to = |first, key| crate::wal::frame::PieceOf {
        topic: TopicId(4),
        batch_first_seq: first,
        ts: 1,
        key,
        hops: 0,
        last: false,
    };
    let (mut keyed, mut partly) = (Vec::new(), Vec::new());
    piece.put(&mut keyed, &batch, &to(1, Some(b"key")));
    piece.put(&mut partly, &batch, &to(11, None));
    let meta = disk
        .run(async {
            let mut writer = SegmentWriter::create(&io, SegmentId(1), 100).await?;
            writer.begin_run(TopicId(3)).await?;
            writer.begin_run(TopicId(4)).await?;
            writer.push_entry(&keyed, false).await?;
            let (_, inner, _) = crate::wal::frame::split_entry(&partly).unwrap();
            let entry = crate::wal::frame::RecordsEntry::decode(inner).unwrap();
            let live = |record: &Record<'_>| ![11, 13, 14].contains(&record.seq);
            let live: Vec<_> = entry.records_from(0).map(Result::unwrap).filter(live).collect();
            writer.push_records(&entry.header, &live).await?;
            writer.finish().await
        })
        .unwrap();
    assert_eq!(meta.runs.len(), 1, "a run without records is none");
    let file = disk.open(&path(meta.id));
    let block = disk.run(read_block(&io, file, meta.id, TopicId(4), &meta.runs[0].blocks[0])).unwrap();
    let at = meta.runs[0].blocks[0].offset as usize + PART_HEADER_BYTES;
    assert_eq!(disk.mem.files[&path(meta.id)][at..at + keyed.len()], keyed);
    assert_eq!(block.entries().next().unwrap().key, Some(&b"key"[..]));
    let from = |seq| block.records_from(seq).map(|r| r.map(|r| (r.seq, r.data[0])).unwrap()).collect();
    let seen: Vec<(u64, u8)> = from(5);
    assert_eq!(seen, [(5, b'5'), (6, b'6'), (12, b'2'), (15, b'5'), (16, b'6')]);
    let seen: Vec<(u64, u8)> = from(13);
    assert_eq!(seen, [(15, b'5'), (16, b'6')]);
    assert_eq!(block.records_from(17).count(), 0);
}

#[test]
fn tag_lookups_agree_with_a_model() {
    let table = [
        // seed, records, distinct tags, sections at least
        (1, 500, 7, 1),
        (2, 3000, 3000, 1),
        (3, 60_000, 50_000, 2),
    ];
    for (seed, count, distinct, sections) in table {
        let mut rng = Rng(seed);
        let mut model: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        let mut records = Vec::new();
        for seq in 1..=count {
            // Some tags are empty, some are prefixes of others, some are not text.
            let number = rng.below(distinct);
            let tag = match number {
                0 => Vec::new(),
                1 => vec![0xff, 0xff],
                _ => format!("{}{}", ["a", "a/", "b:"][number as usize % 3], number / 3).into_bytes(),
            };
            let tag = (rng.below(4) > 0).then_some(tag);
            records.push(Own::new(seq, b"1", tag.as_deref()));
            tag.into_iter().for_each(|tag| model.entry(tag).or_default().push(seq));
        }
        let mut disk = TestDisk::default();
        let meta = made(&mut disk, 1, 10_000, &Topics::from([(9, records)]));
        let (io, file) = (disk.io.clone(), disk.open(&path(meta.id)));
        let places = &meta.runs[0].tags;
        assert!(places.len() >= sections, "{} sections", places.len());
        let sections: Vec<TagSection> = places
            .iter()
            .map(|place| disk.run(read_tags(&io, file, meta.id, TopicId(9), place)).unwrap())
            .collect();
        let eq = |tag: &[u8]| sections.iter().flat_map(|s| s.tags_eq(tag).unwrap()).collect::<Vec<_>>();
        let under =
            |tag: &[u8]| sections.iter().flat_map(|s| s.tags_prefix(tag).unwrap()).collect::<Vec<_>>();
        for (tag, seqs) in model.iter().step_by(1 + model.len() / 200) {
            assert_eq!(&eq(tag), seqs, "{tag:?}");
        }
        assert!(eq(b"absent").is_empty() && under(b"absent").is_empty());
        for prefix in [&b""[..], b"a", b"a/", b"b:1", b"\xff", b"zz"] {
            let matches = model.iter().filter(|(tag, _)| tag.starts_with(prefix));
            let mut expected: Vec<u64> = matches.flat_map(|(_, seqs)| seqs).copied().collect();
            expected.sort_unstable();
            assert_eq!(under(prefix), expected, "{prefix:?}");
        }
    }
}

#[test]
fn a_failed_operation_leaves_no_segment_and_no_open_file() {
    let own = |seq| Own::new(seq, &[b'1'; 9000], None);
    let topics = Topics::from([(1, (1..400).map(own).collect())]);
    for fail_at in 0.. {
        let mut disk = TestDisk::default();
        disk.mem.fail_at = Some(fail_at);
        let io = disk.io.clone();
        let result = disk.run(write(&io, 1, 100, &topics));
        assert_eq!(disk.mem.open_count(), 0, "operation {fail_at}");
        if disk.mem.asked.len() <= fail_at || result.is_ok() {
            assert!(disk.mem.files.contains_key("segments/0000000000000001.seg"));
            assert!(fail_at > 6, "every operation was failed once");
            // What makes the name trustworthy: all writes, then the sync, then the rename.
            let verbs: Vec<&str> =
                disk.mem.asked.iter().map(|asked| asked.split(' ').next().unwrap()).collect();
            assert_eq!(
                verbs,
                ["open", "write", "write", "write", "write", "write", "sync", "close", "rename"]
            );
            if disk.mem.asked.len() <= fail_at {
                break;
            }
            continue;
        }
        assert_eq!(result, Err(SegmentError::Disk { file: path(SegmentId(1)), error: DiskError(libc::EIO) }));
        assert!(!disk.mem.files.contains_key("segments/0000000000000001.seg"), "operation {fail_at}");
    }
}

#[test]
fn writing_gives_the_core_back_every_so_often() {
    let own = |seq| Own { ts: 1, ..Own::new(seq, &[b'1'; 1000], Some(b"t")) };
    let topics = Topics::from([(1, (1..=8000).map(own).collect())]);
    let mut disk = TestDisk::default();
    let io = disk.io.clone();
    let polls = std::cell::Cell::new(0);
    let mut job = std::pin::pin!(write(&io, 1, 10_000, &topics));
    let counted = std::future::poll_fn(|context| {
        polls.set(polls.get() + 1);
        job.as_mut().poll(context)
    });
    let meta = disk.run(counted).unwrap();
    assert!(polls.get() as u64 > meta.file_bytes / crate::aside::BREATH_BYTES as u64, "{polls:?}");
}

#[test]
fn names_in_the_pool_are_told_apart() {
    for (name, expected) in [
        ("00000000000000ff.seg", Name::Segment(SegmentId(255))),
        ("00000000000000ff.seg.new", Name::Leftover),
        ("00000000000000FF.seg", Name::Unknown),
        ("ff.seg", Name::Unknown),
        ("notes.txt.new", Name::Unknown),
    ] {
        assert_eq!(parse_name(name), expected, "{name}");
    }
}

#[test]
fn a_frame_that_promises_too_much_is_refused() {
    let frame = Frame {
        id: SegmentId(1),
        file_bytes: 3 * 4096,
        footer_offset: 4096,
        footer_bytes: 100,
        footer_crc: 0,
        run_count: 1,
    };
    assert_eq!(Frame::decode(&frame.encode(End::Header), End::Header), Ok(frame));
    assert!(Frame::decode(&frame.encode(End::Header), End::Trailer).is_err());
    for wrong in [
        Frame { footer_bytes: u64::MAX, ..frame },
        Frame { footer_bytes: 5000, ..frame },
        Frame { footer_offset: 0, ..frame },
        Frame { file_bytes: 4096, ..frame },
    ] {
        assert!(Frame::decode(&wrong.encode(End::Header), End::Header).is_err(), "{wrong:?}");
    }
}
