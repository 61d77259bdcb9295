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
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}
