//! Files as the engine writes them, to be changed; and seals made right again after a change.

use std::sync::LazyLock;

use crc32c::crc32c;
use runelog_engine::checkpoint::{CheckpointHead, Dedup, Edit, TopicState, file_name, write_checkpoint};
use runelog_engine::config::TopicConfig;
use runelog_engine::event::Record;
use runelog_engine::ids::{Lsn, RouterId, SegmentId, TopicId};
use runelog_engine::queue::{JobState, LeaseToken, StoredJob};
use runelog_engine::router::{LinkState, RouterDef};
use runelog_engine::segment::{self, BlockMeta, Run, SegmentWriter, TagPlace};
use runelog_engine::shard::TagMatch;
use runelog_engine::wal::frame::{RecordsHeader, put_records};

use crate::input::Input;
use crate::memory_disk::MemoryDisk;

/// The segment of [`SEGMENT`].
pub(crate) const SEGMENT_ID: SegmentId = SegmentId(7);
/// Directory and number of [`CHECKPOINT`].
pub(crate) const CHECKPOINT_DIR: &str = "s";
pub(crate) const CHECKPOINT_NUMBER: u64 = 5;

/// Path of [`CHECKPOINT`].
pub(crate) fn checkpoint_path() -> String {
    format!("{CHECKPOINT_DIR}/{}", file_name(CHECKPOINT_NUMBER))
}

/// A head for a checkpoint of that number.
pub(crate) fn checkpoint_head(number: u64) -> CheckpointHead {
    CheckpointHead {
        number,
        base: None,
        shard: 0,
        shards: 1,
        layout: 1,
        log_start: Lsn(4 << 20),
        next_block: 9,
        described_block: 8,
        epoch: 3,
        next_topic: 77,
        next_segment: 8,
        clean: false,
        at_ms: 1,
    }
}

/// Three runs of records, some with tags, in small blocks.
pub(crate) static SEGMENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut disk = MemoryDisk::default();
    let written = disk.run(async |io| {
        let mut writer = SegmentWriter::create(&io, SEGMENT_ID, 6).await?;
        for topic in 1..=3u64 {
            writer.begin_run(TopicId(topic)).await?;
            for batch in 0..4u64 {
                let first = 1 + batch * 9;
                let tag = format!("tag:{}", batch % 2);
                let records: Vec<Record<'_>> = (0..4)
                    .map(|index| Record {
                        seq: first + index,
                        ts: 1000 + batch as i64,
                        data: br#"{"n":1}"#,
                        meta: (index == 1).then_some(&b"{\"m\":2}"[..]),
                        tag: (topic != 2).then_some(tag.as_bytes()),
                        node: (index == 2).then_some(&b"node"[..]),
                        hops: 0,
                    })
                    .collect();
                let header = RecordsHeader {
                    topic: TopicId(topic),
                    first_seq: first,
                    batch_first_seq: first,
                    ts: 1000 + batch as i64,
                    count: 4,
                    batch_count: 4,
                    records_bytes: 0,
                    counted_bytes: 0,
                    key_bytes: None,
                };
                let mut entry = Vec::new();
                put_records(&mut entry, &header, &records);
                writer.push_entry(&entry, true).await?;
            }
        }
        writer.finish().await
    });
    written.expect("a disk without faults");
    disk.contents(&segment::path(SEGMENT_ID)).to_vec()
});

/// One edit of each kind.
pub(crate) fn edits() -> Vec<Edit> {
    let topic = |id: u64, name: &str| {
        Edit::Topic(TopicState {
            id: TopicId(id),
            name: name.into(),
            config: TopicConfig { dead_letter: Some("dead".into()), ..TopicConfig::default() },
            head: 40,
            reserved: 1064,
            floor_cap: 3,
            floor_ttl: 2,
            floor_source: 0,
            count: 30,
            bytes: 300,
            vacant: vec![(5, 6), (9, 9)],
            deleted: vec![(10, 12)],
            trims: vec![(5, 5)],
            last_write_ts: 1004,
        })
    };
    let job = |seq, state| StoredJob {
        seq,
        state,
        deliveries: 2,
        bytes: 7,
        at: 5000,
        token: LeaseToken(1 << 64 | 3),
        node: b"worker".to_vec(),
    };
    let router = RouterDef {
        id: RouterId(4),
        name: "a->b".into(),
        source: "a".into(),
        source_id: TopicId(1),
        dest: "b".into(),
        dest_id: TopicId(2),
        preserve_node: true,
        preserve_tag: true,
        filter: Some(TagMatch::Prefix(b"sale:".to_vec())),
        allow_cycle: false,
        exactly_once: true,
        start: 0,
    };
    let block = |offset, first_seq| BlockMeta {
        offset,
        bytes: 100,
        first_seq,
        last_seq: first_seq + 3,
        count: 4,
        counted_bytes: 40,
        first_ts: 1,
        last_ts: 2,
        has_tags: true,
    };
    let run = Run {
        topic: TopicId(1),
        blocks: vec![block(4096, 1), block(4196, 5)],
        tags: vec![TagPlace { offset: 4296, bytes: 90, first_seq: 1, last_seq: 8 }],
    };
    let link =
        LinkState { router: RouterId(4), dest: TopicId(2), position: 17, forwarded_total: 9, epoch: 1 };
    vec![
        topic(1, "a"),
        topic(2, "b"),
        topic(3, "gone"),
        Edit::Leases(TopicId(2), vec![job(13, JobState::Leased), job(14, JobState::Delayed)]),
        Edit::AddSegment { id: SegmentId(7), file_bytes: 16384, shared: true },
        Edit::AddRun(SegmentId(7), run),
        Edit::AddSegment { id: SegmentId(6), file_bytes: 16384, shared: false },
        Edit::RemoveSegment(SegmentId(6)),
        Edit::Dedup(Dedup { topic: TopicId(1), key_hash: 1 << 70, first_seq: 3, count: 2, ts: 1000 }),
        Edit::Router(router),
        Edit::RouterDrop(RouterId(3)),
        Edit::Link(link),
        Edit::LinkGone(RouterId(2)),
        Edit::Drop(TopicId(3)),
    ]
}

/// A checkpoint with all of [`edits`].
pub(crate) static CHECKPOINT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut disk = MemoryDisk::default();
    let head = checkpoint_head(CHECKPOINT_NUMBER);
    let written = disk.run(async |io| write_checkpoint(&io, CHECKPOINT_DIR, &head, edits()).await);
    written.expect("a disk without faults");
    disk.contents(&checkpoint_path()).to_vec()
});

/// Changes a file as the input says: bytes, numbers of four and eight, the end.
pub(crate) fn change(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    while !input.is_empty() && !bytes.is_empty() {
        let what = input.byte();
        let at = usize::from(input.u16()) % bytes.len();
        let mut put = |new: &[u8]| {
            let end = (at + new.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&new[..end - at]);
        };
        match what % 6 {
            0 => bytes[at] = input.byte(),
            1 => bytes[at] ^= 1 << (input.byte() & 7),
            2 => put(&(input.u64() as u32).to_le_bytes()),
            3 => put(&(input.u64() >> (input.byte() & 63)).to_le_bytes()),
            4 => bytes.truncate(at),
            _ => bytes.extend_from_slice(input.piece()),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes
        .get(at..at + 4)
        .map_or(usize::MAX, |four| u32::from_le_bytes(four.try_into().expect("four")) as usize)
}

fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Makes every checksum of a segment hold that can be found.
pub(crate) fn reseal_segment(bytes: &mut [u8]) {
    for at in 0..bytes.len().saturating_sub(48) {
        if !matches!(&bytes[at..at + 4], b"RBK1" | b"RTG1") {
            continue;
        }
        let body_bytes = u32_at(bytes, at + 4);
        if let Some(body) = bytes[at + 48..].get(..body_bytes) {
            let crc = crc32c(body);
            put_u32(bytes, at + 36, crc);
        }
        let crc = crc32c(&bytes[at..at + 44]);
        put_u32(bytes, at + 44, crc);
    }
    if bytes.len() < 8192 {
        return;
    }
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight")) as usize;
    let (footer, footer_bytes) = (number(32), number(40));
    let footer_end = footer.saturating_add(footer_bytes);
    let footer_crc = bytes.get(footer..footer_end).map(crc32c);
    for block in [0, bytes.len() - 4096] {
        if let Some(crc) = footer_crc {
            put_u32(bytes, block + 48, crc);
        }
        let crc = crc32c(&bytes[block..block + 4092]);
        put_u32(bytes, block + 4092, crc);
    }
}

/// Makes every checksum of a checkpoint hold, frame after frame, and the trailer's counts of frames and bytes.
pub(crate) fn reseal_checkpoint(bytes: &mut [u8]) {
    let (mut at, mut frames, mut sum, mut headers) = (0, 0u32, 0u64, 0);
    while at + 32 <= bytes.len() && bytes[at..at + 4] == *b"RCKP" {
        let body_bytes = u32_at(bytes, at + 8);
        let Some(body) = bytes[at + 32..].get(..body_bytes) else { break };
        let is_trailer = bytes[at + 6] == 3 && body.len() >= 24;
        if is_trailer {
            let body = &mut bytes[at + 32..at + 56];
            body[8..16].copy_from_slice(&sum.to_le_bytes());
            body[16..20].copy_from_slice(&frames.to_le_bytes());
            put_u32(body, 20, headers);
        }
        let crc = crc32c(&bytes[at + 32..at + 32 + body_bytes]);
        put_u32(bytes, at + 24, crc);
        let crc = crc32c(&bytes[at..at + 28]);
        put_u32(bytes, at + 28, crc);
        headers = crc32c::crc32c_append(headers, &bytes[at..at + 32]);
        (frames, sum) = (frames + 1, sum + body_bytes as u64);
        at += 32 + body_bytes;
    }
}

/// Makes every checksum of a log file hold, block after block, and the chain of them.
pub(crate) fn reseal_log(bytes: &mut [u8]) {
    let mut before = None;
    for at in (0..bytes.len().saturating_sub(63)).step_by(4096) {
        if bytes[at..at + 8] == *b"RUNELOG\0" {
            let crc = crc32c(&bytes[at..at + 60]);
            put_u32(bytes, at + 60, crc);
        } else if bytes[at..at + 4] == *b"RBLK" {
            let payload_bytes = u32_at(bytes, at + 12);
            if let Some(payload) = bytes[at + 64..].get(..payload_bytes) {
                let crc = crc32c(payload);
                put_u32(bytes, at + 52, crc);
            }
            if let Some(crc) = before {
                put_u32(bytes, at + 48, crc);
            }
            let crc = crc32c(&bytes[at..at + 60]);
            put_u32(bytes, at + 60, crc);
            before = Some(crc);
        }
    }
}
