//! Where the values of a file are: its own, and those that earlier files of its directory lend it.
//!
//! A checkpoint makes all of the index anew, and writes of the values only those that are new. All others stay in the
//! files in which they are, block by block. So the run of a leaf consists of *pieces* in several files. The files that a
//! file borrows from are its *lenders*, and must be there as long as it counts.
//!
//! Invariants, checked when a file is loaded:
//! 1. The pieces of a leaf are its run, one behind the other; a block of values lies in one of them.
//! 2. A piece lies in one file, behind its first block and before its end.
//! 3. The pieces that a file has itself stand one behind the other, in the order of their leaves, behind its superblock.
//! 4. A lender is older than the file, and lends something.

use rkyv::{Archive, Deserialize, Serialize};

use super::format::{LeafEntry, SUPERBLOCK_BYTES};
use super::image::ImagePart;
use super::startup::file_name;
use crate::ids::SnapshotSeq;
use crate::limits::SNAPSHOT_BLOCK_BYTES;

const BLOCK_BYTES: u64 = SNAPSHOT_BLOCK_BYTES as u64;

/// A file that has values of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lender {
    /// The file.
    pub sequence: SnapshotSeq,
    /// Its length.
    pub file_bytes: u64,
    /// How much of that is lent; what two leaves have in common counts twice.
    pub lent_bytes: u64,
}

impl Lender {
    /// Its name in the directory.
    #[must_use]
    pub fn file_name(&self) -> String {
        file_name(self.sequence)
    }
}

/// Where all runs of a file are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunPlaces {
    pieces: Vec<ImagePart>,
    /// Of each leaf, how many pieces there are up to and including its own.
    ends: Vec<u32>,
    /// By their sequence.
    lenders: Vec<Lender>,
}

/// The page of borrowed values, in the order of the archive.
#[derive(Debug, Default, Archive, Serialize, Deserialize)]
pub(super) struct BorrowedPage {
    lenders: Vec<LenderRow>,
    /// Of each leaf, how many pieces there are up to and including its own.
    leaf_ends: Vec<u32>,
    /// Of each piece: 0 if it is in this file, n if it is in that of the n-th lender.
    files: Vec<u32>,
    /// Of each piece, the block of that file with which it begins, and how many blocks it has.
    starts: Vec<u32>,
    lengths: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Archive, Serialize, Deserialize)]
pub(super) struct LenderRow {
    sequence: u64,
    file_bytes: u64,
}

impl RunPlaces {
    /// Of a file that has all of its values.
    pub(super) fn all_own(sequence: SnapshotSeq, leaves: &[LeafEntry]) -> Self {
        let mut places = Self::default();
        let mut offset = SUPERBLOCK_BYTES as u64;
        for leaf in leaves {
            let bytes = leaf.run_bytes();
            places.push_piece(ImagePart {
                file: sequence,
                offset,
                bytes,
            });
            places.end_leaf();
            offset += bytes;
        }
        places
    }

    /// Adds to the run of the leaf that is being added.
    pub(super) fn push_piece(&mut self, piece: ImagePart) {
        let first = self.ends.last().map_or(0, |end| *end as usize);
        match self.pieces[first..].last_mut() {
            Some(last) if last.is_followed_by(&piece) => last.bytes += piece.bytes,
            _ if piece.bytes > 0 => self.pieces.push(piece),
            _ => {}
        }
    }

    /// The same, of values that another file has.
    pub(super) fn push_lent(&mut self, lender: Lender, piece: ImagePart) {
        let sequence = lender.sequence;
        let place = self
            .lenders
            .binary_search_by_key(&sequence, |known| known.sequence);
        let place = place.unwrap_or_else(|place| {
            let lender = Lender {
                lent_bytes: 0,
                ..lender
            };
            self.lenders.insert(place, lender);
            place
        });
        self.lenders[place].lent_bytes += piece.bytes;
        self.push_piece(piece);
    }

    /// The run of the leaf is complete.
    pub(super) fn end_leaf(&mut self) {
        self.ends.push(self.pieces.len() as u32);
    }

    /// The pieces of a leaf's run.
    pub(super) fn of(&self, leaf: u32) -> &[ImagePart] {
        let leaf = leaf as usize;
        let start = leaf.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.pieces[start as usize..self.ends[leaf] as usize]
    }

    pub(super) fn lenders(&self) -> &[Lender] {
        &self.lenders
    }

    /// Bytes of values that other files have.
    pub(super) fn borrowed_bytes(&self) -> u64 {
        self.lenders.iter().map(|lender| lender.lent_bytes).sum()
    }

    #[cfg(test)]
    pub(super) fn parts_mut(&mut self) -> (&mut Vec<ImagePart>, &mut Vec<u32>, &mut Vec<Lender>) {
        (&mut self.pieces, &mut self.ends, &mut self.lenders)
    }
}

impl BorrowedPage {
    pub(super) fn new(places: &RunPlaces) -> Self {
        let number_of = |piece: &ImagePart| {
            let lenders = &places.lenders;
            let found = lenders.binary_search_by_key(&piece.file, |lender| lender.sequence);
            found.map_or(0, |index| index as u32 + 1)
        };
        let row = |lender: &Lender| LenderRow {
            sequence: lender.sequence.0,
            file_bytes: lender.file_bytes,
        };
        let blocks = |bytes: u64| (bytes / BLOCK_BYTES) as u32;
        let pieces = places.pieces.iter();
        Self {
            lenders: places.lenders.iter().map(row).collect(),
            leaf_ends: places.ends.clone(),
            files: pieces.clone().map(number_of).collect(),
            starts: pieces.clone().map(|piece| blocks(piece.offset)).collect(),
            lengths: pieces.map(|piece| blocks(piece.bytes)).collect(),
        }
    }

    /// `None` if it breaks an invariant; that blocks of values lie in one piece is checked elsewhere.
    pub(super) fn into_places(
        self,
        sequence: SnapshotSeq,
        leaves: &[LeafEntry],
    ) -> Option<RunPlaces> {
        let pieces = self.files.len();
        let is_whole = self.starts.len() == pieces
            && self.lengths.len() == pieces
            && self.leaf_ends.len() == leaves.len()
            && self.leaf_ends.is_sorted()
            && self.leaf_ends.last().map_or(0, |end| *end as usize) == pieces;
        let mut lenders: Vec<Lender> = self.lenders.into_iter().map(LenderRow::lender).collect();
        let ascend = lenders.is_sorted_by(|one, other| one.sequence < other.sequence);
        let are_older = lenders.last()?.sequence < sequence;
        if !is_whole || !ascend || !are_older {
            return None;
        }
        let mut next_own = SUPERBLOCK_BYTES as u64;
        let mut places = Vec::with_capacity(pieces);
        for ((number, start), length) in self.files.into_iter().zip(self.starts).zip(self.lengths) {
            let (offset, bytes) = (in_bytes(start), in_bytes(length));
            let file = match number.checked_sub(1) {
                None if offset == next_own => {
                    next_own += bytes;
                    sequence
                }
                None => return None,
                Some(index) => {
                    let lender = lenders.get_mut(index as usize)?;
                    lender.lent_bytes += bytes;
                    if offset == 0 || offset + bytes > lender.file_bytes {
                        return None;
                    }
                    lender.sequence
                }
            };
            places.push(ImagePart {
                file,
                offset,
                bytes,
            });
        }
        let places = RunPlaces {
            pieces: places,
            ends: self.leaf_ends,
            lenders,
        };
        let is_run = |(number, leaf): (usize, &LeafEntry)| {
            let pieces = places.of(number as u32);
            let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
            bytes == leaf.run_bytes() && pieces.iter().all(|piece| piece.bytes > 0)
        };
        let lend = places.lenders.iter().all(|lender| lender.lent_bytes > 0);
        (lend && leaves.iter().enumerate().all(is_run)).then_some(places)
    }
}

impl LenderRow {
    fn lender(self) -> Lender {
        Lender {
            sequence: SnapshotSeq(self.sequence),
            file_bytes: self.file_bytes,
            lent_bytes: 0,
        }
    }
}

fn in_bytes(blocks: u32) -> u64 {
    u64::from(blocks) * BLOCK_BYTES
}
