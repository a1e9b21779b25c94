//! The log: entries of a payload, and blocks of a file.

use runelog_engine::event::{Batch, RecordSpan, Span};
use runelog_engine::ids::TopicId;
use runelog_engine::limits::BLOCK_BYTES;
use runelog_engine::queue::entry::{decode_jobs, encode_jobs};
use runelog_engine::wal::format::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, SKIP};
use runelog_engine::wal::frame::{Piece, PieceOf, RecordsEntry, split_entry};
use runelog_engine::wal::walk::{Entry, Gap, Place, entries as walk, walk_chunk};

use crate::input::Input;

/// `mode, …`: a payload; or records to be written and read.
pub(crate) fn entries(input: &[u8]) {
    let mut input = Input::new(input);
    if input.byte() & 1 == 0 {
        payload(input.rest());
    } else {
        written(input);
    }
}

fn payload(bytes: &[u8]) {
    let mut left = bytes.len();
    for entry in walk(bytes) {
        let Ok((entry, _)) = entry else { return };
        let topic = entry.topic();
        match entry {
            Entry::Records(records) => {
                assert!(records.header.entry_bytes() <= left, "an entry beyond its payload");
                left -= records.header.entry_bytes();
                walked(&records, bytes);
            }
            Entry::Lease { jobs, .. } => {
                let mut again = Vec::new();
                encode_jobs(topic.expect("a lease is of a topic"), &jobs, &mut again);
                assert_eq!(decode_jobs(&again), Ok((topic.expect("a topic"), jobs)), "I-85");
            }
            _ => {}
        }
    }
}

fn walked(records: &RecordsEntry<'_>, bytes: &[u8]) {
    let inside = bytes.as_ptr_range();
    let header = records.header;
    for from in
        [0, header.first_seq, header.first_seq + u64::from(header.count) / 2, header.last_seq(), u64::MAX]
    {
        let (mut before, mut sum) = (from.max(header.first_seq), 0);
        for record in records.records_from(from) {
            let Ok(record) = record else { break };
            assert_eq!(record.seq, before, "I-2: seqs are dense");
            before += 1;
            for part in [Some(record.data), record.meta, record.tag, record.node].into_iter().flatten() {
                let part = part.as_ptr_range();
                assert!(inside.start <= part.start && part.end <= inside.end, "I-97: bytes from elsewhere");
            }
            sum += 1;
        }
        assert!(sum <= u64::from(header.count), "more records than there are");
    }
}

/// What one record is: data, meta, tag, node.
type Parts = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

fn written(mut input: Input<'_>) {
    let room = 64 + usize::from(input.u16());
    let key = input.piece().to_vec();
    let (mut body, mut side, mut spans, mut wanted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    while !input.is_empty() && spans.len() < 1000 {
        let flags = input.byte();
        let data = input.piece();
        let part = |input: &mut Input<'_>, flag: u8, most: usize| {
            (flags & flag != 0).then(|| input.piece()).map(|part| part[..part.len().min(most)].to_vec())
        };
        let (meta, tag, node) =
            (part(&mut input, 1, 255), part(&mut input, 2, 255), part(&mut input, 4, 128));
        for _ in 0..1 + (flags >> 4) {
            let put = |buffer: &mut Vec<u8>, bytes: &[u8]| {
                buffer.extend_from_slice(bytes);
                (buffer.len() - bytes.len(), bytes.len())
            };
            let (start, bytes) = put(&mut body, data);
            let data_span = Span::body(start, bytes);
            let optional = |buffer: &mut Vec<u8>, span: fn(usize, usize) -> Span, bytes: &Option<Vec<u8>>| {
                bytes.as_ref().map_or(Span::ABSENT, |bytes| {
                    let (start, bytes) = put(buffer, bytes);
                    span(start, bytes)
                })
            };
            let meta_span = optional(&mut body, Span::body, &meta);
            let tag = (optional(&mut side, Span::side, &tag), tag.clone());
            let node = (optional(&mut side, Span::side, &node), node.clone());
            spans.push(RecordSpan { data: data_span, meta: meta_span, tag: tag.0, node: node.0 });
            wanted.push((data.to_vec(), meta.clone(), tag.1, node.1));
        }
    }
    let batch = Batch { body: &body, side: &side, records: &spans };
    let (mut start, mut payload) = (0, Vec::new());
    while start < spans.len() {
        let key = (start == 0).then_some(&key[..]);
        let piece = Piece::cut(&batch, start, key.map_or(0, <[u8]>::len), room);
        if piece.end == start {
            break; // not even one record fits
        }
        let to = PieceOf {
            topic: TopicId(3),
            batch_first_seq: 10,
            ts: -5,
            key,
            hops: 2,
            last: piece.end == spans.len(),
        };
        let before = payload.len();
        piece.put(&mut payload, &batch, &to);
        assert!(payload.len() - before <= room, "an entry larger than its room");
        start = piece.end;
    }
    let mut found: Vec<Parts> = Vec::new();
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let (head, body, after) = split_entry(rest).expect("I-97: what was written");
        let entry = RecordsEntry::decode(body).expect("I-97: what was written");
        assert_eq!(entry.key, (found.is_empty()).then_some(&key[..]), "I-72");
        assert_eq!(entry.header.first_seq, 10 + found.len() as u64, "I-2");
        let first = entry.header.first_seq;
        let all: Vec<_> = entry.records_from(0).map(|record| record.expect("what was written")).collect();
        assert_eq!(all.len(), entry.header.count as usize, "I-97");
        // Every place to enter, by the skip table too.
        for (index, record) in all.iter().enumerate() {
            let entered = entry.records_from(first + index as u64).next();
            assert_eq!(entered, Some(Ok(*record)), "I-97: the skip table");
        }
        let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        found.extend(
            all.iter().map(|record| {
                (record.data.to_vec(), owned(record.meta), owned(record.tag), owned(record.node))
            }),
        );
        assert_eq!(head.last, after.is_empty() && found.len() == spans.len(), "I-55");
        rest = after;
    }
    assert_eq!(found, wanted[..start], "I-97");
}

const FILE: FileHeader = FileHeader {
    shard: 1,
    directory: 2,
    number: 3,
    file_bytes: 4 << 20,
    epoch: 5,
    first_block: 6,
    prev_crc: 7,
};

/// `mode, …`: a file; or blocks to be put into one.
pub(crate) fn blocks(input: &[u8]) {
    let mut input = Input::new(input);
    if input.byte() & 1 == 0 {
        let bytes = input.rest();
        if let Ok(Some(header)) = FileHeader::decode(bytes) {
            assert_eq!(FileHeader::decode(&header.encode()), Ok(Some(header)), "I-99");
            let offsets = walk_chunk(&header, bytes, 0).into_iter().map(|place| match place {
                Place::Block { offset, .. } | Place::Gap { offset, .. } => offset,
            });
            assert!(offsets.is_sorted(), "places ascend");
        }
        return;
    }
    let mut file = vec![0; BLOCK_BYTES];
    let mut wanted = Vec::new();
    let mut number = 6;
    while !input.is_empty() && file.len() < 1 << 20 {
        let (kind, piece) = (input.byte(), input.piece());
        let payload = piece.repeat(1 + usize::from(kind >> 6) * 20);
        let offset = file.len() as u64;
        let mut header = BlockHeader {
            flags: 0,
            shard: FILE.shard,
            payload_bytes: payload.len() as u32,
            epoch: FILE.epoch,
            number,
            lsn: FILE.number * FILE.file_bytes + offset,
            synced_through: number.saturating_sub(2),
            prev_crc: 0,
            payload_crc: crc32c::crc32c(&payload),
        };
        number += 1;
        match kind & 0x1f {
            1 => header.epoch -= 1,
            2 => header.lsn += BLOCK_BYTES as u64,
            3 => header.shard += 1,
            4 => header.payload_crc ^= 1,
            5 => header.flags = 2,
            6 => header.payload_bytes += 1 << 21,
            _ => {}
        }
        let (mut head, crc) = header.encode();
        assert_eq!(BlockHeader::decode(&head).is_ok(), !matches!(kind & 0x1f, 5 | 6), "a header by the book");
        if kind & 0x1f == 7 {
            head[usize::from(kind >> 5) * 8] ^= 0x10;
        }
        file.extend_from_slice(&head);
        file.extend_from_slice(&payload);
        file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
        if !(1..=7).contains(&(kind & 0x1f)) {
            wanted.push((offset, header, crc, payload));
        }
    }
    let found = walk_chunk(&FILE, &file, 0);
    let mut held = found.iter().filter_map(|place| match place {
        Place::Block { offset, header, crc, payload } => Some((*offset, *header, *crc, payload.to_vec())),
        Place::Gap { .. } => None,
    });
    // A payload may hold a block of its own only with this file's numbers and checksums: not by chance.
    for block in wanted {
        assert_eq!(held.next(), Some(block), "I-97: a block that was written");
    }
    assert_eq!(held.next(), None, "I-97: a block that nobody wrote");
    assert!(
        found.iter().all(|place| !matches!(place, Place::Block { header, .. } if header.flags & SKIP != 0))
    );
    assert!(
        matches!(found.last(), Some(Place::Gap { why: Gap::End | Gap::Zeros, .. }))
            || file.len() > BLOCK_HEADER_BYTES
    );
}
