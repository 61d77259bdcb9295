//! Buckets and the cursor that walks one in key order.
//!
//! A cursor keeps one page per level: the branches it went through and the leaf it stands on. It lends
//! the entry it stands on; the page stays in memory until the cursor moves to the next leaf.

use super::error::{BoltError, PageDamage};
use super::file::BoltFile;
use super::format::{BUCKET_HEADER_BYTES, BucketHeader, PageId};
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
        let mut cursor = self.cursor();
        let mut page = cursor.root_page()?;
        for _ in 0..BOLT_DEPTH_MAX {
            let Some(last) = page.count().checked_sub(1) else {
                return Ok(None);
            };
            match page.kind() {
                PageKind::Leaf => return Ok(Some(page.key(last).to_vec())),
                PageKind::Branch => page = cursor.child_page(&page, last)?,
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
        self.branches.clear();
        self.leaf = Place::End;
        let root = self.root_page()?;
        self.descend(root, key)
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

    /// The page at the top. It alone may be without elements, if it is a leaf.
    fn root_page(&mut self) -> Result<Page, BoltError> {
        let file = self.bucket.file;
        let page = match &self.bucket.root {
            Root::Page(id) => file.read_page(*id, std::mem::take(&mut self.spare))?,
            Root::Inline { on, bytes } => {
                let damaged = |damage| file.damaged(*on, damage);
                let page = Page::parse(*on, bytes.clone()).map_err(damaged)?;
                if page.kind() == PageKind::Branch {
                    // A bucket inside a value has no pages of its own.
                    return Err(damaged(PageDamage::Kind {
                        kind: super::format::BRANCH_KIND,
                    }));
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
    fn child_page(&mut self, parent: &Page, element: usize) -> Result<Page, BoltError> {
        let file = self.bucket.file;
        let page = file.read_page(parent.child(element), std::mem::take(&mut self.spare))?;
        if page.count() == 0 {
            return Err(file.damaged(page.id(), PageDamage::Empty));
        }
        if page.key(0) < parent.key(element) {
            return Err(file.damaged(page.id(), PageDamage::Parent));
        }
        Ok(page)
    }

    /// From a page down to the leaf where `key` is or would be.
    fn descend(&mut self, mut page: Page, key: &[u8]) -> Result<(), BoltError> {
        loop {
            let found = page.search(key);
            if page.kind() == PageKind::Leaf {
                let at = found.unwrap_or_else(|above| above);
                self.leaf = Place::Leaf(page, at);
                return Ok(());
            }
            if self.branches.len() + 1 >= BOLT_DEPTH_MAX {
                let id = page.id();
                return Err(self.bucket.file.damaged(id, PageDamage::Depth));
            }
            // The last child that does not begin behind the key.
            let element = found.unwrap_or_else(|above| above.saturating_sub(1));
            let child = self.child_page(&page, element)?;
            self.branches.push((page, element));
            page = child;
        }
    }

    /// Moves to the first entry of the leaf behind the present one.
    fn next_leaf(&mut self) -> Result<(), BoltError> {
        let Place::Leaf(leaf, _) = std::mem::replace(&mut self.leaf, Place::End) else {
            return Ok(());
        };
        // An empty leaf is a root, so there is nothing behind it.
        let Some(last) = leaf.count().checked_sub(1) else {
            return Ok(());
        };
        while let Some((branch, element)) = self.branches.pop() {
            let next = element + 1;
            if next == branch.count() {
                continue;
            }
            let file = self.bucket.file;
            if branch.key(next) <= leaf.key(last) {
                return Err(file.damaged(branch.id(), PageDamage::Order { element: next }));
            }
            let child = self.child_page(&branch, next)?;
            self.branches.push((branch, next));
            self.descend(child, &[])?;
            break;
        }
        if let Place::Leaf(next, _) = &self.leaf
            && next.key(0) <= leaf.key(last)
        {
            return Err(self
                .bucket
                .file
                .damaged(next.id(), PageDamage::Order { element: 0 }));
        }
        self.spare = leaf.into_bytes();
        Ok(())
    }
}
