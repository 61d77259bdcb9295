//! What a lane can refuse, by what the caller does about it.

use crate::ids::{LaneId, Lsn, SegmentSeq};
use crate::io::DiskError;

/// A lane's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Bytes that were durable are not what was written. Nothing was changed.
    #[error(
        "the write-ahead log is damaged: {file}, byte {offset}: {reason}. Records from number {lsn} on cannot be \
         trusted, and some of them were acknowledged, so nothing was cut and nothing was changed. Keep a copy of the \
         data directory and look into the disk. A member of a cluster: remove it, empty its data directory and add it \
         again. A single member: restore from a backup into an empty data directory"
    )]
    Damaged {
        /// Path of the segment file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: DamageReason,
        /// The first record that is lost, as far as it can be told.
        lsn: Lsn,
    },
    /// A segment that must exist does not.
    #[error(
        "segment {sequence} of write-ahead log lane {lane} is missing from {directory}: acknowledged records were in \
         it. If files were moved, put them back. Otherwise, for a member of a cluster: remove it, empty its data \
         directory and add it again; for a single member: restore from a backup into an empty data directory"
    )]
    MissingSegment {
        /// Path of the lane's directory.
        directory: String,
        /// The lane.
        lane: LaneId,
        /// The missing segment.
        sequence: SegmentSeq,
    },
    /// A file that is not a segment of this lane.
    #[error(
        "{file} does not belong in this directory: {problem}. Move it away, or correct the data directory setting"
    )]
    ForeignFile {
        /// Path of the file.
        file: String,
        /// Why it does not belong.
        problem: &'static str,
    },
    /// Written by a later version.
    #[error(
        "{file} was written in format {found}, and this version reads up to format {known}: start the version that wrote it, or a later one"
    )]
    NewerFormat {
        /// Path of the file.
        file: String,
        /// What was found, as text.
        found: String,
        /// What this version knows.
        known: u32,
    },
    /// The payload is larger than the lane takes: split the batch.
    #[error(
        "a record of {bytes} bytes does not fit the write-ahead log, which takes {max} at most"
    )]
    RecordTooLarge {
        /// Payload bytes.
        bytes: u64,
        /// Largest payload.
        max: u64,
    },
    /// Too much waits for the disk: apply back-pressure and come again.
    #[error("{pending} bytes wait for the disk, and {max} is the limit")]
    Backlogged {
        /// Bytes appended and not yet durable.
        pending: u64,
        /// The limit.
        max: u64,
    },
    /// The configuration is out of bounds.
    #[error("{0}")]
    Config(&'static str),
    /// A disk call of start-up failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The present segment is full, and the disk has no room for the next one. Nothing was lost, and what waits is not durable.
    #[error(
        "the disk is full: the write-ahead log needs its next segment and cannot make it ({cause}). What was acknowledged is \
         safe. Make room on the disk of the data directory and start again"
    )]
    NoRoom {
        /// Why not.
        cause: DiskError,
    },
    /// A write or flush of the log failed: nothing after the last reported position is known to be on
    /// disk, nothing will be accepted any more, and the process must end.
    #[error("the write-ahead log stopped after a failed write and accepts nothing more: {cause}")]
    Poisoned {
        /// The first failure.
        cause: DiskError,
    },
}

/// What is wrong with a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageReason {
    /// The header block of a segment.
    #[error("the segment header does not match its checksum")]
    SegmentHeader,
    /// A segment without a header holds data.
    #[error("the segment header is blank although the file holds data")]
    BlankHeader,
    /// Two files claim the same place.
    #[error("another file claims to be the same segment")]
    DuplicateSegment,
    /// The file is shorter than its header says.
    #[error("the file was cut short")]
    Truncated,
    /// No readable group where later groups prove that one was durable.
    #[error("a group that later ones prove durable is unreadable")]
    GroupLost,
    /// A group's header is sound, its records are not, and later groups prove that it was durable.
    #[error("the records of a group that later ones prove durable do not match their checksums")]
    BodyLost,
    /// The last group was written to its last sector, and its records do not match.
    #[error("the last group was written completely and its records do not match their checksums")]
    BodyComplete,
    /// A sound group stands where it was never written.
    #[error("a group of another place in the log was found here")]
    Misplaced,
}
