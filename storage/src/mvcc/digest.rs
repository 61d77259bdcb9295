//! A number for a whole state: equal states give equal numbers, in every process and on every
//! machine. Tests and the simulation compare members and replays with it; it is no protection
//! against anyone who chooses the content.

/// Multiplier of the mixing step: the 64-bit golden ratio, odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The running digest.
#[derive(Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(MULTIPLIER)
    }

    /// Mixes in a number.
    pub(crate) fn number(&mut self, number: u64) {
        let mixed = u128::from(self.0 ^ number).wrapping_mul(u128::from(MULTIPLIER));
        self.0 = (mixed as u64 ^ (mixed >> 64) as u64)
            .wrapping_add(MULTIPLIER)
            .rotate_left(23);
    }

    /// Mixes in a signed number.
    pub(crate) fn signed(&mut self, number: i64) {
        self.number(number.cast_unsigned());
    }

    /// Mixes in bytes and how many there are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number((bytes.len() as u64) << 32 | u64::from(crc32c::crc32c(bytes)));
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}
