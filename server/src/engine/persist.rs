//! From the queue to the lane: sealing entries, appending records, counting what is durable.

use bytes::{Bytes, BytesMut};
use keelson_consensus::durable::{ReadyNumber, encode_hard_state, record_kind};
use keelson_consensus::node::{MembershipChange, NodeError};
use keelson_consensus::replicate::ForwardRefusal;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{Lsn, RaftIndex, Term};
use keelson_storage::io::Disk;
use keelson_storage::state::{Command, ENTRY_HEADER_BYTES, MemberChange, encode_entry};
use keelson_storage::wal::{RecordKind, RecordMeta};

use super::limits::{BATCH_BYTES_MAX, PENDING_BYTES_MAX};
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
            match next.request.member_change() {
                None => self.seal_one()?,
                Some(change) => self.seal_membership(change)?,
            }
            self.append_ready()?;
            sealing = self.has_room();
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

    fn seal_one(&mut self) -> Result<(), EngineError> {
        let lease_time = self.lease_clock.now();
        let mut waiting = Vec::with_capacity(self.queue.len().min(1024));
        let mut commands = Vec::with_capacity(self.queue.len().min(1024));
        let mut body_bytes = 0;
        let mut payload_bytes = ENTRY_HEADER_BYTES;
        while let Some(queued) = self.queue.front() {
            let command_bytes = Command::HEADER_BYTES + queued.body.len();
            let full = payload_bytes + command_bytes > BATCH_BYTES_MAX
                || commands.len() >= keelson_consensus::limits::ENTRY_COMMANDS_MAX;
            let travels_alone = queued.request.member_change().is_some();
            if (full && !commands.is_empty()) || travels_alone {
                break;
            }
            let queued = self
                .queue
                .pop_front()
                .expect("the front of the queue was just seen");
            body_bytes += queued.body.len();
            payload_bytes += command_bytes;
            commands.push(Command::new(
                queued.request.kind(),
                queued.request_id,
                queued.body,
            ));
            waiting.push((queued.origin, queued.request));
        }
        self.queued_bytes -= body_bytes;
        let mut payload = BytesMut::with_capacity(payload_bytes);
        encode_entry(lease_time, &commands, &mut payload);
        let index = self.node.propose(payload.freeze())?;
        self.proposed.push_back(Proposed {
            index,
            term: self.node.term(),
            lease_time,
            payload_bytes,
            commands: waiting,
        });
        self.lease_clock.on_written(lease_time);
        Ok(())
    }
}

/// A change in the group's words.
pub(super) fn to_group(change: MemberChange) -> MembershipChange {
    match change {
        MemberChange::AddVoter(member) => MembershipChange::AddVoter(member),
        MemberChange::AddLearner(member) => MembershipChange::AddLearner(member),
        MemberChange::Remove(member) => MembershipChange::Remove(member),
    }
}
