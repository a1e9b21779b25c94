//! `runelog verify` over what a real server leaves: running, killed, damaged, and written by another
//! version, which must be refused clearly and left as it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::server::{Dir, Server, assert_whole, runelog, verify};
use crate::start::{furnish, keys_are_known, views, walk};

/// Every file and its bytes.
fn contents(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    walk(data).into_iter().map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

/// Makes the version in a header of `bytes` another one, with the right checksum.
fn set_version(path: &Path, header: u64, version_at: usize, crc_at: usize, version: u16) {
    let file = File::options().read(true).write(true).open(path).expect("a file");
    let mut head = vec![0; crc_at];
    file.read_exact_at(&mut head, header).expect("a header");
    head[version_at..version_at + 2].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c(&head);
    file.write_all_at(&head, header).expect("written");
    file.write_all_at(&crc.to_le_bytes(), header + crc_at as u64).expect("written");
}

/// By the definition of the checksum, bit by bit: a header is short.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn a_server_at_work_is_told_apart_and_a_killed_one_leaves_a_whole_directory() {
    // I-93, I-100
    let home = Dir::new("verify");
    let data = home.join("data");
    let server = Server::start(home.path(), &[("RUNELOG_SEGMENT_MAX_AGE_MS", "100")]);
    let topics = furnish(&mut server.client());
    let (status, text) = verify(&data);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("a server runs on"), "{text}");
    let before = views(&mut server.client(), &topics);
    server.kill();
    let files = contents(&data);
    assert_whole(&data);
    let output = runelog().args(["verify", "--json"]).arg(&data).output().expect("the binary runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    let records: u64 = before.iter().map(|view| view.count).sum();
    assert_eq!((&json["topics"], &json["records"]), (&(topics.len() as u64).into(), &records.into()));
    assert!(contents(&data) == files, "a look changes nothing");
    let server = Server::start(home.path(), &[]);
    keys_are_known(&mut server.client());
    server.stop_well();
    assert_whole(&data);
}

#[test]
fn a_directory_of_another_version_is_refused_and_left_as_it_is() {
    // I-99
    let home = Dir::new("version");
    let data = home.join("data");
    let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]);
    furnish(&mut server.client());
    server.kill();
    let path = |part: &str| {
        let found = walk(&data).into_iter().find(|path| path.to_string_lossy().contains(part));
        found.unwrap_or_else(|| panic!("no {part}"))
    };
    let (layout, log) = (path("layout"), path("wal-0000"));
    let pristine = contents(&data);
    for (file, header, version_at, crc_at) in [(&layout, 0, 8, 4092), (&log, 0, 8, 60), (&log, 4096, 4, 60)] {
        // Newer, and older than the first.
        for version in [2, 0] {
            set_version(file, header, version_at, crc_at, version);
            let changed = contents(&data);
            assert!(changed != pristine);
            for shards in ["1", "2"] {
                let refused = Server::refused(home.path(), &[("RUNELOG_SHARDS", shards)]);
                assert_eq!(refused.status.code(), Some(1), "{refused:?}");
                let name = file.file_name().expect("a name").to_string_lossy().into_owned();
                for word in ["version", &name] {
                    assert!(refused.log.contains(word), "{word} is not in {}", refused.log);
                }
            }
            assert!(contents(&data) == changed, "a refused start modifies nothing");
            let (status, text) = verify(&data);
            assert_eq!(status, 2, "{text}");
            assert!(text.contains("version") && text.contains("not judged"), "{text}");
            assert!(contents(&data) == changed, "a look changes nothing");
            set_version(file, header, version_at, crc_at, 1);
            assert!(contents(&data) == pristine, "restored");
        }
    }
    Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]).stop_well();
}

#[test]
fn damage_is_found_before_a_start_meets_it() {
    // I-94
    let home = Dir::new("verify-damage");
    let data = home.join("data");
    let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]);
    furnish(&mut server.client());
    server.kill();
    let log = walk(&data).into_iter().find(|path| path.ends_with("wal-0000.log")).expect("a log file");
    let file = File::options().read(true).write(true).open(&log).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 80).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], 4096 + 80).expect("written");
    let (status, text) = verify(&data);
    assert_eq!(status, 1, "{text}");
    let place = "wal-0000.log, offset 4096: block 1 does not hold";
    let found = text.lines().find(|line| line.starts_with("START") && line.contains(place));
    let found = found.unwrap_or_else(|| panic!("{text}"));
    assert!(found.contains("at risk:") && found.contains("seqs"), "{found}");
    let refused = Server::refused(home.path(), &[("RUNELOG_SHARDS", "1")]);
    assert!(refused.log.contains("wal-0000.log") && refused.log.contains("offset 4096"), "{}", refused.log);
    file.write_all_at(&byte, 4096 + 80).expect("written");
    assert_whole(&data);
}
