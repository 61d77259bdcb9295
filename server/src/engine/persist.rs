//! From the queue to the lane: sealing entries, appending records, counting what is durable.

use bytes::{Bytes, BytesMut};
use keelson_consensus::durable::{ReadyNumber, encode_hard_state, record_kind};
use keelson_consensus::limits::ENTRY_COMMANDS_MAX;
use keelson_consensus::node::{MembershipChange, NodeError};
use keelson_consensus::replicate::ForwardRefusal;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{Lsn, RaftIndex, Term};
use keelson_storage::io::Disk;
use keelson_storage::state::{
    Command, ENTRY_HEADER_BYTES, MemberChange, command_bytes, encode_entry,
};
use keelson_storage::wal::{RecordKind, RecordMeta};

use super::limits::{
    BATCH_BYTES_MAX, PENDING_BYTES_MAX, SEAL_LEAVES_FOR_BYTES, SEAL_LEAVES_ONE_OF,
};
use super::shard::{Engine, EngineError, Proposed};

/// What a record on its way to the disk stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Persisting {
    Entry(RaftIndex),
    /// The last record of a ready.
    Ready(ReadyNumber),
    /// The record of a snapshot that takes the place of the log, and the one before it.
    Snapshot {
        number: ReadyNumber,
        covered: Lsn,
    },
}

impl<D: Disk> Engine<D> {
    /// Whether the waiting commands become an entry now. While the lane has all its groups in flight
    /// they gather instead, and before that while they are fewer than those in flight: a flush costs
    /// the same for one command as for many, and one that waits for company has others to wait with. And
    /// they wait while a checkpoint lags behind.
    pub(super) fn may_seal(&self) -> bool {
        self.is_in_office()
            && self.queue.len() >= self.in_flight_count()
            && self.wal.has_company()
            && self.wal.in_flight() < self.config.wal_depth
            && self.has_room()
    }

    /// Commands of entries that are proposed and not committed.
    pub(super) fn in_flight_count(&self) -> usize {
        let committed = self.node.committed();
        self.proposed
            .iter()
            .rev()
            .take_while(|proposed| proposed.index > committed)
            .map(|proposed| proposed.commands.len())
            .sum()
    }

    /// Whether the raft group, the lane and memory take another entry.
    fn has_room(&self) -> bool {
        self.node.has_room()
            && self.wal.pending_bytes() <= PENDING_BYTES_MAX
            && !self.is_held_back()
    }

    /// Makes entries of the queue and hands them to the lane.
    pub(super) fn seal(&mut self) -> Result<(), EngineError> {
        self.append_ready()?;
        if !self.is_in_office() {
            self.forward();
            return Ok(());
        }
        // What one round makes of the queue is in flight as a whole: the depth is looked at once.
        let mut sealing = self.may_seal();
        while sealing && let Some(next) = self.queue.front() {
            let mut goes_on = true;
            match next.request.member_change() {
                None => goes_on = self.seal_one()?,
                Some(change) => self.seal_membership(change)?,
            }
            self.append_ready()?;
            sealing = goes_on && self.has_room();
        }
        Ok(())
    }

    /// Everything the lane reports durable advances the log.
    pub(super) fn on_durable(&mut self, through: Lsn) {
        while let Some((lsn, what)) = self.persisting.front().copied() {
            if lsn > through {
                break;
            }
            self.persisting.pop_front();
            match what {
                Persisting::Entry(index) => self.logged.push_back((index, lsn)),
                Persisting::Ready(number) => self.node.on_persisted(number),
                Persisting::Snapshot { number, covered } => {
                    self.on_log_start_durable(number, covered);
                }
            }
        }
    }

    /// Hands new entries and hard states of the raft group to the lane.
    fn append_ready(&mut self) -> Result<(), EngineError> {
        let Some(ready) = self.node.take_ready() else {
            return Ok(());
        };
        if let Some(snapshot) = ready.snapshot {
            let state = ready
                .hard_state
                .expect("a snapshot comes with a hard state");
            return self.begin_install(ready.number, &snapshot, state);
        }
        let mut last = Lsn(0);
        let state = ready.hard_state;
        if let Some(state) = state.filter(|_| !bugs::is_on(Bug::SkipVoteRecord)) {
            let payload = encode_hard_state(state);
            last = self.append(RecordKind::HardState, state.term, RaftIndex(0), &payload)?;
        }
        for entry in ready.entries {
            let kind = record_kind(entry.kind);
            last = self.append(kind, entry.term, entry.index, &entry.payload)?;
            self.persisting
                .push_back((last, Persisting::Entry(entry.index)));
        }
        if bugs::is_on(Bug::AckBeforeFlush) {
            self.node.on_persisted(ready.number);
            return Ok(());
        }
        self.persisting
            .push_back((last, Persisting::Ready(ready.number)));
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        kind: RecordKind,
        term: Term,
        index: RaftIndex,
        payload: &Bytes,
    ) -> Result<Lsn, EngineError> {
        let meta = RecordMeta {
            kind,
            shard: self.config.shard,
            term,
            index,
        };
        Ok(self.wal.append(&meta, &[payload])?)
    }

    /// Makes an entry of a command that changes the membership, if the group takes it; else the state says
    /// what is wrong with it.
    fn seal_membership(&mut self, change: MemberChange) -> Result<(), EngineError> {
        let queued = self
            .queue
            .pop_front()
            .expect("the caller saw the front of the queue");
        self.queued_bytes -= queued.body.len();
        let lease_time = self.lease_clock.now();
        let body = queued.body.clone();
        let command = Command::new(queued.request.kind(), queued.request_id, body);
        let mut payload = BytesMut::new();
        encode_entry(lease_time, &[command], &mut payload);
        let payload = payload.freeze();
        let payload_bytes = payload.len();
        let proposed = self
            .node
            .propose_membership(payload.clone(), to_group(change));
        let index = match proposed {
            Ok(index) => index,
            Err(NodeError::MembershipPending) => {
                self.refuse(queued, ForwardRefusal::TooManyRequests);
                return Ok(());
            }
            Err(NodeError::Membership(_)) => self.node.propose(payload)?,
            Err(error) => return Err(error.into()),
        };
        self.proposed.push_back(Proposed {
            index,
            term: self.node.term(),
            lease_time,
            payload_bytes,
            commands: vec![(queued.origin, queued.request)],
        });
        self.lease_clock.on_written(lease_time);
        Ok(())
    }

    /// Makes an entry of the front of the queue. False if it left the last commands to the next group.
    fn seal_one(&mut self) -> Result<bool, EngineError> {
        let lease_time = self.lease_clock.now();
        let batch = self.next_batch();
        let mut waiting = Vec::with_capacity(batch.count);
        let mut commands = Vec::with_capacity(batch.count);
        for queued in self.queue.drain(..batch.count) {
            self.queued_bytes -= queued.body.len();
            commands.push(Command::new(
                queued.request.kind(),
                queued.request_id,
                queued.body,
            ));
            waiting.push((queued.origin, queued.request));
        }
        let mut payload = BytesMut::with_capacity(batch.payload_bytes);
        encode_entry(lease_time, &commands, &mut payload);
        let payload_bytes = payload.len();
        assert_eq!(
            payload_bytes, batch.payload_bytes,
            "an entry is as long as it was measured"
        );
        let index = self.node.propose(payload.freeze())?;
        self.proposed.push_back(Proposed {
            index,
            term: self.node.term(),
            lease_time,
            payload_bytes,
            commands: waiting,
        });
        self.lease_clock.on_written(lease_time);
        Ok(!batch.is_short)
    }

    /// How much of the queue the next entry takes: what has come, unless its last commands would make the group
    /// begin a block of the disk that they leave nearly empty. They are few then, and have others to wait for.
    fn next_batch(&self) -> Batch {
        let unit_bytes = self.wal.unit_bytes();
        let mut batch = Batch {
            count: 0,
            payload_bytes: ENTRY_HEADER_BYTES,
            is_short: false,
        };
        // The most that fits the blocks before the last one.
        let mut full = batch;
        let mut last_id = 0;
        for queued in &self.queue {
            let bytes = command_bytes(queued.body.len(), queued.request_id, last_id);
            let payload_bytes = batch.payload_bytes + bytes;
            let is_full = payload_bytes > BATCH_BYTES_MAX || batch.count >= ENTRY_COMMANDS_MAX;
            let travels_alone = queued.request.member_change().is_some();
            if (is_full && batch.count > 0) || travels_alone {
                break;
            }
            let group_bytes = self.wal.group_bytes_with(batch.payload_bytes as u64);
            let grown_bytes = self.wal.group_bytes_with(payload_bytes as u64);
            if group_bytes.div_ceil(unit_bytes) < grown_bytes.div_ceil(unit_bytes) {
                full = batch;
            }
            last_id = queued.request_id;
            batch.count += 1;
            batch.payload_bytes = payload_bytes;
        }
        let unused = |batch: Batch| {
            let bytes = self.wal.group_bytes_with(batch.payload_bytes as u64);
            bytes.next_multiple_of(unit_bytes) - bytes
        };
        let left = batch.count - full.count;
        let is_few = full.count > 0 && left * SEAL_LEAVES_ONE_OF <= batch.count;
        if is_few && unused(batch) >= unused(full) + SEAL_LEAVES_FOR_BYTES {
            full.is_short = true;
            return full;
        }
        batch
    }
}

/// A part of the queue that becomes an entry.
#[derive(Clone, Copy, Debug)]
struct Batch {
    count: usize,
    payload_bytes: usize,
    /// More could have gone along.
    is_short: bool,
}

/// A change in the group's words.
pub(super) fn to_group(change: MemberChange) -> MembershipChange {
    match change {
        MemberChange::AddVoter(member) => MembershipChange::AddVoter(member),
        MemberChange::AddLearner(member) => MembershipChange::AddLearner(member),
        MemberChange::Remove(member) => MembershipChange::Remove(member),
    }
}
