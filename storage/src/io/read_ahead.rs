//! Reading a file once, from its start to its end, while what was read is worked on.
//!
//! ```text
//!   reading thread --pieces, in order--> who takes them
//!        ^------------buffers------------ whoever is done with them
//! ```
//!
//! The buffers go round: memory that was never used costs the kernel more than a read into it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use super::{AlignedBuf, DirectFile, DiskError};

/// Buffers that go round: one is read into, one is worked on, and two are on their way.
const BUFFERS: usize = 4;

/// The pieces of a file, in order.
#[derive(Debug)]
pub struct ReadAhead {
    pieces: Receiver<Result<AlignedBuf, DiskError>>,
    free: Sender<AlignedBuf>,
}

impl ReadAhead {
    /// Begins to read the first `bytes` (whole blocks) of a file in pieces of `piece_bytes`, on a thread of `scope`. It ends with the
    /// file, after the first failure, or when the pieces are dropped and nobody has a buffer to give back.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: &'scope DirectFile,
        bytes: u64,
        piece_bytes: usize,
    ) -> Self {
        let (free, buffers) = channel();
        let (filled, pieces) = channel();
        for _ in 0..BUFFERS {
            free.send(AlignedBuf::with_capacity(piece_bytes))
                .expect("the receiving end is right here");
        }
        scope.spawn(move || {
            let mut offset = 0;
            for mut buf in buffers {
                let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
                let read = source.read(offset, left.min(piece_bytes), &mut buf);
                let is_end = read.is_err() || buf.len() < piece_bytes;
                offset += buf.len() as u64;
                let piece = read.map(|()| buf);
                // Nobody may want them any more.
                if filled.send(piece).is_err() || is_end || offset == bytes {
                    return;
                }
            }
        });
        Self { pieces, free }
    }

    /// Where buffers are given back.
    #[must_use]
    pub fn free(&self) -> Sender<AlignedBuf> {
        self.free.clone()
    }
}

impl Iterator for ReadAhead {
    type Item = Result<AlignedBuf, DiskError>;

    /// The next piece, shorter than the others only at the end of the file; one without bytes is its end.
    fn next(&mut self) -> Option<Self::Item> {
        self.pieces.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const PIECE_BYTES: usize = 8192;

    fn read(bytes: &[u8], wanted: u64) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).expect("a file");
        let source = DirectFile::open(&path).expect("a file");
        thread::scope(|scope| {
            let pieces = ReadAhead::start(scope, &source, wanted, PIECE_BYTES);
            let free = pieces.free();
            let mut all = Vec::new();
            for piece in pieces {
                let piece = piece.expect("a sound disk");
                all.extend_from_slice(piece.as_slice());
                // After the last piece nobody wants it.
                let _ = free.send(piece);
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
