//! Request heads out of header blocks.
//!
//! A gRPC client sends the same few fields with every call, as indices into the dynamic table, so call after call
//! brings the same bytes. [`Heads`] keeps the last few blocks with what they decode to; while the table stands
//! still the same bytes mean the same fields.

use std::rc::Rc;

use keelson_proto::http2::hpack::{Decoder, HpackError};

use crate::front::limits::HEADER_LIST_BYTES_MAX;

/// Blocks that are remembered: calls of a few methods alternate on a connection.
const BLOCKS_KEPT_MAX: usize = 4;
/// What HTTP/2 adds to each field when it counts a list.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// The fields of a request, with what HTTP/2 requires of them checked.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// `:method`.
    pub(super) method: Box<str>,
    /// `:path`.
    pub(super) path: Box<str>,
    /// All other fields in order.
    fields: Vec<Field>,
}

/// A name, in lower case, and its value.
type Field = (Box<[u8]>, Box<[u8]>);

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// The connection must end.
    Compression(HpackError),
    /// The stream must end: the fields break HTTP/2's rules.
    Malformed,
    /// Answered with 431.
    TooLarge,
}

impl RequestHead {
    /// The value of the first field of that name (in lower case).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .fields
            .iter()
            .find(|(own, _)| &**own == name.as_bytes());
        found.map(|(_, value)| &**value)
    }
}

/// Decodes the header blocks of a connection.
pub(super) struct Heads {
    decoder: Decoder,
    kept: Vec<Kept>,
    /// Which of `kept` is replaced next.
    next: usize,
}

struct Kept {
    block: Box<[u8]>,
    /// [`Decoder::changes`] when it was decoded, and still while it counts.
    changes: u64,
    head: Rc<RequestHead>,
}

impl Heads {
    pub(super) fn new() -> Heads {
        Heads {
            decoder: Decoder::default(),
            kept: Vec::new(),
            next: 0,
        }
    }

    /// The head that a block decodes to.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Rc<RequestHead>, HeadError> {
        let changes = self.decoder.changes();
        let known = |kept: &&Kept| kept.changes == changes && *kept.block == *block;
        if let Some(kept) = self.kept.iter().find(known) {
            return Ok(kept.head.clone());
        }
        let mut builder = Builder::default();
        self.decoder
            .decode(block, |name, value| builder.add(name, value))
            .map_err(HeadError::Compression)?;
        let head = Rc::new(builder.finish()?);
        if self.decoder.changes() == changes {
            let kept = Kept {
                block: block.into(),
                changes,
                head: head.clone(),
            };
            self.keep(kept);
        }
        Ok(head)
    }

    /// Decodes a block that nobody wants, because the tables must stay in step.
    pub(super) fn skip(&mut self, block: &[u8]) -> Result<(), HpackError> {
        self.decoder.decode(block, |_, _| {})
    }

    fn keep(&mut self, kept: Kept) {
        if self.kept.len() < BLOCKS_KEPT_MAX {
            self.kept.push(kept);
        } else {
            self.kept[self.next] = kept;
            self.next = (self.next + 1) % BLOCKS_KEPT_MAX;
        }
    }
}

/// Gathers fields and the first fault among them.
#[derive(Default)]
struct Builder {
    head: RequestHead,
    has_scheme: bool,
    has_authority: bool,
    list_bytes: usize,
    malformed: bool,
}

impl Builder {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.list_bytes += name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        if self.list_bytes > HEADER_LIST_BYTES_MAX as usize || self.malformed {
            return;
        }
        self.malformed = !self.accept(name, value);
    }

    /// False if the field breaks a rule of RFC 9113, section 8.
    fn accept(&mut self, name: &[u8], value: &[u8]) -> bool {
        if let [b':', ..] = name {
            return self.head.fields.is_empty() && self.accept_pseudo(name, value);
        }
        let is_forbidden = match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => true,
            b"te" => value != b"trailers",
            _ => false,
        };
        let is_token = !name.is_empty()
            && name
                .iter()
                .all(|&byte| matches!(byte, b'!'..=b'~') && !byte.is_ascii_uppercase());
        let is_text = !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        if is_forbidden || !is_token || !is_text {
            return false;
        }
        self.head.fields.push((name.into(), value.into()));
        true
    }

    fn accept_pseudo(&mut self, name: &[u8], value: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(value) else {
            return false;
        };
        let once = |seen: &mut bool| !std::mem::replace(seen, true);
        let once_text = |place: &mut Box<str>| {
            let first = place.is_empty() && !text.is_empty();
            *place = text.into();
            first
        };
        match name {
            b":method" => once_text(&mut self.head.method),
            b":path" => once_text(&mut self.head.path),
            b":scheme" => once(&mut self.has_scheme),
            b":authority" => once(&mut self.has_authority),
            _ => false,
        }
    }

    fn finish(self) -> Result<RequestHead, HeadError> {
        if self.list_bytes > HEADER_LIST_BYTES_MAX as usize {
            return Err(HeadError::TooLarge);
        }
        let is_complete =
            !self.head.method.is_empty() && !self.head.path.is_empty() && self.has_scheme;
        if self.malformed || !is_complete {
            return Err(HeadError::Malformed);
        }
        Ok(self.head)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::http2::hpack::{
        index, put_indexed, put_inserted, put_literal, put_new_literal,
    };

    use super::*;

    fn start() -> Vec<u8> {
        let mut block = Vec::new();
        put_indexed(&mut block, index::METHOD_POST);
        put_indexed(&mut block, index::SCHEME_HTTP);
        put_literal(&mut block, index::PATH, b"/etcdserverpb.KV/Put");
        block
    }

    #[test]
    fn a_block_that_repeats_is_decoded_once() {
        let mut heads = Heads::new();
        let mut block = start();
        put_new_literal(&mut block, b"token", b"secret");
        let first = heads.decode(&block).unwrap();
        assert_eq!(
            (&*first.method, &*first.path),
            ("POST", "/etcdserverpb.KV/Put")
        );
        assert_eq!(first.get("token"), Some(&b"secret"[..]));
        assert_eq!(first.get("hasleader"), None);
        assert!(Rc::ptr_eq(&first, &heads.decode(&block).unwrap()));
    }

    #[test]
    fn the_same_bytes_after_a_change_of_the_table_are_decoded_anew() {
        let mut heads = Heads::new();
        let mut insert = start();
        put_inserted(&mut insert, index::USER_AGENT, b"one");
        heads.decode(&insert).unwrap();
        let mut newest = start();
        put_indexed(&mut newest, index::DYNAMIC);
        assert_eq!(
            heads.decode(&newest).unwrap().get("user-agent"),
            Some(&b"one"[..])
        );
        assert_eq!(
            heads.decode(&newest).unwrap().get("user-agent"),
            Some(&b"one"[..])
        );
        let mut insert = start();
        put_inserted(&mut insert, index::USER_AGENT, b"two");
        heads.decode(&insert).unwrap();
        assert_eq!(
            heads.decode(&newest).unwrap().get("user-agent"),
            Some(&b"two"[..])
        );
    }

    #[test]
    fn malformed_heads_are_told_apart() {
        let with = |name: &[u8], value: &[u8]| {
            let mut block = start();
            put_new_literal(&mut block, name, value);
            Heads::new().decode(&block).map(|_| ())
        };
        assert_eq!(with(b"te", b"trailers"), Ok(()));
        let malformed: [(&[u8], &[u8]); 8] = [
            (b"te", b"gzip"),
            (b"connection", b"close"),
            (b"Upper", b"x"),
            (b"", b"x"),
            (b"name", b"line\r\nbreak"),
            (b":path", b"/again"),
            (b":status", b"200"),
            (b"spa ce", b"x"),
        ];
        for (name, value) in malformed {
            assert_eq!(with(name, value), Err(HeadError::Malformed), "{name:?}");
        }
        let large = vec![b'x'; HEADER_LIST_BYTES_MAX as usize];
        assert_eq!(with(b"large", &large), Err(HeadError::TooLarge));
        let mut no_path = Vec::new();
        put_indexed(&mut no_path, index::METHOD_POST);
        put_indexed(&mut no_path, index::SCHEME_HTTP);
        assert_eq!(
            Heads::new().decode(&no_path).map(|_| ()),
            Err(HeadError::Malformed)
        );
        let mut late_pseudo = start();
        put_new_literal(&mut late_pseudo, b"token", b"x");
        put_literal(&mut late_pseudo, index::AUTHORITY, b"host");
        assert_eq!(
            Heads::new().decode(&late_pseudo).map(|_| ()),
            Err(HeadError::Malformed)
        );
        assert_eq!(
            Heads::new().decode(&[0x80]).map(|_| ()),
            Err(HeadError::Compression(HpackError::Index))
        );
    }
}
