//! `keelson snapshot restore`: the data directory of a new cluster's only member, made of a backup.
//!
//! ```text
//!   FILE -> read, every checksum compared -> DIR.restoring/member/snap-0000/00000001.snap  (first block blank)
//!        -> hash compared -> new meta page and page table behind -> sync -> first block -> sync -> rename to DIR
//! ```
//!
//! The log is left to the member's first start: the directory has none, and an empty log behind a snapshot is one that
//! goes on where the snapshot ends. What of the old cluster's state is kept stands at `Meta::for_new_cluster`.
//!
//! What a crash leaves: `DIR.restoring`, which no member is started with, or the finished DIR. If DIR is there, and empty,
//! everything happens in `DIR/.restoring`, and its parts move up at the end: a crash leaves a DIR that a member refuses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use keelson_consensus::bootstrap;
use keelson_storage::dir::DataDir;
use keelson_storage::ids::{MemberId, ShardId, SnapshotSeq};
use keelson_storage::io::{AlignedBuf, DirectWriter, DiskError};
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use keelson_storage::snapshot::{Meta, Transplant};
use keelson_storage::state::{Cluster, Member};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Restore;
use super::file::{BackupFile, load};
use super::progress::bytes_bar;
use crate::config::HttpUrl;

/// What the name of a directory that is not complete ends with.
const DRAFT_SUFFIX: &str = ".restoring";
/// What mkfs leaves at the root of a disk.
const LOST_AND_FOUND: &str = "lost+found";
/// Pieces that were read and are not written.
const PIECES_AHEAD: usize = 4;

/// Makes the directory; the text to print.
pub(super) fn restore(asked: &Restore) -> anyhow::Result<String> {
    check_vacant(&asked.data_dir)?;
    let backup = BackupFile::open(&asked.file)?;
    if backup.hash.is_none() && !asked.skip_hash_check {
        bail!(
            "{}: snapshot missing hash but --skip-hash-check=false: its end was cut off, or it was copied from a data \
             directory. Its pages are verified in any case",
            asked.file.display()
        );
    }
    let meta = new_meta(asked, &backup)?;
    let transplant = backup.snapshot.with_meta(SnapshotSeq(1), &meta);
    let interrupted = watch_for_interrupts()?;
    let draft = Draft::create(&asked.data_dir)?;
    let path = draft.snapshots.join(&transplant.file_name);
    let bar = bytes_bar("restoring", backup.content_bytes());
    copy(
        &backup,
        &transplant,
        &path,
        asked.skip_hash_check,
        &bar,
        &interrupted,
    )?;
    bar.finish_and_clear();
    check_result(&path, &meta)?;
    draft.complete(&asked.data_dir)?;
    Ok(summary(asked, &meta, backup.snapshot.live_count()))
}

/// A directory that exists must be empty, as etcdutl demands; what mkfs leaves at the root of a disk does not count.
fn check_vacant(data_dir: &Path) -> anyhow::Result<()> {
    let is_vacant = match std::fs::read_dir(data_dir) {
        Ok(mut entries) => {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND))
        }
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_vacant {
        return Ok(());
    }
    bail!(
        "data-dir {:?} not empty or could not be read: a backup is restored into a new or empty directory only",
        data_dir.display().to_string()
    );
}

fn new_meta(asked: &Restore, backup: &BackupFile) -> anyhow::Result<Meta> {
    let peer_urls: Vec<String> = asked.peer_urls.iter().map(HttpUrl::to_string).collect();
    let member = bootstrap::member_id(&peer_urls, &asked.cluster_token);
    let me = Member {
        id: member.0,
        name: asked.name.clone(),
        peer_urls,
        // The member says where clients reach it when it starts.
        client_urls: Vec::new(),
        is_learner: false,
    };
    let cluster = Cluster {
        cluster_id: bootstrap::cluster_id(&[member]),
        members: BTreeMap::from([(MemberId(me.id), me)]),
    };
    let old = backup.snapshot.meta();
    let meta = old.for_new_cluster(cluster, asked.revision_bump);
    meta.with_context(|| {
        format!(
            "--bump-revision {}: there is no such revision beyond {}",
            asked.revision_bump, old.revision
        )
    })
}

/// Set when somebody wants the tool to end: it then ends with an error, and takes back what it has done.
fn watch_for_interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
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
        let read = backup.read(bar, |piece| {
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            // The thread has ended because it cannot write; what it says of that counts.
            pieces.send(piece).map_err(|_| anyhow!("nobody writes"))
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
    pieces: Receiver<AlignedBuf>,
) -> Result<(), DiskError> {
    let mut offset = 0;
    for mut piece in pieces {
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

fn summary(asked: &Restore, meta: &Meta, keys: u64) -> String {
    let mut text = format!(
        "Restored {} to {}: {keys} keys at revision {}",
        asked.file.display(),
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

/// The directory until it is complete; removed unless it gets there. For a new directory it stands beside it and gets
/// its name by a rename. One that exists may be the root of a disk, so there it stands inside.
struct Draft {
    path: PathBuf,
    is_inside: bool,
    /// Held for its lock.
    dir: Option<DataDir>,
    snapshots: PathBuf,
}

impl Draft {
    fn create(data_dir: &Path) -> anyhow::Result<Self> {
        let is_inside = data_dir.exists();
        let path = if is_inside {
            data_dir.join(DRAFT_SUFFIX)
        } else {
            let name = data_dir.file_name().with_context(|| {
                format!("{} cannot be a new data directory", data_dir.display())
            })?;
            let mut draft_name = name.to_owned();
            draft_name.push(DRAFT_SUFFIX);
            data_dir.with_file_name(draft_name)
        };
        if path.exists() {
            bail!(
                "{} is there: another restore runs, or one was killed; in that case remove it",
                path.display()
            );
        }
        let mut draft = Self {
            path,
            is_inside,
            dir: None,
            snapshots: PathBuf::new(),
        };
        // From here on an error removes it.
        let dir = DataDir::open(&draft.path)?;
        draft.snapshots = dir.snapshots_path(ShardId(0))?;
        draft.dir = Some(dir);
        Ok(draft)
    }

    /// Gives it its name, for good.
    fn complete(mut self, data_dir: &Path) -> anyhow::Result<()> {
        sync(&self.snapshots)?;
        if self.is_inside {
            // A directory is a member's by its format file. So a crash before that leaves one that is refused.
            for name in ["member", "FORMAT"] {
                sync(data_dir)?;
                rename(&self.path.join(name), &data_dir.join(name))?;
            }
            return sync(data_dir);
        }
        rename(&self.path, data_dir)?;
        self.path = PathBuf::new();
        match data_dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
            _ => sync(Path::new(".")),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // One that cannot be removed is named by the next restore.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot rename to {}", to.display()))
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot sync {}", directory.display()))
}
