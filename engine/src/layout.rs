//! The data directory as a whole: the file `layout` that says what it is, the directories of its
//! shards, and what has to happen before and after they are recovered.
//! Here: the file, opening a directory. In [`reshard`]: another number of shards. In [`garbage`]: what
//! no shard needs any more. Not here: the lock (SU-3), which comes first, and recovery of a shard.
//!
//! ```text
//! layout             which directory this is; written aside, synced, renamed, directory synced
//! segments/          the pool of sealed files, of all shards and layouts
//! shards/<layout>-<shard>/   checkpoints and log of one shard in one layout
//! ```
//!
//! A *layout* is a number of shards; its generation counts them. Whatever crash comes, the file names
//! one whose directories are complete. Those of a later generation are an attempt that never came to
//! be, those of an earlier one are over.
//!
//! The file `layout`, one block of 4 KiB, little-endian:
//!
//! ```text
//!   at  bytes  field
//!    0      8  magic "RUNELAY\0"
//!    8      2  version
//!   10      2  number of shards
//!   12      4  zero
//!   16      8  directory id; also the seed of the hashes of names and keys
//!   24      8  bytes of every log file
//!   32      8  generation, from 1
//!   40         zero
//! 4092      4  checksum over 0..4092, in every version
//! ```

mod garbage;
mod reshard;
#[cfg(test)]
mod tests;

pub use garbage::{Collected, collect_garbage};

use crate::aside::{ASIDE_SUFFIX, AsideFile};
use crate::checkpoint;
use crate::disk::{Io, OpenMode};
use crate::error::DiskError;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES, SHARDS_MAX};
use crate::mem::AlignedBuf;
use crate::segment;
use crate::shard::recover::RecoverError;
use crate::shard::{ShardSettings, parse_shard_dir, shard_dir};
use crate::wal::files;

/// Name of the file.
pub const FILE: &str = "layout";
/// The directory of the shards' directories.
pub const SHARDS_DIR: &str = "shards";
/// Version of the file.
pub const VERSION: u16 = 1;
/// Generation of a fresh directory; those above were made from another one.
pub const FIRST_GENERATION: u64 = 1;
/// A segment's id has this much room for the generation.
pub const GENERATION_MAX: u64 = u16::MAX as u64;

const MAGIC: &[u8; 8] = b"RUNELAY\0";
const CRC_AT: usize = BLOCK_BYTES - 4;

/// What a fresh directory is made with. An existing one keeps its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshLayout {
    /// Its id, chosen at random by the caller.
    pub directory: u64,
    /// Size of every log file: whole chunks.
    pub file_bytes: u64,
}

/// What a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Id of the data directory, and the seed of its hashes.
    pub directory: u64,
    /// Size of every log file.
    pub file_bytes: u64,
    /// Counts the changes of the number of shards, from 1.
    pub generation: u64,
    /// Number of shards.
    pub shards: u16,
}

/// What opening did, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayoutReport {
    /// The directory was new.
    pub created: bool,
    /// It had this many shards until now.
    pub resharded_from: Option<u16>,
    /// What recovery had to say, and what was cleared away.
    pub notes: Vec<String>,
}

/// Why a file `layout` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutFault {
    /// It is something else.
    NotOurs,
    /// Its checksum or contents do not hold.
    Damaged,
    /// Whole, but of a version this program does not know (I-99).
    Version(u16),
}

impl std::fmt::Display for LayoutFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LayoutFault::NotOurs => write!(f, "not a layout file of Runelog"),
            LayoutFault::Damaged => write!(f, "damaged"),
            LayoutFault::Version(version) => write!(f, "of format version {version}, which is not known"),
        }
    }
}

impl Layout {
    /// The file's block.
    pub fn encode(&self) -> AlignedBuf {
        let mut out = AlignedBuf::zeroed(BLOCK_BYTES);
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&self.shards.to_le_bytes());
        for (at, number) in [(16, self.directory), (24, self.file_bytes), (32, self.generation)] {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the whole file.
    pub fn decode(bytes: &[u8]) -> Result<Layout, LayoutFault> {
        if bytes.get(..8).is_none_or(|magic| magic != MAGIC) {
            return Err(LayoutFault::NotOurs);
        }
        if bytes.len() != BLOCK_BYTES || crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return Err(LayoutFault::Damaged);
        }
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u16_at(8) != VERSION {
            return Err(LayoutFault::Version(u16_at(8)));
        }
        let layout = Layout {
            directory: u64_at(16),
            file_bytes: u64_at(24),
            generation: u64_at(32),
            shards: u16_at(10),
        };
        let sound = layout.file_bytes > 0
            && layout.file_bytes.is_multiple_of(CHUNK_BYTES as u64)
            && (FIRST_GENERATION..=GENERATION_MAX).contains(&layout.generation)
            && (1..=SHARDS_MAX).contains(&usize::from(layout.shards));
        if sound { Ok(layout) } else { Err(LayoutFault::Damaged) }
    }

    /// Settings of a shard as this layout asks for them, the others small: for tools, and to be
    /// completed by a server (`ShardSettings { hot_bytes, ..layout.settings_of(shard) }`).
    pub fn settings_of(&self, shard: u16) -> ShardSettings {
        ShardSettings {
            shard,
            shards: self.shards,
            layout: self.generation,
            directory: self.directory,
            file_bytes: self.file_bytes,
            hot_bytes: 16 * CHUNK_BYTES as u64,
            cache_bytes: 1 << 20,
            commits_in_flight: 2,
            segment_max_events: 10_000,
            segment_max_bytes: 64 << 20,
            segment_max_age_ms: 0,
            wal_keep_bytes: 0,
        }
    }
}

/// Opens the data directory, or makes a fresh one of it, with `shards` shards: if it has another number
/// of them it is changed here, before anything is served, and no answer shows it (I-92). The caller
/// holds the lock and recovers the shards next.
pub async fn open_layout(
    io: &Io,
    fresh: FreshLayout,
    shards: u16,
) -> Result<(Layout, LayoutReport), RecoverError> {
    assert!((1..=SHARDS_MAX).contains(&usize::from(shards)), "{shards} shards");
    let mut report = LayoutReport::default();
    let Some(layout) = read_layout(io).await? else {
        refuse_what_looks_like_ours(io).await?;
        report.created = true;
        return Ok((create(io, fresh, shards).await?, report));
    };
    check_directories(io, &layout).await?;
    // A process that ended behind the rename has not seen it durable, and what is acknowledged from here on
    // rests on it (I-96).
    io.sync_dir("").await.map_err(|error| RecoverError::Disk { path: FILE.to_owned(), error })?;
    // Only now, when this layout is seen to be complete.
    garbage::remove_later_generations(io, &layout, &mut report.notes).await?;
    if layout.shards == shards {
        return Ok((layout, report));
    }
    report.resharded_from = Some(layout.shards);
    let layout = reshard::reshard(io, &layout, shards, &mut report.notes).await?;
    Ok((layout, report))
}

/// Reads the file `layout`; `None` if there is none.
pub async fn read_layout(io: &Io) -> Result<Option<Layout>, RecoverError> {
    let disk = |error| RecoverError::Disk { path: FILE.to_owned(), error };
    let found = io.list("").await.map_err(disk)?.into_iter().find(|(name, _)| name == FILE);
    let Some((_, bytes)) = found else {
        return match io.list_dirs("").await.map_err(disk)?.iter().any(|name| name == FILE) {
            true => Err(RecoverError::Foreign(format!("{FILE} is a directory, none of Runelog's"))),
            false => Ok(None),
        };
    };
    let file = io.open(FILE, OpenMode::Read).await.map_err(disk)?;
    // One block more than there should be: a file that has grown is not what was synced.
    let read = io.read(file, 0, AlignedBuf::zeroed(2 * BLOCK_BYTES)).await;
    io.close(file).await;
    let (buf, got) = read.map_err(disk)?;
    Layout::decode(&buf[..got]).map(Some).map_err(|fault| {
        let text = format!("{FILE} ({bytes} bytes) is {fault}");
        match fault {
            LayoutFault::Damaged => RecoverError::Damage(text),
            LayoutFault::NotOurs => RecoverError::Foreign(text),
            LayoutFault::Version(_) => RecoverError::Version(text),
        }
    })
}

/// Without a file `layout` nothing of ours can be there: it is made before the first log file.
pub(crate) async fn refuse_what_looks_like_ours(io: &Io) -> Result<(), RecoverError> {
    let refuse = |path: String| {
        let text =
            format!("the data directory has no file {FILE}, but {path}: restore the file, or move away");
        Err(RecoverError::Damage(format!("{text} what is there")))
    };
    for (name, _) in list(io, segment::DIR).await? {
        if matches!(segment::parse_name(&name), segment::Name::Segment(_)) {
            return refuse(format!("{}/{name}", segment::DIR));
        }
    }
    for (dir, _, _) in shard_dirs(io).await? {
        if let Some((name, _)) = list(io, &dir).await?.into_iter().find(|(name, _)| is_shards_file(name)) {
            return refuse(format!("{dir}/{name}"));
        }
    }
    Ok(())
}

/// Whether a shard keeps a file of that name in its directory.
pub(crate) fn is_shards_file(name: &str) -> bool {
    files::slot_of(name).is_some() || matches!(checkpoint::parse_name(name), checkpoint::Name::Checkpoint(_))
}

async fn create(io: &Io, fresh: FreshLayout, shards: u16) -> Result<Layout, RecoverError> {
    let FreshLayout { directory, file_bytes } = fresh;
    assert!(
        file_bytes > 0 && file_bytes.is_multiple_of(CHUNK_BYTES as u64),
        "log files of {file_bytes} bytes"
    );
    let layout = Layout { directory, file_bytes, generation: FIRST_GENERATION, shards };
    make_dir(io, segment::DIR).await?;
    make_dir(io, SHARDS_DIR).await?;
    make_shard_dirs(io, &layout).await?;
    write_layout(io, &layout).await?;
    Ok(layout)
}

async fn make_shard_dirs(io: &Io, layout: &Layout) -> Result<(), RecoverError> {
    for shard in 0..layout.shards {
        make_dir(io, &shard_dir(layout.generation, shard)).await?;
    }
    io.sync_dir(SHARDS_DIR).await.map_err(|error| disk(SHARDS_DIR, error))
}

/// Everything the layout names is durable: from here on it is the one.
async fn write_layout(io: &Io, layout: &Layout) -> Result<(), RecoverError> {
    let failed = |error| disk(FILE, error);
    io.sync_dir("").await.map_err(failed)?;
    let mut file = AsideFile::create(io, FILE.to_owned()).await.map_err(failed)?;
    if let Err(error) = file.put(&layout.encode()).await {
        file.abandon().await;
        return Err(failed(error));
    }
    file.finish(None).await.map_err(failed)?;
    io.sync_dir("").await.map_err(failed)
}

/// A layout's directories are there before it is, and a shard that came from another layout begins
/// with a checkpoint. What would look like an empty shard otherwise is refused here: its topics would
/// be gone, and their segments be taken for garbage.
pub(crate) async fn check_directories(io: &Io, layout: &Layout) -> Result<(), RecoverError> {
    let missing = |what: String| Err(RecoverError::Damage(format!("{what} is missing")));
    let dirs = shard_dirs(io).await?;
    let pool = list(io, segment::DIR).await?;
    for shard in 0..layout.shards {
        let dir = shard_dir(layout.generation, shard);
        if !dirs.iter().any(|(path, _, _)| *path == dir) {
            return missing(dir);
        }
        let names = list(io, &dir).await?;
        let has_checkpoint = names
            .iter()
            .any(|(name, _)| matches!(checkpoint::parse_name(name), checkpoint::Name::Checkpoint(_)));
        if layout.generation > FIRST_GENERATION && !has_checkpoint {
            return missing(format!("the checkpoint in {dir}"));
        }
        let sealed = pool.iter().any(|(name, _)| match segment::parse_name(name) {
            segment::Name::Segment(id) => id.0 >> 40 == layout.generation << 8 | u64::from(shard),
            _ => false,
        });
        if sealed && !names.iter().any(|(name, _)| is_shards_file(name)) {
            return missing(format!("the log in {dir}, which has sealed segments,"));
        }
    }
    Ok(())
}

/// The shards' directories of all generations: path, generation, shard.
pub(crate) async fn shard_dirs(io: &Io) -> Result<Vec<(String, u64, u16)>, RecoverError> {
    let names = io.list_dirs(SHARDS_DIR).await.map_err(|error| disk(SHARDS_DIR, error))?;
    let ours = |name: String| {
        let (generation, shard) = parse_shard_dir(&name)?;
        Some((format!("{SHARDS_DIR}/{name}"), generation, shard))
    };
    Ok(names.into_iter().filter_map(ours).collect())
}

async fn make_dir(io: &Io, path: &str) -> Result<(), RecoverError> {
    io.make_dir(path).await.map_err(|error| disk(path, error))
}

async fn list(io: &Io, path: &str) -> Result<Vec<(String, u64)>, RecoverError> {
    io.list(path).await.map_err(|error| disk(path, error))
}

fn disk(path: &str, error: DiskError) -> RecoverError {
    RecoverError::Disk { path: path.to_owned(), error }
}

/// Whether a file was being written aside when the program ended.
pub(crate) fn is_leftover(name: &str) -> bool {
    name.ends_with(ASIDE_SUFFIX)
}
