//! Sorts more than fits memory: sorted runs in a scratch file, and a merge of them.
//!
//! ```text
//!   push --> arena --(full)--> sort --> run in the scratch file --\
//!                 \-----------(end)---> sort --> last run, here ---> merge --> peek, take
//! ```
//!
//! Items with equal keys leave in the order in which they came. An item is | key bytes u32 | payload bytes
//! u32 | key | payload |, in memory and in the file alike.
//!
//! The scratch file has no name from the moment it is there, so nothing of it is ever left behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use crate::io::DiskError;
use crate::limits::{MIGRATE_READ_BYTES, MIGRATE_WRITE_BYTES};

const HEAD_BYTES: usize = 8;
const SCRATCH_PREFIX: &str = ".keelson-sort-";

/// Takes items.
#[derive(Debug)]
pub(super) struct Sorter {
    directory: String,
    memory_bytes: usize,
    arena: Arena,
    scratch: Option<Scratch>,
    runs: Vec<FileRun>,
    payload_bytes: u64,
}

/// Hands them out in order.
#[derive(Debug)]
pub(super) struct Sorted {
    runs: Vec<Run>,
    /// The first key of every run that has any left, and the number of the run: earlier ones hold earlier items.
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    spare: Vec<u8>,
    /// Bytes of all payloads.
    pub payload_bytes: u64,
}

impl Sorter {
    /// Holds about `memory_bytes` of items in memory, and the others in a file without a name on the disk of
    /// `directory`.
    pub fn new(directory: &Path, memory_bytes: usize) -> Self {
        Self {
            directory: directory.display().to_string(),
            memory_bytes,
            arena: Arena::default(),
            scratch: None,
            runs: Vec::new(),
            payload_bytes: 0,
        }
    }

    /// Adds an item, whose payload comes in pieces.
    pub fn push(&mut self, key: &[u8], payload: &[&[u8]]) -> Result<(), DiskError> {
        let payload_bytes: usize = payload.iter().map(|piece| piece.len()).sum();
        let item_bytes = HEAD_BYTES + key.len() + payload_bytes;
        let is_full = self.arena.held_bytes() + item_bytes > self.memory_bytes;
        if is_full && !self.arena.starts.is_empty() {
            self.spill()?;
        }
        self.arena.push(key, payload, payload_bytes);
        self.payload_bytes += payload_bytes as u64;
        Ok(())
    }

    /// There are no more items.
    pub fn finish(mut self) -> Result<Sorted, DiskError> {
        self.arena.sort();
        let mut runs: Vec<Run> = self.runs.into_iter().map(Run::File).collect();
        runs.push(Run::Memory(self.arena));
        let mut sorted = Sorted {
            heads: BinaryHeap::with_capacity(runs.len()),
            runs,
            spare: Vec::new(),
            payload_bytes: self.payload_bytes,
        };
        for run in 0..sorted.runs.len() {
            sorted.push_head(run)?;
        }
        Ok(sorted)
    }

    fn spill(&mut self) -> Result<(), DiskError> {
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(Scratch::create(&self.directory)?),
        };
        self.arena.sort();
        let start = scratch.end;
        let file: &File = &scratch.file;
        let mut writer = BufWriter::with_capacity(MIGRATE_WRITE_BYTES, file);
        let written = self.arena.items().try_for_each(|item| {
            scratch.end += item.len() as u64;
            writer.write_all(item)
        });
        written
            .and_then(|()| writer.flush())
            .map_err(|error| DiskError::from_io("write", self.directory.clone(), &error))?;
        drop(writer);
        self.runs.push(FileRun {
            file: Rc::clone(&scratch.file),
            directory: self.directory.clone(),
            offset: start,
            end: scratch.end,
            window: Vec::new(),
            start: 0,
        });
        self.arena.clear();
        Ok(())
    }
}

impl Sorted {
    /// The key of the next item; `None` behind the last.
    pub fn peek(&self) -> Option<&[u8]> {
        self.heads.peek().map(|Reverse((key, _))| &**key)
    }

    /// Takes the next item away and appends its payload.
    pub fn take(&mut self, payload: &mut Vec<u8>) -> Result<(), DiskError> {
        let Reverse((key, run)) = self.heads.pop().expect("there is one");
        self.spare = key;
        let item = self.runs[run].head()?.expect("its key was there");
        payload.extend_from_slice(item.payload);
        self.runs[run].advance();
        self.push_head(run)
    }

    fn push_head(&mut self, run: usize) -> Result<(), DiskError> {
        if let Some(item) = self.runs[run].head()? {
            let mut head = std::mem::take(&mut self.spare);
            head.clear();
            head.extend_from_slice(item.key);
            self.heads.push(Reverse((head, run)));
        }
        Ok(())
    }
}

/// What was given to the sorter.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    key: &'a [u8],
    payload: &'a [u8],
}

/// Items one behind the other, and where each begins.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// The first that was not handed out.
    next: usize,
}

impl Arena {
    fn held_bytes(&self) -> usize {
        self.bytes.len() + self.starts.len() * size_of::<usize>()
    }

    fn push(&mut self, key: &[u8], payload: &[&[u8]], payload_bytes: usize) {
        let length = |bytes: usize| u32::try_from(bytes).expect("an item is part of a request");
        self.starts.push(self.bytes.len());
        self.bytes
            .extend_from_slice(&length(key.len()).to_le_bytes());
        self.bytes
            .extend_from_slice(&length(payload_bytes).to_le_bytes());
        self.bytes.extend_from_slice(key);
        for piece in payload {
            self.bytes.extend_from_slice(piece);
        }
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |start: usize| split(&bytes[start..]).map(|item| item.key);
        // Where an item begins says when it came.
        self.starts
            .sort_unstable_by(|&one, &other| key(one).cmp(&key(other)).then(one.cmp(&other)));
    }

    fn items(&self) -> impl Iterator<Item = &[u8]> {
        self.starts.iter().map(|&start| {
            let item = &self.bytes[start..];
            &item[..item_bytes(item).expect("an item begins here")]
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }
}

/// A file without a name, written front to back.
#[derive(Debug)]
struct Scratch {
    file: Rc<File>,
    end: u64,
}

impl Scratch {
    fn create(directory: &str) -> Result<Self, DiskError> {
        let name = format!("{SCRATCH_PREFIX}{}", std::process::id());
        let path = Path::new(directory).join(name);
        let fail = |action, error| {
            let path = path.display().to_string();
            DiskError::from_io(action, path, &error)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.mode(0o600).open(&path);
        let file = file.map_err(|error| fail("create", error))?;
        std::fs::remove_file(&path).map_err(|error| fail("remove", error))?;
        Ok(Self {
            file: Rc::new(file),
            end: 0,
        })
    }
}

/// Items in order.
#[derive(Debug)]
enum Run {
    Memory(Arena),
    File(FileRun),
}

impl Run {
    /// The first item that is left.
    fn head(&mut self) -> Result<Option<Item<'_>>, DiskError> {
        match self {
            Self::Memory(arena) => Ok(arena
                .starts
                .get(arena.next)
                .and_then(|start| split(&arena.bytes[*start..]))),
            Self::File(run) => run.head(),
        }
    }

    fn advance(&mut self) {
        match self {
            Self::Memory(arena) => arena.next += 1,
            Self::File(run) => {
                let item = item_bytes(&run.window[run.start..]);
                run.start += item.expect("the head was looked at");
            }
        }
    }
}

/// Items in the scratch file.
#[derive(Debug)]
struct FileRun {
    file: Rc<File>,
    directory: String,
    /// What was not read yet.
    offset: u64,
    end: u64,
    /// What was read; the first item that is left begins at `start`.
    window: Vec<u8>,
    start: usize,
}

impl FileRun {
    fn head(&mut self) -> Result<Option<Item<'_>>, DiskError> {
        if self.start == self.window.len() && self.offset == self.end {
            return Ok(None);
        }
        self.fill(HEAD_BYTES)?;
        if let Some(bytes) = item_bytes(&self.window[self.start..]) {
            self.fill(bytes)?;
        }
        Ok(split(&self.window[self.start..]))
    }

    /// Has at least `bytes` of what is left in the window.
    fn fill(&mut self, bytes: usize) -> Result<(), DiskError> {
        let held = self.window.len() - self.start;
        if held >= bytes {
            return Ok(());
        }
        self.window.drain(..self.start);
        self.start = 0;
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let more = (bytes - held).max(MIGRATE_READ_BYTES).min(left);
        self.window.resize(held + more, 0);
        self.file
            .read_exact_at(&mut self.window[held..], self.offset)
            .map_err(|error| DiskError::from_io("read", self.directory.clone(), &error))?;
        self.offset += more as u64;
        Ok(())
    }
}

/// Bytes of the item that begins here.
fn item_bytes(bytes: &[u8]) -> Option<usize> {
    let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (key, payload) = lengths(head);
    Some(HEAD_BYTES + key + payload)
}

/// The item that begins here.
fn split(bytes: &[u8]) -> Option<Item<'_>> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (key, payload) = lengths(head);
    let (key, payload) = rest.get(..key + payload)?.split_at_checked(key)?;
    Some(Item { key, payload })
}

fn lengths(head: &[u8; HEAD_BYTES]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = *head;
    let key = u32::from_le_bytes([a, b, c, d]);
    let payload = u32::from_le_bytes([e, f, g, h]);
    (key as usize, payload as usize)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(items: &[(Vec<u8>, Vec<u8>)], memory_bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let scratch = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(scratch.path(), memory_bytes);
        for (key, payload) in items {
            let (one, other) = payload.split_at(payload.len() / 2);
            sorter.push(key, &[one, other]).unwrap();
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        let mut sorted = sorter.finish().unwrap();
        let payload_bytes: usize = items.iter().map(|item| item.1.len()).sum();
        assert_eq!(sorted.payload_bytes, payload_bytes as u64);
        let mut found = Vec::new();
        while let Some(key) = sorted.peek() {
            let key = key.to_vec();
            let mut payload = Vec::new();
            sorted.take(&mut payload).unwrap();
            found.push((key, payload));
        }
        found
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_a_stable_sort_makes(
            items in prop::collection::vec(
                (prop::collection::vec(0_u8..3, 0..4), prop::collection::vec(any::<u8>(), 0..40)),
                0..200,
            ),
            memory_bytes in prop_oneof![Just(0_usize), 1..2_000_usize, Just(1 << 20)],
        ) {
            let found = sorted(&items, memory_bytes);
            let mut wanted = items;
            wanted.sort_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn an_item_may_be_larger_than_the_memory_and_than_one_read() {
        let large = |number: u8| vec![number; 3 * MIGRATE_READ_BYTES + 5];
        let items: Vec<_> = (0..5).rev().map(|n| (vec![n], large(n))).collect();
        let found = sorted(&items, 1000);
        let wanted: Vec<_> = (0..5).map(|n| (vec![n], large(n))).collect();
        assert!(found == wanted);
    }
}
