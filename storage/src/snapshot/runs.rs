//! Value runs of the current snapshot, read ahead for the builder that needs them.
//!
//! The builder asks for the runs of leaves, or parts of them, and gets them in the order it asked. Several reads are in
//! flight; parts that are near each other in a file, as those of neighbouring leaves are, are read in one piece.
//!
//! Invariants:
//! 1. Runs are handed out in the order they were asked for, whatever order their reads complete in.
//! 2. A run is handed out with the length of its parts. Whether its blocks are sound is checked where it is used.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::error::SnapshotError;
use super::image::ImagePart;
use super::lent::lend;
use crate::ids::SnapshotSeq;
use crate::io::AlignedBuf;
use crate::limits::{
    SNAPSHOT_RUN_GAP_BYTES, SNAPSHOT_RUN_READ_BYTES, SNAPSHOT_RUN_READ_BYTES_CONSIDERATE,
    SNAPSHOT_RUN_READS_CONSIDERATE, SNAPSHOT_RUN_READS_MAX,
};

/// A part of the run of a leaf.
#[derive(Clone, Copy, Debug)]
struct Part {
    leaf: u32,
    place: ImagePart,
    is_last: bool,
}

/// One piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u64,
    pub(super) file: SnapshotSeq,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// How much of the disk reading runs may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    piece_bytes: u64,
    pieces: usize,
}

impl Pace {
    /// As fast as the disk can.
    pub(super) const EAGER: Self = Self {
        piece_bytes: SNAPSHOT_RUN_READ_BYTES,
        pieces: SNAPSHOT_RUN_READS_MAX,
    };
    /// Beside requests.
    pub(super) const CONSIDERATE: Self = Self {
        piece_bytes: SNAPSHOT_RUN_READ_BYTES_CONSIDERATE,
        pieces: SNAPSHOT_RUN_READS_CONSIDERATE,
    };
}

/// The runs between being asked for and being taken.
#[derive(Debug, Default)]
pub(super) struct Runs {
    asked: VecDeque<Part>,
    /// Pieces in the order of their runs; an id is used once.
    reading: VecDeque<Reading>,
    next_id: u64,
    in_flight: usize,
    ready: VecDeque<(Part, Result<Bytes, SnapshotError>)>,
    /// How many runs of which all parts are ready.
    whole: usize,
    /// What was read into, to be read into again when nobody holds a part of it any more.
    lent: Vec<Arc<AlignedBuf>>,
}

#[derive(Debug)]
struct Reading {
    piece: Piece,
    parts: Vec<Part>,
    outcome: Option<Result<Bytes, SnapshotError>>,
}

impl Runs {
    /// Asks for parts of a leaf's run, one behind the other.
    pub(super) fn ask(&mut self, leaf: u32, parts: &[ImagePart]) {
        let nothing = ImagePart {
            file: SnapshotSeq(0),
            offset: 0,
            bytes: 0,
        };
        let (last, before) = parts.split_last().unwrap_or((&nothing, &[]));
        let part = |place: &ImagePart, is_last| Part {
            leaf,
            place: *place,
            is_last,
        };
        self.asked
            .extend(before.iter().map(|place| part(place, false)));
        self.asked.push_back(part(last, true));
    }

    /// The next run in the order asked, if it is here.
    pub(super) fn take(&mut self) -> Option<Result<(u32, Bytes), SnapshotError>> {
        self.whole = self.whole.checked_sub(1)?;
        let mut all = Vec::new();
        let mut failure = None;
        loop {
            let (part, outcome) = self.ready.pop_front().expect("a whole run is ready");
            match outcome {
                Ok(bytes) => all.push(bytes),
                Err(error) => failure = Some(error),
            }
            if !part.is_last {
                continue;
            }
            let run = match all.len() {
                1 => all.remove(0),
                _ => all.concat().into(),
            };
            return Some(failure.map_or(Ok((part.leaf, run)), Err));
        }
    }

    /// The piece to read now, if there is one and not too many are being read.
    pub(super) fn next_read(&mut self, ahead: Pace) -> Option<Piece> {
        while self.in_flight < ahead.pieces {
            let reading = self.next_piece(ahead.piece_bytes)?;
            let piece = reading.piece;
            self.reading.push_back(reading);
            if piece.bytes > 0 {
                self.in_flight += 1;
                return Some(piece);
            }
            self.release();
        }
        None
    }

    /// A buffer to read a piece into.
    pub(super) fn buffer(&mut self, piece: &Piece) -> AlignedBuf {
        let is_free = |buf: &Arc<AlignedBuf>| Arc::strong_count(buf) == 1;
        let free = self.lent.iter().position(is_free);
        let free = free.and_then(|at| Arc::into_inner(self.lent.swap_remove(at)));
        free.filter(|buf| buf.capacity() >= piece.bytes)
            .unwrap_or_else(|| AlignedBuf::with_capacity(piece.bytes))
    }

    /// Takes what came of a read. One that was forgotten meanwhile is none of its business any more.
    pub(super) fn on_read(&mut self, id: u64, read: Result<AlignedBuf, SnapshotError>) {
        let Some(reading) = self
            .reading
            .iter_mut()
            .find(|reading| reading.piece.id == id)
        else {
            return;
        };
        reading.outcome = Some(read.map(|buf| {
            let (buf, bytes) = lend(buf);
            self.lent.push(buf);
            bytes
        }));
        self.in_flight -= 1;
        self.release();
    }

    /// Nobody will take what was asked for.
    pub(super) fn forget(&mut self) {
        *self = Self {
            next_id: self.next_id,
            ..Self::default()
        };
    }

    fn next_piece(&mut self, bytes_max: u64) -> Option<Reading> {
        let first = self.asked.pop_front()?;
        let ImagePart { file, offset, .. } = first.place;
        let (mut parts, mut bytes) = (vec![first], first.place.bytes);
        while let Some(Part { place: next, .. }) = self.asked.front() {
            // A gap is read along where that takes less time than another read.
            let end = offset + bytes;
            let is_near = (end..=end + SNAPSHOT_RUN_GAP_BYTES).contains(&next.offset);
            let reach = next.offset + next.bytes;
            if next.bytes > 0 {
                if next.file != file || !is_near || reach - offset > bytes_max {
                    break;
                }
                bytes = reach - offset;
            }
            parts.extend(self.asked.pop_front());
        }
        let piece = Piece {
            id: self.next_id,
            file,
            offset,
            bytes: usize::try_from(bytes).expect("a run fits memory"),
        };
        self.next_id += 1;
        let outcome = (bytes == 0).then(|| Ok(Bytes::new()));
        Some(Reading {
            piece,
            parts,
            outcome,
        })
    }

    /// Hands on the pieces that are complete, up to the first that is not.
    fn release(&mut self) {
        while self
            .reading
            .front()
            .is_some_and(|reading| reading.outcome.is_some())
        {
            let reading = self.reading.pop_front().expect("the loop looked at it");
            let outcome = reading.outcome.expect("the loop looked at it");
            for part in reading.parts {
                let place = part.place;
                let slice = |piece: &Bytes| match place.bytes as usize {
                    0 => Bytes::new(),
                    bytes => {
                        let start = (place.offset - reading.piece.offset) as usize;
                        piece.slice(start..start + bytes)
                    }
                };
                let of_part = outcome.as_ref().map(slice).map_err(Clone::clone);
                self.whole += usize::from(part.is_last);
                self.ready.push_back((part, of_part));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::io::DiskError;

    const KIB: u64 = 1024;

    /// Runs of these lengths in KiB, one behind the other.
    fn ask(runs: &mut Runs, lengths: &[u64]) {
        let mut offset = 4 * KIB;
        for (leaf, length) in lengths.iter().enumerate() {
            let bytes = length * KIB;
            let place = ImagePart {
                file: SnapshotSeq(1),
                offset,
                bytes,
            };
            runs.ask(leaf as u32, &[place]);
            offset += bytes;
        }
    }

    /// A file whose every 4 KiB hold their number.
    fn read(piece: Piece) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(piece.bytes);
        let first = piece.offset / (4 * KIB);
        for (index, block) in buf.as_mut_slice().chunks_mut(4096).enumerate() {
            block.fill((first + index as u64) as u8);
        }
        buf
    }

    #[test]
    fn neighbours_are_read_at_once_and_come_in_order() {
        let mut runs = Runs::default();
        ask(&mut runs, &[400, 400, 400, 0, 2048, 4]);
        let pieces: Vec<_> = std::iter::from_fn(|| runs.next_read(Pace::EAGER)).collect();
        let lengths: Vec<_> = pieces
            .iter()
            .map(|piece| piece.bytes as u64 / KIB)
            .collect();
        assert_eq!(lengths, [800, 400, 2048, 4]);
        for piece in pieces.iter().rev() {
            assert!(runs.take().is_none());
            runs.on_read(piece.id, Ok(read(*piece)));
        }
        let mut block = 1;
        for (leaf, length) in [400usize, 400, 400, 0, 2048, 4].into_iter().enumerate() {
            let (taken, bytes) = runs.take().unwrap().unwrap();
            assert_eq!((taken as usize, bytes.len()), (leaf, length * 1024));
            assert!(bytes.first().is_none_or(|first| *first == block as u8));
            block += length / 4;
        }
        assert!(runs.take().is_none());
    }

    #[test]
    fn what_is_near_is_read_with_what_is_between_and_a_run_is_all_of_its_parts() {
        let place = |file: u64, offset: u64, kib: u64| ImagePart {
            file: SnapshotSeq(file),
            offset: offset * KIB,
            bytes: kib * KIB,
        };
        let mut runs = Runs::default();
        runs.ask(0, &[place(1, 4, 8), place(1, 40, 4)]);
        runs.ask(1, &[]);
        runs.ask(2, &[place(1, 48, 4), place(2, 52, 4), place(2, 56 + 65, 4)]);
        runs.ask(3, &[place(2, 4, 4)]);
        let mut pieces = Vec::new();
        while let Some(piece) = runs.next_read(Pace::EAGER) {
            pieces.push((piece.file.0, piece.offset / KIB, piece.bytes as u64 / KIB));
            runs.on_read(piece.id, Ok(read(piece)));
        }
        assert_eq!(pieces, [(1, 4, 48), (2, 52, 4), (2, 121, 4), (2, 4, 4)]);
        let first = |bytes: &[u8]| bytes.chunks(4096).map(|block| block[0]).collect::<Vec<_>>();
        let mut taken = Vec::new();
        while let Some(run) = runs.take() {
            let (leaf, bytes) = run.unwrap();
            taken.push((leaf, first(&bytes)));
        }
        let expected = [
            (0, vec![1, 2, 10]),
            (1, vec![]),
            (2, vec![12, 13, 30]),
            (3, vec![1]),
        ];
        assert_eq!(taken, expected);
    }

    #[test]
    fn only_some_reads_are_in_flight_and_empty_runs_need_none() {
        let mut runs = Runs::default();
        ask(&mut runs, &[2048; 20]);
        let pieces: Vec<_> = std::iter::from_fn(|| runs.next_read(Pace::EAGER)).collect();
        assert_eq!(pieces.len(), SNAPSHOT_RUN_READS_MAX);
        runs.on_read(pieces[0].id, Ok(read(pieces[0])));
        assert!(runs.next_read(Pace::EAGER).is_some());
        assert!(runs.next_read(Pace::EAGER).is_none());

        let mut runs = Runs::default();
        ask(&mut runs, &[100; 20]);
        let piece = runs.next_read(Pace::CONSIDERATE).unwrap();
        assert_eq!(piece.bytes as u64, 200 * KIB);
        assert!(runs.next_read(Pace::CONSIDERATE).is_none());
        assert_eq!(
            runs.next_read(Pace::EAGER).unwrap().bytes as u64,
            1000 * KIB
        );

        let mut runs = Runs::default();
        ask(&mut runs, &[0, 0]);
        assert!(runs.next_read(Pace::EAGER).is_none());
        assert_eq!(runs.take().unwrap().unwrap(), (0, Bytes::new()));
        assert_eq!(runs.take().unwrap().unwrap(), (1, Bytes::new()));
    }

    #[test]
    fn a_failed_read_fails_its_runs_and_forgotten_ones_do_not_come() {
        let mut runs = Runs::default();
        ask(&mut runs, &[4, 4, 2048]);
        let first = runs.next_read(Pace::EAGER).unwrap();
        let error = DiskError::from_errno("read", "f".to_owned(), libc::EIO);
        runs.on_read(first.id, Err(error.clone().into()));
        for _ in 0..2 {
            assert_eq!(runs.take().unwrap(), Err(error.clone().into()));
        }
        let second = runs.next_read(Pace::EAGER).unwrap();
        runs.forget();
        ask(&mut runs, &[4]);
        let third = runs.next_read(Pace::EAGER).unwrap();
        runs.on_read(second.id, Ok(read(second)));
        assert!(runs.take().is_none());
        runs.on_read(third.id, Ok(read(third)));
        assert_eq!(runs.take().unwrap().unwrap().1.len(), 4096);
    }
}
