//! Reading values on a thread that may block, without the store.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::SnapshotError;
use super::snapshot::Snapshot;
use super::version::{BlockPlace, ValuePlace};
use crate::ids::SnapshotSeq;
use crate::io::DiskError;

/// Reads values of snapshots, best in the order in which they were written.
#[derive(Debug, Default)]
pub struct ValueReader {
    /// The snapshot read last, whose files are open.
    snapshot: Option<Arc<Snapshot>>,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    sequence: SnapshotSeq,
    path: String,
    file: File,
    /// The block read last, and where it is.
    block: Bytes,
    offset: u64,
}

impl ValueReader {
    /// A value of a snapshot. The caller holds the snapshot, so its files are there.
    pub fn read(
        &mut self,
        snapshot: &Arc<Snapshot>,
        place: &ValuePlace,
    ) -> Result<Bytes, SnapshotError> {
        let is_known = |known: &Arc<Snapshot>| Arc::ptr_eq(known, snapshot);
        if !self.snapshot.as_ref().is_some_and(is_known) {
            self.open.clear();
            self.snapshot = Some(Arc::clone(snapshot));
        }
        let block = place.block;
        let is_it = |open: &Open| open.sequence == block.file;
        let index = match self.open.iter().position(is_it) {
            Some(index) => index,
            None => {
                self.open.push(Open::new(snapshot, block.file)?);
                self.open.len() - 1
            }
        };
        let open = &mut self.open[index];
        if open.offset != block.offset {
            open.load(snapshot, block)?;
        }
        let start = place.start as usize;
        Ok(open.block.slice(start..start + place.bytes as usize))
    }
}

impl Open {
    fn new(snapshot: &Snapshot, sequence: SnapshotSeq) -> Result<Self, SnapshotError> {
        let path = snapshot.path_beside(sequence);
        let file =
            File::open(&path).map_err(|error| DiskError::from_io("open", path.clone(), &error))?;
        Ok(Self {
            sequence,
            path,
            file,
            block: Bytes::new(),
            offset: 0,
        })
    }

    fn load(&mut self, snapshot: &Snapshot, block: BlockPlace) -> Result<(), SnapshotError> {
        let mut bytes = vec![0; block.bytes as usize];
        self.file
            .read_exact_at(&mut bytes, block.offset)
            .map_err(|error| DiskError::from_io("read", self.path.clone(), &error))?;
        snapshot.verify_block(block, &bytes)?;
        self.block = Bytes::from(bytes);
        self.offset = block.offset;
        Ok(())
    }
}
