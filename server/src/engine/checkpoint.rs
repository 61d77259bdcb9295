//! Checkpoints: when one is due, and giving it time and the disk beside requests.
//!
//! ```text
//!   due -> freeze -> runs read, keys merged, pages written, a slice a turn -> commit (durable, switched)
//!       -> what was frozen is replaced by the new snapshot -> segments of the log before it are free
//! ```
//!
//! While commands come a turn does little of it and the disk gets no more than
//! `checkpoint.bytes_per_second`. Otherwise, and when memory is short, it goes as fast as it can. A crash before the commit leaves
//! the last snapshot and the whole log behind it; after it, the new one and a log that goes back further
//! than it has to.

use std::sync::Arc;

use keelson_proto::ApiError;
use keelson_storage::ids::{Lsn, SnapshotSeq};
use keelson_storage::io::Disk;
use keelson_storage::mvcc::{Checkpoint, Layer, Progress};
use keelson_storage::snapshot::{BuilderConfig, HardState, Meta, Snapshot, SnapshotError};

use super::limits::{
    CACHE_BYTES_MIN, CACHE_BYTES_STEP, CHECKPOINT_BURST_BYTES, CHECKPOINT_IDLE_AFTER_US,
    CHECKPOINT_PAUSE_US, CHECKPOINT_RETRY_US, CHECKPOINT_RUNS_AHEAD_MAX, CHECKPOINT_SLICE_VERSIONS,
    CHECKPOINT_VERSIONS_PER_TURN_IDLE, MEMORY_VERSIONS_BYTES_MIN,
};
use super::message::Answer;
use super::shard::{Engine, EngineError, Origin};

/// When checkpoints are made, and how fast.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// Commands since the last one before the next is due (`--snapshot-count`).
    pub commands: u64,
    /// Bytes of log since the last one before the next is due: half the size of the snapshot, but at
    /// least and at most this.
    pub log_bytes: (u64, u64),
    /// The longest time between two while anything changes, in microseconds.
    pub interval_us: Option<u64>,
    /// What the disk is given while commands are on their way.
    pub bytes_per_second: u64,
    /// Versions gone through in a turn while commands are on their way.
    pub versions_per_turn: usize,
    /// How pages are made.
    pub builder: BuilderConfig,
}

/// The checkpoint that runs, and what leads to the next one.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    running: Option<Running>,
    /// One was asked for; it begins when none runs.
    requested: bool,
    /// Who is answered when the next one, and the one that runs, is durable.
    waiting: Vec<Origin>,
    answered: Vec<Origin>,
    /// Commands and bytes of log at the last freeze, and when it was.
    commands: u64,
    log_bytes: u64,
    began_us: u64,
    /// Commands applied when that was last looked at, and when it last grew.
    commands_seen: u64,
    served_at_us: u64,
    /// Bytes that may be written before the next pause, or how many too many were, and when they were last
    /// topped up.
    allowance: i64,
    allowed_at_us: u64,
    /// What the cache of values may take.
    cache_bytes: u64,
    /// What is frozen, as long as no snapshot of it is durable.
    frozen: Option<Frozen>,
    /// After a failure, when it is tried again.
    retry_at_us: u64,
    /// Layers that nobody needs; dropping them takes time, which is somebody else's.
    discarded: Vec<Layer>,
    /// How many became durable since the start.
    pub(super) completed: u64,
}

/// What a snapshot is to be made of.
#[derive(Clone, Debug)]
struct Frozen {
    meta: Meta,
    /// The last record of the log that it covers.
    covered: Lsn,
}

#[derive(Debug)]
struct Running {
    sequence: SnapshotSeq,
    /// None while the file is being committed.
    job: Option<Box<Checkpoint>>,
    began_us: u64,
}

impl Checkpoints {
    pub(super) fn new(now_us: u64) -> Self {
        Self {
            began_us: now_us,
            ..Self::default()
        }
    }
}

impl<D: Disk> Engine<D> {
    /// Asks for a checkpoint of everything applied so far; `origin` is answered when it is durable.
    pub(super) fn request_checkpoint(&mut self, origin: Origin) {
        self.checkpoints.requested = true;
        self.checkpoints.waiting.push(origin);
    }

    /// Gives the running checkpoint a turn, or begins one if it is due. True if it could go on at once.
    pub(super) fn advance_checkpoint(&mut self) -> Result<bool, EngineError> {
        self.share_memory();
        if self.checkpoints.running.is_none() && self.is_checkpoint_due() {
            self.begin_checkpoint();
        }
        let Some(mut running) = self.checkpoints.running.take() else {
            return Ok(false);
        };
        if let Some(error) = self.snapshots.take_build_failure() {
            self.on_checkpoint_failed(&error);
            return Ok(false);
        }
        let mut busy = false;
        if let Some(job) = running.job.take() {
            match self.advance_job(job, running.sequence) {
                Ok((job, more)) => {
                    running.job = job;
                    busy = more;
                }
                Err(error) => {
                    self.snapshots.abort();
                    self.on_checkpoint_failed(&error);
                    return Ok(false);
                }
            }
        } else if let Some(snapshot) = self.snapshots.committed() {
            self.on_checkpoint_durable(&running, snapshot);
            return Ok(self.checkpoints.requested);
        }
        self.checkpoints.running = Some(running);
        Ok(busy)
    }

    fn on_checkpoint_durable(&mut self, running: &Running, snapshot: Arc<Snapshot>) {
        let frozen = self.checkpoints.frozen.take();
        let covered = frozen.expect("a checkpoint is of what is frozen").covered;
        let (bytes, keys) = (snapshot.file_bytes(), snapshot.live_count());
        let discarded = self.state.replace_frozen(snapshot);
        self.checkpoints.discarded.extend(discarded);
        let segments_freed = self.wal.trim(covered);
        self.checkpoints.completed += 1;
        self.scrub_pending = true;
        let took_ms = (self.now_us - running.began_us) / 1000;
        tracing::info!(
            sequence = running.sequence.0,
            bytes,
            keys,
            segments_freed,
            took_ms,
            "checkpoint"
        );
        for origin in std::mem::take(&mut self.checkpoints.answered) {
            let header = self.header();
            self.reply(origin, Ok(Answer::Checkpointed(header)));
        }
    }

    /// The disk is full, or the last snapshot is damaged. Nothing is lost: what is frozen stays in memory
    /// and in the log, and a snapshot of it is tried again.
    fn on_checkpoint_failed(&mut self, error: &SnapshotError) {
        tracing::error!(%error, "a checkpoint failed; it is tried again");
        self.checkpoints.retry_at_us = self.now_us + CHECKPOINT_RETRY_US;
        self.checkpoints.requested = true;
        let reply = match error {
            SnapshotError::Disk(_) => ApiError::NoSpace,
            _ => ApiError::Corrupt,
        };
        for origin in std::mem::take(&mut self.checkpoints.answered) {
            self.reply(origin, Err(reply));
        }
    }

    /// Takes what only has to be dropped.
    pub fn take_discarded(&mut self) -> Vec<Layer> {
        std::mem::take(&mut self.checkpoints.discarded)
    }

    /// Checkpoints that became durable since the start.
    #[must_use]
    pub fn checkpoints_completed(&self) -> u64 {
        self.checkpoints.completed
    }

    /// When a checkpoint has to be looked at again although nothing has happened.
    pub(super) fn checkpoint_deadline_us(&self) -> Option<u64> {
        let checkpoints = &self.checkpoints;
        match &checkpoints.running {
            // It waits for the disk, or for its allowance.
            Some(running) => running
                .job
                .is_some()
                .then(|| checkpoints.allowed_at_us + CHECKPOINT_PAUSE_US),
            None if checkpoints.requested => Some(checkpoints.retry_at_us),
            None => {
                let interval_us = self.config.checkpoint.interval_us?;
                self.has_changed()
                    .then(|| checkpoints.began_us + interval_us)
            }
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        let config = &self.config.checkpoint;
        let checkpoints = &self.checkpoints;
        if self.stopping || self.applying.is_some() || self.now_us < checkpoints.retry_at_us {
            return false;
        }
        if checkpoints.requested {
            return true;
        }
        let commands = self.facts.commands_applied - checkpoints.commands;
        let log_bytes = self.wal.counters().payload_bytes - checkpoints.log_bytes;
        let file_bytes = self.state.snapshot().map_or(0, |last| last.file_bytes());
        let (min, max) = config.log_bytes;
        let is_long = commands >= config.commands && log_bytes >= (file_bytes / 2).clamp(min, max);
        let is_old = config
            .interval_us
            .is_some_and(|interval_us| self.now_us >= checkpoints.began_us + interval_us);
        is_long || log_bytes >= max || self.is_memory_short() || (is_old && self.has_changed())
    }

    /// Whether the versions that no snapshot holds take more than a quarter of the memory that the index
    /// leaves: as much again may come while the checkpoint runs, and another index.
    fn is_memory_short(&self) -> bool {
        let (versions, index) = self.state.memory_bytes();
        versions > self.config.memory_budget_bytes.saturating_sub(index) / 4
            && versions > MEMORY_VERSIONS_BYTES_MIN
    }

    /// Gives the cache of values what the index and the versions in memory leave of the budget.
    fn share_memory(&mut self) {
        let (versions, index) = self.state.memory_bytes();
        let left = self
            .config
            .memory_budget_bytes
            .saturating_sub(versions + index)
            .max(CACHE_BYTES_MIN);
        if left.abs_diff(self.checkpoints.cache_bytes) >= CACHE_BYTES_STEP {
            self.checkpoints.cache_bytes = left;
            self.snapshots.set_cache_bytes_max(left);
        }
    }

    fn has_changed(&self) -> bool {
        self.facts.commands_applied > self.checkpoints.commands
    }

    fn begin_checkpoint(&mut self) {
        let frozen = match self.checkpoints.frozen.take() {
            Some(frozen) => frozen,
            None => self.freeze(),
        };
        let sequence = self.snapshots.begin();
        let job = Checkpoint::new(
            sequence,
            self.config.checkpoint.builder,
            frozen.meta.clone(),
            self.state.snapshot().cloned(),
        );
        let checkpoints = &mut self.checkpoints;
        checkpoints.frozen = Some(frozen);
        checkpoints.requested = false;
        checkpoints.answered = std::mem::take(&mut checkpoints.waiting);
        checkpoints.commands = self.facts.commands_applied;
        checkpoints.log_bytes = self.wal.counters().payload_bytes;
        checkpoints.began_us = self.now_us;
        checkpoints.allowed_at_us = self.now_us;
        checkpoints.running = Some(Running {
            sequence,
            job: Some(Box::new(job)),
            began_us: self.now_us,
        });
    }

    fn freeze(&mut self) -> Frozen {
        let hard_state = self.node.hard_state();
        let hard_state = HardState {
            term: hard_state.term,
            vote: hard_state.vote,
        };
        let unpublished = self.unpublished();
        Frozen {
            meta: self.state.freeze(hard_state, unpublished),
            covered: self.applied_lsn,
        }
    }

    /// A turn of the job; without it when it is complete and its file is being committed.
    fn advance_job(
        &mut self,
        mut job: Box<Checkpoint>,
        sequence: SnapshotSeq,
    ) -> Result<(Option<Box<Checkpoint>>, bool), SnapshotError> {
        let is_unhurried = self.is_serving() && !self.is_memory_short();
        let mut left = if is_unhurried {
            self.config.checkpoint.versions_per_turn
        } else {
            CHECKPOINT_VERSIONS_PER_TURN_IDLE
        };
        self.top_up(is_unhurried);
        let frozen = self
            .state
            .frozen()
            .expect("a checkpoint is of a frozen layer");
        loop {
            while self.snapshots.may_read_run()
                && let Some(leaf) = job.wants_run(CHECKPOINT_RUNS_AHEAD_MAX)
            {
                self.snapshots.read_run(leaf);
            }
            while let Some(run) = self.snapshots.take_run() {
                let (leaf, run) = run?;
                job.on_run(leaf, run);
            }
            while let Some(buf) = self.snapshots.take_buf() {
                job.reuse(buf);
            }
            if !self.snapshots.may_write() || self.checkpoints.allowance <= 0 {
                // The completion of a write, or time, brings the next turn.
                return Ok((Some(job), false));
            }
            if let Some(write) = job.take_write() {
                self.checkpoints.allowance -= write.buf.len() as i64;
                self.snapshots.write(write);
                continue;
            }
            if left == 0 {
                return Ok((Some(job), true));
            }
            let slice = left.min(CHECKPOINT_SLICE_VERSIONS);
            left -= slice;
            match job.step(frozen, slice)? {
                Progress::Working => {}
                Progress::NeedsRun => return Ok((Some(job), false)),
                Progress::Complete => {
                    if let Some(write) = job.take_write() {
                        self.snapshots.write(write);
                        continue;
                    }
                    let file = self.snapshots.path_of(sequence);
                    let (snapshot, superblock) = job.into_snapshot(&file);
                    self.snapshots.commit(snapshot, superblock);
                    return Ok((None, false));
                }
            }
        }
    }

    /// Whether a command was applied a moment ago.
    fn is_serving(&mut self) -> bool {
        let checkpoints = &mut self.checkpoints;
        if checkpoints.commands_seen != self.facts.commands_applied {
            checkpoints.commands_seen = self.facts.commands_applied;
            checkpoints.served_at_us = self.now_us;
        }
        self.now_us < checkpoints.served_at_us + CHECKPOINT_IDLE_AFTER_US
    }

    fn top_up(&mut self, is_unhurried: bool) {
        let checkpoints = &mut self.checkpoints;
        let passed_us = self.now_us - checkpoints.allowed_at_us;
        checkpoints.allowed_at_us = self.now_us;
        let rate = self.config.checkpoint.bytes_per_second;
        let earned = u128::from(rate) * u128::from(passed_us) / 1_000_000;
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        checkpoints.allowance = if is_unhurried {
            checkpoints
                .allowance
                .saturating_add(earned)
                .min(CHECKPOINT_BURST_BYTES)
        } else {
            i64::MAX
        };
    }
}
