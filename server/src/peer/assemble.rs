//! Frames out of a stream of bytes. Each gets memory of its own, exactly as long: entries that are kept hold it.

use bytes::{Buf, Bytes, BytesMut};
use keelson_consensus::replicate::{FRAME_HEADER_BYTES, FrameError, frame_bytes};

/// The frame that is arriving.
pub(super) struct Assembler {
    partial: BytesMut,
    /// The longest frame that may come now.
    bytes_max: usize,
}

impl Assembler {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            partial: BytesMut::new(),
            bytes_max,
        }
    }

    /// Takes from `input` what belongs to the next frame; the frame, once it is whole.
    ///
    /// # Errors
    /// What comes is no frame, or one that is too long. Known with the first byte that shows it.
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FrameError> {
        loop {
            let known = frame_bytes(&self.partial)?;
            let wanted = known.unwrap_or(FRAME_HEADER_BYTES);
            if wanted > self.bytes_max {
                return Err(FrameError::Content("it is longer than it may be here"));
            }
            if known == Some(self.partial.len()) {
                return Ok(Some(std::mem::take(&mut self.partial).freeze()));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let count = input.len().min(wanted - self.partial.len());
            self.partial.reserve(wanted - self.partial.len());
            self.partial.extend_from_slice(&input[..count]);
            input.advance(count);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keelson_consensus::replicate::{FrameBuilder, FrameHeader, Item};
    use keelson_storage::ids::{ClusterId, MemberId, ShardId};

    fn frame(sequence: u64, body_bytes: usize) -> Bytes {
        let mut builder = FrameBuilder::new();
        if body_bytes > 0 {
            let body = Bytes::from(vec![7; body_bytes]);
            builder.push(ShardId(1), &Item::Server { kind: 64, body });
        }
        builder.finish(&FrameHeader {
            version: 1,
            cluster: ClusterId(1),
            from: MemberId(1),
            to: MemberId(2),
            sequence,
            taken: 0,
        })
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let frames: Vec<Bytes> = [0, 1, 100, 5000, 0, 3]
            .iter()
            .enumerate()
            .map(|(at, &bytes)| frame(at as u64, bytes))
            .collect();
        let stream: Vec<u8> = frames.concat();
        for piece_bytes in [1, 7, 56, 57, 1000, stream.len()] {
            let mut assembler = Assembler::new(10_000);
            let mut seen = Vec::new();
            for mut piece in stream.chunks(piece_bytes) {
                while let Some(frame) = assembler.feed(&mut piece).unwrap() {
                    seen.push(frame);
                }
                assert!(piece.is_empty());
            }
            assert_eq!(seen, frames, "in pieces of {piece_bytes}");
        }
    }

    #[test]
    fn garbage_and_giants_are_known_early() {
        let mut assembler = Assembler::new(1000);
        assert_eq!(
            assembler.feed(&mut &b"x"[..]).unwrap_err(),
            FrameError::Magic
        );
        let long = frame(1, 2000);
        let mut assembler = Assembler::new(1000);
        assert!(assembler.feed(&mut &long[..12]).unwrap_err() != FrameError::Magic);
        let mut assembler = Assembler::new(10_000);
        assert_eq!(assembler.feed(&mut &long[..12]), Ok(None));
        assert_eq!(assembler.feed(&mut &long[12..]), Ok(Some(long.clone())));
    }
}
