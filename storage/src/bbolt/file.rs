//! An open bbolt file: which of its states counts, and its pages.
//!
//! Reads are positioned reads of single pages, so a file of any size costs the memory of a few pages.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::cursor::Bucket;
use super::error::{BoltError, PageDamage};
use super::format::{META_BYTES, Meta, NoMeta, PAGE_HEADER_BYTES, PageHeader, PageId};
use super::page::{Page, PageKind, page_kind};
use crate::limits::{
    BOLT_BRANCH_BYTES_MAX, BOLT_LEAF_BYTES_MAX, BOLT_PAGE_BYTES_MAX, BOLT_PAGE_BYTES_MIN,
};

/// A bbolt file, open for reading and locked against writers.
#[derive(Debug)]
pub struct BoltFile {
    file: File,
    name: String,
    meta: Meta,
}

impl BoltFile {
    /// Opens a file that is a bbolt file to its end.
    ///
    /// # Errors
    /// [`BoltError`]: unreadable, locked, foreign, cut off or damaged.
    pub fn open(path: &Path) -> Result<Self, BoltError> {
        let name = path.display().to_string();
        let file = open_locked(path)?;
        let bytes = file_bytes(&file, &name)?;
        Self::from_file(file, name, bytes)
    }

    /// Takes an open file whose first `bytes` are a bbolt file; `name` is for messages.
    ///
    /// # Errors
    /// As [`BoltFile::open`].
    pub fn from_file(file: File, name: String, bytes: u64) -> Result<Self, BoltError> {
        let meta = newest_meta(&file, &name, bytes)?;
        let needed = meta.end.0.checked_mul(u64::from(meta.page_bytes));
        match needed {
            Some(needed) if needed <= bytes => Ok(Self { file, name, meta }),
            _ => Err(BoltError::Truncated {
                file: name,
                bytes,
                needed: needed.unwrap_or(u64::MAX),
            }),
        }
    }

    /// The bucket that holds all others.
    #[must_use]
    pub fn root(&self) -> Bucket<'_> {
        Bucket::at_page(self, self.meta.root)
    }

    /// The path, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The open file itself, for what is behind the pages.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the pages in use or once used; behind them the file says nothing.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.meta.end.0 * u64::from(self.meta.page_bytes)
    }

    /// Bytes of one page.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.meta.page_bytes
    }

    /// Whether the file keeps a list of its free pages; etcd's own files do not.
    #[must_use]
    pub fn has_freelist(&self) -> bool {
        self.meta.freelist.0 != super::format::NO_FREELIST
    }

    /// Reads and checks one page with its overflow. `spare` is a buffer to use again.
    pub(super) fn read_page(&self, id: PageId, mut spare: Vec<u8>) -> Result<Page, BoltError> {
        let damaged = |damage| self.damaged(id, damage);
        let page_bytes = u64::from(self.meta.page_bytes);
        let end = self.meta.end;
        if id >= end {
            return Err(damaged(PageDamage::OutOfFile { end }));
        }
        spare.resize(self.meta.page_bytes as usize, 0);
        self.read_at(&mut spare, id.0 * page_bytes)?;
        let header = PageHeader::decode(&spare).ok_or(damaged(PageDamage::Empty))?;
        if header.id != id {
            return Err(damaged(PageDamage::OtherPage { found: header.id }));
        }
        let kind = page_kind(&header).map_err(damaged)?;
        if header.overflow > 0 {
            let last = PageId(id.0.saturating_add(u64::from(header.overflow)));
            if last >= end {
                return Err(damaged(PageDamage::OutOfFile { end }));
            }
            let bytes = (u64::from(header.overflow) + 1) * page_bytes;
            let bytes_max = match kind {
                PageKind::Branch => BOLT_BRANCH_BYTES_MAX,
                PageKind::Leaf => BOLT_LEAF_BYTES_MAX,
            };
            if bytes > bytes_max {
                return Err(damaged(PageDamage::TooLarge { bytes }));
            }
            spare.resize(bytes as usize, 0);
            let (_, rest) = spare.split_at_mut(page_bytes as usize);
            self.read_at(rest, (id.0 + 1) * page_bytes)?;
        }
        Page::parse(id, spare).map_err(damaged)
    }

    pub(super) fn damaged(&self, page: PageId, damage: PageDamage) -> BoltError {
        BoltError::Damaged {
            file: self.name.clone(),
            page,
            damage,
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoltError> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(io_error("read", &self.name))
    }
}

/// Opens a file for reading with a shared lock, or says that somebody writes it.
pub(crate) fn open_locked(path: &Path) -> Result<File, BoltError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(io_error("open", &name))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BoltError::Locked { file: name }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &name)(source)),
    }
}

/// The length of a file.
pub(crate) fn file_bytes(file: &File, name: &str) -> Result<u64, BoltError> {
    let metadata = file.metadata().map_err(io_error("read", name))?;
    if metadata.is_dir() {
        let source = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(io_error("read", name)(source));
    }
    Ok(metadata.len())
}

pub(crate) fn io_error(action: &'static str, name: &str) -> impl Fn(io::Error) -> BoltError {
    move |source| BoltError::Io {
        file: name.to_owned(),
        action,
        source,
    }
}

/// The valid meta page with the higher transaction number.
///
/// The page size stands in the meta page itself. If the first is damaged, the second is looked for
/// behind every possible page size.
fn newest_meta(file: &File, name: &str, bytes: u64) -> Result<Meta, BoltError> {
    let first = read_meta(file, name, bytes, 0)?;
    let second = match &first {
        Ok(meta) => read_meta(file, name, bytes, u64::from(meta.page_bytes))?,
        Err(_) => {
            let mut found = Err(NoMeta::Foreign);
            let mut page_bytes = BOLT_PAGE_BYTES_MIN;
            while page_bytes <= BOLT_PAGE_BYTES_MAX && found.is_err() {
                let there = read_meta(file, name, bytes, u64::from(page_bytes))?;
                found = match there {
                    Ok(meta) if meta.page_bytes != page_bytes => found,
                    Ok(meta) => Ok(meta),
                    Err(NoMeta::Foreign) => found,
                    Err(reason) => Err(reason),
                };
                page_bytes *= 2;
            }
            found
        }
    };
    match (first, second) {
        (Ok(first), Ok(second)) if second.transaction > first.transaction => Ok(second),
        (Ok(first), _) => Ok(first),
        (Err(_), Ok(second)) => Ok(second),
        (Err(first), Err(second)) => Err(no_meta(name, first, second)),
    }
}

/// Reads one meta page; the outer error is the disk's.
fn read_meta(
    file: &File,
    name: &str,
    bytes: u64,
    offset: u64,
) -> Result<Result<Meta, NoMeta>, BoltError> {
    let mut page = [0; PAGE_HEADER_BYTES + META_BYTES];
    if offset + page.len() as u64 > bytes {
        return Ok(Err(NoMeta::Foreign));
    }
    file.read_exact_at(&mut page, offset)
        .map_err(io_error("read", name))?;
    Ok(Meta::decode(&page[PAGE_HEADER_BYTES..]))
}

/// The error that says most about two meta pages of which neither is valid.
fn no_meta(name: &str, first: NoMeta, second: NoMeta) -> BoltError {
    let file = name.to_owned();
    match (first, second) {
        (NoMeta::Version(version), _) | (_, NoMeta::Version(version)) => BoltError::Unsupported {
            file,
            reason: format!("version {version} of the format is not known"),
        },
        (NoMeta::SwappedOrder, _) | (_, NoMeta::SwappedOrder) => BoltError::Unsupported {
            file,
            reason: "it was written by a big-endian machine".to_owned(),
        },
        (NoMeta::Damaged, _) | (_, NoMeta::Damaged) => BoltError::NoMeta { file },
        (NoMeta::Foreign, NoMeta::Foreign) => BoltError::Foreign { file },
    }
}
