//! A member's disk, which outlives the member, and whose speed and accidents the world decides.
//!
//! [`SharedDisk`] is the handle that an engine owns; the world keeps another one. Beneath it is the simulated disk of
//! `keelson-storage`, which completes things in random order and tears what was in flight when the power fails.
//!
//! A disk that lies says that it has written what it has lost, put elsewhere or damaged, and what it holds rots. The
//! last thing that was written is spared when the power fails: that a disk lied about it nobody could tell from a write
//! that the power failure has torn. Whoever writes something behind it says that it was durable, and from then on it
//! must be missed.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use keelson_storage::io::{
    AlignedBuf, Completion, Disk, DiskError, FileEntry, FileId, SimDisk, SimFault,
};

use crate::dice::Dice;

/// Writes that are remembered, as places for rot.
const WRITTEN_COUNT: usize = 64;

/// One of several handles of a disk.
#[derive(Clone, Debug)]
pub struct SharedDisk(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    disk: SimDisk,
    dice: Dice,
    /// Nothing completes before.
    ready_at_us: u64,
    now_us: u64,
    in_flight: usize,
    accidents: Accidents,
    happened: Happened,
    /// Whether it ever lied.
    has_lied: bool,
    names: BTreeMap<FileId, String>,
    /// Writes under way, by token.
    writing: BTreeMap<u64, Written>,
    /// The newest ones that were reported.
    written: VecDeque<Written>,
    /// Writes submitted so far.
    writes: u64,
}

/// A write.
#[derive(Clone, Debug)]
struct Written {
    number: u64,
    file: FileId,
    offset: u64,
    content: Vec<u8>,
    is_lie: bool,
    /// Writes that had been submitted when it was reported.
    reported_at: u64,
    /// Whether a write that began afterwards was reported too.
    is_covered: bool,
}

impl Written {
    fn overlaps(&self, other: &Self) -> bool {
        let ends = [self, other].map(|one| one.offset + one.content.len() as u64);
        self.file == other.file && self.offset < ends[1] && other.offset < ends[0]
    }
}

/// How often what befalls an operation, in a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accidents {
    /// Writes and flushes that fail.
    pub fail: u64,
    /// Writes that are reported and never happen.
    pub lose: u64,
    /// Writes that land elsewhere in their file.
    pub misdirect: u64,
    /// Writes of which a bit is wrong.
    pub damage: u64,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in Accidents")]
pub struct Happened {
    pub failed: u64,
    pub lost: u64,
    pub misdirected: u64,
    pub damaged: u64,
    pub rotten: u64,
}

impl Happened {
    /// Whether anything has.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.failed + self.lost + self.misdirected + self.damaged + self.rotten > 0
    }
}

impl SharedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Held {
            disk: SimDisk::new(seed),
            dice: Dice::new(!seed),
            ready_at_us: 0,
            now_us: 0,
            in_flight: 0,
            accidents: Accidents::default(),
            happened: Happened::default(),
            has_lied: false,
            names: BTreeMap::new(),
            writing: BTreeMap::new(),
            written: VecDeque::new(),
            writes: 0,
        })))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("no thread panics with it")
    }

    /// The time, and when the disk has done the next of what it was given.
    pub fn set_time(&self, now_us: u64) {
        self.held().now_us = now_us;
    }

    /// Nothing completes before.
    pub fn busy_until(&self, at_us: u64) {
        let mut held = self.held();
        held.ready_at_us = held.ready_at_us.max(at_us);
    }

    /// Whether something is under way, and until when at least.
    #[must_use]
    pub fn pending(&self) -> Option<u64> {
        let held = self.held();
        (held.in_flight > 0).then_some(held.ready_at_us)
    }

    /// From now on this may happen.
    pub fn set_accidents(&self, accidents: Accidents) {
        self.held().accidents = accidents;
    }

    /// What has happened in this life.
    #[must_use]
    pub fn happened(&self) -> Happened {
        self.held().happened
    }

    /// Whether it has ever lied, or anything on it has rotted.
    #[must_use]
    pub fn has_lied(&self) -> bool {
        self.held().has_lied
    }

    /// A bit of something that was written is another one from now on; false if there is nothing yet.
    pub fn rot(&self) -> bool {
        let mut held = self.held();
        let fresh = held.written.iter().filter(|written| !written.is_covered);
        let fresh: Vec<&Written> = fresh.chain(held.writing.values()).collect();
        let covered = held.written.iter().filter(|written| written.is_covered);
        let old: Vec<&Written> = covered
            .filter(|written| !fresh.iter().any(|fresh| fresh.overlaps(written)))
            .collect();
        if old.is_empty() {
            return false;
        }
        let count = old.len();
        let places: Vec<(FileId, u64, usize)> = old
            .iter()
            .map(|written| (written.file, written.offset, written.content.len()))
            .collect();
        let (file, offset, bytes) = places[held.dice.index(count)];
        let offset = offset + held.dice.below(bytes as u64);
        let mask = 1 << held.dice.below(8);
        let Some(name) = held.names.get(&file).cloned() else {
            return false;
        };
        // It may have been removed meanwhile.
        let media = held.disk.media(&name);
        if media.is_none_or(|media| media.len() as u64 <= offset) {
            return false;
        }
        held.disk.flip(&name, offset, mask);
        held.happened.rotten += 1;
        held.has_lied = true;
        true
    }

    /// The power fails: what was in flight is torn, and the next life finds the rest.
    pub fn crash(&self) {
        let mut held = self.held();
        let disk = std::mem::replace(&mut held.disk, SimDisk::new(0));
        held.disk = disk.crash();
        held.spare_the_last();
        held.names.clear();
        held.happened = Happened::default();
        held.ready_at_us = 0;
        held.in_flight = 0;
    }
}

impl Held {
    /// Lies about what was written last come to nothing, and so does what a misdirected write did to it.
    fn spare_the_last(&mut self) {
        self.writing.clear();
        let mut last = std::mem::take(&mut self.written);
        last.retain(|written| !written.is_covered);
        if !last.iter().any(|written| written.is_lie) {
            return;
        }
        for written in last {
            let name = self.names.get(&written.file);
            if let Some(name) = name.filter(|name| self.disk.media(name).is_some()) {
                self.disk.edit(name, written.offset, &written.content);
            }
        }
    }

    /// A write was reported.
    fn on_written(&mut self, token: u64) {
        let Some(mut done) = self.writing.remove(&token) else {
            return;
        };
        done.reported_at = self.writes;
        if !done.is_lie {
            for written in &mut self.written {
                written.is_covered |= written.reported_at <= done.number;
            }
        }
        self.written.push_back(done);
        if self.written.len() > WRITTEN_COUNT {
            self.written.pop_front();
        }
    }

    /// Decides what befalls the next submission; whether the disk lies about it.
    fn befall(&mut self, bytes: usize, moves: bool) -> bool {
        self.in_flight += 1;
        let Accidents {
            fail,
            lose,
            misdirect,
            damage,
        } = self.accidents;
        if self.accidents == Accidents::default() {
            return false;
        }
        let drawn = self.dice.below(1_000_000);
        let number = self.disk.submitted();
        let fault = if drawn < fail {
            self.happened.failed += 1;
            SimFault::Fail(libc::EIO)
        } else if !moves {
            return false;
        } else if drawn < fail + lose {
            self.happened.lost += 1;
            SimFault::Lose
        } else if drawn < fail + lose + misdirect {
            self.happened.misdirected += 1;
            SimFault::Misdirect(self.dice.below(8) * 4096)
        } else if drawn < fail + lose + misdirect + damage {
            self.happened.damaged += 1;
            SimFault::Damage {
                at: self.dice.below(bytes.max(1) as u64) as usize,
                mask: 1 << self.dice.below(8),
            }
        } else {
            return false;
        };
        let is_lie = !matches!(fault, SimFault::Fail(_));
        self.has_lied |= is_lie;
        self.disk.schedule_fault(number, fault);
        is_lie
    }
}

impl Disk for SharedDisk {
    fn location(&self) -> &str {
        "simulated"
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.held().disk.list()
    }

    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        let mut held = self.held();
        let file = held.disk.open(name)?;
        held.names.insert(file, name.to_owned());
        Ok(file)
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError> {
        self.held().disk.read(file, offset, bytes, buf)
    }

    fn entropy(&mut self) -> u64 {
        self.held().disk.entropy()
    }

    fn submit_create(&mut self, name: &str, bytes: u64, token: u64) -> FileId {
        let mut held = self.held();
        held.befall(0, false);
        let file = held.disk.submit_create(name, bytes, token);
        held.names.insert(file, name.to_owned());
        file
    }

    fn submit_read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: AlignedBuf,
        token: u64,
    ) {
        let mut held = self.held();
        held.in_flight += 1;
        held.disk.submit_read(file, offset, bytes, buf, token);
    }

    fn submit_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
        token: u64,
    ) {
        let mut held = self.held();
        let is_lie = held.befall(buf.len(), true);
        let written = Written {
            number: held.writes,
            file,
            offset,
            content: buf.as_slice().to_vec(),
            is_lie,
            reported_at: u64::MAX,
            is_covered: false,
        };
        held.writes += 1;
        held.writing.insert(token, written);
        held.disk.submit_write(file, offset, buf, durable, token);
    }

    fn submit_flush(&mut self, file: FileId, token: u64) {
        let mut held = self.held();
        held.befall(0, false);
        held.disk.submit_flush(file, token);
    }

    fn submit_remove(&mut self, file: FileId, token: u64) {
        let mut held = self.held();
        held.in_flight += 1;
        held.disk.submit_remove(file, token);
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        self.held().disk.kick()
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let mut held = self.held();
        if held.now_us < held.ready_at_us {
            return;
        }
        let before = out.len();
        held.disk.reap(out);
        held.in_flight -= out.len() - before;
        for completion in &out[before..] {
            held.on_written(completion.token);
        }
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        let mut held = self.held();
        // Somebody blocks: whatever it takes, it is done afterwards.
        held.ready_at_us = 0;
        held.disk.wait()
    }

    fn event_fd(&self) -> Option<RawFd> {
        None
    }
}
