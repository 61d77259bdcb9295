//! Whole groups in one thread: members with disks that lose what was not reported durable, a network that
//! loses, delays, repeats and cuts one way, changes of the membership, hand-overs, snapshots. One seed decides
//! everything.
//!
//! Checked as it goes: one leader a term; logs that agree about an entry agree about all before; a new
//! leader has everything committed; members apply the same at the same index; what is applied is durable on
//! a majority; no message leaves before its sender's disk has what it says; reads see what was acknowledged
//! before they were asked. And when the faults end, everything moves again.

mod disk;
mod machine;
mod member;
mod scenarios;
mod truth;
mod world;

/// Chance, from the seed.
#[derive(Clone, Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        super::timeout::draw(self.0, keelson_storage::ids::MemberId(0), 0, 0)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True this often in a thousand.
    fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}
