//! The data directory: who owns it, what lies where, and which version wrote it.
//!
//! The server and the offline tools open it before anything else and keep it open as long as they touch
//! what is inside; dropping it releases the lock.
//!
//! ```text
//!   <data-dir>/               0700
//!     FORMAT                  two lines: what this is, and its version
//!     LOCK                    locked by the process that owns the directory; holds its process id
//!     member/IDENTITY         which member of which cluster it is
//!     member/REJOIN           there while the member gets all its data from the others
//!     member/damaged/         what was set aside for that
//!     member/SHARDS           which shards it has, once it has more than one
//!     member/wal-0000/        one directory per WAL lane
//!     member/snap-0000/       one directory per shard: its snapshot files
//! ```
//!
//! Invariants: (1) a directory that holds anything we did not write is never written to; (2) `FORMAT`
//! appears by a rename after its content is durable, so a crash while a directory is created leaves one
//! that is still taken for new.

mod identity;
mod rejoin;
mod shards;
mod stopped;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ids::{LaneId, ShardId};
use crate::io::PROBE_NAME;

pub use identity::Identity;
pub use shards::{
    MAIN_SHARD, MAIN_SHARD_ID, SHARD_NAME_BYTES_MAX, ShardPlace, ShardPlaces, is_shard_name,
    shard_id,
};
pub use stopped::{StoppedDir, StoppedShard};

/// Version of the layout of a directory with one shard.
const FORMAT_ALONE: u32 = 1;
/// Of one whose lanes hold the records of several.
const FORMAT_SHARDS: u32 = 2;
/// The newest version of the directory layout that this code reads.
pub const FORMAT_VERSION: u32 = FORMAT_SHARDS;

const FORMAT_NAME: &str = "FORMAT";
const FORMAT_DRAFT_NAME: &str = "FORMAT.new";
const FORMAT_TITLE: &str = "keelson data directory";
const LOCK_NAME: &str = "LOCK";
const MEMBER_NAME: &str = "member";
const LANE_PREFIX: &str = "wal-";
const SNAPSHOTS_PREFIX: &str = "snap-";

/// Longest content of `FORMAT` or `LOCK` that is looked at.
const TEXT_BYTES_MAX: u64 = 4096;

/// An opened, locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    is_new: bool,
    /// Held for its lock.
    _lock: File,
}

impl DataDir {
    /// Whether `path` is a data directory that was created before. Creates and locks nothing.
    pub fn is_created(path: &Path) -> Result<bool, DirError> {
        if !path.is_dir() {
            return Ok(false);
        }
        let names = list_names(path)?;
        judge(path, &names)?;
        Ok(names.iter().any(|name| name == FORMAT_NAME))
    }

    /// Whether a member could open `path`: it is ours, or can become ours, and nobody has it. Creates
    /// nothing. The lock is tried, for a moment: a member that starts at that very moment is refused.
    pub fn check(path: &Path) -> Result<(), DirError> {
        let name = path.join(LOCK_NAME);
        if Self::is_created(path)? && name.exists() {
            let file = File::open(&name).map_err(io_error("open", &name))?;
            try_lock(&file, path)?;
        }
        Ok(())
    }

    /// Opens a data directory, creating it if it does not exist or is empty, and locks it.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        create_private(path)?;
        let names = list_names(path)?;
        // Judge before the lock file is created: a foreign directory is not touched at all.
        judge(path, &names)?;
        let lock = lock(path)?;
        let is_new = !path.join(FORMAT_NAME).exists();
        if is_new {
            write_format(path, FORMAT_ALONE)?;
        }
        let dir = Self {
            path: path.to_path_buf(),
            is_new,
            _lock: lock,
        };
        create_private(&dir.member_path())?;
        sync_directory(path)?;
        Ok(dir)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when this call created it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The directory of a lane, created if needed.
    pub fn lane_path(&self, lane: LaneId) -> Result<PathBuf, DirError> {
        self.create_in_member(lane_name(lane))
    }

    /// The directory of a shard's snapshot files, created if needed.
    pub fn snapshots_path(&self, shard: ShardId) -> Result<PathBuf, DirError> {
        self.create_in_member(snapshots_name(shard))
    }

    fn create_in_member(&self, name: String) -> Result<PathBuf, DirError> {
        let path = self.member_path().join(name);
        create_private(&path)?;
        sync_directory(&self.member_path())?;
        Ok(path)
    }

    /// The lanes that exist, in order.
    pub fn lanes(&self) -> Result<Vec<LaneId>, DirError> {
        lanes_in(&self.member_path())
    }

    fn member_path(&self) -> PathBuf {
        self.path.join(MEMBER_NAME)
    }
}

/// The lanes that have a directory, in order.
fn lanes_in(member: &Path) -> Result<Vec<LaneId>, DirError> {
    let mut lanes = Vec::new();
    for name in list_names(member)? {
        if let Some(digits) = name.strip_prefix(LANE_PREFIX) {
            let lane = digits
                .parse()
                .ok()
                .filter(|lane: &u16| format!("{lane:04}") == digits);
            lanes.push(LaneId(lane.ok_or_else(|| DirError::Foreign {
                path: member.join(&name).display().to_string(),
                found: "a directory whose name is not a lane's".to_owned(),
            })?));
        }
    }
    lanes.sort();
    Ok(lanes)
}

fn lane_name(lane: LaneId) -> String {
    format!("{LANE_PREFIX}{:04}", lane.0)
}

fn snapshots_name(shard: ShardId) -> String {
    format!("{SNAPSHOTS_PREFIX}{:04}", shard.0)
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by another process{owner}: stop that one, or choose another --data-dir"
    )]
    Locked {
        /// The directory.
        path: String,
        /// Its process id in words, when known.
        owner: String,
    },
    /// etcd's own data.
    #[error(
        "{path} is the data directory of an etcd member. Keelson does not work on it, but can take it over: choose \
         another --data-dir, and fill it first with keelson snapshot import {path} --data-dir=..."
    )]
    Etcd {
        /// The directory.
        path: String,
    },
    /// Nothing.
    #[error("there is no data directory of a member at {path}: name the one meant with --data-dir")]
    Missing {
        /// The path.
        path: String,
    },
    /// The data of a member that begins anew.
    #[error(
        "the member of {path} was damaged and is getting all its data from the other members: what is here now is not its \
         data, and what it had is in {path}/member/damaged. Start it and let it finish, or look at another member"
    )]
    Rejoining {
        /// The directory.
        path: String,
    },
    /// No such shard.
    #[error("the data directory {path} has no shard {name}: it has {known}")]
    NoShard {
        /// The directory.
        path: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Something else's data.
    #[error(
        "{path} is not a Keelson data directory: it holds {found}. Choose an empty or new directory for --data-dir"
    )]
    Foreign {
        /// The directory.
        path: String,
        /// What was found there.
        found: String,
    },
    /// Written by a later version.
    #[error(
        "{path} was written in format {found}, and this version reads up to format {known}: start the version that wrote it, or a later one"
    )]
    Newer {
        /// The directory.
        path: String,
        /// Its version.
        found: u32,
        /// What this version knows.
        known: u32,
    },
    /// The version file cannot be understood.
    #[error(
        "{path} does not say which version wrote this data directory: restore the file from a backup (its two lines are \"{FORMAT_TITLE}\" and \"format 1\")"
    )]
    FormatDamaged {
        /// The version file.
        path: String,
    },
    /// The file that says whose data it is cannot be understood.
    #[error(
        "{path} does not say which member this data directory belongs to: restore the file from a backup, or remove the member from the cluster and let it join again with an empty directory"
    )]
    IdentityDamaged {
        /// The file.
        path: String,
    },
    /// The file that says which shards there are cannot be understood.
    #[error(
        "{path} does not say which shards this data directory holds: restore the file from a backup"
    )]
    ShardsDamaged {
        /// The file.
        path: String,
    },
    /// The operating system refused.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DirError {
    let path = path.display().to_string();
    move |source| DirError::Io {
        operation,
        path,
        source,
    }
}

fn list_names(path: &Path) -> Result<Vec<String>, DirError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io_error("list", path))? {
        let entry = entry.map_err(io_error("list", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Decides from the names, and the version file if there is one, whether the directory is ours or empty.
fn judge(path: &Path, names: &[String]) -> Result<(), DirError> {
    let shown = path.display().to_string();
    if names.iter().any(|name| name == FORMAT_NAME) {
        return check_format(path);
    }
    let member = path.join(MEMBER_NAME);
    if member.join("snap").exists() || member.join("wal").exists() {
        return Err(DirError::Etcd { path: shown });
    }
    // What a crash during creation or of a probe leaves, and what mkfs leaves at the root of a disk.
    let harmless = [LOCK_NAME, FORMAT_DRAFT_NAME, PROBE_NAME, "lost+found"];
    match names.iter().find(|name| !harmless.contains(&name.as_str())) {
        Some(found) => Err(DirError::Foreign {
            path: shown,
            found: format!("\"{found}\""),
        }),
        None => Ok(()),
    }
}

fn check_format(path: &Path) -> Result<(), DirError> {
    let file = path.join(FORMAT_NAME);
    let text = read_text(&file)?;
    let mut lines = text.lines();
    let title = lines.next();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("format "))
        .and_then(|v| v.parse::<u32>().ok());
    match (title, version) {
        (Some(FORMAT_TITLE), Some(found)) if found > FORMAT_VERSION => Err(DirError::Newer {
            path: path.display().to_string(),
            found,
            known: FORMAT_VERSION,
        }),
        (Some(FORMAT_TITLE), Some(FORMAT_ALONE..=FORMAT_VERSION)) => Ok(()),
        _ => Err(DirError::FormatDamaged {
            path: file.display().to_string(),
        }),
    }
}

fn write_format(path: &Path, version: u32) -> Result<(), DirError> {
    let text = format!("{FORMAT_TITLE}\nformat {version}\n");
    write_new(
        &path.join(FORMAT_DRAFT_NAME),
        &path.join(FORMAT_NAME),
        &text,
    )
}

/// Makes a small file that is there as a whole or not at all.
fn write_new(draft: &Path, target: &Path, text: &str) -> Result<(), DirError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(draft).map_err(io_error("create", draft))?;
    file.write_all(text.as_bytes())
        .map_err(io_error("write", draft))?;
    file.sync_all().map_err(io_error("sync", draft))?;
    std::fs::rename(draft, target).map_err(io_error("rename to", target))?;
    sync_directory(target.parent().expect("a file is in a directory"))
}

/// Takes the lock without waiting, and notes the process id for whoever comes second.
fn lock(path: &Path) -> Result<File, DirError> {
    let name = path.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&name).map_err(io_error("open", &name))?;
    try_lock(&file, path)?;
    file.set_len(0).map_err(io_error("write", &name))?;
    file.seek(SeekFrom::Start(0))
        .map_err(io_error("write", &name))?;
    writeln!(file, "{}", std::process::id()).map_err(io_error("write", &name))?;
    Ok(file)
}

/// Takes the lock of the directory at `path`, or says who has it.
fn try_lock(file: &File, path: &Path) -> Result<(), DirError> {
    let name = path.join(LOCK_NAME);
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let text = read_text(&name).unwrap_or_default();
            let owner = text
                .trim()
                .parse::<u32>()
                .map_or(String::new(), |id| format!(" (process {id})"));
            Err(DirError::Locked {
                path: path.display().to_string(),
                owner,
            })
        }
        Err(TryLockError::Error(source)) => Err(io_error("lock", &name)(source)),
    }
}

fn read_text(path: &Path) -> Result<String, DirError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Creates a directory that only its owner may enter, with its parents; one that exists is left as it is.
fn create_private(path: &Path) -> Result<(), DirError> {
    if path.is_dir() {
        return Ok(());
    }
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), sync_directory),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(DirError::Foreign {
            path: path.display().to_string(),
            found: "something that is not a directory".to_owned(),
        }),
        Err(e) => Err(io_error("create", path)(e)),
    }
}

fn sync_directory(path: &Path) -> Result<(), DirError> {
    let directory = File::open(path).map_err(io_error("open", path))?;
    directory.sync_all().map_err(io_error("sync", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn g_d_8_a_new_directory_is_private_and_opens_again() {
        let scratch = scratch();
        let path = scratch.path().join("a/b.keelson");
        assert!(!DataDir::is_created(&path).unwrap());
        assert_eq!(list_names(scratch.path()).unwrap(), [""; 0]);
        {
            let dir = DataDir::open(&path).unwrap();
            assert!(dir.is_new());
            assert_eq!(dir.lanes().unwrap(), []);
            let lane = dir.lane_path(LaneId(1)).unwrap();
            assert_eq!(lane, path.join("member/wal-0001"));
            for private in [&path, &path.join("member"), &lane] {
                assert_eq!(
                    std::fs::metadata(private).unwrap().permissions().mode() & 0o777,
                    0o700
                );
            }
        }
        assert!(DataDir::is_created(&path).unwrap());
        let dir = DataDir::open(&path).unwrap();
        assert!(!dir.is_new());
        assert_eq!(dir.lanes().unwrap(), [LaneId(1)]);
    }

    #[test]
    fn g_d_8_a_second_process_is_told_who_has_the_directory() {
        let scratch = scratch();
        let first = DataDir::open(scratch.path()).unwrap();
        let text = DataDir::open(scratch.path()).unwrap_err().to_string();
        assert!(
            text.contains(&scratch.path().display().to_string()),
            "{text}"
        );
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        let text = DataDir::check(scratch.path()).unwrap_err().to_string();
        assert!(text.contains("in use by another process"), "{text}");
        drop(first);
        DataDir::check(scratch.path()).unwrap();
        DataDir::open(scratch.path()).unwrap();
    }

    #[test]
    fn g_d_8_checking_a_directory_changes_nothing() {
        let scratch = scratch();
        let path = scratch.path().join("new");
        DataDir::check(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(scratch.path().join(PROBE_NAME), b"").unwrap();
        DataDir::check(scratch.path()).unwrap();
        std::fs::write(scratch.path().join("notes.txt"), b"mine").unwrap();
        DataDir::check(scratch.path()).unwrap_err();
        assert_eq!(
            list_names(scratch.path()).unwrap(),
            [PROBE_NAME, "notes.txt"]
        );
    }

    #[test]
    fn g_d_8_etcd_data_is_recognised_and_left_alone() {
        let scratch = scratch();
        std::fs::create_dir_all(scratch.path().join("member/snap")).unwrap();
        std::fs::write(scratch.path().join("member/snap/db"), b"bolt").unwrap();
        let error = DataDir::open(scratch.path()).unwrap_err();
        assert!(matches!(error, DirError::Etcd { .. }), "{error}");
        let error = DataDir::is_created(scratch.path()).unwrap_err();
        assert!(matches!(error, DirError::Etcd { .. }), "{error}");
        assert_eq!(list_names(scratch.path()).unwrap(), ["member"]);
    }

    #[test]
    fn g_d_8_foreign_newer_and_damaged_directories_are_refused() {
        let foreign = scratch();
        std::fs::write(foreign.path().join("notes.txt"), b"mine").unwrap();
        let error = DataDir::open(foreign.path()).unwrap_err();
        assert!(matches!(error, DirError::Foreign { .. }), "{error}");
        assert_eq!(list_names(foreign.path()).unwrap(), ["notes.txt"]);

        let newer = scratch();
        std::fs::write(
            newer.path().join("FORMAT"),
            "keelson data directory\nformat 3\n",
        )
        .unwrap();
        let error = DataDir::open(newer.path()).unwrap_err();
        assert!(matches!(error, DirError::Newer { found: 3, .. }), "{error}");

        for text in [
            "",
            "keelson data directory\n",
            "something\nformat 1\n",
            "keelson data directory\nformat x\n",
        ] {
            let damaged = scratch();
            std::fs::write(damaged.path().join("FORMAT"), text).unwrap();
            let error = DataDir::open(damaged.path()).unwrap_err();
            assert!(matches!(error, DirError::FormatDamaged { .. }), "{error}");
        }
    }

    #[test]
    fn g_d_8_a_creation_cut_short_is_taken_up_again() {
        let scratch = scratch();
        std::fs::create_dir(scratch.path().join("lost+found")).unwrap();
        std::fs::write(scratch.path().join("LOCK"), b"").unwrap();
        std::fs::write(scratch.path().join("FORMAT.new"), b"keel").unwrap();
        assert!(DataDir::open(scratch.path()).unwrap().is_new());
    }

    #[test]
    fn g_d_8_a_file_in_place_of_the_directory_is_refused() {
        let scratch = scratch();
        let path = scratch.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DirError::Foreign { .. }), "{error}");
    }
}
