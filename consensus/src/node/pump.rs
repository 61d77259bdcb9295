//! Between our words and raft's readies: what raft has ready is taken over at once, so that its own log is
//! ours, and what the disk and the engine report is handed down.

use keelson_storage::ids::{MemberId, RaftIndex};
use raft::eraftpb::Snapshot;

use super::convert;
use super::group::Node;
use super::log::SnapshotMark;
use super::ready::{ReadId, ReadState};
use crate::durable::ReadyNumber;

/// A read's name: member, seed, number.
pub(super) const READ_CONTEXT_BYTES: usize = 24;

impl Node {
    /// Whether messages leave before the disk is done: the bug that the cluster tests must find.
    #[cfg(test)]
    pub(super) fn break_gate(&mut self, is_broken: bool) {
        self.gate.is_broken = is_broken;
    }

    /// Takes everything over that raft has ready.
    pub(super) fn pump(&mut self) {
        loop {
            self.settle();
            if !self.raw.has_ready() {
                return;
            }
            self.take_raft_ready();
        }
    }

    /// Tells raft what is durable and what is applied.
    fn settle(&mut self) {
        let settled = if self.gate.is_settled() {
            self.seen
        } else {
            self.gate.durable().0
        };
        if settled > self.settled {
            self.settled = settled;
            self.raw.on_persist_ready(settled);
        }
        let log = &self.raw.raft.raft_log;
        // Raft does not let us apply what is not durable here; it need not know.
        let applied = self.applied.0.min(log.committed).min(log.persisted);
        if applied > log.applied {
            self.raw.advance_apply_to(applied);
        }
    }

    fn take_raft_ready(&mut self) {
        let mut ready = self.raw.ready();
        self.seen = ready.number();
        if ready.must_sync() {
            let state = self.hard_state();
            let voted = (state.term, state.vote);
            self.gate
                .on_ready(ReadyNumber(ready.number()), state.term, voted != self.voted);
            self.voted = voted;
        }
        if !ready.snapshot().is_empty() {
            self.take_raft_snapshot(ready.number(), ready.snapshot());
        }
        let entries: Vec<_> = ready
            .take_entries()
            .into_iter()
            .map(convert::entry_from_raft)
            .collect();
        if let Some(first) = entries.first().map(|entry| entry.index) {
            self.raw.mut_store().append(entries.iter().cloned());
            let unsent = &mut self.unsent.entries;
            while unsent.last().is_some_and(|last| last.index >= first) {
                unsent.pop();
            }
            unsent.extend(entries);
        }
        for state in ready.take_read_states() {
            if let Some(id) = self.id_of_read(&state.request_ctx) {
                let index = RaftIndex(state.index);
                self.read_states.push_back(ReadState { id, index });
            }
        }
        let now = ready.take_messages();
        let later = ready.take_persisted_messages();
        for message in now.into_iter().chain(later) {
            let to = MemberId(message.to);
            let message = convert::message_from_raft(message);
            self.gate.on_message((to, message));
        }
        self.raw.advance_append_async(ready);
    }

    fn take_raft_snapshot(&mut self, number: u64, snapshot: &Snapshot) {
        let at = convert::snapshot_mark(snapshot);
        let membership = convert::membership_from_raft(snapshot.get_metadata().get_conf_state());
        self.raw.mut_store().restart(at);
        let mark = SnapshotMark { at, membership };
        self.unsent.snapshot = Some((ReadyNumber(number), mark));
        self.unsent.entries.clear();
        self.handed = at.index;
        self.applied = at.index;
    }

    pub(super) fn read_context(&self, id: ReadId) -> [u8; READ_CONTEXT_BYTES] {
        let mut context = [0; READ_CONTEXT_BYTES];
        context[..8].copy_from_slice(&self.config.member.0.to_le_bytes());
        context[8..16].copy_from_slice(&self.config.seed.to_le_bytes());
        context[16..].copy_from_slice(&id.0.to_le_bytes());
        context
    }

    /// Which read of this member, since its start, a context names.
    fn id_of_read(&self, context: &[u8]) -> Option<ReadId> {
        let id = context.get(16..)?.try_into().ok()?;
        let id = ReadId(u64::from_le_bytes(id));
        (self.read_context(id) == *context).then_some(id)
    }
}
