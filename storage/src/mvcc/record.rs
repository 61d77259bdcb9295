//! One version of one key.
//!
//! The store hands a [`Record`] out as `Arc<Record>`: the key's history, the change log, running
//! selects and the watch fan-out all share the same allocation. Its bytes are one buffer of the exact
//! size, holding the marshalled `mvccpb.KeyValue`; a request's own buffer is never kept, because a
//! slice of it would pin the whole network frame.
//!
//! A version that only the snapshot file holds becomes a *cold* record when somebody asks for it: all
//! but its value is here, and the value is read from [`Record::place`] before the record is answered.
//! Histories and the change log hold no cold records.
//!
//! Invariants:
//! 1. `encoded` of a put is byte for byte what etcd marshals: fields in number order, zero fields
//!    left out. A tombstone's holds the key and the mod revision, which is a DELETE event's `kv`.
//!    A cold record's lacks the value.
//! 2. A record never changes after it was built.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use keelson_proto::mvccpb::KeyValue;

use crate::ids::{LeaseId, Revision};
use crate::snapshot::{Snapshot, ValuePlace, VersionRef};

/// Field tags of `mvccpb.KeyValue`.
const TAG_KEY: u8 = 0x0a;
const TAG_CREATE_REVISION: u8 = 0x10;
const TAG_MOD_REVISION: u8 = 0x18;
const TAG_VERSION: u8 = 0x20;
const TAG_VALUE: u8 = 0x2a;
const TAG_LEASE: u8 = 0x30;

/// What a version counts beside its key and value where the size of the database is told: its metadata
/// in memory and in the snapshot file, roughly.
const VERSION_BYTES: u64 = 128;

/// Stands for a value that is not in memory. No other value has its address.
static ABSENT: [u8; 1] = [0];

/// One version of one key: a put, or the tombstone that a delete left.
#[derive(Debug)]
pub struct Record {
    encoded: Bytes,
    /// The main revision that wrote this version (`mod_revision`).
    pub revision: Revision,
    /// The main revision that created the key; zero for a tombstone.
    pub create_revision: Revision,
    /// How many puts the key has seen since its creation; zero for a tombstone.
    pub version: i64,
    /// The lease the key is attached to; zero for none and for a tombstone.
    pub lease: LeaseId,
    /// Ordinal of this change within its revision, from 0.
    pub sub: u32,
    key_bytes: u32,
    value_offset: u32,
    value_bytes: u32,
    /// Whether this version is a deletion.
    pub tombstone: bool,
    /// Whether the live version it replaced is in a layer below its own: see `scrub`. It depends on when checkpoints
    /// were made and not on the history alone, so no answer may depend on it.
    pub(crate) replaces_below: bool,
    /// Where the value is, for a cold record.
    cold: Option<Box<Cold>>,
}

/// What a cold record needs to become whole.
#[derive(Debug)]
struct Cold {
    place: ValuePlace,
    /// Keeps the file.
    snapshot: Arc<Snapshot>,
}

impl Record {
    /// The version a put writes.
    pub(crate) fn put(
        key: &[u8],
        value: &[u8],
        at: (Revision, u32),
        create_revision: Revision,
        version: i64,
        lease: LeaseId,
    ) -> Self {
        let (revision, sub) = at;
        let length = bytes_field_len(key.len())
            + int_field_len(create_revision.0)
            + int_field_len(revision.0)
            + int_field_len(version)
            + bytes_field_len(value.len())
            + int_field_len(lease.0);
        let mut out = Vec::with_capacity(length);
        put_bytes_field(&mut out, TAG_KEY, key);
        put_int_field(&mut out, TAG_CREATE_REVISION, create_revision.0);
        put_int_field(&mut out, TAG_MOD_REVISION, revision.0);
        put_int_field(&mut out, TAG_VERSION, version);
        put_bytes_field(&mut out, TAG_VALUE, value);
        let value_offset = out.len() - value.len();
        put_int_field(&mut out, TAG_LEASE, lease.0);
        assert_eq!(
            out.len(),
            length,
            "the encoded length is computed before the bytes are written"
        );
        Self {
            encoded: Bytes::from(out),
            revision,
            create_revision,
            version,
            lease,
            sub,
            key_bytes: narrow(key.len()),
            value_offset: narrow(value_offset),
            value_bytes: narrow(value.len()),
            tombstone: false,
            replaces_below: false,
            cold: None,
        }
    }

    /// A version of the snapshot file; cold if it has a value.
    pub(crate) fn stored(snapshot: &Arc<Snapshot>, at: VersionRef) -> Self {
        let version = snapshot.version(at);
        let mut key = Vec::new();
        snapshot.append_key(snapshot.key_of(at), &mut key);
        let position = (version.revision, version.sub);
        if version.tombstone {
            return Self::tombstone(&key, position);
        }
        let mut record = Self::put(
            &key,
            &[],
            position,
            version.create_revision,
            version.version,
            version.lease,
        );
        record.value_bytes = version.value_bytes;
        record.cold = version.place.map(|place| {
            Box::new(Cold {
                place,
                snapshot: Arc::clone(snapshot),
            })
        });
        record
    }

    /// The whole of a cold record.
    #[must_use]
    pub fn with_value(&self, value: &[u8]) -> Self {
        assert_eq!(
            value.len(),
            self.value_bytes as usize,
            "a value is as long as its version says"
        );
        Self::put(
            self.key(),
            value,
            self.position(),
            self.create_revision,
            self.version,
            self.lease,
        )
    }

    /// Whether it is the same version of the same key.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.position() == other.position()
    }

    /// Where the value must be read before the record is answered; `None` if it is here.
    #[must_use]
    pub fn place(&self) -> Option<&ValuePlace> {
        self.cold.as_ref().map(|cold| &cold.place)
    }

    /// The snapshot whose file holds the value of a cold record.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.cold.as_ref().map(|cold| &cold.snapshot)
    }

    /// The version a delete writes.
    pub(crate) fn tombstone(key: &[u8], at: (Revision, u32)) -> Self {
        let (revision, sub) = at;
        let mut out = Vec::with_capacity(bytes_field_len(key.len()) + int_field_len(revision.0));
        put_bytes_field(&mut out, TAG_KEY, key);
        put_int_field(&mut out, TAG_MOD_REVISION, revision.0);
        let end = narrow(out.len());
        Self {
            encoded: Bytes::from(out),
            revision,
            create_revision: Revision(0),
            version: 0,
            lease: LeaseId(0),
            sub,
            key_bytes: narrow(key.len()),
            value_offset: end,
            value_bytes: 0,
            tombstone: true,
            replaces_below: false,
            cold: None,
        }
    }

    /// The same; the live version it replaced is in a layer below its own, or is not.
    pub(crate) fn replacing_below(mut self, replaces_below: bool) -> Self {
        self.replaces_below = replaces_below;
        self
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.encoded[self.key_span()]
    }

    /// The key as a slice of the record's own buffer.
    #[must_use]
    pub fn key_bytes(&self) -> Bytes {
        self.encoded.slice(self.key_span())
    }

    /// The value of a record that is not cold; empty for a tombstone.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.assert_warm();
        &self.encoded[self.value_span()]
    }

    /// The marshalled `mvccpb.KeyValue` of a record that is not cold.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        self.assert_warm();
        &self.encoded
    }

    /// Bytes of the marshalled `mvccpb.KeyValue`, also of a cold record.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self.cold {
            None => self.encoded.len(),
            Some(_) => self.encoded.len() + bytes_field_len(self.value_bytes as usize),
        }
    }

    /// The message form; key and value are slices of the record's buffer. A cold record's value
    /// [`is_absent`] and has to be filled in.
    #[must_use]
    pub fn key_value(&self) -> KeyValue {
        let value = match self.cold {
            None => self.encoded.slice(self.value_span()),
            Some(_) => Bytes::from_static(&ABSENT),
        };
        KeyValue {
            value,
            ..self.key_value_keys_only()
        }
    }

    /// The same, and the record itself is added to `cold` if the value has to be filled in.
    pub(crate) fn key_value_or_cold(self: &Arc<Self>, cold: &mut Vec<Arc<Self>>) -> KeyValue {
        if self.cold.is_some() {
            cold.push(Arc::clone(self));
        }
        self.key_value()
    }

    /// The message form without the value, as `keys_only` answers it.
    #[must_use]
    pub fn key_value_keys_only(&self) -> KeyValue {
        KeyValue {
            key: self.key_bytes(),
            create_revision: self.create_revision.0,
            mod_revision: self.revision.0,
            version: self.version,
            value: Bytes::new(),
            lease: self.lease.0,
        }
    }

    /// Bytes that [`Record::encode_keys_only`] writes.
    #[must_use]
    pub fn encoded_keys_only_len(&self) -> usize {
        if self.cold.is_some() {
            return self.encoded.len();
        }
        let value = self.value_span();
        self.encoded.len() - (value.end - self.value_field_start())
    }

    /// Appends the marshalled `mvccpb.KeyValue` without its value.
    pub fn encode_keys_only(&self, out: &mut impl BufMut) {
        if self.cold.is_some() {
            return out.put_slice(&self.encoded);
        }
        out.put_slice(&self.encoded[..self.value_field_start()]);
        out.put_slice(&self.encoded[self.value_span().end..]);
    }

    /// What etcd stores for this version and hashes: like `encoded`, but a tombstone is the key alone.
    pub(crate) fn stored_bytes(&self) -> &[u8] {
        self.assert_warm();
        if self.tombstone {
            &self.encoded[..self.key_span().end]
        } else {
            &self.encoded
        }
    }

    /// Position in the total order of changes.
    pub(crate) fn position(&self) -> (Revision, u32) {
        (self.revision, self.sub)
    }

    /// What this version adds to the size of the database, which the quota is compared with.
    pub(crate) fn footprint_bytes(&self) -> u64 {
        footprint_bytes(u64::from(self.key_bytes) + u64::from(self.value_bytes), 1)
    }

    fn assert_warm(&self) {
        assert!(
            self.cold.is_none(),
            "the value of a cold record is read before it is used"
        );
    }

    fn key_span(&self) -> std::ops::Range<usize> {
        let length = self.key_bytes as usize;
        let start = bytes_field_len(length) - length;
        start..start + length
    }

    fn value_span(&self) -> std::ops::Range<usize> {
        let start = self.value_offset as usize;
        start..start + self.value_bytes as usize
    }

    /// Where the value's tag stands; the value's own offset when there is no value field.
    fn value_field_start(&self) -> usize {
        let length = self.value_bytes as usize;
        self.value_offset as usize - (bytes_field_len(length) - length)
    }
}

/// What `count` versions with `data_bytes` of keys and values add to the size of the database.
pub(crate) fn footprint_bytes(data_bytes: u64, count: u64) -> u64 {
    data_bytes + count * VERSION_BYTES
}

/// Whether this stands for the value of a cold record.
#[must_use]
pub fn is_absent(value: &Bytes) -> bool {
    std::ptr::eq(value.as_ptr(), ABSENT.as_ptr())
}

/// Bytes of a length-delimited field; none when it is empty, as proto3 leaves it out.
fn bytes_field_len(length: usize) -> usize {
    if length == 0 {
        0
    } else {
        1 + varint_len(length as u64) + length
    }
}

/// Bytes of a 64-bit integer field; none when it is zero.
fn int_field_len(value: i64) -> usize {
    if value == 0 {
        0
    } else {
        1 + varint_len(value.cast_unsigned())
    }
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_int_field(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        put_varint(out, value.cast_unsigned());
    }
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("a command body is shorter than 4 GiB, so are its parts")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        /// Our marshalling is prost's (and so etcd's), with and without the value.
        #[test]
        fn encoded_is_the_protobuf_form(
            key in proptest::collection::vec(any::<u8>(), 0..200),
            value in proptest::collection::vec(any::<u8>(), 0..400),
            revision in 0i64..,
            create in any::<i64>(),
            version in any::<i64>(),
            lease in any::<i64>(),
        ) {
            let at = (Revision(revision), 3);
            let record = Record::put(&key, &value, at, Revision(create), version, LeaseId(lease));
            let message = record.key_value();
            prop_assert_eq!(record.key(), &key[..]);
            prop_assert_eq!(record.value(), &value[..]);
            prop_assert_eq!(&message.encode_to_vec()[..], &record.encoded()[..]);
            prop_assert_eq!(&KeyValue::decode(record.encoded().clone()).unwrap(), &message);

            let keys_only = record.key_value_keys_only();
            let mut out = Vec::new();
            record.encode_keys_only(&mut out);
            prop_assert_eq!(out.len(), record.encoded_keys_only_len());
            prop_assert_eq!(&keys_only.encode_to_vec(), &out);
            prop_assert_eq!(keys_only, KeyValue { value: Bytes::new(), ..message });
        }

        #[test]
        fn a_tombstone_is_key_and_mod_revision(
            key in proptest::collection::vec(any::<u8>(), 0..200),
            revision in 0i64..,
        ) {
            let record = Record::tombstone(&key, (Revision(revision), 0));
            let event = KeyValue {
                key: Bytes::copy_from_slice(&key),
                mod_revision: revision,
                ..KeyValue::default()
            };
            prop_assert_eq!(&event.encode_to_vec()[..], &record.encoded()[..]);
            prop_assert_eq!(&record.key_value(), &event);
            let stored = KeyValue { mod_revision: 0, ..event };
            prop_assert_eq!(&stored.encode_to_vec()[..], record.stored_bytes());
        }
    }
}
