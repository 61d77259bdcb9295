//! The bulk writer: buckets in any order, the entries of each in key order, one pass.
//!
//! ```text
//!   begin_bucket -> put, put, ... -> end_bucket -> begin_bucket ... -> finish
//!   | meta 0 | meta 1 | empty freelist | leaves and branches of the buckets ... | root tree |
//! ```
//!
//! A file with an empty freelist is opened at once, while one without any makes bbolt walk all its pages.
//! The meta pages are written last, so a file that a crash left unfinished has none.

use std::collections::BTreeMap;
use std::fs::File;

use super::error::BoltError;
use super::format::{
    BucketHeader, FREELIST_KIND, META_BYTES, META_KIND, Meta, PAGE_HEADER_BYTES, PageHeader, PageId,
};
use super::sink::PageSink;
use super::tree::{Tree, TreeEntry};
use crate::limits::BOLT_PAGE_BYTES;

const PAGE_BYTES: usize = BOLT_PAGE_BYTES as usize;
const FREELIST_PAGE: PageId = PageId(2);
/// bbolt keeps the state of an even transaction on page 0 and of an odd one on page 1.
const TRANSACTION: u64 = 2;

/// A bbolt file under construction.
#[derive(Debug)]
pub struct BoltWriter {
    sink: PageSink,
    /// The finished buckets by name: the value that each is in the root tree.
    buckets: BTreeMap<Vec<u8>, Vec<u8>>,
    open: Option<(Vec<u8>, Tree)>,
}

impl BoltWriter {
    /// Begins in an empty file; `name` is for messages.
    ///
    /// # Errors
    /// [`BoltError::Io`].
    pub fn new(file: File, name: String) -> Result<Self, BoltError> {
        let mut sink = PageSink::new(file, name, FREELIST_PAGE);
        let page = sink.write_page(FREELIST_KIND, 0, &[])?;
        assert_eq!(page, FREELIST_PAGE, "the freelist follows the meta pages");
        Ok(Self {
            sink,
            buckets: BTreeMap::new(),
            open: None,
        })
    }

    /// Begins a bucket. The one before must be ended, and no name comes twice.
    pub fn begin_bucket(&mut self, name: &[u8]) {
        assert!(self.open.is_none(), "one bucket is written at a time");
        assert!(
            !self.buckets.contains_key(name),
            "a bucket is written once: {name:?}"
        );
        self.open = Some((name.to_vec(), Tree::default()));
    }

    /// Adds an entry to the bucket begun. Keys are not empty and come in ascending order.
    ///
    /// # Errors
    /// [`BoltError::Io`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        let (_, tree) = self.open.as_mut().expect("a bucket has been begun");
        let entry = TreeEntry {
            key,
            value,
            is_bucket: false,
        };
        tree.put(&mut self.sink, &entry)
    }

    /// Ends the bucket begun.
    ///
    /// # Errors
    /// [`BoltError::Io`].
    pub fn end_bucket(&mut self) -> Result<(), BoltError> {
        let (name, tree) = self.open.take().expect("a bucket has been begun");
        let value = tree.finish_as_bucket(&mut self.sink)?;
        self.buckets.insert(name, value);
        Ok(())
    }

    /// Writes the root tree and the meta pages. Returns the file, not yet flushed, and its length.
    ///
    /// # Errors
    /// [`BoltError::Io`].
    pub fn finish(mut self) -> Result<(File, u64), BoltError> {
        assert!(self.open.is_none(), "the last bucket is ended");
        let mut root = Tree::default();
        for (name, value) in &self.buckets {
            let entry = TreeEntry {
                key: name,
                value,
                is_bucket: true,
            };
            root.put(&mut self.sink, &entry)?;
        }
        let root = root.finish(&mut self.sink)?;
        let newest = Meta {
            page_bytes: BOLT_PAGE_BYTES,
            root: BucketHeader { root, sequence: 0 },
            freelist: FREELIST_PAGE,
            end: self.sink.next_page(),
            transaction: TRANSACTION,
        };
        let older = Meta {
            transaction: TRANSACTION - 1,
            ..newest
        };
        let mut head = vec![0; 2 * PAGE_BYTES];
        for (page, meta) in [newest, older].iter().enumerate() {
            let header = PageHeader {
                id: PageId(page as u64),
                kind: META_KIND,
                count: 0,
                overflow: 0,
            };
            let start = page * PAGE_BYTES;
            let body = start + PAGE_HEADER_BYTES;
            head[start..body].copy_from_slice(&header.encode());
            head[body..body + META_BYTES].copy_from_slice(&meta.encode());
        }
        self.sink.write_head(&head)
    }
}
