//! One file on the disk, filled once, that runs are made over.
//!
//! Everything here blocks; [`session`](super::session) gives it a thread. A run ramps up, then counts
//! what begins inside its measured time, and ends when the last of that is done. The folder of the
//! file is removed with the [`Probe`].

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tempfile::TempDir;

use keelson_storage::io::{AlignedBuf, Completion, Disk, FileId, IoMode, UringDisk};
use keelson_storage::limits::{WAL_BLOCK_BYTES, WAL_READ_BYTES, WAL_UNIT_BYTES_MIN};

use super::cell::{Cell, Way};
use super::figures::Figures;
use crate::procfs::{machine_busy_seconds, own_cpu_time};
use crate::stats::{Latency, latency_histogram};

/// The file that is written over.
const FILE_NAME: &str = "probe";
/// Bytes of one write while the file is filled.
const FILL_BYTES: u64 = 1 << 20;
const FILL_DEPTH: usize = 4;
const SHORT_READ: &str = "a read inside the file came back short";

/// A file to run over, and the disk it lies on.
pub struct Probe {
    // Dropped first: it waits for what is in flight before the folder goes.
    disk: UringDisk,
    folder: TempDir,
    file: FileId,
    file_bytes: u64,
    stop: Arc<AtomicBool>,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Not measured, before it.
    pub ramp: Duration,
    pub measured: Duration,
}

impl Probe {
    /// Makes the file inside `directory` and fills it with bytes that nothing can compress, so that
    /// later writes change nothing but data. `stop` ends this, and every run, early.
    pub fn create(directory: &Path, file_bytes: u64, stop: Arc<AtomicBool>) -> Result<Self> {
        ensure!(
            file_bytes >= WAL_BLOCK_BYTES && file_bytes.is_multiple_of(WAL_BLOCK_BYTES),
            "the size of the file is {file_bytes} bytes, but must be a multiple of {WAL_BLOCK_BYTES}"
        );
        let folder = tempfile::Builder::new()
            .prefix("keelson-disk-")
            .tempdir_in(directory)
            .with_context(|| format!("cannot use {}", directory.display()))?;
        let mut disk = UringDisk::open(folder.path(), IoMode::Direct)?;
        let file = disk.submit_create(FILE_NAME, file_bytes, 0);
        let mut probe = Self {
            disk,
            folder,
            file,
            file_bytes,
            stop,
        };
        let mut completions = Vec::new();
        probe.complete(&mut completions)?;
        probe.fill()?;
        Ok(probe)
    }

    /// One run. None if it was stopped before anything was measured.
    pub fn run(&mut self, cell: Cell, pace: Pace) -> Result<Option<Figures>> {
        let bs = cell.bs_bytes;
        ensure!(
            bs >= WAL_UNIT_BYTES_MIN
                && bs.is_multiple_of(WAL_UNIT_BYTES_MIN)
                && bs <= self.file_bytes,
            "bs is {bs} bytes, but must be a multiple of {WAL_UNIT_BYTES_MIN} and fit the file ({} bytes)",
            self.file_bytes
        );
        let mut run = Run::begin(cell, pace);
        match cell.way {
            Way::Direct => self.run_direct(&mut run)?,
            Way::Grouped => self.run_grouped(&mut run)?,
            Way::Read => self.run_read(&mut run)?,
            Way::Copy => self.run_copy(&mut run)?,
            Way::Buffered => self.run_buffered(&mut run)?,
        }
        run.figures()
    }

    /// Keeps `iodepth` durable writes in flight; each that completes makes room for the next.
    fn run_direct(&mut self, run: &mut Run) -> Result<()> {
        let depth = run.cell.iodepth as usize;
        let mut places = Places::new(run.cell.bs_bytes, self.file_bytes);
        let mut free: Vec<(usize, AlignedBuf)> = (0..depth)
            .map(|slot| (slot, payload(run.cell.bs_bytes, slot)))
            .collect();
        let mut began = vec![Instant::now(); depth];
        let mut completions = Vec::new();
        loop {
            let now = Instant::now();
            if run.goes_on(now, &self.stop)? {
                for (slot, buf) in free.drain(..) {
                    began[slot] = now;
                    let offset = places.next_offset();
                    self.disk
                        .submit_write(self.file, offset, buf, true, slot as u64);
                }
            } else if free.len() == depth {
                return Ok(());
            }
            self.complete(&mut completions)?;
            let now = Instant::now();
            for completion in completions.drain(..) {
                let slot = completion.token as usize;
                run.record(began[slot], now);
                free.push((slot, completion.buf.expect("a write hands its buffer back")));
            }
        }
    }

    /// Writes `iodepth` blocks at once and makes them durable together; the latency of each lasts
    /// until that is done.
    fn run_grouped(&mut self, run: &mut Run) -> Result<()> {
        let depth = run.cell.iodepth as usize;
        let mut places = Places::new(run.cell.bs_bytes, self.file_bytes);
        let mut free: Vec<AlignedBuf> = (0..depth)
            .map(|slot| payload(run.cell.bs_bytes, slot))
            .collect();
        let mut completions = Vec::new();
        loop {
            let began = Instant::now();
            if !run.goes_on(began, &self.stop)? {
                return Ok(());
            }
            for buf in free.drain(..) {
                let offset = places.next_offset();
                self.disk.submit_write(self.file, offset, buf, false, 0);
            }
            while completions.len() < depth {
                self.complete(&mut completions)?;
            }
            free.extend(completions.drain(..).filter_map(|write| write.buf));
            self.disk.submit_flush(self.file, 0);
            self.complete(&mut completions)?;
            completions.clear();
            let now = Instant::now();
            for _ in 0..depth {
                run.record(began, now);
            }
        }
    }

    /// Keeps `iodepth` copies in flight; a block that is read is written at once.
    fn run_copy(&mut self, run: &mut Run) -> Result<()> {
        let bs = run.cell.bs_bytes;
        let depth = run.cell.iodepth as usize;
        let half = self.file_bytes / 2 / bs * bs;
        ensure!(half > 0, "two blocks of {bs} bytes do not fit the file");
        let mut places = Places::new(bs, half);
        let mut free: Vec<(usize, AlignedBuf)> = (0..depth)
            .map(|slot| (slot, AlignedBuf::with_capacity(bs as usize)))
            .collect();
        // When the copy in a slot began, and whence it reads, until it has.
        let mut copies: Vec<(Instant, Option<u64>)> = vec![(Instant::now(), None); depth];
        let mut completions = Vec::new();
        loop {
            let now = Instant::now();
            if run.goes_on(now, &self.stop)? {
                for (slot, buf) in free.drain(..) {
                    let offset = places.next_offset();
                    copies[slot] = (now, Some(offset));
                    self.disk
                        .submit_read(self.file, offset, bs as usize, buf, slot as u64);
                }
            } else if free.len() == depth {
                return Ok(());
            }
            self.complete(&mut completions)?;
            for completion in completions.drain(..) {
                let slot = completion.token as usize;
                let buf = completion.buf.expect("every copy has a buffer");
                let (began, reading_from) = &mut copies[slot];
                match reading_from.take() {
                    Some(offset) => {
                        ensure!(buf.len() as u64 == bs, SHORT_READ);
                        let to = half + offset;
                        self.disk
                            .submit_write(self.file, to, buf, false, slot as u64);
                    }
                    None => {
                        run.record(*began, Instant::now());
                        free.push((slot, buf));
                    }
                }
            }
        }
    }

    fn run_read(&mut self, run: &mut Run) -> Result<()> {
        let bytes = run.cell.bs_bytes as usize;
        let mut places = Places::new(run.cell.bs_bytes, self.file_bytes);
        let mut buf = AlignedBuf::with_capacity(WAL_READ_BYTES.max(bytes));
        loop {
            let began = Instant::now();
            if !run.goes_on(began, &self.stop)? {
                return Ok(());
            }
            self.disk
                .read(self.file, places.next_offset(), bytes, &mut buf)?;
            ensure!(buf.len() == bytes, SHORT_READ);
            run.record(began, Instant::now());
        }
    }

    /// Through the page cache, with the calls that etcd makes: one write, one fdatasync.
    fn run_buffered(&mut self, run: &mut Run) -> Result<()> {
        let path = self.folder.path().join(FILE_NAME);
        let file: File = OpenOptions::new().write(true).open(&path)?;
        let buf = payload(run.cell.bs_bytes, 0);
        let mut places = Places::new(run.cell.bs_bytes, self.file_bytes);
        let fail = || format!("cannot write {}", path.display());
        loop {
            let began = Instant::now();
            if !run.goes_on(began, &self.stop)? {
                return Ok(());
            }
            file.write_all_at(buf.as_slice(), places.next_offset())
                .with_context(fail)?;
            file.sync_data().with_context(fail)?;
            run.record(began, Instant::now());
        }
    }

    fn fill(&mut self) -> Result<()> {
        let mut offset = 0;
        let mut free: Vec<AlignedBuf> = (0..FILL_DEPTH)
            .map(|seed| payload(FILL_BYTES.min(self.file_bytes), seed))
            .collect();
        let mut completions = Vec::new();
        while (offset < self.file_bytes && !self.stop.load(Ordering::Relaxed))
            || free.len() < FILL_DEPTH
        {
            while offset < self.file_bytes
                && let Some(mut buf) = free.pop()
            {
                let bytes = FILL_BYTES.min(self.file_bytes - offset);
                buf.resize(bytes as usize);
                self.disk.submit_write(self.file, offset, buf, false, 0);
                offset += bytes;
            }
            self.complete(&mut completions)?;
            free.extend(completions.drain(..).filter_map(|write| write.buf));
        }
        self.disk.submit_flush(self.file, 0);
        self.complete(&mut completions)
    }

    /// Waits for completions, at least one if anything is in flight. The first failure ends the probe.
    fn complete(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        self.disk.wait()?;
        self.disk.reap(completions);
        for completion in completions.iter() {
            completion.result.clone()?;
        }
        Ok(())
    }
}

/// A run while it goes on.
struct Run {
    cell: Cell,
    begin: Instant,
    end: Instant,
    /// CPU before the measured time; None while it ramps up.
    before: Option<Cpu>,
    /// The end of the last operation that was counted.
    last: Instant,
    operations: u64,
    latency_ns: hdrhistogram::Histogram<u64>,
}

/// CPU time so far.
#[derive(Clone, Copy)]
struct Cpu {
    own: Duration,
    machine_seconds: f64,
}

impl Cpu {
    fn now() -> Result<Self> {
        Ok(Self {
            own: own_cpu_time(),
            machine_seconds: machine_busy_seconds()?,
        })
    }
}

impl Run {
    fn begin(cell: Cell, pace: Pace) -> Self {
        let begin = Instant::now() + pace.ramp;
        Self {
            cell,
            begin,
            end: begin + pace.measured,
            before: None,
            last: begin,
            operations: 0,
            latency_ns: latency_histogram(),
        }
    }

    /// Whether another operation is to begin at this time. On a disk so slow that nothing was measured
    /// in the run's time, the run goes on until something is.
    fn goes_on(&mut self, now: Instant, stop: &AtomicBool) -> Result<bool> {
        if now >= self.begin && self.before.is_none() {
            self.before = Some(Cpu::now()?);
            // What is in flight already began before, and is not counted.
            self.begin = Instant::now();
        }
        let is_due = now < self.end || self.operations == 0;
        Ok(is_due && !stop.load(Ordering::Relaxed))
    }

    fn record(&mut self, began: Instant, ended: Instant) {
        if self.before.is_none() || began < self.begin {
            return;
        }
        let nanos = u64::try_from((ended - began).as_nanos()).unwrap_or(u64::MAX);
        self.latency_ns.saturating_record(nanos);
        self.operations += 1;
        self.last = ended;
    }

    fn figures(self) -> Result<Option<Figures>> {
        let Some(before) = self.before.filter(|_| self.operations > 0) else {
            return Ok(None);
        };
        let after = Cpu::now()?;
        let operations = self.operations as f64;
        let seconds = (self.last - self.begin).as_secs_f64();
        let us_per_operation = |seconds: f64| seconds * 1e6 / operations;
        Ok(Some(Figures {
            cell: self.cell,
            seconds,
            operations: self.operations,
            iops: operations / seconds,
            bytes_per_second: operations * self.cell.bs_bytes as f64 / seconds,
            latency_us: Latency::from(&self.latency_ns),
            cpu_us_per_operation: us_per_operation((after.own - before.own).as_secs_f64()),
            machine_cpu_us_per_operation: us_per_operation(
                after.machine_seconds - before.machine_seconds,
            ),
        }))
    }
}

/// Places in the file, one block after the other, from the start again at the end.
struct Places {
    next: u64,
    bs_bytes: u64,
    /// The first offset at which a block does not fit.
    end: u64,
}

impl Places {
    fn new(bs_bytes: u64, file_bytes: u64) -> Self {
        Self {
            next: 0,
            bs_bytes,
            end: file_bytes - file_bytes % bs_bytes,
        }
    }

    fn next_offset(&mut self) -> u64 {
        let offset = self.next;
        self.next = (offset + self.bs_bytes) % self.end;
        offset
    }
}

/// Bytes to write, random, so that no device can make less of them.
fn payload(bytes: u64, seed: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes as usize);
    SmallRng::seed_from_u64(seed as u64).fill_bytes(buf.as_mut_slice());
    buf
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod probe_tests;
