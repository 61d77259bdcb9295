//! Pages of one kind on their way into a file: gathered in pieces that are written and stay resident.

use std::fmt;
use std::sync::Arc;

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

use super::format::PageEntry;
use super::page::Page;
use crate::io::AlignedBuf;

/// Pages, one behind the other.
pub(super) struct Pages<T> {
    piece_bytes: usize,
    /// The piece that is being filled, and the starts of its pages.
    open: AlignedBuf,
    open_starts: Vec<u32>,
    pub(super) pieces: Vec<Arc<AlignedBuf>>,
    pub(super) pages: Vec<Page<T>>,
    pub(super) entries: Vec<PageEntry>,
}

impl<T> Pages<T>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    pub(super) fn new(piece_bytes: usize) -> Self {
        Self {
            piece_bytes,
            open: AlignedBuf::with_capacity(1),
            open_starts: Vec::new(),
            pieces: Vec::new(),
            pages: Vec::new(),
            entries: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes a page: whole blocks, and the length of the archive in them.
    pub(super) fn push(&mut self, (blocks, bytes): (&[u8], u32)) {
        self.push_known(blocks, PageEntry::new(blocks, bytes));
    }

    pub(super) fn push_known(&mut self, blocks: &[u8], entry: PageEntry) {
        if self.open.len() + blocks.len() > self.open.capacity() {
            self.close();
            self.open = AlignedBuf::with_capacity(self.piece_bytes.max(blocks.len()));
        }
        self.open_starts.push(self.open.len() as u32);
        self.open.extend_from_slice(blocks);
        self.entries.push(entry);
    }

    /// Makes the open piece one that never changes again.
    pub(super) fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let piece = std::mem::replace(&mut self.open, AlignedBuf::with_capacity(1));
        let piece = Arc::new(piece);
        for start in self.open_starts.drain(..) {
            let bytes = self.entries[self.pages.len()].bytes;
            let page = Page::new(&piece, start, bytes);
            self.pages
                .push(page.expect("what was encoded or copied is an archive"));
        }
        self.pieces.push(piece);
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} of them)", self.entries.len())
    }
}
