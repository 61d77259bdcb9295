//! Every bound of this crate.

/// Largest payload of one entry, in bytes: one request of the largest size plus the envelopes of
/// the small ones batched with it. The WAL refuses records above its own limit, which is larger.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Commands gathered into one entry at most.
pub const ENTRY_COMMANDS_MAX: usize = 8192;

/// Entries proposed and not yet committed. The engine stops sealing batches at this many.
pub const ENTRIES_UNCOMMITTED_MAX: usize = 64;
