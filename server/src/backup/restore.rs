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
use std::thread;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use keelson_storage::dir::{MAIN_SHARD, shard_id};
use keelson_storage::ids::SnapshotSeq;
use keelson_storage::io::{DirectWriter, WriteBehind};
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use keelson_storage::snapshot::{Meta, Transplant};

use super::Restore;
use super::courtesy::Courtesy;
use super::draft::{Draft, check_vacant};
use super::file::{BackupFile, load};
use super::interrupt::watch_for_interrupts;
use super::progress::bytes_bar;

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
    writer.reserve(transplant.kept_bytes + transplant.tail.len() as u64)?;
    let mut courtesy = Courtesy::for_disk_of(target);
    let content = thread::scope(|scope| {
        let mut behind = WriteBehind::start(scope, &writer);
        let mut offset = 0;
        let content = backup.read(bar, |mut piece| {
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let start = offset;
            offset += piece.len() as u64;
            if start == 0 {
                // The first block comes last.
                piece.as_mut_slice()[..SNAPSHOT_BLOCK_BYTES].fill(0);
            }
            // From there on the copy is another file.
            let kept = transplant.kept_bytes.min(offset).saturating_sub(start);
            piece.resize(usize::try_from(kept).expect("it is a part of a piece"));
            if !piece.is_empty() {
                behind.write(start, piece)?;
            }
            courtesy.pause();
            Ok(())
        })?;
        behind.finish()?;
        anyhow::Ok(content)
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
