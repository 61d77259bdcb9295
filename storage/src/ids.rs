//! Newtypes for every number that has a meaning, so that two of them can never be swapped.
//!
//! All of them are fixed-width and are written to disk and wire little-endian at exactly this width.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The value after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// Main revision of the keyspace. An empty store is at 1; every request that changes keys adds 1.
    Revision(i64)
);
id!(
    /// Lease identifier. 0 means "no lease".
    LeaseId(i64)
);
id!(
    /// Raft log index of an entry, from 1.
    RaftIndex(u64)
);
id!(
    /// Raft term, from 1.
    Term(u64)
);
id!(
    /// A cluster member.
    MemberId(u64)
);
id!(
    /// A cluster; every member of it reports the same value.
    ClusterId(u64)
);
id!(
    /// A keyspace with its own raft group and revision sequence.
    ShardId(u16)
);
id!(
    /// A WAL stream; one per engine core.
    LaneId(u16)
);
id!(
    /// A CPU core that runs one executor.
    CoreId(u16)
);
id!(
    /// Position of a record in a lane: its ordinal since the lane was created, from 1.
    Lsn(u64)
);
id!(
    /// The shard's lease clock in milliseconds. It runs only while a leader writes entries, never
    /// backwards, and never counts the time in which no member served.
    LeaseTime(u64)
);
id!(
    /// A WAL segment's place in its lane, from 1. A recycled file gets a new one.
    SegmentSeq(u64)
);
id!(
    /// A WAL group's place in its lane, from 1, counted across segments.
    GroupSeq(u64)
);
id!(
    /// A snapshot file's place among those of its shard, from 1.
    SnapshotSeq(u64)
);
