//! Limits and defaults that a client can observe on the wire.
//!
//! The values are etcd's, because clients are written against them. `_default` at the end of a
//! name says that a flag may set another value; all others are fixed.

use std::time::Duration;

/// Largest request, in encoded bytes (`--max-request-bytes`).
pub const REQUEST_BYTES_MAX_DEFAULT: usize = 1_536 * 1_024;

/// What a gRPC message may be larger than a request: framing, and the headers of an entry.
pub const TRANSPORT_OVERHEAD_BYTES: usize = 512 * 1_024;

/// Largest gRPC message body a member accepts under the default request limit.
pub const MESSAGE_BYTES_MAX_DEFAULT: usize = message_bytes_max(REQUEST_BYTES_MAX_DEFAULT);

/// Largest encoded answer: the length field of Go's protobuf and gRPC is a signed 32-bit number.
pub const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// Compares, and operations per branch, in one transaction (`--max-txn-ops`).
pub const TXN_OPS_MAX_DEFAULT: u32 = 128;

/// How deep messages may lie within messages: prost refuses more.
pub const MESSAGE_DEPTH_MAX: u32 = 100;

/// How deep transactions may nest, the outermost included. Each is two messages deep, the
/// operation and its request. etcd follows Go's protobuf, which stops at ten thousand messages.
pub const TXN_DEPTH_MAX: u32 = MESSAGE_DEPTH_MAX / 2;

/// Longest lease, in seconds; about 285 years.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// Payload of one message of a snapshot stream.
pub const SNAPSHOT_BLOB_BYTES: usize = 32 * 1_024;

/// Shortest time between two unasked progress answers of one watch.
pub const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Time between two unasked progress answers (`--watch-progress-notify-interval`).
pub const WATCH_PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);

/// Space the data may take (`--quota-backend-bytes=0`).
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

/// Clients that ping more often are told to go away (`--grpc-keepalive-min-time`).
pub const KEEPALIVE_CLIENT_INTERVAL_MIN_DEFAULT: Duration = Duration::from_secs(5);

/// A silent connection is pinged after this time (`--grpc-keepalive-interval`).
pub const KEEPALIVE_INTERVAL_DEFAULT: Duration = Duration::from_secs(7_200);

/// A pinged connection that stays silent this long is closed (`--grpc-keepalive-timeout`).
pub const KEEPALIVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);

/// Largest gRPC message body a member accepts if `request_bytes_max` bounds the requests.
pub const fn message_bytes_max(request_bytes_max: usize) -> usize {
    request_bytes_max.saturating_add(TRANSPORT_OVERHEAD_BYTES)
}

const _: () = assert!(REQUEST_BYTES_MAX_DEFAULT == 1_572_864);
const _: () = assert!(MESSAGE_BYTES_MAX_DEFAULT == 2_097_152);
const _: () = assert!(SNAPSHOT_BLOB_BYTES < REQUEST_BYTES_MAX_DEFAULT);
const _: () =
    assert!(WATCH_PROGRESS_INTERVAL_MIN.as_millis() < WATCH_PROGRESS_INTERVAL_DEFAULT.as_millis());
