//! What `verify` says of a rig's disk, on a copy of it.

use super::Rig;
use runelog_engine::disk::io::block_on;
use runelog_engine::disk::read_only::ReadOnly;
use runelog_engine::disk::sim::SimDisk;
use runelog_engine::disk::{Io, OpenMode};
use runelog_engine::layout::{FILE, Layout};
use runelog_engine::limits::BLOCK_BYTES;
use runelog_engine::shard::ShardSettings;
use runelog_engine::verify::{Finding, Summary, Weight, verify};

/// The verdict and what it rests on.
#[derive(Debug)]
pub struct Judged {
    pub summary: Summary,
    pub findings: Vec<Finding>,
}

impl Judged {
    /// Whether a finding of this weight is about the file and has these words.
    pub fn says(&self, weight: Weight, file: &str, words: &str) -> bool {
        let fits =
            |found: &&Finding| found.weight == weight && found.file == file && found.what.contains(words);
        self.findings.iter().any(|found| fits(&found))
    }

    /// Whether any finding, a harmless one too, is about the file.
    pub fn names(&self, file: &str) -> bool {
        let name = file.rsplit('/').next().expect("a name");
        let is_about = |found: &Finding| found.file.ends_with(name) || found.what.contains(name);
        self.findings.iter().any(is_about)
    }
}

/// Judges a disk that holds one shard, whose rig has made no file `layout`.
pub fn judge(disk: &SimDisk, settings: &ShardSettings) -> Judged {
    let mut disk = disk.fork();
    let io = Io::default();
    if disk.contents(FILE).is_none() {
        let ShardSettings { directory, file_bytes, layout: generation, shards, .. } = *settings;
        let layout = Layout { directory, file_bytes, generation, shards };
        // Without a layout there were no directories to lose.
        let dir = settings.dir();
        let making = async {
            for dir in ["segments", "shards", &dir] {
                io.make_dir(dir).await?;
            }
            let file = io.open(FILE, OpenMode::Create).await?;
            io.write(file, 0, layout.encode(), BLOCK_BYTES).await?;
            io.close(file).await;
            Ok::<(), runelog_engine::error::DiskError>(())
        };
        disk.block_on(&io, making).expect("no cut").expect("a file");
    }
    let mut findings = Vec::new();
    let mut disk = ReadOnly::new(disk);
    let summary = block_on(&io, &mut disk, verify(&io, |finding| findings.push(finding)));
    Judged { summary, findings }
}

impl Rig {
    /// Judges what a crash or a stop has left.
    pub fn judge(&self) -> Judged {
        judge(&self.disk, &self.settings)
    }

    /// Nothing but faults of a disk is damage: no crash leaves any.
    pub fn judge_whole(&self) -> Summary {
        let judged = self.judge();
        assert!(judged.summary.is_whole(), "nothing was damaged: {judged:#?}");
        judged.summary
    }
}
