//! Offsets, kinds and checksums of a bbolt file. The layout is in the story of this room.
//!
//! Reader and writer share it; decoding is total and says what is wrong.

use crate::limits::{BOLT_PAGE_BYTES_MAX, BOLT_PAGE_BYTES_MIN};

/// First number of a meta page.
pub(super) const MAGIC: u32 = 0xED0C_DAED;
/// The one version of the format there is.
pub(super) const VERSION: u32 = 2;
/// Freelist page of a file that keeps none: bbolt collects it when it opens the file.
pub(super) const NO_FREELIST: u64 = u64::MAX;

pub(super) const PAGE_HEADER_BYTES: usize = 16;
pub(super) const ELEMENT_BYTES: usize = 16;
pub(super) const BUCKET_HEADER_BYTES: usize = 16;
pub(super) const META_BYTES: usize = 64;
pub(super) const META_CHECKED_BYTES: usize = 56;

pub(super) const BRANCH_KIND: u16 = 0x01;
pub(super) const LEAF_KIND: u16 = 0x02;
pub(super) const META_KIND: u16 = 0x04;
pub(super) const FREELIST_KIND: u16 = 0x10;

/// Flag of a leaf element whose value is a bucket.
pub(super) const BUCKET_FLAG: u32 = 0x01;

/// A page's place in the file, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageId(pub u64);

impl std::fmt::Display for PageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What stands before the elements of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub id: PageId,
    pub kind: u16,
    pub count: u16,
    /// Pages that follow and belong to this one.
    pub overflow: u32,
}

impl PageHeader {
    /// Reads the header; `None` if the bytes are too few.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: PageId(u64_at(bytes, 0)?),
            kind: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }

    pub fn encode(&self) -> [u8; PAGE_HEADER_BYTES] {
        let mut bytes = [0; PAGE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.kind.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }
}

/// Where a bucket's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketHeader {
    /// 0: a leaf page follows the header.
    pub root: PageId,
    pub sequence: u64,
}

impl BucketHeader {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            root: PageId(u64_at(bytes, 0)?),
            sequence: u64_at(bytes, 8)?,
        })
    }

    pub fn encode(&self) -> [u8; BUCKET_HEADER_BYTES] {
        let mut bytes = [0; BUCKET_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.root.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

/// The content of a meta page: one state of the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_bytes: u32,
    pub root: BucketHeader,
    pub freelist: PageId,
    /// The first page that was never used.
    pub end: PageId,
    pub transaction: u64,
}

/// Why bytes are no meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoMeta {
    /// No bbolt file, as far as this page can tell.
    Foreign,
    /// Written by a machine of the other byte order.
    SwappedOrder,
    /// A version of the format that did not exist when this was written.
    Version(u32),
    /// The checksum does not match, or a field has an impossible value.
    Damaged,
}

impl Meta {
    /// Reads what follows the page header of a meta page.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoMeta> {
        let bytes = bytes.get(..META_BYTES).ok_or(NoMeta::Foreign)?;
        let u32_of = |at| u32_at(bytes, at).ok_or(NoMeta::Foreign);
        let u64_of = |at| u64_at(bytes, at).ok_or(NoMeta::Foreign);
        match u32_of(0)? {
            MAGIC => {}
            magic if magic.swap_bytes() == MAGIC => return Err(NoMeta::SwappedOrder),
            _ => return Err(NoMeta::Foreign),
        }
        if u64_of(56)? != fnv1a(&bytes[..META_CHECKED_BYTES]) {
            return Err(NoMeta::Damaged);
        }
        let version = u32_of(4)?;
        if version != VERSION {
            return Err(NoMeta::Version(version));
        }
        let meta = Self {
            page_bytes: u32_of(8)?,
            root: BucketHeader::decode(&bytes[16..]).ok_or(NoMeta::Foreign)?,
            freelist: PageId(u64_of(32)?),
            end: PageId(u64_of(40)?),
            transaction: u64_of(48)?,
        };
        let page_bytes = meta.page_bytes;
        let is_sound = page_bytes.is_power_of_two()
            && (BOLT_PAGE_BYTES_MIN..=BOLT_PAGE_BYTES_MAX).contains(&page_bytes)
            && meta.root.root < meta.end;
        if is_sound {
            Ok(meta)
        } else {
            Err(NoMeta::Damaged)
        }
    }

    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.root.encode());
        bytes[32..40].copy_from_slice(&self.freelist.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.end.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let checksum = fnv1a(&bytes[..META_CHECKED_BYTES]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// The 64-bit FNV-1a hash.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*field))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_gives_its_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_page_is_read_as_it_was_written_and_every_bit_counts() {
        let meta = Meta {
            page_bytes: 4096,
            root: BucketHeader {
                root: PageId(7),
                sequence: 0,
            },
            freelist: PageId(2),
            end: PageId(8),
            transaction: 2,
        };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Ok(meta));
        for bit in 0..META_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(Meta::decode(&bytes[..63]), Err(NoMeta::Foreign));
    }
}
