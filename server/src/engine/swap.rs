//! Another state takes the place of this member's own: everything that hangs on the state follows.
//!
//! The new state is what this member's log would have led to, only later. So whoever reads, watches or waits goes on with
//! it, and hears nothing twice:
//!
//! - Cores that watch get the changes since what they were told, as far as the new state has them; where a compaction
//!   took some of them, their watchers become late and hear what etcd tells in this case.
//! - Reads that take several turns begin again, and so do slices of history that wait for a value.
//! - Commands whose entries are in the snapshot are never applied here, so nobody can say what became of them: their
//!   clients hear that, as after a failure of the leader.

use keelson_proto::ApiError;
use keelson_storage::ids::Lsn;
use keelson_storage::io::Disk;
use keelson_storage::state::State;

use super::message::Outbound;
use super::shard::{Engine, Origin};

impl<D: Disk> Engine<D> {
    /// Takes over a state. All records of the log up to `covered` are in it.
    pub(super) fn swap_state(&mut self, state: State, covered: Lsn) {
        let old = std::mem::replace(&mut self.state, state);
        let applied = self.state.applied();
        assert!(
            applied.index >= old.applied().index && self.state.revision() >= old.revision(),
            "a state never goes back: from {} to {}",
            old.applied().index,
            applied.index
        );
        self.discard(old);
        self.lease_clock.follow(applied.lease_time, self.now_us);
        self.on_log_replaced(covered);
        self.scrub_pending = self.state.compact_revision() > self.state.scrubbed_revision();
        self.compacting_since_us = None;
        self.auto_compact
            .on_compacted(self.state.compact_revision());
        self.nospace_proposed = false;
        let was_damaged = self.mend_at_us.take().is_some();
        self.facts.snapshots_mended += u64::from(was_damaged);
        self.review_alarms();
        self.answer_unknown_fate();
        self.begin_reads_again();
        self.bridge_watches();
        let me = self.config.member;
        if self.state.cluster().removed.contains(&me) {
            self.on_own_removal();
        }
    }

    fn on_log_replaced(&mut self, covered: Lsn) {
        self.logged.clear();
        self.applied_lsn = self.applied_lsn.max(covered);
        self.wal.trim(self.applied_lsn);
        self.forget_frozen();
    }

    /// Commands that were on their way: their entries may be in the snapshot.
    fn answer_unknown_fate(&mut self) {
        let applying = self.applying.take().into_iter();
        let half_done = applying.flat_map(|applying| applying.into_commands());
        let proposed = std::mem::take(&mut self.proposed).into_iter();
        let proposed = proposed.flat_map(|proposed| proposed.commands);
        let mut waiting: Vec<Origin> = half_done
            .chain(proposed)
            .map(|(origin, _)| origin)
            .collect();
        waiting.extend(self.take_all_forwarded());
        for origin in waiting {
            self.reply(origin, Err(ApiError::TimeoutDueToLeaderFail));
        }
    }

    /// What the cores were told, and what the new state goes on with.
    fn bridge_watches(&mut self) {
        let current = self.state.revision();
        // What they wait for is in the old file, and may be what was damaged there (the simulator's seed 939).
        let waiting = std::mem::take(&mut self.warming_slices).into_iter();
        let asked = waiting.map(|(port, ask, _)| (port, ask));
        self.catch_ups.extend(asked);
        let complete_from = self.state.scrubbed_revision();
        let raft_term = self.node.term().0;
        for port in &mut self.ports {
            if let Some(published) = &mut port.published
                && published.next() < complete_from
            {
                *published = current;
                port.outbox.push_back(Outbound::Leap {
                    revision: current,
                    raft_term,
                });
            }
        }
        self.warming = None;
    }
}
