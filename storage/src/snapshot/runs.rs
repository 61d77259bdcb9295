//! Value runs of the current snapshot, read ahead for the builder that copies unchanged leaves.
//!
//! The builder asks for leaves and gets their runs in the order it asked. Several reads are in flight; runs that follow
//! each other in the file, as those of neighbouring leaves do, are read in one piece.
//!
//! Invariants:
//! 1. Runs are handed out in the order they were asked for, whatever order their reads complete in.
//! 2. A run is handed out with the length its leaf gives. Whether its blocks are sound is checked where it is used.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::error::SnapshotError;
use super::lent::lend;
use crate::io::AlignedBuf;
use crate::limits::{
    SNAPSHOT_RUN_READ_BYTES, SNAPSHOT_RUN_READ_BYTES_CONSIDERATE, SNAPSHOT_RUN_READS_CONSIDERATE,
    SNAPSHOT_RUN_READS_MAX,
};

/// A run of one leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) leaf: u32,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// One piece of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u64,
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
    asked: VecDeque<Run>,
    /// Pieces in the order of their runs; an id is used once.
    reading: VecDeque<Reading>,
    next_id: u64,
    in_flight: usize,
    ready: VecDeque<(Run, Result<Bytes, SnapshotError>)>,
    bytes_ahead: u64,
    /// What was read into, to be read into again when nobody holds a part of it any more.
    lent: Vec<Arc<AlignedBuf>>,
}

#[derive(Debug)]
struct Reading {
    piece: Piece,
    runs: Vec<Run>,
    outcome: Option<Result<Bytes, SnapshotError>>,
}

impl Runs {
    /// Bytes asked for and not yet taken.
    pub(super) fn bytes_ahead(&self) -> u64 {
        self.bytes_ahead
    }

    pub(super) fn ask(&mut self, run: Run) {
        self.bytes_ahead += run.bytes;
        self.asked.push_back(run);
    }

    /// The next run in the order asked, if it is here.
    pub(super) fn take(&mut self) -> Option<Result<(u32, Bytes), SnapshotError>> {
        let (run, outcome) = self.ready.pop_front()?;
        self.bytes_ahead -= run.bytes;
        Some(outcome.map(|bytes| (run.leaf, bytes)))
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
        let (mut runs, mut bytes) = (vec![first], first.bytes);
        while let Some(next) = self.asked.front() {
            let follows = next.offset == first.offset + bytes;
            if !follows || bytes + next.bytes > bytes_max {
                break;
            }
            bytes += next.bytes;
            runs.extend(self.asked.pop_front());
        }
        let piece = Piece {
            id: self.next_id,
            offset: first.offset,
            bytes: usize::try_from(bytes).expect("a run fits memory"),
        };
        self.next_id += 1;
        let outcome = (bytes == 0).then(|| Ok(Bytes::new()));
        Some(Reading {
            piece,
            runs,
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
            for run in reading.runs {
                let start = (run.offset - reading.piece.offset) as usize;
                let slice = |piece: &Bytes| piece.slice(start..start + run.bytes as usize);
                let of_run = outcome.as_ref().map(slice).map_err(Clone::clone);
                self.ready.push_back((run, of_run));
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
            runs.ask(Run {
                leaf: leaf as u32,
                offset,
                bytes,
            });
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
        assert_eq!(runs.bytes_ahead(), 3252 * KIB);
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
        assert_eq!(runs.bytes_ahead(), 0);
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
