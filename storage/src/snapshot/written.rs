//! Values of a new file that are still in memory because they were just written.
//!
//! A store that drops them would read them back one by one: everything that was in memory before a
//! checkpoint would be on the disk after it. So the buffers of the writes stay, as long as there is room.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::snapshot::Snapshot;
use super::version::BlockPlace;
use crate::ids::SnapshotSeq;
use crate::io::AlignedBuf;

/// Pieces of one file.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) sequence: SnapshotSeq,
    /// By their offset in the file.
    pieces: BTreeMap<u64, Bytes>,
    bytes: u64,
}

impl Written {
    /// Bytes it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps a buffer that was written; gives it back if there would be more than `bytes_max` then.
    pub(super) fn keep(
        &mut self,
        offset: u64,
        buf: AlignedBuf,
        bytes_max: u64,
    ) -> Result<(), AlignedBuf> {
        let bytes = buf.len() as u64;
        if self.bytes + bytes > bytes_max {
            return Err(buf);
        }
        self.bytes += bytes;
        self.pieces.insert(offset, Bytes::from_owner(buf));
        Ok(())
    }

    /// Lets go of what is not a value: the index is in memory anyway.
    pub(super) fn keep_values_of(&mut self, snapshot: &Snapshot) {
        let end = snapshot.leaf_count().checked_sub(1).map_or(0, |last| {
            let (offset, bytes) = snapshot.leaf_run(last);
            offset + bytes
        });
        let index = self.pieces.split_off(&end);
        self.bytes -= index.values().map(|piece| piece.len() as u64).sum::<u64>();
    }

    /// Lets go of pieces until `bytes_max` are left.
    pub(super) fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max
            && let Some((_, piece)) = self.pieces.pop_last()
        {
            self.bytes -= piece.len() as u64;
        }
    }

    /// A block, if one piece holds all of it.
    pub(super) fn block(&self, block: &BlockPlace) -> Option<Bytes> {
        let (offset, piece) = self.pieces.range(..=block.offset).next_back()?;
        let start = usize::try_from(block.offset - offset).ok()?;
        let end = start + block.bytes as usize;
        (end <= piece.len()).then(|| piece.slice(start..end))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn piece(byte: u8) -> AlignedBuf {
        let mut buf = AlignedBuf::with_capacity(8192);
        buf.extend_from_slice(&[byte; 8192]);
        buf
    }

    #[test]
    fn blocks_are_found_in_the_pieces_that_hold_them_whole() {
        let mut written = Written::default();
        written.keep(4096, piece(1), 1 << 20).unwrap();
        written.keep(4096 + 8192, piece(2), 1 << 20).unwrap();
        let block = |offset, bytes| BlockPlace {
            offset,
            bytes,
            checksum: 0,
        };
        assert_eq!(written.block(&block(4096, 8192)).unwrap()[..], [1; 8192]);
        assert_eq!(written.block(&block(16384, 4096)).unwrap()[..], [2; 4096]);
        assert!(written.block(&block(8192, 8192)).is_none(), "two pieces");
        assert!(written.block(&block(0, 4096)).is_none());
        assert!(written.block(&block(20480, 4096)).is_none());
        assert!(written.keep(20480, piece(3), 3 * 8192 - 1).is_err());
        written.shrink(8192);
        assert_eq!(written.bytes(), 8192);
        assert!(written.block(&block(16384, 4096)).is_none());
        assert!(written.block(&block(4096, 4096)).is_some());
    }
}
