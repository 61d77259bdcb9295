//! A member of a cluster whose data is damaged begins anew, under its own name.
//!
//! What it had forgotten it may have promised, so until it has all of it again from the others it must not start from
//! what is in its directory, whatever that looks like. `member/REJOIN` says so: it appears durably before anything is set
//! aside, and goes when the member is whole. The damaged data waits in `member/damaged` until then, for whoever has to look
//! into it.
//!
//! What a crash leaves: `REJOIN`, and perhaps a part of the data still in its place. The next start sets it aside as well.
//! If something was set aside before, what is there now is only the beginning of a new start, and is removed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{
    DataDir, DirError, LANE_PREFIX, MEMBER_NAME, SNAPSHOTS_PREFIX, create_private, io_error,
    list_names, sync_directory, write_new,
};

const REJOIN_NAME: &str = "REJOIN";
const REJOIN_DRAFT_NAME: &str = "REJOIN.new";
const DAMAGED_NAME: &str = "damaged";
const REJOIN_TEXT: &str =
    "the data of this member was damaged; it gets all of it from the others\n";

impl DataDir {
    /// Whether the member has to get everything from the others before anything here counts.
    #[must_use]
    pub fn is_rejoining(&self) -> bool {
        self.rejoin_path().exists()
    }

    /// Sets the member's log and snapshots aside: from now on it begins anew.
    pub fn set_data_aside(&self) -> Result<(), DirError> {
        let member = self.member_path();
        let draft = member.join(REJOIN_DRAFT_NAME);
        write_new(&draft, &self.rejoin_path(), REJOIN_TEXT)?;
        let damaged = member.join(DAMAGED_NAME);
        create_private(&damaged)?;
        for name in list_names(&member)? {
            if !name.starts_with(LANE_PREFIX) && !name.starts_with(SNAPSHOTS_PREFIX) {
                continue;
            }
            let (path, aside) = (member.join(&name), damaged.join(&name));
            if aside.exists() {
                std::fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
            } else {
                std::fs::rename(&path, &aside).map_err(io_error("set aside", &path))?;
            }
        }
        sync_directory(&damaged)?;
        sync_directory(&member)
    }

    /// The member in the data directory `path` is whole again, durably. What was set aside goes; it may be large, so this
    /// may take long.
    pub fn finish_rejoin(path: &Path) -> Result<(), DirError> {
        let member = path.join(MEMBER_NAME);
        let damaged = member.join(DAMAGED_NAME);
        match std::fs::remove_dir_all(&damaged) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io_error("remove", &damaged)(error));
            }
            _ => {}
        }
        let marker = member.join(REJOIN_NAME);
        std::fs::remove_file(&marker).map_err(io_error("remove", &marker))?;
        sync_directory(&member)
    }

    fn rejoin_path(&self) -> PathBuf {
        self.member_path().join(REJOIN_NAME)
    }

    /// The same, for a directory that is not open.
    pub(super) fn says_rejoin(member: &Path) -> bool {
        member.join(REJOIN_NAME).exists()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::{LaneId, ShardId};

    #[test]
    fn data_is_set_aside_once_and_goes_when_the_member_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let segment = |dir: &DataDir| dir.lane_path(LaneId(0)).unwrap().join("00000001.seg");
        std::fs::write(segment(&dir), b"damaged").unwrap();
        dir.snapshots_path(ShardId(0)).unwrap();
        assert!(!dir.is_rejoining());
        dir.set_data_aside().unwrap();
        assert!(dir.is_rejoining());
        assert!(DataDir::holds_member(folder.path()).unwrap());
        let aside = folder.path().join("member/damaged/wal-0000/00000001.seg");
        // A start that came to nothing leaves less than what was there at first.
        assert!(!segment(&dir).exists());
        std::fs::write(segment(&dir), b"new").unwrap();
        dir.set_data_aside().unwrap();
        assert_eq!(std::fs::read(&aside).unwrap(), b"damaged");
        assert!(!segment(&dir).exists());
        std::fs::write(segment(&dir), b"whole").unwrap();
        DataDir::finish_rejoin(folder.path()).unwrap();
        assert!(!dir.is_rejoining() && !aside.exists());
        assert_eq!(std::fs::read(segment(&dir)).unwrap(), b"whole");
    }
}
