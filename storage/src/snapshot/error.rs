//! What a snapshot file can be refused for, by what the caller does about it.

use std::fmt;

use crate::io::DiskError;

/// A snapshot's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Bytes that were durable are not what was written.
    #[error(
        "the snapshot is damaged: {file}, byte {offset}: {reason}. It holds {affected}. Nothing was changed. Keep a \
         copy of the data directory and look into the disk. A member of a cluster: remove it, empty its data directory \
         and add it again. A single member: restore from a backup into an empty data directory, with `keelson snapshot \
         restore`"
    )]
    Damaged {
        /// Path of the file.
        file: String,
        /// Where in it the damaged part begins.
        offset: u64,
        /// What is wrong there.
        reason: SnapshotDamage,
        /// What cannot be answered without it.
        affected: Affected,
    },
    /// The file was never finished: its first block is blank. It holds nothing that counts.
    #[error("{file} was never finished")]
    Unfinished {
        /// Path of the file.
        file: String,
    },
    /// A file that does not belong among a shard's snapshots.
    #[error(
        "{file} does not belong in this directory: {problem}. Move it away, or correct the data directory setting"
    )]
    ForeignFile {
        /// Path of the file.
        file: String,
        /// Why it does not belong.
        problem: &'static str,
    },
    /// Written by a later version.
    #[error(
        "{file} was written in format {found}, and this version reads up to format {known}: start the version that \
         wrote it, or a later one"
    )]
    NewerFormat {
        /// Path of the file.
        file: String,
        /// The format found.
        found: u32,
        /// What this version knows.
        known: u32,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What is wrong with a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotDamage {
    /// The first block is not blank and no superblock either.
    #[error("the first block is not a superblock, or does not match its checksum")]
    Superblock,
    /// The file is shorter than its superblock says.
    #[error("the file was cut short")]
    Truncated,
    /// The bytes of a page or block are not those that were written.
    #[error("the {0} does not match its checksum")]
    Checksum(SnapshotPart),
    /// A file that lends values is not there.
    #[error("the file is missing, and a newer one has values in it")]
    Missing,
    /// The checksum matches, and the content breaks the format.
    #[error("the {0} matches its checksum and does not follow the format")]
    Content(SnapshotPart),
}

/// The parts a file consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The list of all pages.
    Table,
    /// A page of keys.
    Leaf,
    /// A page of the search tree.
    Inner,
    /// A page of the change order.
    Changes,
    /// Everything but the keys.
    Meta,
    /// Which values other files have.
    Borrowed,
    /// A block of values.
    Values,
}

/// What depends on a damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// All of the file.
    Everything,
    /// The keys from `from` up to, without it, `to`; to the end if that is missing.
    Keys {
        /// Not above the first key.
        from: Vec<u8>,
        /// Above the last key.
        to: Option<Vec<u8>>,
    },
    /// The values of the keys from `from` up to, without it, `to`; to the end if that is missing.
    Values {
        /// Not above the first key.
        from: Vec<u8>,
        /// Above the last key.
        to: Option<Vec<u8>>,
    },
    /// The order of changes, which watches of the past need.
    History,
}

impl fmt::Display for SnapshotPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "page table",
            Self::Leaf => "leaf page",
            Self::Inner => "inner page",
            Self::Changes => "page of changes",
            Self::Meta => "meta page",
            Self::Borrowed => "page of borrowed runs",
            Self::Values => "block of values",
        })
    }
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, from, to) = match self {
            Self::Everything => return f.write_str("what the whole file depends on"),
            Self::History => return f.write_str("the order of past changes"),
            Self::Keys { from, to } => ("the keys", from, to),
            Self::Values { from, to } => ("values of the keys", from, to),
        };
        write!(f, "{what} from \"{}\"", from.escape_ascii())?;
        match to {
            Some(to) => write!(f, " up to \"{}\"", to.escape_ascii()),
            None => f.write_str(" to the last one"),
        }
    }
}
