//! The real Disk: files of one directory through an `io_uring` ring of their own.
//!
//! The lane hands it work; it hands back completions, and an eventfd by which an executor learns of them
//! without polling. The ring is small (it must fit an 8 MB memlock limit beside the executors' own), and
//! no thread is started. Everything that might block while the lane runs (create, allocate, unlink,
//! directory sync) goes through the ring as well; [`create`](Disk::submit_create) and
//! [`remove`](Disk::submit_remove) are short chains of ring operations driven by [`Disk::reap`].
//!
//! Invariants:
//! 1. The memory of an operation (buffer, file name) is owned by its slot until its completion was
//!    taken from the ring; dropping the disk waits for that.
//! 2. In [`IoMode::Direct`] a durable write is one O_DIRECT write with RWF_DSYNC, or one with an fdatasync after it,
//!    whichever is faster. In [`IoMode::UnsafeBuffered`] nothing is ever synced.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use io_uring::{IoUring, squeue};

use super::durable::Ways;
use super::freeing;
use super::probe::{PROBE_NAME, probe_direct};
use super::uring_step::{Durably, FreeStage, Operation, Progress, Step};
use super::{
    AlignedBuf, Completion, Disk, DiskError, FileEntry, FileId, assert_whole_blocks,
    assert_whole_units,
};
use crate::limits::{WAL_BLOCK_BYTES, WAL_RING_ENTRIES};

/// How files are opened and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// O_DIRECT and syncs: what is reported durable is durable.
    Direct,
    /// Page cache and no syncs (`--unsafe-no-fsync`): survives a crash of the process, not of the machine.
    UnsafeBuffered,
}

impl IoMode {
    pub(super) fn open_flags(self) -> libc::c_int {
        match self {
            IoMode::Direct => libc::O_DIRECT,
            IoMode::UnsafeBuffered => 0,
        }
    }
}

/// Files of one directory behind an `io_uring` ring.
pub struct UringDisk {
    ring: IoUring,
    event: OwnedFd,
    directory: PathBuf,
    location: String,
    directory_file: File,
    mode: IoMode,
    files: Vec<OpenFile>,
    slots: Vec<Option<Operation>>,
    free_slots: Vec<usize>,
    backlog: VecDeque<squeue::Entry>,
    in_flight: usize,
    done: Vec<Completion>,
    ways: Ways,
    opened: Instant,
}

impl UringDisk {
    /// Opens `directory`, which must exist. In direct mode a probe write shows first that the filesystem
    /// can do what the log needs; the error says what to change when it cannot.
    pub fn open(directory: &Path, mode: IoMode) -> Result<Self, DiskError> {
        let location = directory.display().to_string();
        let fail = |operation: &'static str| {
            move |e: std::io::Error| DiskError::from_io(operation, location.clone(), &e)
        };
        let location = directory.display().to_string();
        let directory_file = File::open(directory).map_err(fail.clone()("open"))?;
        if mode == IoMode::Direct {
            probe_direct(directory, &directory_file)?;
        }
        let ring = build_ring().map_err(fail.clone()("io_uring set-up"))?;
        // SAFETY: eventfd takes no pointers; a non-negative result is a fresh descriptor nobody else owns.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(fail("eventfd")(std::io::Error::last_os_error()));
            }
            OwnedFd::from_raw_fd(fd)
        };
        ring.submitter()
            .register_eventfd(event.as_raw_fd())
            .map_err(fail("eventfd registration"))?;
        Ok(Self {
            ring,
            event,
            directory: directory.to_path_buf(),
            location,
            directory_file,
            mode,
            files: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            done: Vec::new(),
            ways: Ways::default(),
            opened: Instant::now(),
        })
    }

    /// How files are opened and synced.
    #[must_use]
    pub fn mode(&self) -> IoMode {
        self.mode
    }

    fn path_text(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn now_us(&self) -> u64 {
        self.opened.elapsed().as_micros() as u64
    }

    fn file(&self, file: FileId) -> &OpenFile {
        &self.files[file.0 as usize]
    }

    fn start(&mut self, operation: Operation) {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.in_flight += usize::from(!operation.step.is_silent());
        self.slots[slot] = Some(operation);
        self.queue_step(slot);
    }

    /// Queues the ring entry for the current step of a slot's operation.
    fn queue_step(&mut self, slot: usize) {
        let operation = self.slots[slot].as_ref().expect("the slot was just filled");
        let descriptor = self.file(operation.file).descriptor.as_ref();
        let entry = operation.step.entry(
            descriptor.map(File::as_raw_fd),
            self.directory_file.as_raw_fd(),
            self.mode,
        );
        self.backlog.push_back(entry.user_data(slot as u64));
    }

    /// Moves what was queued into the submission ring, as far as it has room.
    fn fill_ring(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: every pointer in the entry leads into the operation's slot, which lives until the
            // completion is taken (invariant 1); heap memory does not move when the slot vector grows.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    fn enter(&mut self, want: usize) -> Result<(), DiskError> {
        self.fill_ring();
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // The completion queue is full or memory is short: reap first, the entries stay queued.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    return Ok(());
                }
                Err(e) => {
                    return Err(DiskError::from_io(
                        "io_uring_enter",
                        self.location.clone(),
                        &e,
                    ));
                }
            }
        }
    }

    /// Takes completions from the ring into `done` and queues the next step of chains; true when any was queued.
    fn take_ring_completions(&mut self) -> bool {
        let mut chained = false;
        loop {
            let Some((slot, result)) = self
                .ring
                .completion()
                .next()
                .map(|c| (c.user_data() as usize, c.result()))
            else {
                return chained;
            };
            let mut operation = self.slots[slot]
                .take()
                .expect("a completion belongs to a filled slot");
            if operation.step.is_silent() {
                if operation.step.free_on(result) {
                    self.slots[slot] = Some(operation);
                    self.queue_step(slot);
                    chained = true;
                } else {
                    self.files[operation.file.0 as usize].descriptor = None;
                    self.free_slots.push(slot);
                }
                continue;
            }
            let result = match self.on_step(&mut operation, result) {
                Progress::Done(result) => result,
                going_on => {
                    if let Progress::Next(step) = going_on {
                        operation.step = step;
                    }
                    self.slots[slot] = Some(operation);
                    self.queue_step(slot);
                    chained = true;
                    continue;
                }
            };
            self.free_slots.push(slot);
            self.in_flight -= 1;
            chained |= operation.step.is_removal() && self.begin_freeing(operation.file);
            self.done.push(Completion {
                token: operation.token,
                result,
                buf: operation.step.into_buf(),
            });
        }
    }

    /// Lets go of a file that was removed. Whoever does so last frees its blocks, which takes its time.
    fn begin_freeing(&mut self, file: FileId) -> bool {
        let descriptor = &mut self.files[file.0 as usize].descriptor;
        let bytes = descriptor.as_ref().and_then(freeing::bytes_to_free);
        match bytes {
            Some(bytes) if bytes > 0 => {
                self.start(Operation {
                    file,
                    token: 0,
                    step: Step::Free {
                        stage: FreeStage::Punch,
                        offset: 0,
                        bytes,
                    },
                });
                true
            }
            _ => {
                *descriptor = None;
                false
            }
        }
    }

    fn on_step(&mut self, operation: &mut Operation, result: i32) -> Progress {
        let unsynced = self.mode == IoMode::UnsafeBuffered;
        let index = operation.file.0 as usize;
        if result < 0 {
            // A filesystem without fallocate still takes the zeros that follow.
            let tolerated = matches!(operation.step, Step::CreateAllocate { .. })
                && result == -libc::EOPNOTSUPP;
            if !tolerated {
                let path = self.path_text(&self.files[index].name);
                return Progress::Done(Err(DiskError::from_errno(
                    operation.step.verb(),
                    path,
                    -result,
                )));
            }
        }
        match &mut operation.step {
            step @ Step::Read { .. } => step.on_read(result.unsigned_abs() as usize),
            Step::Write {
                offset,
                durably,
                buf,
            } => {
                let (done, asked) = (result.unsigned_abs() as usize, buf.len());
                if !durably.is_flushing() && done != asked {
                    let file = self.path_text(&self.files[index].name);
                    return Progress::Done(Err(DiskError::Short {
                        operation: "write",
                        file,
                        offset: *offset,
                        done: done as u64,
                        asked: asked as u64,
                    }));
                }
                durably.on_step(&mut self.ways, self.opened)
            }
            Step::Flush => Progress::Done(Ok(())),
            Step::CreateOpen { bytes, .. } => {
                // SAFETY: a non-negative result of openat is a fresh descriptor nobody else owns.
                let descriptor = unsafe { OwnedFd::from_raw_fd(result) };
                self.files[index].descriptor = Some(File::from(descriptor));
                Step::after_open(*bytes, self.mode)
            }
            Step::CreateAllocate { .. } if unsynced => Progress::Done(Ok(())),
            Step::CreateAllocate { .. } => Progress::Next(Step::CreateSync),
            Step::CreateSync => Progress::Next(Step::SyncDirectory { verb: "create" }),
            Step::RemoveUnlink { .. } if unsynced => Progress::Done(Ok(())),
            Step::RemoveUnlink { .. } => Progress::Next(Step::SyncDirectory { verb: "remove" }),
            Step::SyncDirectory { .. } => Progress::Done(Ok(())),
            Step::Free { .. } => unreachable!("nobody is told of it"),
        }
    }
}

impl Disk for UringDisk {
    fn location(&self) -> &str {
        &self.location
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        list_directory(&self.directory)
    }

    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        let descriptor = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(self.mode.open_flags())
            .open(self.directory.join(name))
            .map_err(|e| DiskError::from_io("open", self.path_text(name), &e))?;
        self.files.push(OpenFile {
            name: name.to_owned(),
            descriptor: Some(descriptor),
        });
        Ok(FileId(
            u32::try_from(self.files.len() - 1).expect("files are far fewer than 2^32"),
        ))
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError> {
        assert_whole_blocks(offset, bytes);
        buf.clear();
        buf.reserve(bytes);
        let open = self.file(file);
        let descriptor = open
            .descriptor
            .as_ref()
            .expect("the file is open: its creation completed");
        let mut done = 0;
        while done < bytes {
            match descriptor.read_at(&mut buf.as_spare_mut()[done..bytes], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(DiskError::from_io("read", self.path_text(&open.name), &e)),
            }
            if !(done as u64).is_multiple_of(WAL_BLOCK_BYTES) {
                break; // a direct read stops inside a block only at the end of the file
            }
        }
        buf.set_filled(done);
        Ok(())
    }

    fn entropy(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        // SAFETY: the pointer and length describe the whole of a live array.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert!(
            count == 8,
            "the kernel gives eight random bytes in one call, as getrandom(2) promises"
        );
        u64::from_le_bytes(bytes)
    }

    fn submit_create(&mut self, name: &str, bytes: u64, token: u64) -> FileId {
        let file = FileId(u32::try_from(self.files.len()).expect("files are far fewer than 2^32"));
        self.files.push(OpenFile {
            name: name.to_owned(),
            descriptor: None,
        });
        let name = CString::new(name).expect("file names are our own and hold no NUL");
        self.start(Operation {
            file,
            token,
            step: Step::CreateOpen { name, bytes },
        });
        file
    }

    fn submit_read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        mut buf: AlignedBuf,
        token: u64,
    ) {
        assert!(bytes > 0, "a read asks for something");
        assert_whole_blocks(offset, bytes);
        buf.clear();
        buf.reserve(bytes);
        self.start(Operation {
            file,
            token,
            step: Step::Read {
                offset,
                bytes,
                done: 0,
                buf,
            },
        });
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
        let durably = if durable && self.mode == IoMode::Direct {
            let began_us = self.now_us();
            Durably::begin(self.ways.choose(began_us), began_us)
        } else {
            Durably::Not
        };
        self.start(Operation {
            file,
            token,
            step: Step::Write {
                offset,
                durably,
                buf,
            },
        });
    }

    fn submit_flush(&mut self, file: FileId, token: u64) {
        self.start(Operation {
            file,
            token,
            step: Step::Flush,
        });
    }

    fn submit_remove(&mut self, file: FileId, token: u64) {
        let name = CString::new(self.file(file).name.as_str())
            .expect("file names are our own and hold no NUL");
        // What is not freed in slices is freed by whoever lets go last: the kernel's thread that unlinks it, not this one.
        if self.mode != IoMode::Direct {
            self.files[file.0 as usize].descriptor = None;
        }
        self.start(Operation {
            file,
            token,
            step: Step::RemoveUnlink { name },
        });
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        self.fill_ring();
        if self.ring.submission().is_empty() {
            Ok(())
        } else {
            self.enter(0)
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        if self.ring.submission().taskrun() {
            // A refusal shows again, with an error, at the next kick.
            let _ = self.enter(0);
        }
        if self.take_ring_completions() {
            self.fill_ring();
            // A refusal shows again, with an error, at the next kick: the entries stay queued.
            let _ = self.enter(0);
        }
        out.append(&mut self.done);
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        self.take_ring_completions();
        while self.done.is_empty() && self.in_flight > 0 {
            self.enter(1)?;
            self.take_ring_completions();
        }
        self.kick()
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.event.as_raw_fd())
    }
}

/// Every entry of a directory but the probe's, sorted by name.
pub(super) fn list_directory(directory: &Path) -> Result<Vec<FileEntry>, DiskError> {
    let fail = |e: std::io::Error| DiskError::from_io("list", directory.display().to_string(), &e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name() == PROBE_NAME {
            continue;
        }
        let metadata = entry.metadata().map_err(fail)?;
        entries.push(FileEntry {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes: metadata.len(),
            is_file: metadata.is_file(),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A ring whose completions do not interrupt a thread that runs: it takes them at its next system call, and `reap` makes
/// one if there are any. Before 5.19 they interrupt.
fn build_ring() -> std::io::Result<IoUring> {
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    match cooperative.build(WAL_RING_ENTRIES) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(WAL_RING_ENTRIES),
        built => built,
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.enter(1).is_err() {
                // The kernel may still use the memory: leaking it is the only safe end.
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
            self.take_ring_completions();
        }
    }
}

struct OpenFile {
    name: String,
    descriptor: Option<File>,
}
