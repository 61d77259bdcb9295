//! A backup as the first file of a new cluster: the same pages, another meta page.
//!
//! Whatever copies a file writes, in this order: everything up to [`Transplant::kept_bytes`] but the first block, which
//! stays blank; [`Transplant::tail`] behind it; and when all that is durable, [`Transplant::superblock`]. So a crash leaves
//! a file that does not count, as with every other file.
//!
//! What a new cluster takes over of the old one's state is decided in [`Meta::for_new_cluster`].

use super::encode::Encoder;
use super::format::{PageEntry, PageReference, SUPERBLOCK_BYTES, Superblock, Table};
use super::meta::{HardState, Meta, MetaPage};
use super::snapshot::Snapshot;
use super::startup::file_name;
use crate::ids::{LeaseTime, MemberId, RaftIndex, Revision, SnapshotSeq, Term};
use crate::io::AlignedBuf;
use crate::state::{Cluster, Position};

/// What distinguishes a copy with another meta page from the file that it is a copy of.
#[derive(Debug)]
pub struct Transplant {
    /// Name of the copy in its directory.
    pub file_name: String,
    /// Bytes that are the same in both, the first block aside.
    pub kept_bytes: u64,
    /// What comes behind them, to the end of the copy; whole blocks.
    pub tail: AlignedBuf,
    /// The first block.
    pub superblock: AlignedBuf,
}

/// What a file is, as far as its first block tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A snapshot, sound or not.
    Snapshot,
    /// A snapshot that was never finished, or no content at all.
    Blank,
    /// A database of etcd: what `etcdctl snapshot save` gets from etcd, or `member/snap/db`.
    Etcd,
    /// Something else.
    Unknown,
}

impl FileKind {
    /// Looks at the first bytes of a file, up to a block of them.
    #[must_use]
    pub fn of(first_block: &[u8]) -> Self {
        /// A bbolt file has the same magic number in its first two pages, behind the pages' headers.
        const BBOLT_MAGIC: (usize, [u8; 4]) = (16, 0xed0c_daed_u32.to_le_bytes());
        let (at, magic) = BBOLT_MAGIC;
        if Superblock::has_magic(first_block) {
            Self::Snapshot
        } else if first_block.iter().all(|&byte| byte == 0) {
            Self::Blank
        } else if first_block.get(at..at + magic.len()) == Some(&magic) {
            Self::Etcd
        } else {
            Self::Unknown
        }
    }
}

impl Snapshot {
    /// What makes a copy of this file one with another meta page. What the pages depend on must be as it was: the
    /// horizon and the number of changes before it.
    #[must_use]
    pub fn with_meta(&self, sequence: SnapshotSeq, meta: &Meta) -> Transplant {
        let fixed = |meta: &Meta| (meta.horizon, meta.changes_taken);
        assert_eq!(
            fixed(meta),
            fixed(self.meta()),
            "the pages were made for this horizon"
        );
        assert!(self.lenders().is_empty(), "a backup has all of its values");
        let mut encoder = Encoder::new();
        let mut tail = AlignedBuf::with_capacity(SUPERBLOCK_BYTES);
        let kept_bytes = self.superblock().meta.offset;
        let format_version = meta.format_version();
        let mut append = |(blocks, entry): (&[u8], PageEntry)| {
            let page = PageReference {
                offset: kept_bytes + tail.len() as u64,
                entry,
            };
            tail.extend_from_slice(blocks);
            page
        };
        let meta = append(encoder.encode(&MetaPage::new(meta)));
        let table = append(encoder.encode(&self.table()));
        let head = Superblock {
            format_version,
            sequence,
            file_bytes: kept_bytes + tail.len() as u64,
            table,
            meta,
            borrowed: None,
            counters: self.superblock().counters,
        };
        let mut superblock = AlignedBuf::zeroed(SUPERBLOCK_BYTES);
        head.encode(superblock.as_mut_slice());
        Transplant {
            file_name: file_name(sequence),
            kept_bytes,
            tail,
            superblock,
        }
    }

    /// How long the file is that begins with this block; `None` if it is not the first block of a snapshot that this
    /// version reads, and loading the file says why.
    #[must_use]
    pub fn file_bytes_by(first_block: &[u8]) -> Option<u64> {
        let superblock = Superblock::decode(first_block).ok()?;
        Some(superblock.file_bytes)
    }

    /// The page table, as it is in the file.
    fn table(&self) -> Table {
        let leaves = (0..self.leaf_count()).map(|leaf| *self.leaf_entry(leaf));
        let inners = self.inners().iter();
        Table {
            leaves: leaves.collect(),
            inners: inners
                .map(|page| PageEntry::new(page.blocks(), page.bytes()))
                .collect(),
            changes: self.change_entries().to_vec(),
            changes_per_page: self.changes_per_page(),
        }
    }
}

impl Meta {
    /// What a cluster that begins with these keys knows at its start.
    ///
    /// - Its log begins anew, behind an entry of index 1 and term 1 that stands for the backup. It is not index 0: a
    ///   member that joins with an empty log must be seen to lack something.
    /// - A lease has its whole TTL again, as with etcd: its owner may have been promised that much a moment before the
    ///   old cluster ended.
    /// - Alarms stay, as with etcd: what raised them is still so. `etcdctl alarm disarm` clears them.
    /// - `revision_bump` moves the revision on, so that no client sees one again that it saw in the old cluster, and
    ///   everything before is compacted, so that no watch goes on without noticing.
    ///
    /// `None` if there is no such revision.
    #[must_use]
    pub fn for_new_cluster(&self, cluster: Cluster, revision_bump: u64) -> Option<Meta> {
        let mut meta = Meta {
            applied: Position {
                index: RaftIndex(1),
                term: Term(1),
                lease_time: self.applied.lease_time,
            },
            hard_state: HardState {
                term: Term(1),
                vote: MemberId(0),
            },
            cluster,
            ..self.clone()
        };
        for lease in &mut meta.leases {
            let ttl_ms = lease
                .granted_ttl_seconds
                .unsigned_abs()
                .saturating_mul(1000);
            let whole = meta.applied.lease_time.0.saturating_add(ttl_ms);
            lease.deadline = lease.deadline.max(LeaseTime(whole));
        }
        if revision_bump > 0 {
            let bumped = meta.revision.0.checked_add_unsigned(revision_bump)?;
            meta.revision = Revision(bumped);
            meta.compact_revision = Revision(bumped);
        }
        Some(meta)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "restore_tests.rs"]
mod tests;
