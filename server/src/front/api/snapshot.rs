//! `etcdserverpb.Maintenance/Snapshot`: a backup, which is the image of the newest snapshot.
//!
//! If the newest file does not hold everything that is applied, a checkpoint is asked for first. A helper thread then
//! has the file read, past the page cache, compares every byte with the checksums, hashes it, and frames the messages; the
//! core only passes them on as the client takes them, with pauses while others call. The engine is asked twice or thrice,
//! and serves on meanwhile.
//!
//! ```text
//!   checkpoint -> pinned file -> helpers: read --> audit | SHA-256 | frame --feed--> core --> client
//! ```
//!
//! The thread opens the file, and those that lend it values, and lets the pin go: an open file can be read to its end
//! whatever becomes of its name, and a slow client keeps no index of an old snapshot in memory. What it keeps is the file's place on the disk, a thread,
//! and [`BACKUP_MESSAGES_AHEAD`] messages, until it has gone or has everything.
//!
//! A damaged file is never passed off as a backup: the call ends with an error and without the hash, and the engine is told.

use std::rc::Rc;
use std::thread;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use futures_lite::future::or;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::SnapshotResponse;
use keelson_storage::io::{DiskError, ReadAhead, SLICE_BYTES, give_way, give_way_at_disk};
use keelson_storage::snapshot::{Audit, Flaw, OpenImage, PinnedFile};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::Api;
use crate::config::version;
use crate::engine::message::{Answer, Ask};
use crate::front::limits::{
    BACKUP_BLOB_BYTES, BACKUP_MESSAGES_AHEAD, BACKUP_PAUSE, BACKUP_READ_BYTES, BACKUPS_PER_CORE_MAX,
};
use crate::front::{Call, Closed, PREFIX_BYTES, Replies};
use crate::runtime::{self, Fed, Feed, Gone};

/// What the helper thread sends.
enum Piece {
    /// A whole message, framed.
    Message(Bytes),
    /// The last message was sent.
    Complete,
    /// There is no more, and this is why.
    Failed(Status),
}

/// Why the thread ends early.
#[derive(Clone)]
enum Stop {
    Gone,
    Failed(Status),
}

/// A place among the backups of a core.
struct Seat(Rc<Api>);

impl Seat {
    fn take(api: &Rc<Api>) -> Option<Self> {
        let taken = api.backups.get();
        (taken < BACKUPS_PER_CORE_MAX).then(|| {
            api.backups.set(taken + 1);
            Self(Rc::clone(api))
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.backups.set(self.0.backups.get() - 1);
    }
}

pub(super) async fn serve(api: Rc<Api>, mut call: Call) {
    if let Err(status) = call.messages.unary().await {
        return call.reply.finish(Err(status));
    }
    let Some(_seat) = Seat::take(&api) else {
        return call.reply.finish(Err(ApiError::TooManyRequests.into()));
    };
    let mut reply = call.reply;
    let file = match unless_closed(&mut reply, newest_file(&api)).await {
        Ok(file) => file,
        Err(closed) => return give_up(reply, closed),
    };
    let file = match file {
        Ok(file) => file,
        Err(error) => return reply.finish(Err(error.into())),
    };
    let began = Instant::now();
    let (path, bytes) = (file.path.clone(), file.snapshot.image_bytes());
    tracing::info!(path, bytes, "sending a backup to a client");
    let work = move |feed: &mut Feed<Piece>| read_file(file, feed);
    match runtime::spawn_feeding(BACKUP_MESSAGES_AHEAD, work) {
        Err(error) => {
            let status = Status::unavailable(format!("no thread to read on: {error}"));
            reply.finish(Err(status));
        }
        Ok(fed) => {
            if pass_on(&api, fed, reply).await {
                let took = began.elapsed();
                api.metrics.disk.backend_snapshot.observe_duration(took);
                let took_ms = took.as_millis() as u64;
                tracing::info!(path, bytes, took_ms, "sent a backup to a client");
            }
        }
    }
}

/// The file of a snapshot that holds everything that was applied when the call came.
async fn newest_file(api: &Api) -> Result<PinnedFile, ApiError> {
    if let (Some(file), true) = pinned(api).await? {
        return Ok(file);
    }
    match api.ask_without_limit(Ask::Checkpoint).await? {
        Answer::Checkpointed(_) => {}
        other => unreachable!("a checkpoint is answered when it is durable, not with {other:?}"),
    }
    let (file, _) = pinned(api).await?;
    Ok(file.expect("there is a snapshot when a checkpoint is durable"))
}

async fn pinned(api: &Api) -> Result<(Option<PinnedFile>, bool), ApiError> {
    match api.ask(Ask::PinSnapshot).await? {
        Answer::Pinned(file, is_complete) => Ok((file, is_complete)),
        other => unreachable!("a pin is answered with a file, not {other:?}"),
    }
}

/// Hands the messages to the client, slowly while others call; true if it has all of them.
async fn pass_on(api: &Rc<Api>, mut fed: Fed<Piece>, mut reply: Replies) -> bool {
    let mut calls = api.metrics.client.unary_count();
    loop {
        let piece = match unless_closed(&mut reply, fed.next()).await {
            Ok(piece) => piece,
            Err(closed) => {
                give_up(reply, closed);
                return false;
            }
        };
        match piece {
            Some(Piece::Message(message)) => {
                if reply.send_raw(message).await.is_err() {
                    return false;
                }
                let before = std::mem::replace(&mut calls, api.metrics.client.unary_count());
                if calls > before
                    && let Err(closed) =
                        unless_closed(&mut reply, runtime::sleep(BACKUP_PAUSE)).await
                {
                    give_up(reply, closed);
                    return false;
                }
            }
            Some(Piece::Complete) => {
                reply.finish(Ok(()));
                return true;
            }
            Some(Piece::Failed(status)) => {
                tracing::error!("a backup failed: {}", status.message());
                if status.code() == Code::DataLoss {
                    runtime::spawn(Rc::clone(api).find_damage());
                }
                reply.finish(Err(status));
                return false;
            }
            None => {
                reply.finish(Err(Status::internal(
                    "the thread that read the file is gone",
                )));
                return false;
            }
        }
    }
}

async fn unless_closed<T>(
    reply: &mut Replies,
    wanted: impl Future<Output = T>,
) -> Result<T, Closed> {
    let wanted = async { Ok(wanted.await) };
    let closed = async { Err(reply.closed().await) };
    or(wanted, closed).await
}

/// A member that stops does not wait for a client that copies gigabytes.
fn give_up(reply: Replies, closed: Closed) {
    match closed {
        Closed::Gone => {}
        Closed::Stopping => reply.finish(Err(ApiError::Stopped.into())),
    }
}

/// The helper thread.
fn read_file(file: PinnedFile, feed: &mut Feed<Piece>) {
    runtime::step_back();
    give_way_at_disk();
    let source = OpenImage::open(&file.snapshot).map_err(Stop::from);
    let sent = source
        .as_ref()
        .map_err(Stop::clone)
        .and_then(|source| send_file(source, file, feed));
    let end = match sent {
        Ok(()) => Some(Piece::Complete),
        Err(Stop::Failed(status)) => Some(Piece::Failed(status)),
        Err(Stop::Gone) => None,
    };
    if let Some(end) = end {
        // A receiver that is gone needs no end.
        let _ = feed.send(end);
    }
    if let Ok(source) = source {
        source.release();
    }
}

fn send_file(source: &OpenImage, file: PinnedFile, feed: &mut Feed<Piece>) -> Result<(), Stop> {
    let total = source.bytes();
    let audit = Audit::new(&file.snapshot);
    drop(file);
    thread::scope(|scope| {
        let pieces = ReadAhead::start(scope, source, total, BACKUP_READ_BYTES);
        send_pieces(pieces, (audit, source), total, feed)
    })
}

fn send_pieces(
    pieces: ReadAhead,
    (mut audit, source): (Audit, &OpenImage),
    total: u64,
    feed: &mut Feed<Piece>,
) -> Result<(), Stop> {
    let mut hash = Sha256::new();
    let mut sent = 0;
    for piece in pieces {
        let piece = piece?;
        for blob in piece.as_slice().chunks(BACKUP_BLOB_BYTES) {
            for slice in blob.chunks(SLICE_BYTES) {
                audit.take(slice).map_err(|flaw| damaged(source, &flaw))?;
                hash.update(slice);
                give_way();
            }
            sent += blob.len() as u64;
            feed.send(message(total - sent, blob))?;
        }
    }
    audit.finish().map_err(|flaw| damaged(source, &flaw))?;
    feed.send(message(0, &hash.finalize()))?;
    Ok(())
}

/// Tag of `SnapshotResponse.blob`.
const BLOB_TAG: u32 = 3;

/// As in etcd: no header, and the storage version in every message. Field order does not matter in protobuf, so the blob
/// comes last and is copied once.
fn message(remaining_bytes: u64, blob: &[u8]) -> Piece {
    let head = SnapshotResponse {
        header: None,
        remaining_bytes,
        blob: Bytes::new(),
        version: version::STORAGE.to_owned(),
    };
    let blob_bytes = blob.len() as u64;
    let before = key_len(BLOB_TAG) + encoded_len_varint(blob_bytes);
    let total = head.encoded_len() + before + blob.len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + total);
    out.put_u8(0);
    out.put_u32(u32::try_from(total).expect("a blob is much smaller than 4 GiB"));
    head.encode(&mut out).expect("a BytesMut grows as needed");
    encode_key(BLOB_TAG, WireType::LengthDelimited, &mut out);
    encode_varint(blob_bytes, &mut out);
    out.put_slice(blob);
    Piece::Message(out.freeze())
}

fn damaged(source: &OpenImage, flaw: &Flaw) -> Stop {
    let (path, offset) = source.place_of(flaw.offset);
    Stop::Failed(Status::data_loss(format!(
        "the snapshot file {path} is damaged: byte {offset}: {}. This is no backup. `keelson inspect verify`, on the \
         stopped member, says which keys depend on it",
        flaw.reason
    )))
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Failed(Status::unavailable(error.to_string()))
    }
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_generated_type() {
        let bytes = vec![7; BACKUP_BLOB_BYTES];
        for (remaining_bytes, blob) in [(1 << 40, &bytes[..]), (0, &bytes[..32])] {
            let Piece::Message(framed) = message(remaining_bytes, blob) else {
                panic!("a message");
            };
            assert_eq!(framed[0], 0);
            let total = u32::from_be_bytes(*framed[1..].first_chunk().expect("a length"));
            assert_eq!(total as usize, framed.len() - PREFIX_BYTES);
            let decoded = SnapshotResponse::decode(&framed[PREFIX_BYTES..]).expect("well formed");
            let wanted = SnapshotResponse {
                header: None,
                remaining_bytes,
                blob: Bytes::copy_from_slice(blob),
                version: version::STORAGE.to_owned(),
            };
            assert_eq!(decoded, wanted);
        }
    }
}
