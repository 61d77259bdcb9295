//! Every bound of the engine.
//!
//! Unit tests run with much smaller slices, so that what is rare in production happens all the time.

use keelson_consensus::limits::FRAME_BODY_BYTES_MAX;
use keelson_storage::limits::{
    SNAPSHOT_BLOCK_BYTES, WAL_PENDING_BYTES_MAX, WAL_RECORD_PAYLOAD_BYTES_MAX,
};
use keelson_storage::state::{Command, ENTRY_HEADER_BYTES};

use crate::peer::limits::INBOX_BYTES_MAX;

/// Requests of one front core that the engine holds at once; the front answers "too many requests"
/// beyond it. Rings are sized from it, so they cannot overflow.
pub const REQUESTS_PER_CORE_MAX: usize = 8192;

/// Slots of the ring from a front to the engine: every request plus one watch message for each.
pub const INBOUND_RING_SLOTS: usize = REQUESTS_PER_CORE_MAX * 2;

/// Slots of the ring from the engine to a front.
pub const OUTBOUND_RING_SLOTS: usize = REQUESTS_PER_CORE_MAX * 2;

/// Messages taken from one port in a turn, so that one busy core cannot starve the others.
pub const INBOUND_PER_TURN_MAX: usize = 1024;

/// Things taken from other members in a turn.
pub const HEARD_PER_TURN_MAX: usize = 4096;

/// Bytes in the lane and not yet durable from which on nothing is taken from other members: with all that waits to be
/// taken on top, and the largest frame, the lane still takes it.
pub const HEARD_PENDING_BYTES_MAX: u64 = 64 << 20;

/// Bytes of one entry's payload after which no further command joins it. A single larger command
/// travels alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// One command of so many, at most, is left to the next group when the group then ends where a block of the disk does,
pub const SEAL_LEAVES_ONE_OF: usize = 4;
/// and when that saves at least so many bytes that only fill up.
pub const SEAL_LEAVES_FOR_BYTES: u64 = if cfg!(test) { 1 } else { 1024 };

/// Command bytes waiting for a batch; proposals beyond it get "too many requests".
pub const QUEUED_BYTES_MAX: usize = 256 << 20;

/// Bytes of entries in the lane and not yet durable beyond which no further entry is sealed: with the
/// largest entry on top, the lane still takes it.
pub const PENDING_BYTES_MAX: u64 = WAL_PENDING_BYTES_MAX - 2 * WAL_RECORD_PAYLOAD_BYTES_MAX;

/// Messages to other members between two turns of the driver. More are dropped: raft repeats what it needs.
pub const PEER_ITEMS_MAX: usize = 16 << 10;

/// How long a forwarded command is remembered whose fate nobody tells (microseconds): longer than any front
/// waits for an answer.
pub const FORWARDED_FORGOTTEN_AFTER_US: u64 = 120_000_000;

/// How long a command that nobody has proposed waits for a leader: so many election timeouts. etcd takes a member that
/// has been without one for as long as useless.
pub const LEADER_AWAITED_ELECTIONS: u64 = 3;

/// A command that came so many election timeouts before a leader was known, or later, may have been lost with the one before.
/// etcd's.
pub const LEADER_FAIL_ELECTIONS: u64 = 2;

/// How often a member says that its disk is full, and for how long that is believed (microseconds).
pub const ROOM_TOLD_AGAIN_US: u64 = 1_000_000;
/// See above.
pub const ROOM_BELIEVED_US: u64 = 4_000_000;
const _: () = assert!(ROOM_BELIEVED_US > 2 * ROOM_TOLD_AGAIN_US, "one may be lost");

/// How long a leader that cannot go on waits before it offers the leadership once more (microseconds).
pub const OFFICE_OFFERED_AGAIN_US: u64 = 1_000_000;

/// How long a member waits before it tells the cluster about itself once more (microseconds).
pub const PUBLISH_RETRY_US: u64 = 2_000_000;

/// How long a member that was removed goes on answering, if those who stay do not refuse its links before: so many
/// election timeouts.
pub const REMOVAL_LINGERS_ELECTIONS: u64 = 5;

/// Bits of a request id that count; those above differ between members and between starts.
pub const REQUEST_COUNTER_BITS: u32 = 32;

/// How often a leader looks whether another member should lead in its place (microseconds).
pub const SPREAD_LOOK_US: u64 = 500_000;
/// How long it has been in office before it hands over to the preferred member,
pub const SPREAD_SETTLED_US: u64 = 5_000_000;
/// and how long if it was asked to lead.
pub const SPREAD_ASKED_US: u64 = 600_000_000;
/// A leader was asked to lead if it took office so soon after the question.
pub const SPREAD_ASKED_FOR_US: u64 = 5_000_000;
/// Entries that a member may lack and still take over at once.
pub const SPREAD_BEHIND_MAX: u64 = 64;

/// How long the answer to a linearizable read's question may take before it is asked again
/// (microseconds). etcd waits as long.
pub const READ_INDEX_RETRY_US: u64 = 500_000;

/// How long a linearizable read waits for its index: so long (microseconds) and so many election timeouts. etcd's.
pub const READ_INDEX_WAITS_US: u64 = 5_000_000;
/// See above.
pub const READ_INDEX_WAITS_ELECTIONS: u64 = 2;

/// Keys looked at in one step of a large range read.
pub const SELECT_KEYS_PER_STEP: usize = if cfg!(test) { 3 } else { 1000 };

/// Range reads advanced in one turn.
pub const SELECTS_PER_TURN_MAX: usize = 4;

/// Changes looked at for one catch-up slice.
pub const CATCH_UP_CHANGES_MAX: usize = if cfg!(test) { 5 } else { 4096 };

/// Bytes of matching changes in one catch-up slice, after which it ends with the revision at hand.
pub const CATCH_UP_BYTES_MAX: usize = if cfg!(test) { 200 } else { 512 << 10 };

/// Catch-up slices made in one turn.
pub const CATCH_UPS_PER_TURN_MAX: usize = 8;

/// Changes published to a core in one batch.
pub const PUBLISH_CHANGES_MAX: usize = if cfg!(test) { 4 } else { 4096 };

/// Versions looked at in a turn by physical compaction while commands come,
pub const SCRUB_PER_TURN: usize = if cfg!(test) { 3 } else { 64 };
/// after which it pauses (microseconds), so that it takes a fraction of the core's time and not all that is left,
pub const SCRUB_PAUSE_US: u64 = 150;
/// and while none comes.
pub const SCRUB_PER_TURN_IDLE: usize = if cfg!(test) { 5 } else { 4096 };

/// Records gathered for a hash in one turn.
pub const HASH_RECORDS_PER_TURN: usize = if cfg!(test) { 3 } else { 4096 };

/// Missing values asked for at once by one that waits. The window moves on as they arrive.
pub const VALUES_WANTED_MAX: usize = if cfg!(test) { 2 } else { 64 };

/// What the cache of values gets, however little of the memory budget is left.
pub const CACHE_BYTES_MIN: u64 = if cfg!(test) { 1 } else { 256 << 10 };
/// The cache is told of a change of its share when that is this much.
pub const CACHE_BYTES_STEP: u64 = if cfg!(test) { 1 } else { 1 << 20 };
/// Versions that no snapshot holds may always take this much memory, whatever the budget.
pub const MEMORY_VERSIONS_BYTES_MIN: u64 = 16 << 20;

/// Ticks without a leader that a start leaves of those before an election (`--initial-election-tick-advance`).
pub const INITIAL_TICKS_LEFT: usize = 2;
/// How long somebody waits for another member to lead (microseconds).
pub const MOVE_LEADER_GIVEN_UP_AFTER_US: u64 = 7_000_000;
/// How long after the last command work in the background need not be considerate any more (microseconds).
pub const IDLE_AFTER_US: u64 = 10_000;
/// Versions that a checkpoint which is built in the engine's turns goes through in one of them.
pub const CHECKPOINT_VERSIONS_PER_TURN: usize = if cfg!(test) { 3 } else { 256 };
/// Versions that a checkpoint goes through between two looks for something to write.
pub const CHECKPOINT_SLICE_VERSIONS: usize = 256;
/// How long a thread that builds a checkpoint computes before it gives way (microseconds).
pub const CHECKPOINT_GIVES_WAY_US: u64 = 20;
/// Writes of a checkpoint taken ahead of the disk, and buffers for them.
pub const CHECKPOINT_WRITES_AHEAD_MAX: usize = 4;
/// What a checkpoint may write at once after a pause, whatever its rate.
pub const CHECKPOINT_BURST_BYTES: i64 = 512 << 10;
/// The part of the memory left to commands from which on, at its beginning, a checkpoint hurries,
pub const CHECKPOINT_HURRIES_FROM: f64 = 0.25;
/// and from which on they wait for it. Both grow to all of it as the checkpoint gets done.
pub const CHECKPOINT_HOLDS_BACK_FROM: f64 = 0.5;
/// The part of the log that may be kept for a member which waits for a snapshot: from how much of it on, at its
/// beginning, the checkpoint hurries; how much a checkpoint may take, and then the transfer. The rest is for putting the
/// snapshot in place there.
pub const LOG_HELD_HURRIES_FROM: f64 = 0.05;
/// See [`LOG_HELD_HURRIES_FROM`].
pub const LOG_HELD_FOR_CHECKPOINT: f64 = 0.35;
/// See [`LOG_HELD_HURRIES_FROM`].
pub const LOG_HELD_FOR_TRANSFER: f64 = 0.35;
/// How long after a failure a checkpoint is tried again (microseconds).
pub const CHECKPOINT_RETRY_US: u64 = 10_000_000;
/// How long a checkpoint that has used its rate up pauses (microseconds).
pub const CHECKPOINT_PAUSE_US: u64 = 1_000;

/// Bytes of a snapshot file in one message to another member.
pub const SNAPSHOT_PIECE_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 256 << 10 };
/// Bytes of a snapshot file that are read or on their way, and not yet with the receiver's disk.
pub const SNAPSHOT_WINDOW_BYTES: u64 = if cfg!(test) { 48 << 10 } else { 8 << 20 };
/// A receiver that has got no further for so long is asked where it is (microseconds).
pub const SNAPSHOT_REPEAT_US: u64 = if cfg!(test) { 50_000 } else { 1_000_000 };
/// After so long without a word from the other side a transfer is given up (microseconds).
pub const SNAPSHOT_ABANDONED_AFTER_US: u64 = if cfg!(test) { 1_000_000 } else { 30_000_000 };
/// How long after a failure a snapshot is sent again (microseconds).
pub const SNAPSHOT_RETRY_US: u64 = if cfg!(test) { 50_000 } else { 1_000_000 };

/// How often a member that begins anew asks the others how they stand (microseconds).
pub const REJOIN_REPEAT_US: u64 = if cfg!(test) { 20_000 } else { 200_000 };

/// How often a member whose snapshot is damaged tries to get another one (microseconds).
pub const MEND_REPEAT_US: u64 = if cfg!(test) { 100_000 } else { 1_000_000 };

/// How long members have to hash what they hold before a comparison goes on without them (microseconds).
pub const COMPARE_ANSWERED_AFTER_US: u64 = if cfg!(test) { 500_000 } else { 60_000_000 };
/// Hashes for comparisons that wait to be made.
pub const COMPARE_JOBS_MAX: usize = 8;

/// How often leases are checked for expiry, in microseconds. etcd checks as often.
pub const LEASE_CHECK_INTERVAL_US: u64 = 500_000;

/// Leases revoked per check, as in etcd.
pub const LEASE_EXPIRIES_PER_CHECK_MAX: usize = 500;

/// With leases alive, the lease clock reaches the log at least this often (microseconds). A crash
/// gives leases at most this much time back.
pub const LEASE_TICK_INTERVAL_US: u64 = 5_000_000;

/// How far the log runs ahead of keep-alives, in milliseconds: a renewal is written as if it came this
/// much later, and those that come until then need not be written. A lease expires at most this much
/// after its time.
pub const LEASE_RENEW_AHEAD_MS: u64 = 500;

/// A keep-alive that finds less than this left of [`LEASE_RENEW_AHEAD_MS`] has the log told of its lease.
pub const LEASE_RENEW_AHEAD_LOW_MS: u64 = LEASE_RENEW_AHEAD_MS / 2;

/// How long leases are gathered for one such command (microseconds).
pub const LEASE_RENEW_GATHER_US: u64 = 100_000;

/// Leases in one command that renews many, and keep-alives in one question.
pub const LEASE_RENEWALS_PER_COMMAND_MAX: usize = if cfg!(test) { 3 } else { 512 };

/// The largest payload of an entry when requests have at most `request_bytes_max` bytes.
#[must_use]
pub const fn entry_payload_bytes_max(request_bytes_max: usize) -> usize {
    let alone = ENTRY_HEADER_BYTES + Command::ENVELOPE_BYTES_MAX + request_bytes_max;
    if alone > BATCH_BYTES_MAX {
        alone
    } else {
        BATCH_BYTES_MAX
    }
}

const _: () = assert!(BATCH_BYTES_MAX < keelson_consensus::limits::ENTRY_PAYLOAD_BYTES_MAX);
const _: () = assert!(INBOUND_PER_TURN_MAX <= keelson_consensus::limits::ENTRY_COMMANDS_MAX);
const _: () = assert!(LEASE_RENEW_GATHER_US < LEASE_RENEW_AHEAD_LOW_MS * 1000);
const _: () = assert!(INBOUND_RING_SLOTS > REQUESTS_PER_CORE_MAX);
const _: () = assert!(
    HEARD_PENDING_BYTES_MAX + INBOX_BYTES_MAX as u64 + FRAME_BODY_BYTES_MAX as u64
        <= PENDING_BYTES_MAX
);
const _: () = assert!(LOG_HELD_FOR_CHECKPOINT + LOG_HELD_FOR_TRANSFER < 1.0);
const _: () = assert!(SNAPSHOT_WINDOW_BYTES >= SNAPSHOT_PIECE_BYTES);
const _: () = assert!(SNAPSHOT_PIECE_BYTES.is_multiple_of(SNAPSHOT_BLOCK_BYTES as u64));
const _: () = assert!(SNAPSHOT_REPEAT_US < SNAPSHOT_ABANDONED_AFTER_US);
