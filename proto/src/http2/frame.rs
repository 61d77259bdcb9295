//! The head of a frame, and the numbers of RFC 9113.

use bytes::BufMut;

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 9;
/// The window of a stream and of a connection until someone says otherwise.
pub const INITIAL_WINDOW_BYTES: u32 = 65_535;
/// No window may grow beyond this.
pub const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

/// Flags of frames; each belongs to the kinds that are named.
pub mod flags {
    /// The last frame of this side of a stream: DATA, HEADERS.
    pub const END_STREAM: u8 = 0x1;
    /// An answer: SETTINGS, PING.
    pub const ACK: u8 = 0x1;
    /// No CONTINUATION follows: HEADERS, CONTINUATION.
    pub const END_HEADERS: u8 = 0x4;
    /// A length of padding stands before the payload: DATA, HEADERS.
    pub const PADDED: u8 = 0x8;
    /// Five bytes of priority stand before the header block: HEADERS.
    pub const PRIORITY: u8 = 0x20;
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Bytes of a body.
    Data = 0x0,
    /// A header block, or its beginning.
    Headers = 0x1,
    /// Obsolete.
    Priority = 0x2,
    /// The end of a stream by one side.
    RstStream = 0x3,
    /// Parameters of a connection.
    Settings = 0x4,
    /// Obsolete with gRPC.
    PushPromise = 0x5,
    /// A sign of life.
    Ping = 0x6,
    /// No new streams.
    GoAway = 0x7,
    /// More room for DATA.
    WindowUpdate = 0x8,
    /// The rest of a header block.
    Continuation = 0x9,
}

impl FrameKind {
    /// The kind of a number; `None` for kinds that must be ignored.
    pub const fn of(number: u8) -> Option<Self> {
        Some(match number {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::RstStream,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            _ => return None,
        })
    }
}

/// Parameters in a SETTINGS frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum SettingId {
    /// Bytes of the dynamic table that the other side's encoder may use.
    HeaderTableSize = 0x1,
    /// Whether the server may push.
    EnablePush = 0x2,
    /// Streams that the other side may have open.
    MaxConcurrentStreams = 0x3,
    /// The window that streams begin with.
    InitialWindowSize = 0x4,
    /// The longest payload of a frame.
    MaxFrameSize = 0x5,
    /// The longest header list.
    MaxHeaderListSize = 0x6,
}

/// Why a stream or a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// It was meant to.
    NoError = 0x0,
    /// A rule was broken that has no code of its own.
    ProtocolError = 0x1,
    /// This side's fault.
    InternalError = 0x2,
    /// A window was overrun.
    FlowControlError = 0x3,
    /// SETTINGS were not answered.
    SettingsTimeout = 0x4,
    /// A frame for a stream that has ended.
    StreamClosed = 0x5,
    /// A frame of an impossible length.
    FrameSizeError = 0x6,
    /// Not taken up: it may be tried again.
    RefusedStream = 0x7,
    /// Not wanted any more.
    Cancel = 0x8,
    /// The header compression is out of step.
    CompressionError = 0x9,
    /// A tunnel broke.
    ConnectError = 0xa,
    /// The other side asks too much.
    EnhanceYourCalm = 0xb,
    /// The transport is not safe enough.
    InadequateSecurity = 0xc,
    /// HTTP/1.1 is wanted.
    Http11Required = 0xd,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes behind the head.
    pub payload_bytes: u32,
    /// See [`FrameKind::of`].
    pub kind: u8,
    /// See [`flags`].
    pub flags: u8,
    /// 0 is the connection itself.
    pub stream: u32,
}

impl FrameHead {
    /// A head of a known kind.
    pub const fn new(kind: FrameKind, flags: u8, stream: u32, payload_bytes: u32) -> Self {
        Self {
            payload_bytes,
            kind: kind as u8,
            flags,
            stream,
        }
    }

    /// Reads a head; the reserved bit is ignored, as it must be.
    pub const fn parse(bytes: &[u8; FRAME_HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            payload_bytes: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    /// The bytes of the head.
    pub const fn to_bytes(self) -> [u8; FRAME_HEAD_BYTES] {
        let [_, l0, l1, l2] = self.payload_bytes.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Writes the head.
    pub fn write(self, out: &mut impl BufMut) {
        out.put_slice(&self.to_bytes());
    }

    /// True if the flag is set.
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes one parameter of a SETTINGS frame.
pub fn put_setting(out: &mut impl BufMut, id: SettingId, value: u32) {
    out.put_u16(id as u16);
    out.put_u32(value);
}

/// What is left of a DATA or HEADERS payload without its padding; `None` if the padding is longer
/// than the payload, which ends the connection.
pub fn strip_padding(head: FrameHead, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(flags::PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    let end = rest.len().checked_sub(usize::from(padding))?;
    Some(&rest[..end])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_the_wire() {
        let head = FrameHead::new(
            FrameKind::Headers,
            flags::END_HEADERS | flags::END_STREAM,
            0x7fff_fffe,
            0x01_02_03,
        );
        let bytes = head.to_bytes();
        assert_eq!(bytes, [1, 2, 3, 1, 5, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(FrameHead::parse(&bytes), head);
        let reserved = [0, 0, 0, 0, 0, 0x80, 0, 0, 1];
        assert_eq!(FrameHead::parse(&reserved).stream, 1);
        for number in 0..=0xff {
            if let Some(kind) = FrameKind::of(number) {
                assert_eq!(kind as u8, number);
            }
        }
    }

    #[test]
    fn padding_is_taken_off() {
        let padded = FrameHead::new(FrameKind::Data, flags::PADDED, 1, 5);
        assert_eq!(strip_padding(padded, &[2, 7, 8, 0, 0]), Some(&[7, 8][..]));
        assert_eq!(strip_padding(padded, &[4, 0, 0, 0, 0]), Some(&[][..]));
        assert_eq!(strip_padding(padded, &[5, 0, 0, 0, 0]), None);
        assert_eq!(strip_padding(padded, &[]), None);
        let plain = FrameHead::new(FrameKind::Data, 0, 1, 2);
        assert_eq!(strip_padding(plain, &[9, 9]), Some(&[9, 9][..]));
    }
}
