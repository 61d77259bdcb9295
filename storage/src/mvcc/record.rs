//! One version of one key.
//!
//! A [`Record`] is a handle: the key's history, the change log, running selects and the watch fan-out all hold the
//! same version. What a handle leads to ([`Version`]) and the version's bytes lie in one piece, in the [`Slab`] of the
//! layer that it was written to or, for what is put together to answer somebody, on the heap. The bytes are copied
//! from the request: a slice of its buffer would pin the whole network frame.
//!
//! A version that only the snapshot file holds becomes a *cold* record when somebody asks for it: all
//! but its value is here, and the value is read from [`Record::place`] before the record is answered.
//! Histories and the change log hold no cold records.
//!
//! Invariants:
//! 1. `encoded` of a put is byte for byte what etcd marshals: fields in number order, zero fields
//!    left out. A tombstone's holds the key and the mod revision, which is a DELETE event's `kv`.
//!    A cold record's lacks the value.
//! 2. A version never changes after it was built, but for the mark that its history has let it go.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, Bytes};
use keelson_proto::mvccpb::KeyValue;

use crate::ids::{LeaseId, Revision};
use crate::mvcc::slab::{self, Slab};
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

/// Set in the address of a version on the heap: versions begin at multiples of eight.
const ON_HEAP: usize = 1;

/// One version of one key: a put, or the tombstone that a delete left. Cheap to clone.
pub struct Record(NonNull<Version>);

/// What is known of a version; its bytes are behind it.
#[derive(Debug)]
#[repr(C)]
pub struct Version {
    /// The main revision that wrote this version (`mod_revision`).
    pub revision: Revision,
    /// The main revision that created the key; zero for a tombstone.
    pub create_revision: Revision,
    /// How many puts the key has seen since its creation; zero for a tombstone.
    pub version: i64,
    /// The lease the key is attached to; zero for none and for a tombstone.
    pub lease: LeaseId,
    encoded: NonNull<u8>,
    encoded_bytes: u32,
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
    is_cold: bool,
    /// Whether its history has let it go.
    left_history: AtomicBool,
}

/// A version that is in no slab.
#[repr(C)]
struct HeapVersion {
    /// First, so that its address is that of the whole.
    version: Version,
    encoded: Box<[u8]>,
    /// Where the value is, for a cold record.
    cold: Option<Cold>,
}

/// What a cold record needs to become whole.
#[derive(Debug)]
struct Cold {
    place: ValuePlace,
    /// Keeps the file.
    snapshot: Arc<Snapshot>,
}

/// A version to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    key: &'a [u8],
    value: &'a [u8],
    revision: Revision,
    sub: u32,
    create_revision: Revision,
    version: i64,
    lease: LeaseId,
    tombstone: bool,
    replaces_below: bool,
}

impl<'a> Draft<'a> {
    /// The version a put writes.
    pub(crate) fn put(
        key: &'a [u8],
        value: &'a [u8],
        (revision, sub): (Revision, u32),
        create_revision: Revision,
        version: i64,
        lease: LeaseId,
    ) -> Self {
        Self {
            key,
            value,
            revision,
            sub,
            create_revision,
            version,
            lease,
            tombstone: false,
            replaces_below: false,
        }
    }

    /// The version a delete writes.
    pub(crate) fn tombstone(key: &'a [u8], at: (Revision, u32)) -> Self {
        Self {
            tombstone: true,
            ..Self::put(key, &[], at, Revision(0), 0, LeaseId(0))
        }
    }

    /// The same; the live version it replaced is in a layer below its own, or is not.
    pub(crate) fn replacing_below(self, replaces_below: bool) -> Self {
        Self {
            replaces_below,
            ..self
        }
    }

    /// Makes the version in a layer's memory.
    pub(crate) fn in_slab(&self, slab: &mut Slab) -> Record {
        let encoded_bytes = self.encoded_len();
        let memory = slab.take(size_of::<Version>() + encoded_bytes);
        // SAFETY: the slab gives that many bytes to this record alone, initialised and aligned for a version; nobody
        // reads them before the record is there.
        unsafe {
            let encoded = memory.add(size_of::<Version>());
            let out = std::slice::from_raw_parts_mut(encoded.as_ptr(), encoded_bytes);
            self.encode(out);
            memory.cast().write(self.version(encoded, encoded_bytes));
        }
        Record(memory.cast())
    }

    /// Makes the version on the heap.
    pub(crate) fn on_heap(&self) -> Record {
        self.on_heap_with(None, narrow(self.value.len()))
    }

    fn on_heap_with(&self, cold: Option<Cold>, value_bytes: u32) -> Record {
        let encoded_bytes = self.encoded_len();
        let mut encoded = vec![0; encoded_bytes].into_boxed_slice();
        self.encode(&mut encoded);
        let start = NonNull::from(&mut encoded[..]).cast();
        let version = Version {
            value_bytes,
            is_cold: cold.is_some(),
            ..self.version(start, encoded_bytes)
        };
        let whole = Arc::into_raw(Arc::new(HeapVersion {
            version,
            encoded,
            cold,
        }));
        let tagged = whole
            .cast::<Version>()
            .cast_mut()
            .map_addr(|address| address | ON_HEAP);
        Record(NonNull::new(tagged).expect("nothing is at address zero"))
    }

    fn version(&self, encoded: NonNull<u8>, encoded_bytes: usize) -> Version {
        let value_end = encoded_bytes - int_field_len(self.lease.0);
        Version {
            revision: self.revision,
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
            encoded,
            encoded_bytes: narrow(encoded_bytes),
            sub: self.sub,
            key_bytes: narrow(self.key.len()),
            value_offset: narrow(value_end - self.value.len()),
            value_bytes: narrow(self.value.len()),
            tombstone: self.tombstone,
            replaces_below: self.replaces_below,
            is_cold: false,
            left_history: AtomicBool::new(false),
        }
    }

    fn encoded_len(&self) -> usize {
        bytes_field_len(self.key.len())
            + int_field_len(self.create_revision.0)
            + int_field_len(self.revision.0)
            + int_field_len(self.version)
            + bytes_field_len(self.value.len())
            + int_field_len(self.lease.0)
    }

    fn encode(&self, mut out: &mut [u8]) {
        let out = &mut out;
        put_bytes_field(out, TAG_KEY, self.key);
        put_int_field(out, TAG_CREATE_REVISION, self.create_revision.0);
        put_int_field(out, TAG_MOD_REVISION, self.revision.0);
        put_int_field(out, TAG_VERSION, self.version);
        put_bytes_field(out, TAG_VALUE, self.value);
        put_int_field(out, TAG_LEASE, self.lease.0);
        assert!(
            out.is_empty(),
            "the encoded length is computed before the bytes are written"
        );
    }
}

impl Record {
    /// A version of the snapshot file; cold if it has a value.
    pub(crate) fn stored(snapshot: &Arc<Snapshot>, at: VersionRef) -> Self {
        let version = snapshot.version(at);
        let mut key = Vec::new();
        snapshot.append_key(snapshot.key_of(at), &mut key);
        let position = (version.revision, version.sub);
        if version.tombstone {
            return Draft::tombstone(&key, position).on_heap();
        }
        let cold = version.place.map(|place| Cold {
            place,
            snapshot: Arc::clone(snapshot),
        });
        let (create_revision, lease) = (version.create_revision, version.lease);
        let draft = Draft::put(&key, &[], position, create_revision, version.version, lease);
        draft.on_heap_with(cold, version.value_bytes)
    }

    /// The whole of a cold record.
    #[must_use]
    pub fn with_value(&self, value: &[u8]) -> Self {
        assert_eq!(
            value.len(),
            self.value_bytes as usize,
            "a value is as long as its version says"
        );
        let draft = Draft::put(
            self.key(),
            value,
            self.position(),
            self.create_revision,
            self.version,
            self.lease,
        );
        draft.on_heap()
    }

    /// Whether both are handles of one version.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// Where the value must be read before the record is answered; `None` if it is here.
    #[must_use]
    pub fn place(&self) -> Option<&ValuePlace> {
        self.cold().map(|cold| &cold.place)
    }

    /// The snapshot whose file holds the value of a cold record.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.cold().map(|cold| &cold.snapshot)
    }

    /// The key as a slice of the record's own memory.
    #[must_use]
    pub fn key_bytes(&self) -> Bytes {
        self.slice(self.key_span())
    }

    /// The message form; key and value are slices of the record's memory. A cold record's value
    /// [`is_absent`] and has to be filled in.
    #[must_use]
    pub fn key_value(&self) -> KeyValue {
        let value = if self.is_cold {
            Bytes::from_static(&ABSENT)
        } else {
            self.slice(self.value_span())
        };
        KeyValue {
            value,
            ..self.key_value_keys_only()
        }
    }

    /// The same, and the record itself is added to `cold` if the value has to be filled in.
    pub(crate) fn key_value_or_cold(&self, cold: &mut Vec<Self>) -> KeyValue {
        if self.is_cold {
            cold.push(self.clone());
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

    fn slice(&self, span: Range<usize>) -> Bytes {
        if span.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Slice {
            record: self.clone(),
            span,
        })
    }

    fn cold(&self) -> Option<&Cold> {
        if !self.is_cold {
            return None;
        }
        // SAFETY: only versions on the heap are cold, and this handle keeps it.
        let whole = unsafe { self.address().cast::<HeapVersion>().as_ref() };
        whole.cold.as_ref()
    }

    fn is_on_heap(&self) -> bool {
        self.0.as_ptr().addr() & ON_HEAP != 0
    }

    fn address(&self) -> NonNull<Version> {
        let address = self.0.as_ptr().map_addr(|address| address & !ON_HEAP);
        NonNull::new(address).expect("nothing is at address zero")
    }
}

/// A part of a record's bytes.
struct Slice {
    record: Record,
    span: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.record.bytes()[self.span.clone()]
    }
}

impl Deref for Record {
    type Target = Version;

    fn deref(&self) -> &Version {
        // SAFETY: a handle keeps its version, and nobody changes one but through the atomic mark.
        unsafe { self.address().as_ref() }
    }
}

impl Clone for Record {
    fn clone(&self) -> Self {
        // SAFETY: this handle is a user of its version, on the heap or in a slab.
        unsafe {
            if self.is_on_heap() {
                Arc::increment_strong_count(self.address().cast::<HeapVersion>().as_ptr());
            } else {
                slab::join(self.0.cast());
            }
        }
        Self(self.0)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: this handle is a user of its version, on the heap or in a slab, until now.
        unsafe {
            if self.is_on_heap() {
                Arc::decrement_strong_count(self.address().cast::<HeapVersion>().as_ptr());
            } else {
                slab::part(self.0.cast());
            }
        }
    }
}

// SAFETY: a version is not changed after it was made but for an atomic mark; users are counted atomically.
unsafe impl Send for Record {}
// SAFETY: as for Send.
unsafe impl Sync for Record {}
// SAFETY: the pointer leads to the boxed bytes beside it, which are never changed.
unsafe impl Send for HeapVersion {}
// SAFETY: as for Send.
unsafe impl Sync for HeapVersion {}

impl fmt::Debug for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = out.debug_tuple("Record");
        out.field(&**self).field(&self.cold()).finish()
    }
}

impl Version {
    /// Whether it is the same version of the same key.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.position() == other.position()
    }

    /// Its history does not hold it any more.
    pub(crate) fn leave_history(&self) {
        self.left_history.store(true, Ordering::Relaxed);
    }

    /// Whether its history has let it go. The store alone asks.
    pub(crate) fn has_left_history(&self) -> bool {
        self.left_history.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: whoever made the version wrote that many bytes there; they live as long as the version.
        unsafe { std::slice::from_raw_parts(self.encoded.as_ptr(), self.encoded_bytes as usize) }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.bytes()[self.key_span()]
    }

    /// The value of a record that is not cold; empty for a tombstone.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.assert_warm();
        &self.bytes()[self.value_span()]
    }

    /// The marshalled `mvccpb.KeyValue` of a record that is not cold.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        self.assert_warm();
        self.bytes()
    }

    /// Bytes of the marshalled `mvccpb.KeyValue`, also of a cold record.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let absent = if self.is_cold {
            bytes_field_len(self.value_bytes as usize)
        } else {
            0
        };
        self.bytes().len() + absent
    }

    /// Bytes that [`Version::encode_keys_only`] writes.
    #[must_use]
    pub fn encoded_keys_only_len(&self) -> usize {
        if self.is_cold {
            return self.bytes().len();
        }
        let value = self.value_span();
        self.bytes().len() - (value.end - self.value_field_start())
    }

    /// Appends the marshalled `mvccpb.KeyValue` without its value.
    pub fn encode_keys_only(&self, out: &mut impl BufMut) {
        if self.is_cold {
            return out.put_slice(self.bytes());
        }
        out.put_slice(&self.bytes()[..self.value_field_start()]);
        out.put_slice(&self.bytes()[self.value_span().end..]);
    }

    /// What etcd stores for this version and hashes: like `encoded`, but a tombstone is the key alone.
    pub(crate) fn stored_bytes(&self) -> &[u8] {
        self.assert_warm();
        if self.tombstone {
            &self.bytes()[..self.key_span().end]
        } else {
            self.bytes()
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
            !self.is_cold,
            "the value of a cold record is read before it is used"
        );
    }

    fn key_span(&self) -> Range<usize> {
        let length = self.key_bytes as usize;
        let start = bytes_field_len(length) - length;
        start..start + length
    }

    fn value_span(&self) -> Range<usize> {
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

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_bytes_field(out: &mut impl BufMut, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.put_u8(tag);
        put_varint(out, bytes.len() as u64);
        out.put_slice(bytes);
    }
}

fn put_int_field(out: &mut impl BufMut, tag: u8, value: i64) {
    if value != 0 {
        out.put_u8(tag);
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
            in_slab: bool,
        ) {
            let at = (Revision(revision), 3);
            let draft = Draft::put(&key, &value, at, Revision(create), version, LeaseId(lease));
            let record = if in_slab { draft.in_slab(&mut Slab::default()) } else { draft.on_heap() };
            let message = record.key_value();
            prop_assert_eq!(record.key(), &key[..]);
            prop_assert_eq!(record.value(), &value[..]);
            prop_assert_eq!(&message.encode_to_vec()[..], record.encoded());
            prop_assert_eq!(&KeyValue::decode(record.encoded()).unwrap(), &message);

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
            let record = Draft::tombstone(&key, (Revision(revision), 0)).on_heap();
            let event = KeyValue {
                key: Bytes::copy_from_slice(&key),
                mod_revision: revision,
                ..KeyValue::default()
            };
            prop_assert_eq!(&event.encode_to_vec()[..], record.encoded());
            prop_assert_eq!(&record.key_value(), &event);
            let stored = KeyValue { mod_revision: 0, ..event };
            prop_assert_eq!(&stored.encode_to_vec()[..], record.stored_bytes());
        }
    }
}
