//! The simulated Disk: a directory in memory whose every accident is decided by one seed.
//!
//! Tests and the simulator hand it work as they would a real disk. It completes operations in random
//! order, and [`SimDisk::crash`] turns it into what a machine finds after power loss, under the rules of
//! the Disk seam: in-flight writes are torn at 512-byte sectors, completed but unflushed sectors survive
//! or not one by one, names whose creation or removal did not complete exist or not.
//!
//! Beyond what an honest disk does, a test can schedule a [`SimFault`] for a certain write or flush
//! (fail it, lose it, send it elsewhere) and edit the media between two lives.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

use super::{AlignedBuf, Completion, Disk, DiskError, FileEntry, FileId};
use crate::limits::WAL_BLOCK_BYTES;

const SECTOR_BYTES: usize = 512;

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
}

/// What a lying or failing disk does with one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimFault {
    /// Reports this error number; some sectors may have changed all the same, and the unflushed sectors
    /// of a failed flush are lost or kept one by one.
    Fail(i32),
    /// Reports success and changes nothing.
    Lose,
    /// Reports success and writes the content at this offset of the same file instead.
    Misdirect(u64),
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
        }
    }

    /// Completes everything at the next reap, in order: for tests about something else.
    pub fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }

    /// Creations that would exceed this many bytes in total fail with "no space".
    pub fn set_capacity_bytes(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
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
            for sector in std::mem::take(&mut file.unsynced) {
                let span = sector_span(sector, file.media.len());
                if self.rng.coin() {
                    let (cache, media) = (&file.cache, &mut file.media);
                    media[span.clone()].copy_from_slice(&cache[span]);
                }
            }
            file.cache = file.media.clone();
        }
        let mut next = SimDisk::new(self.rng.next());
        next.capacity_bytes = self.capacity_bytes;
        next.eager = self.eager;
        next.files = self.files.into_iter().filter(|file| file.exists).collect();
        next
    }

    /// A copy of what is on the media, as a disk of its own.
    #[must_use]
    pub fn image(&self, seed: u64) -> SimDisk {
        let mut copy = SimDisk::new(seed);
        copy.capacity_bytes = self.capacity_bytes;
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
        let file = &mut self.files[index];
        let end = offset as usize + bytes.len();
        if file.media.len() < end {
            file.media.resize(end, 0);
        }
        file.media[offset as usize..end].copy_from_slice(bytes);
        file.cache = file.media.clone();
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
            file.media.truncate(bytes as usize);
            file.cache = file.media.clone();
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
            None => self.perform(operation.file, operation.work),
        };
        self.done.push(Completion { token, result, buf });
    }

    fn perform(&mut self, file: FileId, work: Work) -> (Result<(), DiskError>, Option<AlignedBuf>) {
        let used: u64 = self
            .files
            .iter()
            .filter(|f| f.exists)
            .map(|f| f.media.len() as u64)
            .sum();
        let file = &mut self.files[file.0 as usize];
        match work {
            Work::Write {
                offset,
                buf,
                durable,
            } => {
                file.write(offset as usize, buf.as_slice(), durable);
                (Ok(()), Some(buf))
            }
            Work::Flush { sectors } => {
                for sector in sectors {
                    file.sync(sector);
                }
                (Ok(()), None)
            }
            Work::Create { bytes } => {
                if used.saturating_add(bytes) > self.capacity_bytes {
                    return (
                        Err(DiskError::from_errno(
                            "create",
                            file.name.clone(),
                            libc::ENOSPC,
                        )),
                        None,
                    );
                }
                *file = SimFile::new(&file.name, bytes, true);
                (Ok(()), None)
            }
            Work::Remove => {
                file.exists = false;
                (Ok(()), None)
            }
        }
    }

    /// Leaves what an operation that never completed leaves: any subset of its effects.
    fn interrupt(&mut self, operation: InFlight) -> Option<AlignedBuf> {
        let style = self.rng.next() % 4;
        let file = &mut self.files[operation.file.0 as usize];
        match operation.work {
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
                if style > 1 {
                    *file = SimFile::new(&file.name, if style == 2 { 0 } else { bytes }, true);
                }
                None
            }
            Work::Remove => {
                file.exists = style > 1;
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
        assert!(
            (bytes as u64).is_multiple_of(WAL_BLOCK_BYTES)
                && offset.is_multiple_of(WAL_BLOCK_BYTES),
            "reads cover whole blocks"
        );
        let content = &self.files[file.0 as usize].cache;
        let start = (offset as usize).min(content.len());
        let end = (start + bytes).min(content.len());
        buf.clear();
        buf.extend_from_slice(&content[start..end]);
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

    fn submit_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
        token: u64,
    ) {
        assert!(!buf.is_empty(), "a write has content");
        assert!(
            (buf.len() as u64).is_multiple_of(WAL_BLOCK_BYTES)
                && offset.is_multiple_of(WAL_BLOCK_BYTES),
            "writes cover whole blocks"
        );
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

#[derive(Debug)]
struct SimFile {
    name: String,
    exists: bool,
    /// What reads see.
    cache: Vec<u8>,
    /// What certainly survives power loss.
    media: Vec<u8>,
    /// Sectors in which the two may differ.
    unsynced: BTreeSet<usize>,
}

impl SimFile {
    fn new(name: &str, bytes: u64, exists: bool) -> Self {
        let content = vec![0; bytes as usize];
        Self {
            name: name.to_owned(),
            exists,
            cache: content.clone(),
            media: content,
            unsynced: BTreeSet::new(),
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8], durable: bool) {
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
            self.media.resize(end, 0);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            if durable {
                self.sync(sector);
            } else {
                self.unsynced.insert(sector);
            }
        }
    }

    fn sync(&mut self, sector: usize) {
        let span = sector_span(sector, self.media.len());
        self.media[span.clone()].copy_from_slice(&self.cache[span]);
        self.unsynced.remove(&sector);
    }
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    file: FileId,
    token: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Write {
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
    },
    Flush {
        sectors: BTreeSet<usize>,
    },
    Create {
        bytes: u64,
    },
    Remove,
}

impl Work {
    fn verb(&self) -> &'static str {
        match self {
            Work::Write { .. } => "write",
            Work::Flush { .. } => "flush",
            Work::Create { .. } => "create",
            Work::Remove => "removal",
        }
    }

    fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Work::Write { buf, .. } => Some(buf),
            _ => None,
        }
    }

    fn moved_to(self, elsewhere: u64) -> Self {
        match self {
            Work::Write { buf, durable, .. } => Work::Write {
                offset: elsewhere,
                buf,
                durable,
            },
            other => other,
        }
    }
}

fn sector_span(sector: usize, file_bytes: usize) -> std::ops::Range<usize> {
    (sector * SECTOR_BYTES).min(file_bytes)..((sector + 1) * SECTOR_BYTES).min(file_bytes)
}

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, seedable, the same everywhere.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & (1 << 40) != 0
    }
}
