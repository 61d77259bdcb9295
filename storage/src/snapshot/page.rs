//! A page of the index, viewed where it lies: the one place that trusts bytes to be an archive.
//!
//! Several pages share one buffer, which was read, or built, in one piece and never changes again.
//!
//! Invariants:
//! 1. A [`Page`] exists only for bytes that rkyv has validated as a `T`.
//! 2. The buffer of a page is never written after the page was made: it is reachable through shared
//!    references only.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

use crate::io::AlignedBuf;
use crate::limits::SNAPSHOT_BLOCK_BYTES;

/// A validated archive in a shared buffer.
pub(super) struct Page<T> {
    memory: Arc<AlignedBuf>,
    start: u32,
    bytes: u32,
    kind: PhantomData<T>,
}

impl<T> Page<T>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    /// Views `bytes` bytes at `start` of the buffer; `None` if they are no archive of a `T`.
    pub(super) fn new(memory: &Arc<AlignedBuf>, start: u32, bytes: u32) -> Option<Self> {
        let page = Self {
            memory: Arc::clone(memory),
            start,
            bytes,
            kind: PhantomData,
        };
        let end = (start as usize).checked_add(bytes as usize)?;
        let archive = page.memory.as_slice().get(start as usize..end)?;
        rkyv::api::low::access::<T, Failure>(archive).ok()?;
        Some(page)
    }
}

impl<T> Page<T> {
    /// The page as it is in the file: the archive, filled up to whole blocks.
    pub(super) fn blocks(&self) -> &[u8] {
        let start = self.start as usize;
        let bytes = (self.bytes as usize).next_multiple_of(SNAPSHOT_BLOCK_BYTES);
        &self.memory.as_slice()[start..start + bytes]
    }

    fn archive(&self) -> &[u8] {
        let start = self.start as usize;
        &self.memory.as_slice()[start..start + self.bytes as usize]
    }
}

impl<T: Portable> Deref for Page<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new`, the only way to make a page, has validated exactly these bytes as a `T` with its root at
        // their end, and they have not changed since: the buffer is behind an `Arc`, and nothing writes through that.
        unsafe { rkyv::access_unchecked::<T>(self.archive()) }
    }
}

impl<T> fmt::Debug for Page<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} bytes)", self.bytes)
    }
}
