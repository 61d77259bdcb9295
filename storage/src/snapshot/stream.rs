//! The values of a file on their way out: one stream of blocks, cut into writes of even size.

use std::collections::VecDeque;

use crate::io::AlignedBuf;
use crate::limits::SNAPSHOT_BLOCK_BYTES;

/// Bytes of a file that are ready to be written.
#[derive(Debug)]
pub struct PageWrite {
    /// Where in the file; a multiple of 4 KiB.
    pub offset: u64,
    /// What; its length is a multiple of 4 KiB.
    pub buf: AlignedBuf,
    /// Whether values are in it: what of a file is not in memory anyway.
    pub has_values: bool,
}

/// Gathers whole blocks.
#[derive(Debug)]
pub(super) struct ValueStream {
    write_bytes: usize,
    /// Where the gathered bytes begin in the file.
    offset: u64,
    buf: AlignedBuf,
    ready: VecDeque<PageWrite>,
    /// Buffers that were written and handed back.
    spare: Vec<AlignedBuf>,
}

impl ValueStream {
    pub(super) fn new(offset: u64, write_bytes: usize) -> Self {
        Self {
            write_bytes,
            offset,
            buf: AlignedBuf::with_capacity(write_bytes),
            ready: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Where the next byte goes.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.buf.len() as u64
    }

    /// Takes whole blocks.
    pub(super) fn append(&mut self, mut blocks: &[u8]) {
        assert!(
            blocks.len().is_multiple_of(SNAPSHOT_BLOCK_BYTES),
            "values come in whole blocks: {}",
            blocks.len()
        );
        while !blocks.is_empty() {
            let (now, later) = blocks.split_at(blocks.len().min(self.write_bytes - self.buf.len()));
            self.buf.extend_from_slice(now);
            blocks = later;
            if self.buf.len() == self.write_bytes {
                self.close();
            }
        }
    }

    /// Makes a write of what has gathered.
    pub(super) fn close(&mut self) {
        if self.buf.is_empty() {
            return;
        }
        let fresh = self.buffer();
        let buf = std::mem::replace(&mut self.buf, fresh);
        let offset = self.offset;
        self.offset += buf.len() as u64;
        self.ready.push_back(PageWrite {
            offset,
            buf,
            has_values: true,
        });
    }

    pub(super) fn take(&mut self) -> Option<PageWrite> {
        self.ready.pop_front()
    }

    /// An empty buffer for a write.
    pub(super) fn buffer(&mut self) -> AlignedBuf {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| AlignedBuf::with_capacity(self.write_bytes))
    }

    /// Whether it would have to allocate the next buffer.
    pub(super) fn wants_buf(&self) -> bool {
        self.spare.is_empty()
    }

    /// Takes back a buffer that was written; one of a file with shorter writes is of no use.
    pub(super) fn reuse(&mut self, mut buf: AlignedBuf) {
        if buf.capacity() >= self.write_bytes {
            buf.clear();
            self.spare.push(buf);
        }
    }
}
