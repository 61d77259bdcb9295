//! The shard's lease clock, and what the leader proposes when it strikes.
//!
//! Time in the state machine comes from the log: every entry carries the leader's lease clock. The clock
//! continues from the last entry after a restart, so the time in which nobody served does not count
//! against a lease, and a wall clock that jumps cannot expire one.

use std::collections::BTreeSet;

use keelson_proto::etcdserverpb::LeaseRevokeRequest;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{LeaseId, LeaseTime};
use keelson_storage::io::Disk;
use keelson_storage::state::Request;

use super::limits::{
    LEASE_CHECK_INTERVAL_US, LEASE_EXPIRIES_PER_CHECK_MAX, LEASE_TICK_INTERVAL_US,
};
use super::shard::Engine;

/// The running lease clock of a leader.
#[derive(Debug)]
pub(super) struct LeaseClock {
    base: LeaseTime,
    base_us: u64,
    now: LeaseTime,
    /// Lease time of the newest sealed entry.
    written: LeaseTime,
    next_check_us: u64,
    /// Expiries proposed and not yet applied.
    expiring: BTreeSet<i64>,
}

impl LeaseClock {
    /// Continues from the last applied lease time at the given monotonic time.
    pub(super) fn resume(applied: LeaseTime, now_us: u64) -> Self {
        Self {
            base: applied,
            base_us: now_us,
            now: applied,
            written: applied,
            next_check_us: now_us,
            expiring: BTreeSet::new(),
        }
    }

    pub(super) fn advance(&mut self, now_us: u64) {
        let elapsed_ms = now_us.saturating_sub(self.base_us) / 1000;
        self.now = self.now.max(LeaseTime(self.base.0 + elapsed_ms));
    }

    pub(super) fn now(&self) -> LeaseTime {
        self.now
    }

    /// An entry of the leader's was applied: its clock counts.
    pub(super) fn follow(&mut self, entry: LeaseTime, now_us: u64) {
        if entry != self.base {
            (self.base, self.base_us, self.now) = (entry, now_us, entry);
        }
    }

    pub(super) fn on_written(&mut self, at: LeaseTime) {
        self.written = self.written.max(at);
    }

    pub(super) fn on_expired(&mut self, lease: i64) {
        self.expiring.remove(&lease);
    }
}

impl<D: Disk> Engine<D> {
    /// What is due at this time: lease expiry, the lease clock's own entry, automatic compaction.
    pub(super) fn upkeep(&mut self) {
        if !self.is_in_office() || self.stopping {
            return;
        }
        self.compact_automatically();
        self.log_keep_alives();
        if self.now_us < self.lease_clock.next_check_us {
            return;
        }
        self.lease_clock.next_check_us = self.now_us + LEASE_CHECK_INTERVAL_US;
        if self.state.lease_next_deadline().is_some() {
            self.expire_leases();
            self.write_lease_clock();
        }
    }

    pub(super) fn upkeep_deadline_us(&self) -> Option<u64> {
        if !self.is_in_office() {
            return None;
        }
        let leases = self
            .state
            .lease_next_deadline()
            .map(|_| self.lease_clock.next_check_us);
        let keep_alives = self.keep_alives.deadline_us();
        let compaction = self.auto_compact.deadline_us();
        [leases, keep_alives, compaction]
            .into_iter()
            .flatten()
            .min()
    }

    fn expire_leases(&mut self) {
        let mut now = self.lease_clock.now();
        if bugs::is_on(Bug::EarlyLeaseExpiry) {
            now.0 += 2_000;
        }
        let wanted = LEASE_EXPIRIES_PER_CHECK_MAX + self.lease_clock.expiring.len();
        let due: Vec<LeaseId> = self.state.lease_expired(now, wanted);
        let mut proposed = 0;
        for lease in due {
            if proposed == LEASE_EXPIRIES_PER_CHECK_MAX {
                break;
            }
            if self.lease_clock.expiring.insert(lease.0) {
                proposed += 1;
                self.queue_own(Request::LeaseExpire(LeaseRevokeRequest { id: lease.0 }));
            }
        }
    }

    /// While leases live, their clock reaches the log now and then even if nothing else does, so that a
    /// restart does not give them the idle time back.
    fn write_lease_clock(&mut self) {
        let silent_ms = self.lease_clock.now().0 - self.lease_clock.written.0;
        if silent_ms * 1000 >= LEASE_TICK_INTERVAL_US {
            self.queue_own(Request::Tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_l_3_the_clock_continues_from_the_log_and_never_goes_back() {
        let mut clock = LeaseClock::resume(LeaseTime(5_000), 1_000_000);
        assert_eq!(clock.now(), LeaseTime(5_000));
        clock.advance(3_500_000);
        assert_eq!(clock.now(), LeaseTime(7_500));
        clock.advance(2_000_000);
        assert_eq!(clock.now(), LeaseTime(7_500));
        clock.advance(500_000);
        assert_eq!(clock.now(), LeaseTime(7_500));
    }
}
