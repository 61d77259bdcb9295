//! What a lane tells about itself.

use std::os::fd::RawFd;

use super::Wal;
use crate::ids::Lsn;
use crate::io::{Disk, DiskError};
use crate::wal::{WalCounters, format};

impl<D: Disk> Wal<D> {
    /// When `pump` wants to be called even if nothing completes and nothing is appended.
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        let gather = self
            .open
            .opened_at_us
            .filter(|_| !self.in_flight.is_empty());
        let gather = gather.map(|at| at.saturating_add(self.config.group_delay_us));
        let gather = gather
            .filter(|_| self.in_flight.len() < self.config.depth && !self.waiting_for_segment);
        let attest = self.wants_attest() && self.is_idle() && !self.waiting_for_segment;
        let attest = attest.then(|| {
            self.quiet_since_us
                .saturating_add(self.config.attest_delay_us)
        });
        [gather, attest, self.preparer.next_deadline_us()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Groups handed to the disk and not yet completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// True when nothing appended waits for the disk.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.closed.is_empty() && self.open.record_count == 0
    }

    /// Whether everything stands still because the disk has no room for the next segment, and the present one is full. It
    /// is tried again once a second; nothing that was appended is lost, and nothing of it is durable meanwhile.
    #[must_use]
    pub fn is_out_of_room(&self) -> bool {
        let waits = self.waiting_for_segment && !self.closed.is_empty();
        let is_full = matches!(self.preparer.failure(), Some(DiskError::NoSpace { .. }));
        waits && self.prepared.is_empty() && self.in_flight.is_empty() && is_full
    }

    /// Bytes appended and not yet durable.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// The last record of the durable prefix, 0 before the first.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The number the next record will get.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next_append
    }

    /// The oldest record a restart would replay, were the lane trimmed no further.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.replay_start().lsn
    }

    /// Largest payload `append` takes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u64 {
        self.config.payload_bytes_max()
    }

    /// What groups of the segment being written are filled up to.
    #[must_use]
    pub fn unit_bytes(&self) -> u64 {
        self.active.segment.header.unit_bytes
    }

    /// Bytes of the group that gathers now, with a further record of that payload and without what fills it up.
    #[must_use]
    pub fn group_bytes_with(&self, payload_bytes: u64) -> u64 {
        self.open.buf.len() as u64 + format::record_bytes(payload_bytes)
    }

    /// An eventfd that counts up whenever something completes; `None` for a simulated disk.
    #[must_use]
    pub fn event_fd(&self) -> Option<RawFd> {
        self.disk.event_fd()
    }

    /// What the lane has done.
    #[must_use]
    pub fn counters(&self) -> &WalCounters {
        &self.counters
    }

    /// Moves the write latencies of the groups completed since the last call, in microseconds, to `out`.
    pub fn take_latencies_us(&mut self, out: &mut Vec<u32>) {
        out.append(&mut self.latencies_us);
    }

    /// Why the next segment could not be prepared, while that is so: the disk is filling up.
    #[must_use]
    pub fn prepare_failure(&self) -> Option<&DiskError> {
        self.preparer.failure()
    }

    /// The disk, for tests and simulation.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back; what is in flight stays in flight.
    #[must_use]
    pub fn into_disk(self) -> D {
        self.disk
    }
}
