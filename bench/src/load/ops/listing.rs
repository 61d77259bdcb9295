//! Reads the answers of a listing in pieces, so that ten megabytes are looked at but never gathered.
//!
//! What must be known of a listing is small: how many keys came, the revision, whether more follow,
//! and the last key, where the next page begins. So values are skipped, and only the head of a
//! field that lies across two pieces is kept until the next one.

use super::super::wire::{Malformed, number_field, read_varint};

/// The head of a pair ends with its key; longer keys are not listed.
const HEAD_BYTES_MAX: usize = 4 << 10;
/// Field numbers of RangeResponse and KeyValue, and the types of their tags.
const HEADER: u64 = 1 << 3 | 2;
const PAIR: u64 = 2 << 3 | 2;
const MORE: u64 = 3 << 3;
const PAIR_KEY: u64 = 1 << 3 | 2;
const HEADER_REVISION: u32 = 3;
/// RangeStreamResponse has one field, which holds a RangeResponse.
const SLICE: u64 = 1 << 3 | 2;

/// What a listing has brought so far.
#[derive(Debug, Default)]
pub struct Listing {
    /// Keys that came, over all pages.
    pub key_count: u64,
    /// Bytes of the messages.
    pub bytes: u64,
    /// The revision in the first header, at which later pages are read.
    pub revision: i64,
    /// The limit cut the answer short.
    pub more: bool,
    /// The last key that came.
    pub last_key: Vec<u8>,
    /// Messages are RangeStreamResponses.
    is_stream: bool,
    /// The head of the slice is still to come.
    awaits_slice: bool,
    /// The beginning of a head whose end is still to come.
    pending: Vec<u8>,
    skip_bytes: usize,
}

impl Listing {
    /// Forgets what came, and expects a RangeResponse or, for a stream, RangeStreamResponses.
    pub fn begin(&mut self, is_stream: bool) {
        self.key_count = 0;
        self.bytes = 0;
        self.revision = 0;
        self.last_key.clear();
        self.is_stream = is_stream;
        self.begin_page();
    }

    /// True if RangeStreamResponses are expected.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Expects the next page of the same listing.
    pub fn begin_page(&mut self) {
        self.more = false;
        self.pending.clear();
        self.skip_bytes = 0;
        self.awaits_slice = self.is_stream;
    }

    /// Takes the next bytes of the answer.
    pub fn take(&mut self, mut piece: &[u8], is_last: bool) -> Result<(), Malformed> {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            let skipped = self.skip_bytes.min(piece.len());
            self.skip_bytes -= skipped;
            piece = &piece[skipped..];
            if piece.is_empty() {
                break;
            }
            piece = if self.pending.is_empty() {
                match self.take_head(piece)? {
                    Some(used) => &piece[used..],
                    None => {
                        self.pending.extend_from_slice(piece);
                        &[]
                    }
                }
            } else {
                self.take_cut_head(piece)?
            };
        }
        if is_last {
            if self.skip_bytes > 0 || !self.pending.is_empty() {
                return Err(Malformed);
            }
            self.awaits_slice = self.is_stream;
        }
        Ok(())
    }

    /// Completes the head that lies across pieces, and returns what follows it.
    fn take_cut_head<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let mut head = std::mem::take(&mut self.pending);
        let before = head.len();
        let room = HEAD_BYTES_MAX.saturating_sub(before);
        let added = &piece[..piece.len().min(room)];
        if added.is_empty() {
            return Err(Malformed);
        }
        head.extend_from_slice(added);
        let used = self.take_head(&head)?;
        let rest = match used {
            // What was there before was too little, so the head ends inside the piece.
            Some(used) => &piece[used - before..],
            None => {
                self.pending = head;
                return Ok(&piece[added.len()..]);
            }
        };
        head.clear();
        self.pending = head;
        Ok(rest)
    }

    /// Reads one head, sets how much is to be skipped behind it, and tells its length; None if it
    /// is cut off.
    fn take_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some((tag, rest)) = read_varint(bytes)? else {
            return Ok(None);
        };
        let Some((number, rest)) = read_varint(rest)? else {
            return Ok(None);
        };
        let head_bytes = bytes.len() - rest.len();
        if std::mem::take(&mut self.awaits_slice) {
            return if tag == SLICE {
                Ok(Some(head_bytes))
            } else {
                Err(Malformed)
            };
        }
        match tag & 7 {
            0 => {
                if tag == MORE {
                    self.more = number != 0;
                }
                Ok(Some(head_bytes))
            }
            2 => {
                let length = usize::try_from(number).map_err(|_| Malformed)?;
                let used = match tag {
                    HEADER => self.take_header(rest, length)?,
                    PAIR => self.take_pair(&rest[..rest.len().min(length)], length)?,
                    _ => Some(0),
                };
                Ok(used.map(|used| {
                    self.skip_bytes = length - used;
                    head_bytes + used
                }))
            }
            _ => Err(Malformed),
        }
    }

    fn take_header(&mut self, bytes: &[u8], length: usize) -> Result<Option<usize>, Malformed> {
        let Some(header) = bytes.get(..length) else {
            return Ok(None);
        };
        let revision = number_field(header, HEADER_REVISION)?.cast_signed();
        if self.revision == 0 {
            self.revision = revision;
        }
        Ok(Some(length))
    }

    /// Reads the key, which stands first; `bytes` is as much of the pair as is there.
    fn take_pair(&mut self, bytes: &[u8], length: usize) -> Result<Option<usize>, Malformed> {
        let key = match read_varint(bytes)? {
            Some((PAIR_KEY, rest)) => match read_varint(rest)? {
                Some((key_bytes, rest)) => {
                    let key_bytes = usize::try_from(key_bytes).map_err(|_| Malformed)?;
                    rest.get(..key_bytes)
                        .map(|key| (key, rest.len() - key_bytes))
                }
                None => None,
            },
            Some(_) => return Err(Malformed),
            None => None,
        };
        let Some((key, behind)) = key else {
            return if bytes.len() == length {
                // The whole pair is there, and its key is not.
                Err(Malformed)
            } else {
                Ok(None)
            };
        };
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.key_count += 1;
        Ok(Some(bytes.len() - behind))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{RangeResponse, RangeStreamResponse, ResponseHeader};
    use keelson_proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;

    fn response() -> RangeResponse {
        RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 1,
                revision: 987_654,
                raft_term: 3,
            }),
            kvs: (0..3)
                .map(|at| KeyValue {
                    key: format!("bench/{at:010}").into(),
                    mod_revision: 5 + at,
                    value: vec![b'v'; 200 * at as usize].into(),
                    ..Default::default()
                })
                .collect(),
            more: true,
            count: 9,
        }
    }

    #[track_caller]
    fn check(listing: &Listing, key_count: u64) {
        assert_eq!(
            (listing.key_count, listing.revision, listing.more),
            (key_count, 987_654, true)
        );
        assert_eq!(listing.last_key, b"bench/0000000002");
    }

    #[test]
    fn an_answer_reads_the_same_wherever_it_is_cut() {
        let bytes = response().encode_to_vec();
        let mut listing = Listing::default();
        for at in 0..=bytes.len() {
            listing.begin(false);
            listing.take(&bytes[..at], false).unwrap();
            listing.take(&bytes[at..], true).unwrap();
            check(&listing, 3);
            assert_eq!(listing.bytes, bytes.len() as u64);
            listing.begin_page();
            for byte in bytes.chunks(1) {
                listing.take(byte, false).unwrap();
            }
            listing.take(&[], true).unwrap();
            check(&listing, 6);
        }
    }

    #[test]
    fn slices_of_a_stream_add_up() {
        let slice = RangeStreamResponse {
            range_response: Some(response()),
        };
        let bytes = slice.encode_to_vec();
        let mut listing = Listing::default();
        for at in 0..bytes.len() {
            listing.begin(true);
            for _ in 0..2 {
                listing.take(&bytes[..at], false).unwrap();
                listing.take(&bytes[at..], true).unwrap();
            }
            check(&listing, 6);
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let whole = response().encode_to_vec();
        let mut listing = Listing::default();
        listing.begin(false);
        assert_eq!(
            listing.take(&whole[..whole.len() - 3], true),
            Err(Malformed)
        );
        for wrong in [
            &[0x12, 2, 0x0a, 9][..],
            &[0x12, 1, 0x12],
            &[0x0b, 1],
            &[0xff; 12],
        ] {
            listing.begin(false);
            assert_eq!(listing.take(wrong, true), Err(Malformed), "{wrong:?}");
        }
        listing.begin(true);
        assert_eq!(listing.take(&[0x12, 0], true), Err(Malformed));
        // A key that never ends is given up.
        listing.begin(false);
        let endless = [
            &[0x12, 0xff, 0xff, 0x7f, 0x0a, 0xff, 0xff, 0x7e][..],
            &[b'k'; 9_000],
        ]
        .concat();
        let taken = endless
            .chunks(100)
            .try_for_each(|part| listing.take(part, false));
        assert_eq!(taken, Err(Malformed));
    }
}
