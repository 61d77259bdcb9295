//! Entries of the bucket `key`: a revision, and what was written at it.
//!
//! The message is read and written here by hand, because the types of the wire own their bytes: an import
//! looks at every value once, and need not copy it for that.

use prost::encoding::{self, DecodeContext, WireType};

use super::error::EtcdDbProblem;
use crate::ids::{LeaseId, Revision};

/// Bytes of a revision as a key, without the mark of a tombstone.
pub(super) const REVISION_BYTES: usize = 17;
const TOMBSTONE_MARK: u8 = b't';
const SEPARATOR: u8 = b'_';

const KEY_TAG: u32 = 1;
const CREATE_REVISION_TAG: u32 = 2;
const MOD_REVISION_TAG: u32 = 3;
const VERSION_TAG: u32 = 4;
const VALUE_TAG: u32 = 5;
const LEASE_TAG: u32 = 6;

/// Where a change stands in etcd's history: its request's revision, and its place in the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdRevision {
    /// The revision clients see.
    pub main: Revision,
    /// Counts the changes of one request from 0.
    pub sub: i64,
}

impl EtcdRevision {
    /// The first 17 bytes of the key it is stored under.
    pub(super) fn encode(self) -> [u8; REVISION_BYTES] {
        let mut bytes = [SEPARATOR; REVISION_BYTES];
        bytes[..8].copy_from_slice(&self.main.0.to_be_bytes());
        bytes[9..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The key of a tombstone.
    pub(super) fn encode_tombstone(self) -> [u8; REVISION_BYTES + 1] {
        let mut bytes = [TOMBSTONE_MARK; REVISION_BYTES + 1];
        bytes[..REVISION_BYTES].copy_from_slice(&self.encode());
        bytes
    }

    /// Reads a key; true if it is that of a tombstone.
    pub(super) fn decode(key: &[u8]) -> Option<(Self, bool)> {
        let (revision, mark) = key.split_first_chunk::<REVISION_BYTES>()?;
        let is_tombstone = match mark {
            [] => false,
            [TOMBSTONE_MARK] => true,
            _ => return None,
        };
        let (main, rest) = revision.split_first_chunk()?;
        let (separator, sub) = rest.split_first()?;
        let main = i64::from_be_bytes(*main);
        let sub = i64::from_be_bytes(*sub.first_chunk()?);
        let is_sound = *separator == SEPARATOR && main >= 0 && sub >= 0;
        let revision = Self {
            main: Revision(main),
            sub,
        };
        is_sound.then_some((revision, is_tombstone))
    }
}

/// One version of one key, as the message `mvccpb.KeyValue` has it, with borrowed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValueRef<'a> {
    /// Never empty.
    pub key: &'a [u8],
    /// The revision that began the key's present life.
    pub create_revision: Revision,
    /// The revision that wrote this version; 0 in a tombstone.
    pub mod_revision: Revision,
    /// Writes since creation, from 1; 0 in a tombstone.
    pub version: i64,
    /// What was written.
    pub value: &'a [u8],
    /// 0 for none.
    pub lease: LeaseId,
}

impl<'a> KeyValueRef<'a> {
    /// Reads a message, if it is whole. Fields that are not known are skipped.
    pub(super) fn decode(mut message: &'a [u8]) -> Option<Self> {
        let mut found = Self::default();
        while !message.is_empty() {
            let (tag, wire_type) = encoding::decode_key(&mut message).ok()?;
            match (tag, wire_type) {
                (KEY_TAG, WireType::LengthDelimited) => found.key = take_bytes(&mut message)?,
                (VALUE_TAG, WireType::LengthDelimited) => found.value = take_bytes(&mut message)?,
                (CREATE_REVISION_TAG..=VERSION_TAG | LEASE_TAG, WireType::Varint) => {
                    let number = encoding::decode_varint(&mut message).ok()? as i64;
                    match tag {
                        CREATE_REVISION_TAG => found.create_revision = Revision(number),
                        MOD_REVISION_TAG => found.mod_revision = Revision(number),
                        VERSION_TAG => found.version = number,
                        _ => found.lease = LeaseId(number),
                    }
                }
                _ => {
                    let context = DecodeContext::default();
                    encoding::skip_field(wire_type, tag, &mut message, context).ok()?;
                }
            }
        }
        Some(found)
    }

    /// Appends the message: fields in the order of their tags, zero and empty ones left out.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let bytes = |tag, bytes: &[u8], out: &mut Vec<u8>| {
            if !bytes.is_empty() {
                encoding::encode_key(tag, WireType::LengthDelimited, out);
                encoding::encode_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
        };
        let number = |tag, number: i64, out: &mut Vec<u8>| {
            if number != 0 {
                encoding::encode_key(tag, WireType::Varint, out);
                encoding::encode_varint(number as u64, out);
            }
        };
        bytes(KEY_TAG, self.key, out);
        number(CREATE_REVISION_TAG, self.create_revision.0, out);
        number(MOD_REVISION_TAG, self.mod_revision.0, out);
        number(VERSION_TAG, self.version, out);
        bytes(VALUE_TAG, self.value, out);
        number(LEASE_TAG, self.lease.0, out);
    }
}

/// An entry of the bucket `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEntry<'a> {
    /// Where it stands in the history.
    pub revision: EtcdRevision,
    /// True if the key was deleted; then only the key is set below.
    pub is_tombstone: bool,
    /// What was written. `None` for the empty entry by which `etcdutl snapshot restore --bump-revision`
    /// raises the revision: it changes no key.
    pub change: Option<KeyValueRef<'a>>,
}

impl<'a> KeyEntry<'a> {
    /// Reads a stored key and its message.
    pub(super) fn decode(key: &[u8], message: &'a [u8]) -> Result<Self, EtcdDbProblem> {
        let decoded = EtcdRevision::decode(key).ok_or(EtcdDbProblem::Revision)?;
        let (revision, is_tombstone) = decoded;
        let change = KeyValueRef::decode(message).ok_or(EtcdDbProblem::Message)?;
        if change == KeyValueRef::default() && !is_tombstone {
            return Ok(Self {
                revision,
                is_tombstone,
                change: None,
            });
        }
        if change.key.is_empty() {
            return Err(EtcdDbProblem::Message);
        }
        let is_sound = is_tombstone
            || (change.mod_revision == revision.main
                && change.create_revision <= change.mod_revision
                && change.create_revision.0 > 0
                && change.version > 0);
        if !is_sound {
            return Err(EtcdDbProblem::OtherRevision);
        }
        Ok(Self {
            revision,
            is_tombstone,
            change: Some(change),
        })
    }
}

/// Takes a length and that many bytes off the front.
fn take_bytes<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = encoding::decode_varint(message).ok()?;
    let (taken, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
    *message = rest;
    Some(taken)
}
