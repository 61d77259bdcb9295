//! Reading values on a thread that may block, without the store.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::SnapshotError;
use super::snapshot::Snapshot;
use super::version::ValuePlace;
use crate::io::DiskError;

/// Reads values of snapshots, best in the order in which they were written.
#[derive(Debug, Default)]
pub struct ValueReader {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    snapshot: Arc<Snapshot>,
    file: File,
    /// The block read last, and where it is.
    block: Bytes,
    offset: u64,
}

impl ValueReader {
    /// A value of a snapshot. The caller holds the snapshot, so its file is there.
    pub fn read(
        &mut self,
        snapshot: &Arc<Snapshot>,
        place: &ValuePlace,
    ) -> Result<Bytes, SnapshotError> {
        let is_open = |open: &Open| Arc::ptr_eq(&open.snapshot, snapshot);
        let mut open = match self.open.take().filter(is_open) {
            Some(open) => open,
            None => Open {
                snapshot: Arc::clone(snapshot),
                file: File::open(snapshot.path())
                    .map_err(|error| DiskError::from_io("open", snapshot.path().into(), &error))?,
                block: Bytes::new(),
                offset: 0,
            },
        };
        let block = place.block;
        if open.offset != block.offset {
            let mut bytes = vec![0; block.bytes as usize];
            open.file
                .read_exact_at(&mut bytes, block.offset)
                .map_err(|error| DiskError::from_io("read", snapshot.path().into(), &error))?;
            snapshot.verify_block(block, &bytes)?;
            open.block = Bytes::from(bytes);
            open.offset = block.offset;
        }
        let start = place.start as usize;
        let value = open.block.slice(start..start + place.bytes as usize);
        self.open = Some(open);
        Ok(value)
    }
}
