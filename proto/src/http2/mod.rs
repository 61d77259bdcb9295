//! HTTP/2 on the wire (RFC 9113) and its header compression (RFC 7541), as far as gRPC uses them.
//!
//! The front and the load generator each drive their connections in their own way; what both must
//! read and write alike stands here: the head of a frame, the numbers of the protocol, and
//! [`hpack`]. Nothing here keeps a connection's state but the dynamic tables of HPACK, and nothing
//! does any IO.

mod frame;
pub mod hpack;
mod huffman;

pub use frame::{
    ErrorCode, FRAME_HEAD_BYTES, FrameHead, FrameKind, INITIAL_WINDOW_BYTES, PREFACE, SettingId,
    WINDOW_BYTES_MAX, flags, put_setting, strip_padding,
};
