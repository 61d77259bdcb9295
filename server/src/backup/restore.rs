//! `keelson snapshot restore`: the data directory of a new cluster's only member, made of a backup.
//!
//! ```text
//!   FILE -> read, every checksum compared -> DIR.restoring/member/snap-0000/00000001.snap  (first block blank)
//!        -> hash compared -> new meta page and page table behind -> sync -> first block -> sync -> rename to DIR
//! ```
//!
//! Backups of further shards go beside it, into the directories of their ids, before DIR gets its name.
//!
//! The log is left to the member's first start: the directory has none, and an empty log behind a snapshot is one that
//! goes on where the snapshot ends. What of the old cluster's state is kept stands at `Meta::for_new_cluster`.
//! What a crash leaves stands in [`draft`](super::draft).

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::thread;

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use keelson_storage::dir::{MAIN_SHARD, shard_id};
use keelson_storage::ids::SnapshotSeq;
use keelson_storage::io::{AlignedBuf, DirectWriter, DiskError};
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use keelson_storage::snapshot::{Meta, Transplant};

use super::Restore;
use super::draft::{Draft, check_vacant};
use super::file::{BackupFile, load};
use super::interrupt::watch_for_interrupts;
use super::progress::bytes_bar;

/// Pieces that were read and are not written.
const PIECES_AHEAD: usize = 4;

/// Makes the directory; the text to print.
pub(super) fn restore(asked: &Restore) -> anyhow::Result<String> {
    check_vacant(&asked.data_dir)?;
    let main = (MAIN_SHARD, asked.file.as_path());
    let others = asked.shards.iter();
    let others = others.map(|(name, file)| (name.as_str(), file.as_path()));
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (name, file) in std::iter::once(main).chain(others) {
        if parts
            .iter()
            .any(|part| shard_id(part.name) == shard_id(name))
        {
            bail!("--shard {name}: it is there twice, or has the id of another one");
        }
        parts.push(Part::open(asked, name, file)?);
    }
    let interrupted = watch_for_interrupts()?;
    let mut draft = Draft::create(&asked.data_dir)?;
    let mut text = String::new();
    for part in &parts {
        let folder = match part.name {
            MAIN_SHARD => draft.snapshots().to_path_buf(),
            other => draft.snapshots_of(shard_id(other))?,
        };
        part.write(&folder, asked.skip_hash_check, &interrupted)?;
        text += &part.summary(asked);
    }
    draft.complete(&asked.data_dir)?;
    Ok(text)
}

/// A shard that is restored.
struct Part<'a> {
    name: &'a str,
    file: &'a Path,
    backup: BackupFile,
    meta: Meta,
}

impl<'a> Part<'a> {
    /// Whatever can be refused is, before anything is created.
    fn open(asked: &Restore, name: &'a str, file: &'a Path) -> anyhow::Result<Self> {
        let backup = BackupFile::open(file)?;
        if backup.hash.is_none() && !asked.skip_hash_check {
            bail!(
                "{}: snapshot missing hash but --skip-hash-check=false: its end was cut off, or it was copied from a \
                 data directory. Its pages are verified in any case",
                file.display()
            );
        }
        let meta = new_meta(asked, &backup)?;
        Ok(Self {
            name,
            file,
            backup,
            meta,
        })
    }

    fn write(
        &self,
        folder: &Path,
        skip_hash_check: bool,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<()> {
        let backup = &self.backup;
        let transplant = backup.snapshot.with_meta(SnapshotSeq(1), &self.meta);
        let path = folder.join(&transplant.file_name);
        let bar = bytes_bar("restoring", backup.content_bytes());
        copy(
            backup,
            &transplant,
            &path,
            skip_hash_check,
            &bar,
            interrupted,
        )?;
        bar.finish_and_clear();
        check_result(&path, &self.meta)
    }

    fn summary(&self, asked: &Restore) -> String {
        summary(
            asked,
            self.file,
            &self.meta,
            self.backup.snapshot.live_count(),
        )
    }
}

fn new_meta(asked: &Restore, backup: &BackupFile) -> anyhow::Result<Meta> {
    let cluster = asked.founding.cluster();
    let old = backup.snapshot.meta();
    let meta = old.for_new_cluster(cluster, asked.revision_bump);
    meta.with_context(|| {
        format!(
            "--bump-revision {}: there is no such revision beyond {}",
            asked.revision_bump, old.revision
        )
    })
}

/// Makes the new file, durably. Reading with its checksums and writing run side by side.
fn copy(
    backup: &BackupFile,
    transplant: &Transplant,
    target: &Path,
    skip_hash_check: bool,
    bar: &ProgressBar,
    interrupted: &AtomicBool,
) -> anyhow::Result<()> {
    let writer = DirectWriter::create(target)?;
    let content = thread::scope(|scope| {
        let (pieces, waiting) = sync_channel(PIECES_AHEAD);
        let writing = scope.spawn(|| write_pieces(&writer, transplant.kept_bytes, waiting));
        let read = backup.read(bar, |piece, free| {
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            // The thread has ended because it cannot write; what it says of that counts.
            let sent = pieces.send((piece, free.clone()));
            sent.map_err(|_| anyhow!("nobody writes"))
        });
        drop(pieces);
        let written = writing.join();
        written.map_err(|_| anyhow!("the writing thread panicked"))??;
        read
    })?;
    if !skip_hash_check {
        backup.check_hash(&content)?;
    }
    writer.write(transplant.kept_bytes, &transplant.tail)?;
    writer.sync()?;
    writer.write(0, &transplant.superblock)?;
    writer.sync()?;
    Ok(())
}

/// Writes what comes, from the second block on up to where the copy is another file.
fn write_pieces(
    writer: &DirectWriter,
    kept_bytes: u64,
    pieces: Receiver<(AlignedBuf, Sender<AlignedBuf>)>,
) -> Result<(), DiskError> {
    let mut offset = 0;
    for (mut piece, free) in pieces {
        let end = offset + piece.len() as u64;
        if offset == 0 {
            // The first block comes last.
            piece.as_mut_slice()[..SNAPSHOT_BLOCK_BYTES].fill(0);
        }
        let kept = kept_bytes.min(end).saturating_sub(offset);
        piece.resize(usize::try_from(kept).expect("it is a part of a piece"));
        if !piece.is_empty() {
            writer.write(offset, &piece)?;
        }
        offset = end;
        // After the last piece nobody wants it.
        let _ = free.send(piece);
    }
    Ok(())
}

/// Loads what was written, as a member will.
fn check_result(path: &Path, meta: &Meta) -> anyhow::Result<()> {
    let bytes = std::fs::metadata(path)?.len();
    let restored = load(path, bytes)?;
    if restored.meta() != meta {
        bail!("{} does not hold what was written to it", path.display());
    }
    Ok(())
}

fn summary(asked: &Restore, file: &Path, meta: &Meta, keys: u64) -> String {
    let mut text = format!(
        "Restored {} to {}: {keys} keys at revision {}",
        file.display(),
        asked.data_dir.display(),
        meta.revision
    );
    let _infallible = match asked.revision_bump {
        0 => writeln!(text),
        _ => writeln!(text, ", everything before it compacted"),
    };
    for member in meta.cluster.members.values() {
        let _infallible = writeln!(
            text,
            "Cluster {:x}, member {:x} ({})",
            meta.cluster.cluster_id.0, member.id, member.name
        );
    }
    text
}
