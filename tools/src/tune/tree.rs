//! A `/proc` and a `/sys` for tests, in a directory that goes with its owner.

use std::fs;
use std::path::PathBuf;

use super::facts::Root;

/// The directory.
pub(crate) struct Tree(PathBuf);

impl Tree {
    pub(crate) fn new(name: &str) -> Tree {
        let dir = std::env::temp_dir().join(format!("runelog-tune-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory for the tree");
        Tree(dir)
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(&self.0)
    }

    /// Writes a file.
    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        fs::write(path, format!("{text}\n")).expect("a file");
    }

    /// Makes a link, relative as those of `/sys` are.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        std::os::unix::fs::symlink(target, path).expect("a link");
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
