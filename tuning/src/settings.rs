//! The settings themselves: sections, defaults, limits, and the relations between limits.

use crate::section::{Setting, section};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The unit of the log's writes; segment and group sizes are multiples of it.
pub const WAL_BLOCK_BYTES: u64 = 4 * KIB;

section! {
    /// The write-ahead log: how much one durable write carries and how many are under way.
    WalTuning as wal, rows WAL_ROWS {
        depth = 2, from 1, to 16,
            "Group commits in flight at once. Deeper queues help network block storage; a local disk \
             with power-loss protection is full at two.";
        group_bytes_max = MIB, from WAL_BLOCK_BYTES, to 16 * MIB,
            "Bytes that one group commit gathers at most while earlier ones are in flight. A single \
             larger entry still goes out, alone.";
        group_delay_us = 0, from 0, to 100_000,
            "Microseconds that a group may wait for company while an earlier one is in flight. 0 \
             never waits: the next group leaves as soon as there is a place in the queue.";
        segment_bytes = 64 * MIB, from 8 * WAL_BLOCK_BYTES, to 1024 * MIB,
            "Size of one pre-written log segment file; a multiple of 4096.";
        spare_segments_max = 4, from 0, to 64,
            "Trimmed segments that are kept to be used again.";
        attest_delay_us = 200_000, from 1_000, to 60_000_000,
            "Microseconds of rest after which the log attests that its last group is durable.";
    }
}

section! {
    /// The executors, one per core, and the rings between them.
    RuntimeTuning as runtime, rows RUNTIME_ROWS {
        heartbeat_busy_ms = 5, from 1, to 50,
            "Milliseconds between heartbeats of a core that has work; bounds how long a lost wake-up \
             can delay a request.";
        heartbeat_idle_ms = 100, from 10, to 1_000,
            "Milliseconds between heartbeats of a core that has been idle for a while.";
        stall_ms = 1_000, from 20, to 60_000,
            "Milliseconds without a heartbeat after which a core counts as stalled and is reported.";
        preempt_ms = 100, from 1, to 1_000,
            "Milliseconds that a core runs tasks before it looks at its sockets again.";
        uring_entries = 1_024, from 32, to 4_096,
            "Submission entries of each core's io_uring; a power of two.";
        io_memory_bytes = 64 * KIB, from 64 * KIB, to 64 * MIB,
            "Memory that each core registers for file I/O. Counts against RLIMIT_MEMLOCK, three \
             times over.";
        ring_slots = 1_024, from 64, to 65_536,
            "Places in each ring between two cores; a power of two. A full ring pushes back to the \
             client.";
        drain_ms = 2_000, from 0, to 60_000,
            "Milliseconds that a stopping member grants its clients to finish what is proposed.";
    }
}

section! {
    /// The engine: what may wait, and how long its turns of upkeep may be.
    EngineTuning as engine, rows ENGINE_ROWS {
        requests_waiting_max = 65_536, from 64, to 1_048_576,
            "Requests of one shard that may wait for the log or for a read; beyond them a client gets \
             too many requests.";
        uncommitted_bytes_max = 64 * MIB, from 4 * MIB, to 1024 * MIB,
            "Bytes of proposed commands of one shard that are not durable yet.";
        entry_commands_max = 1_024, from 1, to 65_536,
            "Commands that one log entry carries at most.";
        select_keys_per_turn = 2_048, from 64, to 1_048_576,
            "Keys that one range request may walk before other requests get a turn.";
        scrub_keys_per_turn = 1_024, from 64, to 1_048_576,
            "Keys that physical compaction visits before requests get a turn.";
        watch_events_per_turn = 4_096, from 64, to 1_048_576,
            "Past events that one watcher catches up on before others get a turn.";
    }
}

const _: () = assert!(WAL_BLOCK_BYTES.is_power_of_two());
/// Everything that can be tuned, by section.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// The write-ahead log.
    pub wal: WalTuning,
    /// Executors and rings.
    pub runtime: RuntimeTuning,
    /// The engine.
    pub engine: EngineTuning,
}

/// The sections in the order of the documentation, each with its settings.
pub const SETTINGS: &[&[Setting]] = &[WAL_ROWS, RUNTIME_ROWS, ENGINE_ROWS];

/// Finds a setting by section and key; the key may be written with dashes.
pub fn setting(section: &str, key: &str) -> Option<&'static Setting> {
    let key = key.replace('-', "_");
    SETTINGS
        .iter()
        .copied()
        .flatten()
        .find(|setting| setting.section == section && setting.key == key)
}
