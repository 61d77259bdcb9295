//! One operation of the real disk: the chain of ring entries it is made of, and what each of them may answer.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use super::durable::{Way, Ways};
use super::freeing;
use super::uring::IoMode;
use super::{AlignedBuf, DiskError, FileId};
use crate::limits::WAL_BLOCK_BYTES;

/// The most that one entry of the ring asks for; longer reads go on where it stopped.
const READ_BYTES_MAX: usize = 1 << 30;

/// An operation from its submission to its completion.
pub(super) struct Operation {
    pub(super) file: FileId,
    pub(super) token: u64,
    pub(super) step: Step,
}

/// What the ring is asked to do next for an operation. It owns all the memory the ring's entry refers to.
pub(super) enum Step {
    Read {
        offset: u64,
        bytes: usize,
        /// Bytes that are in the buffer by now.
        done: usize,
        buf: AlignedBuf,
    },
    Write {
        offset: u64,
        durably: Durably,
        buf: AlignedBuf,
    },
    Flush,
    CreateOpen {
        name: CString,
        bytes: u64,
    },
    CreateAllocate {
        bytes: u64,
    },
    CreateSync,
    RemoveUnlink {
        name: CString,
    },
    SyncDirectory {
        verb: &'static str,
    },
    /// The blocks of a removed file are given back, a slice at a time; nobody waits for it.
    Free {
        stage: FreeStage,
        offset: u64,
        bytes: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeStage {
    Punch,
    Sync,
    Pause,
}

/// Read by the ring when it is submitted.
static FREE_PAUSE: types::Timespec = types::Timespec::new()
    .sec(freeing::PAUSE.as_secs())
    .nsec(freeing::PAUSE.subsec_nanos());

/// Whether and how what is written becomes durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Durably {
    Not,
    /// It is written with RWF_DSYNC.
    Through {
        began_us: u64,
    },
    /// It is written, and then flushed.
    Apart {
        began_us: u64,
        is_written: bool,
    },
}

impl Durably {
    pub(super) fn begin(way: Way, began_us: u64) -> Self {
        match way {
            Way::Through => Self::Through { began_us },
            Way::Apart => Self::Apart {
                began_us,
                is_written: false,
            },
        }
    }

    /// Whether it is written, and waits to be durable.
    pub(super) fn is_flushing(self) -> bool {
        matches!(
            self,
            Self::Apart {
                is_written: true,
                ..
            }
        )
    }

    fn write_flags(self) -> libc::c_int {
        match self {
            Self::Through { .. } => libc::RWF_DSYNC,
            Self::Not | Self::Apart { .. } => 0,
        }
    }

    /// The ring did what it was asked; tells how long it took when that was all. Times count from `opened`.
    pub(super) fn on_step(&mut self, ways: &mut Ways, opened: Instant) -> Progress {
        let (way, began_us) = match self {
            Self::Not => return Progress::Done(Ok(())),
            Self::Apart { is_written, .. } if !*is_written => {
                *is_written = true;
                return Progress::Again;
            }
            Self::Through { began_us } => (Way::Through, *began_us),
            Self::Apart { began_us, .. } => (Way::Apart, *began_us),
        };
        let now_us = opened.elapsed().as_micros() as u64;
        let took = Duration::from_micros(now_us - began_us);
        ways.on_durable(way, took, now_us);
        Progress::Done(Ok(()))
    }
}

fn flush(file: types::Fd) -> squeue::Entry {
    opcode::Fsync::new(file)
        .flags(types::FsyncFlags::DATASYNC)
        .build()
}

impl Step {
    /// The ring's entry for this step; `descriptor` is the file's, for a step that needs it open.
    pub(super) fn entry(
        &self,
        descriptor: Option<RawFd>,
        directory: RawFd,
        mode: IoMode,
    ) -> squeue::Entry {
        let file = || types::Fd(descriptor.expect("the file is open: its creation completed"));
        let directory = types::Fd(directory);
        match self {
            Step::Read {
                offset,
                bytes,
                done,
                buf,
            } => {
                let memory = buf.as_ptr().cast_mut().wrapping_add(*done);
                let rest = (bytes - done).min(READ_BYTES_MAX);
                opcode::Read::new(file(), memory, rest as u32)
                    .offset(offset + *done as u64)
                    .build()
            }
            Step::Write { durably, .. } if durably.is_flushing() => flush(file()),
            Step::Write {
                offset,
                durably,
                buf,
            } => {
                let bytes = u32::try_from(buf.len()).expect("one write fits 32 bits");
                opcode::Write::new(file(), buf.as_ptr(), bytes)
                    .offset(*offset)
                    .rw_flags(durably.write_flags())
                    .build()
            }
            // Nothing is synced, but whoever waits for the flush is woken all the same.
            Step::Flush if mode == IoMode::UnsafeBuffered => opcode::Nop::new().build(),
            Step::Flush => flush(file()),
            Step::CreateOpen { name, .. } => opcode::OpenAt::new(directory, name.as_ptr())
                .flags(
                    libc::O_RDWR
                        | libc::O_CREAT
                        | libc::O_EXCL
                        | libc::O_CLOEXEC
                        | mode.open_flags(),
                )
                .mode(0o600)
                .build(),
            Step::CreateAllocate { bytes } => opcode::Fallocate::new(file(), *bytes).build(),
            Step::CreateSync => opcode::Fsync::new(file()).build(),
            Step::RemoveUnlink { name } => opcode::UnlinkAt::new(directory, name.as_ptr()).build(),
            Step::SyncDirectory { .. } => opcode::Fsync::new(directory).build(),
            Step::Free {
                stage,
                offset,
                bytes,
            } => match stage {
                FreeStage::Punch => opcode::Fallocate::new(file(), freeing::slice_bytes(*bytes))
                    .offset(*offset)
                    .mode(freeing::PUNCH)
                    .build(),
                FreeStage::Sync => opcode::Fsync::new(file()).build(),
                FreeStage::Pause => opcode::Timeout::new(&raw const FREE_PAUSE).build(),
            },
        }
    }

    /// The step after the file was opened: an empty file needs no allocation.
    pub(super) fn after_open(bytes: u64, mode: IoMode) -> Progress {
        match (bytes, mode) {
            (0, IoMode::UnsafeBuffered) => Progress::Done(Ok(())),
            (0, IoMode::Direct) => Progress::Next(Step::CreateSync),
            (bytes, _) => Progress::Next(Step::CreateAllocate { bytes }),
        }
    }

    /// Counts what a read brought: the rest is asked for unless the file ended.
    pub(super) fn on_read(&mut self, brought: usize) -> Progress {
        let Step::Read {
            bytes, done, buf, ..
        } = self
        else {
            panic!("only a read brings bytes");
        };
        *done += brought;
        // A direct read stops inside a block only at the end of the file.
        let ended = brought == 0 || !(*done as u64).is_multiple_of(WAL_BLOCK_BYTES);
        if ended || *done >= *bytes {
            buf.set_filled(*done);
            Progress::Done(Ok(()))
        } else {
            Progress::Again
        }
    }

    /// What comes after a part of freeing a file; false when all is freed, or it cannot be freed so.
    pub(super) fn free_on(&mut self, result: i32) -> bool {
        let Step::Free {
            stage,
            offset,
            bytes,
        } = self
        else {
            panic!("only freeing goes on freeing");
        };
        *stage = match stage {
            FreeStage::Punch | FreeStage::Sync if result < 0 => return false,
            FreeStage::Punch => FreeStage::Sync,
            FreeStage::Sync => FreeStage::Pause,
            FreeStage::Pause => {
                *offset += freeing::slice_bytes(*bytes);
                FreeStage::Punch
            }
        };
        *offset < *bytes
    }

    /// Whether a file was to be removed by it.
    pub(super) fn is_removal(&self) -> bool {
        matches!(
            self,
            Step::RemoveUnlink { .. } | Step::SyncDirectory { verb: "remove" }
        )
    }

    /// Whether nobody is told how it ends.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Step::Free { .. })
    }

    pub(super) fn verb(&self) -> &'static str {
        match self {
            Step::Read { .. } => "read",
            Step::Write { durably, .. } if durably.is_flushing() => "flush",
            Step::Write { .. } => "write",
            Step::Flush => "flush",
            Step::CreateOpen { .. } => "create",
            Step::CreateAllocate { .. } => "allocation",
            Step::CreateSync => "sync after creation",
            Step::RemoveUnlink { .. } => "removal",
            Step::SyncDirectory { verb } => match *verb {
                "remove" => "directory sync after removal",
                _ => "directory sync after creation",
            },
            Step::Free { .. } => "freeing",
        }
    }

    /// The buffer, for the completion.
    pub(super) fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Step::Read { buf, .. } | Step::Write { buf, .. } => Some(buf),
            _ => None,
        }
    }
}

/// What becomes of an operation after a step.
pub(super) enum Progress {
    /// The same step goes on where it stopped.
    Again,
    Next(Step),
    Done(Result<(), DiskError>),
}
