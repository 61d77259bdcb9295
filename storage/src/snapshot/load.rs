//! Reads a file's index into memory, comparing everything with its checksum and its rules.
//!
//! Start-up and the offline tools call it. The order is from the root of trust outwards: superblock, page
//! table, then the small pages behind the leaves, whose bounds say which keys a damaged leaf had, then the
//! leaves. Every read is large, goes to where the pages stay, and cuts no page.

use std::sync::Arc;

use rkyv::api::low::from_bytes;
use rkyv::rancor::Failure;

use super::borrowed::{BorrowedPage, RunPlaces};
use super::changes::ArchivedChanges;
use super::check;
use super::error::{Affected, SnapshotDamage, SnapshotError, SnapshotPart};
use super::format::{
    FORMAT_VERSION, PageEntry, PageReference, SUPERBLOCK_BYTES, Superblock, SuperblockError, Table,
};
use super::inner::ArchivedInner;
use super::leaf::ArchivedLeaf;
use super::meta::{Meta, MetaPage};
use super::page::{Content, Page};
use super::snapshot::{Parts, Snapshot};
use crate::io::{AlignedBuf, Disk, FileEntry, FileId};
use crate::limits::SNAPSHOT_READ_BYTES;

impl Snapshot {
    /// Loads the index of a file that `entry` is the directory entry of. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Unfinished`] for a file that does not count; everything else is a reason to stop.
    pub fn load<D: Disk>(
        disk: &mut D,
        file: FileId,
        entry: &FileEntry,
    ) -> Result<Self, SnapshotError> {
        Loader::new(disk, file, entry).load()
    }

    /// Loads the index of a file whose superblock is not written yet. Blocks.
    pub(super) fn load_behind<D: Disk>(
        disk: &mut D,
        file: FileId,
        entry: &FileEntry,
        superblock: Superblock,
    ) -> Result<Self, SnapshotError> {
        let mut loader = Loader::new(disk, file, entry);
        loader.check_length(&superblock)?;
        loader.load_index(superblock)
    }
}

/// A file that is open.
#[derive(Clone, Debug)]
pub(super) struct FilePlace {
    file: FileId,
    /// Its path, for messages.
    name: String,
    bytes: u64,
}

impl FilePlace {
    /// Opens a file of a directory.
    pub(super) fn new<D: Disk>(disk: &mut D, entry: &FileEntry) -> Result<Self, SnapshotError> {
        let file = disk.open(&entry.name)?;
        Ok(Self::of(disk, file, entry))
    }

    fn of<D: Disk>(disk: &D, file: FileId, entry: &FileEntry) -> Self {
        Self {
            file,
            name: format!("{}/{}", disk.location(), entry.name),
            bytes: entry.bytes,
        }
    }
}

/// Reads parts of a file.
pub(super) struct Loader<'a, D> {
    pub(super) disk: &'a mut D,
    place: FilePlace,
    /// Bytes of values that other files have.
    borrowed_bytes: u64,
}

impl<'d, D: Disk> Loader<'d, D> {
    pub(super) fn new(disk: &'d mut D, file: FileId, entry: &FileEntry) -> Self {
        Self {
            place: FilePlace::of(disk, file, entry),
            disk,
            borrowed_bytes: 0,
        }
    }

    /// The file that it reads.
    pub(super) fn place(&self) -> FilePlace {
        self.place.clone()
    }

    /// One that reads another file of the directory.
    pub(super) fn beside(&mut self, place: &FilePlace) -> Loader<'_, D> {
        Loader {
            disk: self.disk,
            place: place.clone(),
            borrowed_bytes: 0,
        }
    }

    fn load(&mut self) -> Result<Snapshot, SnapshotError> {
        let superblock = self.superblock()?;
        self.load_index(superblock)
    }

    fn load_index(&mut self, superblock: Superblock) -> Result<Snapshot, SnapshotError> {
        let table = self.table(&superblock)?;
        let places = self.places(&superblock, &table)?;
        let meta = self.meta(&superblock)?;
        let inners = self.inners(&table)?;
        let changes = self.changes(&table)?;
        let leaves = self.leaves(&table, &inners)?;
        let parts = Parts {
            file: self.place.name.clone(),
            superblock,
            meta,
            leaves: leaves
                .into_iter()
                .zip(table.leaves.iter().copied())
                .collect(),
            inners,
            changes,
            change_entries: table.changes,
            changes_per_page: table.changes_per_page,
            places,
        };
        match check::whole(&parts) {
            Some(part) => {
                let damage = SnapshotDamage::Content(part);
                Err(self.damaged(superblock.meta.offset, damage, Affected::Everything))
            }
            None => Ok(Snapshot::new(parts)),
        }
    }

    pub(super) fn superblock(&mut self) -> Result<Superblock, SnapshotError> {
        let block = self.read(0, SUPERBLOCK_BYTES)?;
        let superblock = match Superblock::decode(block.as_slice()) {
            Ok(superblock) => superblock,
            Err(SuperblockError::Blank) => {
                return Err(SnapshotError::Unfinished {
                    file: self.place.name.clone(),
                });
            }
            Err(SuperblockError::Newer(found)) => {
                return Err(SnapshotError::NewerFormat {
                    file: self.place.name.clone(),
                    found,
                    known: FORMAT_VERSION,
                });
            }
            Err(SuperblockError::Damaged) => {
                return Err(self.damaged(0, SnapshotDamage::Superblock, Affected::Everything));
            }
        };
        self.check_length(&superblock)?;
        Ok(superblock)
    }

    fn check_length(&self, superblock: &Superblock) -> Result<(), SnapshotError> {
        if superblock.file_bytes > self.place.bytes {
            let damage = SnapshotDamage::Truncated;
            return Err(self.damaged(self.place.bytes, damage, Affected::Everything));
        }
        Ok(())
    }

    pub(super) fn table(&mut self, superblock: &Superblock) -> Result<Table, SnapshotError> {
        let archive = self.page_alone(&superblock.table, SnapshotPart::Table)?;
        let table = from_bytes::<Table, Failure>(archive.as_slice()).ok();
        let table = table.filter(|table| table.is_sound(superblock));
        table.ok_or_else(|| {
            let damage = SnapshotDamage::Content(SnapshotPart::Table);
            self.damaged(superblock.table.offset, damage, Affected::Everything)
        })
    }

    /// Where the runs of the leaves are; from now on it is known how much of the values is elsewhere.
    pub(super) fn places(
        &mut self,
        superblock: &Superblock,
        table: &Table,
    ) -> Result<RunPlaces, SnapshotError> {
        let places = match &superblock.borrowed {
            None => RunPlaces::all_own(superblock.sequence, &table.leaves),
            Some(page) => {
                let archive = self.page_alone(page, SnapshotPart::Borrowed)?;
                let read = from_bytes::<BorrowedPage, Failure>(archive.as_slice()).ok();
                let places =
                    read.and_then(|read| read.into_places(superblock.sequence, &table.leaves));
                places.ok_or_else(|| {
                    let damage = SnapshotDamage::Content(SnapshotPart::Borrowed);
                    self.damaged(page.offset, damage, Affected::Everything)
                })?
            }
        };
        self.borrowed_bytes = places.borrowed_bytes();
        if table.meta_offset() - self.borrowed_bytes != superblock.meta.offset {
            let damage = SnapshotDamage::Content(SnapshotPart::Table);
            return Err(self.damaged(superblock.table.offset, damage, Affected::Everything));
        }
        Ok(places)
    }

    /// The place in the file of what is at `offset` in one that has all of its values itself, and behind them.
    pub(super) fn own(&self, offset: u64) -> u64 {
        offset - self.borrowed_bytes
    }

    pub(super) fn meta(&mut self, superblock: &Superblock) -> Result<Meta, SnapshotError> {
        let archive = self.page_alone(&superblock.meta, SnapshotPart::Meta)?;
        let page = from_bytes::<MetaPage, Failure>(archive.as_slice()).ok();
        page.and_then(MetaPage::into_meta).ok_or_else(|| {
            let damage = SnapshotDamage::Content(SnapshotPart::Meta);
            self.damaged(superblock.meta.offset, damage, Affected::Everything)
        })
    }

    /// The archive of a page that the superblock refers to.
    fn page_alone(
        &mut self,
        page: &PageReference,
        part: SnapshotPart,
    ) -> Result<AlignedBuf, SnapshotError> {
        let mut blocks = self.read(page.offset, page.entry.padded_bytes())?;
        if crc32c::crc32c(blocks.as_slice()) != page.entry.checksum {
            let damage = SnapshotDamage::Checksum(part);
            return Err(self.damaged(page.offset, damage, Affected::Everything));
        }
        blocks.resize(page.entry.bytes as usize);
        Ok(blocks)
    }

    /// Reads pages that stand one behind the other.
    fn pages<T: Content>(
        &mut self,
        mut offset: u64,
        mut entries: &[PageEntry],
        rules: &Rules<'_, T>,
    ) -> Result<Vec<Page<T>>, SnapshotError> {
        let mut pages = Vec::with_capacity(entries.len());
        while !entries.is_empty() {
            let (now, later) = entries.split_at(pages_of_one_read(entries));
            let bytes = now.iter().map(PageEntry::padded_bytes).sum();
            let piece = Arc::new(self.read(offset, bytes)?);
            let mut start = 0;
            for entry in now {
                let page = view(&piece, start, entry, rules).map_err(|damage| {
                    let affected = (rules.affected)(pages.len());
                    self.damaged(offset + start as u64, damage, affected)
                })?;
                pages.push(page);
                start += entry.padded_bytes();
            }
            offset += bytes as u64;
            entries = later;
        }
        Ok(pages)
    }

    fn inners(&mut self, table: &Table) -> Result<Vec<Page<ArchivedInner>>, SnapshotError> {
        let rules = Rules {
            part: SnapshotPart::Inner,
            is_sound: &ArchivedInner::is_sound,
            affected: &|_| Affected::Everything,
        };
        self.pages(self.own(table.inners_offset()), &table.inners, &rules)
    }

    fn changes(&mut self, table: &Table) -> Result<Vec<Page<ArchivedChanges>>, SnapshotError> {
        let rules = Rules {
            part: SnapshotPart::Changes,
            is_sound: &ArchivedChanges::is_sound,
            affected: &|_| Affected::History,
        };
        self.pages(self.own(table.changes_offset()), &table.changes, &rules)
    }

    fn leaves(
        &mut self,
        table: &Table,
        inners: &[Page<ArchivedInner>],
    ) -> Result<Vec<Page<ArchivedLeaf>>, SnapshotError> {
        let rules = Rules {
            part: SnapshotPart::Leaf,
            is_sound: &ArchivedLeaf::is_sound,
            affected: &|leaf| keys_of_leaf(inners, leaf),
        };
        let entries: Vec<PageEntry> = table.leaves.iter().map(|leaf| leaf.page).collect();
        self.pages(self.own(table.leaves_offset()), &entries, &rules)
    }

    pub(super) fn read(&mut self, offset: u64, bytes: usize) -> Result<AlignedBuf, SnapshotError> {
        if offset.saturating_add(bytes as u64) > self.place.bytes {
            let end = self.place.bytes.max(offset);
            return Err(self.damaged(end, SnapshotDamage::Truncated, Affected::Everything));
        }
        let mut buf = AlignedBuf::with_capacity(bytes);
        self.disk.read(self.place.file, offset, bytes, &mut buf)?;
        if buf.len() < bytes {
            let end = offset + buf.len() as u64;
            return Err(self.damaged(end, SnapshotDamage::Truncated, Affected::Everything));
        }
        Ok(buf)
    }

    pub(super) fn damaged(
        &self,
        offset: u64,
        reason: SnapshotDamage,
        affected: Affected,
    ) -> SnapshotError {
        SnapshotError::Damaged {
            file: self.place.name.clone(),
            offset,
            reason,
            affected,
        }
    }
}

/// What a kind of page must obey, and what depends on a page.
pub(super) struct Rules<'a, T> {
    pub(super) part: SnapshotPart,
    pub(super) is_sound: &'a dyn Fn(&T) -> bool,
    pub(super) affected: &'a dyn Fn(usize) -> Affected,
}

/// A page in a piece that was read.
pub(super) fn view<T: Content>(
    piece: &Arc<AlignedBuf>,
    start: usize,
    entry: &PageEntry,
    rules: &Rules<'_, T>,
) -> Result<Page<T>, SnapshotDamage> {
    let blocks = &piece.as_slice()[start..start + entry.padded_bytes()];
    if crc32c::crc32c(blocks) != entry.checksum {
        return Err(SnapshotDamage::Checksum(rules.part));
    }
    let page = Page::new(piece, start as u32, entry.bytes);
    page.filter(|page| (rules.is_sound)(page))
        .ok_or(SnapshotDamage::Content(rules.part))
}

/// How many of the pages are read at once: at least one, however large it is.
fn pages_of_one_read(entries: &[PageEntry]) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += entry.padded_bytes();
        bytes <= SNAPSHOT_READ_BYTES
    });
    fitting.count().max(1)
}

/// Which keys a leaf has, by the bounds above it.
pub(super) fn keys_of_leaf(inners: &[Page<ArchivedInner>], leaf: usize) -> Affected {
    let bound = |leaf: usize| {
        let parents = inners.iter().take_while(|page| page.level() == 1);
        let mut parents = parents.filter_map(|page| {
            let child = leaf.checked_sub(page.first_child() as usize)?;
            (child < page.len()).then_some((page, child))
        });
        let (page, child) = parents.next()?;
        let mut bound = Vec::new();
        page.bounds().append(child, &mut bound);
        Some(bound)
    };
    Affected::Keys {
        from: bound(leaf).unwrap_or_default(),
        to: bound(leaf + 1),
    }
}
