//! Looking at more of a snapshot than one key.

use super::SnapshotError;
use super::snapshot::Snapshot;
use super::version::KeyRef;
use crate::ids::LeaseId;

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
        Ok(())
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
