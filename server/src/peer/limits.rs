//! Everything the links bound, and why at that value.

use std::time::Duration;

use keelson_consensus::limits::{APPEND_BYTES_MAX, FRAME_BODY_BYTES_FULL};

/// Bytes that wait to be written to a member, beyond one item: what a link of 10 Gbit/s carries in a twentieth of
/// a second, and several rounds of the largest frames.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Bytes of frames that the engine has not taken, beyond one frame. Above it nothing more is read.
pub const INBOX_BYTES_MAX: usize = 64 << 20;

/// The first pause before a member is dialled again: a process that restarts on the same machine is there soon.
pub const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// The longest pause, and the time a link must hold for the next pause to be the shortest again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The pause after a refusal, which only an operator or a change of the members ends.
pub const REFUSED_RETRY: Duration = Duration::from_secs(3);

/// How long most members must have refused this one as a stranger before it takes itself for removed: longer than a
/// change of the membership needs to reach all of them.
pub const LET_GO_AFTER: Duration = Duration::from_secs(8);

/// Time for the connection to be made and the welcome to arrive; and for whoever dials us to say something.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(2);

/// A link that takes no byte for so long is closed, as is one whose bytes the other machine does not acknowledge.
/// Longer than a stall that raft survives without an election, and short enough that a healed network is not
/// waited for: the kernel's own repeats grow to minutes.
pub const WRITE_STALLED_MAX: Duration = Duration::from_secs(3);

/// A plain HTTP connection to the peer port ends after this time.
pub const HTTP_CONNECTION_MAX: Duration = Duration::from_secs(20);

/// Accepted connections at a time: one for each member, those that they replace, and tools.
pub const ACCEPTED_COUNT_MAX: usize = 128;

/// Accepted connections on their way to another core.
pub const HANDOVER_COUNT_MAX: usize = 64;

/// Length of a hello or welcome, header included.
pub const OPENING_FRAME_BYTES_MAX: usize = 256;

/// Bytes received at once.
pub const RECEIVE_BYTES: usize = 64 << 10;

/// Bytes read from one connection before the core looks at the others.
pub const READ_BYTES_PER_TURN: usize = 1 << 20;

/// Frames passed to one vectored write.
pub const FRAMES_PER_WRITE_MAX: usize = 16;

/// Bytes passed to one write, beyond its first frame.
pub const WRITE_BYTES_PER_TURN: usize = 1 << 20;

/// Pause after an accept that failed for want of file descriptors or memory.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How often at most the log hears of strangers on the peer port.
pub const STRANGERS_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Members that left and are remembered as such.
pub const FORMER_COUNT_MAX: usize = 1024;

/// The answer of a member that is asked who belongs to its cluster.
pub const FETCHED_BYTES_MAX: u64 = 1 << 20;

const _: () = assert!(QUEUE_BYTES_MAX > FRAME_BODY_BYTES_FULL + APPEND_BYTES_MAX as usize);
const _: () = assert!(READ_BYTES_PER_TURN >= RECEIVE_BYTES);
const _: () = assert!(BACKOFF_MIN.as_millis() < BACKOFF_MAX.as_millis());
const _: () = assert!(BACKOFF_MAX.as_millis() < REFUSED_RETRY.as_millis());
