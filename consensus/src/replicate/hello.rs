//! The first frame in each direction: who is there, and in which version they talk.
//!
//! Both have version 0 in their header, whose layout never changes, like that of the frame's header. The
//! side that dials says hello; the other one welcomes or refuses, and closes.

use bytes::{BufMut, Bytes, BytesMut};
use keelson_storage::ids::{ClusterId, CoreId, MemberId};
use thiserror::Error;

use super::error::FrameError;
use super::frame::{self, FrameHeader};
use super::reader::Reader;

/// The oldest version of the protocol that this one speaks: a member of version 1 would stop at the first entry whose
/// commands have the lean form.
pub const VERSION_MIN: u16 = 2;

/// The newest one.
pub const VERSION_MAX: u16 = 2;

const _: () = assert!(VERSION_MIN <= VERSION_MAX);

/// Version in the header of the frames in here.
const VERSION_NONE: u16 = 0;

/// Whoever dials says this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its cluster; 0 for a new member that does not know yet.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: MemberId,
    /// Whom it means to reach.
    pub to: MemberId,
    /// The oldest and the newest version it speaks.
    pub versions: (u16, u16),
    /// The core that talks, and so the shards this link is for: both sides place them alike.
    pub core: CoreId,
    /// Drawn when the member started: a link of an earlier start is closed for a new one.
    pub start: u64,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The answering member's cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: MemberId,
    /// Whom it answers.
    pub to: MemberId,
    /// The version to talk in, or why not at all.
    pub answer: Result<u16, Refusal>,
    /// Drawn when the member started.
    pub start: u64,
}

/// Why a link is not opened.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The two belong to different clusters.
    #[error("it belongs to another cluster: different --initial-cluster-token or members?")]
    Cluster = 1,
    /// The dialler is no member, any more or yet.
    #[error("it does not know this member, which was removed or never added")]
    NotAMember = 2,
    /// The dialled one is somebody else.
    #[error("another member answers at this URL")]
    OtherMember = 3,
    /// They have no version in common.
    #[error("the two versions of Keelson do not understand each other")]
    Version = 4,
    /// The dialler has this member's own id.
    #[error("it has the same member id")]
    SameMember = 5,
    /// The dialled one has no shards on that core.
    #[error("it places its shards on other cores")]
    Core = 6,
}

/// The version in which two members talk: the newest that both speak.
#[must_use]
pub fn negotiate(mine: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = mine.1.min(theirs.1);
    (newest >= mine.0.max(theirs.0)).then_some(newest)
}

impl Hello {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(16);
        body.put_u16_le(self.versions.0);
        body.put_u16_le(self.versions.1);
        body.put_u16_le(self.core.0);
        body.put_u16_le(0);
        body.put_u64_le(self.start);
        frame::seal(&head(self.cluster, self.from, self.to), &body)
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let (header, mut body) = open(bytes)?;
        let versions = (body.u16()?, body.u16()?);
        let core = CoreId(body.u16()?);
        body.zero(2)?;
        let start = body.u64()?;
        body.end()?;
        Ok(Self {
            cluster: header.cluster,
            from: header.from,
            to: header.to,
            versions,
            core,
            start,
        })
    }
}

impl Welcome {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(16);
        let (version, refusal) = match self.answer {
            Ok(version) => (version, 0),
            Err(refusal) => (0, refusal as u8),
        };
        body.put_u16_le(version);
        body.put_u8(refusal);
        body.put_bytes(0, 5);
        body.put_u64_le(self.start);
        frame::seal(&head(self.cluster, self.from, self.to), &body)
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let (header, mut body) = open(bytes)?;
        let version = body.u16()?;
        let answer = match body.u8()? {
            0 => Ok(version),
            1 => Err(Refusal::Cluster),
            2 => Err(Refusal::NotAMember),
            3 => Err(Refusal::OtherMember),
            4 => Err(Refusal::Version),
            5 => Err(Refusal::SameMember),
            6 => Err(Refusal::Core),
            _ => return Err(FrameError::Content("a refusal of an unknown kind")),
        };
        body.zero(5)?;
        let start = body.u64()?;
        body.end()?;
        Ok(Self {
            cluster: header.cluster,
            from: header.from,
            to: header.to,
            answer,
            start,
        })
    }
}

fn head(cluster: ClusterId, from: MemberId, to: MemberId) -> FrameHeader {
    FrameHeader {
        version: VERSION_NONE,
        cluster,
        from,
        to,
        sequence: 0,
        taken: 0,
    }
}

fn open(bytes: Bytes) -> Result<(FrameHeader, Reader), FrameError> {
    let (header, body) = frame::open(bytes)?;
    if header.version != VERSION_NONE {
        return Err(FrameError::Version {
            expected: VERSION_NONE,
            found: header.version,
        });
    }
    Ok((header, Reader(body)))
}
