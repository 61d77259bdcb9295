//! `keelson snapshot save`: a client of `Maintenance.Snapshot`.
//!
//! ```text
//!   member --messages--> receiving thread --blobs, a few ahead--> hashing thread --pieces--> writing threads: FILE.part
//! ```
//!
//! The hash of everything that came is compared with what came last, and only then the file gets its name.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use indicatif::ProgressBar;
use keelson_proto::etcdserverpb::SnapshotRequest;
use keelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_storage::io::{
    DirectWriter, DiskError, PartFile, Piece, Pool, SLICE_BYTES, WriteBehind, give_way,
};
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use sha2::{Digest, Sha256};
use tonic::transport::Endpoint;

use super::Save;
use super::file::{Hash, hex};
use super::interrupt::watch_for_interrupts;
use super::progress::bytes_bar;

/// Blobs that have come and are not written.
const BLOBS_AHEAD: usize = 16;
/// Bytes of the hash at the end.
const HASH_BYTES: usize = size_of::<Hash>();
/// A backup is made of sectors and the hash; etcd's tools look for that too.
const SECTOR_BYTES: u64 = 512;
/// What a member may send ahead of what is taken, in bytes.
const WINDOW_BYTES: u32 = 8 << 20;
/// How often it is looked whether somebody interrupts.
const INTERRUPT_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// What is written at once, and how many buffers there are for it. A member's log on the same disk waits behind two.
const WRITE_BYTES: usize = 256 << 10;
const WRITE_BUFFERS: usize = 6;

/// Takes a backup, and says so.
pub(super) fn save(asked: &Save) -> anyhow::Result<()> {
    let interrupted = watch_for_interrupts()?;
    let part = PartFile::claim(&asked.file)
        .with_context(|| format!("cannot write {}", asked.file.display()))?;
    let file = DirectWriter::open(part.path())?;
    let (blobs, waiting) = sync_channel::<Blob>(BLOBS_AHEAD);
    let (received, written) = thread::scope(|scope| {
        let writing = scope.spawn(|| write(&file, waiting));
        (receive(asked, blobs, &interrupted), writing.join())
    });
    let written = written.map_err(|_| anyhow!("the writing thread panicked"))?;
    // A disk that is full is the reason why nobody took what came.
    let written = written.with_context(|| format!("cannot write {}", part.path().display()));
    let (bar, version) = match (received, written) {
        (Ok(received), Ok(written)) => {
            written.check()?;
            received
        }
        (Err(error), Ok(_)) | (_, Err(error)) => return Err(error),
    };
    part.complete(&asked.file)?;
    bar.finish_and_clear();
    println!("Snapshot saved at {}", asked.file.display());
    if !version.is_empty() {
        println!("Server version {version}");
    }
    Ok(())
}

/// Receives everything; the bar, and the version of the server.
fn receive(
    asked: &Save,
    blobs: SyncSender<Blob>,
    interrupted: &AtomicBool,
) -> anyhow::Result<(ProgressBar, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(unless(interrupted, async {
        let endpoint = Endpoint::from_shared(asked.endpoint.to_string())?
            .connect_timeout(asked.dial_timeout)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| format!("no connection to {}", asked.endpoint))?;
        let mut client = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
        let refused = |status: tonic::Status| {
            anyhow!(
                "{} gives no backup: {} ({:?})",
                asked.endpoint,
                status.message(),
                status.code()
            )
        };
        let answer = client.snapshot(SnapshotRequest {}).await;
        let mut messages = answer.map_err(refused)?.into_inner();
        let mut first: Option<(ProgressBar, String)> = None;
        while let Some(message) = messages.message().await.map_err(refused)? {
            let bytes = message.blob.len() as u64;
            let (bar, _) = first.get_or_insert_with(|| {
                let total = message.remaining_bytes + bytes;
                (bytes_bar("receiving", total), message.version.clone())
            });
            bar.inc(bytes);
            give_way();
            // The thread has ended because it cannot write; what it says of that counts.
            let blob = Blob {
                bytes: message.blob,
                remaining_bytes: message.remaining_bytes,
            };
            if blobs.send(blob).is_err() {
                break;
            }
        }
        first.with_context(|| format!("{} sent an empty backup", asked.endpoint))
    }))
}

/// What `work` comes to, unless somebody interrupts.
async fn unless<T>(
    interrupted: &AtomicBool,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let interrupt = async {
        while !interrupted.load(Ordering::Relaxed) {
            tokio::time::sleep(INTERRUPT_CHECK_INTERVAL).await;
        }
        Err(anyhow!("interrupted"))
    };
    futures_lite::future::or(interrupt, work).await
}

/// A part of the backup, and what the member says is to come after it.
struct Blob {
    bytes: Bytes,
    remaining_bytes: u64,
}

/// What the hashing thread has seen.
struct Written {
    bytes: u64,
    /// Of everything but the last bytes.
    hash: Hash,
    /// The last bytes; fewer if there were not so many.
    last: Vec<u8>,
}

/// Hashes everything that comes, has it written, and brings it to the disk.
fn write(file: &DirectWriter, blobs: Receiver<Blob>) -> Result<Written, DiskError> {
    let mut hash = Sha256::new();
    let mut last = Vec::with_capacity(2 * HASH_BYTES);
    let bytes = thread::scope(|scope| {
        let mut out = Blocks::new(WriteBehind::start(scope, file));
        for blob in blobs {
            if out.is_empty() {
                // A disk without room for it says so before anything has come.
                let bytes = blob.bytes.len() as u64;
                file.reserve(bytes.saturating_add(blob.remaining_bytes))?;
            }
            for slice in blob.bytes.chunks(SLICE_BYTES) {
                out.append(slice)?;
                // What may be the hash is held back.
                let (middle, end) = slice.split_at(slice.len() - slice.len().min(HASH_BYTES));
                last.extend_from_slice(end);
                let before = last.len().saturating_sub(HASH_BYTES);
                hash.update(&last[..before]);
                last.drain(..before);
                hash.update(middle);
                give_way();
            }
        }
        out.finish()
    })?;
    file.truncate(bytes)?;
    file.sync()?;
    Ok(Written {
        bytes,
        hash: hash.finalize().into(),
        last,
    })
}

/// Bytes of any number on their way into writes of whole blocks.
struct Blocks<'scope> {
    behind: WriteBehind<'scope>,
    pool: Pool,
    piece: Piece,
    /// Where the bytes in `piece` belong.
    offset: u64,
}

impl<'scope> Blocks<'scope> {
    fn new(behind: WriteBehind<'scope>) -> Self {
        let pool = Pool::new(WRITE_BUFFERS, WRITE_BYTES);
        Self {
            behind,
            piece: pool.take(),
            pool,
            offset: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.offset == 0 && self.piece.is_empty()
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(WRITE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == WRITE_BYTES {
                let full = std::mem::replace(&mut self.piece, self.pool.take());
                self.behind.write(self.offset, full)?;
                self.offset += WRITE_BYTES as u64;
            }
        }
        Ok(())
    }

    /// Writes the rest, filled up to a block; how many bytes there were.
    fn finish(mut self) -> Result<u64, DiskError> {
        let bytes = self.offset + self.piece.len() as u64;
        let filled = self.piece.len().next_multiple_of(SNAPSHOT_BLOCK_BYTES);
        self.piece.resize(filled);
        if filled > 0 {
            self.behind.write(self.offset, self.piece)?;
        }
        self.behind.finish()?;
        Ok(bytes)
    }
}

impl Written {
    fn check(&self) -> anyhow::Result<()> {
        if self.bytes % SECTOR_BYTES != HASH_BYTES as u64 {
            bail!(
                "the backup ends without its sha256: {} bytes came. Try again",
                self.bytes
            );
        }
        if self.last != self.hash {
            bail!(
                "expected sha256 {}, got {}: the backup was changed on its way. Try again",
                hex(&self.last),
                hex(&self.hash)
            );
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn written(blobs: &[&[u8]]) -> (Written, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let (sender, receiver) = sync_channel(blobs.len());
        for blob in blobs {
            let bytes = Bytes::copy_from_slice(blob);
            let remaining_bytes = 0;
            let blob = Blob {
                bytes,
                remaining_bytes,
            };
            sender.send(blob).unwrap();
        }
        drop(sender);
        let written = write(&DirectWriter::create(&path).unwrap(), receiver).unwrap();
        (written, std::fs::read(&path).unwrap())
    }

    /// However the bytes are cut into messages, the last 32 are the hash of the others.
    #[test]
    fn g_d_7_the_hash_is_that_of_everything_before_it() {
        let content: Vec<u8> = (0..1024_u32).map(|byte| byte as u8).collect();
        let hash: Hash = Sha256::digest(&content).into();
        let whole = [&content[..], &hash].concat();
        for cut in [1, 5, 31, 32, 33, 100, 1024, 1040, 2000] {
            let blobs: Vec<&[u8]> = whole.chunks(cut).collect();
            let (written, file) = written(&blobs);
            assert_eq!(file, whole, "cut at {cut}");
            written.check().unwrap();
        }
        for changed in [0, 500, 1023, 1024, 1055] {
            let mut wrong = whole.clone();
            wrong[changed] ^= 4;
            let error = written(&[&wrong]).0.check().unwrap_err().to_string();
            assert!(error.contains("expected sha256"), "{error}");
        }
        for bytes in [0, 1, 32, 512, 1024, 1055] {
            let cut = written(&[&whole[..bytes]]).0.check();
            assert!(cut.is_err(), "{bytes} bytes");
        }
    }
}
