//! Which shards a directory holds, and in which lane each of them is.
//!
//! A directory that never held any shard but `main` has no such file: its layout is that of versions that knew no
//! other. Before the first record of a further shard the version in `FORMAT` is raised, so that an older version does not
//! take the records of several shards for those of one. The file follows when all shards are open and each has a
//! record; it appears by a rename after its content is durable.
//!
//! Invariants: (1) a shard's id follows from its name, and so is the same on all members; (2) a shard that stands in the
//! file stays there, in its lane.

use std::collections::BTreeMap;
use std::path::Path;

use super::{
    DataDir, DirError, FORMAT_SHARDS, MEMBER_NAME, SNAPSHOTS_PREFIX, list_names, read_text,
    write_format, write_new,
};
use crate::ids::{LaneId, ShardId};
use crate::io::PROBE_NAME;

const SHARDS_NAME: &str = "SHARDS";
const SHARDS_DRAFT_NAME: &str = "SHARDS.new";
const FOUNDED: &str = "founded";
const JOINED: &str = "joined";

/// The name of the shard that every member has.
pub const MAIN_SHARD: &str = "main";
/// Its id.
pub const MAIN_SHARD_ID: ShardId = ShardId(0);

/// The longest name of a shard, in bytes.
pub const SHARD_NAME_BYTES_MAX: usize = 32;

/// Where a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    /// Its id.
    pub shard: ShardId,
    /// The lane that holds its records.
    pub lane: LaneId,
    /// Whether this member came to it when others had it already, and learns from them who belongs to its group.
    pub is_joined: bool,
}

/// The shards of a directory, by name.
pub type ShardPlaces = BTreeMap<String, ShardPlace>;

/// The id of the shard of this name. Two names may have the same one; then they cannot be used together.
#[must_use]
pub fn shard_id(name: &str) -> ShardId {
    if name == MAIN_SHARD {
        return MAIN_SHARD_ID;
    }
    let others = u32::from(u16::MAX);
    ShardId(1 + (crc32c::crc32c(name.as_bytes()) % others) as u16)
}

/// Whether a shard may have this name: small letters, digits and hyphens, a letter first.
#[must_use]
pub fn is_shard_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= SHARD_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(is_part)
}

impl DataDir {
    /// The shards that were written down; none in a directory that only ever had `main`.
    ///
    /// # Errors
    /// [`DirError::ShardsDamaged`] if the file cannot be understood.
    pub fn shards(&self) -> Result<ShardPlaces, DirError> {
        read_shards(&self.path.join(MEMBER_NAME))
    }

    /// The shards that have snapshot files, whatever is written down.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn shards_with_snapshots(&self) -> Result<Vec<ShardId>, DirError> {
        let member = self.path.join(MEMBER_NAME);
        let mut shards = Vec::new();
        for name in list_names(&member)? {
            let id = name.strip_prefix(SNAPSHOTS_PREFIX);
            if let Some(id) = id.and_then(|id| id.parse().ok())
                && list_names(&member.join(&name))?
                    .iter()
                    .any(|file| file != PROBE_NAME)
            {
                shards.push(ShardId(id));
            }
        }
        Ok(shards)
    }

    /// From here on the lanes may hold records of more shards than `main`: older versions are to keep out.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn expect_shards(&self) -> Result<(), DirError> {
        write_format(&self.path, FORMAT_SHARDS)
    }

    /// Writes down, durably, which shards there are.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn set_shards(&self, shards: &ShardPlaces) -> Result<(), DirError> {
        let member = self.path.join(MEMBER_NAME);
        let (draft, target) = (member.join(SHARDS_DRAFT_NAME), member.join(SHARDS_NAME));
        write_new(&draft, &target, &encode(shards))
    }
}

/// The shards that the member's directory names; none if it only ever had `main`.
pub(super) fn read_shards(member: &Path) -> Result<ShardPlaces, DirError> {
    let path = member.join(SHARDS_NAME);
    if !path.exists() {
        return Ok(ShardPlaces::new());
    }
    decode(&read_text(&path)?).ok_or_else(|| DirError::ShardsDamaged {
        path: path.display().to_string(),
    })
}

fn encode(shards: &ShardPlaces) -> String {
    let mut lines = String::new();
    for (name, place) in shards {
        let word = if place.is_joined { JOINED } else { FOUNDED };
        let (shard, lane) = (place.shard.0, place.lane.0);
        lines.push_str(&format!("{word} {shard} {lane} {name}\n"));
    }
    let check = crc32c::crc32c(lines.as_bytes());
    format!("{lines}crc32c {check:08x}\n")
}

fn decode(text: &str) -> Option<ShardPlaces> {
    let mut shards = ShardPlaces::new();
    for line in text.lines().filter(|line| !line.starts_with("crc32c ")) {
        let mut words = line.split(' ');
        let is_joined = match words.next()? {
            FOUNDED => false,
            JOINED => true,
            _ => return None,
        };
        let shard = ShardId(words.next()?.parse().ok()?);
        let lane = LaneId(words.next()?.parse().ok()?);
        let name = words.next().filter(|name| shard_id(name) == shard)?;
        let place = ShardPlace {
            shard,
            lane,
            is_joined,
        };
        shards.insert(name.to_owned(), place);
    }
    (encode(&shards) == text).then_some(shards)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_found_again_and_older_versions_are_kept_out() {
        let scratch = tempfile::tempdir().unwrap();
        let format = scratch.path().join("FORMAT");
        let places = ShardPlaces::from([
            (
                "main".to_owned(),
                ShardPlace {
                    shard: MAIN_SHARD_ID,
                    lane: LaneId(0),
                    is_joined: false,
                },
            ),
            (
                "events".to_owned(),
                ShardPlace {
                    shard: shard_id("events"),
                    lane: LaneId(1),
                    is_joined: true,
                },
            ),
        ]);
        {
            let dir = DataDir::open(scratch.path()).unwrap();
            assert_eq!(dir.shards().unwrap(), ShardPlaces::new());
            let text = std::fs::read_to_string(&format).unwrap();
            assert_eq!(text, "keelson data directory\nformat 1\n");
            dir.expect_shards().unwrap();
            dir.set_shards(&places).unwrap();
        }
        let dir = DataDir::open(scratch.path()).unwrap();
        assert_eq!(dir.shards().unwrap(), places);
        for shard in [ShardId(0), ShardId(7), ShardId(12_345)] {
            let path = dir.snapshots_path(shard).unwrap();
            if shard != ShardId(7) {
                std::fs::write(path.join("00000001.snap"), b"").unwrap();
            }
        }
        let found = dir.shards_with_snapshots().unwrap();
        assert_eq!(found, [ShardId(0), ShardId(12_345)]);
        let text = std::fs::read_to_string(&format).unwrap();
        assert_eq!(text, "keelson data directory\nformat 2\n");
        let path = scratch.path().join("member/SHARDS");
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bent = sound.clone();
            bent[at] ^= 1;
            std::fs::write(&path, bent).unwrap();
            let error = dir.shards().unwrap_err();
            assert!(matches!(error, DirError::ShardsDamaged { .. }), "{error}");
        }
    }

    #[test]
    fn ids_follow_from_names_and_never_change() {
        assert_eq!(shard_id("main"), ShardId(0));
        // On the disks of members: these must stay.
        assert_eq!(shard_id("events"), ShardId(63_608));
        assert_eq!(shard_id("leases"), ShardId(42_345));
        for name in ["events", "a", "node-leases-2"] {
            assert!(is_shard_name(name), "{name}");
            assert_ne!(shard_id(name), MAIN_SHARD_ID);
        }
        let long = "x".repeat(SHARD_NAME_BYTES_MAX + 1);
        for name in ["", "Events", "2nd", "-a", "a b", "a,b", "a=b", "é", &long] {
            assert!(!is_shard_name(name), "{name:?}");
        }
    }
}
