//! A helper thread that produces much, piece by piece, for a task of a core that takes it piece by piece.
//!
//! ```text
//!   helper thread: Feed::send .. send  --ring-->  core: Fed::next .. next
//!             (waits for room)         <--room--
//! ```
//!
//! Memory is bounded by the pieces ahead. When the task goes away, the next `send` fails, and the thread ends.

use std::io;
use std::sync::mpsc;

use super::blocking::spawn_helper;
use super::core::this_core;
use super::ring::{Inbox, RingSender, ring};

/// Runs `work` on a thread of its own. What it sends comes out of the result, at most `ahead` pieces before they are
/// taken.
///
/// # Errors
/// The system has no thread for it.
pub fn spawn_feeding<T: Send + 'static>(
    ahead: usize,
    work: impl FnOnce(&mut Feed<T>) + Send + 'static,
) -> io::Result<Fed<T>> {
    let core = this_core();
    let (ring, receiver) = ring(ahead, core.link(), core.link());
    let (room, rooms) = mpsc::channel();
    for _ in 0..ahead {
        room.send(()).expect("the receiving end is right here");
    }
    let mut feed = Feed { ring, rooms };
    // It ends by itself when the receiver is gone.
    let _thread = spawn_helper(move || work(&mut feed))?;
    Ok(Fed {
        ring: receiver.attach(),
        room,
    })
}

/// The thread's end.
pub struct Feed<T> {
    ring: RingSender<T>,
    /// One for every place that is free.
    rooms: mpsc::Receiver<()>,
}

/// Nobody wants any more pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl<T: Send + 'static> Feed<T> {
    /// Hands a piece over when there is room for it.
    ///
    /// # Errors
    /// The receiver is gone.
    pub fn send(&mut self, piece: T) -> Result<(), Gone> {
        self.rooms.recv().map_err(|_| Gone)?;
        if self.ring.push(piece).is_err() {
            unreachable!("a room was handed out for a place in the ring");
        }
        self.ring.flush();
        Ok(())
    }
}

/// The core's end.
pub struct Fed<T> {
    ring: Inbox<T>,
    room: mpsc::Sender<()>,
}

impl<T: Send + 'static> Fed<T> {
    /// The next piece; `None` when the thread has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(piece) = self.ring.pop() {
                // A thread that has ended needs no room.
                let _ = self.room.send(());
                return Some(piece);
            }
            if self.ring.is_finished() {
                return None;
            }
            self.ring.ready().await;
        }
    }
}
