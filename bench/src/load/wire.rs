//! Protobuf as the hot path needs it: fields read where they lie, and the few forms written.

/// Bits of a tag that tell the type of its field.
const TYPE_BITS: u32 = 3;
const VARINT_BYTES_MAX: usize = 10;

/// A message that ends inside a field, or holds a type that protobuf 3 does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// One field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order in which they lie there.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The number and the value of the next field; None at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let field = u32::try_from(tag >> TYPE_BITS).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Number(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.fixed()?))),
            _ => return Err(Malformed),
        };
        Ok(Some((field, value)))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let (value, rest) = read_varint(self.0)?.ok_or(Malformed)?;
        self.0 = rest;
        Ok(value)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (&bytes, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A varint and what follows it; None if more bytes are needed.
pub fn read_varint(bytes: &[u8]) -> Result<Option<(u64, &[u8])>, Malformed> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok(Some((value, &bytes[at + 1..])));
        }
    }
    if bytes.len() >= VARINT_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(None)
}

/// The one embedded message or string of that number; the first one if there are several.
pub fn bytes_field(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, Malformed> {
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        if let Value::Bytes(bytes) = value
            && field == wanted
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The number in that field; 0 if it is not there.
pub fn number_field(message: &[u8], wanted: u32) -> Result<u64, Malformed> {
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        if let Value::Number(number) = value
            && field == wanted
        {
            return Ok(number);
        }
    }
    Ok(0)
}

/// The revision in the header that every answer of etcd's API begins with.
pub fn header_revision(message: &[u8]) -> Result<i64, Malformed> {
    let header = bytes_field(message, 1)?.ok_or(Malformed)?;
    Ok(number_field(header, 3)?.cast_signed())
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field that is a number.
pub fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << TYPE_BITS);
    put_varint(out, value);
}

/// Appends the tag and the length of a field whose bytes follow.
pub fn put_bytes_head(out: &mut Vec<u8>, field: u32, length: usize) {
    put_varint(out, u64::from(field) << TYPE_BITS | 2);
    put_varint(out, length as u64);
}

/// Appends a field that is a string or an embedded message.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_bytes_head(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// How many bytes a varint takes.
pub fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes of a field with a number below 16 that holds so many.
pub fn bytes_field_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{PutResponse, RangeResponse, ResponseHeader};
    use keelson_proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;

    #[test]
    fn varints_have_the_length_they_say() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value));
            out.push(9);
            assert_eq!(read_varint(&out).unwrap(), Some((value, &[9][..])));
            assert_eq!(read_varint(&out[..out.len() - 2]).unwrap_or(None), None);
        }
        assert_eq!(read_varint(&[0xff; 11]), Err(Malformed));
    }

    #[test]
    fn answers_are_read_as_prost_writes_them() {
        let header = Some(ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 7,
            revision: 1_234_567,
            raft_term: 2,
        });
        let put = PutResponse {
            header,
            prev_kv: None,
        };
        assert_eq!(header_revision(&put.encode_to_vec()), Ok(1_234_567));
        assert_eq!(header_revision(&[]), Err(Malformed));
        let range = RangeResponse {
            header,
            kvs: vec![KeyValue {
                key: "k".into(),
                mod_revision: 99,
                ..Default::default()
            }],
            more: true,
            count: 3,
        };
        let bytes = range.encode_to_vec();
        let kv = bytes_field(&bytes, 2).unwrap().unwrap();
        assert_eq!(bytes_field(kv, 1), Ok(Some(&b"k"[..])));
        assert_eq!(number_field(kv, 3), Ok(99));
        assert_eq!(number_field(&bytes, 4), Ok(3));
        for end in 1..bytes.len() {
            let mut fields = Fields(&bytes[..end]);
            while let Ok(Some(_)) = fields.next() {}
        }
    }
}
