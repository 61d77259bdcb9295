//! The part of the log that is in memory: what is not applied, and some of what is, for members that lag.
//!
//! The group appends what it is about to write and what it received; the engine says what it applied, and
//! what lies far enough behind that goes. Raft reads it through its `Storage` trait. Payloads are never
//! copied.
//!
//! Invariants:
//! 1. Indexes are contiguous from `start.index + 1`; terms never decrease along the log.
//! 2. Nothing behind the applied index given to [`Log::compact`] goes.

use std::cell::Cell;
use std::collections::VecDeque;

use keelson_storage::ids::{MemberId, RaftIndex, Term};
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::convert;
use super::entry::{Entry, HardState, Mark};
use super::membership::Membership;
use crate::limits::{APPEND_BYTES_MAX, APPEND_ENTRIES_MAX, LOG_HELD_BYTES_MAX};

/// What an entry takes in a message beside its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

/// Raft asks again for a snapshot as soon as it hears of the member that needs it, which is with every heartbeat.
const OFFERED_TICKS: usize = 50;

const _: () = assert!(APPEND_BYTES_MAX / ENTRY_OVERHEAD_BYTES <= APPEND_ENTRIES_MAX as u64);

/// The log in memory.
#[derive(Debug)]
pub(super) struct Log {
    /// What the first entry follows.
    start: Mark,
    slots: VecDeque<Slot>,
    /// Payload bytes before the first slot, since the log was made.
    start_bytes: u64,
    /// The newest snapshot file.
    snapshot: Option<SnapshotMark>,
    /// A member needs a newer one.
    wants_snapshot: Cell<bool>,
    /// Ticks for which the newest one is kept useful, because a member needed it and raft has not asked for it since.
    offered_ticks: Cell<usize>,
    /// Read once, when raft starts.
    initial: (HardState, Membership),
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// Payload bytes up to and with this entry, since the log was made.
    end_bytes: u64,
}

/// A snapshot file that other members may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last entry in it.
    pub at: Mark,
    /// Who belonged to the group as of that entry.
    pub membership: Membership,
}

/// How much stays behind the applied entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKeep {
    /// Entries.
    pub entries: usize,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Log {
    pub(super) fn new(
        start: Mark,
        entries: Vec<Entry>,
        snapshot: Option<SnapshotMark>,
        initial: (HardState, Membership),
    ) -> Self {
        let mut log = Self {
            start,
            slots: VecDeque::with_capacity(entries.len()),
            start_bytes: 0,
            snapshot,
            wants_snapshot: Cell::new(false),
            offered_ticks: Cell::new(0),
            initial,
        };
        log.append(entries.into_iter());
        log
    }

    /// The last entry, or what would be before the first.
    pub(super) fn last(&self) -> Mark {
        self.slots
            .back()
            .map_or(self.start, |slot| slot.entry.mark())
    }

    /// What the first entry follows.
    pub(super) fn start(&self) -> Mark {
        self.start
    }

    pub(super) fn get(&self, index: RaftIndex) -> Option<&Entry> {
        self.slot(index).map(|slot| &slot.entry)
    }

    /// The term of an entry, or of the one before the first.
    pub(super) fn term_at(&self, index: RaftIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// Payload bytes of the entries behind `index`.
    pub(super) fn bytes_behind(&self, index: RaftIndex) -> u64 {
        self.end_bytes(self.last().index) - self.end_bytes(index)
    }

    /// Whether what is behind `index` is less than half of what is kept for everybody.
    pub(super) fn is_near(&self, index: RaftIndex, keep: LogKeep) -> bool {
        let entries = self.last().index.0.saturating_sub(index.0);
        entries <= keep.entries as u64 / 2 && self.bytes_behind(index) <= keep.bytes / 2
    }

    /// Appends entries; from the first one's place on, what was there before goes.
    pub(super) fn append(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            assert!(
                entry.index > self.start.index,
                "invariant 1: entry {} is behind the first, {}",
                entry.index,
                self.start.index.next()
            );
            while self.last().index >= entry.index {
                self.slots.pop_back();
            }
            let last = self.last();
            assert!(
                entry.index == last.index.next(),
                "invariant 1: entry {} follows {}",
                entry.index,
                last.index
            );
            assert!(
                entry.term >= last.term,
                "invariant 1: term {} follows {}",
                entry.term,
                last.term
            );
            let end_bytes = self.end_bytes(last.index) + entry.payload.len() as u64;
            self.slots.push_back(Slot { entry, end_bytes });
        }
    }

    /// Forgets everything: a snapshot stands for the log up to `at`.
    pub(super) fn restart(&mut self, at: Mark) {
        self.slots.clear();
        self.start = at;
    }

    /// Forgets what is at or before `applied`, but for what is to be kept. What is behind `needed`, some member
    /// has not got yet: it stays unless it is more than `LOG_HELD_BYTES_MAX`.
    pub(super) fn compact(&mut self, applied: RaftIndex, keep: LogKeep, needed: Option<RaftIndex>) {
        let applied_bytes = self.end_bytes(applied);
        while let Some(front) = self.slots.front() {
            let index = front.entry.index;
            if index > applied {
                break;
            }
            let behind = applied.0 - index.0 + 1;
            let bytes = applied_bytes - self.start_bytes;
            let is_needed = needed.is_some_and(|needed| index > needed);
            let fits = behind <= keep.entries as u64 && bytes <= keep.bytes;
            if fits || (is_needed && bytes <= LOG_HELD_BYTES_MAX) {
                break;
            }
            let slot = self
                .slots
                .pop_front()
                .expect("the front of the log was just seen");
            self.start = slot.entry.mark();
            self.start_bytes = slot.end_bytes;
        }
    }

    pub(super) fn on_snapshot_file(&mut self, snapshot: SnapshotMark) {
        let is_newer = self
            .snapshot
            .as_ref()
            .is_none_or(|known| known.at.index <= snapshot.at.index);
        if is_newer {
            self.snapshot = Some(snapshot);
        }
        // If it is still not enough, raft asks again.
        if self.wants_snapshot.replace(false) {
            self.offered_ticks.set(OFFERED_TICKS);
        }
    }

    pub(super) fn on_tick(&mut self) {
        let left = self.offered_ticks.get_mut();
        *left = left.saturating_sub(1);
    }

    /// Whether a snapshot is made for a member, or was and is about to be asked for. The log goes on behind it.
    pub(super) fn awaits_snapshot(&self) -> bool {
        self.wants_snapshot.get() || self.offered_ticks.get() > 0
    }

    pub(super) fn wants_snapshot_file(&self) -> bool {
        self.wants_snapshot.get()
    }

    /// The newest file, if the log goes on behind it and it reaches `index`.
    fn snapshot_to_send(&self, index: RaftIndex) -> Option<&SnapshotMark> {
        self.snapshot
            .as_ref()
            .filter(|file| file.at.index >= self.start.index && file.at.index >= index)
    }

    fn slot(&self, index: RaftIndex) -> Option<&Slot> {
        let offset = index.0.checked_sub(self.start.index.0 + 1)?;
        self.slots.get(usize::try_from(offset).ok()?)
    }

    fn end_bytes(&self, index: RaftIndex) -> u64 {
        match self.slot(index) {
            Some(slot) => slot.end_bytes,
            None if index <= self.start.index => self.start_bytes,
            None => self.slots.back().map_or(self.start_bytes, |s| s.end_bytes),
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let (hard_state, membership) = &self.initial;
        Ok(RaftState {
            hard_state: convert::hard_state_to_raft(*hard_state),
            conf_state: convert::membership_to_raft(membership),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.start.index.0 {
            return Err(StorageError::Compacted.into());
        }
        let bytes_max = bytes_max.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for index in low..high {
            let Some(entry) = self.get(RaftIndex(index)) else {
                return Err(StorageError::Unavailable.into());
            };
            bytes += entry.payload.len() as u64 + ENTRY_OVERHEAD_BYTES;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(convert::entry_to_raft(entry));
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let known = self.term_at(RaftIndex(index));
        let missing = if index < self.start.index.0 {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        };
        Ok(known.ok_or(missing)?.0)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index.next().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index.0)
    }

    fn snapshot(&self, index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        // Raft takes no snapshot in which the member is unknown that it came to.
        let knows = |file: &&SnapshotMark| file.membership.contains(MemberId(to));
        match self.snapshot_to_send(RaftIndex(index)).filter(knows) {
            Some(file) => {
                self.offered_ticks.set(0);
                Ok(convert::snapshot_to_raft(file.at, &file.membership))
            }
            None => {
                self.wants_snapshot.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
