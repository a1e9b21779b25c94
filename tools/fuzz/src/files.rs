//! Segments, checkpoints and the layout file: as they come, changed, and changed with checksums made right.

use runelog_engine::checkpoint::format::{FrameHeader, FrameKind, Totals, encode_head};
use runelog_engine::checkpoint::{Loaded, load, write_checkpoint};
use runelog_engine::disk::OpenMode;
use runelog_engine::ids::TopicId;
use runelog_engine::layout::Layout;
use runelog_engine::segment::{self, SegmentMeta, read_block, read_tags, verify};

use crate::images::{
    CHECKPOINT, CHECKPOINT_DIR, CHECKPOINT_NUMBER, SEGMENT, SEGMENT_ID, change, checkpoint_head,
    checkpoint_path, reseal_checkpoint, reseal_segment,
};
use crate::input::Input;
use crate::memory_disk::MemoryDisk;

/// Seq, commit time, data, meta, tag, node.
type Seen = (TopicId, u64, i64, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

/// Everything that a file says, if all of it holds.
fn segment_in(bytes: &[u8]) -> Option<(SegmentMeta, Vec<Seen>)> {
    let path = segment::path(SEGMENT_ID);
    let mut disk = MemoryDisk::with(&path, bytes);
    disk.run(async |io| {
        let meta = verify(&io, SEGMENT_ID).await.ok()?;
        let file = io.open(&path, OpenMode::Read).await.expect("it is there");
        let mut seen: Vec<Seen> = Vec::new();
        for run in &meta.runs {
            for block in &run.blocks {
                let held = read_block(&io, file, SEGMENT_ID, run.topic, block).await.expect("verified");
                let before = seen.len();
                for record in held.records_from(0) {
                    let record = record.expect("verified");
                    let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
                    let parts = (owned(record.meta), owned(record.tag), owned(record.node));
                    seen.push((
                        run.topic,
                        record.seq,
                        record.ts,
                        record.data.to_vec(),
                        parts.0,
                        parts.1,
                        parts.2,
                    ));
                }
                assert_eq!(seen.len() - before, block.count as usize, "I-98: not what the footer promised");
                let middle = block.first_seq + (block.last_seq - block.first_seq) / 2;
                assert!(held.records_from(middle).flatten().all(|record| record.seq >= middle), "I-98");
            }
            for place in &run.tags {
                let section = read_tags(&io, file, SEGMENT_ID, run.topic, place).await.expect("verified");
                let all = section.tags_prefix(b"").expect("verified");
                for tag in [&b"tag:0"[..], b"tag:1", b""] {
                    let some = section.tags_eq(tag).expect("verified");
                    assert!(some.iter().all(|seq| all.binary_search(seq).is_ok()), "a tag beyond all tags");
                }
            }
        }
        io.close(file).await;
        Some((meta, seen))
    })
}

/// `mode, …`: a file; or changes to one that the engine wrote.
pub(crate) fn segment(input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.byte();
    if mode & 2 == 0 {
        let mut bytes = input.rest().to_vec();
        if mode & 1 != 0 {
            reseal_segment(&mut bytes);
        }
        segment_in(&bytes);
        return;
    }
    let mut bytes = SEGMENT.clone();
    change(&mut bytes, &mut input);
    if mode & 1 == 0 {
        // I-97, I-98: without the right checksums nothing that was changed gets through.
        let found = segment_in(&bytes);
        match bytes == *SEGMENT {
            true => assert!(found.is_some(), "the file itself"),
            false => assert!(found.is_none() || found == segment_in(&SEGMENT), "I-98: {found:?}"),
        }
    } else {
        reseal_segment(&mut bytes);
        segment_in(&bytes);
    }
}

fn checkpoint_in(bytes: &[u8]) -> Option<Loaded> {
    let mut disk = MemoryDisk::with(&checkpoint_path(), bytes);
    disk.run(async |io| load(&io, CHECKPOINT_DIR).await).ok()?
}

/// `mode, …`: a file; changes to one that the engine wrote; or pieces for a file around them.
pub(crate) fn checkpoint(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 5 {
        0 => drop(checkpoint_in(input.rest())),
        1 => {
            let mut bytes = input.rest().to_vec();
            reseal_checkpoint(&mut bytes);
            written_again(&bytes);
        }
        2 => {
            let mut bytes = CHECKPOINT.clone();
            change(&mut bytes, &mut input);
            let found = checkpoint_in(&bytes);
            match bytes == *CHECKPOINT {
                true => assert!(found.is_some(), "the file itself"),
                false => assert!(found.is_none() || found == checkpoint_in(&CHECKPOINT), "I-95: {found:?}"),
            }
        }
        3 => {
            let mut bytes = CHECKPOINT.clone();
            change(&mut bytes, &mut input);
            reseal_checkpoint(&mut bytes);
            written_again(&bytes);
        }
        _ => written_again(&around(input)),
    }
}

/// A whole file around pieces: for each its kind, then its body with the length in a byte before it.
fn around(mut input: Input<'_>) -> Vec<u8> {
    let (mut body, mut totals, mut file) = (Vec::new(), Totals::default(), Vec::new());
    while !input.is_empty() {
        let (kind, piece) = (input.byte(), input.piece());
        body.push(kind);
        body.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        body.extend_from_slice(piece);
        totals.pieces += 1;
    }
    let mut put = |kind, body: &[u8], totals: &mut Totals| {
        let header = FrameHeader {
            kind,
            body_bytes: body.len() as u32,
            index: totals.frames,
            number: CHECKPOINT_NUMBER,
            body_crc: crc32c::crc32c(body),
        }
        .encode();
        totals.add(&header, body.len());
        file.extend_from_slice(&header);
        file.extend_from_slice(body);
    };
    put(FrameKind::Head, &encode_head(&checkpoint_head(CHECKPOINT_NUMBER)), &mut totals);
    for part in body.chunks(200 << 10).take(1) {
        put(FrameKind::Edits, part, &mut totals);
    }
    let trailer = totals.encode();
    put(FrameKind::Trailer, &trailer, &mut totals);
    file.resize(file.len().next_multiple_of(4096), 0);
    file
}

/// What a checkpoint says can be said again by a new one.
fn written_again(bytes: &[u8]) {
    let Some(loaded) = checkpoint_in(bytes) else { return };
    let mut wanted = loaded.clone();
    // Keys and jobs go with their topics.
    wanted.dedup.retain(|key| wanted.topics.contains_key(&key.topic));
    wanted.runs.retain(|(segment, _)| wanted.segments.contains_key(segment));
    wanted.leases.retain(|_, jobs| !jobs.is_empty());
    let mut disk = MemoryDisk::default();
    let again = disk.run(async |io| {
        let head = checkpoint_head(loaded.highest + 1);
        write_checkpoint(&io, CHECKPOINT_DIR, &head, loaded.into_edits(|_, _| true)).await.expect("it fits");
        load(&io, CHECKPOINT_DIR).await.expect("I-95: what was written is read").expect("it is there")
    });
    let parts = |loaded: Loaded| {
        let state = (loaded.topics, loaded.segments, loaded.runs, loaded.dedup);
        (state, loaded.routers, loaded.links, loaded.leases)
    };
    assert_eq!(parts(again), parts(wanted), "I-95");
}

/// `mode, bytes`: a file, or the front of a block with its checksum made right.
pub(crate) fn layout(input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.byte();
    let mut bytes = input.rest().to_vec();
    if mode & 1 != 0 {
        bytes.resize(4096, 0);
        let crc = crc32c::crc32c(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok(layout) = Layout::decode(&bytes) {
        assert_eq!(Layout::decode(&layout.encode()), Ok(layout), "I-99");
        let settings = layout.settings_of(layout.shards - 1);
        assert_eq!(settings.shards, layout.shards, "I-92");
    }
}
