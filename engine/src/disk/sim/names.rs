//! The directories of a simulated disk, and which changes to them a power loss may take back. Changes
//! are a journal: those of one directory survive as a prefix, and a rename happens whole or not at all.

use crate::error::DiskError;
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// An inode number.
pub(super) type Node = u64;

#[derive(Clone, Debug, Default)]
struct Tree {
    files: BTreeMap<String, Node>,
    /// Without the root, which is always there.
    dirs: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    seen: Tree,
    durable: Tree,
    journal: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    at: u64,
    /// Directories whose entries it changes.
    dirs: Vec<String>,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Link { path: String, node: Node },
    Unlink { path: String },
    Rename { from: String, to: String, node: Node },
    MakeDir { path: String },
    RemoveDir { path: String },
}

impl Names {
    pub(super) fn new() -> Names {
        Names { seen: Tree::default(), durable: Tree::default(), journal: Vec::new() }
    }

    pub(super) fn find(&self, path: &str) -> Result<Node, DiskError> {
        if self.is_dir(path) {
            return Err(DiskError(libc::EISDIR));
        }
        self.seen.files.get(&clean(path)).copied().ok_or(DiskError(libc::ENOENT))
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        let path = clean(path);
        path.is_empty() || self.seen.dirs.contains(&path)
    }

    pub(super) fn link(&mut self, now: u64, path: &str, node: Node) -> Result<(), DiskError> {
        self.change(now, &[path], What::Link { path: clean(path), node })
    }

    pub(super) fn unlink(&mut self, now: u64, path: &str) -> Result<(), DiskError> {
        match self.find(path) {
            Err(DiskError(libc::ENOENT)) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.change(now, &[path], What::Unlink { path: clean(path) }),
        }
    }

    pub(super) fn rename(&mut self, now: u64, from: &str, to: &str) -> Result<(), DiskError> {
        let node = self.find(from)?;
        if self.is_dir(to) {
            return Err(DiskError(libc::EISDIR));
        }
        self.change(now, &[from, to], What::Rename { from: clean(from), to: clean(to), node })
    }

    pub(super) fn make_dir(&mut self, now: u64, path: &str) -> Result<(), DiskError> {
        if self.is_dir(path) || self.seen.files.contains_key(&clean(path)) {
            return Ok(()); // as the system's EEXIST is taken
        }
        self.change(now, &[path], What::MakeDir { path: clean(path) })
    }

    pub(super) fn remove_dir(&mut self, now: u64, path: &str) -> Result<(), DiskError> {
        let dir = clean(path);
        if self.seen.files.contains_key(&dir) {
            return Err(DiskError(libc::ENOTDIR));
        }
        if !self.seen.dirs.contains(&dir) {
            return Ok(());
        }
        let mut inside = self.seen.files.keys().chain(&self.seen.dirs);
        if inside.any(|path| parent(path) == dir) {
            return Err(DiskError(libc::ENOTEMPTY));
        }
        self.change(now, &[path], What::RemoveDir { path: dir })
    }

    /// The files of one directory with their nodes.
    pub(super) fn list(&self, path: &str) -> Result<Vec<(String, Node)>, DiskError> {
        let dir = self.dir(path)?;
        let inside = self.seen.files.iter().filter(|(path, _)| parent(path) == dir);
        Ok(inside.map(|(path, &node)| (base(path).to_owned(), node)).collect())
    }

    /// The directories in one directory.
    pub(super) fn list_dirs(&self, path: &str) -> Result<Vec<String>, DiskError> {
        let dir = self.dir(path)?;
        let inside = self.seen.dirs.iter().filter(|path| parent(path) == dir);
        Ok(inside.map(|path| base(path).to_owned()).collect())
    }

    /// The path of a directory that is there.
    fn dir(&self, path: &str) -> Result<String, DiskError> {
        if !self.is_dir(path) {
            let is_file = self.seen.files.contains_key(&clean(path));
            return Err(DiskError(if is_file { libc::ENOTDIR } else { libc::ENOENT }));
        }
        Ok(clean(path))
    }

    /// All files by path.
    pub(super) fn files(&self) -> &BTreeMap<String, Node> {
        &self.seen.files
    }

    /// Nodes that a name leads to, or may lead to after a power loss.
    pub(super) fn reachable(&self) -> BTreeSet<Node> {
        let journal = self.journal.iter().filter_map(|change| match change.what {
            What::Link { node, .. } | What::Rename { node, .. } => Some(node),
            _ => None,
        });
        let named = self.seen.files.values().chain(self.durable.files.values()).copied();
        named.chain(journal).collect()
    }

    /// A sync of the directory that began at `began` has succeeded.
    pub(super) fn synced(&mut self, began: u64, path: &str) {
        // A rename drags along what came before it in its other directory: it is one change.
        let mut dirs = BTreeSet::from([clean(path)]);
        let mut chosen = vec![false; self.journal.len()];
        for (i, change) in self.journal.iter().enumerate().rev() {
            if change.at <= began && change.dirs.iter().any(|dir| dirs.contains(dir)) {
                chosen[i] = true;
                dirs.extend(change.dirs.iter().cloned());
            }
        }
        let mut chosen = chosen.into_iter();
        let durable = &mut self.durable;
        self.journal.retain(|change| {
            let stays = !chosen.next().expect("one for each");
            if !stays {
                apply(durable, &change.what);
            }
            stays
        });
    }

    /// Power returns: of each directory's unsynced changes a prefix has survived.
    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        let odds = [0, 1, 4, 8, 8][rng.index(5)];
        let mut lost = BTreeSet::new();
        for change in self.journal.drain(..) {
            if change.dirs.iter().any(|dir| lost.contains(dir)) || !rng.chance(odds, 8) {
                lost.extend(change.dirs);
            } else {
                apply(&mut self.durable, &change.what);
            }
        }
        // What stood in a directory whose creation was lost is lost with it.
        let tree = &mut self.durable;
        loop {
            let orphan = tree.dirs.iter().find(|dir| {
                let above = parent(dir);
                !above.is_empty() && !tree.dirs.contains(above)
            });
            let Some(orphan) = orphan.cloned() else { break };
            tree.dirs.remove(&orphan);
        }
        let dirs = &tree.dirs;
        tree.files.retain(|path, _| parent(path).is_empty() || dirs.contains(parent(path)));
        self.seen = self.durable.clone();
    }

    fn change(&mut self, now: u64, paths: &[&str], what: What) -> Result<(), DiskError> {
        let mut dirs: Vec<String> = paths.iter().map(|path| parent(&clean(path)).to_owned()).collect();
        dirs.dedup();
        if let Some(absent) = dirs.iter().find(|dir| !self.is_dir(dir)) {
            let is_file = self.seen.files.contains_key(absent);
            return Err(DiskError(if is_file { libc::ENOTDIR } else { libc::ENOENT }));
        }
        apply(&mut self.seen, &what);
        self.journal.push(Change { at: now, dirs, what });
        Ok(())
    }
}

fn apply(tree: &mut Tree, what: &What) {
    match what.clone() {
        What::Link { path, node } => drop(tree.files.insert(path, node)),
        What::Unlink { path } => drop(tree.files.remove(&path)),
        What::Rename { from, to, node } => {
            tree.files.remove(&from);
            tree.files.insert(to, node);
        }
        What::MakeDir { path } => drop(tree.dirs.insert(path)),
        What::RemoveDir { path } => drop(tree.dirs.remove(&path)),
    }
}

/// A path without `.` parts and doubled separators; the root is empty.
fn clean(path: &str) -> String {
    assert!(!path.starts_with('/'), "paths are relative to the data directory: {path}");
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    parts.join("/")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn base(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
