//! Header blocks of answers: the HTTP status, and gRPC's status and message.
//!
//! Once a server has put its few fields into the dynamic table, its blocks repeat byte for byte.
//! What two of them meant is remembered for as long as the table stands still, so most answers cost
//! a comparison of a few bytes.

use tonic::Code;

use keelson_proto::http2::hpack::{Decoder, HpackError};

use super::failure::Failure;

/// Longest block that is remembered.
const MEMO_BYTES_MAX: usize = 16;
/// Blocks remembered: headers and trailers of a good answer.
const MEMO_COUNT: usize = 2;
/// Leading bits of a change of the table's size, which is not a field.
const SIZE_UPDATE: u8 = 0x20;
const SIZE_UPDATE_MASK: u8 = 0xe0;

/// What a header block says, as far as gRPC cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    pub http_status: Option<u16>,
    pub grpc_status: Option<u32>,
    /// `grpc-message` as it came, percent signs and all.
    message: Vec<u8>,
}

/// Reads the header blocks of one connection.
#[derive(Default)]
pub struct AnswerHeaders {
    decoder: Decoder,
    memos: [Memo; MEMO_COUNT],
    next_memo: usize,
}

/// A block that was read.
#[derive(Default)]
struct Memo {
    block: [u8; MEMO_BYTES_MAX],
    /// 0 if there is none.
    block_bytes: usize,
    /// The state of the table in which it was read.
    changes: u64,
    meaning: Meaning,
}

impl AnswerHeaders {
    /// Reads one block.
    pub fn read(&mut self, block: &[u8]) -> Result<Meaning, HpackError> {
        let changes = self.decoder.changes();
        let known = self.memos.iter().find(|memo| {
            memo.changes == changes
                && memo.block_bytes > 0
                && memo.block[..memo.block_bytes] == *block
        });
        if let Some(memo) = known {
            return Ok(memo.meaning.clone());
        }
        let mut meaning = Meaning::default();
        self.decoder
            .decode(block, |name, value| meaning.add(name, value))?;
        let first = block.first().copied().unwrap_or(SIZE_UPDATE);
        let repeats = self.decoder.changes() == changes && first & SIZE_UPDATE_MASK != SIZE_UPDATE;
        if repeats && block.len() <= MEMO_BYTES_MAX && meaning.message.is_empty() {
            let memo = &mut self.memos[self.next_memo];
            memo.block[..block.len()].copy_from_slice(block);
            memo.block_bytes = block.len();
            memo.changes = changes;
            memo.meaning = meaning.clone();
            self.next_memo = (self.next_memo + 1) % MEMO_COUNT;
        }
        Ok(meaning)
    }
}

impl Meaning {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        match name {
            // A number that is none is as good as a status that nobody knows.
            b":status" => self.http_status = Some(number(value).unwrap_or(0) as u16),
            b"grpc-status" => {
                self.grpc_status = Some(number(value).unwrap_or(Code::Unknown as u32));
            }
            b"grpc-message" => self.message = value.to_vec(),
            _ => {}
        }
    }

    /// How the call ended, said by its last header block.
    pub fn outcome(&self) -> Result<(), Failure> {
        match self.grpc_status {
            Some(0) => Ok(()),
            Some(code) => Err(Failure::Status {
                code: Code::from_i32(i32::try_from(code).unwrap_or(i32::MAX)),
                message: percent_decoded(&self.message),
            }),
            None => Err(Failure::Answer("no grpc-status")),
        }
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// gRPC writes what is not printable ASCII as `%XX`; anything else is left as it is.
fn percent_decoded(text: &[u8]) -> String {
    let hex = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if let (b'%', Some(high), Some(low)) = (text[at], hex(at + 1), hex(at + 2)) {
            bytes.push((high * 16 + low) as u8);
            at += 3;
        } else {
            bytes.push(text[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::http2::hpack::{put_inserted, put_literal, put_new_inserted};

    use super::*;

    #[test]
    fn what_is_remembered_is_forgotten_when_the_table_moves() {
        let mut headers = AnswerHeaders::default();
        let mut block = Vec::new();
        put_new_inserted(&mut block, b"grpc-status", b"0");
        assert_eq!(headers.read(&block).unwrap().grpc_status, Some(0));
        for _ in 0..3 {
            assert_eq!(headers.read(&[0xbe]).unwrap().grpc_status, Some(0));
        }
        block.clear();
        put_new_inserted(&mut block, b"grpc-status", b"5");
        assert_eq!(headers.read(&block).unwrap().grpc_status, Some(5));
        // The same bytes mean something else now, and the older entry has moved on.
        assert_eq!(headers.read(&[0xbe]).unwrap().grpc_status, Some(5));
        assert_eq!(headers.read(&[0xbf]).unwrap().grpc_status, Some(0));
        assert_eq!(headers.read(&[0xbe]).unwrap().grpc_status, Some(5));
        assert!(headers.read(&[0xc0]).is_err());
    }

    #[test]
    fn a_status_is_a_code_and_a_message() {
        let mut headers = AnswerHeaders::default();
        let mut block = vec![0x88];
        let meaning = headers.read(&block).unwrap();
        assert_eq!(meaning.http_status, Some(200));
        assert_eq!(meaning.outcome().unwrap_err().code(), "UnexpectedAnswer");
        put_new_inserted(&mut block, b"grpc-status", b"8");
        put_new_inserted(
            &mut block,
            b"grpc-message",
            b"etcdserver: 100%25 full%21 %zz%",
        );
        let failure = headers.read(&block).unwrap().outcome().unwrap_err();
        assert_eq!(failure.code(), "ResourceExhausted");
        assert!(failure.to_string().ends_with("100% full! %zz%"));
        assert!(!failure.breaks_connection());
    }

    #[test]
    fn numbers_that_are_none_are_no_success() {
        let mut headers = AnswerHeaders::default();
        let mut block = Vec::new();
        put_literal(&mut block, 8, b"2x0");
        put_new_inserted(&mut block, b"grpc-status", b"");
        let meaning = headers.read(&block).unwrap();
        assert_eq!(meaning.http_status, Some(0));
        assert_eq!(meaning.outcome().unwrap_err().code(), "Unknown");
        block.clear();
        put_inserted(&mut block, 8, b"503");
        assert_eq!(headers.read(&block).unwrap().http_status, Some(503));
    }
}
