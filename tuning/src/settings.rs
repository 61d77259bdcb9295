//! The settings themselves: sections, defaults, limits, and the relations between limits.

use crate::section::{Setting, section};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The largest unit of the log's writes; segment sizes are multiples of it.
pub const WAL_BLOCK_BYTES: u64 = 4 * KIB;
/// The smallest.
pub const WAL_UNIT_BYTES_MIN: u64 = 512;

section! {
    /// The write-ahead log: how much one durable write carries and how many are under way.
    WalTuning as wal, rows WAL_ROWS {
        depth = 4, from 1, to 16,
            "Group commits in flight at once. Deeper queues help network block storage; a local disk \
             with power-loss protection needs few.";
        group_bytes_max = MIB, from WAL_BLOCK_BYTES, to 16 * MIB,
            "Bytes that one group commit gathers at most while earlier ones are in flight. A single \
             larger entry still goes out, alone.";
        group_delay_us = 0, from 0, to 100_000,
            "Microseconds that a group may wait for company while an earlier one is in flight. 0 \
             never waits: the next group leaves as soon as there is a place in the queue.";
        segment_bytes = 64 * MIB, from 8 * WAL_BLOCK_BYTES, to 1024 * MIB,
            "Size of one pre-written log segment file; a multiple of 4096.";
        unit_bytes = 0, from 0, to 4_096,
            "What group commits are filled up to: 512, 1024, 2048 or 4096 bytes. 0 takes what the disk \
             says it writes in place (its physical block). Less is written with a smaller unit, but a disk \
             that loses power while it rewrites a part of a block may lose the rest of the block, which \
             was acknowledged before: below the physical block only with power-loss protection.";
        spare_segments_max = 4, from 0, to 64,
            "Trimmed segments that are kept to be used again.";
        attest_delay_us = 200_000, from 1_000, to 60_000_000,
            "Microseconds of rest after which the log attests that its last group is durable.";
    }
}

section! {
    /// Memory for the data.
    StorageTuning as storage, rows STORAGE_ROWS {
        memory_budget_bytes = 2048 * MIB, from MIB, to 1024 * 1024 * MIB,
            "Bytes of memory for keys, metadata and values. Keys and metadata are always in memory; values \
             leave it for the snapshot file when there are more, and are read back when they are asked for. \
             The default is that of --quota-backend-bytes, which etcd holds in memory.";
    }
}

section! {
    /// Checkpoints: when the snapshot file is made anew, and how much of the disk that may take.
    CheckpointTuning as checkpoint, rows CHECKPOINT_ROWS {
        log_bytes_min = 256 * MIB, from 32 * KIB, to 64 * 1024 * MIB,
            "Bytes of log after which a checkpoint is made at the earliest, however many commands \
             (--snapshot-count) they are. Beyond it, twice the last snapshot file counts.";
        log_bytes_max = 1024 * MIB, from 32 * KIB, to 64 * 1024 * MIB,
            "Bytes of log after which a checkpoint is made at the latest: what a start has to replay.";
        interval_seconds = 3_600, from 0, to 31_536_000,
            "Seconds between checkpoints while anything changes, however little. 0 sets no such time.";
        bytes_per_second = 64 * MIB, from MIB, to 1024 * 1024 * MIB,
            "Bytes a second that a checkpoint writes while requests are served; without requests it \
             writes as fast as it can.";
        page_bytes = 16 * KIB, from 4 * KIB, to 256 * KIB,
            "Size of the pages of the snapshot's index; a multiple of 4096.";
    }
}

section! {
    /// The raft group.
    RaftTuning as raft, rows RAFT_ROWS {
        lease_reads = 0, from 0, to 1,
            "1 has a leader answer linearizable reads without asking the others for as long as they have \
             promised to elect nobody else. It trusts that the members' clocks do not differ by more than a \
             tenth in how fast they run. All members must have the same.";
    }
}

section! {
    /// The executors, one per core, and how they stop.
    RuntimeTuning as runtime, rows RUNTIME_ROWS {
        heartbeat_ms = 100, from 10, to 1_000,
            "Milliseconds that a core without work sleeps at most before it shows that it lives.";
        stall_ms = 1_000, from 20, to 60_000,
            "Milliseconds without a heartbeat after which a core counts as stalled and is reported.";
        uring_entries = 1_024, from 32, to 4_096,
            "Submission entries of each core's io_uring, which holds four times as many completions; a \
             power of two.";
        huge_pages = 0, from 0, to 1,
            "1 leaves transparent huge pages as the system has them. 0 forbids them to the member: its \
             memory grows with every write, and the kernel clears a huge page at a time while one waits.";
        drain_ms = 2_000, from 0, to 60_000,
            "Milliseconds that a stopping member grants its clients to finish what is proposed.";
    }
}

const _: () = assert!(WAL_BLOCK_BYTES.is_power_of_two());

/// Everything that can be tuned, by section.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// The write-ahead log.
    pub wal: WalTuning,
    /// Memory for the data.
    pub storage: StorageTuning,
    /// Checkpoints.
    pub checkpoint: CheckpointTuning,
    /// The raft group.
    pub raft: RaftTuning,
    /// The executors.
    pub runtime: RuntimeTuning,
}

/// The sections in the order of the documentation, each with its settings.
pub const SETTINGS: &[&[Setting]] = &[
    WAL_ROWS,
    STORAGE_ROWS,
    CHECKPOINT_ROWS,
    RAFT_ROWS,
    RUNTIME_ROWS,
];

/// Finds a setting by section and key; the key may be written with dashes.
pub fn setting(section: &str, key: &str) -> Option<&'static Setting> {
    let key = key.replace('-', "_");
    SETTINGS
        .iter()
        .copied()
        .flatten()
        .find(|setting| setting.section == section && setting.key == key)
}
