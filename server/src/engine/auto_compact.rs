//! Automatic compaction as etcd does it: by age of revisions, or by their number.
//!
//! Periodic: the revision is sampled every tenth of the retention (of an hour if that is shorter);
//! every retention (every hour if that is shorter) the sample that has become as old as the retention
//! is compacted. Revision: every five minutes all
//! but the last N revisions are compacted.

use std::collections::VecDeque;

use keelson_proto::etcdserverpb::CompactionRequest;
use keelson_storage::ids::Revision;
use keelson_storage::io::Disk;
use keelson_storage::state::Request;

use super::shard::Engine;
use crate::config::AutoCompaction;

/// How often the revision mode compacts.
const REVISION_INTERVAL_US: u64 = 5 * 60 * 1_000_000;

/// Samples per retention (or per hour).
const SAMPLES_PER_PERIOD: u64 = 10;

/// The longest time between two periodic compactions.
const PERIOD_MAX_US: u64 = 3600 * 1_000_000;

/// Decides when to compact and what.
#[derive(Debug)]
pub(super) struct AutoCompact {
    mode: AutoCompaction,
    next_us: u64,
    /// Oldest first: when sampled, and the revision then.
    samples: VecDeque<(u64, Revision)>,
    compacted: Revision,
    compacted_at_us: u64,
}

impl AutoCompact {
    pub(super) fn new(mode: AutoCompaction, now_us: u64) -> Self {
        let mut auto = Self {
            mode,
            next_us: now_us,
            samples: VecDeque::new(),
            compacted: Revision(0),
            compacted_at_us: now_us,
        };
        auto.next_us = now_us + auto.interval_us();
        auto
    }

    pub(super) fn on_compacted(&mut self, through: Revision) {
        self.compacted = self.compacted.max(through);
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        (self.mode != AutoCompaction::Off).then_some(self.next_us)
    }

    /// The revision to compact at, if one is due now.
    pub(super) fn due(&mut self, now_us: u64, current: Revision) -> Option<Revision> {
        if self.mode == AutoCompaction::Off || now_us < self.next_us {
            return None;
        }
        self.next_us = now_us + self.interval_us();
        let target = match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Revision { retention: keep } => Some(Revision(current.0 - keep)),
            AutoCompaction::Periodic { retention } => {
                self.samples.push_back((now_us, current));
                self.expired_sample(now_us, retention.as_micros() as u64)
            }
        };
        let target = target.filter(|target| target.0 > 0 && *target > self.compacted)?;
        self.compacted_at_us = now_us;
        Some(target)
    }

    fn expired_sample(&mut self, now_us: u64, retention_us: u64) -> Option<Revision> {
        if now_us - self.compacted_at_us < retention_us.min(PERIOD_MAX_US) {
            return None;
        }
        let mut newest = None;
        while let Some((at, revision)) = self.samples.front().copied() {
            if now_us - at < retention_us {
                break;
            }
            self.samples.pop_front();
            newest = Some(revision);
        }
        newest
    }

    fn interval_us(&self) -> u64 {
        match self.mode {
            AutoCompaction::Periodic { retention } => {
                (retention.as_micros() as u64).clamp(1, PERIOD_MAX_US) / SAMPLES_PER_PERIOD
            }
            _ => REVISION_INTERVAL_US,
        }
        .max(1)
    }
}

impl<D: Disk> Engine<D> {
    pub(super) fn compact_automatically(&mut self) {
        let current = self.state.revision();
        if let Some(revision) = self.auto_compact.due(self.now_us, current) {
            tracing::info!(revision = revision.0, "automatic compaction");
            self.queue_own(Request::Compact(CompactionRequest {
                revision: revision.0,
                physical: false,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn periodic_keeps_the_revisions_of_the_retention() {
        let mode = AutoCompaction::Periodic {
            retention: Duration::from_secs(100),
        };
        let mut auto = AutoCompact::new(mode, 0);
        let mut compacted = Vec::new();
        for second in 1..=250 {
            if let Some(revision) = auto.due(second * SECOND, Revision(second as i64)) {
                auto.on_compacted(revision);
                compacted.push((second, revision.0));
            }
        }
        assert_eq!(compacted, [(110, 10), (210, 110)]);
    }

    #[test]
    fn revision_mode_keeps_the_last_n() {
        let mut auto = AutoCompact::new(AutoCompaction::Revision { retention: 10 }, 0);
        assert_eq!(auto.due(60 * SECOND, Revision(500)), None);
        assert_eq!(auto.due(300 * SECOND, Revision(500)), Some(Revision(490)));
        auto.on_compacted(Revision(490));
        assert_eq!(auto.due(600 * SECOND, Revision(500)), None);
        assert_eq!(auto.due(900 * SECOND, Revision(5)), None);
    }

    #[test]
    fn off_never_compacts() {
        let mut auto = AutoCompact::new(AutoCompaction::Off, 0);
        assert_eq!(auto.due(u64::MAX / 2, Revision(1000)), None);
        assert_eq!(auto.deadline_us(), None);
    }
}
