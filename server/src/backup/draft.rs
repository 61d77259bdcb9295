//! The data directory that a tool makes, while it is not complete.
//!
//! What a crash leaves: `DIR.restoring`, which no member is started with, or the finished DIR. If DIR is there, and empty,
//! everything happens in `DIR/.restoring`, and its parts move up at the end: a crash leaves a DIR that a member refuses.
//! Either way the next tool that is to make DIR takes over what nobody has locked, and begins anew with it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keelson_storage::dir::{DataDir, DirError};
use keelson_storage::ids::ShardId;

/// What the name of a directory that is not complete ends with.
const DRAFT_SUFFIX: &str = ".restoring";
/// What mkfs leaves at the root of a disk.
const LOST_AND_FOUND: &str = "lost+found";
const FORMAT: &str = "FORMAT";
const LOCK: &str = "LOCK";
const MEMBER: &str = "member";
/// What moves up into a directory that exists, in this order: a directory is a member's by its format file.
const PARTS: [&str; 3] = [LOCK, MEMBER, FORMAT];
/// What the names of the directories begin with that a tool fills, and how that of the one file in each ends.
const SNAPSHOTS_PREFIX: &str = "snap-";
const SNAPSHOT_SUFFIX: &str = ".snap";

/// The directory until it is complete; removed unless it gets there. For a new directory it stands beside it and gets
/// its name by a rename. One that exists may be the root of a disk, so there it stands inside.
pub(super) struct Draft {
    path: PathBuf,
    is_inside: bool,
    /// Held for its lock.
    dir: DataDir,
    snapshots: PathBuf,
    others: Vec<PathBuf>,
}

impl Draft {
    /// Begins a directory, of which [`check_vacant`] said that there is none yet.
    pub(super) fn create(data_dir: &Path) -> anyhow::Result<Self> {
        let is_inside = data_dir.exists();
        let path = draft_of(data_dir, is_inside)?;
        if is_inside {
            recall(data_dir, &path)?;
        }
        let dir = match DataDir::open(&path) {
            Ok(dir) => dir,
            Err(DirError::Locked { path, owner }) => {
                bail!("{path} is there: another restore or import runs{owner}")
            }
            Err(error) => return Err(error.into()),
        };
        if !dir.is_new() {
            clear(&path)?;
        }
        // From here on an error removes it.
        let mut draft = Self {
            path,
            is_inside,
            dir,
            snapshots: PathBuf::new(),
            others: Vec::new(),
        };
        draft.snapshots = draft.dir.snapshots_path(ShardId(0))?;
        Ok(draft)
    }

    /// Where the files of `main` go.
    pub(super) fn snapshots(&self) -> &Path {
        &self.snapshots
    }

    /// Where those of another shard go.
    pub(super) fn snapshots_of(&mut self, shard: ShardId) -> anyhow::Result<PathBuf> {
        self.dir.expect_shards()?;
        let path = self.dir.snapshots_path(shard)?;
        self.others.push(path.clone());
        Ok(path)
    }

    /// Gives it its name, for good.
    pub(super) fn complete(mut self, data_dir: &Path) -> anyhow::Result<()> {
        sync(&self.snapshots)?;
        for other in &self.others {
            sync(other)?;
        }
        if self.is_inside {
            for name in PARTS {
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

fn draft_of(data_dir: &Path, is_inside: bool) -> anyhow::Result<PathBuf> {
    if is_inside {
        return Ok(data_dir.join(DRAFT_SUFFIX));
    }
    let name = data_dir.file_name();
    let name =
        name.with_context(|| format!("{} cannot be a new data directory", data_dir.display()))?;
    let mut draft_name = name.to_owned();
    draft_name.push(DRAFT_SUFFIX);
    Ok(data_dir.with_file_name(draft_name))
}

/// Moves the parts back that a tool had moved up when it was killed.
fn recall(data_dir: &Path, draft: &Path) -> anyhow::Result<()> {
    let lock = data_dir.join(LOCK);
    if let Ok(file) = File::open(&lock)
        && let Err(TryLockError::WouldBlock) = file.try_lock()
    {
        bail!(
            "{} is there: another restore or import runs",
            lock.display()
        );
    }
    for name in PARTS {
        let moved = data_dir.join(name);
        if moved.exists() {
            rename(&moved, &draft.join(name))?;
        }
    }
    Ok(())
}

/// Empties a directory that a tool left when it was killed, and that is locked now. One that holds anything else is not
/// touched.
fn clear(path: &Path) -> anyhow::Result<()> {
    let in_the_way = |found: &Path| {
        anyhow::anyhow!(
            "{} is in the way: no restore or import left that. Move {} away",
            found.display(),
            path.display()
        )
    };
    let mut snapshots = Vec::new();
    for entry in entries(path)? {
        if !PARTS.iter().any(|part| entry.ends_with(part)) {
            return Err(in_the_way(&entry));
        }
    }
    for folder in entries(&path.join(MEMBER))? {
        let name = folder.file_name().unwrap_or_default();
        if !name.to_string_lossy().starts_with(SNAPSHOTS_PREFIX) {
            return Err(in_the_way(&folder));
        }
        for file in entries(&folder)? {
            if !file.to_string_lossy().ends_with(SNAPSHOT_SUFFIX) {
                return Err(in_the_way(&file));
            }
            snapshots.push(file);
        }
    }
    for file in snapshots {
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot list {}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        paths.push(entry.with_context(cannot)?.path());
    }
    Ok(paths)
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot rename to {}", to.display()))
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot sync {}", directory.display()))
}

/// A directory that exists must be empty, as etcdutl demands; what mkfs leaves at the root of a disk does not count, nor
/// what a tool that was killed left of a directory that is not complete.
pub(super) fn check_vacant(data_dir: &Path) -> anyhow::Result<()> {
    let has_draft = data_dir.join(DRAFT_SUFFIX).is_dir();
    let is_harmless = |name: &std::ffi::OsStr| {
        name == LOST_AND_FOUND
            || (has_draft
                && [DRAFT_SUFFIX, LOCK, MEMBER]
                    .iter()
                    .any(|ours| name == *ours))
    };
    let is_vacant = match std::fs::read_dir(data_dir) {
        Ok(mut entries) => {
            entries.all(|entry| entry.is_ok_and(|entry| is_harmless(&entry.file_name())))
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
            let error = Draft::create(data_dir).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("import runs"), "{error}");
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

    /// What a tool leaves that is killed while it writes.
    fn killed(data_dir: &Path) -> PathBuf {
        let draft = Draft::create(data_dir).unwrap();
        let file = draft.snapshots().join("00000001.snap");
        std::fs::write(&file, b"half").unwrap();
        let path = draft.path.clone();
        // The lock goes with the process, and the files stay.
        let copy = path.with_extension("copy");
        copy_all(&path, &copy);
        drop(draft);
        std::fs::rename(&copy, &path).unwrap();
        path
    }

    fn copy_all(from: &Path, to: &Path) {
        std::fs::create_dir(to).unwrap();
        for name in names(from) {
            let (from, to) = (from.join(&name), to.join(&name));
            if from.is_dir() {
                copy_all(&from, &to);
            } else {
                std::fs::copy(from, to).unwrap();
            }
        }
    }

    #[test]
    fn what_a_killed_tool_left_is_taken_over_wherever_it_was_killed() {
        let folder = tempfile::tempdir().unwrap();
        let (new, empty) = (folder.path().join("new"), folder.path().join("empty"));
        std::fs::create_dir(&empty).unwrap();
        for data_dir in [&new, &empty] {
            // While it wrote, and with parts moved up.
            for moved in 0..PARTS.len() {
                let left = killed(data_dir);
                let moved = if data_dir == &empty { moved } else { 0 };
                for name in &PARTS[..moved] {
                    std::fs::rename(left.join(name), data_dir.join(name)).unwrap();
                }
                check_vacant(data_dir).unwrap();
                let draft = Draft::create(data_dir).unwrap();
                assert!(names(draft.snapshots()).is_empty(), "it begins anew");
                assert_eq!(names(&left), ["FORMAT", "LOCK", "member"]);
                drop(draft);
                assert!(!left.exists());
            }
            killed(data_dir);
            Draft::create(data_dir).unwrap().complete(data_dir).unwrap();
            assert_eq!(names(data_dir), ["FORMAT", "LOCK", "member"]);
        }
        assert_eq!(names(folder.path()), ["empty", "new"]);
    }

    #[test]
    fn what_no_tool_left_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("new");
        for strange in ["notes", "member/wal-0000", "member/snap-0000/notes"] {
            let left = killed(&data_dir);
            std::fs::create_dir(left.join(strange)).unwrap();
            let error = Draft::create(&data_dir).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(strange), "{error}");
            assert!(left.join("member/snap-0000/00000001.snap").exists());
            std::fs::remove_dir_all(left).unwrap();
        }
        let foreign = folder.path().join("new.restoring");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("notes"), b"mine").unwrap();
        assert!(Draft::create(&data_dir).is_err());
        assert_eq!(std::fs::read(foreign.join("notes")).unwrap(), b"mine");
    }
}
