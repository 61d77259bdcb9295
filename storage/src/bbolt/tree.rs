//! One bucket's tree, built bottom-up from entries in key order.
//!
//! ```text
//!   put -> leaf under construction -> page -> branch of level 0 -> page -> branch of level 1 -> ...
//! ```
//!
//! A leaf is closed when the next entry would make it longer, in pages. A large entry has the rest of its
//! last page filled with what follows, so little is wasted.
//!
//! Invariant: every branch has two children or more. The last full branch of a level is held back until
//! the one behind it has two; if that one ends with one child, it gets another from its neighbour.

use super::error::BoltError;
use super::format::{
    BRANCH_KIND, BUCKET_FLAG, BUCKET_HEADER_BYTES, BucketHeader, ELEMENT_BYTES, LEAF_KIND,
    PAGE_HEADER_BYTES, PageHeader, PageId,
};
use super::sink::PageSink;
use crate::limits::{BOLT_KEY_BYTES_MAX, BOLT_PAGE_BYTES, BOLT_VALUE_BYTES_MAX};

const PAGE_BYTES: usize = BOLT_PAGE_BYTES as usize;
/// A bucket with less than this in its only leaf lies in its own value. bbolt draws the same line.
const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
/// A full branch can spare one child for its neighbour.
const FULL_BRANCH_CHILDREN_MIN: usize = 3;

/// A tree under construction.
#[derive(Debug, Default)]
pub(super) struct Tree {
    leaf: Leaf,
    levels: Vec<Level>,
    /// The last key, for the order.
    last_key: Vec<u8>,
}

impl Tree {
    /// Adds an entry behind all others.
    pub fn put(&mut self, sink: &mut PageSink, entry: &TreeEntry<'_>) -> Result<(), BoltError> {
        let (key, value) = (entry.key, entry.value);
        assert!(!key.is_empty(), "bbolt has no empty keys");
        assert!(key.len() <= BOLT_KEY_BYTES_MAX, "key: {} bytes", key.len());
        let value_bytes = value.len();
        assert!(
            value_bytes <= BOLT_VALUE_BYTES_MAX,
            "value: {value_bytes} bytes"
        );
        assert!(
            self.last_key.as_slice() < key,
            "keys come in ascending order: {key:?} after {:?}",
            self.last_key
        );
        if !self.leaf.has_room(key.len() + value_bytes) {
            self.close_leaf(sink)?;
        }
        self.leaf.push(entry);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Writes what is left; the answer is where the tree begins.
    pub fn finish(mut self, sink: &mut PageSink) -> Result<PageId, BoltError> {
        if self.levels.is_empty() {
            return self.leaf.write(sink);
        }
        self.close_leaf(sink)?;
        let mut level = 0;
        loop {
            self.levels[level].even_out();
            if let Some(held) = self.levels[level].held.take() {
                self.write_branch(sink, level, &held)?;
            }
            let last = std::mem::take(&mut self.levels[level].open);
            if level + 1 == self.levels.len() {
                return last.write(sink);
            }
            self.write_branch(sink, level, &last)?;
            level += 1;
        }
    }

    /// Writes what is left and returns the value that a bucket with this tree is: its header and, if it
    /// is small, the tree itself.
    pub fn finish_as_bucket(self, sink: &mut PageSink) -> Result<Vec<u8>, BoltError> {
        let is_inline = self.levels.is_empty() && self.leaf.bytes() <= INLINE_BYTES_MAX;
        let mut header = BucketHeader {
            root: PageId(0),
            sequence: 0,
        };
        if is_inline {
            let mut value = header.encode().to_vec();
            self.leaf.append_inline(&mut value);
            return Ok(value);
        }
        header.root = self.finish(sink)?;
        Ok(header.encode().to_vec())
    }

    fn close_leaf(&mut self, sink: &mut PageSink) -> Result<(), BoltError> {
        let leaf = std::mem::take(&mut self.leaf);
        let page = leaf.write(sink)?;
        let child = Child {
            key: leaf.first_key().to_vec(),
            page,
        };
        self.leaf = leaf.cleared();
        self.add_child(sink, 0, child)
    }

    fn add_child(
        &mut self,
        sink: &mut PageSink,
        level: usize,
        child: Child,
    ) -> Result<(), BoltError> {
        if level == self.levels.len() {
            self.levels.push(Level::default());
        }
        let Level { held, open } = &mut self.levels[level];
        if open.has_room(&child) {
            open.push(child);
            return Ok(());
        }
        let full = std::mem::take(open);
        open.push(child);
        match held.replace(full) {
            Some(written) => self.write_branch(sink, level, &written),
            None => Ok(()),
        }
    }

    /// Writes a branch of `level` and hands it to the level above.
    fn write_branch(
        &mut self,
        sink: &mut PageSink,
        level: usize,
        branch: &Branch,
    ) -> Result<(), BoltError> {
        let page = branch.write(sink)?;
        let key = branch.children[0].key.clone();
        self.add_child(sink, level + 1, Child { key, page })
    }
}

/// An entry on its way into a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct TreeEntry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub is_bucket: bool,
}

/// The leaf under construction.
#[derive(Debug, Default)]
struct Leaf {
    /// Flags, key length and value length of each entry.
    elements: Vec<(u32, u32, u32)>,
    /// Keys and values, one behind the other.
    data: Vec<u8>,
}

impl Leaf {
    fn bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.data.len()
    }

    fn first_key(&self) -> &[u8] {
        let length = self.elements.first().map_or(0, |element| element.1);
        &self.data[..length as usize]
    }

    /// Whether an entry fits without making the leaf longer, in pages. An empty leaf has room for all.
    fn has_room(&self, data_bytes: usize) -> bool {
        let bytes = self.bytes();
        self.elements.is_empty()
            || bytes + ELEMENT_BYTES + data_bytes <= bytes.next_multiple_of(PAGE_BYTES)
    }

    fn push(&mut self, entry: &TreeEntry<'_>) {
        let flags = if entry.is_bucket { BUCKET_FLAG } else { 0 };
        let element = (flags, entry.key.len() as u32, entry.value.len() as u32);
        self.elements.push(element);
        self.data.extend_from_slice(entry.key);
        self.data.extend_from_slice(entry.value);
    }

    fn write(&self, sink: &mut PageSink) -> Result<PageId, BoltError> {
        let elements = self.encode_elements();
        sink.write_page(LEAF_KIND, self.elements.len(), &[&elements, &self.data])
    }

    /// Appends the page as it stands inside a bucket's value: not padded, and without a number.
    fn append_inline(&self, value: &mut Vec<u8>) {
        let header = PageHeader {
            id: PageId(0),
            kind: LEAF_KIND,
            count: self.elements.len() as u16,
            overflow: 0,
        };
        value.extend_from_slice(&header.encode());
        value.extend_from_slice(&self.encode_elements());
        value.extend_from_slice(&self.data);
    }

    fn encode_elements(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.elements.len() * ELEMENT_BYTES);
        let mut data = 0;
        for (element, (flags, key_bytes, value_bytes)) in self.elements.iter().enumerate() {
            let position = position(element, self.elements.len(), data);
            for field in [*flags, position, *key_bytes, *value_bytes] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            data += *key_bytes as usize + *value_bytes as usize;
        }
        bytes
    }

    /// Empty, with the same buffers.
    fn cleared(mut self) -> Self {
        self.elements.clear();
        self.data.clear();
        self
    }
}

/// The branches of one level that are not written yet.
#[derive(Debug, Default)]
struct Level {
    /// Full, and complete unless `open` ends with one child.
    held: Option<Branch>,
    open: Branch,
}

impl Level {
    /// Gives the open branch a second child if it has only one.
    fn even_out(&mut self) {
        if let Some(held) = &mut self.held
            && self.open.children.len() == 1
            && let Some(child) = held.children.pop()
        {
            self.open.bytes += ELEMENT_BYTES + child.key.len();
            self.open.children.insert(0, child);
        }
    }
}

/// A child of a branch: its first key and its page.
#[derive(Debug)]
struct Child {
    key: Vec<u8>,
    page: PageId,
}

/// A branch under construction.
#[derive(Debug, Default)]
struct Branch {
    children: Vec<Child>,
    /// Bytes of elements and keys.
    bytes: usize,
}

impl Branch {
    fn has_room(&self, child: &Child) -> bool {
        let bytes = PAGE_HEADER_BYTES + self.bytes + ELEMENT_BYTES + child.key.len();
        bytes <= PAGE_BYTES || self.children.len() < FULL_BRANCH_CHILDREN_MIN
    }

    fn push(&mut self, child: Child) {
        self.bytes += ELEMENT_BYTES + child.key.len();
        self.children.push(child);
    }

    fn write(&self, sink: &mut PageSink) -> Result<PageId, BoltError> {
        assert!(
            self.children.len() >= 2,
            "a branch has two children or more"
        );
        let mut bytes = Vec::with_capacity(self.bytes);
        let mut data = 0;
        for (element, child) in self.children.iter().enumerate() {
            let position = position(element, self.children.len(), data);
            bytes.extend_from_slice(&position.to_le_bytes());
            bytes.extend_from_slice(&(child.key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&child.page.0.to_le_bytes());
            data += child.key.len();
        }
        for child in &self.children {
            bytes.extend_from_slice(&child.key);
        }
        sink.write_page(BRANCH_KIND, self.children.len(), &[&bytes])
    }
}

/// From an element to its key: over the elements behind it and `data` bytes of keys and values.
fn position(element: usize, count: usize, data: usize) -> u32 {
    let bytes = (count - element) * ELEMENT_BYTES + data;
    u32::try_from(bytes).expect("a leaf holds less than 4 GiB")
}

const _: () = assert!(BUCKET_HEADER_BYTES + INLINE_BYTES_MAX < PAGE_BYTES);
