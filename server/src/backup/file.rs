//! A backup on the disk: telling whether it is one, and reading all of it with every checksum compared.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use keelson_storage::io::{
    DirectFile, Disk, FileEntry, Piece, ReadAhead, ReadOnlyDisk, SLICE_BYTES, give_way,
};
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use keelson_storage::snapshot::{Audit, FileKind, Snapshot, SnapshotError};
use sha2::{Digest, Sha256};

/// A SHA-256, as it stands at the end of a backup.
pub(super) type Hash = [u8; 32];

/// What is read at once, and then written; a member's log on the same disk waits behind a few of these.
const READ_BYTES: usize = 256 << 10;

/// A backup whose index is sound.
#[derive(Debug)]
pub(super) struct BackupFile {
    path: PathBuf,
    /// What is in it.
    pub(super) snapshot: Snapshot,
    /// The hash at its end. A snapshot file copied from a data directory has none.
    pub(super) hash: Option<Hash>,
}

/// What became of reading all of a file.
pub(super) struct Content {
    /// SHA-256 of everything but the hash at the end.
    pub(super) hash: Hash,
}

impl BackupFile {
    /// Opens a file and loads its index.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot look at {shown}"))?;
        if !metadata.is_file() {
            bail!("{shown} is not a file");
        }
        let bytes = metadata.len();
        let first = read_at(&file, path, 0, bytes.min(SNAPSHOT_BLOCK_BYTES as u64))?;
        match FileKind::of(&first) {
            FileKind::Snapshot => {}
            FileKind::Etcd => bail!(
                "{shown} is a database of etcd, not a backup of Keelson: make a data directory of it with \
                 `keelson snapshot import`"
            ),
            FileKind::Blank => bail!("{shown} is empty, or was never finished: it is no backup"),
            FileKind::Unknown => {
                bail!("{shown} is not a backup of Keelson: it does not begin as one")
            }
        }
        // A first block that says nothing of a length is refused below.
        let content_bytes = Snapshot::file_bytes_by(&first).unwrap_or(bytes);
        let hash = match bytes.checked_sub(content_bytes) {
            None => bail!(
                "{shown} was cut short: it has {bytes} bytes of {content_bytes}. Use another backup"
            ),
            Some(0) => None,
            Some(32) => {
                let end = read_at(&file, path, content_bytes, 32)?;
                Some(end.try_into().expect("32 bytes were read"))
            }
            Some(more) => bail!(
                "{shown} has {more} bytes behind its end, where the 32 bytes of a SHA-256 belong: it is no backup, \
                 or was changed"
            ),
        };
        let snapshot = load(path, content_bytes)?;
        if !snapshot.lenders().is_empty() {
            bail!(
                "{shown} has only a part of its values: it is the file of a member, whose earlier files have the rest. \
                 Use what `keelson snapshot save` or `etcdctl snapshot save` wrote"
            );
        }
        Ok(Self {
            snapshot,
            path: path.to_path_buf(),
            hash,
        })
    }

    /// Length without the hash.
    pub(super) fn content_bytes(&self) -> u64 {
        self.snapshot.file_bytes()
    }

    /// Reads the file from its start to its end, without the hash. Everything is compared with its checksum before
    /// `take` gets it, in whole blocks.
    pub(super) fn read(
        &self,
        bar: &ProgressBar,
        mut take: impl FnMut(Piece) -> anyhow::Result<()>,
    ) -> anyhow::Result<Content> {
        let source = DirectFile::open(&self.path)?;
        thread::scope(|scope| {
            let pieces = ReadAhead::start(scope, &source, self.content_bytes(), READ_BYTES);
            self.read_pieces(pieces, bar, &mut take)
        })
    }

    fn read_pieces(
        &self,
        pieces: ReadAhead,
        bar: &ProgressBar,
        take: &mut impl FnMut(Piece) -> anyhow::Result<()>,
    ) -> anyhow::Result<Content> {
        let mut audit = Audit::new(&self.snapshot);
        let mut hash = Sha256::new();
        let mut offset = 0;
        for piece in pieces {
            let piece = piece?;
            for slice in piece.as_slice().chunks(SLICE_BYTES) {
                audit
                    .take(slice)
                    .map_err(|flaw| explain(self.snapshot.damaged_by(&flaw)))?;
                hash.update(slice);
                give_way();
            }
            offset += piece.len() as u64;
            bar.set_position(offset);
            take(piece)?;
        }
        audit
            .finish()
            .map_err(|flaw| explain(self.snapshot.damaged_by(&flaw)))?;
        Ok(Content {
            hash: hash.finalize().into(),
        })
    }

    /// Compares the hash at the end with what was read. A file without one passes.
    pub(super) fn check_hash(&self, content: &Content) -> anyhow::Result<()> {
        match self.hash {
            Some(expected) if expected != content.hash => bail!(
                "{}: expected sha256 {}, got {}: the file was changed. Its pages are as they were written, so the \
                 hash at its end may be what was changed; --skip-hash-check restores it all the same",
                self.path.display(),
                hex(&expected),
                hex(&content.hash)
            ),
            _ => Ok(()),
        }
    }
}

/// Loads the index of a file, of which the first bytes count.
pub(super) fn load(path: &Path, bytes: u64) -> anyhow::Result<Snapshot> {
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.with_context(|| format!("{} has a name that is no text", path.display()))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut disk = ReadOnlyDisk::new(directory);
    let file = disk.open(name)?;
    let entry = FileEntry {
        name: name.to_owned(),
        bytes,
        is_file: true,
    };
    Snapshot::load(&mut disk, file, &entry).map_err(explain)
}

/// An error of a snapshot file in the words for a backup: what a member's file should be followed by does not help here.
fn explain(error: SnapshotError) -> anyhow::Error {
    match error {
        SnapshotError::Damaged {
            file,
            offset,
            reason,
            affected,
        } => anyhow::anyhow!(
            "{file} is damaged: byte {offset}: {reason}. It holds {affected}. Use another backup"
        ),
        other => other.into(),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_at(file: &File, path: &Path, offset: u64, bytes: u64) -> anyhow::Result<Vec<u8>> {
    let mut buf = vec![0; bytes as usize];
    file.read_exact_at(&mut buf, offset)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(buf)
}
