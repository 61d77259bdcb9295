//! Deliberate bugs, by which the simulator proves that its judges bite.
//!
//! Each is a place in the code of this workspace that asks [`is_on`]. Without the feature `bugs` the answer is a constant
//! no, so neither the question nor the bug is compiled; the feature is set by `cargo run -p sim --features bugs` alone.
//! With it a thread may have one of them selected.

#[cfg(feature = "bugs")]
use std::cell::Cell;

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What was handed to the disk counts as durable.
    AckBeforeFlush,
    /// A member says that it has entries, or asks for votes, before that is durable.
    SpeakBeforePersist,
    /// Terms and votes are not written.
    SkipVoteRecord,
    /// A linearizable read is answered from the state as it is.
    StaleRead,
    /// A forwarded command is proposed twice.
    ForwardTwice,
    /// Entries that a start replays are now and then applied twice.
    ApplyTwiceAfterRestart,
    /// Commands are proposed while the leadership is handed over.
    ProposeWhileHandingOver,
    /// Progress is told to a stream whose watches are behind.
    ProgressAheadOfEvents,
    /// A watch of the past misses the delete at the compact revision.
    DropTombstoneAtCompactRevision,
    /// A slice of history that waited for the disk is as of when it was made.
    StaleSlice,
    /// A watch of the past begins one revision late.
    ResumeOneLate,
    /// Leases end two seconds before their time.
    EarlyLeaseExpiry,
    /// A keep-alive is answered though the log does not cover it.
    UncoveredKeepAlive,
    /// Lease time starts anew with every leader.
    LeaseTimeRestarts,
    /// A checkpoint leaves a lease out.
    LoseLeaseAtCheckpoint,
    /// A member forgets at its start who was removed.
    ForgetMembershipChange,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::AckBeforeFlush,
        Self::SpeakBeforePersist,
        Self::SkipVoteRecord,
        Self::StaleRead,
        Self::ForwardTwice,
        Self::ApplyTwiceAfterRestart,
        Self::ProposeWhileHandingOver,
        Self::ProgressAheadOfEvents,
        Self::DropTombstoneAtCompactRevision,
        Self::StaleSlice,
        Self::ResumeOneLate,
        Self::EarlyLeaseExpiry,
        Self::UncoveredKeepAlive,
        Self::LeaseTimeRestarts,
        Self::LoseLeaseAtCheckpoint,
        Self::ForgetMembershipChange,
    ];
}

#[cfg(feature = "bugs")]
thread_local! {
    static SELECTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Selects a bug for this thread, or none.
#[cfg(feature = "bugs")]
pub fn select(bug: Option<Bug>) {
    SELECTED.set(bug);
}

/// Whether a bug is selected.
#[cfg(feature = "bugs")]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    SELECTED.get() == Some(bug)
}

/// No bug is.
#[cfg(not(feature = "bugs"))]
#[inline(always)]
#[must_use]
pub const fn is_on(_bug: Bug) -> bool {
    false
}
