//! Looking at all of a file, also if it is damaged: every place that is not what was written, with what depends on it.
//!
//! Offline tools call it. Where [`Snapshot::load`] stops at the first damage, a survey goes on as far as the way leads:
//! the superblock leads to the page table, that to all pages, and every leaf that is sound to its values.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::borrowed::RunPlaces;
use super::error::{Affected, SnapshotDamage, SnapshotError, SnapshotPart};
use super::format::{PageEntry, SUPERBLOCK_BYTES, Table};
use super::image::ImagePart;
use super::inner::ArchivedInner;
use super::leaf::ArchivedLeaf;
use super::load::{FilePlace, Loader, Rules, keys_of_leaf, view};
use super::page::{Content, Page};
use super::snapshot::Snapshot;
use super::startup::{self, Listed};
use crate::ids::SnapshotSeq;
use crate::io::{Disk, FileEntry, FileId};

impl Snapshot {
    /// The file of a shard's directory that counts. Only reads.
    pub fn newest_in<D: Disk>(disk: &mut D) -> Result<Option<(FileId, FileEntry)>, SnapshotError> {
        Ok(Self::list(disk)?.newest)
    }

    /// The file of a shard's directory that counts, and newer ones that do not. Only reads.
    pub fn list<D: Disk>(disk: &mut D) -> Result<Listed, SnapshotError> {
        startup::look(disk)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every damage, in the order of the walk.
    pub damages: Vec<SnapshotError>,
    /// The snapshot, if its index is sound.
    pub snapshot: Option<Snapshot>,
    /// Bytes of values that were compared with their checksums.
    pub value_bytes: u64,
}

impl Survey {
    /// Reads all of a file that `entry` is the directory entry of, and the values that others lend it. Blocks. `on_read` hears
    /// of bytes that were read, and how many there are.
    pub fn of<D: Disk>(
        disk: &mut D,
        file: FileId,
        entry: &FileEntry,
        on_read: &mut dyn FnMut(u64, u64),
    ) -> Self {
        let mut survey = Self::default();
        match Snapshot::load(disk, file, entry) {
            Ok(snapshot) => survey.snapshot = Some(snapshot),
            // The first damage is found again below, with all others.
            Err(SnapshotError::Damaged { .. } | SnapshotError::Disk(_)) => {}
            Err(other) => {
                survey.damages.push(other);
                return survey;
            }
        }
        let mut loader = Loader::new(disk, file, entry);
        if let Err(error) = survey.walk(&mut loader, on_read) {
            survey.damages.push(error);
        }
        if survey.snapshot.is_none() && survey.damages.is_empty() {
            // Every page is as it was written, and together they are no snapshot.
            let whole = Snapshot::load(loader.disk, file, entry);
            survey.damages.extend(whole.err());
        }
        survey
    }

    /// An error leaves no way to go on.
    fn walk<D: Disk>(
        &mut self,
        loader: &mut Loader<'_, D>,
        on_read: &mut dyn FnMut(u64, u64),
    ) -> Result<(), SnapshotError> {
        let superblock = loader.superblock()?;
        let table = loader.table(&superblock)?;
        let places = loader.places(&superblock, &table)?;
        let total = superblock.file_bytes + places.borrowed_bytes();
        let own_values = loader.own(table.leaves_offset()) - SUPERBLOCK_BYTES as u64;
        on_read(superblock.file_bytes - own_values, total);
        self.damages.extend(loader.meta(&superblock).err());
        let inners = self.inners(loader, &table);
        self.changes(loader, &table);
        let leaves = self.leaves(loader, &table, &inners);
        let own = loader.place();
        let lenders = self.lenders(loader, &places)?;
        for (number, leaf) in leaves.iter().enumerate() {
            if let Some(leaf) = leaf {
                let keys = || keys_of_leaf(&inners, number);
                let mut start = 0;
                for piece in places.of(number as u32) {
                    let file = match lenders.get(&piece.file) {
                        Some(lender) => lender.as_ref(),
                        None => Some(&own),
                    };
                    if let Some(file) = file {
                        self.values(&mut loader.beside(file), piece, (leaf, start), keys);
                    }
                    start += piece.bytes;
                }
            }
            on_read(table.leaves[number].run_bytes(), total);
        }
        Ok(())
    }

    /// The files that lend values; none in the place of one that is missing.
    fn lenders<D: Disk>(
        &mut self,
        loader: &mut Loader<'_, D>,
        places: &RunPlaces,
    ) -> Result<BTreeMap<SnapshotSeq, Option<FilePlace>>, SnapshotError> {
        let entries = loader.disk.list()?;
        let mut lenders = BTreeMap::new();
        for lender in places.lenders() {
            let name = lender.file_name();
            let entry = entries.iter().find(|entry| entry.name == name);
            let checked = startup::check_lender(loader.disk, lender, entry);
            self.damages.extend(checked.err());
            let place = entry.map(|entry| FilePlace::new(loader.disk, entry));
            lenders.insert(lender.sequence, place.transpose()?);
        }
        Ok(lenders)
    }

    fn inners<D: Disk>(
        &mut self,
        loader: &mut Loader<'_, D>,
        table: &Table,
    ) -> Vec<Page<ArchivedInner>> {
        let rules = Rules {
            part: SnapshotPart::Inner,
            is_sound: &ArchivedInner::is_sound,
            affected: &|_| Affected::Everything,
        };
        let offset = loader.own(table.inners_offset());
        let pages = self.pages(loader, offset, &table.inners, &rules);
        pages.into_iter().flatten().collect()
    }

    fn changes<D: Disk>(&mut self, loader: &mut Loader<'_, D>, table: &Table) {
        let rules = Rules {
            part: SnapshotPart::Changes,
            is_sound: &super::changes::ArchivedChanges::is_sound,
            affected: &|_| Affected::History,
        };
        let offset = loader.own(table.changes_offset());
        self.pages(loader, offset, &table.changes, &rules);
    }

    fn leaves<D: Disk>(
        &mut self,
        loader: &mut Loader<'_, D>,
        table: &Table,
        inners: &[Page<ArchivedInner>],
    ) -> Vec<Option<Page<ArchivedLeaf>>> {
        let rules = Rules {
            part: SnapshotPart::Leaf,
            is_sound: &ArchivedLeaf::is_sound,
            affected: &|leaf| keys_of_leaf(inners, leaf),
        };
        let entries: Vec<PageEntry> = table.leaves.iter().map(|leaf| leaf.page).collect();
        let offset = loader.own(table.leaves_offset());
        self.pages(loader, offset, &entries, &rules)
    }

    /// All pages of a kind, as far as they are sound.
    fn pages<D: Disk, T: Content>(
        &mut self,
        loader: &mut Loader<'_, D>,
        mut offset: u64,
        entries: &[PageEntry],
        rules: &Rules<'_, T>,
    ) -> Vec<Option<Page<T>>> {
        let mut pages = Vec::with_capacity(entries.len());
        for (number, entry) in entries.iter().enumerate() {
            let page = loader
                .read(offset, entry.padded_bytes())
                .and_then(|blocks| {
                    view(&Arc::new(blocks), 0, entry, rules)
                        .map_err(|damage| loader.damaged(offset, damage, (rules.affected)(number)))
                });
            pages.push(match page {
                Ok(page) => Some(page),
                Err(error) => {
                    self.damages.push(error);
                    None
                }
            });
            offset += entry.padded_bytes() as u64;
        }
        pages
    }

    /// The blocks of values in a piece of a leaf's run that begins at `start` in the run.
    fn values<D: Disk>(
        &mut self,
        loader: &mut Loader<'_, D>,
        piece: &ImagePart,
        (leaf, start): (&ArchivedLeaf, u64),
        keys: impl Fn() -> Affected,
    ) {
        // What cannot be read at once is read block by block.
        let whole = loader.read(piece.offset, piece.bytes as usize).ok();
        let end = start + piece.bytes;
        for block in 0..leaf.block_count() {
            let span = leaf.block_span(block);
            if span.start < start || span.end > end {
                continue;
            }
            let offset = piece.offset + (span.start - start);
            let bytes = (span.end - span.start) as usize;
            let checksum = match &whole {
                Some(run) => {
                    let start = (span.start - start) as usize;
                    Ok(crc32c::crc32c(&run.as_slice()[start..start + bytes]))
                }
                None => loader
                    .read(offset, bytes)
                    .map(|buf| crc32c::crc32c(buf.as_slice())),
            };
            let damage = match checksum {
                Ok(checksum) if checksum == leaf.block_checksum(block) => {
                    self.value_bytes += bytes as u64;
                    continue;
                }
                Ok(_) => SnapshotDamage::Checksum(SnapshotPart::Values),
                Err(SnapshotError::Damaged { reason, .. }) => reason,
                Err(error) => {
                    self.damages.push(error);
                    continue;
                }
            };
            let affected = match keys() {
                Affected::Keys { from, to } => Affected::Values { from, to },
                other => other,
            };
            self.damages.push(loader.damaged(offset, damage, affected));
        }
    }
}
