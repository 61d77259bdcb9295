//! How much may be on its way to a member: so many bytes, written to a link and not yet taken by the other
//! side's engine.
//!
//! Raft bounds its entries in messages; this bounds everything else too, and keeps a slow member from filling
//! both sides' buffers. A link that breaks takes what was on its way with it.

use std::collections::VecDeque;

/// Frames on their way.
#[derive(Debug)]
pub struct Window {
    bytes_max: usize,
    bytes: usize,
    frames: VecDeque<(u64, usize)>,
    sequence: u64,
}

impl Window {
    /// A link that was just opened.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            frames: VecDeque::new(),
            sequence: 0,
        }
    }

    /// Whether another frame may be written, of whatever length: a window that is open lets the largest
    /// frame through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.bytes < self.bytes_max
    }

    /// Bytes on their way.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A frame is written; the sequence number that it gets.
    pub fn on_sending(&mut self, frame_bytes: usize) -> u64 {
        self.sequence += 1;
        self.bytes += frame_bytes;
        self.frames.push_back((self.sequence, frame_bytes));
        self.sequence
    }

    /// The other side has taken this frame and all before it. False if it was never sent.
    #[must_use]
    pub fn on_taken(&mut self, sequence: u64) -> bool {
        while let Some((first, frame_bytes)) = self.frames.front().copied()
            && first <= sequence
        {
            self.bytes -= frame_bytes;
            self.frames.pop_front();
        }
        sequence <= self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_are_on_their_way_and_one_frame_more() {
        let mut window = Window::new(100);
        assert_eq!(window.on_sending(60), 1);
        assert!(window.is_open());
        assert_eq!(window.on_sending(1000), 2);
        assert!(!window.is_open());
        assert!(window.on_taken(1));
        assert_eq!(window.bytes(), 1000);
        assert!(!window.is_open());
        // Said again, and again.
        assert!(window.on_taken(0));
        assert!(window.on_taken(2));
        assert!(window.on_taken(2));
        assert!(window.is_open());
        assert_eq!(window.bytes(), 0);
        assert!(!window.on_taken(3));
    }
}
