//! What waits to be written to a member: items of this round, and frames of the rounds before.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use keelson_consensus::replicate::{FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, Item};
use keelson_storage::ids::ShardId;

use super::limits::{FRAMES_PER_WRITE_MAX, WRITE_BYTES_PER_TURN};

/// Bounded by bytes, and empty while there is no link.
pub(super) struct Outbox {
    bytes_max: usize,
    /// What the frames of the open link say; `None` without one. The sequence number is the last one given.
    header: Option<FrameHeader>,
    round: FrameBuilder,
    round_bytes: usize,
    frames: VecDeque<Bytes>,
    frame_bytes: usize,
    /// Bytes of the first frame that are written.
    written: usize,
}

/// Why an item is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    NoLink,
    Full,
}

impl Outbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            header: None,
            round: FrameBuilder::new(),
            round_bytes: 0,
            frames: VecDeque::new(),
            frame_bytes: 0,
            written: 0,
        }
    }

    /// A link is there, whose frames begin like this.
    pub(super) fn open(&mut self, header: FrameHeader) {
        *self = Self::new(self.bytes_max);
        self.header = Some(header);
    }

    /// It is gone, and what waited for it.
    pub(super) fn close(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Adds an item to this round. An outbox that is not full takes an item of any size.
    pub(super) fn push(&mut self, shard: ShardId, item: &Item) -> Result<(), Dropped> {
        if self.header.is_none() {
            return Err(Dropped::NoLink);
        }
        if self.bytes() >= self.bytes_max {
            return Err(Dropped::Full);
        }
        self.round_bytes += item.encoded_len();
        self.round.push(shard, item);
        if self.round.is_full() {
            self.seal();
        }
        Ok(())
    }

    /// Ends the round; whether there is anything to write.
    pub(super) fn flush(&mut self) -> bool {
        if !self.round.is_empty() {
            self.seal();
        }
        self.has_frames()
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.round_bytes + self.frame_bytes - self.written
    }

    /// What to write next.
    pub(super) fn slices(&self) -> ([IoSlice<'_>; FRAMES_PER_WRITE_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE_MAX];
        let mut bytes = 0;
        let mut count = 0;
        for frame in self.frames.iter().take(FRAMES_PER_WRITE_MAX) {
            if bytes >= WRITE_BYTES_PER_TURN {
                break;
            }
            let from = if count == 0 { self.written } else { 0 };
            slices[count] = IoSlice::new(&frame[from..]);
            bytes += frame.len() - from;
            count += 1;
        }
        (slices, count)
    }

    /// So many bytes of the slices are written; the number of frames that are now written whole.
    pub(super) fn on_written(&mut self, count: usize) -> u64 {
        let mut whole = 0;
        self.written += count;
        while let Some(first) = self.frames.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            self.frame_bytes -= first.len();
            self.frames.pop_front();
            whole += 1;
        }
        assert!(
            self.written == 0 || self.has_frames(),
            "more was written than there was: {} bytes",
            self.written
        );
        whole
    }

    fn seal(&mut self) {
        let header = self.header.as_mut().expect("a round begins on a link");
        header.sequence += 1;
        let frame = std::mem::take(&mut self.round).finish(header);
        assert_eq!(
            frame.len(),
            FRAME_HEADER_BYTES + self.round_bytes,
            "an item is as long as it says"
        );
        self.round_bytes = 0;
        self.frame_bytes += frame.len();
        self.frames.push_back(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_consensus::replicate::Frame;
    use keelson_storage::ids::{ClusterId, MemberId};

    fn item(body_bytes: usize) -> Item {
        Item::Server {
            kind: 64,
            body: Bytes::from(vec![1; body_bytes]),
        }
    }

    fn opened(bytes_max: usize) -> Outbox {
        let mut outbox = Outbox::new(bytes_max);
        assert_eq!(outbox.push(ShardId(1), &item(1)), Err(Dropped::NoLink));
        outbox.open(FrameHeader {
            version: 1,
            cluster: ClusterId(1),
            from: MemberId(1),
            to: MemberId(2),
            sequence: 0,
            taken: 0,
        });
        outbox
    }

    #[test]
    fn a_round_is_a_frame_and_a_large_one_several() {
        let mut outbox = opened(64 << 20);
        assert!(!outbox.flush());
        outbox.push(ShardId(1), &item(10)).expect("there is room");
        outbox.push(ShardId(2), &item(10)).expect("there is room");
        assert!(outbox.flush());
        for _ in 0..9 {
            outbox.push(ShardId(1), &item(1 << 20)).expect("room");
        }
        assert!(outbox.flush());
        let counts: Vec<(u64, usize)> = outbox
            .frames
            .iter()
            .map(|bytes| {
                let frame = Frame::decode(bytes.clone()).expect("it was just made");
                (frame.header.sequence, frame.items.len())
            })
            .collect();
        assert_eq!(counts, [(1, 2), (2, 4), (3, 4), (4, 1)]);
        // Written in odd pieces, what is left stays right.
        let mut written = 0;
        while outbox.has_frames() {
            let (slices, count) = outbox.slices();
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            written += offered.min(100_003);
            outbox.on_written(offered.min(100_003));
        }
        assert!(written > 9 << 20);
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_full_outbox_takes_nothing_until_something_is_written() {
        let mut outbox = opened(1000);
        outbox.push(ShardId(1), &item(5000)).expect("it was empty");
        assert_eq!(outbox.push(ShardId(1), &item(1)), Err(Dropped::Full));
        outbox.flush();
        let bytes = outbox.bytes();
        outbox.on_written(bytes - 10);
        assert_eq!(outbox.bytes(), 10);
        outbox.push(ShardId(1), &item(1)).expect("there is room");
        outbox.close();
        assert_eq!(outbox.bytes(), 0);
    }
}
