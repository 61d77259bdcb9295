//! The WAL lane of a core, as the engines of its shards pass it from hand to hand.
//!
//! An engine that is the only one of its core always has the lane. Of several, one has it at a time:
//! [`Shards`](super::shards::Shards) moves it before it asks anything of an engine.
//!
//! Invariants:
//! 1. The lane is trimmed only of records that no shard needs.
//! 2. Of several shards none has the lane written by itself: what all of them appended in a turn makes one group.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use keelson_storage::ids::Lsn;
use keelson_storage::io::Disk;
use keelson_storage::wal::{RecordMeta, Wal, WalError};

/// An engine's end of the lane: the lane itself, or the place that is kept for it.
pub(super) struct Lane<D: Disk> {
    held: Option<Box<Held<D>>>,
    place: usize,
}

pub(super) struct Held<D: Disk> {
    wal: Wal<D>,
    /// What each shard needs of it, by place.
    needs: Vec<Need>,
    /// Commands of each shard that wait, and that are in flight, when it last looked.
    company: Vec<Cell<(usize, usize)>>,
    /// What was measured since the first shard asked last, for the others.
    latencies_us: Vec<u32>,
}

/// The last record that a shard does not need any more, and the last one that it appended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) covered: Lsn,
    pub(super) last: Lsn,
}

impl Need {
    fn is_any(self) -> bool {
        self.last > self.covered
    }
}

impl<D: Disk> Lane<D> {
    /// The ends of all engines of a core, the first of which has the lane.
    pub(super) fn ends(wal: Wal<D>, needs: Vec<Need>) -> Vec<Self> {
        let count = needs.len();
        let held = Held {
            wal,
            needs,
            company: vec![Cell::default(); count],
            latencies_us: Vec::new(),
        };
        let mut held = Some(Box::new(held));
        let ends = (0..count).map(|place| Self {
            held: held.take(),
            place,
        });
        ends.collect()
    }

    /// Hands the lane over.
    pub(super) fn pass_to(&mut self, next: &mut Self) {
        assert!(next.held.is_none(), "the lane is in one hand at a time");
        next.held = self.held.take();
    }

    pub(super) fn append(&mut self, meta: &RecordMeta, payload: &[&[u8]]) -> Result<Lsn, WalError> {
        let place = self.place;
        let held = self.held_mut();
        let lsn = held.wal.append(meta, payload)?;
        held.needs[place].last = lsn;
        Ok(lsn)
    }

    /// In an engine's turn: what is durable. Of several, none writes by itself.
    pub(super) fn pump(&mut self, now_us: u64) -> Result<Lsn, WalError> {
        if self.is_shared() {
            return Ok(self.durable());
        }
        self.held_mut().wal.pump(now_us)
    }

    /// This shard has so many commands that wait, and so many in flight.
    pub(super) fn note_company(&self, waiting: usize, in_flight: usize) {
        self.held().company[self.place].set((waiting, in_flight));
    }

    /// Whether waiting commands have company enough to leave, seen from the lane: those of all shards that wait are as many
    /// as those in flight, or nothing is in flight. All shards get the same answer in a turn, so they leave together. A
    /// lane of one shard has no view of its own.
    pub(super) fn has_company(&self) -> bool {
        if !self.is_shared() {
            return true;
        }
        let held = self.held();
        let all = held.company.iter().map(Cell::get);
        let (waiting, in_flight) = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        // A group that cannot commit does not hold the others up: they go when the disk has nothing to do.
        held.wal.in_flight() == 0 || waiting >= in_flight
    }

    /// Between the parts of a turn of several.
    pub(super) fn pump_for_all(&mut self, now_us: u64) -> Result<(), WalError> {
        self.held_mut().wal.pump(now_us)?;
        Ok(())
    }

    /// This shard's snapshot covers its records up to `covered`. Returns how many segments nobody needs any more.
    pub(super) fn trim(&mut self, covered: Lsn) -> u64 {
        let place = self.place;
        let held = self.held_mut();
        held.needs[place].covered = covered;
        let needed = held.needs.iter().filter(|need| need.is_any());
        let covered = needed.map(|need| need.covered).min();
        // Without any need, all that is durable may go.
        held.wal.trim(covered.unwrap_or(Lsn(u64::MAX)))
    }

    /// The last record that this shard appended.
    pub(super) fn last(&self) -> Lsn {
        self.held().needs[self.place].last
    }

    /// Whether this shard keeps anything in the lane.
    pub(super) fn holds_back(&self) -> bool {
        self.held().needs[self.place].is_any()
    }

    pub(super) fn take_latencies_us(&mut self, out: &mut Vec<u32>) {
        let is_shared = self.is_shared();
        let place = self.place;
        let held = self.held_mut();
        if !is_shared {
            return held.wal.take_latencies_us(out);
        }
        if place == 0 {
            held.latencies_us.clear();
            held.wal.take_latencies_us(&mut held.latencies_us);
        }
        out.extend_from_slice(&held.latencies_us);
    }

    /// The disk; the lane must be here.
    #[cfg(test)]
    pub(super) fn into_disk(self) -> D {
        let held = self.held.expect("the lane is in this hand");
        held.wal.into_disk()
    }

    fn is_shared(&self) -> bool {
        self.held().needs.len() > 1
    }

    fn held(&self) -> &Held<D> {
        let held = self.held.as_ref();
        held.expect("an engine works with the lane in hand")
    }

    fn held_mut(&mut self) -> &mut Held<D> {
        let held = self.held.as_mut();
        held.expect("an engine works with the lane in hand")
    }
}

impl<D: Disk> Deref for Lane<D> {
    type Target = Wal<D>;

    fn deref(&self) -> &Wal<D> {
        &self.held().wal
    }
}

impl<D: Disk> DerefMut for Lane<D> {
    fn deref_mut(&mut self) -> &mut Wal<D> {
        &mut self.held_mut().wal
    }
}
