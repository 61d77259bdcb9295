//! Frames: what is written to a link in one piece.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_storage::ids::{ClusterId, MemberId, ShardId};

use super::error::FrameError;
use super::item::{self, Item};
use super::reader::Reader;
use crate::limits::{
    APPEND_BYTES_MAX, ENTRY_PAYLOAD_BYTES_MAX, FRAME_BODY_BYTES_FULL, FRAME_BODY_BYTES_MAX,
};

/// Bytes in front of the items.
pub const FRAME_HEADER_BYTES: usize = 56;

const MAGIC: [u8; 4] = *b"KLFR";

/// The checksum covers everything behind itself.
const CHECKED_OFFSET: usize = 8;

const _: () = assert!(
    FRAME_BODY_BYTES_FULL + 2 * ENTRY_PAYLOAD_BYTES_MAX + APPEND_BYTES_MAX as usize
        <= FRAME_BODY_BYTES_MAX
);

/// What every frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Of the protocol, as agreed on when the link was opened; 0 while that is being done.
    pub version: u16,
    /// The sender's cluster; 0 if it does not know yet.
    pub cluster: ClusterId,
    /// Who sends.
    pub from: MemberId,
    /// Who is to receive; 0 if the sender does not know who is there.
    pub to: MemberId,
    /// The frame's place among those the sender wrote to this link, from 1.
    pub sequence: u64,
    /// The last frame that the sender has taken from the other side; 0 for none, or if it does not say.
    pub taken: u64,
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says about itself.
    pub header: FrameHeader,
    /// What is in it, each with its shard.
    pub items: Vec<(ShardId, Item)>,
}

/// Makes a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    out: BytesMut,
}

/// How long the frame is that these bytes begin with; `None` if they do not tell yet.
///
/// # Errors
/// They begin no frame, or one that is too long.
pub fn frame_bytes(begin: &[u8]) -> Result<Option<usize>, FrameError> {
    let magic = &begin[..begin.len().min(MAGIC.len())];
    if *magic != MAGIC[..magic.len()] {
        return Err(FrameError::Magic);
    }
    let Some(mut length) = begin.get(8..12) else {
        return Ok(None);
    };
    let body_bytes = length.get_u32_le();
    if body_bytes as usize > FRAME_BODY_BYTES_MAX {
        return Err(FrameError::TooLong { body_bytes });
    }
    Ok(Some(FRAME_HEADER_BYTES + body_bytes as usize))
}

impl FrameBuilder {
    /// An empty frame. Its header is filled in at the end.
    #[must_use]
    pub fn new() -> Self {
        let mut out = BytesMut::with_capacity(FRAME_HEADER_BYTES + 256);
        out.put_bytes(0, FRAME_HEADER_BYTES);
        Self { out }
    }

    /// Adds an item. One that is far too large is a mistake of whoever made it.
    pub fn push(&mut self, shard: ShardId, item: &Item) {
        let item_bytes = item.encoded_len();
        assert!(
            self.body_bytes() + item_bytes <= FRAME_BODY_BYTES_MAX,
            "a frame has {} bytes and is given {item_bytes} more",
            self.body_bytes()
        );
        self.out.reserve(item_bytes);
        item::encode(shard, item, &mut self.out);
    }

    /// Whether what comes next should go into another frame.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.body_bytes() >= FRAME_BODY_BYTES_FULL
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body_bytes() == 0
    }

    /// The frame as it is sent.
    #[must_use]
    pub fn finish(mut self, header: &FrameHeader) -> Bytes {
        let body_bytes = u32::try_from(self.body_bytes()).expect("a frame is far below 4 GiB");
        let mut head = &mut self.out[..FRAME_HEADER_BYTES];
        head.put_slice(&MAGIC);
        head.put_u32_le(0);
        head.put_u32_le(body_bytes);
        head.put_u16_le(header.version);
        head.put_u16_le(0);
        head.put_u64_le(header.cluster.0);
        head.put_u64_le(header.from.0);
        head.put_u64_le(header.to.0);
        head.put_u64_le(header.sequence);
        head.put_u64_le(header.taken);
        let crc = crc32c::crc32c(&self.out[CHECKED_OFFSET..]);
        self.out[4..CHECKED_OFFSET].copy_from_slice(&crc.to_le_bytes());
        self.out.freeze()
    }

    fn body_bytes(&self) -> usize {
        self.out.len() - FRAME_HEADER_BYTES
    }
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl Frame {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let (header, body) = open(bytes)?;
        let mut rest = Reader(body);
        let mut items = Vec::new();
        while !rest.0.is_empty() {
            items.push(item::decode(&mut rest)?);
        }
        Ok(Self { header, items })
    }

    /// Whether the frame belongs on a link, which was opened with `expected`.
    ///
    /// # Errors
    /// It is of another version, cluster, sender or receiver.
    pub fn check(&self, expected: &FrameHeader) -> Result<(), FrameError> {
        let found = &self.header;
        if found.version != expected.version {
            return Err(FrameError::Version {
                expected: expected.version,
                found: found.version,
            });
        }
        if found.cluster != expected.cluster {
            return Err(FrameError::Cluster {
                expected: expected.cluster,
                found: found.cluster,
            });
        }
        if (found.from, found.to) != (expected.from, expected.to) {
            return Err(FrameError::Members {
                expected_from: expected.from,
                expected_to: expected.to,
                from: found.from,
                to: found.to,
            });
        }
        Ok(())
    }
}

/// Checks a frame; its header and what is behind it.
pub(super) fn open(bytes: Bytes) -> Result<(FrameHeader, Bytes), FrameError> {
    let is_whole = bytes.len() >= FRAME_HEADER_BYTES && frame_bytes(&bytes)? == Some(bytes.len());
    if !is_whole {
        return Err(FrameError::Content("it is not as long as it says"));
    }
    let mut head = Reader(bytes.slice(..FRAME_HEADER_BYTES));
    head.bytes(MAGIC.len())?;
    if head.u32()? != crc32c::crc32c(&bytes[CHECKED_OFFSET..]) {
        return Err(FrameError::Checksum);
    }
    head.u32()?;
    let version = head.u16()?;
    head.zero(2)?;
    let header = FrameHeader {
        version,
        cluster: ClusterId(head.u64()?),
        from: head.member()?,
        to: head.member()?,
        sequence: head.u64()?,
        taken: head.u64()?,
    };
    Ok((header, bytes.slice(FRAME_HEADER_BYTES..)))
}

/// A frame whose body is no items.
pub(super) fn seal(header: &FrameHeader, body: &[u8]) -> Bytes {
    let mut builder = FrameBuilder::new();
    builder.out.put_slice(body);
    builder.finish(header)
}
