//! What the builder is given and what a snapshot answers, version by version.

use crate::ids::{LeaseId, Revision, SnapshotSeq};

/// One version of a key, on its way into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionIn<'a> {
    /// The main revision that wrote it.
    pub revision: Revision,
    /// Ordinal of the change within its revision, from 0.
    pub sub: u32,
    /// The main revision that created the key; zero for a tombstone.
    pub create_revision: Revision,
    /// How many puts the key has seen since its creation; zero for a tombstone.
    pub version: i64,
    /// The lease it is attached to; zero for none.
    pub lease: LeaseId,
    /// Whether it is a deletion.
    pub tombstone: bool,
    /// The value; empty for a tombstone, and if it stays where it is.
    pub value: &'a [u8],
    /// Where the value stays: in a file of the same directory.
    pub stays: Option<ValuePlace>,
    /// Which version it is of the snapshot that is built [over](super::Builder::over), if it is one.
    pub origin: Option<VersionRef>,
}

impl VersionIn<'_> {
    pub(super) fn value_bytes(&self) -> usize {
        self.stays
            .map_or(self.value.len(), |place| place.bytes as usize)
    }
}

/// One version of a key, in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The main revision that wrote it.
    pub revision: Revision,
    /// Ordinal of the change within its revision, from 0.
    pub sub: u32,
    /// The main revision that created the key; zero for a tombstone.
    pub create_revision: Revision,
    /// How many puts the key has seen since its creation; zero for a tombstone.
    pub version: i64,
    /// The lease it is attached to; zero for none.
    pub lease: LeaseId,
    /// Whether it is a deletion.
    pub tombstone: bool,
    /// Bytes of the value.
    pub value_bytes: u32,
    /// Where the value is; nowhere if it is empty.
    pub place: Option<ValuePlace>,
}

/// A key of a snapshot. It names the key in that snapshot only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// The leaf's number; leaves are in order of their keys.
    pub leaf: u32,
    /// The key's place in the leaf.
    pub slot: u32,
}

/// A version of a key of a snapshot. It names the version in that snapshot only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionRef {
    /// The leaf's number; leaves are in order of their keys.
    pub leaf: u32,
    /// The row in the leaf.
    pub row: u32,
}

/// A block of values in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockPlace {
    /// The file: that of the snapshot, or an earlier one that lends it.
    pub file: SnapshotSeq,
    /// Where in the file it begins; a multiple of 4 KiB.
    pub offset: u64,
    /// Its length; a multiple of 4 KiB.
    pub bytes: u32,
    /// crc32c of all its bytes.
    pub checksum: u32,
}

impl BlockPlace {
    /// Whether these bytes are those of the block.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes as usize && crc32c::crc32c(bytes) == self.checksum
    }
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValuePlace {
    /// The block to read.
    pub block: BlockPlace,
    /// Where in the block the value begins.
    pub start: u32,
    /// Its length; not zero.
    pub bytes: u32,
}
