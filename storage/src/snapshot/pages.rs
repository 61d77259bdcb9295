//! Pages of one kind on their way into a file: they gather in pieces, which are written and stay resident.
//!
//! A page that is as it was in the last snapshot is not copied: both snapshots have it. It keeps the whole of its piece in
//! memory, though, whatever else was in there. So in the end pages leave pieces of which too little is of use
//! ([`Pages::settle`]), and pieces have at most an eighth of what nobody wants.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use super::format::PageEntry;
use super::page::{Blocks, Content, OpenPiece, Page};
use crate::limits::{SNAPSHOT_PIECE_BYTES_MIN, SNAPSHOT_READ_BYTES};

const IS_CLOSED: &str = "no page is left in an open piece";

/// Pages, one behind the other.
pub(super) struct Pages<T> {
    open: OpenPiece<T>,
    /// The numbers of the pages in it.
    in_open: Vec<usize>,
    /// Capacity of the next piece: small files have small pieces.
    piece_bytes: usize,
    /// None of those in the open piece.
    pages: Vec<Option<Page<T>>>,
    entries: Vec<PageEntry>,
    /// Of every piece that is shared with another snapshot, how many of its bytes are used here.
    shared: HashMap<usize, usize>,
    /// Pages that were settled.
    settled: usize,
}

impl<T: Content> Pages<T> {
    pub(super) fn new() -> Self {
        Self {
            open: OpenPiece::with_capacity(SNAPSHOT_PIECE_BYTES_MIN),
            in_open: Vec::new(),
            piece_bytes: SNAPSHOT_PIECE_BYTES_MIN,
            pages: Vec::new(),
            entries: Vec::new(),
            shared: HashMap::new(),
            settled: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The pages as their parent knows them.
    pub(super) fn entries(&self) -> &[PageEntry] {
        &self.entries
    }

    /// Takes a page: whole blocks, and its entry.
    pub(super) fn push(&mut self, blocks: &[u8], entry: PageEntry) {
        self.make_room(blocks.len());
        self.open.push(blocks, entry.bytes);
        self.in_open.push(self.pages.len());
        self.pages.push(None);
        self.entries.push(entry);
    }

    /// Takes a page of another snapshot as it is.
    pub(super) fn share(&mut self, page: &Page<T>, entry: PageEntry) {
        *self.shared.entry(page.piece_id()).or_default() += page.blocks().len();
        self.pages.push(Some(page.share()));
        self.entries.push(entry);
    }

    /// No more pages. Looks at `budget` of them, and copies those out of pieces of which too little is of use; true when all
    /// were looked at.
    pub(super) fn settle(&mut self, budget: usize) -> bool {
        let end = self.pages.len().min(self.settled.saturating_add(budget));
        for number in self.settled..end {
            let Some(page) = &self.pages[number] else {
                continue;
            };
            let used = self.shared.get(&page.piece_id());
            if used.is_none_or(|used| used * 8 >= page.piece_bytes() * 7) {
                continue;
            }
            let page = page.share();
            self.make_room(page.blocks().len());
            self.open.push(page.blocks(), page.bytes());
            self.in_open.push(number);
            self.pages[number] = None;
        }
        self.settled = end;
        if end == self.pages.len() {
            self.open_next(1);
        }
        end == self.pages.len()
    }

    /// Hands out what is to be written, in order; of pages that were settled.
    pub(super) fn blocks(&self) -> VecDeque<Blocks> {
        let mut all: VecDeque<Blocks> = VecDeque::new();
        for page in &self.pages {
            let blocks = page.as_ref().expect(IS_CLOSED).as_blocks();
            if !all.back_mut().is_some_and(|last| last.extend(&blocks)) {
                all.push_back(blocks);
            }
        }
        all
    }

    /// All pages; of pages that were settled.
    pub(super) fn into_pages(self) -> Vec<Page<T>> {
        let pages = self.pages.into_iter();
        pages.map(|page| page.expect(IS_CLOSED)).collect()
    }

    fn make_room(&mut self, bytes: usize) {
        if !self.open.has_room(bytes) {
            self.piece_bytes = (2 * self.piece_bytes).min(SNAPSHOT_READ_BYTES);
            self.open_next(self.piece_bytes.max(bytes));
        }
    }

    fn open_next(&mut self, bytes: usize) {
        let open = std::mem::replace(&mut self.open, OpenPiece::with_capacity(bytes));
        for (number, page) in self.in_open.drain(..).zip(open.close()) {
            self.pages[number] = Some(page);
        }
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} of them)", self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::snapshot::changes::{ArchivedChanges, Changes};
    use crate::snapshot::encode::Encoder;
    use crate::snapshot::version::VersionRef;

    type Closed = Vec<Page<ArchivedChanges>>;

    fn closed(mut pages: Pages<ArchivedChanges>) -> (Closed, Vec<PageEntry>) {
        while !pages.settle(7) {}
        let written: Vec<u8> = pages
            .blocks()
            .iter()
            .flat_map(|blocks| blocks.as_slice().to_vec())
            .collect();
        let entries = pages.entries().to_vec();
        let pages = pages.into_pages();
        let resident: Vec<u8> = pages
            .iter()
            .flat_map(|page| page.blocks().to_vec())
            .collect();
        assert_eq!(written, resident);
        (pages, entries)
    }

    /// Pages that say who they are; those for which `shares` has an older one are shared.
    fn made(
        count: u32,
        shares: impl Fn(u32) -> Option<u32>,
        old: &(Closed, Vec<PageEntry>),
    ) -> (Closed, Vec<PageEntry>) {
        let mut pages = Pages::new();
        let mut encoder = Encoder::new();
        for number in 0..count {
            if let Some(from) = shares(number) {
                pages.share(&old.0[from as usize], old.1[from as usize]);
                continue;
            }
            let mut content = Changes::default();
            for row in 0..2_000 {
                content.push(VersionRef { leaf: number, row });
            }
            let (blocks, entry) = encoder.encode(&content);
            pages.push(blocks, entry);
        }
        closed(pages)
    }

    /// Bytes of the pieces that the pages keep in memory, and of the pages.
    fn memory(pages: &Closed) -> (usize, usize) {
        let pieces: BTreeMap<usize, usize> = pages
            .iter()
            .map(|page| (page.piece_id(), page.piece_bytes()))
            .collect();
        let used = pages.iter().map(|page| page.blocks().len()).sum();
        (pieces.values().sum(), used)
    }

    #[test]
    fn what_is_shared_is_not_copied_and_what_is_useless_goes() {
        const COUNT: u32 = 1_500;
        let first = made(COUNT, |_| None, &(Vec::new(), Vec::new()));
        let pieces_of = |pages: &Closed| pages.iter().map(Page::piece_id).collect::<Vec<_>>();
        for every in [2, 3, 5, 9, 50, 1_000] {
            let next = made(
                COUNT,
                |number| (number % every != 0).then_some(number),
                &first,
            );
            let (held, used) = memory(&next.0);
            assert!(
                held * 7 <= used * 8,
                "1 in {every} new: {held} bytes for {used}"
            );
            for (number, page) in next.0.iter().enumerate() {
                assert_eq!(page.get(77).leaf, number as u32);
                assert_eq!(next.1[number].checksum, crc32c::crc32c(page.blocks()));
            }
            let same = pieces_of(&first.0).into_iter().zip(pieces_of(&next.0));
            let kept = same.filter(|(old, new)| old == new).count();
            // The first pieces are small, and one new page may be too much for one of them.
            let unchanged = (COUNT - COUNT.div_ceil(every)) as usize;
            match every {
                ..=5 => assert_eq!(kept, 0, "1 in {every} new"),
                _ => assert!(
                    unchanged - kept < 10,
                    "1 in {every} new: {kept} of {unchanged}"
                ),
            }
        }
    }

    #[test]
    fn over_many_snapshots_memory_stays_bounded() {
        const COUNT: u32 = 300;
        let mut pages = made(COUNT, |_| None, &(Vec::new(), Vec::new()));
        for round in 0..60_u32 {
            let is_new = |number: u32| (number * 7 + round * 13) % 101 < 1 + round % 30;
            pages = made(COUNT, |number| (!is_new(number)).then_some(number), &pages);
            let (held, used) = memory(&pages.0);
            assert!(
                held * 7 <= used * 8,
                "round {round}: {held} bytes for {used}"
            );
        }
    }
}
