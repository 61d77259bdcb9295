//! The network between members: what is on its way, and what becomes of it.
//!
//! Links carry items in order and once, as connections do, unless the run's options let raft messages overtake each
//! other or come twice: raft must bear both. A link that is cut one way or both loses what is on it. An item for a
//! member that has started anew since it was sent is lost with its connection. Everything goes through the bytes of a
//! frame.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use keelson_consensus::replicate::{Frame, FrameBuilder, FrameHeader, Item};
use keelson_storage::ids::{ClusterId, MemberId};

use crate::company::shard_at;
use crate::dice::Dice;

/// The version of the frames.
const VERSION: u16 = keelson_consensus::replicate::VERSION_MAX;

/// How the network behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// The shortest time on the way, in microseconds.
    pub delay_us: u64,
    /// What may be added to it.
    pub jitter_us: u64,
    /// Items lost, in a thousand.
    pub loss_permille: u64,
    /// Raft messages that come twice, in a thousand.
    pub repeat_permille: u64,
    /// Whether raft messages overtake each other.
    pub reorders: bool,
}

/// An item that arrives.
#[derive(Debug)]
pub struct Arrival {
    /// Who sent it.
    pub from: MemberId,
    /// For whom.
    pub to: MemberId,
    /// For which of its shards, by place.
    pub shard: usize,
    /// Which start of the receiver it was sent to.
    pub start: u64,
    /// What it is.
    pub item: Item,
}

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Going,
    /// It is on its way twice.
    Twice,
    /// It is lost, and the link noticed.
    Lost,
}

/// The network.
#[derive(Debug, Default)]
pub struct Wire {
    weather: Weather,
    flying: BinaryHeap<Reverse<(u64, u64)>>,
    items: BTreeMap<u64, Arrival>,
    next: u64,
    cut: BTreeSet<(MemberId, MemberId)>,
    /// When the last item of a link arrives.
    last_us: BTreeMap<(MemberId, MemberId), u64>,
}

impl Wire {
    /// From now on it behaves so.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Nothing gets from one to the other any more.
    pub fn cut(&mut self, from: MemberId, to: MemberId) {
        self.cut.insert((from, to));
    }

    /// Everything gets through again.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// Whether one of two members does not hear the other.
    #[must_use]
    pub fn is_cut_between(&self, one: MemberId, other: MemberId) -> bool {
        self.cut.contains(&(one, other)) || self.cut.contains(&(other, one))
    }

    /// When the next item arrives.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        self.flying.peek().map(|Reverse((at_us, _))| *at_us)
    }

    /// Sends an item.
    pub fn send(&mut self, now_us: u64, arrival: Arrival, dice: &mut Dice) -> Sent {
        let link = (arrival.from, arrival.to);
        if self.cut.contains(&link) || dice.chance(self.weather.loss_permille) {
            return Sent::Lost;
        }
        let arrival = Arrival {
            item: through_bytes(&arrival),
            ..arrival
        };
        let is_raft = matches!(arrival.item, Item::Raft(_));
        let comes_twice = is_raft && dice.chance(self.weather.repeat_permille);
        if comes_twice {
            let again = Arrival {
                item: arrival.item.clone(),
                ..arrival
            };
            self.put(now_us, again, is_raft, dice);
        }
        self.put(now_us, arrival, is_raft, dice);
        if comes_twice {
            Sent::Twice
        } else {
            Sent::Going
        }
    }

    fn put(&mut self, now_us: u64, arrival: Arrival, is_raft: bool, dice: &mut Dice) {
        let Weather {
            delay_us,
            jitter_us,
            reorders,
            ..
        } = self.weather;
        let mut at_us = now_us + delay_us + dice.below(jitter_us + 1);
        if !(reorders && is_raft) {
            let last_us = self.last_us.entry((arrival.from, arrival.to)).or_default();
            at_us = at_us.max(*last_us);
            *last_us = at_us;
        }
        self.flying.push(Reverse((at_us, self.next)));
        self.items.insert(self.next, arrival);
        self.next += 1;
    }

    /// The next item that has arrived by now.
    pub fn take(&mut self, now_us: u64) -> Option<Arrival> {
        loop {
            let Reverse((at_us, number)) = *self.flying.peek()?;
            if at_us > now_us {
                return None;
            }
            self.flying.pop();
            let arrival = self.items.remove(&number);
            let arrival = arrival.expect("what flies is there");
            if !self.cut.contains(&(arrival.from, arrival.to)) {
                return Some(arrival);
            }
        }
    }
}

/// An item is the same when it has been through a frame.
fn through_bytes(arrival: &Arrival) -> Item {
    let Arrival {
        from, to, ref item, ..
    } = *arrival;
    let shard = shard_at(arrival.shard);
    let header = FrameHeader {
        version: VERSION,
        cluster: ClusterId(1),
        from,
        to,
        sequence: 1,
        taken: 0,
    };
    let mut builder = FrameBuilder::new();
    builder.push(shard, item);
    let frame = Frame::decode(builder.finish(&header)).expect("it was just made");
    let mut items = frame.items.into_iter();
    let (named, same) = items.next().expect("one item went in");
    assert_eq!(
        (named, &same),
        (shard, item),
        "a frame holds what was put into it"
    );
    same
}
