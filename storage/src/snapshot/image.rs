//! A snapshot as one file that has all of its values itself: what a backup is, and what another member gets.
//!
//! The *image* of a snapshot that borrows nothing is its file, byte by byte. That of any other is put together on its
//! way out: the runs of all leaves, one behind the other, wherever they are; then the index as it is in the file; and a
//! superblock that says so.
//!
//! ```text
//!   file:   superblock | own runs | leaves, inner pages, changes, meta | borrowed runs | page table
//!   image:  superblock'| all runs | leaves, inner pages, changes, meta |                 page table
//! ```

use std::path::Path;

use super::format::{PageReference, SUPERBLOCK_BYTES, Superblock};
use super::snapshot::Snapshot;
use super::startup::file_name;
use super::version::BlockPlace;
use crate::ids::SnapshotSeq;
use crate::io::{AlignedBuf, DirectFile, DiskError, Source};

/// A part of an image, as it is in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePart {
    /// The file.
    pub file: SnapshotSeq,
    /// Where it begins there.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

impl ImagePart {
    /// Whether another one goes on where this one ends.
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        (self.file, self.offset + self.bytes) == (next.file, next.offset)
    }
}

impl From<BlockPlace> for ImagePart {
    fn from(block: BlockPlace) -> Self {
        Self {
            file: block.file,
            offset: block.offset,
            bytes: block.bytes.into(),
        }
    }
}

/// The parts of an image behind its first block.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// Where they begin in the image.
    starts: Vec<u64>,
    parts: Vec<ImagePart>,
    end: u64,
}

impl Image {
    pub(super) fn new() -> Self {
        Self {
            end: SUPERBLOCK_BYTES as u64,
            ..Self::default()
        }
    }

    /// Adds a part; one that goes on where the last one ends becomes one with it.
    pub(super) fn push(&mut self, part: ImagePart) {
        match self.parts.last_mut() {
            Some(last) if last.is_followed_by(&part) => last.bytes += part.bytes,
            _ if part.bytes > 0 => {
                self.starts.push(self.end);
                self.parts.push(part);
            }
            _ => {}
        }
        self.end += part.bytes;
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Where a place of the image is; the first block is that of the file itself.
    fn place_of(&self, offset: u64) -> Option<(SnapshotSeq, u64)> {
        let mut part = self.between(offset, offset + 1);
        let part = part.next().filter(|_| offset >= SUPERBLOCK_BYTES as u64)?;
        Some((part.file, part.offset))
    }

    /// The parts between two places, both behind the first block.
    fn between(&self, from: u64, to: u64) -> impl Iterator<Item = ImagePart> + '_ {
        let first = self.starts.partition_point(|start| *start <= from);
        let first = first.saturating_sub(1);
        let parts = self.starts.iter().zip(&self.parts).skip(first);
        parts
            .map(move |(&start, part)| {
                let (from, to) = (from.max(start), to.min(start + part.bytes));
                ImagePart {
                    offset: part.offset + from.saturating_sub(start),
                    bytes: to.saturating_sub(from),
                    ..*part
                }
            })
            .take_while(|part| part.bytes > 0)
    }
}

impl Snapshot {
    /// Length of the image.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.image().bytes()
    }

    /// Where `bytes` bytes of the image at `offset` are. The first block is in no file: it is
    /// [`image_head`](Self::image_head), and not among the parts.
    pub fn image_parts(&self, offset: u64, bytes: u64) -> impl Iterator<Item = ImagePart> + '_ {
        let from = offset.max(SUPERBLOCK_BYTES as u64);
        self.image().between(from, offset + bytes)
    }

    /// The first block of the image.
    #[must_use]
    pub fn image_head(&self) -> AlignedBuf {
        let mut head = AlignedBuf::zeroed(SUPERBLOCK_BYTES);
        self.image_superblock().encode(head.as_mut_slice());
        head
    }

    /// crc32c of the first block of the image, from which everything else in it follows.
    #[must_use]
    pub fn head_checksum(&self) -> u32 {
        super::audit::checksum_of(&self.image_superblock())
    }

    pub(super) fn image_superblock(&self) -> Superblock {
        let own = self.superblock();
        if self.lenders().is_empty() {
            return *own;
        }
        let file_bytes = self.image_bytes();
        let (meta, table) = (own.meta.entry, own.table.entry);
        let table_offset = file_bytes - table.padded_bytes() as u64;
        Superblock {
            format_version: self.meta().format_version(),
            file_bytes,
            table: PageReference {
                offset: table_offset,
                entry: table,
            },
            meta: PageReference {
                offset: table_offset - meta.padded_bytes() as u64,
                entry: meta,
            },
            borrowed: None,
            ..*own
        }
    }

    /// Where a place of the image is: path of the file, and offset there.
    pub(super) fn place_of(&self, offset: u64) -> (String, u64) {
        match self.image().place_of(offset) {
            Some((file, offset)) => (self.path_beside(file), offset),
            None => (self.path().to_owned(), offset),
        }
    }

    /// Path of a file that has values: of its own, whatever its name, or of one in the directory of that.
    pub(super) fn path_beside(&self, sequence: SnapshotSeq) -> String {
        if sequence == self.sequence() {
            return self.path().to_owned();
        }
        let path = Path::new(self.path()).with_file_name(file_name(sequence));
        path.display().to_string()
    }
}

/// An image that is read from its files, whatever becomes of their names.
#[derive(Debug)]
pub struct OpenImage {
    head: AlignedBuf,
    image: Image,
    files: Vec<(SnapshotSeq, DirectFile)>,
}

impl OpenImage {
    /// Opens the files. The caller holds the snapshot, so they are there.
    pub fn open(snapshot: &Snapshot) -> Result<Self, DiskError> {
        let lenders = snapshot.lenders().iter().map(|lender| lender.sequence);
        let sequences = lenders.chain([snapshot.sequence()]);
        let open = |sequence| {
            let path = snapshot.path_beside(sequence);
            Ok((sequence, DirectFile::open(Path::new(&path))?))
        };
        Ok(Self {
            head: snapshot.image_head(),
            image: snapshot.image().clone(),
            files: sequences.map(open).collect::<Result<_, DiskError>>()?,
        })
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.image.bytes()
    }

    /// Where a place of it is: path of the file, and offset there.
    #[must_use]
    pub fn place_of(&self, offset: u64) -> (&str, u64) {
        match self.image.place_of(offset) {
            Some((sequence, offset)) => (self.file(sequence).path(), offset),
            None => {
                let (_, own) = self.files.last().expect("the snapshot's own file");
                (own.path(), offset)
            }
        }
    }

    fn file(&self, sequence: SnapshotSeq) -> &DirectFile {
        let mut files = self.files.iter();
        let found = files.find(|(known, _)| *known == sequence);
        let (_, file) = found.expect("all files of an image are open");
        file
    }

    /// Lets go of its files, and frees those that are gone, which takes its time.
    pub fn release(self) {
        for (_, file) in self.files {
            file.release();
        }
    }
}

impl Source for OpenImage {
    fn read(&self, offset: u64, bytes: usize, buf: &mut AlignedBuf) -> Result<(), DiskError> {
        buf.clear();
        buf.reserve(bytes);
        let head = SUPERBLOCK_BYTES as u64;
        if offset < head {
            assert!(offset == 0, "whole blocks are read");
            buf.extend_from_slice(self.head.as_slice());
        }
        for part in self.image.between(offset.max(head), offset + bytes as u64) {
            let length = buf.len() + part.bytes as usize;
            let file = self.file(part.file);
            file.append(part.offset, part.bytes as usize, buf)?;
            if buf.len() < length {
                // The file was cut short: so is what is read.
                break;
            }
        }
        Ok(())
    }
}
