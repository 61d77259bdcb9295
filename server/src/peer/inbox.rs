//! What came from other members and was not taken yet.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use keelson_consensus::replicate::Item;
use keelson_storage::ids::{MemberId, ShardId};

use crate::runtime::LocalEvent;

/// Something about another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It said something to a shard.
    Item {
        /// Who.
        from: MemberId,
        /// To which shard.
        shard: ShardId,
        /// What.
        item: Item,
    },
    /// Something that was sent to it may never arrive: its link broke, or its queue was full.
    Unreachable(MemberId),
    /// A link to it is open, again or for the first time.
    Reachable(MemberId),
}

/// Bounded by bytes: whoever fills it asks [`Inbox::is_full`] before it reads.
pub(super) struct Inbox {
    bytes_max: usize,
    bytes: Cell<usize>,
    /// Each with the bytes of the frame that ends with it.
    items: RefCell<VecDeque<(Heard, usize)>>,
    pub(super) event: LocalEvent,
}

impl Inbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: Cell::new(0),
            items: RefCell::default(),
            event: LocalEvent::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.get() >= self.bytes_max
    }

    /// Takes over the items of a frame that was so long.
    pub(super) fn put(&self, from: MemberId, items: Vec<(ShardId, Item)>, frame_bytes: usize) {
        let last = items.len().wrapping_sub(1);
        let mut waiting = self.items.borrow_mut();
        for (at, (shard, item)) in items.into_iter().enumerate() {
            let bytes = if at == last { frame_bytes } else { 0 };
            self.bytes.set(self.bytes.get() + bytes);
            waiting.push_back((Heard::Item { from, shard, item }, bytes));
        }
        drop(waiting);
        self.event.notify();
    }

    /// The oldest item; and whether there is room again, since just now.
    pub(super) fn take(&self) -> Option<(Heard, bool)> {
        let (heard, bytes) = self.items.borrow_mut().pop_front()?;
        let was_full = self.is_full();
        self.bytes.set(self.bytes.get() - bytes);
        Some((heard, was_full && !self.is_full()))
    }
}
