//! Files that nobody needs: segments that no shard names, directories of other layouts, what was being
//! written when a run ended. Only names of ours are ever removed.

use super::{FILE, Layout, RecoverError, disk, is_leftover, is_shards_file, list, shard_dirs};
use crate::aside::ASIDE_SUFFIX;
use crate::disk::Io;
use crate::error::DiskError;
use crate::ids::SegmentId;
use crate::segment;
use std::collections::BTreeSet;

/// What was cleared away, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Segment files, complete or not.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Directories of other layouts.
    pub directories: u64,
    /// Segments that a shard needs and that are not there: reads of them will fail (I-98).
    pub missing: Vec<SegmentId>,
    /// What could not be removed, and why; tried again at the next start.
    pub notes: Vec<String>,
}

/// Removes what no shard needs (I-104). `referenced` is what *every* shard of the layout needs after
/// its recovery ([`Shard::segments_in_use`](crate::shard::Shard::segments_in_use)), and none may have
/// had its first turn yet: a segment sealed since would be taken for garbage.
pub async fn collect_garbage(
    io: &Io,
    layout: &Layout,
    referenced: &BTreeSet<SegmentId>,
) -> Result<Collected, RecoverError> {
    let mut collected = Collected::default();
    let mut absent = referenced.clone();
    for (name, bytes) in list(io, segment::DIR).await? {
        match segment::parse_name(&name) {
            segment::Name::Segment(id) if referenced.contains(&id) => {
                absent.remove(&id);
                continue;
            }
            segment::Name::Segment(_) | segment::Name::Leftover => {}
            segment::Name::Unknown => continue,
        }
        let path = format!("{}/{name}", segment::DIR);
        match io.remove(&path).await {
            Ok(()) => {
                collected.segments += 1;
                collected.bytes += bytes;
            }
            Err(error) => collected.notes.push(format!("{path} could not be removed: {error}")),
        }
    }
    collected.missing.extend(absent);
    for (dir, generation, shard) in shard_dirs(io).await? {
        if generation != layout.generation || shard >= layout.shards {
            match remove_shard_dir(io, &dir).await {
                Ok(true) => collected.directories += 1,
                Ok(false) => collected.notes.push(format!("{dir} stays: it holds files that are not ours")),
                Err(error) => collected.notes.push(format!("{dir} could not be removed: {error}")),
            }
        }
    }
    Ok(collected)
}

/// Removes what an attempt at another number of shards left: its names will be used again, and its
/// files take room.
pub(super) async fn remove_later_generations(
    io: &Io,
    layout: &Layout,
    notes: &mut Vec<String>,
) -> Result<(), RecoverError> {
    let aside = format!("{FILE}{ASIDE_SUFFIX}");
    io.remove(&aside).await.map_err(|error| disk(&aside, error))?;
    let (mut segments, mut directories) = (0, 0);
    for (dir, generation, _) in shard_dirs(io).await? {
        if generation > layout.generation {
            directories += u64::from(remove_shard_dir(io, &dir).await?);
        }
    }
    for (name, _) in list(io, segment::DIR).await? {
        let id = match segment::parse_name(&name) {
            segment::Name::Segment(id) => id,
            _ => continue, // the next garbage collection
        };
        if id.0 >> 48 > layout.generation {
            let path = segment::path(id);
            io.remove(&path).await.map_err(|error| disk(&path, error))?;
            segments += 1;
        }
    }
    if directories + segments > 0 {
        notes.push(format!(
            "an unfinished change of the number of shards was undone: {directories} directories and \
             {segments} segments removed"
        ));
    }
    Ok(())
}

/// Removes our files from a shard's directory, then the directory; with anything else in it, it stays
/// (and the answer is no).
async fn remove_shard_dir(io: &Io, dir: &str) -> Result<bool, RecoverError> {
    for (name, _) in list(io, dir).await? {
        if is_shards_file(&name) || is_leftover(&name) {
            let path = format!("{dir}/{name}");
            io.remove(&path).await.map_err(|error| disk(&path, error))?;
        }
    }
    match io.remove_dir(dir).await {
        Ok(()) => Ok(true),
        Err(DiskError(libc::ENOTEMPTY)) => Ok(false),
        Err(error) => Err(disk(dir, error)),
    }
}
