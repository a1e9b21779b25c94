//! Where `bench` and `tune` work, and being interrupted: whatever is going on, the servers that were started
//! end and the directory goes. Lives here: the directory, and the thread that waits for the signal. One of
//! the few places with unsafe code: signals have no safe name in the standard library.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::tune::facts::Root;

/// Status of a process that was interrupted, as shells have it.
const STATUS: i32 = 130;
/// Files may still be made while the directory is removed; it is tried again for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Set before anything is ended.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A directory for everything that is measured; gone when dropped, and when the process is interrupted.
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    /// Makes one on the file system of `data_dir`, which need not exist yet, and clears it away on SIGINT,
    /// SIGTERM and SIGHUP from now on. To be called before any thread is started.
    pub(crate) fn beside(data_dir: &Path) -> Result<WorkDir, String> {
        let parents = parents_of(data_dir).map_err(|error| format!("{}: {error}", data_dir.display()))?;
        WorkDir::below(&parents)
    }

    /// The same in `parent`, which is made if it is not there, and stays then.
    pub(crate) fn inside(parent: &Path) -> Result<WorkDir, String> {
        let made = fs::create_dir_all(parent).and_then(|()| fs::canonicalize(parent));
        WorkDir::below(&[made.map_err(|error| format!("{}: {error}", parent.display()))?])
    }

    fn below(parents: &[PathBuf]) -> Result<WorkDir, String> {
        block_signals();
        let dir = create_below(parents)?;
        let watched = dir.clone();
        std::thread::spawn(move || {
            wait_for_signal();
            INTERRUPTED.store(true, Ordering::SeqCst);
            clear_away(&watched);
            eprintln!("\nrunelog: interrupted; nothing is left behind");
            std::process::exit(STATUS);
        });
        Ok(WorkDir(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Whoever was measuring has lost the server and is about to end the process with another status,
        // perhaps before everything is cleared away.
        while INTERRUPTED.load(Ordering::SeqCst) {
            std::thread::park();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A directory of our own below the first of `parents` that we may write to.
fn create_below(parents: &[PathBuf]) -> Result<PathBuf, String> {
    let mut refusal = String::new();
    for parent in parents {
        let dir = parent.join(format!("runelog-work-{}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) => refusal = format!("{}: {error}", dir.display()),
        }
    }
    Err(refusal)
}

/// Directories on the file system of `data_dir`, the best first: the one above it if that is on the same, so
/// that nothing is put among a server's data; itself; the nearest there is if it is missing.
fn parents_of(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::fs::MetadataExt;
    let absolute = std::path::absolute(data_dir)?;
    let Ok(metadata) = fs::metadata(&absolute) else {
        let above = absolute.ancestors().skip(1).find(|above| above.is_dir());
        return Ok(vec![fs::canonicalize(above.unwrap_or(Path::new("/")))?]);
    };
    if !metadata.is_dir() {
        return Err(io::Error::other("is not a directory"));
    }
    let dir = fs::canonicalize(absolute)?;
    let above = dir.parent().map(Path::to_owned);
    let above = above.filter(|above| fs::metadata(above).is_ok_and(|above| above.dev() == metadata.dev()));
    Ok(above.into_iter().chain([dir]).collect())
}

fn clear_away(dir: &Path) {
    let began = Instant::now();
    loop {
        for child in children(&Root::new("/"), std::process::id()) {
            // SAFETY: a plain system call on the id of a child that nobody has waited for.
            unsafe { libc::kill(child as libc::pid_t, libc::SIGKILL) };
        }
        let removed = fs::remove_dir_all(dir);
        let gone = removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if (gone && children(&Root::new("/"), std::process::id()).is_empty()) || began.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose parent is `parent` and which have not ended.
fn children(root: &Root, parent: u32) -> Vec<u32> {
    let ids = root.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    let is_child = |id: &u32| {
        let stat = root.read(format!("proc/{id}/stat"))?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        Some(state != "Z" && fields.next()?.parse() == Ok(parent))
    };
    ids.filter(|id| is_child(id).unwrap_or(false)).collect()
}

fn signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that the others then change.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Leaves the signals to [`wait_for_signal`]. A server that is started inherits this and waits for its own.
fn block_signals() {
    // SAFETY: the set is initialised, the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals(), std::ptr::null_mut()) };
}

fn wait_for_signal() {
    let set = signals();
    let mut signal = 0;
    // SAFETY: both pointers are valid for the call.
    while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::tree::Tree;

    #[test]
    fn children_are_told_by_their_parent_and_the_dead_are_none() {
        let tree = Tree::new("children");
        for (id, name, state, parent) in
            [(10, "a", "S", 1), (11, "b) S 10 (", "R", 10), (12, "c", "Z", 10), (13, "d", "D", 10)]
        {
            tree.put(&format!("proc/{id}/stat"), &format!("{id} ({name}) {state} {parent} 1 1"));
        }
        tree.put("proc/stat", "cpu 1");
        assert_eq!(children(&tree.root(), 10), [11, 13]);
    }

    #[test]
    fn the_work_lies_beside_the_data_and_not_in_it() {
        let tree = Tree::new("beside");
        tree.put("there/data/file", "");
        let base = fs::canonicalize(tree.root().path("there")).expect("there");
        let parents = |path: &Path| parents_of(path).expect("found");
        assert_eq!(parents(&base.join("data")), [base.clone(), base.join("data")]);
        assert_eq!(parents(&base.join("none/at/all")), std::slice::from_ref(&base));
        assert!(parents_of(&base.join("data/file")).is_err(), "a file");
        assert_eq!(parents(Path::new("/proc")), [Path::new("/proc")], "a mount");
        // Nobody can make a directory below a file: the next one is taken.
        let made = create_below(&[base.join("data/file"), base.join("data")]).expect("made");
        assert_eq!(made.parent(), Some(base.join("data").as_path()));
        assert!(create_below(&[base.join("data/file")]).is_err());
    }
}
