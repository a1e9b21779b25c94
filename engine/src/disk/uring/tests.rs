//! The real disk on real file systems: the one under the temporary directory, and tmpfs. Each test
//! runs with everything on, and with every optional feature off.

use super::super::io::{Io, block_on};
use super::super::{Disk, FileId, OpenMode};
use super::*;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};

const ENOENT: DiskError = DiskError(libc::ENOENT);
const BARE: DiskSettings = DiskSettings { in_flight_max: 3, buffer_slots: 0, file_slots: 0, o_direct: false };

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(parent: &Path, name: &str) -> Dir {
        let path = parent.join(format!("runelog-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a test in each place, with features on and off.
fn everywhere(name: &str, test: impl Fn(&mut OwnDisk, &Path)) {
    for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        for (variant, settings) in [("full", DiskSettings::default()), ("bare", BARE)] {
            if !parent.is_dir() {
                continue; // not every machine has tmpfs there
            }
            let dir = Dir::new(&parent, &format!("{name}-{variant}"));
            let mut disk = OwnDisk::new(&dir.0, settings).unwrap();
            println!("{}: {}", dir.0.display(), disk.features());
            test(&mut disk, &dir.0);
            assert_eq!(disk.in_flight(), 0);
        }
    }
}

fn open(disk: &mut OwnDisk, path: &str, mode: OpenMode) -> FileId {
    let io = Io::default();
    block_on(&io, disk, io.open(path, mode)).unwrap()
}

fn run(disk: &mut OwnDisk, op: Op) -> Done {
    let io = Io::default();
    block_on(&io, disk, io.run(op))
}

fn block(byte: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
    buf.fill(byte);
    buf
}

fn frozen_chunk() -> Chunk {
    let chunk = Chunk::zeroed();
    for at in (0..CHUNK_BYTES).step_by(BLOCK_BYTES) {
        chunk.write(at, &[(at / BLOCK_BYTES % 251) as u8 + 1; BLOCK_BYTES]);
    }
    chunk.freeze(CHUNK_BYTES);
    chunk
}

#[test]
fn chunk_writes_arrive_registered_or_not_synced_or_not() {
    everywhere("chunk", |disk, dir| {
        let expected = frozen_chunk();
        for (name, register) in [("plain", false), ("registered", true)] {
            let chunk = frozen_chunk();
            if register {
                let registered = disk.register_chunk(&chunk);
                let features = disk.features();
                assert_eq!(registered, features.buffers_refusal.is_none(), "{features}");
                assert_eq!(features.registered_buffers, usize::from(registered));
            }
            let file = open(disk, name, OpenMode::ReadWrite);
            let (half, offset) = (CHUNK_BYTES as u32 / 2, BLOCK_BYTES as u64);
            for (start, sync) in [(0, false), (half, true)] {
                let op = Op::WriteChunk {
                    file,
                    offset: offset + u64::from(start),
                    chunk: chunk.clone(),
                    start,
                    len: half,
                    sync,
                };
                assert_eq!(run(disk, op).result, Ok(u64::from(half)), "{name}, sync {sync}");
            }
            assert!(chunk.is_unshared(), "the completion gives the chunk back");
            disk.unregister_chunk(&chunk);
            assert_eq!((chunk.registered(), disk.features().registered_buffers), (None, 0));
            let stored = fs::read(dir.join(name)).unwrap();
            assert!(stored[BLOCK_BYTES..] == *expected.bytes(0, CHUNK_BYTES), "{name}");

            let copy = Chunk::zeroed();
            let op = Op::ReadChunk { file, offset, chunk: copy.clone(), len: CHUNK_BYTES as u32 };
            assert_eq!(run(disk, op).result, Ok(CHUNK_BYTES as u64));
            copy.freeze(CHUNK_BYTES);
            assert!(copy.bytes(0, CHUNK_BYTES) == expected.bytes(0, CHUNK_BYTES), "{name}");
            assert_eq!(run(disk, Op::Close { file }).result, Ok(0));
        }
    });
}

#[test]
fn a_chunk_registered_elsewhere_is_written_the_plain_way() {
    let (dir_a, dir_b) =
        (Dir::new(&std::env::temp_dir(), "ring-a"), Dir::new(&std::env::temp_dir(), "ring-b"));
    let mut a = OwnDisk::new(&dir_a.0, DiskSettings::default()).unwrap();
    let mut b = OwnDisk::new(&dir_b.0, DiskSettings::default()).unwrap();
    let chunk = frozen_chunk();
    if !a.register_chunk(&chunk) {
        return; // no memory may be pinned here
    }
    let file = open(&mut b, "f", OpenMode::ReadWrite);
    let op = Op::WriteChunk { file, offset: 0, chunk, start: 0, len: 4096, sync: true };
    assert_eq!(run(&mut b, op).result, Ok(4096));
}

#[test]
fn chunks_beyond_the_memlock_limit_are_written_the_plain_way() {
    // 64 MiB: with the usual limit of 8 MiB, and without privileges, most are refused.
    let dir = Dir::new(&std::env::temp_dir(), "memlock");
    let mut disk = OwnDisk::new(&dir.0, DiskSettings::default()).unwrap();
    let chunks: Vec<Chunk> = (0..32).map(|_| frozen_chunk()).collect();
    let registered = chunks.iter().filter(|chunk| disk.register_chunk(chunk)).count();
    println!("{registered} registered: {}", disk.features());
    assert_eq!(disk.features().registered_buffers, registered);
    assert_eq!(disk.features().buffers_refusal.is_some(), registered < chunks.len());
    let file = open(&mut disk, "f", OpenMode::ReadWrite);
    for (i, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk.registered().is_some(), i < registered, "the first ones, while there is room");
        let op =
            Op::WriteChunk { file, offset: 0, chunk: chunk.clone(), start: 0, len: 4096, sync: i % 2 == 0 };
        assert_eq!(run(&mut disk, op).result, Ok(4096), "chunk {i}");
    }
}

#[test]
fn slots_run_out_and_come_back() {
    let dir = Dir::new(&std::env::temp_dir(), "slots");
    let settings = DiskSettings { buffer_slots: 2, file_slots: 1, ..DiskSettings::default() };
    let mut disk = OwnDisk::new(&dir.0, settings).unwrap();
    let chunks = [Chunk::zeroed(), Chunk::zeroed(), Chunk::zeroed()];
    if !chunks[..2].iter().all(|chunk| disk.register_chunk(chunk)) {
        return; // so much memory may not be pinned here
    }
    let again: Vec<bool> = chunks.iter().map(|chunk| disk.register_chunk(chunk)).collect();
    assert_eq!(again, [true, true, false], "the same chunk keeps its slot");
    disk.unregister_chunk(&chunks[0]);
    assert!(disk.register_chunk(&chunks[2]));

    for _ in 0..3 {
        let (a, b) = (open(&mut disk, "a", OpenMode::ReadWrite), open(&mut disk, "b", OpenMode::ReadWrite));
        for file in [a, b] {
            let op = Op::Write { file, offset: 0, buf: block(1), len: 4096 };
            assert_eq!(run(&mut disk, op).result, Ok(4096), "with and without a slot");
            assert_eq!(run(&mut disk, Op::Close { file }).result, Ok(0));
        }
    }
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    everywhere("read", |disk, dir| {
        let file = open(disk, "f", OpenMode::ReadWrite);
        for i in 0..3 {
            let op = Op::Write { file, offset: i * 4096, buf: block(i as u8 + 1), len: 4096 };
            assert_eq!(run(disk, op).result, Ok(4096));
        }
        let table = [(0, 1, 4096), (0, 3, 12288), (4096, 4, 8192), (12288, 1, 0), (1 << 30, 1, 0)];
        for (offset, blocks, read) in table {
            let buf = AlignedBuf::zeroed(blocks * BLOCK_BYTES);
            let done = run(disk, Op::Read { file, offset, buf });
            assert_eq!(done.result, Ok(read), "{blocks} blocks at {offset}");
            let buf = done.buf.expect("the buffer comes back");
            for (i, byte) in buf.iter().enumerate().take(read as usize) {
                assert_eq!(usize::from(*byte), offset as usize / 4096 + i / 4096 + 1);
            }
        }
        // A length that is no whole block, as another program may leave it.
        let cut = fs::OpenOptions::new().write(true).open(dir.join("f")).unwrap();
        cut.set_len(5000).unwrap();
        let done = run(disk, Op::Read { file, offset: 0, buf: AlignedBuf::zeroed(8192) });
        assert_eq!(done.result, Ok(5000));
    });
}

#[test]
fn names_appear_move_and_vanish() {
    everywhere("names", |disk, dir| {
        assert_eq!(run(disk, Op::MakeDir { path: "a/b".into() }).result, Err(ENOENT));
        for _ in 0..2 {
            assert_eq!(run(disk, Op::MakeDir { path: "a".into() }).result, Ok(0));
        }
        assert_eq!(run(disk, Op::Open { path: "a/f".into(), mode: OpenMode::Read }).result, Err(ENOENT));
        let file = open(disk, "a/f.new", OpenMode::Create);
        let op = Op::Write { file, offset: 0, buf: block(7), len: 4096 };
        assert_eq!(run(disk, op).result, Ok(4096));
        assert_eq!(run(disk, Op::Sync { file }).result, Ok(0));
        assert_eq!(run(disk, Op::Close { file }).result, Ok(0));
        let rename = || Op::Rename { from: "a/f.new".into(), to: "a/f".into() };
        assert_eq!(run(disk, rename()).result, Ok(0));
        assert_eq!(run(disk, rename()).result, Err(ENOENT));
        for path in ["a", "a", "", "."] {
            assert_eq!(run(disk, Op::SyncDir { path: path.into() }).result, Ok(0), "{path:?}");
        }
        assert_eq!(run(disk, Op::SyncDir { path: "absent".into() }).result, Err(ENOENT));
        assert_eq!(run(disk, Op::List { path: "a".into() }).names, [("f".to_owned(), 4096)]);
        assert_eq!(run(disk, Op::List { path: "".into() }).result, Ok(0), "directories are not listed");
        assert_eq!(run(disk, Op::List { path: "absent".into() }).result, Err(ENOENT));

        let not_empty = run(disk, Op::RemoveDir { path: "a".into() }).result;
        assert_eq!(not_empty, Err(DiskError(libc::ENOTEMPTY)));
        for _ in 0..2 {
            assert_eq!(run(disk, Op::Remove { path: "a/f".into() }).result, Ok(0));
            assert_eq!(run(disk, Op::RemoveDir { path: "a".into() }).result, Ok(0));
        }
        assert!(!dir.join("a").exists());
        assert_eq!(run(disk, Op::SyncDir { path: "a".into() }).result, Err(ENOENT), "not a cached one");
        assert_eq!(run(disk, Op::MakeDir { path: "a".into() }).result, Ok(0));
        assert_eq!(run(disk, Op::SyncDir { path: "a".into() }).result, Ok(0));
    });
}

#[test]
fn open_modes_keep_or_empty_and_closed_files_are_refused() {
    everywhere("modes", |disk, _| {
        let file = open(disk, "f", OpenMode::ReadWrite);
        let op = Op::Write { file, offset: 0, buf: block(7), len: 4096 };
        assert_eq!(run(disk, op).result, Ok(4096));
        assert_eq!(run(disk, Op::Close { file }).result, Ok(0));
        for op in [Op::Sync { file }, Op::Close { file }, Op::Allocate { file, bytes: 4096 }] {
            assert_eq!(run(disk, op).result, Err(DiskError(libc::EBADF)));
        }
        for (mode, len) in [(OpenMode::Read, 4096), (OpenMode::ReadWrite, 4096), (OpenMode::Create, 0)] {
            let file = open(disk, "f", mode);
            let done = run(disk, Op::Read { file, offset: 0, buf: block(0) });
            assert_eq!(done.result, Ok(len), "{mode:?}");
            let op = Op::Write { file, offset: 0, buf: block(7), len: 4096 };
            let written = if mode == OpenMode::Read { Err(DiskError(libc::EBADF)) } else { Ok(4096) };
            assert_eq!(run(disk, op).result, written, "{mode:?}");
            assert_eq!(run(disk, Op::Close { file }).result, Ok(0));
        }
        let nul = run(disk, Op::Open { path: "a\0b".into(), mode: OpenMode::Create }).result;
        assert_eq!(nul, Err(DiskError(libc::EINVAL)));
    });
}

#[test]
fn space_is_reserved_and_reads_as_zero() {
    for fallocate in [true, false] {
        everywhere(&format!("space-{fallocate}"), |disk, dir| {
            disk.force_fallocate(fallocate);
            let file = open(disk, "f", OpenMode::ReadWrite);
            let op = Op::Write { file, offset: 0, buf: block(7), len: 4096 };
            assert_eq!(run(disk, op).result, Ok(4096));
            let whole = ZEROS_BYTES as u64 * 2 + 8192;
            for (bytes, len) in [(0, 4096), (4096, 4096), (whole, whole), (8192, whole)] {
                assert_eq!(run(disk, Op::Allocate { file, bytes }).result, Ok(0), "{bytes}");
                assert_eq!(fs::metadata(dir.join("f")).unwrap().len(), len, "{bytes}");
            }
            let stored = fs::read(dir.join("f")).unwrap();
            assert!(stored[..4096].iter().all(|&byte| byte == 7));
            assert!(stored[4096..].iter().all(|&byte| byte == 0));
            assert_eq!(disk.features().fallocate, fallocate);
        });
    }
}

#[test]
fn more_operations_than_may_fly_wait_inside() {
    everywhere("many", |disk, _| {
        let file = open(disk, "f", OpenMode::ReadWrite);
        for i in 0..500 {
            let op = Op::Write { file, offset: i * 4096, buf: block(i as u8), len: 4096 };
            disk.submit(Tag(i), op);
        }
        let mut done = Vec::new();
        while done.len() < 500 {
            disk.wait();
            disk.poll(&mut done);
        }
        let mut tags: Vec<u64> = done.iter().map(|done| done.tag.0).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..500).collect::<Vec<_>>(), "each completes once");
        assert!(done.iter().all(|done| done.result == Ok(4096)));
        disk.wait(); // returns when nothing is in flight
        done.clear();
        disk.submit(Tag(0), Op::SyncDir { path: "".into() }); // several entries, one completion
        disk.wait();
        disk.poll(&mut done);
        assert_eq!(done.len(), 1, "what was waited for is there");
    });
}

#[test]
fn a_dropped_disk_ends_its_operations_first() {
    everywhere("drop", |_, dir| {
        let mut disk = OwnDisk::new(dir, DiskSettings::default()).unwrap();
        let file = open(&mut disk, "f", OpenMode::ReadWrite);
        disk.submit(Tag(0), Op::Write { file, offset: 0, buf: block(9), len: 4096 });
        drop(disk);
        assert_eq!(fs::read(dir.join("f")).unwrap(), [9; 4096]);
    });
}

#[test]
fn jobs_write_aside_and_rename() {
    everywhere("jobs", |disk, _| {
        super::super::tests::write_aside_and_rename(&Io::default(), disk);
    });
}

#[test]
fn the_start_up_line_says_what_falls_back_and_why() {
    let dir = Dir::new(&std::env::temp_dir(), "features");
    let bare = OwnDisk::new(&dir.0, BARE).unwrap().features();
    assert_eq!(
        bare.to_string(),
        "through the page cache (no O_DIRECT: switched off), 0 chunks registered (the others are \
         written the plain way: switched off), log files not registered (switched off)"
    );
    assert!(!bare.o_direct && !bare.registered_files);
    let gone = features::probe_o_direct(Path::new("/proc/self")).unwrap_err();
    assert!(gone.starts_with("could not probe"), "{gone}");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "the probe cleans up");
    assert!(OwnDisk::new(&dir.0.join("absent"), BARE).is_err());
}
