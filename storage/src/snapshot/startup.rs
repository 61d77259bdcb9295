//! The blocking steps of opening a directory of snapshots: which file counts, and which others are there.
//!
//! The newest finished file counts, and those that lend it values belong to it. Newer ones that look unfinished and all other older ones are leftovers of a crash, but for
//! one case: a finished file whose superblock was lost looks unfinished too. Only the log tells them apart, for it does
//! not go back further than the newest file that was ever finished. So nothing is removed here. Whoever opened the
//! directory has the leftovers removed when the log was replayed.
//!
//! A crash in the middle changes nothing that the next start decides, because the file that counts is made durable
//! before anything is removed: its superblock may have reached only the device's cache when the process died.

use super::borrowed::Lender;
use super::error::{Affected, SnapshotDamage, SnapshotError};
use super::snapshot::Snapshot;
use crate::ids::SnapshotSeq;
use crate::io::{AlignedBuf, Disk, DiskError, FileEntry, FileId};
use crate::limits::SNAPSHOT_BLOCK_BYTES;

const NAME_SUFFIX: &str = ".snap";

/// What was in the directory.
pub(super) struct Found {
    /// The file that counts.
    pub(super) newest: Option<(FileId, Snapshot)>,
    /// Those that lend it values, oldest first.
    pub(super) lenders: Vec<(FileId, Lender)>,
    /// All others.
    pub(super) leftovers: Vec<FileId>,
    /// Paths of those that look unfinished and are newer, newest first.
    pub(super) unfinished: Vec<String>,
    /// Highest number of any file.
    pub(super) sequence_max: SnapshotSeq,
}

/// The name of a file.
pub(super) fn file_name(sequence: SnapshotSeq) -> String {
    format!("{:08}{NAME_SUFFIX}", sequence.0)
}

fn sequence_of_name(name: &str) -> Option<SnapshotSeq> {
    let digits = name.strip_suffix(NAME_SUFFIX)?;
    let sequence = SnapshotSeq(digits.parse().ok()?);
    (file_name(sequence) == name && sequence.0 > 0).then_some(sequence)
}

/// The files of a directory, for tools.
#[derive(Debug)]
pub struct Listed {
    /// The file that counts, and its directory entry.
    pub newest: Option<(FileId, FileEntry)>,
    /// Paths of newer files that look unfinished, newest first.
    pub unfinished: Vec<String>,
}

/// Finds and loads the file that counts, and makes it durable.
pub(super) fn find<D: Disk>(disk: &mut D) -> Result<Found, SnapshotError> {
    let files = list(disk)?;
    let sequence_max = files
        .last()
        .map_or(SnapshotSeq(0), |(sequence, _)| *sequence);
    let mut leftovers = Vec::new();
    let mut unfinished = Vec::new();
    let mut lenders = Vec::new();
    let mut newest: Option<(FileId, Snapshot)> = None;
    for (sequence, entry) in files.into_iter().rev() {
        let file = disk.open(&entry.name)?;
        if let Some((_, newest)) = &newest {
            match newest.borrows_from(sequence) {
                true => lenders.push((file, entry)),
                false => leftovers.push(file),
            }
            continue;
        }
        if is_blank(disk, file)? {
            leftovers.push(file);
            unfinished.push(path_of(disk, &entry));
            continue;
        }
        let snapshot = Snapshot::load(disk, file, &entry)?;
        if snapshot.sequence() != sequence {
            return Err(SnapshotError::ForeignFile {
                file: path_of(disk, &entry),
                problem: "it was written under another name",
            });
        }
        newest = Some((file, snapshot));
    }
    if let Some((file, newest)) = &newest {
        disk.submit_flush(*file, 0);
        settle(disk)?;
        for lender in newest.lenders() {
            let name = lender.file_name();
            let mut entries = lenders.iter().map(|(_, entry)| entry);
            check_lender(disk, lender, entries.find(|entry| entry.name == name))?;
        }
    }
    // Both are in the order of their sequences: one from the newest on, the other from the oldest.
    let lenders = lenders.into_iter().rev().map(|(file, _)| file);
    let known = newest.iter().flat_map(|(_, newest)| newest.lenders());
    Ok(Found {
        lenders: lenders.zip(known.copied()).collect(),
        newest,
        leftovers,
        unfinished,
        sequence_max,
    })
}

/// Finds the file that counts; only reads, for tools.
pub(super) fn look<D: Disk>(disk: &mut D) -> Result<Listed, SnapshotError> {
    let mut unfinished = Vec::new();
    for (_, entry) in list(disk)?.into_iter().rev() {
        let file = disk.open(&entry.name)?;
        if !is_blank(disk, file)? {
            let newest = Some((file, entry));
            return Ok(Listed { newest, unfinished });
        }
        unfinished.push(path_of(disk, &entry));
    }
    Ok(Listed {
        newest: None,
        unfinished,
    })
}

/// Whether a file that lends values is there, and as long as it was.
pub(super) fn check_lender<D: Disk>(
    disk: &D,
    lender: &Lender,
    entry: Option<&FileEntry>,
) -> Result<(), SnapshotError> {
    let bytes = entry.map_or(0, |entry| entry.bytes);
    if bytes >= lender.file_bytes {
        return Ok(());
    }
    Err(SnapshotError::Damaged {
        file: format!("{}/{}", disk.location(), lender.file_name()),
        offset: bytes,
        reason: entry.map_or(SnapshotDamage::Missing, |_| SnapshotDamage::Truncated),
        affected: Affected::Everything,
    })
}

fn path_of<D: Disk>(disk: &D, entry: &FileEntry) -> String {
    format!("{}/{}", disk.location(), entry.name)
}

/// All files, oldest first.
fn list<D: Disk>(disk: &mut D) -> Result<Vec<(SnapshotSeq, FileEntry)>, SnapshotError> {
    let mut files = Vec::new();
    for entry in disk.list()? {
        let sequence = sequence_of_name(&entry.name).filter(|_| entry.is_file);
        let sequence = sequence.ok_or_else(|| SnapshotError::ForeignFile {
            file: path_of(disk, &entry),
            problem: "it is not a snapshot",
        })?;
        files.push((sequence, entry));
    }
    files.sort_by_key(|(sequence, _)| *sequence);
    Ok(files)
}

/// Whether a file looks unfinished. The first block may be missing: it is the last one written.
fn is_blank<D: Disk>(disk: &mut D, file: FileId) -> Result<bool, DiskError> {
    let mut block = AlignedBuf::with_capacity(SNAPSHOT_BLOCK_BYTES);
    disk.read(file, 0, SNAPSHOT_BLOCK_BYTES, &mut block)?;
    Ok(block.as_slice().iter().all(|byte| *byte == 0))
}

/// Waits for the one operation that was submitted.
fn settle<D: Disk>(disk: &mut D) -> Result<(), DiskError> {
    let mut completions = Vec::with_capacity(1);
    while completions.is_empty() {
        disk.wait()?;
        disk.reap(&mut completions);
    }
    completions
        .into_iter()
        .try_for_each(|completion| completion.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_no_other_is_taken() {
        for number in [1, 7, 99_999_999, 100_000_000, u64::MAX] {
            let name = file_name(SnapshotSeq(number));
            assert_eq!(sequence_of_name(&name), Some(SnapshotSeq(number)));
        }
        assert_eq!(file_name(SnapshotSeq(7)), "00000007.snap");
        for name in [
            "",
            ".snap",
            "00000000.snap",
            "7.snap",
            "+0000007.snap",
            "00000007.seg",
            "000000007.snap",
        ] {
            assert_eq!(sequence_of_name(name), None, "{name}");
        }
    }
}
