//! One operation of the real disk: the chain of ring entries it is made of, and what each of them may answer.

use std::ffi::CString;
use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types};

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
        durable: bool,
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
            Step::Write {
                offset,
                durable,
                buf,
            } => {
                let flags = if *durable && mode == IoMode::Direct {
                    libc::RWF_DSYNC
                } else {
                    0
                };
                let bytes = u32::try_from(buf.len()).expect("one write fits 32 bits");
                opcode::Write::new(file(), buf.as_ptr(), bytes)
                    .offset(*offset)
                    .rw_flags(flags)
                    .build()
            }
            // Nothing is synced, but whoever waits for the flush is woken all the same.
            Step::Flush if mode == IoMode::UnsafeBuffered => opcode::Nop::new().build(),
            Step::Flush => opcode::Fsync::new(file())
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
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

    pub(super) fn verb(&self) -> &'static str {
        match self {
            Step::Read { .. } => "read",
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
