//! Chance from the seed. Everything that happens in a run is drawn here, in the order in which it happens.

/// A seeded source of choices.
#[derive(Debug)]
pub struct Dice(fastrand::Rng);

impl Dice {
    /// The same seed gives the same choices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// From 0 to `sides` - 1; 0 if there are none.
    pub fn below(&mut self, sides: u64) -> u64 {
        match sides {
            0 => 0,
            sides => self.0.u64(0..sides),
        }
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a thousand cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// An index into that many.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    /// A number for somebody else's chance.
    pub fn seed(&mut self) -> u64 {
        self.0.u64(..)
    }
}
