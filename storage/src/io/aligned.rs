//! A growable byte buffer whose memory starts on a 4 KiB boundary, as O_DIRECT demands.
//!
//! Written by the lane, owned by the Disk body while a write is in flight, handed back by the completion
//! and reused, so a running lane allocates nothing. All of its memory is always initialised.
//!
//! A large buffer is mapped straight from the operating system. Its memory then is zero without anybody
//! writing it: it costs something when it is filled, not all at once. From the size of a large page on it may
//! lie in large pages: the index of a snapshot is searched in such buffers, and each of its pages would
//! otherwise cost a walk of the page tables.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of the memory and granularity of its capacity.
const ALIGN_BYTES: usize = 4096;
/// Capacity from which on a buffer is mapped.
const MAPPED_BYTES_MIN: usize = 256 << 10;
/// Capacity from which on it may lie in large pages, and the alignment of its memory then: one of them.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// A heap buffer aligned for direct IO.
pub struct AlignedBuf {
    memory: NonNull<u8>,
    capacity: usize,
    filled: usize,
}

impl AlignedBuf {
    /// An empty buffer that can take `bytes` without growing.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.max(1).next_multiple_of(ALIGN_BYTES);
        Self {
            memory: allocate(capacity),
            capacity,
            filled: 0,
        }
    }

    /// A buffer of `bytes` zeros.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let mut buf = Self::with_capacity(bytes);
        buf.filled = bytes;
        buf
    }

    /// Bytes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// True when it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Bytes it can hold without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the content, keeps the memory.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Makes room for `more` further bytes.
    pub fn reserve(&mut self, more: usize) {
        let wanted = self
            .filled
            .checked_add(more)
            .expect("a buffer is smaller than the address space");
        if wanted > self.capacity {
            let mut grown = Self::with_capacity(wanted.max(self.capacity * 2));
            grown.as_spare_mut()[..self.filled].copy_from_slice(self.as_slice());
            grown.filled = self.filled;
            *self = grown;
        }
    }

    /// Appends a copy of `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let start = self.filled;
        self.filled += bytes.len();
        self.as_mut_slice()[start..].copy_from_slice(bytes);
    }

    /// Shortens, or lengthens with zeros, to `bytes`.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.filled {
            self.reserve(bytes - self.filled);
            let start = self.filled;
            self.filled = bytes;
            self.as_mut_slice()[start..].fill(0);
        } else {
            self.filled = bytes;
        }
    }

    /// Declares the first `bytes` of the capacity to be the content, whatever they are.
    pub(crate) fn set_filled(&mut self, bytes: usize) {
        assert!(
            bytes <= self.capacity,
            "content is within the capacity: {bytes} > {}",
            self.capacity
        );
        self.filled = bytes;
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `memory` points to `capacity` initialised bytes owned by self, and `filled <= capacity`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.filled) }
    }

    /// The content, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.filled) }
    }

    /// The whole capacity, to read into.
    pub(crate) fn as_spare_mut(&mut self) -> &mut [u8] {
        // SAFETY: all `capacity` bytes are initialised since allocation and owned exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.capacity) }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.memory.as_ptr()
    }
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGN_BYTES)
        .expect("a capacity is far below the address space")
}

fn allocate(capacity: usize) -> NonNull<u8> {
    if capacity >= MAPPED_BYTES_MIN {
        return map(capacity);
    }
    let layout = layout(capacity);
    // SAFETY: the layout's size is at least one block, never zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Maps memory. If it is large enough it begins with a large page: what is before it and behind the end is
/// given back.
fn map(capacity: usize) -> NonNull<u8> {
    let is_large = capacity >= LARGE_PAGE_BYTES;
    let bytes = if is_large {
        capacity + LARGE_PAGE_BYTES
    } else {
        capacity
    };
    // SAFETY: an anonymous private mapping at an address of the system's choice touches no existing memory.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        handle_alloc_error(layout(capacity));
    }
    let mapped = mapped.cast::<u8>();
    let mut memory = mapped;
    if is_large {
        let before = mapped.align_offset(LARGE_PAGE_BYTES);
        memory = mapped.wrapping_add(before);
        unmap(mapped, before);
        unmap(memory.wrapping_add(capacity), LARGE_PAGE_BYTES - before);
        // SAFETY: the range was mapped above and stays. Large pages are a wish; nothing depends on the answer.
        unsafe { libc::madvise(memory.cast(), capacity, libc::MADV_HUGEPAGE) };
    }
    NonNull::new(memory).expect("a mapping is not at address zero")
}

/// Gives mapped memory back, whole blocks of it.
fn unmap(memory: *mut u8, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // SAFETY: callers pass a part of a mapping made by `map` that is theirs and that nobody uses any more.
    let result = unsafe { libc::munmap(memory.cast(), bytes) };
    assert_eq!(result, 0, "a mapping can be given back");
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity >= MAPPED_BYTES_MIN {
            return unmap(self.memory.as_ptr(), self.capacity);
        }
        // SAFETY: `memory` came from `alloc_zeroed` with this same layout and is not used afterwards.
        unsafe { dealloc(self.memory.as_ptr(), layout(self.capacity)) }
    }
}

// SAFETY: the buffer owns its memory alone; nothing about it is tied to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access is read-only.
unsafe impl Sync for AlignedBuf {}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.filled, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_on_block_boundaries_and_keeps_content() {
        let mut buf = AlignedBuf::with_capacity(1);
        assert_eq!(buf.capacity(), ALIGN_BYTES);
        for i in 0..10_000u32 {
            buf.extend_from_slice(&i.to_le_bytes());
        }
        assert_eq!(buf.as_ptr() as usize % ALIGN_BYTES, 0);
        assert_eq!(buf.len(), 40_000);
        for (i, word) in buf.as_slice().chunks(4).enumerate() {
            assert_eq!(word, (i as u32).to_le_bytes());
        }
    }

    #[test]
    fn large_buffers_are_zero_and_keep_content() {
        for capacity in [
            MAPPED_BYTES_MIN - ALIGN_BYTES,
            MAPPED_BYTES_MIN,
            MAPPED_BYTES_MIN + 1,
        ] {
            let mut buf = AlignedBuf::with_capacity(capacity);
            assert!(buf.as_spare_mut().iter().all(|&byte| byte == 0));
            assert_eq!(buf.as_ptr() as usize % ALIGN_BYTES, 0);
            buf.extend_from_slice(&[3; ALIGN_BYTES]);
            buf.resize(capacity);
            buf.reserve(capacity);
            assert!(buf.capacity() >= 2 * capacity);
            assert_eq!(buf.as_slice()[..ALIGN_BYTES], [3; ALIGN_BYTES]);
            assert!(buf.as_slice()[ALIGN_BYTES..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn lengthening_writes_zeros_over_earlier_content() {
        let mut buf = AlignedBuf::with_capacity(16);
        buf.extend_from_slice(&[7; 16]);
        buf.clear();
        buf.extend_from_slice(&[1]);
        buf.resize(16);
        assert_eq!(
            buf.as_slice(),
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}
