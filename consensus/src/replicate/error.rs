//! Why bytes are no frame. The link they came by is closed.

use keelson_storage::ids::{ClusterId, MemberId};
use keelson_storage::state::CommandError;
use thiserror::Error;

use crate::limits::FRAME_BODY_BYTES_MAX;

/// Why a frame was not accepted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// Whoever is there does not speak this protocol, or the stream is out of step.
    #[error("what arrived is no frame of Keelson's")]
    Magic,
    /// It says that it is longer than a frame may be.
    #[error("frame of {body_bytes} bytes is above the limit of {FRAME_BODY_BYTES_MAX} bytes")]
    TooLong {
        /// Its length.
        body_bytes: u32,
    },
    /// It was changed on its way.
    #[error("the frame's checksum does not match")]
    Checksum,
    /// It is of another version than was agreed on.
    #[error("frame of version {found} on a link of version {expected}")]
    Version {
        /// Agreed on.
        expected: u16,
        /// In the frame.
        found: u16,
    },
    /// The other side belongs to another cluster.
    #[error("cluster {:x} speaks; this member belongs to cluster {:x}", found.0, expected.0)]
    Cluster {
        /// This member's.
        expected: ClusterId,
        /// The other side's.
        found: ClusterId,
    },
    /// It is for or from somebody else.
    #[error(
        "frame from {:x} to {:x} on the link of {:x} to {:x}", from.0, to.0, expected_from.0, expected_to.0
    )]
    Members {
        /// Who sends on the link.
        expected_from: MemberId,
        /// Who receives on it.
        expected_to: MemberId,
        /// In the frame.
        from: MemberId,
        /// In the frame.
        to: MemberId,
    },
    /// Its content is not what it says it is.
    #[error("the frame's content makes no sense: {0}")]
    Content(&'static str),
    /// It holds something that this version does not know.
    #[error("the frame holds an item of kind {0}, which this version does not know")]
    UnknownKind(u8),
    /// Forwarded commands cannot be read.
    #[error("forwarded commands: {0}")]
    Commands(#[from] CommandError),
}
