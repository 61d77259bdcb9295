//! Whose data a directory holds.
//!
//! The replicated state names all members and is the same on each of them, so which one this is must be
//! written down beside it: once, before the member's first record. The file appears by a rename after its
//! content is durable. A directory without it is of an older version, which knew only clusters of one, or
//! was restored: there the only member of the state is the one.

use std::path::{Path, PathBuf};

use super::{
    DataDir, DirError, LANE_PREFIX, MEMBER_NAME, SNAPSHOTS_PREFIX, list_names, read_text, write_new,
};
use crate::ids::{ClusterId, MemberId};
use crate::io::PROBE_NAME;

const IDENTITY_NAME: &str = "IDENTITY";
const IDENTITY_DRAFT_NAME: &str = "IDENTITY.new";

/// A member of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
}

impl DataDir {
    /// What was written down last, if anything was.
    ///
    /// # Errors
    /// [`DirError::IdentityDamaged`] if it cannot be understood.
    pub fn identity(&self) -> Result<Option<Identity>, DirError> {
        let path = self.identity_path();
        if !path.exists() {
            return Ok(None);
        }
        let identity = Identity::decode(&read_text(&path)?);
        let damaged = || DirError::IdentityDamaged {
            path: path.display().to_string(),
        };
        identity.map(Some).ok_or_else(damaged)
    }

    /// Writes down, durably, whose data it is.
    pub fn set_identity(&self, identity: Identity) -> Result<(), DirError> {
        let draft = self.member_path().join(IDENTITY_DRAFT_NAME);
        write_new(&draft, &self.identity_path(), &identity.encode())
    }

    /// Whether `path` is a data directory in which anything was ever written for a member: a log, or a snapshot file that
    /// a restore made. Creates nothing.
    pub fn holds_member(path: &Path) -> Result<bool, DirError> {
        let member = path.join(MEMBER_NAME);
        if !Self::is_created(path)? || !member.is_dir() {
            return Ok(false);
        }
        if Self::says_rejoin(&member) {
            return Ok(true);
        }
        for name in list_names(&member)? {
            let is_data = name.starts_with(LANE_PREFIX) || name.starts_with(SNAPSHOTS_PREFIX);
            if is_data
                && list_names(&member.join(&name))?
                    .iter()
                    .any(|file| file != PROBE_NAME)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn identity_path(&self) -> PathBuf {
        self.member_path().join(IDENTITY_NAME)
    }
}

impl Identity {
    fn encode(self) -> String {
        let lines = format!(
            "member {:016x}\ncluster {:016x}\n",
            self.member.0, self.cluster.0
        );
        let check = crc32c::crc32c(lines.as_bytes());
        format!("{lines}crc32c {check:08x}\n")
    }

    fn decode(text: &str) -> Option<Self> {
        let number = |line: &str, word: &str| {
            let digits = line.strip_prefix(word)?.strip_prefix(' ')?;
            u64::from_str_radix(digits, 16).ok()
        };
        let mut lines = text.lines();
        let identity = Self {
            member: MemberId(number(lines.next()?, "member")?),
            cluster: ClusterId(number(lines.next()?, "cluster")?),
        };
        (identity.encode() == text).then_some(identity)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::{LaneId, ShardId};

    #[test]
    fn a_member_knows_itself_when_its_directory_is_opened_again() {
        let scratch = tempfile::tempdir().unwrap();
        let identity = Identity {
            member: MemberId(0x8e9e_05c5_2164_694d),
            cluster: ClusterId(7),
        };
        {
            let dir = DataDir::open(scratch.path()).unwrap();
            assert_eq!(dir.identity().unwrap(), None);
            dir.set_identity(identity).unwrap();
        }
        let dir = DataDir::open(scratch.path()).unwrap();
        assert_eq!(dir.identity().unwrap(), Some(identity));
        let path = scratch.path().join("member/IDENTITY");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "member 8e9e05c52164694d\ncluster 0000000000000007\ncrc32c 2ed7f25e\n"
        );
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bent = sound.clone();
            bent[at] ^= 1;
            std::fs::write(&path, bent).unwrap();
            let error = dir.identity().unwrap_err();
            assert!(matches!(error, DirError::IdentityDamaged { .. }), "{error}");
        }
    }

    #[test]
    fn a_directory_holds_a_member_when_there_is_a_file_of_its() {
        let scratch = tempfile::tempdir().unwrap();
        let holds_member = || DataDir::holds_member(scratch.path()).unwrap();
        assert!(!holds_member());
        let dir = DataDir::open(scratch.path()).unwrap();
        let lane = dir.lane_path(LaneId(0)).unwrap();
        let snapshots = dir.snapshots_path(ShardId(0)).unwrap();
        std::fs::write(lane.join(PROBE_NAME), b"").unwrap();
        assert!(!holds_member(), "a probe is nobody's");
        std::fs::write(lane.join("1.seg"), b"").unwrap();
        assert!(holds_member());
        std::fs::remove_file(lane.join("1.seg")).unwrap();
        std::fs::write(snapshots.join("1.snap"), b"").unwrap();
        assert!(holds_member());
    }
}
