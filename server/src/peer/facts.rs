//! Figures of the links, for metrics and the log.

use std::cell::Cell;

use keelson_storage::ids::MemberId;

/// What is known of the links with a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// Which.
    pub member: MemberId,
    /// Since when the link to it is open, on the scale of [`monotonic_ms`](crate::runtime::monotonic_ms).
    pub connected_since_ms: Option<u64>,
    /// Since when its link to this member is open.
    pub heard_since_ms: Option<u64>,
    /// Links to it that were opened.
    pub connect_count: u64,
    /// Written to it.
    pub sent_frame_count: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Read from it.
    pub received_frame_count: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Items that were not sent: there was no link, or too much waited.
    pub dropped_item_count: u64,
    /// Frames from it that were not sound, each the end of a connection.
    pub bad_frame_count: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
    /// The kernel's smoothed time for a packet to it and back.
    pub round_trip_us: Option<u32>,
}

/// A count of one core.
#[derive(Default)]
pub(super) struct Count(Cell<u64>);

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.0.set(self.0.get() + count);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }
}
