//! Whether an etcd's write-ahead log holds changes that its database does not.
//!
//! etcd answers a request when its log entry is committed and applied in memory; the database file
//! follows within 100 ms, and at a clean stop. After a kill the end of the log is the only place where
//! the last acknowledged writes are. This reads the log only to find that out; nothing is replayed.
//!
//! ```text
//!   SEQUENCE-INDEX.wal, both 16 hexadecimal digits; INDEX is the first entry a file may hold
//!   frame   | length: 56 bits record bytes, 3 bits padding, top bit set if there is any | record | padding |
//!   record  walpb.Record { type, crc, data }; crc is crc32c over the data of all records so far
//! ```
//!
//! A file is allocated ahead, so a length of 0 ends it. Only in the last file may a record be torn: a
//! sector of it is still zero, or the file ends within it. etcd cuts it off at its next start, and so it
//! was never acknowledged.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::error::EtcdDbError;
use crate::bbolt::BoltError;
use crate::ids::RaftIndex;

const ENTRY_RECORD: i64 = 2;
const CRC_RECORD: i64 = 4;
const SNAPSHOT_RECORD: i64 = 5;
const NORMAL_ENTRY: i32 = 0;

const FRAME_BYTES: u64 = 8;
const SECTOR_BYTES: usize = 512;
/// Bytes of one read of a log file.
const READ_BYTES: usize = 1 << 20;

/// The last change in the log that the database does not have, if there is any: an entry behind
/// `database_index` that asks for something, or a snapshot behind it.
///
/// Entries that were never committed count as well. A single member commits them at its next start.
pub(super) fn last_missing(
    wal_dir: &Path,
    database_index: RaftIndex,
) -> Result<Option<RaftIndex>, EtcdDbError> {
    let files = list_files(wal_dir)?;
    if files.is_empty() {
        return Err(EtcdDbError::NoWal {
            directory: wal_dir.display().to_string(),
        });
    }
    // A file holds entries from the index in its name on, so earlier ones say nothing about later ones.
    let may_matter = |(_, first): &&(PathBuf, u64)| *first > database_index.next().0;
    let later = files.iter().rev().take_while(may_matter).count();
    let start = files.len().saturating_sub(later + 1);
    let mut tail = Tail {
        database_index: database_index.0,
        changes: Vec::new(),
        snapshot: 0,
    };
    for (at, (path, _)) in files.iter().enumerate().skip(start) {
        let is_last = at + 1 == files.len();
        Reader::open(path, is_last)?.read(&mut tail)?;
    }
    let last = tail.changes.last().copied().max(Some(tail.snapshot));
    Ok(last
        .filter(|index| *index > database_index.0)
        .map(RaftIndex))
}

/// What the records so far say.
#[derive(Debug)]
struct Tail {
    database_index: u64,
    /// Indexes of entries behind the database that ask for something, ascending.
    changes: Vec<u64>,
    /// The latest snapshot.
    snapshot: u64,
}

impl Tail {
    /// False if the record's data is not what its kind says.
    fn on_record(&mut self, record: &Record) -> bool {
        match record.kind {
            ENTRY_RECORD => {
                let Ok(entry) = LogEntry::decode(record.data.clone()) else {
                    return false;
                };
                // An entry replaces all that came before it with its index or a higher one.
                while self.changes.last().is_some_and(|last| *last >= entry.index) {
                    self.changes.pop();
                }
                // A new leader begins its term with an empty entry.
                let asks = entry.kind == NORMAL_ENTRY && !entry.data.is_empty();
                if asks && entry.index > self.database_index {
                    self.changes.push(entry.index);
                }
            }
            SNAPSHOT_RECORD => {
                let Ok(snapshot) = LogSnapshot::decode(record.data.clone()) else {
                    return false;
                };
                self.snapshot = self.snapshot.max(snapshot.index);
            }
            _ => {}
        }
        true
    }
}

/// `walpb.Record`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(int64, tag = "1")]
    pub kind: i64,
    #[prost(uint32, tag = "2")]
    pub checksum: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// `raftpb.Entry`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogEntry {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(uint64, tag = "3")]
    pub index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
}

/// `walpb.Snapshot`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogSnapshot {
    #[prost(uint64, tag = "1")]
    pub index: u64,
}

/// One file of the log.
struct Reader {
    file: BufReader<File>,
    name: String,
    is_last: bool,
    bytes: u64,
    offset: u64,
    checksum: u32,
}

impl Reader {
    fn open(path: &Path, is_last: bool) -> Result<Self, EtcdDbError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(io_error("open", &name))?;
        let bytes = file.metadata().map_err(io_error("read", &name))?.len();
        Ok(Self {
            file: BufReader::with_capacity(READ_BYTES, file),
            name,
            is_last,
            bytes,
            offset: 0,
            checksum: 0,
        })
    }

    fn read(mut self, tail: &mut Tail) -> Result<(), EtcdDbError> {
        while let Some(record) = self.next_record()? {
            if !tail.on_record(&record) {
                return Err(self.damaged("a record's data is not what its kind says"));
            }
        }
        Ok(())
    }

    /// The next record; `None` at the end, a torn record being one.
    fn next_record(&mut self) -> Result<Option<Record>, EtcdDbError> {
        if self.bytes - self.offset < FRAME_BYTES {
            return Ok(None);
        }
        let mut frame = [0; FRAME_BYTES as usize];
        self.fill(&mut frame)?;
        let frame = u64::from_le_bytes(frame);
        if frame == 0 {
            return Ok(None);
        }
        let record_bytes = frame & ((1 << 56) - 1);
        let has_padding = frame >> 63 == 1;
        let padding_bytes = if has_padding { (frame >> 56) & 7 } else { 0 };
        let left = self.bytes - self.offset - FRAME_BYTES;
        if record_bytes + padding_bytes > left {
            return self.torn_or(true, "a record reaches behind the end");
        }
        // No more than the file has.
        let mut data = vec![0; (record_bytes + padding_bytes) as usize];
        self.fill(&mut data)?;
        let is_torn = self.has_zero_sector(&data);
        data.truncate(record_bytes as usize);
        let Ok(record) = Record::decode(Bytes::from(data)) else {
            return self.torn_or(is_torn, "a record does not decode");
        };
        if record.kind == CRC_RECORD {
            let is_first = self.checksum == 0;
            if !is_first && self.checksum != record.checksum {
                return self.torn_or(is_torn, "a checksum does not match");
            }
            self.checksum = record.checksum;
        } else {
            self.checksum = crc32c::crc32c_append(self.checksum, &record.data);
            if self.checksum != record.checksum {
                return self.torn_or(is_torn, "a checksum does not match");
            }
        }
        self.offset += FRAME_BYTES + record_bytes + padding_bytes;
        Ok(Some(record))
    }

    /// The end of the log if the record is torn and may be, or else an error.
    fn torn_or(&self, is_torn: bool, problem: &'static str) -> Result<Option<Record>, EtcdDbError> {
        if is_torn && self.is_last {
            Ok(None)
        } else {
            Err(self.damaged(problem))
        }
    }

    /// Whether a sector's share of a record, which begins behind the frame, is zero.
    fn has_zero_sector(&self, data: &[u8]) -> bool {
        let start = ((self.offset + FRAME_BYTES) % SECTOR_BYTES as u64) as usize;
        let (first, rest) = data.split_at(data.len().min(SECTOR_BYTES - start));
        let is_zero = |sector: &[u8]| !sector.is_empty() && sector.iter().all(|byte| *byte == 0);
        is_zero(first) || rest.chunks(SECTOR_BYTES).any(is_zero)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EtcdDbError> {
        let read = self.file.read_exact(buf);
        read.map_err(io_error("read", &self.name))
    }

    fn damaged(&self, problem: &'static str) -> EtcdDbError {
        EtcdDbError::Wal {
            file: self.name.clone(),
            offset: self.offset,
            problem,
        }
    }
}

/// The files of the log in order, with the first index of each.
fn list_files(wal_dir: &Path) -> Result<Vec<(PathBuf, u64)>, EtcdDbError> {
    let name = wal_dir.display().to_string();
    let mut files = Vec::new();
    let entries = match fs::read_dir(wal_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", &name))?,
    };
    for entry in entries {
        let path = entry.map_err(io_error("read", &name))?.path();
        let numbers = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(file_numbers);
        if let Some((sequence, first)) = numbers {
            files.push((sequence, path, first));
        }
    }
    files.sort_unstable();
    Ok(files
        .into_iter()
        .map(|(_, path, first)| (path, first))
        .collect())
}

/// Sequence and first index from a file's name; `None` for files that are being prepared or set aside.
fn file_numbers(name: &str) -> Option<(u64, u64)> {
    let (sequence, first) = name.strip_suffix(".wal")?.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((number(sequence)?, number(first)?))
}

fn io_error(action: &'static str, name: &str) -> impl Fn(std::io::Error) -> EtcdDbError {
    move |source| {
        EtcdDbError::Bolt(BoltError::Io {
            file: name.to_owned(),
            action,
            source,
        })
    }
}
