//! The simulated Disk: a directory in memory whose every accident is decided by one seed.
//!
//! Tests and the simulator hand it work as they would a real disk. It completes operations in random
//! order, and [`SimDisk::crash`] turns it into what a machine finds after power loss, under the rules of
//! the Disk seam: in-flight writes are torn at 512-byte sectors, completed but unflushed sectors survive
//! or not one by one, a file that grew ends with its last surviving sector, names whose creation or removal did not
//! complete exist or not. Reads in flight vanish.
//!
//! Beyond what an honest disk does, a test can schedule a [`SimFault`] for a certain read, write or flush
//! (fail it, lose it, send it elsewhere, damage its content) and edit the media between two lives.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use super::sim_file::{InFlight, SECTOR_BYTES, SimFile, SplitMix, Work, flip};
use super::{
    AlignedBuf, Completion, Disk, DiskError, FileEntry, FileId, assert_whole_blocks,
    assert_whole_units,
};

/// A directory in memory with scripted and seeded misbehaviour.
#[derive(Debug)]
pub struct SimDisk {
    rng: SplitMix,
    files: Vec<SimFile>,
    in_flight: Vec<InFlight>,
    done: Vec<Completion>,
    faults: BTreeMap<u64, SimFault>,
    submitted: u64,
    power_off_at: Option<u64>,
    powered_off: bool,
    eager: bool,
    capacity_bytes: u64,
    /// What it writes in place.
    block_bytes: usize,
}

/// What a lying or failing disk does with one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimFault {
    /// Reports this error number; some sectors may have changed all the same, and the unflushed sectors
    /// of a failed flush are lost or kept one by one.
    Fail(i32),
    /// Reports success and changes nothing; a read delivers what was in the buffer's memory.
    Lose,
    /// Reports success and reads or writes the content at this offset of the same file instead.
    Misdirect(u64),
    /// Reports success and flips these bits of one byte of what is read or written.
    Damage {
        /// Which byte, counted around the end of the content.
        at: usize,
        /// Which bits.
        mask: u8,
    },
}

impl SimDisk {
    /// An empty directory.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: SplitMix(seed),
            files: Vec::new(),
            in_flight: Vec::new(),
            done: Vec::new(),
            faults: BTreeMap::new(),
            submitted: 0,
            power_off_at: None,
            powered_off: false,
            eager: false,
            capacity_bytes: u64::MAX,
            block_bytes: SECTOR_BYTES,
        }
    }

    /// Completes everything at the next reap, in order: for tests about something else.
    pub fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }

    /// Creations and growing writes that would exceed this many bytes in total fail with "no space".
    pub fn set_capacity_bytes(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// A disk that makes a smaller write by writing a block of so many bytes anew: one that is interrupted may take the
    /// rest of its blocks along.
    pub fn set_block_bytes(&mut self, bytes: usize) {
        self.block_bytes = bytes;
    }

    /// Operations submitted so far; the next one has this number.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Power fails when submission number `submission` would start: it and all later ones never happen,
    /// and nothing completes any more.
    pub fn power_off_at(&mut self, submission: u64) {
        self.power_off_at = Some(submission);
    }

    /// True once the power failed.
    #[must_use]
    pub fn is_powered_off(&self) -> bool {
        self.powered_off
    }

    /// Applies `fault` to submission number `submission` when it completes.
    pub fn schedule_fault(&mut self, submission: u64, fault: SimFault) {
        self.faults.insert(submission, fault);
    }

    /// Power loss: the disk the next life finds.
    #[must_use]
    pub fn crash(mut self) -> SimDisk {
        for operation in std::mem::take(&mut self.in_flight) {
            self.interrupt(operation);
        }
        for file in &mut self.files {
            file.crash(|| self.rng.coin());
        }
        let mut next = SimDisk::new(self.rng.next());
        next.capacity_bytes = self.capacity_bytes;
        next.block_bytes = self.block_bytes;
        next.eager = self.eager;
        next.files = self.files.into_iter().filter(|file| file.exists).collect();
        next
    }

    /// A copy of what is on the media, as a disk of its own.
    #[must_use]
    pub fn image(&self, seed: u64) -> SimDisk {
        let mut copy = SimDisk::new(seed);
        copy.capacity_bytes = self.capacity_bytes;
        copy.block_bytes = self.block_bytes;
        copy.eager = self.eager;
        for file in self.files.iter().filter(|file| file.exists) {
            copy.edit(&file.name, 0, &file.media);
        }
        copy
    }

    /// The media content of a file.
    #[must_use]
    pub fn media(&self, name: &str) -> Option<&[u8]> {
        self.files
            .iter()
            .find(|file| file.exists && file.name == name)
            .map(|file| file.media.as_slice())
    }

    /// Names of the files, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .files
            .iter()
            .filter(|f| f.exists)
            .map(|f| f.name.clone())
            .collect();
        names.sort();
        names
    }

    /// Overwrites part of a file behind everybody's back, or creates it.
    pub fn edit(&mut self, name: &str, offset: u64, bytes: &[u8]) {
        let index = match self
            .files
            .iter()
            .position(|file| file.exists && file.name == name)
        {
            Some(index) => index,
            None => {
                self.files.push(SimFile::new(name, 0, true));
                self.files.len() - 1
            }
        };
        self.files[index].edit(offset as usize, bytes);
    }

    /// Flips bits of one byte behind everybody's back.
    pub fn flip(&mut self, name: &str, offset: u64, mask: u8) {
        let byte = self.media(name).expect("the file exists")[offset as usize] ^ mask;
        self.edit(name, offset, &[byte]);
    }

    /// Cuts a file short behind everybody's back.
    pub fn truncate(&mut self, name: &str, bytes: u64) {
        if let Some(file) = self
            .files
            .iter_mut()
            .find(|file| file.exists && file.name == name)
        {
            file.truncate(bytes as usize);
        }
    }

    /// Removes a file behind everybody's back.
    pub fn delete(&mut self, name: &str) {
        self.files.retain(|file| file.name != name);
    }

    fn submit(&mut self, file: FileId, token: u64, work: Work) {
        let number = self.submitted;
        self.submitted += 1;
        if self.power_off_at.is_some_and(|at| number >= at) {
            self.powered_off = true;
        }
        if !self.powered_off {
            self.in_flight.push(InFlight {
                number,
                file,
                token,
                work,
            });
        }
    }

    fn check_power(&self, operation: &'static str) -> Result<(), DiskError> {
        if self.powered_off {
            return Err(DiskError::Io {
                operation,
                file: "simulated".to_owned(),
                errno: libc::EIO,
            });
        }
        Ok(())
    }

    fn complete(&mut self, index: usize) {
        let operation = self.in_flight.swap_remove(index);
        let fault = self.faults.remove(&operation.number);
        let token = operation.token;
        let (result, buf) = match fault {
            Some(SimFault::Fail(errno)) => {
                let (verb, file) = (
                    operation.work.verb(),
                    self.files[operation.file.0 as usize].name.clone(),
                );
                let buf = self.interrupt(operation);
                (Err(DiskError::from_errno(verb, file, errno)), buf)
            }
            Some(SimFault::Lose) => (Ok(()), operation.work.into_buf()),
            Some(SimFault::Misdirect(elsewhere)) => {
                self.perform(operation.file, operation.work.moved_to(elsewhere))
            }
            Some(SimFault::Damage { at, mask }) => {
                let is_read = matches!(operation.work, Work::Read { .. });
                let (result, mut buf) =
                    self.perform(operation.file, operation.work.damaged(at, mask));
                if let Some(buf) = buf.as_mut().filter(|_| is_read) {
                    flip(buf, at, mask);
                }
                (result, buf)
            }
            None => self.perform(operation.file, operation.work),
        };
        self.done.push(Completion { token, result, buf });
    }

    fn perform(&mut self, file: FileId, work: Work) -> (Result<(), DiskError>, Option<AlignedBuf>) {
        let index = file.0 as usize;
        let grown = match &work {
            Work::Write { offset, buf, .. } => *offset + buf.len() as u64,
            Work::Create { bytes } => *bytes,
            Work::Read { .. } | Work::Flush { .. } | Work::Remove => 0,
        };
        let refuse = |errno, work: Work| {
            let name = self.files[index].name.clone();
            let error = DiskError::from_errno(work.verb(), name, errno);
            (Err(error), work.into_buf())
        };
        if self.is_too_much(index, grown) {
            return refuse(libc::ENOSPC, work);
        }
        if matches!(work, Work::Create { .. }) && self.is_name_taken(index) {
            return refuse(libc::EEXIST, work);
        }
        let file = &mut self.files[index];
        match work {
            Work::Read {
                offset,
                bytes,
                mut buf,
            } => {
                buf.clear();
                buf.extend_from_slice(file.read(offset, bytes));
                return (Ok(()), Some(buf));
            }
            Work::Write {
                offset,
                buf,
                durable,
            } => {
                file.write(offset as usize, buf.as_slice(), durable);
                return (Ok(()), Some(buf));
            }
            Work::Flush { sectors } => {
                for sector in sectors {
                    file.sync(sector);
                }
            }
            Work::Create { bytes } => *file = SimFile::new(&file.name, bytes, true),
            Work::Remove => file.remove(),
        }
        (Ok(()), None)
    }

    /// Whether that file, grown to so many bytes, no longer fits the disk.
    fn is_too_much(&self, index: usize, bytes: u64) -> bool {
        let existing = self.files.iter().filter(|file| file.exists);
        let used: u64 = existing.map(|file| file.cache.len() as u64).sum();
        let more = bytes.saturating_sub(self.files[index].cache.len() as u64);
        more > 0 && used.saturating_add(more) > self.capacity_bytes
    }

    /// Whether another file has the name of this one.
    fn is_name_taken(&self, index: usize) -> bool {
        let name = &self.files[index].name;
        let mut others = self.files.iter().enumerate().filter(|(i, _)| *i != index);
        others.any(|(_, file)| file.exists && file.name == *name)
    }

    /// Leaves what an operation that never completed leaves: any subset of its effects.
    fn interrupt(&mut self, operation: InFlight) -> Option<AlignedBuf> {
        let style = self.rng.next() % 4;
        let is_name_taken = self.is_name_taken(operation.file.0 as usize);
        let file = &mut self.files[operation.file.0 as usize];
        match operation.work {
            Work::Read { .. } => operation.work.into_buf(),
            Work::Write {
                offset,
                buf,
                durable,
            } => {
                for (index, sector) in buf.as_slice().chunks(SECTOR_BYTES).enumerate() {
                    let lands = match style {
                        0 => false,
                        1 => true,
                        _ => self.rng.coin(),
                    };
                    if lands {
                        file.write(offset as usize + index * SECTOR_BYTES, sector, durable);
                    }
                }
                if self.block_bytes > SECTOR_BYTES && self.rng.coin() {
                    file.lose_around(offset as usize, buf.len(), self.block_bytes);
                }
                Some(buf)
            }
            Work::Flush { sectors } => {
                for sector in sectors {
                    if self.rng.coin() {
                        file.sync(sector);
                    }
                }
                None
            }
            Work::Create { bytes } => {
                if style > 1 && !is_name_taken {
                    *file = SimFile::new(&file.name, if style == 2 { 0 } else { bytes }, true);
                }
                None
            }
            Work::Remove => {
                if style < 2 {
                    file.remove();
                }
                None
            }
        }
    }
}

impl Disk for SimDisk {
    fn location(&self) -> &str {
        "simulated"
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.check_power("list")?;
        let mut entries: Vec<_> = self
            .files
            .iter()
            .filter(|file| file.exists)
            .map(|file| FileEntry {
                name: file.name.clone(),
                bytes: file.cache.len() as u64,
                is_file: true,
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        self.check_power("open")?;
        let index = self
            .files
            .iter()
            .position(|file| file.exists && file.name == name);
        let index =
            index.ok_or_else(|| DiskError::from_errno("open", name.to_owned(), libc::ENOENT))?;
        Ok(FileId(index as u32))
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError> {
        self.check_power("read")?;
        assert_whole_blocks(offset, bytes);
        buf.clear();
        buf.extend_from_slice(self.files[file.0 as usize].read(offset, bytes));
        Ok(())
    }

    fn entropy(&mut self) -> u64 {
        self.rng.next()
    }

    fn submit_create(&mut self, name: &str, bytes: u64, token: u64) -> FileId {
        let file = FileId(self.files.len() as u32);
        self.files.push(SimFile::new(name, 0, false));
        self.submit(file, token, Work::Create { bytes });
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
        assert!(bytes > 0, "a read asks for something");
        assert_whole_blocks(offset, bytes);
        self.submit(file, token, Work::Read { offset, bytes, buf });
    }

    fn submit_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
        token: u64,
    ) {
        assert!(!buf.is_empty(), "a write has content");
        assert_whole_units(offset, buf.len());
        self.submit(
            file,
            token,
            Work::Write {
                offset,
                buf,
                durable,
            },
        );
    }

    fn submit_flush(&mut self, file: FileId, token: u64) {
        let sectors = self.files[file.0 as usize].unsynced.clone();
        self.submit(file, token, Work::Flush { sectors });
    }

    fn submit_remove(&mut self, file: FileId, token: u64) {
        self.submit(file, token, Work::Remove);
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        self.check_power("submission")
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        if !self.powered_off {
            while self.eager && !self.in_flight.is_empty() {
                let oldest = (0..self.in_flight.len())
                    .min_by_key(|i| self.in_flight[*i].number)
                    .unwrap_or(0);
                self.complete(oldest);
            }
            while !self.in_flight.is_empty() && self.rng.coin() {
                let index = self.rng.next() as usize % self.in_flight.len();
                self.complete(index);
            }
        }
        out.append(&mut self.done);
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        self.check_power("wait")?;
        if self.done.is_empty() && !self.in_flight.is_empty() {
            let index = self.rng.next() as usize % self.in_flight.len();
            self.complete(index);
        }
        Ok(())
    }

    fn event_fd(&self) -> Option<RawFd> {
        None
    }
}
