//! Values of files that are still in memory because they were just written.
//!
//! A store that drops them would read them back one by one: everything that was in memory before a
//! checkpoint would be on the disk after it. So the buffers of the writes stay, as long as there is room.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::lent::lend;
use super::snapshot::Snapshot;
use super::version::BlockPlace;
use crate::ids::SnapshotSeq;
use crate::io::AlignedBuf;

/// Pieces of files.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// By their file and their offset in it.
    pieces: BTreeMap<(SnapshotSeq, u64), Piece>,
    bytes: u64,
}

/// A buffer, and its content as it is lent out.
#[derive(Debug)]
struct Piece {
    buf: Arc<AlignedBuf>,
    bytes: Bytes,
}

impl Piece {
    /// The buffer, unless somebody still reads a part of it.
    fn into_buf(self) -> Option<AlignedBuf> {
        drop(self.bytes);
        Arc::into_inner(self.buf)
    }
}

impl Written {
    /// Bytes it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps a buffer that was written; gives it back if there would be more than `bytes_max` then.
    pub(super) fn keep(
        &mut self,
        place: (SnapshotSeq, u64),
        buf: AlignedBuf,
        bytes_max: u64,
    ) -> Result<(), AlignedBuf> {
        let bytes = buf.len() as u64;
        if self.bytes + bytes > bytes_max {
            return Err(buf);
        }
        self.bytes += bytes;
        let (buf, bytes) = lend(buf);
        self.pieces.insert(place, Piece { buf, bytes });
        Ok(())
    }

    /// Takes all of another one.
    pub(super) fn take(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.pieces.append(&mut other.pieces);
    }

    /// Lets go of what is not a value of this snapshot; the buffers are added to `spare`.
    pub(super) fn keep_values_of(&mut self, snapshot: &Snapshot, spare: &mut Vec<AlignedBuf>) {
        let is_useless = |&(file, _): &(SnapshotSeq, u64), _: &mut Piece| {
            file != snapshot.sequence() && !snapshot.borrows_from(file)
        };
        for (_, piece) in self.pieces.extract_if(.., is_useless) {
            self.bytes -= piece.bytes.len() as u64;
            spare.extend(piece.into_buf());
        }
    }

    /// Lets go of pieces, the oldest first, until `bytes_max` are left; their buffers are added to `spare`.
    pub(super) fn shrink(&mut self, bytes_max: u64, spare: &mut Vec<AlignedBuf>) {
        while self.bytes > bytes_max
            && let Some((_, piece)) = self.pieces.pop_first()
        {
            self.bytes -= piece.bytes.len() as u64;
            spare.extend(piece.into_buf());
        }
    }

    /// A block, if one piece holds all of it.
    pub(super) fn block(&self, block: &BlockPlace) -> Option<Bytes> {
        let place = (block.file, block.offset);
        let (&(file, offset), piece) = self.pieces.range(..=place).next_back()?;
        let start = usize::try_from(block.offset.checked_sub(offset)?).ok()?;
        let end = start + block.bytes as usize;
        (file == block.file && end <= piece.bytes.len()).then(|| piece.bytes.slice(start..end))
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
        let file = SnapshotSeq(7);
        let mut written = Written::default();
        written.keep((file, 4096), piece(1), 1 << 20).unwrap();
        written
            .keep((file, 4096 + 8192), piece(2), 1 << 20)
            .unwrap();
        let block = |offset, bytes| BlockPlace {
            file,
            offset,
            bytes,
            checksum: 0,
        };
        assert_eq!(written.block(&block(4096, 8192)).unwrap()[..], [1; 8192]);
        assert_eq!(written.block(&block(16384, 4096)).unwrap()[..], [2; 4096]);
        assert!(written.block(&block(8192, 8192)).is_none(), "two pieces");
        assert!(written.block(&block(0, 4096)).is_none());
        assert!(written.block(&block(20480, 4096)).is_none());
        assert!(written.keep((file, 20480), piece(3), 3 * 8192 - 1).is_err());
        let mut spare = Vec::new();
        written.shrink(8192, &mut spare);
        assert_eq!((written.bytes(), spare.len()), (8192, 1));
        assert!(written.block(&block(4096, 4096)).is_none());
        let lent = written.block(&block(16384, 4096)).unwrap();
        written.shrink(0, &mut spare);
        assert_eq!((written.bytes(), spare.len()), (0, 1), "somebody reads it");
        assert_eq!(lent[..], [2; 4096]);
    }
}
