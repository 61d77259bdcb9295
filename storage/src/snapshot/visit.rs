//! Looking at more of a snapshot than one key.

use super::SnapshotError;
use super::snapshot::Snapshot;
use super::version::{KeyRef, VersionRef};
use crate::ids::{LeaseId, Revision};

impl Snapshot {
    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &str {
        self.file()
    }

    /// Length of a key.
    #[must_use]
    pub fn key_bytes(&self, key: KeyRef) -> u32 {
        self.leaf(key.leaf).keys().key_bytes(key.slot as usize) as u32
    }

    /// Compares the blocks of a run that was read with their checksums.
    pub fn verify_run(&self, leaf: u32, run: &[u8]) -> Result<(), SnapshotError> {
        let mut rest = run;
        for block in self.leaf_blocks(leaf) {
            let (bytes, behind) = rest.split_at(rest.len().min(block.bytes as usize));
            self.verify_block(block, bytes)?;
            rest = behind;
        }
        assert!(rest.is_empty(), "the run of this leaf is given, not more");
        Ok(())
    }

    /// Which of the leaf's blocks has the value of a version; none if it is empty.
    #[must_use]
    pub fn block_of_value(&self, at: VersionRef) -> Option<usize> {
        let (leaf, row) = (self.leaf(at.leaf), at.row as usize);
        (leaf.value_bytes(row) > 0).then(|| leaf.value_place(row).0)
    }

    /// Of each of the leaf's blocks, how many bytes of values it has that retention at a horizon leaves.
    #[must_use]
    pub fn leaf_used_bytes(&self, leaf: u32, horizon: Revision) -> Vec<usize> {
        let page = self.leaf(leaf);
        let mut used = vec![0; page.block_count()];
        for slot in 0..page.keys().len() {
            let rows = page.rows(slot);
            let is_before = |row: &u32| page.revision(*row as usize) < horizon.0;
            let before = rows.clone().take_while(is_before).count() as u32;
            for row in rows.start + before.saturating_sub(1)..rows.end {
                let bytes = page.value_bytes(row as usize) as usize;
                if bytes > 0 {
                    used[page.value_place(row as usize).0] += bytes;
                }
            }
        }
        used
    }

    /// Visits every live key that hangs on a lease.
    pub fn visit_leased_keys(&self, mut visit: impl FnMut(LeaseId, &[u8])) {
        let mut name = Vec::new();
        for leaf in 0..self.leaf_count() {
            let page = self.leaf(leaf);
            for slot in 0..page.keys().len() {
                let row = page.rows(slot).end as usize - 1;
                let lease = page.lease(row);
                if lease != 0 && !page.is_tombstone(row) {
                    name.clear();
                    page.keys().append(slot, &mut name);
                    visit(LeaseId(lease), &name);
                }
            }
        }
    }
}
