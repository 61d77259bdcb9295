//! A data directory that no member uses, as offline tools see it: held by its lock, and only read.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{
    DataDir, DirError, LOCK_NAME, MEMBER_NAME, io_error, lane_name, lanes_in, snapshots_name,
    try_lock,
};
use crate::ids::{LaneId, ShardId};

/// A data directory of a stopped member, which cannot start while this lives.
#[derive(Debug)]
pub struct StoppedDir {
    path: PathBuf,
    /// Held for its lock; `None` in a directory whose creation did not get as far as the file.
    _lock: Option<File>,
}

impl StoppedDir {
    /// Locks the directory of a member that does not run. Creates nothing.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        if !DataDir::is_created(path)? {
            return Err(DirError::Missing {
                path: path.display().to_string(),
            });
        }
        let name = path.join(LOCK_NAME);
        let lock = if name.exists() {
            let file = File::open(&name).map_err(io_error("open", &name))?;
            try_lock(&file, path)?;
            Some(file)
        } else {
            None
        };
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// The lanes that exist, in order.
    pub fn lanes(&self) -> Result<Vec<LaneId>, DirError> {
        let member = self.path.join(MEMBER_NAME);
        if member.is_dir() {
            lanes_in(&member)
        } else {
            Ok(Vec::new())
        }
    }

    /// The directory of a lane, which may not exist.
    #[must_use]
    pub fn lane_path(&self, lane: LaneId) -> PathBuf {
        self.path.join(MEMBER_NAME).join(lane_name(lane))
    }

    /// The directory of a shard's snapshot files, if it exists.
    #[must_use]
    pub fn snapshots_path(&self, shard: ShardId) -> Option<PathBuf> {
        let path = self.path.join(MEMBER_NAME).join(snapshots_name(shard));
        path.is_dir().then_some(path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn g_d_8_tools_hold_a_directory_that_nobody_has_and_create_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        let error = StoppedDir::open(&path).unwrap_err();
        assert!(matches!(error, DirError::Missing { .. }), "{error}");
        assert!(!path.exists());
        let running = DataDir::open(&path).unwrap();
        let lane = running.lane_path(LaneId(0)).unwrap();
        let error = StoppedDir::open(&path).unwrap_err();
        assert!(matches!(error, DirError::Locked { .. }), "{error}");
        drop(running);
        let stopped = StoppedDir::open(&path).unwrap();
        assert_eq!(stopped.lanes().unwrap(), [LaneId(0)]);
        assert_eq!(stopped.lane_path(LaneId(0)), lane);
        assert_eq!(stopped.snapshots_path(ShardId(0)), None);
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DirError::Locked { .. }), "{error}");
    }
}
