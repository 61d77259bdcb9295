//! Logs that are ahead of their database, and logs that are not.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::error::EtcdDbError;
use super::wal_tail::{LogEntry, LogSnapshot, Record, last_missing};
use crate::ids::RaftIndex;

/// The log of the member whose snapshot is the other golden file, cut where the allocated space begins.
const GOLDEN: &[u8] = include_bytes!("golden/etcd-3.5.1.wal");
/// The last entry in it; like the one before, it asks for something.
const GOLDEN_LAST: u64 = 21;

const NAME: &str = "0000000000000000-0000000000000000.wal";

/// Builds log files as etcd does.
#[derive(Default)]
struct Log {
    checksum: u32,
    bytes: Vec<u8>,
}

impl Log {
    /// The next file: it begins with the checksum so far.
    fn next_file(&self) -> Self {
        let mut next = Self {
            checksum: self.checksum,
            bytes: Vec::new(),
        };
        next.frame(4, Bytes::new());
        next
    }

    fn entry(mut self, kind: i32, index: u64, data: &'static [u8]) -> Self {
        let entry = LogEntry {
            kind,
            index,
            data: Bytes::from_static(data),
        };
        self.frame(2, entry.encode_to_vec().into());
        self
    }

    fn snapshot(mut self, index: u64) -> Self {
        self.frame(5, LogSnapshot { index }.encode_to_vec().into());
        self
    }

    fn frame(&mut self, kind: i64, data: Bytes) {
        self.checksum = crc32c::crc32c_append(self.checksum, &data);
        let record = Record {
            kind,
            checksum: self.checksum,
            data,
        };
        let record = record.encode_to_vec();
        let padding = record.len().next_multiple_of(8) - record.len();
        let flag = if padding > 0 {
            0x80 | padding as u64
        } else {
            0
        };
        let frame = record.len() as u64 | flag << 56;
        self.bytes.extend_from_slice(&frame.to_le_bytes());
        self.bytes.extend_from_slice(&record);
        self.bytes.resize(self.bytes.len() + padding, 0);
    }

    /// With the space that is allocated ahead.
    fn allocated(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 5000, 0);
        bytes
    }
}

fn missing(folder: &Path, database_index: u64) -> Result<Option<u64>, EtcdDbError> {
    let last = last_missing(folder, RaftIndex(database_index))?;
    Ok(last.map(|index| index.0))
}

fn of_bytes(bytes: &[u8], database_index: u64) -> Result<Option<u64>, EtcdDbError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(NAME), bytes).unwrap();
    missing(folder.path(), database_index)
}

#[test]
fn the_log_of_a_real_etcd_tells_where_it_ends() {
    for (database_index, wanted) in [
        (GOLDEN_LAST, None),
        (GOLDEN_LAST + 1, None),
        (GOLDEN_LAST - 1, Some(GOLDEN_LAST)),
        (0, Some(GOLDEN_LAST)),
    ] {
        assert_eq!(of_bytes(GOLDEN, database_index).unwrap(), wanted);
    }
}

#[test]
fn only_entries_that_ask_for_something_are_missed() {
    let log =
        Log::default()
            .entry(0, 5, b"put")
            .entry(0, 6, b"")
            .entry(1, 7, b"a change of members");
    assert_eq!(of_bytes(&log.allocated(), 5).unwrap(), None);
    assert_eq!(of_bytes(&log.bytes, 4).unwrap(), Some(5));
    let log = log.entry(0, 8, b"put").entry(0, 9, b"put");
    assert_eq!(of_bytes(&log.allocated(), 5).unwrap(), Some(9));
    // A new leader wrote other entries over the last two.
    let log = log.entry(0, 8, b"");
    assert_eq!(of_bytes(&log.allocated(), 5).unwrap(), None);
}

#[test]
fn a_snapshot_that_the_database_does_not_have_is_missed() {
    let log = Log::default().entry(0, 5, b"put").snapshot(5);
    assert_eq!(of_bytes(&log.allocated(), 5).unwrap(), None);
    assert_eq!(
        of_bytes(&log.snapshot(90).allocated(), 5).unwrap(),
        Some(90)
    );
}

#[test]
fn files_are_read_in_order_and_early_ones_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let first = Log::default().next_file().entry(0, 99, b"put");
    let second = first
        .next_file()
        .entry(0, 100, b"put")
        .entry(0, 255, b"put");
    let third = second.next_file().entry(0, 256, b"put");
    write("0000000000000001-0000000000000064.wal", &second.bytes);
    write("0000000000000002-0000000000000100.wal", &third.allocated());
    write(
        "0000000000000000-0000000000000000.wal",
        b"not to be looked at",
    );
    write("0.tmp", b"prepared");
    write("0000000000000002-0000000000000100.wal.broken", b"set aside");
    for (database_index, wanted) in [
        (300, None),
        (256, None),
        (255, Some(256)),
        (254, Some(256)),
        (99, Some(256)),
    ] {
        assert_eq!(missing(folder.path(), database_index).unwrap(), wanted);
    }
    let text = missing(folder.path(), 98).unwrap_err().to_string();
    assert!(text.contains("is damaged at byte 0"), "{text}");
    // The second file does not continue the first.
    write("0000000000000000-0000000000000000.wal", &first.bytes);
    assert_eq!(missing(folder.path(), 98).unwrap(), Some(256));
}

#[test]
fn a_torn_end_was_never_acknowledged_and_other_damage_is_an_error() {
    let log = Log::default().entry(0, 5, b"put");
    let whole = log.bytes.len();
    let longer = log.entry(0, 6, &[7; 3000]);
    for length in whole..longer.bytes.len() {
        // The file ends there, or what comes behind was never written.
        let mut bytes = longer.bytes[..length].to_vec();
        assert_eq!(of_bytes(&bytes, 5).unwrap(), None, "{length}");
        if length + 2 * 512 < longer.bytes.len() {
            bytes.resize(longer.bytes.len() + 5000, 0);
            assert_eq!(of_bytes(&bytes, 5).unwrap(), None, "{length}");
        }
    }
    for at in [20, whole + 1500] {
        let mut bytes = longer.allocated();
        bytes[at] ^= 0x40;
        let error = of_bytes(&bytes, 5).unwrap_err();
        assert!(matches!(error, EtcdDbError::Wal { .. }), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = missing(folder.path(), 5).unwrap_err().to_string();
    assert!(text.contains("holds no write-ahead log"), "{text}");
    let text = missing(&folder.path().join("none"), 5)
        .unwrap_err()
        .to_string();
    assert!(text.contains("holds no write-ahead log"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn mutated_logs_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
        length in any::<prop::sample::Index>(),
        database_index in 0_u64..30,
    ) {
        let mut bytes = GOLDEN.to_vec();
        for (place, value) in changes {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(length.index(GOLDEN.len() + 1));
        let _ = of_bytes(&bytes, database_index);
    }
}
