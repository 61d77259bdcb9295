//! Pages of one kind on their way into a file: they gather in pieces, which are written and stay resident.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::format::PageEntry;
use super::page::{Content, OpenPiece, Page};
use crate::io::AlignedBuf;
use crate::limits::{SNAPSHOT_PIECE_BYTES_MIN, SNAPSHOT_READ_BYTES};

/// Pages, one behind the other.
pub(super) struct Pages<T> {
    open: OpenPiece<T>,
    /// Capacity of the next piece: small files have small pieces.
    piece_bytes: usize,
    pages: Vec<Page<T>>,
    entries: Vec<PageEntry>,
    pieces: VecDeque<Arc<AlignedBuf>>,
}

impl<T: Content> Pages<T> {
    pub(super) fn new() -> Self {
        Self {
            open: OpenPiece::with_capacity(SNAPSHOT_PIECE_BYTES_MIN),
            piece_bytes: SNAPSHOT_PIECE_BYTES_MIN,
            pages: Vec::new(),
            entries: Vec::new(),
            pieces: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The pages as their parent knows them.
    pub(super) fn entries(&self) -> &[PageEntry] {
        &self.entries
    }

    /// Takes a page: whole blocks, and its entry.
    pub(super) fn push(&mut self, blocks: &[u8], entry: PageEntry) {
        if !self.open.has_room(blocks.len()) {
            self.piece_bytes = (2 * self.piece_bytes).min(SNAPSHOT_READ_BYTES);
            self.open_next(self.piece_bytes.max(blocks.len()));
        }
        self.open.push(blocks, entry.bytes);
        self.entries.push(entry);
    }

    /// No more pages: hands out the pieces, in order.
    pub(super) fn close(&mut self) -> VecDeque<Arc<AlignedBuf>> {
        self.open_next(1);
        std::mem::take(&mut self.pieces)
    }

    /// All pages; of pages that were closed.
    pub(super) fn into_pages(self) -> Vec<Page<T>> {
        assert!(self.open.is_empty(), "no page is left behind");
        self.pages
    }

    fn open_next(&mut self, bytes: usize) {
        let open = std::mem::replace(&mut self.open, OpenPiece::with_capacity(bytes));
        if !open.is_empty() {
            self.pieces.push_back(open.close(&mut self.pages));
        }
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} of them)", self.entries.len())
    }
}
