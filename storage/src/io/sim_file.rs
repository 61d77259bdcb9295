//! What the simulated disk is made of: one file with a volatile and a durable side, and one operation on it.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{AlignedBuf, FileId};

pub(super) const SECTOR_BYTES: usize = 512;

/// A file in memory.
#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) name: String,
    pub(super) exists: bool,
    /// What reads see.
    pub(super) cache: Vec<u8>,
    /// What certainly survives power loss; shorter than the cache while a file that grew is not flushed.
    pub(super) media: Vec<u8>,
    /// Sectors in which the two may differ.
    pub(super) unsynced: BTreeSet<usize>,
}

impl SimFile {
    pub(super) fn new(name: &str, bytes: u64, exists: bool) -> Self {
        let content = vec![0; bytes as usize];
        Self {
            name: name.to_owned(),
            exists,
            cache: content.clone(),
            media: content,
            unsynced: BTreeSet::new(),
        }
    }

    /// What a read of that place sees: fewer bytes at the end of the file.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> &[u8] {
        let start = (offset as usize).min(self.cache.len());
        let end = (start + bytes).min(self.cache.len());
        &self.cache[start..end]
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], durable: bool) {
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            if durable {
                self.sync(sector);
            } else {
                self.unsynced.insert(sector);
            }
        }
    }

    /// Makes a sector durable; the file is then at least so long that it holds it.
    pub(super) fn sync(&mut self, sector: usize) {
        let span = sector_span(sector, self.cache.len());
        if self.media.len() < span.end {
            self.media.resize(span.end, 0);
        }
        self.media[span.clone()].copy_from_slice(&self.cache[span]);
        self.unsynced.remove(&sector);
    }

    /// Changes both sides, as something outside would.
    pub(super) fn edit(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        for side in [&mut self.media, &mut self.cache] {
            if side.len() < end {
                side.resize(end, 0);
            }
            side[offset..end].copy_from_slice(bytes);
        }
    }

    /// The rest of the blocks in which a write begins and ends is gone.
    pub(super) fn lose_around(&mut self, offset: usize, bytes: usize, block_bytes: usize) {
        let end = offset + bytes;
        let behind = end.next_multiple_of(block_bytes).min(self.cache.len());
        for lost in [offset / block_bytes * block_bytes..offset, end..behind] {
            if !lost.is_empty() {
                self.edit(lost.start, &vec![0; lost.len()]);
            }
        }
    }

    pub(super) fn truncate(&mut self, bytes: usize) {
        self.media.truncate(bytes);
        self.cache.truncate(bytes);
        self.unsynced.retain(|sector| sector * SECTOR_BYTES < bytes);
    }

    /// Power loss: sectors that were not flushed survive where `lands` says so.
    pub(super) fn crash(&mut self, mut lands: impl FnMut() -> bool) {
        for sector in std::mem::take(&mut self.unsynced) {
            if lands() {
                self.sync(sector);
            }
        }
        self.cache = self.media.clone();
    }

    /// The name is gone, and the space is free.
    pub(super) fn remove(&mut self) {
        *self = Self::new(&self.name, 0, false);
    }
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) number: u64,
    pub(super) file: FileId,
    pub(super) token: u64,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Read {
        offset: u64,
        bytes: usize,
        buf: AlignedBuf,
    },
    Write {
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
    },
    Flush {
        sectors: BTreeSet<usize>,
    },
    Create {
        bytes: u64,
    },
    Remove,
}

impl Work {
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Work::Read { .. } => "read",
            Work::Write { .. } => "write",
            Work::Flush { .. } => "flush",
            Work::Create { .. } => "create",
            Work::Remove => "removal",
        }
    }

    /// The buffer of work that was not done. A read of which only the report arrived has whatever was there before.
    pub(super) fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Work::Read { bytes, mut buf, .. } => {
                buf.resize(bytes);
                Some(buf)
            }
            Work::Write { buf, .. } => Some(buf),
            Work::Flush { .. } | Work::Create { .. } | Work::Remove => None,
        }
    }

    pub(super) fn moved_to(mut self, elsewhere: u64) -> Self {
        if let Work::Read { offset, .. } | Work::Write { offset, .. } = &mut self {
            *offset = elsewhere;
        }
        self
    }

    /// A write whose content is not what was given.
    pub(super) fn damaged(mut self, at: usize, mask: u8) -> Self {
        if let Work::Write { buf, .. } = &mut self {
            flip(buf, at, mask);
        }
        self
    }
}

/// Flips bits of one byte, counted around the end of the buffer.
pub(super) fn flip(buf: &mut AlignedBuf, at: usize, mask: u8) {
    let bytes = buf.len();
    if bytes > 0 {
        buf.as_mut_slice()[at % bytes] ^= mask;
    }
}

fn sector_span(sector: usize, file_bytes: usize) -> Range<usize> {
    (sector * SECTOR_BYTES).min(file_bytes)..((sector + 1) * SECTOR_BYTES).min(file_bytes)
}

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, seedable, the same everywhere.
#[derive(Debug)]
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & (1 << 40) != 0
    }
}
