//! How a node behaves, and what it knows when it starts.

use keelson_storage::ids::{MemberId, RaftIndex};
use raft::{Config, NO_LIMIT, ReadOnlyOption};

use super::entry::{Entry, HardState, Mark};
use super::log::{LogKeep, SnapshotMark};
use super::membership::Membership;
use crate::limits::{
    APPEND_BYTES_MAX, APPENDS_IN_FLIGHT_MAX, LOG_BEHIND_BYTES_MAX, LOG_BEHIND_ENTRIES_MAX,
};

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who this is.
    pub member: MemberId,
    /// Everything random comes from it. It must differ between members and between starts: reads that this
    /// member asked for before a restart are told from those of today by it.
    pub seed: u64,
    /// Ticks without a word from a leader before a follower may stand for election; it waits up to twice
    /// as long.
    pub election_ticks: usize,
    /// Ticks between the heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Payload bytes of one message with entries, beyond its first entry.
    pub append_bytes_max: u64,
    /// Such messages on their way to one member.
    pub appends_in_flight_max: usize,
    /// What stays in memory behind the applied entry.
    pub keep: LogKeep,
}

impl NodeConfig {
    /// The usual bounds; etcd's relation of ticks.
    #[must_use]
    pub fn new(member: MemberId, seed: u64) -> Self {
        Self {
            member,
            seed,
            election_ticks: 10,
            heartbeat_ticks: 1,
            append_bytes_max: APPEND_BYTES_MAX,
            appends_in_flight_max: APPENDS_IN_FLIGHT_MAX,
            keep: LogKeep {
                entries: LOG_BEHIND_ENTRIES_MAX,
                bytes: LOG_BEHIND_BYTES_MAX,
            },
        }
    }

    pub(super) fn to_raft(&self, applied: RaftIndex) -> Config {
        Config {
            id: self.member.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied: applied.0,
            max_size_per_msg: self.append_bytes_max,
            max_inflight_msgs: self.appends_in_flight_max,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // We bound both ourselves.
            max_uncommitted_size: NO_LIMIT,
            max_committed_size_per_ready: NO_LIMIT,
            ..Config::default()
        }
    }
}

/// What a member knows when it starts. The default is that of a new member of a group it has not heard of.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The newest one on disk. Its commit index may be beyond the log or behind `applied`.
    pub hard_state: HardState,
    /// What the first of `entries` follows.
    pub start: Mark,
    /// The log from there, as far as it is on disk.
    pub entries: Vec<Entry>,
    /// The last entry whose effect is in the state: `start.index` or one of `entries`.
    pub applied: RaftIndex,
    /// Who belongs to the group as of `applied`.
    pub membership: Membership,
    /// The newest snapshot file, if other members may be sent it.
    pub snapshot: Option<SnapshotMark>,
}
