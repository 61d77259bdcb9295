//! Commands: what the log carries.
//!
//! The engine wraps a validated request into a [`Command`] and writes a batch of them as one log
//! entry; replay and the other members read them back. A body is the client's own protobuf, byte for
//! byte, so a write is encoded once, by the client; decoding an entry slices the buffer it was read
//! into and copies nothing.
//!
//! The layout is in `storage/FORMAT.md`, section 5. Decoding is total: any bytes give commands or an
//! error, and it never reserves more memory than the input's own length justifies.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, PutRequest,
    TxnRequest,
};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

use crate::ids::LeaseTime;
use crate::state::leases::LeaseRenewMany;
use crate::state::members::{ClusterInit, MemberAdd, MemberPublish};

/// Bytes before the commands of an entry.
pub const ENTRY_HEADER_BYTES: usize = 8 + 4;

/// In the count of an entry: its commands have the lean form.
const LEAN: u32 = 1 << 31;
/// In the kind of a lean command: it has a user, or a revision of the auth store.
const WITH_USER: u8 = 1 << 7;
/// The shortest lean command: kind, bytes of the body, request id.
const LEAN_BYTES_MIN: usize = 3;
/// Bytes of a command of the older, wide form beside its user and its body.
const WIDE_HEADER_BYTES: usize = 4 + 1 + 1 + 2 + 8 + 8;
/// Commands that room is reserved for before they are read.
const COMMANDS_RESERVED_MAX: usize = 1024;

const _: () = assert!(CommandKind::ALL.len() < WITH_USER as usize);

/// What a command asks for. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandKind {
    /// `PutRequest`.
    Put = 1,
    /// `DeleteRangeRequest`.
    DeleteRange = 2,
    /// `TxnRequest`.
    Txn = 3,
    /// `CompactionRequest`.
    Compact = 4,
    /// `LeaseGrantRequest` with the id and the TTL that the proposer chose.
    LeaseGrant = 5,
    /// `LeaseRevokeRequest`.
    LeaseRevoke = 6,
    /// `LeaseKeepAliveRequest`.
    LeaseRenew = 7,
    /// `LeaseRevokeRequest` of a lease whose deadline has passed.
    LeaseExpire = 8,
    /// `AlarmRequest`.
    Alarm = 9,
    /// Nothing; the entry moves the lease clock.
    Tick = 10,
    /// [`ClusterInit`].
    ClusterInit = 11,
    /// [`MemberPublish`].
    MemberPublish = 12,
    /// [`LeaseRenewMany`].
    LeaseRenewMany = 13,
    /// [`MemberAdd`].
    MemberAdd = 14,
    /// `MemberRemoveRequest`.
    MemberRemove = 15,
    /// `MemberUpdateRequest`.
    MemberUpdate = 16,
    /// `MemberPromoteRequest`.
    MemberPromote = 17,
}

impl CommandKind {
    /// All kinds, in the order of their numbers from 1.
    pub const ALL: [Self; 17] = [
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Compact,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::LeaseRenew,
        Self::LeaseExpire,
        Self::Alarm,
        Self::Tick,
        Self::ClusterInit,
        Self::MemberPublish,
        Self::LeaseRenewMany,
        Self::MemberAdd,
        Self::MemberRemove,
        Self::MemberUpdate,
        Self::MemberPromote,
    ];

    /// The kind with this number.
    ///
    /// # Errors
    /// [`CommandError::UnknownKind`] if a newer version wrote it.
    pub fn from_number(number: u8) -> Result<Self, CommandError> {
        let index = usize::from(number).wrapping_sub(1);
        Self::ALL
            .get(index)
            .copied()
            .ok_or(CommandError::UnknownKind(number))
    }
}

/// A decoded command body.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the kinds are documented at CommandKind")]
pub enum Request {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    LeaseRenew(LeaseKeepAliveRequest),
    LeaseExpire(LeaseRevokeRequest),
    Alarm(AlarmRequest),
    Tick,
    ClusterInit(ClusterInit),
    MemberPublish(MemberPublish),
    LeaseRenewMany(LeaseRenewMany),
    MemberAdd(MemberAdd),
    MemberRemove(MemberRemoveRequest),
    MemberUpdate(MemberUpdateRequest),
    MemberPromote(MemberPromoteRequest),
}

impl Request {
    /// The kind its command has.
    #[must_use]
    pub fn kind(&self) -> CommandKind {
        match self {
            Self::Put(_) => CommandKind::Put,
            Self::DeleteRange(_) => CommandKind::DeleteRange,
            Self::Txn(_) => CommandKind::Txn,
            Self::Compact(_) => CommandKind::Compact,
            Self::LeaseGrant(_) => CommandKind::LeaseGrant,
            Self::LeaseRevoke(_) => CommandKind::LeaseRevoke,
            Self::LeaseRenew(_) => CommandKind::LeaseRenew,
            Self::LeaseExpire(_) => CommandKind::LeaseExpire,
            Self::Alarm(_) => CommandKind::Alarm,
            Self::Tick => CommandKind::Tick,
            Self::ClusterInit(_) => CommandKind::ClusterInit,
            Self::MemberPublish(_) => CommandKind::MemberPublish,
            Self::LeaseRenewMany(_) => CommandKind::LeaseRenewMany,
            Self::MemberAdd(_) => CommandKind::MemberAdd,
            Self::MemberRemove(_) => CommandKind::MemberRemove,
            Self::MemberUpdate(_) => CommandKind::MemberUpdate,
            Self::MemberPromote(_) => CommandKind::MemberPromote,
        }
    }

    /// Reads a body. Keys and values are slices of it.
    ///
    /// # Errors
    /// [`CommandError::Body`] if it is not the kind's protobuf.
    pub fn decode(kind: CommandKind, body: &Bytes) -> Result<Self, CommandError> {
        fn message<M: Message + Default>(body: &Bytes) -> Result<M, CommandError> {
            Ok(M::decode(body.clone())?)
        }
        Ok(match kind {
            CommandKind::Put => Self::Put(message(body)?),
            CommandKind::DeleteRange => Self::DeleteRange(message(body)?),
            CommandKind::Txn => Self::Txn(message(body)?),
            CommandKind::Compact => Self::Compact(message(body)?),
            CommandKind::LeaseGrant => Self::LeaseGrant(message(body)?),
            CommandKind::LeaseRevoke => Self::LeaseRevoke(message(body)?),
            CommandKind::LeaseRenew => Self::LeaseRenew(message(body)?),
            CommandKind::LeaseExpire => Self::LeaseExpire(message(body)?),
            CommandKind::Alarm => Self::Alarm(message(body)?),
            CommandKind::Tick => Self::Tick,
            CommandKind::ClusterInit => Self::ClusterInit(message(body)?),
            CommandKind::MemberPublish => Self::MemberPublish(message(body)?),
            CommandKind::LeaseRenewMany => Self::LeaseRenewMany(message(body)?),
            CommandKind::MemberAdd => Self::MemberAdd(message(body)?),
            CommandKind::MemberRemove => Self::MemberRemove(message(body)?),
            CommandKind::MemberUpdate => Self::MemberUpdate(message(body)?),
            CommandKind::MemberPromote => Self::MemberPromote(message(body)?),
        })
    }

    /// The body of a request that did not come as bytes.
    #[must_use]
    pub fn encode_body(&self) -> Bytes {
        Bytes::from(match self {
            Self::Put(message) => message.encode_to_vec(),
            Self::DeleteRange(message) => message.encode_to_vec(),
            Self::Txn(message) => message.encode_to_vec(),
            Self::Compact(message) => message.encode_to_vec(),
            Self::LeaseGrant(message) => message.encode_to_vec(),
            Self::LeaseRevoke(message) | Self::LeaseExpire(message) => message.encode_to_vec(),
            Self::LeaseRenew(message) => message.encode_to_vec(),
            Self::Alarm(message) => message.encode_to_vec(),
            Self::Tick => Vec::new(),
            Self::ClusterInit(message) => message.encode_to_vec(),
            Self::MemberPublish(message) => message.encode_to_vec(),
            Self::LeaseRenewMany(message) => message.encode_to_vec(),
            Self::MemberAdd(message) => message.encode_to_vec(),
            Self::MemberRemove(message) => message.encode_to_vec(),
            Self::MemberUpdate(message) => message.encode_to_vec(),
            Self::MemberPromote(message) => message.encode_to_vec(),
        })
    }
}

/// The envelope of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What the body is.
    pub kind: CommandKind,
    /// Names the waiting client on the member that proposed it; 0 for nobody.
    pub request_id: u64,
    /// Who asked; empty for nobody in particular. At most 255 bytes.
    pub user: Bytes,
    /// The revision of the auth store that the user was checked against.
    pub auth_revision: u64,
    /// The request's protobuf.
    pub body: Bytes,
}

impl Command {
    /// The longest user name a command can carry.
    pub const USER_BYTES_MAX: usize = u8::MAX as usize;
    /// Bytes that a command of no user takes in an entry beside its body, at most.
    pub const HEADER_BYTES_MAX: usize = 1 + 5 + 10;
    /// Bytes it takes in an entry beside its body, at most.
    pub const ENVELOPE_BYTES_MAX: usize = Self::HEADER_BYTES_MAX + 10 + 1 + Self::USER_BYTES_MAX;

    /// A command of no user.
    #[must_use]
    pub fn new(kind: CommandKind, request_id: u64, body: Bytes) -> Self {
        Self {
            kind,
            request_id,
            user: Bytes::new(),
            auth_revision: 0,
            body,
        }
    }

    fn has_user(&self) -> bool {
        !self.user.is_empty() || self.auth_revision != 0
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`CommandError::Body`] if it is not the kind's protobuf.
    pub fn request(&self) -> Result<Request, CommandError> {
        Request::decode(self.kind, &self.body)
    }
}

/// Why bytes are not an entry. All of it means damage or a log written by a newer version: the member
/// must stop, for skipping a committed command would make it differ from the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The entry ends before its commands do, or after them, or a reserved byte is set.
    #[error("the entry's framing is damaged")]
    Framing,
    /// The kind is not one this version knows.
    #[error("command kind {0} is not known to this version")]
    UnknownKind(u8),
    /// The body is not what the kind says.
    #[error("the command's body cannot be decoded: {0}")]
    Body(#[from] prost::DecodeError),
}

/// Appends the payload of one entry.
pub fn encode_entry(lease_time: LeaseTime, commands: &[Command], out: &mut BytesMut) {
    out.reserve(entry_bytes(commands));
    out.put_u64_le(lease_time.0);
    let count = u32::try_from(commands.len()).expect("a batch is bounded far below 2^31 commands");
    assert!(count < LEAN, "a batch is bounded far below 2^31 commands");
    out.put_u32_le(LEAN | count);
    let mut last_id = 0;
    for command in commands {
        let user_bytes =
            u8::try_from(command.user.len()).expect("a user name has 255 bytes or less");
        let user_flag = if command.has_user() { WITH_USER } else { 0 };
        out.put_u8(command.kind as u8 | user_flag);
        encode_varint(command.body.len() as u64, out);
        encode_varint(folded(command.request_id.wrapping_sub(last_id)), out);
        last_id = command.request_id;
        if command.has_user() {
            encode_varint(command.auth_revision, out);
            out.put_u8(user_bytes);
            out.put_slice(&command.user);
        }
        out.put_slice(&command.body);
    }
}

/// Bytes of the payload of an entry with these commands.
#[must_use]
pub fn entry_bytes(commands: &[Command]) -> usize {
    let mut last_id = 0;
    let bytes = commands.iter().map(|command| {
        let envelope_and_body = command_bytes(command.body.len(), command.request_id, last_id);
        last_id = command.request_id;
        let user_bytes = match command.has_user() {
            true => encoded_len_varint(command.auth_revision) + 1 + command.user.len(),
            false => 0,
        };
        envelope_and_body + user_bytes
    });
    ENTRY_HEADER_BYTES + bytes.sum::<usize>()
}

/// Bytes that a command of no user takes in an entry behind one with the request id `last_id`; 0 for the first.
#[must_use]
pub fn command_bytes(body_bytes: usize, request_id: u64, last_id: u64) -> usize {
    let id = folded(request_id.wrapping_sub(last_id));
    1 + encoded_len_varint(body_bytes as u64) + encoded_len_varint(id) + body_bytes
}

/// Reads the payload of one entry. Users and bodies are slices of it.
///
/// # Errors
/// [`CommandError`] for any bytes that no version of [`encode_entry`] writes. Bodies are not looked at.
pub fn decode_entry(payload: &Bytes) -> Result<(LeaseTime, Vec<Command>), CommandError> {
    let mut rest = payload.clone();
    if rest.len() < ENTRY_HEADER_BYTES {
        return Err(CommandError::Framing);
    }
    let lease_time = LeaseTime(rest.get_u64_le());
    let count = rest.get_u32_le();
    let is_lean = count & LEAN != 0;
    let count = (count & !LEAN) as usize;
    let bytes_min = if is_lean {
        LEAN_BYTES_MIN
    } else {
        WIDE_HEADER_BYTES
    };
    if count > rest.len() / bytes_min {
        return Err(CommandError::Framing);
    }
    let mut commands = Vec::with_capacity(count.min(COMMANDS_RESERVED_MAX));
    let mut last_id = 0;
    for _ in 0..count {
        let command = if is_lean {
            decode_lean(&mut rest, last_id)?
        } else {
            decode_wide(&mut rest)?
        };
        last_id = command.request_id;
        commands.push(command);
    }
    if rest.is_empty() {
        Ok((lease_time, commands))
    } else {
        Err(CommandError::Framing)
    }
}

fn decode_lean(rest: &mut Bytes, last_id: u64) -> Result<Command, CommandError> {
    if !rest.has_remaining() {
        return Err(CommandError::Framing);
    }
    let first = rest.get_u8();
    let kind = CommandKind::from_number(first & !WITH_USER)?;
    let body_bytes = usize::try_from(take_varint(rest)?).map_err(|_| CommandError::Framing)?;
    let request_id = last_id.wrapping_add(unfolded(take_varint(rest)?));
    let (mut user, mut auth_revision) = (Bytes::new(), 0);
    if first & WITH_USER != 0 {
        auth_revision = take_varint(rest)?;
        if !rest.has_remaining() {
            return Err(CommandError::Framing);
        }
        let user_bytes = usize::from(rest.get_u8());
        if rest.len() < user_bytes || (user_bytes == 0 && auth_revision == 0) {
            return Err(CommandError::Framing);
        }
        user = rest.split_to(user_bytes);
    }
    if rest.len() < body_bytes {
        return Err(CommandError::Framing);
    }
    let body = rest.split_to(body_bytes);
    Ok(Command {
        kind,
        request_id,
        user,
        auth_revision,
        body,
    })
}

/// A command as it was written before there was the lean form.
fn decode_wide(rest: &mut Bytes) -> Result<Command, CommandError> {
    if rest.len() < WIDE_HEADER_BYTES {
        return Err(CommandError::Framing);
    }
    let body_bytes = rest.get_u32_le() as usize;
    let kind = CommandKind::from_number(rest.get_u8())?;
    let user_bytes = usize::from(rest.get_u8());
    let zero = rest.get_u16_le();
    let request_id = rest.get_u64_le();
    let auth_revision = rest.get_u64_le();
    if zero != 0 || rest.len() < user_bytes || rest.len() - user_bytes < body_bytes {
        return Err(CommandError::Framing);
    }
    let user = rest.split_to(user_bytes);
    let body = rest.split_to(body_bytes);
    Ok(Command {
        kind,
        request_id,
        user,
        auth_revision,
        body,
    })
}

/// A number in its only form: the shortest.
fn take_varint(rest: &mut Bytes) -> Result<u64, CommandError> {
    let before = rest.len();
    let number = decode_varint(rest).map_err(|_| CommandError::Framing)?;
    if before - rest.len() == encoded_len_varint(number) {
        Ok(number)
    } else {
        Err(CommandError::Framing)
    }
}

/// A difference, either way, as a number that is small when it is.
fn folded(difference: u64) -> u64 {
    (difference << 1) ^ ((difference as i64) >> 63) as u64
}

fn unfolded(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// What [`encode_entry`] wrote before there was the lean form.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn encode_wide_entry(lease_time: LeaseTime, commands: &[Command], out: &mut BytesMut) {
    out.put_u64_le(lease_time.0);
    out.put_u32_le(u32::try_from(commands.len()).expect("a batch is small"));
    for command in commands {
        out.put_u32_le(u32::try_from(command.body.len()).expect("a body is small"));
        out.put_u8(command.kind as u8);
        out.put_u8(u8::try_from(command.user.len()).expect("a user name is short"));
        out.put_u16_le(0);
        out.put_u64_le(command.request_id);
        out.put_u64_le(command.auth_revision);
        out.put_slice(&command.user);
        out.put_slice(&command.body);
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
