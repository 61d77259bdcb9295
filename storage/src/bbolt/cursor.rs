//! Buckets and the cursor that walks one in key order.
//!
//! A cursor keeps one page per level: the branches it went through and the leaf it stands on. It lends
//! the entry it stands on; the page stays in memory until the cursor moves to the next leaf. An error
//! leaves it where it was, so nobody takes a damaged bucket for one that ends early.

use super::error::{BoltError, PageDamage};
use super::file::BoltFile;
use super::format::{BRANCH_KIND, BUCKET_HEADER_BYTES, BucketHeader, PageId};
use super::page::{Page, PageKind};
use crate::limits::BOLT_DEPTH_MAX;

/// A bucket: entries in the order of their keys, some of which may be buckets again.
#[derive(Clone, Debug)]
pub struct Bucket<'f> {
    file: &'f BoltFile,
    root: Root,
}

impl<'f> Bucket<'f> {
    pub(super) fn at_page(file: &'f BoltFile, header: BucketHeader) -> Self {
        Self {
            file,
            root: Root::Page(header.root),
        }
    }

    /// The bucket with this name inside this one, if there is one.
    ///
    /// # Errors
    /// [`BoltError`] if a page on the way is damaged or cannot be read.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Self>, BoltError> {
        let mut cursor = self.cursor();
        cursor.seek(name)?;
        match cursor.peek()? {
            Some(entry) if entry.key == name && entry.is_bucket => {}
            _ => return Ok(None),
        }
        cursor.child_bucket()
    }

    /// The value of a key, if the key is there and is no bucket.
    ///
    /// # Errors
    /// [`BoltError`] if a page on the way is damaged or cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BoltError> {
        let mut cursor = self.cursor();
        cursor.seek(key)?;
        let found = cursor.peek()?;
        Ok(found
            .filter(|entry| entry.key == key && !entry.is_bucket)
            .map(|entry| entry.value.to_vec()))
    }

    /// The last key of the bucket, if it has any.
    ///
    /// # Errors
    /// [`BoltError`] if a page on the way is damaged or cannot be read.
    pub fn last_key(&self) -> Result<Option<Vec<u8>>, BoltError> {
        let mut page = self.root_page(Vec::new())?;
        for _ in 0..BOLT_DEPTH_MAX {
            let Some(last) = page.count().checked_sub(1) else {
                return Ok(None);
            };
            match page.kind() {
                PageKind::Leaf => return Ok(Some(page.key(last).to_vec())),
                PageKind::Branch => page = self.child_page(&page, last, Vec::new())?,
            }
        }
        Err(self.file.damaged(page.id(), PageDamage::Depth))
    }

    /// The page at the top, unless the bucket lies in a value.
    #[cfg(test)]
    pub(super) fn root_page_id(&self) -> Option<PageId> {
        match self.root {
            Root::Page(id) => Some(id),
            Root::Inline { .. } => None,
        }
    }

    /// A cursor before the first entry.
    #[must_use]
    pub fn cursor(&self) -> Cursor<'f> {
        Cursor {
            bucket: self.clone(),
            branches: Vec::new(),
            leaf: Place::Start,
            spare: Vec::new(),
        }
    }

    /// The page at the top. It alone may be without elements, if it is a leaf. `spare` is a buffer to use
    /// again.
    fn root_page(&self, spare: Vec<u8>) -> Result<Page, BoltError> {
        let file = self.file;
        let page = match &self.root {
            Root::Page(id) => file.read_page(*id, spare)?,
            Root::Inline { on, bytes } => {
                let damaged = |damage| file.damaged(*on, damage);
                let page = Page::parse(*on, bytes.clone()).map_err(damaged)?;
                if page.kind() == PageKind::Branch {
                    // A bucket inside a value has no pages of its own.
                    return Err(damaged(PageDamage::Kind { kind: BRANCH_KIND }));
                }
                page
            }
        };
        if page.kind() == PageKind::Branch && page.count() == 0 {
            return Err(file.damaged(page.id(), PageDamage::Empty));
        }
        Ok(page)
    }

    /// Reads a child and checks that it has elements and begins where its parent says.
    fn child_page(&self, parent: &Page, element: usize, spare: Vec<u8>) -> Result<Page, BoltError> {
        let page = self.file.read_page(parent.child(element), spare)?;
        if page.count() == 0 {
            return Err(self.file.damaged(page.id(), PageDamage::Empty));
        }
        if page.key(0) < parent.key(element) {
            return Err(self.file.damaged(page.id(), PageDamage::Parent));
        }
        Ok(page)
    }

    /// From a page that has `depth` pages above it down to the leaf where `key` is or would be.
    fn descend(&self, mut page: Page, key: &[u8], depth: usize) -> Result<Descent, BoltError> {
        let mut branches = Vec::new();
        loop {
            let found = page.search(key);
            if page.kind() == PageKind::Leaf {
                return Ok(Descent {
                    branches,
                    at: found.unwrap_or_else(|above| above),
                    leaf: page,
                });
            }
            if depth + branches.len() + 1 >= BOLT_DEPTH_MAX {
                return Err(self.file.damaged(page.id(), PageDamage::Depth));
            }
            // The last child that does not begin behind the key.
            let element = found.unwrap_or_else(|above| above.saturating_sub(1));
            let child = self.child_page(&page, element, Vec::new())?;
            branches.push((page, element));
            page = child;
        }
    }
}

/// Where a bucket's tree begins.
#[derive(Clone, Debug)]
enum Root {
    Page(PageId),
    /// The page itself, found in a value on page `on`.
    Inline {
        on: PageId,
        bytes: Vec<u8>,
    },
}

/// A way down a tree.
struct Descent {
    /// Each branch and the child that was taken.
    branches: Vec<(Page, usize)>,
    leaf: Page,
    /// The place in the leaf.
    at: usize,
}

/// An entry of a bucket, lent by a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'c> {
    /// Never empty.
    pub key: &'c [u8],
    /// What is stored under it.
    pub value: &'c [u8],
    /// True if the value is a bucket, to be opened with [`Bucket::bucket`].
    pub is_bucket: bool,
}

/// A place in a bucket.
#[derive(Debug)]
pub struct Cursor<'f> {
    bucket: Bucket<'f>,
    /// From the root down: each branch and the child that the cursor is below of.
    branches: Vec<(Page, usize)>,
    leaf: Place,
    /// A page buffer that is not in use.
    spare: Vec<u8>,
}

/// Where a cursor stands.
#[derive(Debug)]
enum Place {
    /// Before the first entry.
    Start,
    /// On an entry of a leaf, or behind its last one.
    Leaf(Page, usize),
    /// Behind the last entry.
    End,
}

impl<'f> Cursor<'f> {
    /// Goes to the first entry whose key is not below `key`.
    ///
    /// # Errors
    /// [`BoltError`] if a page on the way is damaged or cannot be read.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), BoltError> {
        let root = self.bucket.root_page(std::mem::take(&mut self.spare))?;
        let found = self.bucket.descend(root, key, 0)?;
        self.branches = found.branches;
        self.leaf = Place::Leaf(found.leaf, found.at);
        Ok(())
    }

    /// The entry the cursor stands on; it stays there.
    ///
    /// # Errors
    /// [`BoltError`] if a page on the way is damaged or cannot be read.
    pub fn peek(&mut self) -> Result<Option<Entry<'_>>, BoltError> {
        if matches!(self.leaf, Place::Start) {
            self.seek(&[])?;
        }
        while let Place::Leaf(leaf, at) = &self.leaf {
            if *at < leaf.count() {
                break;
            }
            self.next_leaf()?;
        }
        let Place::Leaf(leaf, at) = &self.leaf else {
            return Ok(None);
        };
        Ok(Some(Entry {
            key: leaf.key(*at),
            value: leaf.value(*at),
            is_bucket: leaf.is_bucket(*at),
        }))
    }

    /// Leaves the entry the cursor stands on.
    pub fn advance(&mut self) {
        if let Place::Leaf(leaf, at) = &mut self.leaf
            && *at < leaf.count()
        {
            *at += 1;
        }
    }

    /// The bucket that the entry under the cursor is, if it is one.
    ///
    /// # Errors
    /// [`BoltError`] if a page on the way is damaged or cannot be read.
    pub fn child_bucket(&mut self) -> Result<Option<Bucket<'f>>, BoltError> {
        if self.peek()?.is_none_or(|entry| !entry.is_bucket) {
            return Ok(None);
        }
        let Place::Leaf(leaf, at) = &self.leaf else {
            return Ok(None);
        };
        let file = self.bucket.file;
        let value = leaf.value(*at);
        let Some(header) = BucketHeader::decode(value) else {
            return Err(file.damaged(leaf.id(), PageDamage::Bucket { element: *at }));
        };
        let root = if header.root == PageId(0) {
            Root::Inline {
                on: leaf.id(),
                bytes: value[BUCKET_HEADER_BYTES..].to_vec(),
            }
        } else {
            Root::Page(header.root)
        };
        Ok(Some(Bucket { file, root }))
    }

    /// Moves to the first entry of the leaf behind the present one, or behind the last entry of all.
    fn next_leaf(&mut self) -> Result<(), BoltError> {
        let has_next = |(branch, element): &(Page, usize)| element + 1 < branch.count();
        let Some(level) = self.branches.iter().rposition(has_next) else {
            self.leaf = Place::End;
            return Ok(());
        };
        let Place::Leaf(leaf, _) = &self.leaf else {
            return Ok(());
        };
        let file = self.bucket.file;
        // Only a root is without elements, and no branch is above a root.
        let last_key = leaf.key(leaf.count().saturating_sub(1));
        let (branch, element) = &self.branches[level];
        let next = element + 1;
        if branch.key(next) <= last_key {
            return Err(file.damaged(branch.id(), PageDamage::Order { element: next }));
        }
        let spare = std::mem::take(&mut self.spare);
        let child = self.bucket.child_page(branch, next, spare)?;
        let found = self.bucket.descend(child, &[], level + 1)?;
        if found.leaf.key(0) <= last_key {
            return Err(file.damaged(found.leaf.id(), PageDamage::Order { element: 0 }));
        }
        self.branches.truncate(level + 1);
        self.branches[level].1 = next;
        self.branches.extend(found.branches);
        let there = Place::Leaf(found.leaf, found.at);
        let before = std::mem::replace(&mut self.leaf, there);
        if let Place::Leaf(leaf, _) = before {
            self.spare = leaf.into_bytes();
        }
        Ok(())
    }
}
