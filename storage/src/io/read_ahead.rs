//! Reading a file once, from its start to its end, while what was read is worked on.
//!
//! ```text
//!   reading threads --pieces, in turn--> who takes them
//!        ^-------------buffers------------ whoever is done with them
//! ```
//!
//! A disk that is asked for one piece at a time idles between two of them, so there are several threads. The buffers
//! go round.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use super::{AlignedBuf, DiskError, Piece};

/// What is read once, from its start to its end.
pub trait Source: Sync {
    /// Reads up to `bytes` (a multiple of the block) at `offset` (likewise) into `buf`, replacing its content; fewer at
    /// the end.
    fn read(&self, offset: u64, bytes: usize, buf: &mut AlignedBuf) -> Result<(), DiskError>;
}

/// Reads in flight.
const READS: usize = 2;
/// Buffers of each thread: one is read into, one is on its way, and one is worked on.
const BUFFERS: usize = 3;

/// The pieces of a file, in order.
#[derive(Debug)]
pub struct ReadAhead {
    lanes: Vec<Lane>,
    next: usize,
    is_over: bool,
    piece_bytes: usize,
}

/// One thread's pieces, and where its buffers go back to.
#[derive(Debug)]
struct Lane {
    pieces: Receiver<Result<AlignedBuf, DiskError>>,
    home: Sender<AlignedBuf>,
}

impl ReadAhead {
    /// Begins to read the first `bytes` (whole blocks) of a file in pieces of `piece_bytes`, on threads of `scope`. It ends
    /// with the file, after the first failure, or when it and all pieces are dropped.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: &'scope impl Source,
        bytes: u64,
        piece_bytes: usize,
    ) -> Self {
        let lane = |number: usize| {
            let (home, buffers) = channel();
            let (filled, pieces) = channel();
            for _ in 0..BUFFERS {
                home.send(AlignedBuf::with_capacity(piece_bytes))
                    .expect("the receiving end is right here");
            }
            let mut offset = (number * piece_bytes) as u64;
            scope.spawn(move || {
                for mut buf in buffers {
                    if offset >= bytes {
                        return;
                    }
                    let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
                    let read = source.read(offset, left.min(piece_bytes), &mut buf);
                    let is_end = read.is_err() || buf.len() < piece_bytes;
                    // Nobody may want them any more.
                    if filled.send(read.map(|()| buf)).is_err() || is_end {
                        return;
                    }
                    offset += (READS * piece_bytes) as u64;
                }
            });
            Lane { pieces, home }
        };
        Self {
            lanes: (0..READS).map(lane).collect(),
            next: 0,
            is_over: false,
            piece_bytes,
        }
    }
}

impl Iterator for ReadAhead {
    type Item = Result<Piece, DiskError>;

    /// The next piece, shorter than the others only at the end of the file.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let lane = &self.lanes[self.next];
        self.next = (self.next + 1) % self.lanes.len();
        let read = lane.pieces.recv().ok()?;
        self.is_over = read
            .as_ref()
            .map_or(true, |buf| buf.len() < self.piece_bytes);
        Some(read.map(|buf| Piece::new(buf, lane.home.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::io::DirectFile;

    const PIECE_BYTES: usize = 8192;

    fn read(bytes: &[u8], wanted: u64) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).expect("a file");
        let source = DirectFile::open(&path).expect("a file");
        thread::scope(|scope| {
            let pieces = ReadAhead::start(scope, &source, wanted, PIECE_BYTES);
            let mut all = Vec::new();
            for piece in pieces {
                let piece = piece.expect("a sound disk");
                all.extend_from_slice(piece.as_slice());
            }
            all
        })
    }

    #[test]
    fn pieces_are_the_file_whatever_its_length() {
        for length in [
            0,
            1,
            4096,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            10 * PIECE_BYTES,
            100_001,
        ] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let wanted = length.next_multiple_of(4096) as u64;
            assert_eq!(read(&bytes, wanted), bytes, "{length}");
        }
        let bytes = vec![7; 10 * PIECE_BYTES];
        assert_eq!(read(&bytes, 3 * PIECE_BYTES as u64).len(), 3 * PIECE_BYTES);
    }

    #[test]
    fn who_has_enough_drops_the_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 100 * PIECE_BYTES]).expect("a file");
        let source = DirectFile::open(&path).expect("a file");
        thread::scope(|scope| {
            let mut pieces = ReadAhead::start(scope, &source, u64::MAX, PIECE_BYTES);
            assert!(pieces.next().is_some());
        });
    }
}
