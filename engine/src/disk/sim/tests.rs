//! The promises of the simulated disk, each over many seeds: what must survive always does, what may
//! be lost is lost for some seed and survives for another.

use super::super::io::Io;
use super::*;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::mem::{AlignedBuf, Chunk};

const SEEDS: std::ops::Range<u64> = 0..200;
const EIO: DiskError = DiskError(libc::EIO);

/// A disk driven one operation at a time.
struct Bench {
    disk: SimDisk,
    io: Io,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        Bench { disk: SimDisk::new(seed), io: Io::default() }
    }

    fn run(&mut self, op: Op) -> Done {
        let future = self.io.run(op);
        self.disk.block_on(&self.io, future).expect("no cut")
    }

    fn ok(&mut self, op: Op) -> u64 {
        self.run(op).result.expect("no fault")
    }

    fn open(&mut self, path: &str, mode: OpenMode) -> FileId {
        FileId(self.ok(Op::Open { path: path.into(), mode }) as u32)
    }

    /// A file whose name is durable.
    fn file(&mut self, path: &str) -> FileId {
        let file = self.open(path, OpenMode::ReadWrite);
        self.ok(Op::SyncDir { path: String::new() });
        file
    }

    fn write(&mut self, file: FileId, block: u64, byte: u8) {
        self.ok(write(file, block, byte));
    }

    fn write_synced(&mut self, file: FileId, block: u64, byte: u8) {
        self.ok(write_synced(file, block, byte));
    }

    fn sync(&mut self, file: FileId) {
        self.ok(Op::Sync { file });
    }

    fn contents(&self, path: &str) -> Vec<u8> {
        self.disk.contents(path).expect("there").to_vec()
    }
}

fn write(file: FileId, block: u64, byte: u8) -> Op {
    let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
    buf.fill(byte);
    Op::Write { file, offset: block * BLOCK_BYTES as u64, buf, len: BLOCK_BYTES as u32 }
}

fn write_synced(file: FileId, block: u64, byte: u8) -> Op {
    let chunk = Chunk::zeroed();
    chunk.write(0, &[byte; BLOCK_BYTES]);
    chunk.freeze(BLOCK_BYTES);
    let (offset, len) = (block * BLOCK_BYTES as u64, BLOCK_BYTES as u32);
    Op::WriteChunk { file, offset, chunk, start: 0, len, sync: true }
}

/// Asserts that a claim is true for quite some seeds and false for others.
fn sometimes(what: &str, mut claim: impl FnMut(u64) -> bool) {
    let count = SEEDS.filter(|&seed| claim(seed)).count();
    let few = SEEDS.count() / 40; // rarer than that is an accident
    assert!(count > few, "{what}: {count} times");
    assert!(count < SEEDS.count() - few, "{what}: {count} times");
}

#[test]
fn synced_bytes_and_lengths_survive_a_power_loss() {
    for seed in SEEDS {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        (0..3).for_each(|block| b.write(file, block, 7));
        b.sync(file);
        b.write_synced(file, 3, 8);
        b.disk.crash(Crash::PowerLoss);
        let expected = [[7; BLOCK_BYTES], [7; BLOCK_BYTES], [7; BLOCK_BYTES], [8; BLOCK_BYTES]].concat();
        assert!(b.contents("f") == expected, "seed {seed}");
    }
}

#[test]
fn unsynced_sectors_survive_or_not_each_by_itself() {
    let after = |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.sync(file);
        b.write(file, 0, 2);
        b.disk.crash(Crash::PowerLoss);
        let stored = b.contents("f");
        let sectors: Vec<u8> = stored.chunks(512).map(|sector| sector[0]).collect();
        assert!(stored.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
        assert!(sectors.iter().all(|byte| [1, 2].contains(byte)), "seed {seed}: {sectors:?}");
        sectors
    };
    sometimes("all lost", |seed| after(seed) == [1; 8]);
    sometimes("all kept", |seed| after(seed) == [2; 8]);
    sometimes("a mixture", |seed| after(seed).iter().any(|byte| *byte != after(seed)[0]));
}

#[test]
fn a_synced_write_says_nothing_about_other_writes() {
    sometimes("the earlier write is lost", |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.write_synced(file, 1, 2);
        b.disk.crash(Crash::PowerLoss);
        let stored = b.contents("f");
        assert!(stored.len() == 2 * BLOCK_BYTES && stored[BLOCK_BYTES..] == [2; BLOCK_BYTES], "seed {seed}");
        stored[..BLOCK_BYTES] != [1; BLOCK_BYTES]
    });
}

#[test]
fn a_sync_covers_what_completed_before_it_was_submitted() {
    sometimes("a write beside the sync is lost", |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.write(file, 1, 1);
        b.disk.submit(Tag(900), Op::Sync { file });
        b.disk.submit(Tag(901), write(file, 0, 2));
        let mut done = Vec::new();
        while done.len() < 2 {
            b.disk.wait();
            b.disk.poll(&mut done);
        }
        b.disk.crash(Crash::PowerLoss);
        let stored = b.contents("f");
        assert!(stored[BLOCK_BYTES..] == [1; BLOCK_BYTES], "seed {seed}: covered");
        assert!(
            stored.chunks(512).all(|sector| sector[0] != 0),
            "seed {seed}: the covered version or a later"
        );
        done[0].tag == Tag(901) && stored[0] == 1
    });
    sometimes("a change of the directory beside its sync is lost", |seed| {
        let mut b = Bench::new(seed);
        b.file("f");
        b.disk.submit(Tag(900), Op::SyncDir { path: "".into() });
        b.disk.submit(Tag(901), Op::Remove { path: "f".into() });
        let mut done = Vec::new();
        while done.len() < 2 {
            b.disk.wait();
            b.disk.poll(&mut done);
        }
        b.disk.crash(Crash::PowerLoss);
        done[0].tag == Tag(901) && b.disk.contents("f").is_some()
    });
}

#[test]
fn lengths_are_durable_only_by_a_sync() {
    let after = |seed, sync| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.ok(Op::Allocate { file, bytes: 65536 });
        if sync {
            b.sync(file);
        }
        b.disk.crash(Crash::PowerLoss);
        assert!(b.contents("f").iter().all(|&byte| byte == 0));
        b.contents("f").len()
    };
    assert!(SEEDS.into_iter().all(|seed| after(seed, true) == 65536));
    sometimes("the length is lost", |seed| after(seed, false) == 0);
    sometimes("the length is kept", |seed| after(seed, false) == 65536);
    sometimes("in between", |seed| (1..65536).contains(&after(seed, false)));
}

#[test]
fn a_kill_keeps_what_completed() {
    for seed in SEEDS {
        let mut b = Bench::new(seed);
        let file = b.open("f", OpenMode::ReadWrite);
        b.write(file, 0, 1);
        b.ok(Op::MakeDir { path: "d".into() });
        b.ok(Op::Rename { from: "f".into(), to: "d/g".into() });
        b.disk.crash(Crash::Kill);
        assert_eq!(b.disk.files(), [("d/g".to_owned(), BLOCK_BYTES as u64)], "seed {seed}");
        assert!(b.contents("d/g") == [1; BLOCK_BYTES]);
        assert_eq!(b.run(Op::Sync { file }).result, Err(DiskError(libc::EBADF)), "files are closed");
        b.disk.crash(Crash::PowerLoss); // a kill makes nothing durable
    }
}

#[test]
fn operations_in_flight_at_a_kill_happen_wholly_in_part_or_not() {
    let after = |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.disk.submit(Tag(900), write_synced(file, 0, 2));
        b.disk.submit(Tag(901), Op::Rename { from: "f".into(), to: "g".into() });
        b.disk.crash(Crash::Kill);
        assert_eq!(b.disk.in_flight(), 0);
        let (path, _) = b.disk.files().pop().expect("one file");
        let new = b.contents(&path).chunks(512).filter(|sector| sector[0] == 2).count();
        (path, new)
    };
    sometimes("renamed", |seed| after(seed).0 == "g");
    sometimes("not written", |seed| after(seed).1 == 0);
    sometimes("written", |seed| after(seed).1 == 8);
    sometimes("torn", |seed| (1..8).contains(&after(seed).1));
}

#[test]
fn names_are_durable_by_a_sync_of_their_directory() {
    let after = |seed, synced: &[&str]| {
        let mut b = Bench::new(seed);
        b.ok(Op::MakeDir { path: "a".into() });
        b.ok(Op::MakeDir { path: "b".into() });
        b.ok(Op::SyncDir { path: ".".into() });
        for path in ["a/one", "a/two", "b/three"] {
            let file = b.open(path, OpenMode::Create);
            b.sync(file);
        }
        b.ok(Op::Remove { path: "a/two".into() });
        b.ok(Op::Rename { from: "a/one".into(), to: "a/four".into() });
        for &path in synced {
            b.ok(Op::SyncDir { path: path.into() });
        }
        b.disk.crash(Crash::PowerLoss);
        b.disk.files().into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    for seed in SEEDS {
        assert_eq!(after(seed, &["a", "b"]), ["a/four", "b/three"], "seed {seed}");
        let mut files = after(seed, &["b"]);
        assert_eq!(files.pop().as_deref(), Some("b/three"), "seed {seed}");
        let prefixes: [&[&str]; 5] = [&[], &["a/one"], &["a/one", "a/two"], &["a/one"], &["a/four"]];
        assert!(prefixes.iter().any(|prefix| files == *prefix), "seed {seed}: {files:?}");
    }
    sometimes("a file synced without its directory is lost", |seed| after(seed, &["a"]) == ["a/four"]);
    sometimes("all survive", |seed| after(seed, &[]) == ["a/four", "b/three"]);
    sometimes("a prefix survives", |seed| after(seed, &[]).contains(&"a/two".to_owned()));
}

#[test]
fn a_rename_between_directories_is_one_change() {
    for (seed, synced) in SEEDS.flat_map(|seed| [(seed, ""), (seed, "a"), (seed, "b")]) {
        let mut b = Bench::new(seed);
        b.ok(Op::MakeDir { path: "a".into() });
        b.ok(Op::MakeDir { path: "b".into() });
        b.ok(Op::SyncDir { path: "".into() });
        b.open("a/f", OpenMode::Create);
        b.ok(Op::Rename { from: "a/f".into(), to: "b/f".into() });
        b.ok(Op::SyncDir { path: synced.into() });
        b.disk.crash(Crash::PowerLoss);
        let files = b.disk.files();
        assert!(files.len() <= 1, "seed {seed}: {files:?}");
        assert!(synced.is_empty() || files == [("b/f".to_owned(), 0)], "seed {seed}: {files:?}");
    }
}

#[test]
fn what_stands_in_a_directory_that_is_lost_is_lost() {
    sometimes("the directory is lost", |seed| {
        let mut b = Bench::new(seed);
        b.ok(Op::MakeDir { path: "d".into() });
        b.open("d/f", OpenMode::Create);
        b.ok(Op::SyncDir { path: "d".into() });
        b.disk.crash(Crash::PowerLoss);
        let gone = b.run(Op::List { path: "d".into() }).result == Err(DiskError(libc::ENOENT));
        assert_eq!(gone, b.disk.files().is_empty(), "seed {seed}");
        gone
    });
}

#[test]
fn a_removed_or_emptied_file_may_come_back_until_synced() {
    sometimes("the removed file is back", |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.sync(file);
        b.ok(Op::Close { file });
        b.ok(Op::Remove { path: "f".into() });
        assert_eq!(b.disk.files(), []);
        b.disk.crash(Crash::PowerLoss);
        let back = !b.disk.files().is_empty();
        assert!(!back || b.contents("f") == [1; BLOCK_BYTES], "seed {seed}");
        back
    });
    sometimes("the old contents are back", |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.sync(file);
        let file = b.open("f", OpenMode::Create);
        assert_eq!(b.contents("f"), []);
        if seed % 2 == 0 {
            b.sync(file);
        }
        b.disk.crash(Crash::PowerLoss);
        let back = b.contents("f") == [1; BLOCK_BYTES];
        assert!(!back || seed % 2 == 1, "seed {seed}: synced empty");
        back
    });
}

#[test]
fn the_seed_alone_decides() {
    let history = |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        (0..20).for_each(|i| b.disk.submit(Tag(900 + i), write(file, i, i as u8 + 1)));
        let mut done = Vec::new();
        while done.len() < 10 {
            b.disk.wait();
            b.disk.poll(&mut done);
        }
        b.disk.crash(Crash::PowerLoss);
        (done.iter().map(|done| done.tag.0).collect::<Vec<_>>(), b.contents("f"))
    };
    for seed in SEEDS {
        assert!(history(seed) == history(seed), "seed {seed}");
    }
    assert!(history(1) != history(2));
    sometimes("the oldest of twenty completes first", |seed| history(seed).0[0] == 900);
    sometimes("one of the last five completes first", |seed| history(seed).0[0] >= 915);
}

#[test]
fn every_crash_point_of_a_replacement_leaves_the_old_file_or_the_new() {
    let replace = |io: Io| async move {
        let file = io.open("f.new", OpenMode::Create).await?;
        let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
        buf.fill(2);
        io.write(file, 0, buf, BLOCK_BYTES).await?;
        io.sync(file).await?;
        io.rename("f.new", "f").await?;
        io.sync_dir("").await
    };
    let crash_at = |seed, cut: Option<u64>, kind| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.sync(file);
        let before = b.disk.completed();
        if let Some(count) = cut {
            b.disk.cut_after(count);
        }
        let ended = b.disk.block_on(&b.io, replace(b.io.clone()));
        assert_eq!(ended, if cut.is_some() { None } else { Some(Ok(())) });
        assert_eq!(b.disk.is_cut(), cut.is_some());
        let points = b.disk.completed() - before;
        assert_eq!(cut.unwrap_or(points), points);
        b.disk.crash(kind);
        assert!(!b.disk.is_cut());
        let stored = b.contents("f");
        assert!([[1; BLOCK_BYTES], [2; BLOCK_BYTES]].iter().any(|whole| stored == whole), "{seed} {cut:?}");
        (points, stored[0])
    };
    let (points, _) = crash_at(0, None, Crash::Kill);
    assert_eq!(points, 5);
    for seed in SEEDS {
        assert_eq!(crash_at(seed, None, Crash::PowerLoss).1, 2, "seed {seed}: finished");
        for kind in [Crash::Kill, Crash::PowerLoss] {
            for cut in 0..points {
                crash_at(seed, Some(cut), kind);
            }
        }
    }
}

#[test]
fn nothing_completes_after_a_cut() {
    for seed in SEEDS {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.disk.cut_after(2);
        (0..5).for_each(|i| b.disk.submit(Tag(900 + i), write(file, i, 1)));
        let mut done = Vec::new();
        for _ in 0..20 {
            b.disk.wait();
            b.disk.poll(&mut done);
        }
        assert_eq!((done.len(), b.disk.is_cut(), b.disk.in_flight()), (2, true, 3), "seed {seed}");
    }
}

#[test]
fn a_failed_write_leaves_its_range_undefined() {
    sometimes("neither old nor new", |seed| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write(file, 0, 1);
        b.disk.fail_nth_write(2);
        b.write(file, 0, 2);
        let done = b.run(write(file, 0, 3));
        assert!(done.result == Err(EIO) && done.buf.is_some(), "seed {seed}");
        b.write(file, 1, 4);
        assert!(b.contents("f")[BLOCK_BYTES..] == [4; BLOCK_BYTES], "seed {seed}: others are untouched");
        b.contents("f")[..BLOCK_BYTES].iter().any(|byte| ![2, 3].contains(byte))
    });
}

#[test]
fn after_a_failed_sync_no_later_one_helps_unless_the_bytes_are_written_again() {
    let after = |seed, again| {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write_synced(file, 0, 1);
        b.disk.fail_nth_sync(1);
        b.write(file, 0, 2);
        assert_eq!(b.run(Op::Sync { file }).result, Err(EIO));
        if again {
            b.write(file, 0, 2);
        }
        b.sync(file);
        let (seen, new) = (b.contents("f"), [2; BLOCK_BYTES]);
        b.disk.crash(Crash::PowerLoss);
        (seen == new, b.contents("f") == new)
    };
    sometimes("seen and survived", |seed| after(seed, false) == (true, true));
    sometimes("seen and lost all the same", |seed| after(seed, false) == (true, false));
    sometimes("gone at once", |seed| !after(seed, false).0);
    assert!(SEEDS.into_iter().all(|seed| after(seed, true) == (true, true)));
    let mut b = Bench::new(1);
    b.disk.fail_nth_sync(2);
    b.ok(Op::SyncDir { path: "".into() });
    assert_eq!(b.run(Op::SyncDir { path: "".into() }).result, Err(EIO), "directories count");
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let mut b = Bench::new(1);
    let file = b.file("f");
    b.write(file, 0, 1);
    b.disk.full_after_bytes(BLOCK_BYTES as u64);
    b.write(file, 1, 1);
    let full = Err(DiskError(libc::ENOSPC));
    assert_eq!(b.run(write(file, 2, 1)).result, full);
    assert_eq!(b.run(Op::Allocate { file, bytes: 65536 }).result, full);
    b.write(file, 0, 2);
    b.disk.lift_full();
    b.write(file, 2, 1);

    for seed in SEEDS {
        let mut b = Bench::new(seed);
        let file = b.file("f");
        b.write_synced(file, 0, 1);
        b.open("f", OpenMode::Create);
        b.disk.full_after_bytes(0);
        b.disk.crash(Crash::PowerLoss); // may bring more bytes back than there is room for
        let file = b.open("f", OpenMode::ReadWrite);
        let grows = b.contents("f").len() < BLOCK_BYTES;
        assert_eq!(b.run(write(file, 0, 2)).result == full, grows, "seed {seed}");
    }
}

#[test]
fn damage_is_done_where_asked() {
    let mut b = Bench::new(1);
    let file = b.file("f");
    b.write(file, 0, 1);
    b.disk.flip_bit("f", 9, 7);
    assert_eq!(b.contents("f")[8..11], [1, 129, 1]);
    b.disk.truncate("f", 700);
    let read = |file| Op::Read { file, offset: 0, buf: AlignedBuf::zeroed(8192) };
    assert_eq!(b.run(read(file)).result, Ok(700));
    b.disk.crash(Crash::PowerLoss);
    assert!(b.contents("f").len() == 700);
    b.disk.read_error("f");
    let file = b.open("f", OpenMode::Read);
    assert_eq!(b.run(read(file)).result, Err(EIO));
}

#[test]
fn error_codes_are_those_of_the_real_disk() {
    let mut b = Bench::new(1);
    let text = |path: &str| path.to_owned();
    b.ok(Op::MakeDir { path: text("d") });
    b.ok(Op::MakeDir { path: text("d") });
    let file = b.open("d/f", OpenMode::Create);
    b.write(file, 0, 7);
    b.write(file, 1, 8);
    let reader = b.open("d/f", OpenMode::Read);
    let absent = || text("absent");
    let table = [
        (Op::Open { path: absent(), mode: OpenMode::Read }, Err(libc::ENOENT)),
        (Op::Open { path: text("absent/f"), mode: OpenMode::Create }, Err(libc::ENOENT)),
        (Op::Open { path: text("d"), mode: OpenMode::ReadWrite }, Err(libc::EISDIR)),
        (write(reader, 0, 1), Err(libc::EBADF)),
        (write(FileId(99), 0, 1), Err(libc::EBADF)),
        (Op::Close { file: FileId(99) }, Err(libc::EBADF)),
        (Op::Rename { from: absent(), to: text("x") }, Err(libc::ENOENT)),
        (Op::Remove { path: absent() }, Ok(0)),
        (Op::RemoveDir { path: absent() }, Ok(0)),
        (Op::RemoveDir { path: text("d") }, Err(libc::ENOTEMPTY)),
        (Op::MakeDir { path: text("absent/d") }, Err(libc::ENOENT)),
        (Op::SyncDir { path: absent() }, Err(libc::ENOENT)),
        (Op::List { path: absent() }, Err(libc::ENOENT)),
        (Op::List { path: text("d/") }, Ok(1)),
        (Op::List { path: text("") }, Ok(0)),
        (Op::Read { file, offset: 4096, buf: AlignedBuf::zeroed(8192) }, Ok(4096)),
        (Op::Read { file, offset: 8192, buf: AlignedBuf::zeroed(4096) }, Ok(0)),
        (Op::Read { file, offset: 1 << 30, buf: AlignedBuf::zeroed(4096) }, Ok(0)),
        (Op::ReadChunk { file, offset: 0, chunk: Chunk::zeroed(), len: CHUNK_BYTES as u32 }, Ok(8192)),
    ];
    for (op, result) in table {
        let what = format!("{op:?}");
        assert_eq!(b.run(op).result, result.map_err(DiskError), "{what}");
    }
}

#[test]
#[should_panic(expected = "offset 512")]
fn a_misaligned_operation_is_our_own_mistake() {
    let mut b = Bench::new(1);
    let file = b.file("f");
    b.run(Op::Read { file, offset: 512, buf: AlignedBuf::zeroed(4096) });
}

#[test]
fn jobs_write_aside_and_rename() {
    for seed in SEEDS {
        let mut disk = SimDisk::new(seed);
        super::super::tests::write_aside_and_rename(&Io::default(), &mut disk);
    }
}
