//! What a frame holds.

use bytes::{BufMut, Bytes, BytesMut};
use keelson_storage::ids::{LeaseTime, MemberId, ShardId, Term};
use keelson_storage::state::{Command, decode_entry, encode_entry, entry_bytes};

use super::error::FrameError;
use super::raft_message::{self, membership_bytes, put_mark, put_membership};
use super::reader::Reader;
use crate::limits::ENTRY_COMMANDS_MAX;
use crate::node::{Mark, Membership, Message};

const RAFT: u8 = 1;
const FORWARD: u8 = 2;
const FORWARD_REFUSED: u8 = 3;
const SNAPSHOT_OFFER: u8 = 4;
const SNAPSHOT_DATA: u8 = 5;
const SNAPSHOT_ACK: u8 = 6;

/// Kind, a reserved byte, shard, length.
pub(super) const ITEM_HEADER_BYTES: usize = 1 + 1 + 2 + 4;

/// One thing that one shard of a member says to the same shard of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message of the raft group.
    Raft(Message),
    /// Commands that a follower's clients sent; the leader proposes them. The request ids are the
    /// follower's: it answers when it applies them.
    Forward(Vec<Command>),
    /// Forwarded commands that were not proposed.
    ForwardRefused {
        /// Why.
        why: ForwardRefusal,
        /// Who leads, as far as the sender knows; 0 for nobody.
        leader: MemberId,
        /// Their request ids.
        request_ids: Vec<u64>,
    },
    /// A snapshot file is to be sent.
    SnapshotOffer(SnapshotOffer),
    /// A piece of it.
    SnapshotData {
        /// Which transfer.
        transfer: u64,
        /// Where in the file.
        offset: u64,
        /// The piece.
        data: Bytes,
    },
    /// How far a transfer is.
    SnapshotAck {
        /// Which transfer.
        transfer: u64,
        /// What the receiver says.
        ack: SnapshotAck,
    },
    /// A message of the server's own, which this crate does not look into.
    Server {
        /// Which, from [`Item::SERVER_KINDS`].
        kind: u8,
        /// Its content.
        body: Bytes,
    },
}

/// A snapshot file that takes the place of log entries which the leader has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// Names the transfer between these two members.
    pub transfer: u64,
    /// The leader's term: with the two fields below it becomes the raft message once the file is there.
    pub term: Term,
    /// The last entry in the file.
    pub at: Mark,
    /// Who belongs to the group as of that entry.
    pub membership: Membership,
    /// Length of the file.
    pub file_bytes: u64,
    /// crc32c of the file's superblock: a file that was begun goes on only if it is the same one.
    pub file_crc: u32,
}

/// What the receiver of a snapshot file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotAck {
    /// Everything before this offset has arrived; send what follows. Also the answer to an offer.
    Have(u64),
    /// The whole file has arrived and is sound.
    Done,
    /// It cannot be taken now, or is damaged; begin again later.
    Failed,
}

/// Why forwarded commands were not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ForwardRefusal {
    /// The receiver does not lead.
    NotLeader = 1,
    /// Too much waits already.
    TooManyRequests = 2,
    /// The database is full.
    NoSpace = 3,
    /// The receiver is shutting down.
    Stopping = 4,
    /// A change of the membership that puts the quorum at risk: too few members are connected,
    Unhealthy = 5,
    /// or too few have started.
    NotEnoughStarted = 6,
    /// A learner lags too far to get a vote.
    LearnerNotReady = 7,
    /// The receiver does not know such a command.
    NotCapable = 8,
}

impl Item {
    /// Kinds that the server may give its own messages.
    pub const SERVER_KINDS: std::ops::RangeInclusive<u8> = 64..=127;

    /// Bytes it takes in a frame.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let body_bytes = match self {
            Self::Raft(message) => raft_message::encoded_len(message),
            Self::Forward(commands) => entry_bytes(commands),
            Self::ForwardRefused { request_ids, .. } => 1 + 3 + 4 + 8 + request_ids.len() * 8,
            Self::SnapshotOffer(offer) => {
                8 + 8 + 16 + 8 + 4 + 4 + membership_bytes(&offer.membership)
            }
            Self::SnapshotData { data, .. } => 16 + data.len(),
            Self::SnapshotAck { .. } => 8 + 1 + 7 + 8,
            Self::Server { body, .. } => body.len(),
        };
        ITEM_HEADER_BYTES + body_bytes
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Raft(_) => RAFT,
            Self::Forward(_) => FORWARD,
            Self::ForwardRefused { .. } => FORWARD_REFUSED,
            Self::SnapshotOffer(_) => SNAPSHOT_OFFER,
            Self::SnapshotData { .. } => SNAPSHOT_DATA,
            Self::SnapshotAck { .. } => SNAPSHOT_ACK,
            Self::Server { kind, .. } => *kind,
        }
    }
}

pub(super) fn encode(shard: ShardId, item: &Item, out: &mut BytesMut) {
    let begin = out.len();
    out.put_u8(item.kind());
    out.put_u8(0);
    out.put_u16_le(shard.0);
    let body_bytes = item.encoded_len() - ITEM_HEADER_BYTES;
    out.put_u32_le(u32::try_from(body_bytes).expect("an item is far below 4 GiB"));
    match item {
        Item::Raft(message) => raft_message::encode(message, out),
        Item::Forward(commands) => encode_entry(LeaseTime(0), commands, out),
        Item::ForwardRefused {
            why,
            leader,
            request_ids,
        } => {
            out.put_u8(*why as u8);
            out.put_bytes(0, 3);
            let count = u32::try_from(request_ids.len()).expect("a batch is small");
            out.put_u32_le(count);
            out.put_u64_le(leader.0);
            request_ids.iter().for_each(|id| out.put_u64_le(*id));
        }
        Item::SnapshotOffer(offer) => {
            out.put_u64_le(offer.transfer);
            out.put_u64_le(offer.term.0);
            put_mark(out, offer.at);
            out.put_u64_le(offer.file_bytes);
            out.put_u32_le(offer.file_crc);
            out.put_u32_le(0);
            put_membership(out, &offer.membership);
        }
        Item::SnapshotData {
            transfer,
            offset,
            data,
        } => {
            out.put_u64_le(*transfer);
            out.put_u64_le(*offset);
            out.put_slice(data);
        }
        Item::SnapshotAck { transfer, ack } => {
            let (kind, offset) = match ack {
                SnapshotAck::Have(offset) => (1, *offset),
                SnapshotAck::Done => (2, 0),
                SnapshotAck::Failed => (3, 0),
            };
            out.put_u64_le(*transfer);
            out.put_u8(kind);
            out.put_bytes(0, 7);
            out.put_u64_le(offset);
        }
        Item::Server { body, .. } => out.put_slice(body),
    }
    assert!(
        out.len() - begin == item.encoded_len(),
        "an item has {} bytes, {} were foreseen",
        out.len() - begin,
        item.encoded_len()
    );
}

pub(super) fn decode(from: &mut Reader) -> Result<(ShardId, Item), FrameError> {
    let kind = from.u8()?;
    from.zero(1)?;
    let shard = ShardId(from.u16()?);
    let body_bytes = from.u32()? as usize;
    let mut body = Reader(from.bytes(body_bytes)?);
    let item = match kind {
        RAFT => Item::Raft(raft_message::decode(&mut body)?),
        FORWARD => {
            let (lease_time, commands) = decode_entry(&body.bytes(body_bytes)?)?;
            if lease_time != LeaseTime(0) {
                return Err(FrameError::Content("forwarded commands have a lease time"));
            }
            if commands.len() > ENTRY_COMMANDS_MAX {
                return Err(FrameError::Content("too many commands"));
            }
            Item::Forward(commands)
        }
        FORWARD_REFUSED => refused(&mut body)?,
        SNAPSHOT_OFFER => Item::SnapshotOffer(offer(&mut body)?),
        SNAPSHOT_DATA => Item::SnapshotData {
            transfer: body.u64()?,
            offset: body.u64()?,
            data: body.bytes(body_bytes - 16)?,
        },
        SNAPSHOT_ACK => Item::SnapshotAck {
            transfer: body.u64()?,
            ack: ack(&mut body)?,
        },
        kind if Item::SERVER_KINDS.contains(&kind) => Item::Server {
            kind,
            body: body.bytes(body_bytes)?,
        },
        kind => return Err(FrameError::UnknownKind(kind)),
    };
    body.end()?;
    Ok((shard, item))
}

fn refused(body: &mut Reader) -> Result<Item, FrameError> {
    let why = match body.u8()? {
        1 => ForwardRefusal::NotLeader,
        2 => ForwardRefusal::TooManyRequests,
        3 => ForwardRefusal::NoSpace,
        4 => ForwardRefusal::Stopping,
        5 => ForwardRefusal::Unhealthy,
        6 => ForwardRefusal::NotEnoughStarted,
        7 => ForwardRefusal::LearnerNotReady,
        8 => ForwardRefusal::NotCapable,
        _ => return Err(FrameError::Content("a refusal of an unknown kind")),
    };
    body.zero(3)?;
    let count = body.u32()? as usize;
    let leader = body.member()?;
    body.may_hold(count, 8)?;
    let request_ids = (0..count).map(|_| body.u64()).collect::<Result<_, _>>()?;
    Ok(Item::ForwardRefused {
        why,
        leader,
        request_ids,
    })
}

fn offer(body: &mut Reader) -> Result<SnapshotOffer, FrameError> {
    let transfer = body.u64()?;
    let term = Term(body.u64()?);
    let at = body.mark()?;
    let file_bytes = body.u64()?;
    let file_crc = body.u32()?;
    body.zero(4)?;
    Ok(SnapshotOffer {
        transfer,
        term,
        at,
        membership: raft_message::membership(body)?,
        file_bytes,
        file_crc,
    })
}

fn ack(body: &mut Reader) -> Result<SnapshotAck, FrameError> {
    let kind = body.u8()?;
    body.zero(7)?;
    let offset = body.u64()?;
    match (kind, offset) {
        (1, offset) => Ok(SnapshotAck::Have(offset)),
        (2, 0) => Ok(SnapshotAck::Done),
        (3, 0) => Ok(SnapshotAck::Failed),
        _ => Err(FrameError::Content("an answer of an unknown kind")),
    }
}
