//! One branch or leaf page in memory, checked as a whole before anything in it is used.
//!
//! The cursor keeps one per level. After [`Page::parse`] every element lies inside the page, no key is
//! empty and keys rise strictly, so the accessors cannot fail.

use std::ops::Range;

use super::error::PageDamage;
use super::format::{
    BRANCH_KIND, BUCKET_FLAG, ELEMENT_BYTES, LEAF_KIND, PAGE_HEADER_BYTES, PageHeader, PageId,
    u32_at, u64_at,
};

/// What the elements of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    Branch,
    Leaf,
}

/// A checked page.
#[derive(Debug)]
pub(super) struct Page {
    id: PageId,
    kind: PageKind,
    count: usize,
    bytes: Vec<u8>,
}

impl Page {
    /// Takes the bytes of a page, overflow included; `id` is the page they were read from.
    pub fn parse(id: PageId, bytes: Vec<u8>) -> Result<Self, PageDamage> {
        let Some(header) = PageHeader::decode(&bytes) else {
            return Err(PageDamage::Element { element: 0 });
        };
        let page = Self {
            id,
            kind: page_kind(&header)?,
            count: usize::from(header.count),
            bytes,
        };
        page.check()?;
        Ok(page)
    }

    /// The page it was read from.
    pub fn id(&self) -> PageId {
        self.id
    }

    pub fn kind(&self) -> PageKind {
        self.kind
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The key of an element.
    pub fn key(&self, element: usize) -> &[u8] {
        self.slice(self.key_range(element))
    }

    /// The value of a leaf's element.
    pub fn value(&self, element: usize) -> &[u8] {
        self.slice(self.value_range(element))
    }

    /// Whether the value of a leaf's element is a bucket.
    pub fn is_bucket(&self, element: usize) -> bool {
        self.field(element, 0) & BUCKET_FLAG != 0
    }

    /// The child of a branch's element.
    pub fn child(&self, element: usize) -> PageId {
        PageId(u64_at(&self.bytes, element_start(element) + 8).unwrap_or(0))
    }

    /// The first element whose key is not below `key`; `Ok` if it is that very key.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The buffer, to be used again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn check(&self) -> Result<(), PageDamage> {
        let data_start = element_start(self.count);
        for element in 0..self.count {
            let key = self.key_range(element);
            let end = match self.kind {
                PageKind::Branch => key.end,
                PageKind::Leaf => self.value_range(element).end,
            };
            if data_start > self.bytes.len() || key.start < data_start || end > self.bytes.len() {
                return Err(PageDamage::Element { element });
            }
            if key.is_empty() {
                return Err(PageDamage::EmptyKey { element });
            }
            if element > 0 && self.key(element - 1) >= self.key(element) {
                return Err(PageDamage::Order { element });
            }
        }
        Ok(())
    }

    /// Where the key lies. Three 32-bit numbers cannot overflow a `usize` of 64 bits.
    fn key_range(&self, element: usize) -> Range<usize> {
        let (position, length) = match self.kind {
            PageKind::Branch => (self.field(element, 0), self.field(element, 1)),
            PageKind::Leaf => (self.field(element, 1), self.field(element, 2)),
        };
        let start = element_start(element) + position as usize;
        start..start + length as usize
    }

    fn value_range(&self, element: usize) -> Range<usize> {
        let start = self.key_range(element).end;
        start..start + self.field(element, 3) as usize
    }

    /// One of the four numbers of an element; 0 if the page is too short, which `check` refuses.
    fn field(&self, element: usize, field: usize) -> u32 {
        u32_at(&self.bytes, element_start(element) + 4 * field).unwrap_or(0)
    }

    fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

const _: () = assert!(usize::BITS == 64);

/// What kind of page a header announces.
pub(super) fn page_kind(header: &PageHeader) -> Result<PageKind, PageDamage> {
    match header.kind {
        BRANCH_KIND => Ok(PageKind::Branch),
        LEAF_KIND => Ok(PageKind::Leaf),
        kind => Err(PageDamage::Kind { kind }),
    }
}

fn element_start(element: usize) -> usize {
    PAGE_HEADER_BYTES + element * ELEMENT_BYTES
}
