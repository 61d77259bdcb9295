//! A data directory that no member uses, as offline tools see it: held by its lock, and only read.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::shards::read_shards;
use super::{
    DataDir, DirError, LOCK_NAME, MAIN_SHARD, MAIN_SHARD_ID, MEMBER_NAME, io_error, lane_name,
    lanes_in, snapshots_name, try_lock,
};
use crate::ids::{LaneId, ShardId};

/// A data directory of a stopped member, which cannot start while this lives.
#[derive(Debug)]
pub struct StoppedDir {
    path: PathBuf,
    /// Held for its lock; `None` in a directory whose creation did not get as far as the file.
    _lock: Option<File>,
}

/// A shard of a stopped member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoppedShard {
    /// Its name.
    pub name: String,
    /// Its id.
    pub shard: ShardId,
    /// The lane that holds its records.
    pub lane: LaneId,
    /// Whether the directory says that it is there: then it has a record or a snapshot. `main` of a directory that
    /// never held another is not written down.
    pub is_written_down: bool,
}

impl StoppedDir {
    /// Locks the directory of a member that does not run. Creates nothing.
    ///
    /// # Errors
    /// There is none, somebody uses it, or its member begins anew: then what is here is not its data.
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
        if DataDir::says_rejoin(&path.join(MEMBER_NAME)) {
            return Err(DirError::Rejoining {
                path: path.display().to_string(),
            });
        }
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// All shards, `main` first.
    ///
    /// # Errors
    /// [`DirError::ShardsDamaged`] if the file that names them cannot be understood.
    pub fn shards(&self) -> Result<Vec<StoppedShard>, DirError> {
        let known = read_shards(&self.path.join(MEMBER_NAME))?;
        let mut shards = vec![StoppedShard {
            name: MAIN_SHARD.to_owned(),
            shard: MAIN_SHARD_ID,
            lane: LaneId(0),
            is_written_down: known.contains_key(MAIN_SHARD),
        }];
        let others = known.into_iter().filter(|(name, _)| name != MAIN_SHARD);
        shards.extend(others.map(|(name, place)| StoppedShard {
            name,
            shard: place.shard,
            lane: place.lane,
            is_written_down: true,
        }));
        Ok(shards)
    }

    /// The shard of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn shard(&self, name: &str) -> Result<StoppedShard, DirError> {
        let shards = self.shards()?;
        let known: Vec<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
        let known = known.join(", ");
        let found = shards.into_iter().find(|shard| shard.name == name);
        found.ok_or_else(|| DirError::NoShard {
            path: self.path.display().to_string(),
            name: name.to_owned(),
            known,
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
    use crate::dir::{ShardPlace, shard_id};

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

    #[test]
    fn a_shard_is_found_by_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        let running = DataDir::open(scratch.path()).unwrap();
        let open = || StoppedDir::open(scratch.path()).unwrap();
        drop(running);
        let main = StoppedShard {
            name: MAIN_SHARD.to_owned(),
            shard: MAIN_SHARD_ID,
            lane: LaneId(0),
            is_written_down: false,
        };
        assert_eq!(open().shards().unwrap(), std::slice::from_ref(&main));
        let running = DataDir::open(scratch.path()).unwrap();
        let place = |name: &str, lane| ShardPlace {
            shard: shard_id(name),
            lane: LaneId(lane),
            is_joined: false,
        };
        let places = [("main", 0), ("events", 1)]
            .map(|(name, lane)| (name.to_owned(), place(name, lane)))
            .into();
        running.set_shards(&places).unwrap();
        drop(running);
        let main = StoppedShard {
            is_written_down: true,
            ..main
        };
        let events = StoppedShard {
            name: "events".to_owned(),
            shard: shard_id("events"),
            lane: LaneId(1),
            is_written_down: true,
        };
        let dir = open();
        assert_eq!(dir.shards().unwrap(), [main.clone(), events.clone()]);
        assert_eq!(dir.shard("main").unwrap(), main);
        assert_eq!(dir.shard("events").unwrap(), events);
        let error = dir.shard("leases").unwrap_err().to_string();
        assert!(error.contains("no shard leases"), "{error}");
        assert!(error.contains("main, events"), "{error}");
    }

    #[test]
    fn the_directory_of_a_member_that_begins_anew_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let running = DataDir::open(scratch.path()).unwrap();
        running.set_data_aside().unwrap();
        drop(running);
        let error = StoppedDir::open(scratch.path()).unwrap_err();
        assert!(matches!(error, DirError::Rejoining { .. }), "{error}");
        DataDir::finish_rejoin(scratch.path()).unwrap();
        assert!(StoppedDir::open(scratch.path()).is_ok());
    }
}
