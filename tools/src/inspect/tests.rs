//! A directory made by a real shard on a real disk, looked at whole and with flipped bits.

use std::fs;

use runelog_engine::disk::uring::{DiskSettings, OwnDisk};
use runelog_engine::layout::{FreshLayout, open_layout};

use super::*;
use crate::sample::{Dir, Server, filled, flip};

impl Dir {
    fn inspect(&self) -> Report {
        inspect(&InspectArgs {
            data_dir: self.0.clone(),
            blocks: true,
            entries: true,
            ..InspectArgs::default()
        })
    }
}

#[test]
fn a_whole_directory_is_shown_and_not_changed() {
    let (dir, server) = filled("whole");
    for running in [true, false] {
        if !running {
            server.stop();
            return shown(&dir, running);
        }
        shown(&dir, running);
    }
}

fn shown(dir: &Dir, running: bool) {
    let before = dir.files();
    let report = dir.inspect();
    assert_eq!(report.damage, Vec::<String>::new(), "running {running}");
    assert_eq!(report.layout.as_ref().map(|layout| layout.directory.as_str()), Some("0000000000000abc"));
    assert_eq!((report.totals.segments, report.totals.records), (1, 13));
    assert_eq!((report.segments[0].named_by, report.segments[0].state.as_str()), (1, "ok"));
    let orders = &report.topics[0];
    assert_eq!((orders.name.as_str(), orders.class.as_str()), ("orders", "fsync"));
    let (head, log) = (orders.head, (orders.log_first_seq, orders.log_last_seq, orders.log_records));
    match running {
        true => assert_eq!((head, log), (10, (Some(11), Some(17), 7)), "the log adds to the checkpoint"),
        false => assert_eq!((head, log), (17, (None, None, 0)), "the last checkpoint says it all"),
    }
    let shard = &report.shards[0];
    assert_eq!(shard.checkpoints.last().map(|last| last.clean), Some(Some(!running)));
    assert_eq!(shard.log.iter().map(|file| file.blocks).sum::<u64>(), shard.blocks.len() as u64);
    let kinds: Vec<&str> = shard.entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, ["topic", "records", "topic", "records", "records", "records"]);
    let args = InspectArgs {
        data_dir: dir.0.clone(),
        topic: Some("orders".into()),
        records: true,
        ..Default::default()
    };
    let records = inspect(&args).records;
    // Sealed ones are in the log too, as long as its files stay.
    let mut seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    seqs.dedup();
    assert_eq!(seqs, (1..=17).collect::<Vec<u64>>());
    assert!(records.iter().all(|record| record.data == "{\"n\":1}"));
    let text = show::text(&report);
    assert!(text.contains("orders") && text.ends_with("nothing is damaged\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(json["topics"][0]["name"], "orders");
    assert_eq!(dir.files(), before);
    assert_eq!(run(&InspectArgs { json: true, ..args }), ExitCode::SUCCESS);
}

#[test]
fn damage_is_named_and_looked_past() {
    // I-94, I-95, I-98, I-99: what, where in the file, what is said of it
    for (part, offset, words) in [
        ("layout", 20, "layout (4096 bytes) is damaged"),
        ("ckpt-", 50, "cannot be used: damaged"),
        (".seg", 4200, "damaged block at offset 4096, topic"),
        ("wal-0000", 4096 + 70, "block 1 does not hold although it was durable"),
        ("wal-0000", 10, "valid blocks follow it"),
    ] {
        let (dir, server) = filled("damage");
        server.stop();
        let path = dir.path(part);
        flip(&path, offset);
        let before = dir.files();
        let report = dir.inspect();
        assert!(report.damage.iter().any(|text| text.contains(words)), "{part}: {:?}", report.damage);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(report.damage.iter().any(|text| text.contains(&name)), "{part}: {:?}", report.damage);
        // All else is still there.
        assert_eq!(report.topics.len(), 2, "{part}");
        assert_eq!(report.totals.records, 13, "{part}");
        assert_eq!(report.layout.is_none(), part == "layout");
        assert!(report.shards[0].blocks.len() >= 2 || offset == 10, "{part}");
        assert!(show::text(&report).contains(&format!("DAMAGE: {}", report.damage[0])));
        assert_eq!(dir.files(), before);
        assert_eq!(run(&InspectArgs { data_dir: dir.0.clone(), ..Default::default() }), ExitCode::FAILURE);
    }
}

#[test]
fn a_torn_tail_is_not_damage_and_a_missing_file_is() {
    // I-93: something was being written behind the last block.
    let (dir, server) = filled("torn");
    drop(server);
    let report = dir.inspect();
    assert_eq!(report.damage, Vec::<String>::new());
    let last = report.shards[0].log.iter().find(|file| file.state == "end").unwrap();
    let (path, at) = (dir.path(&last.name), last.gap_offset.unwrap() as usize);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at..at + 4].copy_from_slice(b"RBLK");
    fs::write(&path, bytes).unwrap();
    let report = dir.inspect();
    assert_eq!(report.damage, Vec::<String>::new());
    assert!(report.shards[0].log.iter().any(|file| file.state == "torn tail"));
    assert!(report.notes.iter().any(|note| note.contains("torn")), "{:?}", report.notes);
    // I-94: what was durable is gone.
    fs::remove_file(dir.path(".seg")).unwrap();
    assert!(dir.inspect().damage.iter().any(|text| text.ends_with(".seg is missing")));
    fs::remove_dir_all(dir.0.join("shards")).unwrap();
    assert!(dir.inspect().damage.contains(&"the directory of shard 0 is missing".to_owned()));
    fs::remove_file(dir.0.join("layout")).unwrap();
    assert!(dir.inspect().damage.iter().any(|text| text.contains("there is no file layout")));
}

#[test]
fn restarts_and_another_number_of_shards_are_no_damage() {
    // I-92, I-93: several runs that ended without a stop, then a change and its leftovers.
    let (dir, mut server) = filled("restarts");
    for run in 0..4 {
        drop(server);
        server = Server::start(&dir);
        server.append("orders", 3);
        if run == 2 {
            server.seal();
        }
        let report = dir.inspect();
        assert_eq!((report.damage, report.notes), (vec![], vec![]), "run {run}");
        let orders = &report.topics[0];
        assert_eq!(orders.log_last_seq.unwrap_or(orders.head), 20 + 3 * run, "run {run}");
    }
    drop(server);
    let mut disk = OwnDisk::new(&dir.0, DiskSettings::default()).unwrap();
    let io = Io::default();
    let fresh = FreshLayout { directory: 1, file_bytes: 4 << 20 };
    let (_, found) = block_on(&io, &mut disk, open_layout(&io, fresh, 3)).unwrap();
    assert_eq!(found.resharded_from, Some(1));
    let report = dir.inspect();
    assert_eq!(report.damage, Vec::<String>::new());
    let current: Vec<bool> = report.shards.iter().map(|shard| shard.current).collect();
    assert_eq!(current, [false, true, true, true]);
    let heads: Vec<(&str, u64)> =
        report.topics.iter().map(|topic| (topic.name.as_str(), topic.head)).collect();
    assert_eq!(heads, [("orders", 29), ("users", 3)]);
}
