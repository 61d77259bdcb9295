//! The engines of a core: one for each of its shards, over one lane.
//!
//! ```text
//!   turn:  all take what is durable -> all seal, append -> the lane is pumped -> all apply, read, seal -> pumped again
//! ```
//!
//! So what the shards have to say in a turn leaves as one group, and a flush makes all of it durable. An engine that
//! is alone has its turn as it always had, see [`Engine::step`].
//!
//! Invariant: whoever is asked anything has the lane in hand.

use keelson_storage::ids::{Lsn, ShardId};
use keelson_storage::io::Disk;

use super::shard::{Activity, Engine, EngineError};
use crate::runtime::Clock;

/// The engines of one core.
pub struct Shards<D: Disk> {
    engines: Vec<Engine<D>>,
    /// Which of them has the lane.
    holder: usize,
}

impl<D: Disk> From<Engine<D>> for Shards<D> {
    fn from(alone: Engine<D>) -> Self {
        Self::of(vec![alone])
    }
}

impl<D: Disk> Shards<D> {
    /// Engines of which the first has the lane.
    pub(super) fn of(engines: Vec<Engine<D>>) -> Self {
        assert!(!engines.is_empty(), "a lane is some shard's");
        Self { engines, holder: 0 }
    }

    /// The only engine, out of a core that has no other.
    pub(super) fn into_only(mut self) -> Engine<D> {
        let engine = self.engines.pop().expect("there is at least one");
        assert!(self.engines.is_empty(), "the core has one shard");
        engine
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.engines.len()
    }

    /// The place of a shard among them.
    #[must_use]
    pub fn place_of(&self, shard: ShardId) -> Option<usize> {
        self.engines
            .iter()
            .position(|engine| engine.shard() == shard)
    }

    /// The engine at this place, with the lane in hand.
    pub fn engine(&mut self, place: usize) -> &mut Engine<D> {
        if self.holder != place {
            let from = self.holder;
            let pair = self.engines.get_disjoint_mut([from, place]);
            let [holder, next] = pair.expect("both are places of engines");
            holder.wal.pass_to(&mut next.wal);
            self.holder = place;
        }
        &mut self.engines[place]
    }

    /// All engines, without the lane: for what an engine says of itself.
    pub fn iter(&self) -> impl Iterator<Item = &Engine<D>> {
        self.engines.iter()
    }

    /// Whether everything proposed is durable, applied and answered.
    pub fn are_drained(&mut self) -> bool {
        (0..self.count()).all(|place| self.engine(place).is_drained())
    }

    /// One turn of all: everything that can be done without waiting.
    ///
    /// # Errors
    /// One of them must stop, and so must the others: they have lost their lane.
    pub fn turn(&mut self, clock: &impl Clock) -> Result<Activity, EngineError> {
        if self.engines.len() == 1 {
            return self.engines[0].step(clock);
        }
        self.pump(clock)?;
        for place in 0..self.engines.len() {
            let engine = self.engine(place);
            engine.begin_turn(clock)?;
            engine.note_company();
        }
        for place in 0..self.engines.len() {
            self.engine(place).seal()?;
        }
        self.pump(clock)?;
        let mut all = Activity::default();
        for place in 0..self.engines.len() {
            let engine = self.engine(place);
            let one = engine.end_turn(clock)?;
            engine.note_company();
            all.busy |= one.busy;
            all.wake_at_us = [all.wake_at_us, one.wake_at_us].into_iter().flatten().min();
        }
        let before = self.durable();
        self.pump(clock)?;
        // Something became durable after its shard had looked.
        all.busy |= self.durable() > before;
        let lane = self.engines[self.holder].wal.next_deadline_us();
        all.wake_at_us = [all.wake_at_us, lane].into_iter().flatten().min();
        Ok(all)
    }

    /// What the lane's disk and those of the snapshots keep when the power fails.
    #[cfg(test)]
    pub(super) fn into_disks(mut self) -> (D, Vec<D>) {
        self.engine(0);
        let mut lane = None;
        let disks = self.engines.into_iter().map(|engine| {
            if lane.is_none() {
                lane = Some(engine.wal.into_disk());
            }
            engine.snapshots.into_disk()
        });
        let disks = disks.collect();
        (lane.expect("the first one has the lane"), disks)
    }

    fn pump(&mut self, clock: &impl Clock) -> Result<(), EngineError> {
        let holder = self.holder;
        Ok(self.engines[holder].wal.pump_for_all(clock.now_us())?)
    }

    /// Bytes in the lane that are not durable yet.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.engines[self.holder].wal.pending_bytes()
    }

    fn durable(&self) -> Lsn {
        self.engines[self.holder].wal.durable()
    }
}
