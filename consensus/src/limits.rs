//! Every bound of this crate.

/// Largest payload of one entry, in bytes: one request of the largest size plus the envelopes of
/// the small ones batched with it. The WAL refuses records above its own limit, which is larger.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Commands gathered into one entry at most.
pub const ENTRY_COMMANDS_MAX: usize = 8192;

/// Entries proposed and not yet committed. The engine stops sealing batches at this many.
pub const ENTRIES_UNCOMMITTED_MAX: usize = 64;

/// Bytes of such entries; one entry is always allowed.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

/// Entries behind the applied one that stay in memory for members that lag. Ten times as many as etcd's default: etcd cuts
/// its log back to that only with every snapshot, and until then it reaches back up to 100,000 entries further; here
/// it is cut all the time. A member that restarts under load is to find what it missed in the log.
pub const LOG_BEHIND_ENTRIES_MAX: usize = 50_000;

/// Bytes of such entries.
pub const LOG_BEHIND_BYTES_MAX: u64 = 64 << 20;

/// Bytes of such entries while a snapshot is made for a member or on its way to one, which will need what comes after it.
pub const LOG_HELD_BYTES_MAX: u64 = 256 << 20;

const _: () = assert!(LOG_BEHIND_BYTES_MAX < LOG_HELD_BYTES_MAX);

/// Payload bytes of one message with entries, beyond its first entry.
pub const APPEND_BYTES_MAX: u64 = 1 << 20;

/// Such messages on their way to one member.
pub const APPENDS_IN_FLIGHT_MAX: usize = 256;

/// Entries in one message.
pub const APPEND_ENTRIES_MAX: usize = 64 << 10;

/// Messages that wait for the disk. More come only from peers that repeat themselves; they are dropped,
/// as a network may do.
pub const MESSAGES_HELD_MAX: usize = 16 << 10;

/// Reads that wait for their index.
pub const READS_PENDING_MAX: usize = 1024;

/// Bytes that name a read.
pub const READ_CONTEXT_BYTES_MAX: usize = 64;

/// Members of a group, learners included.
pub const MEMBERS_MAX: usize = 16;

/// A frame with so many bytes of items takes no more.
pub const FRAME_BODY_BYTES_FULL: usize = 4 << 20;

/// Bytes of items in a frame, at most: a full one whose last item is as large as it may be.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 20;
