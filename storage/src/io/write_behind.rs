//! Writing a file while what comes next is worked on.
//!
//! ```text
//!   who makes pieces --in turn--> writing threads --> file
//! ```
//!
//! A disk that is given one write at a time idles between two of them, so several are in flight. Each thread has one
//! piece waiting at most; whoever makes them faster waits.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use super::{DirectWriter, DiskError, Piece};

/// Writes in flight.
const WRITES: usize = 2;

type Lane = SyncSender<(u64, Piece)>;
type Thread<'scope> = ScopedJoinHandle<'scope, Result<(), DiskError>>;

/// The threads that write a file.
#[derive(Debug)]
pub struct WriteBehind<'scope> {
    lanes: Vec<(Lane, Thread<'scope>)>,
    next: usize,
}

impl<'scope> WriteBehind<'scope> {
    /// Starts them in `scope`.
    pub fn start(scope: &'scope Scope<'scope, '_>, file: &'scope DirectWriter) -> Self {
        let lane = |_| {
            let (lane, waiting) = sync_channel(1);
            let thread = scope.spawn(move || write_all(file, &waiting));
            (lane, thread)
        };
        Self {
            lanes: (0..WRITES).map(lane).collect(),
            next: 0,
        }
    }

    /// Has a piece written at `offset`, some time before [`finish`](Self::finish) returns.
    ///
    /// # Errors
    /// Why a thread ended. Nothing more may be written then.
    pub fn write(&mut self, offset: u64, piece: Piece) -> Result<(), DiskError> {
        let (lane, _) = &self.lanes[self.next];
        if lane.send((offset, piece)).is_err() {
            let (_, thread) = self.lanes.swap_remove(self.next);
            join(thread)?;
            unreachable!("a thread that has not failed takes what comes");
        }
        self.next = (self.next + 1) % self.lanes.len();
        Ok(())
    }

    /// Waits until everything is written. It is not durable by that.
    ///
    /// # Errors
    /// What could not be written.
    pub fn finish(self) -> Result<(), DiskError> {
        let mut outcome = Ok(());
        for (lane, thread) in self.lanes {
            drop(lane);
            outcome = outcome.and(join(thread));
        }
        outcome
    }
}

fn write_all(file: &DirectWriter, waiting: &Receiver<(u64, Piece)>) -> Result<(), DiskError> {
    for (offset, piece) in waiting {
        file.write(offset, &piece)?;
    }
    Ok(())
}

fn join(thread: Thread<'_>) -> Result<(), DiskError> {
    thread
        .join()
        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use super::*;
    use crate::io::Pool;

    const PIECE_BYTES: usize = 8192;

    #[test]
    fn pieces_are_where_they_belong_whoever_wrote_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let writer = DirectWriter::create(&path).unwrap();
        writer.reserve(20 * PIECE_BYTES as u64).unwrap();
        let pool = Pool::new(3, PIECE_BYTES);
        let written = thread::scope(|scope| {
            let mut behind = WriteBehind::start(scope, &writer);
            for at in 0..20_u8 {
                let mut piece = pool.take();
                assert!(piece.is_empty());
                piece.extend_from_slice(&[at; PIECE_BYTES]);
                behind.write(u64::from(at) * PIECE_BYTES as u64, piece)?;
            }
            behind.finish()
        });
        written.unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len(), 20 * PIECE_BYTES);
        for (at, piece) in content.chunks(PIECE_BYTES).enumerate() {
            assert!(piece.iter().all(|&byte| usize::from(byte) == at), "{at}");
        }
    }

    #[test]
    fn a_write_that_fails_is_told_and_nobody_waits_for_ever() {
        let writer = DirectWriter::open(std::path::Path::new("/dev/full")).unwrap();
        let pool = Pool::new(2, PIECE_BYTES);
        let written = thread::scope(|scope| {
            let mut behind = WriteBehind::start(scope, &writer);
            for at in 0..20 {
                let mut piece = pool.take();
                piece.extend_from_slice(&[7; PIECE_BYTES]);
                behind.write(at * PIECE_BYTES as u64, piece)?;
            }
            behind.finish()
        });
        let error = written.unwrap_err();
        assert!(matches!(error, DiskError::NoSpace { .. }), "{error}");
    }
}
