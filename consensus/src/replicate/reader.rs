//! Takes numbers and slices from bytes that may end anywhere.

use bytes::{Buf, Bytes};
use keelson_storage::ids::{MemberId, RaftIndex, Term};

use super::error::FrameError;
use crate::node::Mark;

const SHORT: FrameError = FrameError::Content("it ends too early");

/// The rest of an item.
#[derive(Debug)]
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.0.try_get_u8().map_err(|_| SHORT)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        self.0.try_get_u16_le().map_err(|_| SHORT)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.0.try_get_u32_le().map_err(|_| SHORT)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        self.0.try_get_u64_le().map_err(|_| SHORT)
    }

    pub(super) fn index(&mut self) -> Result<RaftIndex, FrameError> {
        self.u64().map(RaftIndex)
    }

    pub(super) fn mark(&mut self) -> Result<Mark, FrameError> {
        Ok(Mark {
            index: self.index()?,
            term: Term(self.u64()?),
        })
    }

    pub(super) fn member(&mut self) -> Result<MemberId, FrameError> {
        self.u64().map(MemberId)
    }

    /// A slice.
    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, FrameError> {
        if count > self.0.len() {
            return Err(SHORT);
        }
        Ok(self.0.split_to(count))
    }

    /// Whether `count` things of at least `each_bytes` can be in the rest.
    pub(super) fn may_hold(&self, count: usize, each_bytes: usize) -> Result<(), FrameError> {
        if count > self.0.len() / each_bytes {
            return Err(SHORT);
        }
        Ok(())
    }

    pub(super) fn zero(&mut self, count: usize) -> Result<(), FrameError> {
        if self.bytes(count)?.iter().any(|byte| *byte != 0) {
            return Err(FrameError::Content("a reserved byte is set"));
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Content("it is longer than its content"))
        }
    }
}
