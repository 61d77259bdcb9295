//! The data directory that a tool makes, while it is not complete.
//!
//! What a crash leaves: `DIR.restoring`, which no member is started with, or the finished DIR. If DIR is there, and empty,
//! everything happens in `DIR/.restoring`, and its parts move up at the end: a crash leaves a DIR that a member refuses.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keelson_storage::dir::DataDir;
use keelson_storage::ids::ShardId;

/// What the name of a directory that is not complete ends with.
const DRAFT_SUFFIX: &str = ".restoring";
/// What mkfs leaves at the root of a disk.
const LOST_AND_FOUND: &str = "lost+found";

/// The directory until it is complete; removed unless it gets there. For a new directory it stands beside it and gets
/// its name by a rename. One that exists may be the root of a disk, so there it stands inside.
pub(super) struct Draft {
    path: PathBuf,
    is_inside: bool,
    /// Held for its lock.
    dir: Option<DataDir>,
    snapshots: PathBuf,
}

impl Draft {
    pub(super) fn create(data_dir: &Path) -> anyhow::Result<Self> {
        let is_inside = data_dir.exists();
        let path = if is_inside {
            data_dir.join(DRAFT_SUFFIX)
        } else {
            let name = data_dir.file_name().with_context(|| {
                format!("{} cannot be a new data directory", data_dir.display())
            })?;
            let mut draft_name = name.to_owned();
            draft_name.push(DRAFT_SUFFIX);
            data_dir.with_file_name(draft_name)
        };
        if path.exists() {
            bail!(
                "{} is there: another restore or import runs, or one was killed; in that case remove it",
                path.display()
            );
        }
        let mut draft = Self {
            path,
            is_inside,
            dir: None,
            snapshots: PathBuf::new(),
        };
        // From here on an error removes it.
        let dir = DataDir::open(&draft.path)?;
        draft.snapshots = dir.snapshots_path(ShardId(0))?;
        draft.dir = Some(dir);
        Ok(draft)
    }

    /// Where the files of the only shard go.
    pub(super) fn snapshots(&self) -> &Path {
        &self.snapshots
    }

    /// Gives it its name, for good.
    pub(super) fn complete(mut self, data_dir: &Path) -> anyhow::Result<()> {
        sync(&self.snapshots)?;
        if self.is_inside {
            // A directory is a member's by its format file. So a crash before that leaves one that is refused.
            for name in ["LOCK", "member", "FORMAT"] {
                sync(data_dir)?;
                rename(&self.path.join(name), &data_dir.join(name))?;
            }
            return sync(data_dir);
        }
        rename(&self.path, data_dir)?;
        self.path = PathBuf::new();
        match data_dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
            _ => sync(Path::new(".")),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // One that cannot be removed is named by the next attempt.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot rename to {}", to.display()))
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot sync {}", directory.display()))
}

/// A directory that exists must be empty, as etcdutl demands; what mkfs leaves at the root of a disk does not count.
pub(super) fn check_vacant(data_dir: &Path) -> anyhow::Result<()> {
    let is_vacant = match std::fs::read_dir(data_dir) {
        Ok(mut entries) => {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND))
        }
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_vacant {
        return Ok(());
    }
    bail!(
        "data-dir {:?} not empty or could not be read: it must be new or an empty directory",
        data_dir.display().to_string()
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn g_d_7_a_directory_appears_complete_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (new, empty) = (folder.path().join("new"), folder.path().join("empty"));
        std::fs::create_dir(&empty).unwrap();
        std::fs::create_dir(empty.join(LOST_AND_FOUND)).unwrap();
        for (data_dir, draft) in [(&new, "new.restoring"), (&empty, "empty/.restoring")] {
            check_vacant(data_dir).unwrap();
            let made = Draft::create(data_dir).unwrap();
            assert!(folder.path().join(draft).join("FORMAT").exists());
            assert!(Draft::create(data_dir).is_err(), "{draft} is there");
            drop(made);
            assert!(!folder.path().join(draft).exists(), "{draft}");
            assert_eq!(names(folder.path()), ["empty"]);
            assert_eq!(names(&empty), [LOST_AND_FOUND]);
        }
        for data_dir in [&new, &empty] {
            Draft::create(data_dir).unwrap().complete(data_dir).unwrap();
            assert!(!DataDir::open(data_dir).unwrap().is_new());
            assert!(check_vacant(data_dir).is_err());
        }
        assert_eq!(names(&new), ["FORMAT", "LOCK", "member"]);
        assert_eq!(names(&empty), ["FORMAT", "LOCK", LOST_AND_FOUND, "member"]);
        assert_eq!(names(folder.path()), ["empty", "new"]);
    }
}
