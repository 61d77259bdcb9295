//! How long a member misses a leader before it stands for election: different for each member and term, and
//! the same whenever the same seed is.

use keelson_storage::ids::MemberId;

/// A number that depends on all of these (the finalizer of SplitMix64).
pub(super) fn draw(seed: u64, member: MemberId, term: u64, draws: u64) -> u64 {
    let mut mixed = seed;
    for part in [member.0, term, draws] {
        mixed = mix(mixed ^ part);
    }
    mixed
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
