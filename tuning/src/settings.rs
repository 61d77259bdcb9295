//! The settings themselves: sections, defaults, limits, and the relations between limits.

use crate::section::{Setting, section};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The unit of the log's writes; segment and group sizes are multiples of it.
pub const WAL_BLOCK_BYTES: u64 = 4 * KIB;

section! {
    /// The write-ahead log: how much one durable write carries and how many are under way.
    WalTuning as wal, rows WAL_ROWS {
        depth = 2, from 1, to 32,
            "Group commits in flight at once. Deeper queues help network block storage; a local disk \
             with power-loss protection is full at two.";
        group_bytes_max = MIB, from 64 * KIB, to 16 * MIB,
            "Bytes that one group commit gathers at most while earlier ones are in flight. A single \
             larger entry still goes out, alone.";
        group_delay_us = 0, from 0, to 100_000,
            "Microseconds that a group may wait for company while the queue is full. 0 never waits: \
             the next group leaves as soon as a place in the queue is free.";
        segment_bytes = 64 * MIB, from 8 * MIB, to 1024 * MIB,
            "Size of one pre-written log segment file.";
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
        stall_ms = 500, from 20, to 60_000,
            "Milliseconds without a heartbeat after which a core counts as stalled and is reported.";
        ring_slots = 1_024, from 64, to 65_536,
            "Places in each ring between two cores; a power of two. A full ring pushes back to the \
             client.";
        uring_entries = 256, from 32, to 4_096,
            "Submission entries of each core's io_uring; a power of two.";
        io_memory_bytes = 256 * KIB, from 64 * KIB, to 64 * MIB,
            "Registered I/O memory of each core. Counts against RLIMIT_MEMLOCK where the kernel \
             charges it.";
    }
}

section! {
    /// Client connections: how many, and how much each may hold in memory.
    FrontTuning as front, rows FRONT_ROWS {
        connections_max = 32_768, from 16, to 1_000_000,
            "Client connections of the whole member; beyond them new ones are closed at once.";
        handshake_ms = 10_000, from 100, to 600_000,
            "Milliseconds in which a new connection must say what it speaks.";
        streams_in_flight_max = 1_048_576, from 64, to 16_777_216,
            "Open gRPC streams of one core; beyond them a request is refused with too many requests.";
        stream_window_bytes = MIB, from 64 * KIB, to 64 * MIB,
            "HTTP/2 receive window of a stream.";
        connection_window_bytes = 4 * MIB, from 64 * KIB, to 256 * MIB,
            "HTTP/2 receive window of a connection.";
        send_buffer_bytes_max = 256 * KIB, from 16 * KIB, to 64 * MIB,
            "Bytes waiting to be sent on one stream before its producer is held back.";
        header_bytes_max = 64 * KIB, from 4 * KIB, to MIB,
            "Size of a request's header block.";
        response_slice_bytes = 256 * KIB, from 16 * KIB, to 16 * MIB,
            "Bytes of a large response that are encoded in one go before other work gets a turn.";
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

// Relations between limits, so that a value within its own limits is rarely refused for another's.
const _: () = assert!(WAL_BLOCK_BYTES.is_power_of_two());
const _: () = assert!((64 * MIB).is_multiple_of(WAL_BLOCK_BYTES));

/// Everything that can be tuned, by section.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// The write-ahead log.
    pub wal: WalTuning,
    /// Executors and rings.
    pub runtime: RuntimeTuning,
    /// Client connections.
    pub front: FrontTuning,
    /// The engine.
    pub engine: EngineTuning,
}

/// The sections in the order of the documentation, each with its settings.
pub const SETTINGS: &[&[Setting]] = &[WAL_ROWS, RUNTIME_ROWS, FRONT_ROWS, ENGINE_ROWS];

/// Finds a setting by section and key; the key may be written with dashes.
pub fn setting(section: &str, key: &str) -> Option<&'static Setting> {
    let key = key.replace('-', "_");
    SETTINGS
        .iter()
        .copied()
        .flatten()
        .find(|setting| setting.section == section && setting.key == key)
}
