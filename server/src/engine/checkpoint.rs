//! Checkpoints: when one is due, and giving it time and the disk beside requests.
//!
//! ```text
//!   due -> freeze -> runs read, keys merged (`super::build`), pages written -> commit (durable, switched)
//!       -> what was frozen is replaced by the new snapshot -> segments of the log before it are free
//! ```
//!
//! While commands come the disk gets no more than
//! `checkpoint.bytes_per_second`; otherwise it goes as fast as it can. Commands fill memory meanwhile. When they fill
//! what is left of the budget faster than the checkpoint advances, it hurries; when that does not help, they
//! wait for it ([`Engine::is_held_back`]), so that memory stays bounded.
//!
//! A crash before the commit leaves the last snapshot and the whole log behind it; after it, the new one and
//! a log that goes back further than it has to.

use std::sync::Arc;

use keelson_proto::ApiError;
use keelson_storage::ids::{Lsn, RaftIndex, SnapshotSeq};
use keelson_storage::io::{Disk, give_way};
use keelson_storage::limits::SNAPSHOT_WRITE_BYTES_CONSIDERATE;
use keelson_storage::mvcc::{Checkpoint, Layer, Reuse, Wanted};
use keelson_storage::snapshot::{BuilderConfig, HardState, Meta, Snapshot, SnapshotError};
use keelson_storage::state::State;

use super::build::{Build, Turn};
use super::limits::{
    BATCH_BYTES_MAX, CACHE_BYTES_MIN, CACHE_BYTES_STEP, CHECKPOINT_BURST_BYTES,
    CHECKPOINT_HOLDS_BACK_FROM, CHECKPOINT_HURRIES_FROM, CHECKPOINT_PAUSE_US, CHECKPOINT_RETRY_US,
    CHECKPOINT_SLICE_VERSIONS, IDLE_AFTER_US, LOG_HELD_FOR_CHECKPOINT, LOG_HELD_HURRIES_FROM,
    MEMORY_VERSIONS_BYTES_MIN,
};
use super::message::Answer;
use super::persist::Persisting;
use super::sending::snapshot_mark;
use super::shard::{Engine, EngineError, Origin};
use crate::runtime::Bell;

/// When checkpoints are made, and how fast.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// Commands since the last one before the next is due (`--snapshot-count`).
    pub commands: u64,
    /// Bytes of log since the last one before the next is due: twice the length of the last file, the index and the values
    /// that were new, but at least and at most this.
    pub log_bytes: (u64, u64),
    /// The longest time between two while anything changes, in microseconds.
    pub interval_us: Option<u64>,
    /// What the disk is given while commands are on their way.
    pub bytes_per_second: u64,
    /// Of which files values are borrowed.
    pub reuse: Reuse,
    /// How pages are made.
    pub builder: BuilderConfig,
}

/// The checkpoint that runs, and what leads to the next one.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    running: Option<Running>,
    /// One was asked for; it begins when none runs.
    requested: bool,
    /// How much of the files the next one may leave values in, if not as much as usually.
    reuse: Option<Reuse>,
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
    /// What is frozen, as long as no snapshot of it is durable, and how much of the work is done, from 0 to 1.
    frozen: Option<Frozen>,
    progress: f64,
    /// After a failure, when it is tried again.
    retry_at_us: u64,
    discarded: Vec<Discarded>,
    /// Where a shard that holds nothing wrote its hard state once more.
    moved_to: Option<Lsn>,
    /// What a thread rings that builds; without it the engine builds in its own turns.
    bell: Option<Arc<Bell>>,
}

/// What nobody needs any more; dropping it takes time, which is somebody else's.
#[derive(Debug)]
pub enum Discarded {
    /// A layer that is in a snapshot.
    Layer(Arc<Layer>),
    /// A state in whose place another one is.
    State(Box<State>),
}

impl Discarded {
    /// Drops it, giving way to others meanwhile.
    pub(super) fn let_go(self) {
        match self {
            Self::Layer(layer) => {
                // Somebody else may still read it, and drops it then.
                if let Some(layer) = Arc::into_inner(layer) {
                    layer.take_apart(give_way);
                }
            }
            Self::State(state) => drop(state),
        }
    }
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
    build: Option<Build>,
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

    /// The same, for one that leaves hardly anything on the disk that is of no use.
    pub(super) fn request_defrag(&mut self, origin: Origin) {
        self.checkpoints.reuse.get_or_insert(Reuse::LITTLE);
        self.request_checkpoint(origin);
    }

    /// The same, for one that reads every value, and so finds what is damaged.
    pub(super) fn request_rebuild(&mut self, origin: Origin) {
        self.checkpoints.reuse = Some(Reuse::NONE);
        self.request_checkpoint(origin);
    }

    /// Gives the running checkpoint a turn, or begins one if it is due. True if it could go on at once.
    pub(super) fn advance_checkpoint(&mut self) -> Result<bool, EngineError> {
        self.share_memory();
        self.move_up()?;
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
        if running.build.is_some() {
            match self.advance_build(&mut running) {
                Ok(more) => busy = more,
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

    /// A shard that holds nothing yet has no snapshot to make. So that its record does not hold the lane back, it
    /// writes it once more, and lets the old one go when the new one is durable.
    fn move_up(&mut self) -> Result<(), EngineError> {
        if let Some(lsn) = self.checkpoints.moved_to {
            if lsn <= self.wal.durable() {
                self.checkpoints.moved_to = None;
                self.wal.trim(Lsn(lsn.0 - 1));
            }
            return Ok(());
        }
        if self.node.last() > RaftIndex(0) || !self.holds_back_too_much() {
            return Ok(());
        }
        self.checkpoints.log_bytes = self.wal.counters().payload_bytes;
        self.checkpoints.moved_to = Some(self.write_first_record()?);
        Ok(())
    }

    /// Whether the lane has grown by all that it may since this shard last let any of it go.
    fn holds_back_too_much(&self) -> bool {
        let log_bytes = self.wal.counters().payload_bytes - self.checkpoints.log_bytes;
        log_bytes >= self.config.checkpoint.log_bytes.1 && self.wal.holds_back()
    }

    fn on_checkpoint_durable(&mut self, running: &Running, snapshot: Arc<Snapshot>) {
        let frozen = self.checkpoints.frozen.take();
        let covered = frozen.expect("a checkpoint is of what is frozen").covered;
        let (bytes, keys) = (snapshot.file_bytes(), snapshot.live_count());
        if let Some(mark) = snapshot_mark(&snapshot) {
            self.node.on_snapshot_file(mark);
        }
        let discarded = self.state.replace_frozen(snapshot);
        let discarded = discarded.map(Discarded::Layer);
        self.checkpoints.discarded.extend(discarded);
        let segments_freed = self.wal.trim(covered);
        self.facts.checkpoints += 1;
        self.checkpoints.progress = 0.0;
        self.scrub_pending = true;
        let took_us = self.now_us - running.began_us;
        self.durations.checkpoints.push(took_us);
        let took_ms = took_us / 1000;
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
        self.is_mended_by_others(error);
        self.facts.checkpoints_failed += 1;
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
    pub fn take_discarded(&mut self) -> Vec<Discarded> {
        std::mem::take(&mut self.checkpoints.discarded)
    }

    /// Has a state dropped by somebody else.
    pub(super) fn discard(&mut self, state: State) {
        let discarded = Discarded::State(Box::new(state));
        self.checkpoints.discarded.push(discarded);
    }

    /// Another member could not take the newest snapshot. Perhaps a value of it is damaged here.
    pub(super) fn want_other_snapshot_file(&mut self) {
        self.checkpoints.requested = true;
        self.checkpoints.reuse = Some(Reuse::NONE);
    }

    /// A newer snapshot than the one that is being made has arrived. Who waits for one waits for the next.
    pub(super) fn give_up_checkpoint(&mut self) {
        if self.checkpoints.running.take().is_some() {
            self.snapshots.abort();
            let answered = std::mem::take(&mut self.checkpoints.answered);
            self.checkpoints.requested |= !answered.is_empty();
            self.checkpoints.waiting.extend(answered);
        }
    }

    /// What was frozen is gone with the state that it was a part of.
    pub(super) fn forget_frozen(&mut self) {
        assert!(
            self.checkpoints.running.is_none(),
            "a checkpoint is given up before the state goes"
        );
        self.checkpoints.frozen = None;
        self.checkpoints.progress = 0.0;
        self.checkpoints.commands = self.facts.commands_applied;
        self.checkpoints.log_bytes = self.wal.counters().payload_bytes;
        self.checkpoints.began_us = self.now_us;
    }

    /// What a thread rings that works for this engine.
    pub(super) fn bell(&self) -> Option<Arc<Bell>> {
        self.checkpoints.bell.clone()
    }

    /// From now on checkpoints are built on a thread beside the cores, which rings when a turn is due.
    pub fn build_beside(&mut self, bell: Arc<Bell>) {
        self.checkpoints.bell = Some(bell);
    }

    /// Checkpoints that became durable since the start.
    #[must_use]
    pub fn checkpoints_completed(&self) -> u64 {
        self.facts.checkpoints
    }

    /// When a checkpoint has to be looked at again although nothing has happened.
    pub(super) fn checkpoint_deadline_us(&self) -> Option<u64> {
        let checkpoints = &self.checkpoints;
        match &checkpoints.running {
            // It waits for the disk, or for its allowance.
            Some(running) => running
                .build
                .is_some()
                .then(|| checkpoints.allowed_at_us + CHECKPOINT_PAUSE_US),
            // The disk brings the next turn, or the snapshot that arrives.
            None if self.must_checkpoint_wait() => None,
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
        let is_early = self.applying.is_some() || self.now_us < checkpoints.retry_at_us;
        if self.stopping || is_early || self.must_checkpoint_wait() {
            return false;
        }
        if checkpoints.requested || self.node.wants_snapshot_file() {
            return true;
        }
        let commands = self.facts.commands_applied - checkpoints.commands;
        let log_bytes = self.wal.counters().payload_bytes - checkpoints.log_bytes;
        let file_bytes = self.state.snapshot().map_or(0, |last| last.file_bytes());
        let (min, max) = config.log_bytes;
        let is_long = commands >= config.commands && log_bytes >= (2 * file_bytes).clamp(min, max);
        let is_old = config
            .interval_us
            .is_some_and(|interval_us| self.now_us >= checkpoints.began_us + interval_us);
        let is_needed = self.is_memory_short() || self.is_held_back();
        is_long || self.holds_back_too_much() || is_needed || (is_old && self.has_changed())
    }

    /// Whether none may begin now: a newer snapshot arrives, or the state is ahead of this member's own log, which
    /// must reach what a snapshot stands for.
    fn must_checkpoint_wait(&self) -> bool {
        self.receiving.is_some()
            || self.is_rejoining()
            || self.node.is_installing()
            || self.node.persisted() < self.state.applied().index
    }

    /// Whether the versions that no snapshot holds take more than a quarter of the memory that the index
    /// leaves: as much again may come while the checkpoint runs, and another index.
    fn is_memory_short(&self) -> bool {
        let memory = self.state.memory_bytes();
        let versions = memory.versions();
        versions > self.counted_budget_bytes().saturating_sub(memory.index) / 4
            && versions > MEMORY_VERSIONS_BYTES_MIN
    }

    /// Whether commands have filled more of the memory left to them than `start` and, of the rest, the part
    /// of the running checkpoint that is done. All of it is theirs only when the checkpoint is; and when none
    /// runs, one is about to begin.
    fn are_commands_ahead(&self, start: f64) -> bool {
        let memory = self.state.memory_bytes();
        // The index is there twice when the checkpoint is done, and one more entry may be let through.
        let taken = memory.frozen + 2 * memory.index + CACHE_BYTES_MIN + 2 * BATCH_BYTES_MAX as u64;
        let room = self.counted_budget_bytes().saturating_sub(taken);
        let proposed = self.proposed.iter().map(|entry| entry.payload_bytes as u64);
        let top = memory.top + proposed.sum::<u64>();
        let filled = top as f64 / room.max(MEMORY_VERSIONS_BYTES_MIN) as f64;
        filled > start + (1.0 - start) * self.checkpoints.progress
    }

    /// Whether the log that is kept for a member that waits for this checkpoint grows faster than it advances.
    fn is_log_ahead(&self) -> bool {
        let checkpoints = &self.checkpoints;
        let Some(frozen) = &checkpoints.frozen else {
            return false;
        };
        let filled = self.node.held_share(frozen.meta.applied.index);
        let started = LOG_HELD_HURRIES_FROM * (1.0 - checkpoints.progress);
        self.node.wants_snapshot_file()
            && filled > started + LOG_HELD_FOR_CHECKPOINT * checkpoints.progress
    }

    /// Whether commands wait for the checkpoint: they come faster than the disk takes it, and memory is
    /// bounded.
    pub(super) fn is_held_back(&self) -> bool {
        self.are_commands_ahead(CHECKPOINT_HOLDS_BACK_FROM)
    }

    /// What of the memory budget is shared out. The rest is for what is not counted: what an allocator keeps,
    /// a layer that is being dropped, buffers of the log and of connections.
    fn counted_budget_bytes(&self) -> u64 {
        let budget = self.config.memory_budget_bytes;
        budget - budget / 8
    }

    /// Gives the cache of values what the versions in memory and the index leave of the budget. While a
    /// checkpoint runs, and one always may, there are two of the latter.
    fn share_memory(&mut self) {
        let memory = self.state.memory_bytes();
        let left = self
            .counted_budget_bytes()
            .saturating_sub(memory.versions() + 2 * memory.index)
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
        let reuse = self.checkpoints.reuse.take();
        let reuse = reuse.unwrap_or(self.config.checkpoint.reuse);
        let sequence = self.snapshots.begin();
        let mut builder = self.config.checkpoint.builder;
        if self.is_serving() {
            builder.write_bytes = builder.write_bytes.min(SNAPSHOT_WRITE_BYTES_CONSIDERATE);
        }
        let last = self.state.snapshot();
        let layer = self.state.frozen();
        let job = Checkpoint::new(
            sequence,
            builder,
            frozen.meta.clone(),
            Arc::clone(layer.expect("it was just frozen, or is since the last attempt")),
            last.cloned(),
            reuse,
        );
        let build = Build::begin(Box::new(job), self.checkpoints.bell.as_ref());
        let checkpoints = &mut self.checkpoints;
        checkpoints.frozen = Some(frozen);
        checkpoints.progress = 0.0;
        checkpoints.requested = false;
        checkpoints.answered = std::mem::take(&mut checkpoints.waiting);
        checkpoints.commands = self.facts.commands_applied;
        checkpoints.log_bytes = self.wal.counters().payload_bytes;
        checkpoints.began_us = self.now_us;
        checkpoints.allowed_at_us = self.now_us;
        checkpoints.running = Some(Running {
            sequence,
            build: Some(build),
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
            covered: self.covered(),
        }
    }

    /// The last record that a snapshot of the applied state covers. If no entry waits behind that, all that follows is
    /// hard states, and the newest of them is in the snapshot.
    fn covered(&self) -> Lsn {
        let is_entry = |(_, what): &(Lsn, Persisting)| matches!(what, Persisting::Entry(_));
        if self.logged.is_empty() && !self.persisting.iter().any(is_entry) {
            self.wal.last()
        } else {
            self.applied_lsn
        }
    }

    /// Takes what was built and hands over what is needed. True if it could go on at once.
    fn advance_build(&mut self, running: &mut Running) -> Result<bool, SnapshotError> {
        let is_unhurried = self.is_serving()
            && !self.are_commands_ahead(CHECKPOINT_HURRIES_FROM)
            && !self.is_log_ahead();
        self.top_up(is_unhurried);
        self.snapshots.set_considerate(is_unhurried);
        let mut left = self.config.slices.checkpoint_versions;
        loop {
            self.feed(running)?;
            if !self.snapshots.may_write() || self.checkpoints.allowance <= 0 {
                // The completion of a write, or time, brings the next turn.
                return Ok(false);
            }
            let build = running.build.as_mut().expect("the caller looked");
            let slice = left.min(CHECKPOINT_SLICE_VERSIONS);
            let turn = build.advance(slice)?;
            self.checkpoints.progress = match turn {
                Turn::Complete(_) => 1.0,
                _ => build.progress(),
            };
            match turn {
                Turn::Write(write) => {
                    self.checkpoints.allowance -= write.buf.len() as i64;
                    self.snapshots.write(write);
                }
                Turn::Working if left == 0 => return Ok(true),
                Turn::Working => left -= slice,
                Turn::Waiting => return Ok(false),
                Turn::Complete(job) => {
                    running.build = None;
                    let file = self.snapshots.path_of(running.sequence);
                    let (snapshot, superblock) = job.into_snapshot(&file);
                    self.snapshots.commit(snapshot, superblock);
                    return Ok(false);
                }
            }
        }
    }

    /// Has the wanted runs of the last snapshot read, and hands over those that are here, and buffers.
    fn feed(&mut self, running: &mut Running) -> Result<(), SnapshotError> {
        let build = running.build.as_mut().expect("the caller looked");
        while let Some(Wanted { leaf, parts }) = build.take_wanted() {
            self.snapshots.read_run(leaf, &parts);
        }
        while let Some(run) = self.snapshots.take_run() {
            let (leaf, run) = run?;
            build.put_run(leaf, run);
        }
        while let Some(buf) = self.snapshots.take_buf() {
            if let Err(buf) = build.put_buf(buf) {
                self.snapshots.untake_buf(buf);
                break;
            }
        }
        Ok(())
    }

    /// Whether a command was applied a moment ago.
    pub(super) fn is_serving(&mut self) -> bool {
        let checkpoints = &mut self.checkpoints;
        if checkpoints.commands_seen != self.facts.commands_applied {
            checkpoints.commands_seen = self.facts.commands_applied;
            checkpoints.served_at_us = self.now_us;
        }
        self.now_us < checkpoints.served_at_us + IDLE_AFTER_US
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
