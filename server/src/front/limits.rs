//! Everything the front bounds, and why at that value.
//!
//! What a caller can configure is in [`FrontConfig`](super::FrontConfig); these are its defaults and the limits
//! nobody configures.

use std::time::Duration;

/// Connections of one core. Each costs tens of kilobytes and a file descriptor.
pub const CONNECTION_COUNT_PER_CORE_MAX: u32 = 50_000;

/// Calls running on one core; beyond it a call is answered with "too many requests".
pub const CALL_COUNT_PER_CORE_MAX: usize = 250_000;

/// Streams a client may have open on a connection. etcd's default is the largest number the protocol knows;
/// this is what that number is cut to, at about a kilobyte per stream.
pub const STREAM_COUNT_PER_CONNECTION_MAX: u32 = 131_072;

/// Bytes a client may send on one stream before its handler has read any: the bandwidth-delay product of
/// 10 Gbit/s at 0.8 ms, and two thirds of the largest request in one go.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// The same over all streams of a connection. More than a stream's window, so that one handler that does not
/// read cannot stop the other streams of its connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

/// Largest frame a client may send us. The protocol's smallest maximum: bigger frames would be read into bigger
/// buffers, and small ones keep streams interleaved.
pub const FRAME_BYTES_MAX: u32 = 16 << 10;

/// Largest header list of a request, auth token included.
pub const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;

/// Bytes of a connection's output from which on streams wait with what they have: what the kernel takes in a few
/// writes. A stream that sends in chunks holds one more behind it.
pub const OUT_BYTES_MAX: usize = 256 << 10;

/// Bytes of output from which on nothing is read: a client that takes no answers, and makes us answer with pings and
/// settings, waits.
pub const OUT_BYTES_CHOKED: usize = 1 << 20;

/// Response bytes queued on one connection from which on its new calls are refused: its client does not read.
pub const UNSENT_BYTES_PER_CONNECTION_MAX: usize = 64 << 20;

/// The same over all connections of a core.
pub const UNSENT_BYTES_PER_CORE_MAX: usize = 1 << 30;

/// Bytes of half-received requests on one connection.
pub const PARTIAL_BYTES_PER_CONNECTION_MAX: usize = 64 << 20;

/// Bytes read from one connection before the core looks at the others.
pub const READ_BYTES_PER_TURN: usize = 256 << 10;

/// Bytes written to one connection before the core looks at the others.
pub const WRITE_BYTES_PER_TURN: usize = 1 << 20;

/// Where a core receives: a few frames of the largest size, and little enough to stay in the cache.
pub const RECEIVE_BYTES: usize = 64 << 10;

/// A client says what it speaks within this time, and completes an HTTP/1.1 request head.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(20);

/// An HTTP/1.1 connection that neither starts a request nor takes response bytes is closed after this time.
pub const HTTP1_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Body of an HTTP/1.1 request.
pub const HTTP1_BODY_BYTES_MAX: usize = 2 << 20;

/// Accepted connections on their way to another core.
pub const HANDOVER_COUNT_MAX: usize = 256;

/// Queue of the kernel for connections that wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Pause after an accept that failed for want of file descriptors or memory.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Time a connection counts as fresh for placement: until the load figure shows it.
pub const FRESH_FOR: Duration = Duration::from_millis(500);

/// How often a core looks for connections that are due for a ping or for closing.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Backups that one core streams at a time. Each has a thread of its own and holds its file.
pub const BACKUPS_PER_CORE_MAX: usize = 8;

/// What a backup reads at once, twice: a write of the log waits behind no more.
pub const BACKUP_READ_BYTES: usize = 256 << 10;

/// Bytes of the file in one message of a backup. etcd sends 32 KiB, and its clients take any size; those of other
/// languages refuse messages of more than 4 MiB unless they are told otherwise.
pub const BACKUP_BLOB_BYTES: usize = 256 << 10;

/// How long a backup waits after a message while other calls come: what it reads, hashes and sends is taken from them. It
/// gets some 80 MB a second then.
pub const BACKUP_PAUSE: Duration = Duration::from_millis(3);

/// Messages of a backup that are ready before its client takes them.
pub const BACKUP_MESSAGES_AHEAD: usize = 8;

const _: () = assert!(CONNECTION_WINDOW_BYTES > STREAM_WINDOW_BYTES);
const _: () = assert!(FRAME_BYTES_MAX >= 16 << 10);
const _: () = assert!(UNSENT_BYTES_PER_CORE_MAX > UNSENT_BYTES_PER_CONNECTION_MAX);
const _: () = assert!(OUT_BYTES_CHOKED > OUT_BYTES_MAX + FRAME_BYTES_MAX as usize);
const _: () = assert!(BACKUP_READ_BYTES.is_multiple_of(BACKUP_BLOB_BYTES));
const _: () = assert!(BACKUP_BLOB_BYTES < 4 << 20);
