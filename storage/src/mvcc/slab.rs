//! Memory for versions: blocks that are filled front to back.
//!
//! A layer in memory grows by a version with every write and goes as a whole once a snapshot holds it. So its
//! versions lie behind each other in large blocks, and a block lives as long as anybody holds one of them. Making a
//! version costs no call of the allocator, and dropping a million of them touches a few thousand counters instead of
//! a million.
//!
//! What is let go in the middle of a block is not used again; it is counted ([`Slab::held_bytes`]) until the block goes.
//!
//! Invariants:
//! 1. A block begins at a multiple of its size, so the address of a version leads to the counter of its block.
//! 2. Only the slab writes to a block, and only to bytes that it has handed to nobody yet.
//! 3. `users` counts the versions of the block that somebody holds, each as often as it is held, and the slab while
//!    it fills the block. Who takes it to zero gives the block back.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a block, and what its address is a multiple of.
const BLOCK_BYTES: usize = 256 << 10;

/// A version longer than this has a block of its own, so that little is left over at the end of the others.
const SHARED_BYTES_MAX: usize = BLOCK_BYTES / 8;

/// Every version begins at a multiple of this.
const ALIGN_BYTES: usize = 8;

/// Blocks that are kept to be used again; the system takes a while to give new memory.
const SPARE_BLOCKS_MAX: usize = 256;

/// What a block begins with.
#[repr(C)]
struct Block {
    users: AtomicUsize,
    bytes: usize,
    /// Bytes of the slab's blocks that are still there.
    held: Arc<AtomicU64>,
}

const HEAD_BYTES: usize = size_of::<Block>().next_multiple_of(ALIGN_BYTES);

/// Where versions are made, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    /// The block that is being filled, and how much of it is taken.
    filling: Option<(NonNull<Block>, usize)>,
    held: Arc<AtomicU64>,
}

/// Blocks without users.
static SPARE: Mutex<Vec<Spare>> = Mutex::new(Vec::new());

struct Spare(NonNull<Block>);

// SAFETY: a spare block is memory and nothing else; whoever takes it out owns it alone.
unsafe impl Send for Spare {}

impl Slab {
    /// Bytes of the blocks that are still there, for whomever.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Memory for one version, of which the caller is the one user; it is writable, initialised, and holds anything.
    pub(crate) fn take(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(ALIGN_BYTES);
        if bytes > SHARED_BYTES_MAX {
            let block = new_block(HEAD_BYTES + bytes, &self.held);
            // SAFETY: the block has room for `bytes` behind its head.
            return unsafe { block.cast::<u8>().add(HEAD_BYTES) };
        }
        let (block, at) = match self.filling {
            Some((block, at)) if at + bytes <= BLOCK_BYTES => (block, at),
            _ => {
                self.retire();
                (new_block(BLOCK_BYTES, &self.held), HEAD_BYTES)
            }
        };
        self.filling = Some((block, at + bytes));
        // SAFETY: the slab is a user of the block that it fills, so it is there, with room for `bytes` at `at`.
        unsafe {
            block.as_ref().users.fetch_add(1, Ordering::Relaxed);
            block.cast::<u8>().add(at)
        }
    }

    /// Stops filling the block.
    fn retire(&mut self) {
        if let Some((block, _)) = self.filling.take() {
            // SAFETY: the slab is one of its users, and forgets the block with this.
            unsafe { leave(block) };
        }
    }
}

/// Makes blocks until so many wait to be filled, with memory that the system has handed out already. A thread with time
/// does it ahead of one that has none: new memory takes as long as all else there is to making a version.
pub fn ready_blocks(count: usize) {
    let count = count.min(SPARE_BLOCKS_MAX);
    while SPARE.lock().unwrap_or_else(PoisonError::into_inner).len() < count {
        let block = map(BLOCK_BYTES);
        // SAFETY: the block is this thread's alone, and a mapping of that length.
        let populated = unsafe {
            libc::madvise(
                block.as_ptr().cast(),
                BLOCK_BYTES,
                libc::MADV_POPULATE_WRITE,
            )
        };
        if populated != 0 {
            // An older system does not know it. It hands the memory out when it is used.
            unmap(block.as_ptr().cast(), BLOCK_BYTES);
            return;
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(Spare(block));
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.retire();
    }
}

// SAFETY: the slab is the only one that writes to unused bytes of its blocks, from whatever thread owns it; the counter
// is atomic.
unsafe impl Send for Slab {}
// SAFETY: nothing can be done with a shared slab but to read the atomic count of its bytes.
unsafe impl Sync for Slab {}

/// One more holds the version at this address.
///
/// # Safety
/// The address came from [`Slab::take`], and the caller knows a user that has not left.
pub(crate) unsafe fn join(version: NonNull<u8>) {
    // SAFETY: that user keeps the block.
    let before = unsafe { block_of(version).as_ref() }
        .users
        .fetch_add(1, Ordering::Relaxed);
    debug_assert!(before > 0, "who joins knows a user");
}

/// One of those who hold the version at this address lets it go.
///
/// # Safety
/// The address came from [`Slab::take`], and the caller is one of its users, which it is no more after this.
pub(crate) unsafe fn part(version: NonNull<u8>) {
    // SAFETY: as the caller promises.
    unsafe { leave(block_of(version)) };
}

/// The block in which a version lies: versions begin in the first `BLOCK_BYTES` of one.
fn block_of(version: NonNull<u8>) -> NonNull<Block> {
    let block = version
        .as_ptr()
        .map_addr(|address| address & !(BLOCK_BYTES - 1));
    NonNull::new(block.cast()).expect("no block is at address zero")
}

/// # Safety
/// The caller is a user of the block, and is none any more after this.
unsafe fn leave(block: NonNull<Block>) {
    // SAFETY: the caller's use keeps the block until here.
    if unsafe { block.as_ref() }
        .users
        .fetch_sub(1, Ordering::Release)
        != 1
    {
        return;
    }
    // What others did with the block happens before it is used again.
    fence(Ordering::Acquire);
    // SAFETY: nobody else can reach the block any more; its head was written by `new_block` and is taken out once.
    let Block { bytes, held, .. } = unsafe { block.read() };
    held.fetch_sub(bytes as u64, Ordering::Relaxed);
    if bytes == BLOCK_BYTES {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BLOCKS_MAX {
            spare.push(Spare(block));
            return;
        }
    }
    unmap(block.as_ptr().cast(), bytes);
}

/// A block with its slab as the only user.
fn new_block(bytes: usize, held: &Arc<AtomicU64>) -> NonNull<Block> {
    let bytes = bytes.next_multiple_of(4096);
    let spare = (bytes == BLOCK_BYTES).then(|| {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop()
    });
    let block = match spare.flatten() {
        Some(Spare(block)) => block,
        None => map(bytes),
    };
    held.fetch_add(bytes as u64, Ordering::Relaxed);
    let head = Block {
        users: AtomicUsize::new(1),
        bytes,
        held: Arc::clone(held),
    };
    // SAFETY: the memory is nobody else's, aligned, and longer than a head.
    unsafe { block.write(head) };
    block
}

/// Maps zeroed memory that begins at a multiple of `BLOCK_BYTES`.
fn map(bytes: usize) -> NonNull<Block> {
    let reserved = bytes + BLOCK_BYTES;
    // SAFETY: an anonymous private mapping at an address of the system's choice touches no existing memory.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            reserved,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        let layout = Layout::from_size_align(bytes, BLOCK_BYTES);
        handle_alloc_error(layout.expect("a version is far smaller than the address space"));
    }
    let mapped = mapped.cast::<u8>();
    let before = mapped.align_offset(BLOCK_BYTES);
    let block = mapped.wrapping_add(before);
    unmap(mapped, before);
    unmap(block.wrapping_add(bytes), BLOCK_BYTES - before);
    NonNull::new(block.cast()).expect("a mapping is not at address zero")
}

/// Gives mapped memory back, whole pages of it.
fn unmap(memory: *mut u8, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // SAFETY: callers pass a part of a mapping made by `map` that is theirs and that nobody uses any more.
    let result = unsafe { libc::munmap(memory.cast(), bytes) };
    assert_eq!(result, 0, "a mapping can be given back");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(slab: &mut Slab, bytes: usize, with: u8) -> NonNull<u8> {
        let version = slab.take(bytes);
        // SAFETY: `take` hands out that many writable bytes.
        unsafe { version.as_ptr().write_bytes(with, bytes) };
        version
    }

    fn holds(version: NonNull<u8>, bytes: usize, with: u8) -> bool {
        // SAFETY: written by `fill`, and held by the test.
        let memory = unsafe { std::slice::from_raw_parts(version.as_ptr(), bytes) };
        memory.iter().all(|byte| *byte == with)
    }

    #[test]
    fn versions_keep_their_bytes_until_the_last_user_leaves() {
        let sizes = [
            1,
            64,
            100,
            4000,
            SHARED_BYTES_MAX,
            SHARED_BYTES_MAX + 1,
            3 << 20,
        ];
        let mut slab = Slab::default();
        let mut versions = Vec::new();
        for round in 0..200_u8 {
            let bytes = sizes[usize::from(round) % sizes.len()];
            let version = fill(&mut slab, bytes, round);
            assert_eq!(version.as_ptr().addr() % ALIGN_BYTES, 0);
            versions.push((version, bytes, round));
        }
        let held = Arc::clone(&slab.held);
        assert!(slab.held_bytes() > 200 / 7 * (3 << 20));
        // SAFETY: every version has the one user that `take` counted; it is joined and parted in turn.
        unsafe {
            for (version, ..) in &versions {
                join(*version);
                part(*version);
            }
            drop(slab);
            for (version, bytes, round) in versions {
                assert!(holds(version, bytes, round));
                part(version);
            }
        }
        assert_eq!(
            held.load(Ordering::Relaxed),
            0,
            "every block was given back"
        );
    }

    #[test]
    fn other_threads_may_be_the_last() {
        let mut slab = Slab::default();
        let held = Arc::clone(&slab.held);
        let versions: Vec<usize> = (0..20_000)
            .map(|_| fill(&mut slab, 100, 7).as_ptr().expose_provenance())
            .collect();
        for version in &versions {
            // SAFETY: the user that `take` counted has not left.
            unsafe { join(at(*version)) };
        }
        drop(slab);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for version in &versions {
                        // SAFETY: each thread is one of the two users of every version.
                        unsafe { part(at(*version)) }
                    }
                });
            }
        });
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ready_blocks_are_as_good_as_others() {
        ready_blocks(3);
        let mut slab = Slab::default();
        let held = Arc::clone(&slab.held);
        let bytes = SHARED_BYTES_MAX / 2;
        let versions = (0..200).map(|with| (fill(&mut slab, bytes, with), with));
        let versions: Vec<_> = versions.collect();
        assert!(slab.held_bytes() > 3 * BLOCK_BYTES as u64);
        drop(slab);
        for (version, with) in versions {
            assert!(holds(version, bytes, with));
            // SAFETY: the one user that `take` counted.
            unsafe { part(version) };
        }
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    fn at(address: usize) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not at address zero")
    }
}
