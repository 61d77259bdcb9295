//! Logs of etcd whose bytes anybody chose, behind checksums that match where that is asked for.
//!
//! ```text
//!   input:  flags u8 | index of the database u8 | a log file
//! ```

use std::path::Path;

use prost::Message;

use super::wal_tail::{self, Record};
use crate::ids::RaftIndex;

/// The chain of checksums matches.
const FIX_CHECKSUMS: u8 = 1;
const CRC_KIND: i64 = 4;
const FRAME_BYTES: usize = 8;
const NAME: &str = "0000000000000000-0000000000000000.wal";

/// A log file in an empty directory.
pub fn wal(input: &[u8], directory: &Path) {
    let [flags, index, file @ ..] = input else {
        return;
    };
    let file = match flags & FIX_CHECKSUMS {
        0 => file.to_vec(),
        _ => fixed(file),
    };
    let path = directory.join(NAME);
    std::fs::write(&path, file).expect("the directory can be written");
    let index = RaftIndex((*index).into());
    if let Ok(Some(missing)) = wal_tail::last_missing(directory, index) {
        assert!(missing > index, "what is missing comes later");
    }
    std::fs::remove_file(&path).expect("it was just written");
}

/// A log of real etcd, as it is and to be fixed.
#[must_use]
pub fn wal_seeds() -> Vec<Vec<u8>> {
    let real = include_bytes!("golden/etcd-3.5.1.wal");
    let seed = |flags: u8, index: u8| [&[flags, index], &real[..]].concat();
    vec![seed(0, 0), seed(FIX_CHECKSUMS, 0), seed(FIX_CHECKSUMS, 200)]
}

/// The same records with checksums that match, as far as there are records.
fn fixed(file: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = file;
    let mut checksum = 0;
    while let Some((frame, behind)) = rest.split_first_chunk::<FRAME_BYTES>() {
        let frame = u64::from_le_bytes(*frame);
        let bytes = (frame & ((1 << 56) - 1)).min(behind.len() as u64) as usize;
        let (data, behind) = behind.split_at(bytes);
        let Ok(mut record) = Record::decode(data) else {
            break;
        };
        let padding = if frame >> 63 == 1 { frame >> 56 & 7 } else { 0 } as usize;
        rest = &behind[padding.min(behind.len())..];
        if record.kind == CRC_KIND {
            record.checksum = checksum;
        } else {
            checksum = crc32c::crc32c_append(checksum, &record.data);
            record.checksum = checksum;
        }
        let data = record.encode_to_vec();
        let padding = data.len().next_multiple_of(FRAME_BYTES) - data.len();
        let mark = match padding {
            0 => 0,
            padding => (0x80 | padding as u64) << 56,
        };
        out.extend_from_slice(&(data.len() as u64 | mark).to_le_bytes());
        out.extend_from_slice(&data);
        out.resize(out.len() + padding, 0);
    }
    out.extend_from_slice(rest);
    out
}
