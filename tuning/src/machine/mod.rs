//! Facts about a machine: what `/proc` and `/sys` say about the disk under a directory.
//!
//! `keelson doctor` judges them, and `keelson-bench` prints them beside its figures. Everything is
//! read below a [`Root`], so that tests can make a machine out of files. What the machine does not
//! tell stays empty.

mod disk;

use std::fs;
use std::path::{Path, PathBuf};

pub use disk::{Disk, Filesystem};

/// Where `/proc`, `/sys` and `/dev` are looked for.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// This machine.
    #[must_use]
    pub fn system() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A tree that holds what the kernel would show, for tests.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A path below this root; leading slashes do not lead out of it.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file without spaces around it; `None` if there is no such file or no text.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// The number that a file holds.
    #[must_use]
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The value on the first `name: value` line of a file.
    #[must_use]
    pub fn value(&self, path: impl AsRef<Path>, name: &str) -> Option<String> {
        self.read(path)?.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    }
}

/// The word in square brackets, by which the kernel marks one of several choices.
#[must_use]
pub fn chosen(choices: &str) -> Option<&str> {
    choices
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}
