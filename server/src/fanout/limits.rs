//! Every bound of the fan-out.
//!
//! Unit tests run with much smaller queues, so that what is rare in production happens all the time.

/// Bytes of responses that may wait in a stream for its client. A watcher whose stream is above this
/// falls back to a cursor and is caught up when the client has read on.
pub const STREAM_BYTES_MAX: usize = if cfg!(test) { 600 } else { 1 << 20 };

/// A stream below this gets the next catch-up slice of its late watchers.
pub const STREAM_BYTES_LOW: usize = if cfg!(test) { 300 } else { 256 << 10 };

/// Events are gathered into responses of about this size, at whole revisions.
pub const RESPONSE_BYTES_TARGET: usize = if cfg!(test) { 150 } else { 256 << 10 };

/// Responses to control requests (created, canceled, progress) that may wait in a stream. A client that
/// sends more requests than it reads answers for is not read from until it has caught up.
pub const STREAM_CONTROLS_MAX: usize = 1024;

/// Watchers of one core; further ones are refused with "too many requests".
pub const WATCHERS_PER_CORE_MAX: usize = 4 << 20;

/// Watchers of one stream that compaction ended and whose ids the client has not given back.
pub const ENDED_PER_STREAM_MAX: usize = 64 << 10;

/// How much waits in a stream: the figures above, or tiny ones in some of the simulator's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamBounds {
    /// See [`STREAM_BYTES_MAX`].
    pub bytes_max: usize,
    /// See [`STREAM_BYTES_LOW`].
    pub bytes_low: usize,
    /// See [`RESPONSE_BYTES_TARGET`].
    pub response_bytes: usize,
}

impl Default for StreamBounds {
    fn default() -> Self {
        Self {
            bytes_max: STREAM_BYTES_MAX,
            bytes_low: STREAM_BYTES_LOW,
            response_bytes: RESPONSE_BYTES_TARGET,
        }
    }
}

const _: () = assert!(STREAM_BYTES_LOW < STREAM_BYTES_MAX);
const _: () = assert!(RESPONSE_BYTES_TARGET <= STREAM_BYTES_MAX);
