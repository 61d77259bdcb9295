//! Pages of the index, viewed where they lie: the one place that trusts bytes to be an archive.
//!
//! Pages lie in *pieces*: buffers that were read, or built, as one and never change again. They are large,
//! so that there are few of them and the memory behind them comes in large pages.
//!
//! Invariants:
//! 1. A [`Page`] exists only for bytes that rkyv has validated as a `T`.
//! 2. The bytes of a page are never written after they were validated: a piece that is being built only
//!    grows within its capacity, and a complete one is reachable through shared references only.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use rkyv::Portable;
use rkyv::api::low::{LowValidator, access};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

use crate::io::AlignedBuf;
use crate::limits::SNAPSHOT_BLOCK_BYTES;
use crate::mvcc::fetch;

/// How much of a page's beginning is fetched: the prefix and the hints of a leaf of usual size.
const FETCHED_BYTES: usize = 1792;
const LINE_BYTES: usize = 64;

/// What a page can hold: an archive that can be validated.
pub(super) trait Content: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>> {}

impl<T> Content for T where T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>> {}

/// A validated archive in a shared piece.
pub(super) struct Page<T> {
    piece: Arc<AlignedBuf>,
    start: u32,
    bytes: u32,
    kind: PhantomData<T>,
}

impl<T: Content> Page<T> {
    /// Views `bytes` bytes at `start` of a piece; `None` if they are no archive of a `T`.
    pub(super) fn new(piece: &Arc<AlignedBuf>, start: u32, bytes: u32) -> Option<Self> {
        let page = Self {
            piece: Arc::clone(piece),
            start,
            bytes,
            kind: PhantomData,
        };
        let end = (start as usize).checked_add(bytes as usize)?;
        let archive = piece.as_slice().get(start as usize..end)?;
        access::<T, Failure>(archive).ok()?;
        Some(page)
    }

    /// The same page for another snapshot.
    pub(super) fn share(&self) -> Self {
        Self {
            piece: Arc::clone(&self.piece),
            ..*self
        }
    }
}

impl<T> Page<T> {
    /// The page as it is in the file: the archive, filled up to whole blocks.
    pub(super) fn blocks(&self) -> &[u8] {
        &self.piece.as_slice()[self.span()]
    }

    /// The same, to be written some time.
    pub(super) fn as_blocks(&self) -> Blocks {
        Blocks {
            piece: Arc::clone(&self.piece),
            span: self.span(),
        }
    }

    /// Which of all pieces the page lies in.
    pub(super) fn piece_id(&self) -> usize {
        self.piece.as_ptr().addr()
    }

    /// Length of that piece.
    pub(super) fn piece_bytes(&self) -> usize {
        self.piece.len()
    }

    fn span(&self) -> Range<usize> {
        let start = self.start as usize;
        let bytes = (self.bytes as usize).next_multiple_of(SNAPSHOT_BLOCK_BYTES);
        start..start + bytes
    }

    /// Asks for the memory of the archive's root and of its beginning, where the keys are.
    pub(super) fn fetch(&self) {
        let archive = self.archive();
        archive.last().into_iter().for_each(fetch);
        let beginning = archive.iter().take(FETCHED_BYTES);
        beginning.step_by(LINE_BYTES).for_each(fetch);
    }

    /// Length of the archive.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    fn archive(&self) -> &[u8] {
        let start = self.start as usize;
        &self.piece.as_slice()[start..start + self.bytes as usize]
    }
}

impl<T: Portable> Deref for Page<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `Page::new` and `OpenPiece::push`, behind which every page comes, have validated exactly these
        // bytes as a `T` with its root at their end, and by invariant 2 they have not changed since.
        unsafe { rkyv::access_unchecked::<T>(self.archive()) }
    }
}

impl<T> fmt::Debug for Page<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} bytes)", self.bytes)
    }
}

/// A part of a piece, in whole blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    piece: Arc<AlignedBuf>,
    span: Range<usize>,
}

impl Blocks {
    /// All of a piece.
    pub(super) fn all_of(piece: AlignedBuf) -> Self {
        let span = 0..piece.len();
        let piece = Arc::new(piece);
        Self { piece, span }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.piece.as_slice()[self.span.clone()]
    }

    /// Takes others that come right behind; false if these do not.
    pub(super) fn extend(&mut self, next: &Self) -> bool {
        let is_behind = Arc::ptr_eq(&self.piece, &next.piece) && self.span.end == next.span.start;
        if is_behind {
            self.span.end = next.span.end;
        }
        is_behind
    }
}

/// A piece that is being built.
pub(super) struct OpenPiece<T> {
    buf: AlignedBuf,
    /// Starts and lengths of the archives in it.
    spans: Vec<(u32, u32)>,
    kind: PhantomData<T>,
}

impl<T: Content> OpenPiece<T> {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            buf: AlignedBuf::with_capacity(bytes),
            spans: Vec::new(),
            kind: PhantomData,
        }
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.buf.capacity() - self.buf.len()
    }

    /// Adds a page: whole blocks, the archive at their beginning and its length.
    pub(super) fn push(&mut self, blocks: &[u8], bytes: u32) {
        assert!(self.has_room(blocks.len()), "a piece never moves");
        let start = self.buf.len();
        self.buf.extend_from_slice(blocks);
        let archive = &self.buf.as_slice()[start..start + bytes as usize];
        access::<T, Failure>(archive).expect("what was encoded or copied is an archive");
        self.spans.push((start as u32, bytes));
    }

    /// Makes it a piece that never changes again: its pages, as they were added.
    pub(super) fn close(self) -> impl Iterator<Item = Page<T>> {
        let piece = Arc::new(self.buf);
        self.spans.into_iter().map(move |(start, bytes)| Page {
            piece: Arc::clone(&piece),
            start,
            bytes,
            kind: PhantomData,
        })
    }
}
