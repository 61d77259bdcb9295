//! Values into archives: one buffer and one scratch memory, used for page after page.

use std::fmt;

use rkyv::Serialize;
use rkyv::api::low::{LowSerializer, to_bytes_in_with_alloc};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Writer};

use crate::io::AlignedBuf;
use crate::limits::{SNAPSHOT_BLOCK_BYTES, SNAPSHOT_PAGE_BYTES_DEFAULT, SNAPSHOT_PAGE_BYTES_MAX};

/// Makes archives.
pub(super) struct Encoder {
    buf: AlignedBuf,
    arena: Arena,
}

/// Appends to the encoder's buffer, which an archive fills from its start.
pub(super) struct Appender<'a>(&'a mut AlignedBuf);

/// What rkyv calls the place an archive is written to.
pub(super) type Sink<'a> = LowSerializer<Appender<'a>, ArenaHandle<'a>, Failure>;

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            buf: AlignedBuf::with_capacity(SNAPSHOT_PAGE_BYTES_DEFAULT),
            arena: Arena::new(),
        }
    }

    /// The archive of a value, filled up with zeros to whole blocks, and its length without them.
    pub(super) fn encode<T>(&mut self, value: &T) -> (&[u8], u32)
    where
        T: for<'a> Serialize<Sink<'a>>,
    {
        self.buf.clear();
        to_bytes_in_with_alloc(value, Appender(&mut self.buf), self.arena.acquire())
            .expect("memory takes any archive whose pointers fit, and the largest page is bounded");
        let bytes = self.buf.len();
        assert!(
            bytes <= SNAPSHOT_PAGE_BYTES_MAX,
            "a page has at most {SNAPSHOT_PAGE_BYTES_MAX} bytes: {bytes}"
        );
        self.buf
            .resize(bytes.next_multiple_of(SNAPSHOT_BLOCK_BYTES));
        (self.buf.as_slice(), bytes as u32)
    }
}

impl Positional for Appender<'_> {
    fn pos(&self) -> usize {
        self.0.len()
    }
}

impl Writer<Failure> for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({} bytes)", self.buf.capacity())
    }
}
