//! One version of one key as the sorter carries it.
//!
//! ```text
//!   revision i64 | create revision i64 | version i64 | lease i64 | sub u32 | tombstone u8 | key bytes u32 | key | value
//! ```
//!
//! Little-endian. The key is left out, with a length of 0, where it is what is sorted by.

use crate::ids::{LeaseId, Revision};

const HEAD_BYTES: usize = 41;

/// A version, with borrowed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub revision: Revision,
    pub sub: u32,
    /// 0 for a tombstone, as all that follows but the key.
    pub create_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
    pub tombstone: bool,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Row<'a> {
    /// Everything but key and value, which follow it.
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let numbers = [
            self.revision.0,
            self.create_revision.0,
            self.version,
            self.lease.0,
        ];
        for (place, number) in head.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let key_bytes = u32::try_from(self.key.len()).expect("a key is part of a request");
        head[32..36].copy_from_slice(&self.sub.to_le_bytes());
        head[36] = u8::from(self.tombstone);
        head[37..].copy_from_slice(&key_bytes.to_le_bytes());
        head
    }

    /// Takes apart what was put together: head, key, value. The sorter hands out what it was given.
    pub fn decode(bytes: &'a [u8]) -> Self {
        let (head, rest) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .expect("a row begins with its head");
        let number = |at: usize| {
            let (bytes, _) = head[at..].split_first_chunk().expect("the head has it");
            i64::from_le_bytes(*bytes)
        };
        let short = |at: usize| {
            let (bytes, _) = head[at..].split_first_chunk().expect("the head has it");
            u32::from_le_bytes(*bytes)
        };
        let (key, value) = rest.split_at(short(37) as usize);
        Self {
            revision: Revision(number(0)),
            create_revision: Revision(number(8)),
            version: number(16),
            lease: LeaseId(number(24)),
            sub: short(32),
            tombstone: head[36] != 0,
            key,
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was() {
        let row = Row {
            revision: Revision(i64::MAX),
            sub: u32::MAX,
            create_revision: Revision(7),
            version: 300,
            lease: LeaseId(-5),
            tombstone: true,
            key: b"key",
            value: b"",
        };
        let value = Row {
            tombstone: false,
            key: b"",
            value: b"value",
            ..row
        };
        for row in [row, value, Row::default()] {
            let bytes = [&row.head()[..], row.key, row.value].concat();
            assert_eq!(Row::decode(&bytes), row);
        }
    }
}
