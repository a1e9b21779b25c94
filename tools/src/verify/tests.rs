//! Small real directories, judged whole, damaged and held by a server, beside what a start and a full read
//! of the same bytes do.

use std::fs::{self, File};

use runelog_engine::shard::recover::RecoverError;

use super::*;
use crate::sample::{Dir, Server, filled, flip};

fn judged(dir: &Dir, json: bool) -> (Verdict, String) {
    let mut out = Vec::new();
    let before = dir.files();
    let args = VerifyArgs { data_dir: dir.0.clone(), json };
    let (verdict, written) = judge(&args, &mut out);
    written.expect("memory takes everything");
    assert!(dir.files() == before, "a look changes nothing");
    (verdict, String::from_utf8(out).expect("text"))
}

#[test]
fn a_whole_directory_is_whole_after_a_stop_and_after_a_crash() {
    // I-93: what a crash leaves is no damage.
    for stops in [true, false] {
        let (dir, server) = filled("verify");
        match stops {
            true => server.stop(),
            false => drop(server),
        }
        let (verdict, text) = judged(&dir, false);
        assert_eq!(verdict, Verdict::Whole, "{text}");
        assert!(text.contains("2 topics, 20 live records of 140 bytes"), "{text}");
        assert!(text.trim_end().lines().last().expect("a verdict").starts_with("whole: "), "{text}");
        let (_, text) = judged(&dir, true);
        let json: serde_json::Value = serde_json::from_str(&text).expect("one object");
        assert_eq!((&json["verdict"], &json["starts"]), (&"whole".into(), &true.into()));
        assert_eq!((&json["topics"], &json["records"]), (&2.into(), &20.into()));
        assert_eq!(run(&VerifyArgs { data_dir: dir.0.clone(), json: true }), ExitCode::SUCCESS);
    }
}

#[test]
fn a_directory_with_a_server_is_not_judged() {
    // I-100: nor is the server disturbed. A second judge may look.
    let (dir, server) = filled("verify-served");
    server.stop();
    let lock = File::create(dir.0.join(LOCK_FILE)).expect("a file");
    lock.try_lock().expect("nobody else has it");
    let (verdict, text) = judged(&dir, false);
    assert_eq!(verdict, Verdict::Served);
    assert!(text.contains("a server runs on"), "{text}");
    let (_, text) = judged(&dir, true);
    assert!(text.contains("\"verdict\":\"served\",\"starts\":null"), "{text}");
    drop(lock);
    let lock = File::open(dir.0.join(LOCK_FILE)).expect("still there");
    lock.try_lock_shared().expect("nobody has it");
    assert_eq!(judged(&dir, false).0, Verdict::Whole);
}

#[test]
fn what_is_no_data_directory_is_not_judged() {
    let dir = Dir::new("verify-none");
    assert_eq!(judged(&dir, false).0, Verdict::NotJudged);
    fs::write(dir.0.join("file"), "x").expect("written");
    assert_eq!(judged(&dir, false).0, Verdict::NotJudged);
    let args = VerifyArgs { data_dir: dir.0.join("file"), json: false };
    assert_eq!(judge(&args, &mut Vec::new()).0, Verdict::NotJudged);
    assert_eq!(run(&VerifyArgs { data_dir: dir.0.join("nothing"), json: false }), ExitCode::from(2));
}

/// What is done to a file.
enum Harm {
    Flip(usize),
    Cut(u64),
    Remove,
    /// A file much larger than memory, almost all of it a hole.
    Grow,
}

#[test]
fn the_verdict_is_what_a_start_and_a_full_read_do() {
    // I-93, I-94, I-95, I-98, I-99; the words are at the beginning of the finding's line
    use Harm::*;
    for (part, harm, word) in [
        ("layout", Flip(20), "START"),
        ("layout", Cut(100), "START"),
        ("layout", Grow, "START"),
        ("layout", Remove, "START"),
        ("ckpt-", Flip(50), "SPARE"),
        ("ckpt-", Cut(0), "SPARE"),
        ("ckpt-", Grow, "SPARE"),
        (".seg", Flip(20), "SPARE"),
        (".seg", Flip(4200), "READ"),
        (".seg", Cut(4096), "READ"),
        (".seg", Cut(0), "READ"),
        (".seg", Grow, "SPARE"),
        (".seg", Remove, "READ"),
        ("wal-0000", Flip(4096 + 70), "SPARE"), // sealed since: no start reads it
        ("wal-0000", Flip((2 << 20) + 70), "START"),
        ("wal-0000", Flip(10), "START"),
        ("wal-0000", Cut(8192), "LOSS"),
        ("wal-0000", Remove, "START"),
        ("wal-0000", Flip(64), "whole"),
        ("wal-0001", Cut(4096), "LOSS"),
        ("wal-0001", Grow, "whole"),
        ("shards/00000001-000", Remove, "START"),
    ] {
        let (dir, server) = filled("verify-harm");
        // A server that was killed needs its log, one that stopped would not.
        drop(server);
        let path = match part.starts_with("shards") {
            true => dir.0.join(part),
            false => dir.path(part),
        };
        let what = match harm {
            Flip(at) => {
                flip(&path, at);
                format!("{part} flipped at {at}")
            }
            Cut(bytes) => {
                File::options().write(true).open(&path).expect("a file").set_len(bytes).expect("cut");
                format!("{part} cut to {bytes}")
            }
            Grow => {
                let file = File::options().write(true).open(&path).expect("a file");
                file.set_len(1 << 40).expect("a hole");
                format!("{part} grown")
            }
            Remove if path.is_dir() => {
                fs::remove_dir_all(&path).expect("removed");
                format!("{part} removed")
            }
            Remove => {
                fs::remove_file(&path).expect("removed");
                format!("{part} removed")
            }
        };
        let mut out = Vec::new();
        let (verdict, _) = judge(&VerifyArgs { data_dir: dir.0.clone(), json: false }, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().any(|line| line.starts_with(word)), "{what}: {text}");
        assert_eq!(verdict, if word == "whole" { Verdict::Whole } else { Verdict::Damaged }, "{what}");
        let name = path.file_name().expect("a name").to_string_lossy();
        // Nothing says in which slot a log file that is not there should be: it is told by its number.
        let told =
            text.contains(&*name) || what == "wal-0000 removed" && text.contains("file number 1 is missing");
        assert!(word == "whole" || told, "{what}: {text}");
        let started = Server::try_start(&dir);
        match started {
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        RecoverError::Damage(_)
                            | RecoverError::DamagedBlock { .. }
                            | RecoverError::Foreign(_)
                    ),
                    "{error:?}"
                );
                assert_eq!(word, "START", "{what}: {error}");
            }
            Ok(mut server) => {
                let read = [server.read("orders"), server.read("users")];
                match word {
                    "READ" => assert!(read.contains(&None), "{what}: {read:?}"),
                    // What only the log held is gone with its file, and that is told (§11).
                    "LOSS" if part == "wal-0000" => assert_eq!(read, [Some(10), Some(3)], "{what}"),
                    "SPARE" | "LOSS" | "whole" => assert_eq!(read, [Some(17), Some(3)], "{what}"),
                    _ => panic!("{what}: it starts"),
                }
            }
        }
    }
}
