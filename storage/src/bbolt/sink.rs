//! Where the writer's pages go: a file, filled front to back through one buffer.
//!
//! A page gets its number when it is written, so whoever refers to it writes itself later.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::BoltError;
use super::file::io_error;
use super::format::{PAGE_HEADER_BYTES, PageHeader, PageId};
use crate::limits::{BOLT_PAGE_BYTES, BOLT_WRITE_BYTES};

const PAGE_BYTES: usize = BOLT_PAGE_BYTES as usize;

/// The file under construction.
#[derive(Debug)]
pub(super) struct PageSink {
    file: File,
    name: String,
    /// Bytes not yet written; they belong at `offset`.
    buf: Vec<u8>,
    offset: u64,
}

impl PageSink {
    /// Begins at `first`; what is before it is written at the end, with [`PageSink::write_head`].
    pub fn new(file: File, name: String, first: PageId) -> Self {
        Self {
            file,
            name,
            buf: Vec::with_capacity(BOLT_WRITE_BYTES + PAGE_BYTES),
            offset: first.0 * u64::from(BOLT_PAGE_BYTES),
        }
    }

    /// The number the next page will get.
    pub fn next_page(&self) -> PageId {
        PageId((self.offset + self.buf.len() as u64) / u64::from(BOLT_PAGE_BYTES))
    }

    /// Writes a page: its header, then `parts` one behind the other, then zeros to a whole page.
    pub fn write_page(
        &mut self,
        kind: u16,
        count: usize,
        parts: &[&[u8]],
    ) -> Result<PageId, BoltError> {
        let id = self.next_page();
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let pages = (PAGE_HEADER_BYTES + body).div_ceil(PAGE_BYTES);
        let header = PageHeader {
            id,
            kind,
            count: u16::try_from(count).expect("a page is closed long before 65,536 elements"),
            overflow: u32::try_from(pages - 1).expect("keys and values are bounded"),
        };
        let end = self.buf.len() + pages * PAGE_BYTES;
        self.buf.extend_from_slice(&header.encode());
        for part in parts {
            self.buf.extend_from_slice(part);
        }
        self.buf.resize(end, 0);
        if self.buf.len() >= BOLT_WRITE_BYTES {
            self.flush()?;
        }
        Ok(id)
    }

    /// Writes what is buffered, and then the head of the file over whatever is there.
    pub fn write_head(mut self, head: &[u8]) -> Result<(File, u64), BoltError> {
        self.flush()?;
        self.file
            .write_all_at(head, 0)
            .map_err(io_error("write", &self.name))?;
        Ok((self.file, self.offset))
    }

    fn flush(&mut self) -> Result<(), BoltError> {
        self.file
            .write_all_at(&self.buf, self.offset)
            .map_err(io_error("write", &self.name))?;
        self.offset += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}
