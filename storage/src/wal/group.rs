//! Groups in memory: one that gathers records, and what is remembered of one the disk has.

use super::format::{self, GROUP_HEADER_BYTES, RecordMeta};
use crate::ids::{GroupSeq, Lsn};
use crate::io::AlignedBuf;
use crate::limits::WAL_BLOCK_BYTES;

/// A group that gathers records.
#[derive(Debug)]
pub(super) struct OpenGroup {
    pub(super) buf: AlignedBuf,
    pub(super) first_lsn: Lsn,
    pub(super) record_count: u32,
    pub(super) opened_at_us: Option<u64>,
}

impl OpenGroup {
    pub(super) fn new(mut buf: AlignedBuf, first_lsn: Lsn) -> Self {
        buf.clear();
        buf.resize(GROUP_HEADER_BYTES);
        Self {
            buf,
            first_lsn,
            record_count: 0,
            opened_at_us: None,
        }
    }

    pub(super) fn body_bytes(&self) -> u64 {
        (self.buf.len() - GROUP_HEADER_BYTES) as u64
    }

    /// Its length with a further record, in whole blocks: more than it takes in the end, where the unit is smaller.
    pub(super) fn bytes_with(&self, record_bytes: u64) -> u64 {
        format::group_bytes(self.body_bytes() + record_bytes, WAL_BLOCK_BYTES)
    }

    pub(super) fn push(&mut self, meta: &RecordMeta, payload_bytes: u32, payload: &[&[u8]]) {
        let record_bytes = format::record_bytes(u64::from(payload_bytes)) as usize;
        let end = self.buf.len() + record_bytes;
        self.buf.reserve(record_bytes);
        self.buf
            .extend_from_slice(&format::encode_record_header(meta, payload_bytes));
        for piece in payload {
            self.buf.extend_from_slice(piece);
        }
        self.buf.resize(end);
        self.record_count += 1;
    }
}

/// A group the disk has.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) sequence: GroupSeq,
    pub(super) last_lsn: Lsn,
    pub(super) record_count: u32,
    pub(super) body_bytes: u64,
    /// What it takes on disk.
    pub(super) group_bytes: u64,
    pub(super) written_at_us: u64,
    pub(super) done: bool,
}
