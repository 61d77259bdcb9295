//! Where the pages of a checkpoint are made: on a thread beside the cores, or in the engine's own turns.
//!
//! The work needs nothing but memory that no longer changes, the frozen layer and the last snapshot, and what
//! was read of the latter. So a core has it done elsewhere, and keeps what is its own: reading, writing, the
//! rate of both, and the moment at which the new snapshot counts.
//!
//! ```text
//!   engine --- runs, buffers ---> build --- wanted runs, writes, then the finished checkpoint ---> engine
//! ```
//!
//! Both ways are bounded: who fills one waits, the thread by sleeping, the engine by coming back in a later
//! turn. A thread whose engine has let go of it ends. A simulation builds in turns, so that its outcome
//! depends on nothing but its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use bytes::Bytes;
use keelson_storage::io::{AlignedBuf, give_way};
use keelson_storage::limits::SNAPSHOT_RUNS_AHEAD_MAX;
use keelson_storage::mvcc::{Checkpoint, Progress, Wanted};
use keelson_storage::snapshot::{PageWrite, SnapshotError};

use super::limits::{
    CHECKPOINT_GIVES_WAY_US, CHECKPOINT_SLICE_VERSIONS, CHECKPOINT_WRITES_AHEAD_MAX,
};
use crate::runtime::{self, Bell, Clock, MonotonicClock};

const NOT_COMPLETE: &str = "a complete checkpoint is not built on";

/// A checkpoint in the making.
#[derive(Debug)]
pub(super) enum Build {
    /// In the turns that [`advance`](Self::advance) gives it, until it is complete.
    Here(Option<Box<Checkpoint>>),
    /// On a thread of its own.
    Beside(Beside),
}

/// What a turn came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// Something to write.
    Write(PageWrite),
    /// There is more to do at once.
    Working,
    /// It goes on when a run has been read, or when its thread has got further.
    Waiting,
    /// All writes were handed over.
    Complete(Box<Checkpoint>),
}

/// The engine's end of a thread.
#[derive(Debug)]
pub(super) struct Beside {
    wanted: Receiver<Wanted>,
    runs: SyncSender<(u32, Bytes)>,
    buffers: SyncSender<AlignedBuf>,
    made: Receiver<Made>,
    /// In thousandths.
    progress: Arc<AtomicU32>,
}

/// What the thread hands over.
#[derive(Debug)]
enum Made {
    Write(PageWrite),
    Complete(Box<Checkpoint>),
    Failed(SnapshotError),
}

impl Build {
    /// Begins a checkpoint, on a thread that rings `bell` when it has something to hand over, if there is one.
    pub(super) fn begin(job: Box<Checkpoint>, bell: Option<&Arc<Bell>>) -> Self {
        let Some(bell) = bell else {
            return Self::Here(Some(job));
        };
        let (job_out, job_in) = sync_channel(1);
        let (wanted_out, wanted) = sync_channel(SNAPSHOT_RUNS_AHEAD_MAX);
        let (runs, runs_in) = sync_channel(SNAPSHOT_RUNS_AHEAD_MAX);
        let (buffers, buffers_in) = sync_channel(CHECKPOINT_WRITES_AHEAD_MAX);
        let (made_out, made) = sync_channel(CHECKPOINT_WRITES_AHEAD_MAX);
        let progress = Arc::new(AtomicU32::new(0));
        let thread = Thread {
            job: None,
            wanted: wanted_out,
            runs: runs_in,
            buffers: buffers_in,
            made: made_out,
            progress: Arc::clone(&progress),
            bell: Arc::clone(bell),
            gave_way_us: 0,
        };
        if let Err(error) = runtime::spawn_helper(move || thread.run(&job_in)) {
            tracing::warn!(%error, "no thread for a checkpoint: its core does the work");
            return Self::Here(Some(job));
        }
        job_out
            .send(job)
            .expect("the thread's first deed is to take it");
        Self::Beside(Beside {
            wanted,
            runs,
            buffers,
            made,
            progress,
        })
    }

    /// What is to be read next.
    pub(super) fn take_wanted(&mut self) -> Option<Wanted> {
        match self {
            Self::Here(job) => job.as_mut().expect(NOT_COMPLETE).take_wanted(),
            Self::Beside(beside) => beside.wanted.try_recv().ok(),
        }
    }

    /// Hands over a run that was wanted, in the order in which they were.
    pub(super) fn put_run(&mut self, leaf: u32, run: Bytes) {
        match self {
            Self::Here(job) => job.as_mut().expect(NOT_COMPLETE).on_run(leaf, run),
            Self::Beside(beside) => match beside.runs.try_send((leaf, run)) {
                Err(TrySendError::Full(_)) => {
                    unreachable!("no more runs are wanted than there is room for")
                }
                // A thread that has ended says why in its own way.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            },
        }
    }

    /// Hands over a buffer to fill; gives it back if there are enough.
    pub(super) fn put_buf(&mut self, buf: AlignedBuf) -> Result<(), AlignedBuf> {
        match self {
            Self::Here(job) => {
                let job = job.as_mut().expect(NOT_COMPLETE);
                if !job.wants_buf() {
                    return Err(buf);
                }
                job.reuse(buf);
                Ok(())
            }
            Self::Beside(beside) => beside.buffers.try_send(buf).map_err(|error| match error {
                TrySendError::Full(buf) | TrySendError::Disconnected(buf) => buf,
            }),
        }
    }

    /// How much is done, from 0 to 1.
    pub(super) fn progress(&self) -> f64 {
        match self {
            Self::Here(job) => job.as_ref().expect(NOT_COMPLETE).progress(),
            Self::Beside(beside) => f64::from(beside.progress.load(Ordering::Relaxed)) / 1000.0,
        }
    }

    /// Takes what was made; if nothing was and it is made here, goes through about `versions` more. Not to be
    /// used after it was complete.
    ///
    /// # Errors
    /// The last snapshot is damaged.
    pub(super) fn advance(&mut self, versions: usize) -> Result<Turn, SnapshotError> {
        match self {
            Self::Here(job) => advance_here(job, versions),
            Self::Beside(beside) => match beside.made.try_recv() {
                Ok(Made::Write(write)) => Ok(Turn::Write(write)),
                Ok(Made::Complete(job)) => Ok(Turn::Complete(job)),
                Ok(Made::Failed(error)) => Err(error),
                Err(TryRecvError::Empty) => Ok(Turn::Waiting),
                Err(TryRecvError::Disconnected) => {
                    unreachable!("the thread of a checkpoint ends after it said why")
                }
            },
        }
    }
}

fn advance_here(
    here: &mut Option<Box<Checkpoint>>,
    versions: usize,
) -> Result<Turn, SnapshotError> {
    let job = here.as_mut().expect(NOT_COMPLETE);
    if let Some(write) = job.take_write() {
        return Ok(Turn::Write(write));
    }
    if versions == 0 {
        return Ok(Turn::Working);
    }
    match job.step(versions)? {
        Progress::Working => Ok(Turn::Working),
        Progress::NeedsRun => Ok(Turn::Waiting),
        Progress::Complete => Ok(match job.take_write() {
            Some(write) => Turn::Write(write),
            None => Turn::Complete(here.take().expect(NOT_COMPLETE)),
        }),
    }
}

/// The thread.
struct Thread {
    /// None before the first turn and after the last.
    job: Option<Box<Checkpoint>>,
    wanted: SyncSender<Wanted>,
    runs: Receiver<(u32, Bytes)>,
    buffers: Receiver<AlignedBuf>,
    made: SyncSender<Made>,
    progress: Arc<AtomicU32>,
    bell: Arc<Bell>,
    /// When it last gave way.
    gave_way_us: u64,
}

impl Thread {
    fn run(mut self, job: &Receiver<Box<Checkpoint>>) {
        self.job = job.recv().ok();
        while let Some(made) = self.next() {
            let is_taken = self.hand_over(made);
            self.bell.ring();
            if !is_taken {
                break;
            }
        }
    }

    /// While the engine has enough to write, goes on with what needs no room for writes; false when the engine is gone.
    fn hand_over(&mut self, mut made: Made) -> bool {
        while let Some(job) = self.job.as_mut().filter(|job| job.may_run_ahead()) {
            made = match self.made.try_send(made) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(made)) => made,
            };
            if let Err(error) = job.step(CHECKPOINT_SLICE_VERSIONS) {
                self.job = None;
                made = Made::Failed(error);
            }
            self.give_way_in_time();
        }
        self.made.send(made).is_ok()
    }

    /// A slice may be little work, and giving way is some itself.
    fn give_way_in_time(&mut self) {
        let now_us = MonotonicClock.now_us();
        if now_us - self.gave_way_us >= CHECKPOINT_GIVES_WAY_US {
            give_way();
            self.gave_way_us = now_us;
        }
    }

    /// What to hand over next; `None` after the last, and when the engine is gone.
    fn next(&mut self) -> Option<Made> {
        loop {
            self.give_way_in_time();
            let job = self.job.as_mut()?;
            while job.wants_buf()
                && let Ok(buf) = self.buffers.try_recv()
            {
                job.reuse(buf);
            }
            if let Some(write) = job.take_write() {
                return Some(Made::Write(write));
            }
            let stepped = job.step(CHECKPOINT_SLICE_VERSIONS);
            let mut has_wants = false;
            while let Some(wanted) = job.take_wanted() {
                has_wants = true;
                self.wanted.send(wanted).ok()?;
            }
            if has_wants {
                self.bell.ring();
            }
            let progress = (job.progress() * 1000.0) as u32;
            self.progress.store(progress, Ordering::Relaxed);
            match stepped {
                Ok(Progress::Working) => {}
                Ok(Progress::NeedsRun) => {
                    let (leaf, run) = self.runs.recv().ok()?;
                    job.on_run(leaf, run);
                }
                Ok(Progress::Complete) => match job.take_write() {
                    Some(write) => return Some(Made::Write(write)),
                    None => return self.job.take().map(Made::Complete),
                },
                Err(error) => {
                    self.job = None;
                    return Some(Made::Failed(error));
                }
            }
        }
    }
}
