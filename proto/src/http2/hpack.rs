//! HPACK (RFC 7541): a decoder for whatever a peer sends, and the few forms that we send.
//!
//! gRPC repeats the same header fields call after call. Peers put them into the dynamic table once
//! and then send an index each, so a block is a handful of bytes, and decoding it touches no
//! allocator. Our own encoders do the same by hand with the functions below: they know their few
//! fields ahead and count the entries they made.
//!
//! Invariants:
//! 1. The dynamic table never holds more than what we announced (SETTINGS_HEADER_TABLE_SIZE).
//! 2. After an error the connection must end: both sides' tables are out of step.

use std::collections::VecDeque;

use bytes::BufMut;

use super::huffman;

/// The dynamic table's size until SETTINGS say otherwise.
pub const TABLE_BYTES_DEFAULT: usize = 4_096;
/// What an entry counts besides its text.
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// Bytes of an integer behind its prefix; more cannot be a length or an index.
const INTEGER_BYTES_MAX: usize = 4;

/// Indices of the static table that gRPC uses.
pub mod index {
    /// `:authority`, without a value.
    pub const AUTHORITY: usize = 1;
    /// `:method: POST`.
    pub const METHOD_POST: usize = 3;
    /// `:path`, for its name.
    pub const PATH: usize = 4;
    /// `:scheme: http`.
    pub const SCHEME_HTTP: usize = 6;
    /// `:status: 200`, also for its name.
    pub const STATUS_200: usize = 8;
    /// `content-type`, without a value.
    pub const CONTENT_TYPE: usize = 31;
    /// `user-agent`, without a value.
    pub const USER_AGENT: usize = 58;
    /// The dynamic table's newest entry.
    pub const DYNAMIC: usize = super::STATIC_TABLE.len() + 1;
}

#[rustfmt::skip]
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// Why a header block cannot be decoded. Each is a connection error (COMPRESSION_ERROR).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends inside a field.
    #[error("the header block ends inside a field")]
    Truncated,
    /// An integer of more bytes than any length or index has.
    #[error("an integer in the header block is too long")]
    Integer,
    /// An index that neither table has.
    #[error("the header block names an entry that does not exist")]
    Index,
    /// A string that is not Huffman code.
    #[error("a string in the header block is not Huffman code")]
    Huffman,
    /// The encoder claims a larger table than it was granted, or changes it in the middle of a block.
    #[error("the header block resizes the table against the rules")]
    TableSize,
}

/// Decodes the header blocks of one direction of one connection.
pub struct Decoder {
    entries: VecDeque<Entry>,
    /// Size of the entries as the RFC counts it.
    table_bytes: usize,
    /// What the encoder has set.
    table_bytes_max: usize,
    /// What we have granted.
    table_bytes_granted: usize,
    insertions: u64,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Name and value, one behind the other.
struct Entry {
    text: Box<[u8]>,
    name_bytes: usize,
}

/// How a string literal or a number is read: what is left of the block.
struct Reader<'a>(&'a [u8]);

impl Default for Decoder {
    fn default() -> Self {
        Self::new(TABLE_BYTES_DEFAULT)
    }
}

impl Decoder {
    /// A decoder whose table may have this many bytes; SETTINGS must say so if it is not the default.
    pub fn new(table_bytes_granted: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            table_bytes: 0,
            table_bytes_max: table_bytes_granted.min(TABLE_BYTES_DEFAULT),
            table_bytes_granted,
            insertions: 0,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// How often the table has changed. The same block decodes to the same fields, and changes nothing, as long as
    /// this stands still over it.
    pub fn changes(&self) -> u64 {
        self.insertions
    }

    /// Decodes one whole block and hands over each name and value.
    ///
    /// # Errors
    /// The block breaks the rules; the fields before the fault have been handed over.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut on_field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut reader = Reader(block);
        let mut seen_field = false;
        while let Some(&first) = reader.0.first() {
            match first {
                0x80.. => {
                    let index = reader.integer(7)?;
                    let (name, value) = self.field(index)?;
                    on_field(name, value);
                }
                0x40..=0x7f => {
                    self.literal(&mut reader, 6)?;
                    on_field(&self.name, &self.value);
                    self.insert();
                }
                0x20..=0x3f => {
                    let bytes_max = reader.integer(5)?;
                    if seen_field || bytes_max > self.table_bytes_granted {
                        return Err(HpackError::TableSize);
                    }
                    self.table_bytes_max = bytes_max;
                    self.evict(0);
                    continue;
                }
                // Without indexing, and never indexed: the same to us.
                _ => {
                    self.literal(&mut reader, 4)?;
                    on_field(&self.name, &self.value);
                }
            }
            seen_field = true;
        }
        Ok(())
    }

    /// Reads a literal field into `name` and `value`.
    fn literal(&mut self, reader: &mut Reader<'_>, prefix_bits: u32) -> Result<(), HpackError> {
        let index = reader.integer(prefix_bits)?;
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        let read = if index == 0 {
            reader.string(&mut name)
        } else {
            self.field(index)
                .map(|(indexed, _)| name.extend_from_slice(indexed))
        };
        self.name = name;
        read?;
        self.value.clear();
        reader.string(&mut self.value)
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        if let Some(at) = index.checked_sub(index::DYNAMIC) {
            let entry = self.entries.get(at).ok_or(HpackError::Index)?;
            return Ok(entry.text.split_at(entry.name_bytes));
        }
        let at = index.checked_sub(1).ok_or(HpackError::Index)?;
        let (name, value) = STATIC_TABLE[at];
        Ok((name.as_bytes(), value.as_bytes()))
    }

    /// Puts `name` and `value` into the table. One that is larger than the table empties it.
    fn insert(&mut self) {
        let name_bytes = self.name.len();
        let entry_bytes = name_bytes + self.value.len() + ENTRY_OVERHEAD_BYTES;
        self.evict(entry_bytes);
        self.insertions += 1;
        if entry_bytes <= self.table_bytes_max {
            let text = [&self.name[..], &self.value[..]]
                .concat()
                .into_boxed_slice();
            self.entries.push_front(Entry { text, name_bytes });
            self.table_bytes += entry_bytes;
        }
    }

    /// Drops the oldest entries until `coming_bytes` more fit.
    fn evict(&mut self, coming_bytes: usize) {
        while self.table_bytes + coming_bytes > self.table_bytes_max {
            let Some(oldest) = self.entries.pop_back() else {
                break;
            };
            self.table_bytes -= oldest.text.len() + ENTRY_OVERHEAD_BYTES;
            self.insertions += 1;
        }
    }
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, HpackError> {
        let (&byte, rest) = self.0.split_first().ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(byte)
    }

    /// An integer whose first byte holds `prefix_bits` of it.
    fn integer(&mut self, prefix_bits: u32) -> Result<usize, HpackError> {
        let prefix_max = (1_usize << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & prefix_max;
        if value < prefix_max {
            return Ok(value);
        }
        for at in 0..INTEGER_BYTES_MAX {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer)
    }

    /// Appends a string to `out`.
    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), HpackError> {
        let is_huffman = self.0.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
        let length = self.integer(7)?;
        if length > self.0.len() {
            return Err(HpackError::Truncated);
        }
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        if is_huffman {
            huffman::decode(text, out).ok_or(HpackError::Huffman)
        } else {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}

/// Writes a field that is in a table.
pub fn put_indexed(out: &mut impl BufMut, index: usize) {
    put_integer(out, 0x80, 7, index);
}

/// Writes a field whose name is in a table, and leaves the tables alone.
pub fn put_literal(out: &mut impl BufMut, name_index: usize, value: &[u8]) {
    put_integer(out, 0x00, 4, name_index);
    put_string(out, value);
}

/// Writes a field that is in no table, and leaves the tables alone.
pub fn put_new_literal(out: &mut impl BufMut, name: &[u8], value: &[u8]) {
    out.put_u8(0x00);
    put_string(out, name);
    put_string(out, value);
}

/// Writes a field whose name is in a table and makes it the newest entry of the dynamic table.
pub fn put_inserted(out: &mut impl BufMut, name_index: usize, value: &[u8]) {
    put_integer(out, 0x40, 6, name_index);
    put_string(out, value);
}

/// Writes a field that is in no table and makes it the newest entry of the dynamic table.
pub fn put_new_inserted(out: &mut impl BufMut, name: &[u8], value: &[u8]) {
    out.put_u8(0x40);
    put_string(out, name);
    put_string(out, value);
}

/// Tells the decoder a new size of its dynamic table. Stands at the beginning of a block.
pub fn put_table_size(out: &mut impl BufMut, bytes_max: usize) {
    put_integer(out, 0x20, 5, bytes_max);
}

/// Strings go out as they are: Huffman code would cost more time than the bytes it saves.
fn put_string(out: &mut impl BufMut, text: &[u8]) {
    put_integer(out, 0x00, 7, text.len());
    out.put_slice(text);
}

fn put_integer(out: &mut impl BufMut, pattern: u8, prefix_bits: u32, value: usize) {
    let prefix_max = (1_usize << prefix_bits) - 1;
    if value < prefix_max {
        out.put_u8(pattern | value as u8);
        return;
    }
    out.put_u8(pattern | prefix_max as u8);
    let mut rest = value - prefix_max;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
