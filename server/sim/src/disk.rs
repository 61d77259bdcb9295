//! A member's disk, which outlives the member, and whose speed and accidents the world decides.
//!
//! [`SharedDisk`] is the handle that an engine owns; the world keeps another one. Beneath it is the simulated disk of
//! `keelson-storage`, which completes things in random order and tears what was in flight when the power fails.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;

use keelson_storage::io::{
    AlignedBuf, Completion, Disk, DiskError, FileEntry, FileId, SimDisk, SimFault,
};

use crate::dice::Dice;

/// One of several handles of a disk.
#[derive(Clone, Debug)]
pub struct SharedDisk(Rc<RefCell<Held>>);

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
}

impl Happened {
    /// Whether anything has.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.failed + self.lost + self.misdirected + self.damaged > 0
    }
}

impl SharedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Held {
            disk: SimDisk::new(seed),
            dice: Dice::new(!seed),
            ready_at_us: 0,
            now_us: 0,
            in_flight: 0,
            accidents: Accidents::default(),
            happened: Happened::default(),
        })))
    }

    /// The time, and when the disk has done the next of what it was given.
    pub fn set_time(&self, now_us: u64) {
        self.0.borrow_mut().now_us = now_us;
    }

    /// Nothing completes before.
    pub fn busy_until(&self, at_us: u64) {
        let mut held = self.0.borrow_mut();
        held.ready_at_us = held.ready_at_us.max(at_us);
    }

    /// Whether something is under way, and until when at least.
    #[must_use]
    pub fn pending(&self) -> Option<u64> {
        let held = self.0.borrow();
        (held.in_flight > 0).then_some(held.ready_at_us)
    }

    /// From now on this may happen.
    pub fn set_accidents(&self, accidents: Accidents) {
        self.0.borrow_mut().accidents = accidents;
    }

    /// What has happened in this life.
    #[must_use]
    pub fn happened(&self) -> Happened {
        self.0.borrow().happened
    }

    /// The power fails: what was in flight is torn, and the next life finds the rest.
    pub fn crash(&self) {
        let mut held = self.0.borrow_mut();
        let disk = std::mem::replace(&mut held.disk, SimDisk::new(0));
        held.disk = disk.crash();
        held.happened = Happened::default();
        held.ready_at_us = 0;
        held.in_flight = 0;
    }
}

impl Held {
    /// Decides what befalls the next submission.
    fn befall(&mut self, bytes: usize, moves: bool) {
        self.in_flight += 1;
        let Accidents {
            fail,
            lose,
            misdirect,
            damage,
        } = self.accidents;
        if self.accidents == Accidents::default() {
            return;
        }
        let drawn = self.dice.below(1_000_000);
        let number = self.disk.submitted();
        let fault = if drawn < fail {
            self.happened.failed += 1;
            SimFault::Fail(libc::EIO)
        } else if !moves {
            return;
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
            return;
        };
        self.disk.schedule_fault(number, fault);
    }
}

impl Disk for SharedDisk {
    fn location(&self) -> &str {
        "simulated"
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.0.borrow_mut().disk.list()
    }

    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        self.0.borrow_mut().disk.open(name)
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError> {
        self.0.borrow_mut().disk.read(file, offset, bytes, buf)
    }

    fn entropy(&mut self) -> u64 {
        self.0.borrow_mut().disk.entropy()
    }

    fn submit_create(&mut self, name: &str, bytes: u64, token: u64) -> FileId {
        let mut held = self.0.borrow_mut();
        held.befall(0, false);
        held.disk.submit_create(name, bytes, token)
    }

    fn submit_read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: AlignedBuf,
        token: u64,
    ) {
        let mut held = self.0.borrow_mut();
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
        let mut held = self.0.borrow_mut();
        held.befall(buf.len(), true);
        held.disk.submit_write(file, offset, buf, durable, token);
    }

    fn submit_flush(&mut self, file: FileId, token: u64) {
        let mut held = self.0.borrow_mut();
        held.befall(0, false);
        held.disk.submit_flush(file, token);
    }

    fn submit_remove(&mut self, file: FileId, token: u64) {
        let mut held = self.0.borrow_mut();
        held.in_flight += 1;
        held.disk.submit_remove(file, token);
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        self.0.borrow_mut().disk.kick()
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let mut held = self.0.borrow_mut();
        if held.now_us < held.ready_at_us {
            return;
        }
        let before = out.len();
        held.disk.reap(out);
        held.in_flight -= out.len() - before;
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        let mut held = self.0.borrow_mut();
        // Somebody blocks: whatever it takes, it is done afterwards.
        held.ready_at_us = 0;
        held.disk.wait()
    }

    fn event_fd(&self) -> Option<RawFd> {
        None
    }
}
