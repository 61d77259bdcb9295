//! From the queue to the lane: sealing entries, appending records, counting what is durable.

use bytes::{Bytes, BytesMut};
use keelson_consensus::durable::encode_hard_state;
use keelson_storage::ids::{Lsn, RaftIndex, Term};
use keelson_storage::io::Disk;
use keelson_storage::state::{Command, ENTRY_HEADER_BYTES, encode_entry};
use keelson_storage::wal::{RecordKind, RecordMeta};

use super::limits::{BATCH_BYTES_MAX, COMPANY_SHARE, PENDING_BYTES_MAX};
use super::shard::{Engine, EngineError, Proposed};

/// What a record on its way to the disk stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Persisting {
    HardState(Term),
    Entry(RaftIndex),
}

impl<D: Disk> Engine<D> {
    /// Whether the waiting commands become an entry now. While the lane has all its groups in flight
    /// they gather instead, and before that while they are few beside those in flight: a flush costs
    /// the same for one command as for many, and one that waits for company has others to wait with. And
    /// they wait while a checkpoint lags behind.
    pub(super) fn may_seal(&self) -> bool {
        let committed = self.node.committed();
        let in_flight: usize = self
            .proposed
            .iter()
            .rev()
            .take_while(|proposed| proposed.index > committed)
            .map(|proposed| proposed.commands.len())
            .sum();
        self.queue.len() * COMPANY_SHARE >= in_flight
            && self.wal.in_flight() < self.config.wal_depth
            && self.has_room()
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
        // What one round makes of the queue is in flight as a whole: the depth is looked at once.
        let mut sealing = self.may_seal();
        while sealing && !self.queue.is_empty() {
            self.seal_one()?;
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
                Persisting::HardState(term) => self.node.on_hard_state_persisted(term),
                Persisting::Entry(index) => {
                    self.logged.push_back((index, lsn));
                    self.node.on_persisted(index);
                }
            }
        }
    }

    /// Hands new entries and hard states of the raft group to the lane.
    fn append_ready(&mut self) -> Result<(), EngineError> {
        let ready = self.node.take_ready();
        if let Some(state) = ready.hard_state {
            let payload = encode_hard_state(state);
            let lsn = self.append(RecordKind::HardState, state.term, RaftIndex(0), &payload)?;
            self.persisting
                .push_back((lsn, Persisting::HardState(state.term)));
        }
        for entry in ready.entries {
            let lsn = self.append(RecordKind::Entry, entry.term, entry.index, &entry.payload)?;
            self.persisting
                .push_back((lsn, Persisting::Entry(entry.index)));
        }
        Ok(())
    }

    fn append(
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
            if full && !commands.is_empty() {
                break;
            }
            let queued = self
                .queue
                .pop_front()
                .expect("the front of the queue was just seen");
            body_bytes += queued.body.len();
            payload_bytes += command_bytes;
            commands.push(Command::new(queued.request.kind(), 0, queued.body));
            waiting.push((queued.origin, queued.request));
        }
        self.queued_bytes -= body_bytes;
        let mut payload = BytesMut::with_capacity(payload_bytes);
        encode_entry(lease_time, &commands, &mut payload);
        let index = self.node.propose(payload.freeze())?;
        self.proposed.push_back(Proposed {
            index,
            lease_time,
            payload_bytes,
            commands: waiting,
        });
        self.lease_clock.on_written(lease_time);
        Ok(())
    }
}
