//! Header blocks of requests: literals the first time, indices from then on, as grpc-go sends them.

use keelson_proto::http2::hpack::{
    TABLE_BYTES_DEFAULT, index, put_indexed, put_inserted, put_literal, put_new_inserted,
    put_new_literal,
};

/// Leading bits of a change of the table's size, here to nothing.
const SIZE_UPDATE_TO_ZERO: u8 = 0x20;
const CONTENT_TYPE: &[u8] = b"application/grpc";
const USER_AGENT: &[u8] = b"keelson-bench";

/// The methods that the generator calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rpc {
    Put,
    Range,
    RangeStream,
    DeleteRange,
    Txn,
    Watch,
    LeaseGrant,
    LeaseKeepAlive,
    Compact,
    Defragment,
}

impl Rpc {
    const ALL: [Self; 10] = [
        Self::Put,
        Self::Range,
        Self::RangeStream,
        Self::DeleteRange,
        Self::Txn,
        Self::Watch,
        Self::LeaseGrant,
        Self::LeaseKeepAlive,
        Self::Compact,
        Self::Defragment,
    ];

    /// Its path in HTTP.
    pub fn path(self) -> &'static str {
        match self {
            Self::Put => "/etcdserverpb.KV/Put",
            Self::Range => "/etcdserverpb.KV/Range",
            Self::RangeStream => "/etcdserverpb.KV/RangeStream",
            Self::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Self::Txn => "/etcdserverpb.KV/Txn",
            Self::Watch => "/etcdserverpb.Watch/Watch",
            Self::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
            Self::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
            Self::Compact => "/etcdserverpb.KV/Compact",
            Self::Defragment => "/etcdserverpb.Maintenance/Defragment",
        }
    }
}

/// Writes the header blocks of one connection.
pub struct RequestHeaders {
    authority: String,
    /// Entries of the dynamic table, oldest first.
    entries: Vec<Entry>,
    /// The block of each method, once all its fields are in the table.
    blocks: [Vec<u8>; Rpc::ALL.len()],
    /// The server grants no table: fields go out as they are.
    is_without_table: bool,
    /// The server is still to be told that we use none.
    owes_size_update: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Authority,
    ContentType,
    UserAgent,
    Te,
    Path(Rpc),
}

impl RequestHeaders {
    /// For requests to `host:port`.
    pub fn new(authority: String) -> Self {
        Self {
            authority,
            entries: Vec::new(),
            blocks: [const { Vec::new() }; Rpc::ALL.len()],
            is_without_table: false,
            owes_size_update: false,
        }
    }

    /// Takes the server's SETTINGS_HEADER_TABLE_SIZE. A table that is smaller than the default is
    /// not used at all: our few fields would not be worth the bookkeeping.
    pub fn on_table_size(&mut self, table_bytes: u32) {
        if (table_bytes as usize) < TABLE_BYTES_DEFAULT && !self.is_without_table {
            self.is_without_table = true;
            self.owes_size_update = true;
        }
    }

    /// Appends the block of a request.
    pub fn write(&mut self, rpc: Rpc, out: &mut Vec<u8>) {
        if self.is_without_table {
            if std::mem::take(&mut self.owes_size_update) {
                out.push(SIZE_UPDATE_TO_ZERO);
            }
            self.write_literals(rpc, out);
            return;
        }
        let known = &self.blocks[rpc as usize];
        if !known.is_empty() {
            out.extend_from_slice(known);
            return;
        }
        let entries_before = self.entries.len();
        let begin = out.len();
        put_indexed(out, index::METHOD_POST);
        put_indexed(out, index::SCHEME_HTTP);
        let fields = [
            Entry::Path(rpc),
            Entry::Authority,
            Entry::ContentType,
            Entry::UserAgent,
            Entry::Te,
        ];
        for field in fields {
            self.write_field(field, out);
        }
        if self.entries.len() > entries_before {
            // Every index has moved.
            self.blocks.iter_mut().for_each(Vec::clear);
        } else {
            self.blocks[rpc as usize].extend_from_slice(&out[begin..]);
        }
    }

    fn write_field(&mut self, field: Entry, out: &mut Vec<u8>) {
        if let Some(at) = self.entries.iter().position(|&entry| entry == field) {
            put_indexed(out, index::DYNAMIC + self.entries.len() - 1 - at);
            return;
        }
        match field {
            Entry::Path(rpc) => put_inserted(out, index::PATH, rpc.path().as_bytes()),
            Entry::Authority => put_inserted(out, index::AUTHORITY, self.authority.as_bytes()),
            Entry::ContentType => put_inserted(out, index::CONTENT_TYPE, CONTENT_TYPE),
            Entry::UserAgent => put_inserted(out, index::USER_AGENT, USER_AGENT),
            Entry::Te => put_new_inserted(out, b"te", b"trailers"),
        }
        self.entries.push(field);
    }

    fn write_literals(&self, rpc: Rpc, out: &mut Vec<u8>) {
        put_indexed(out, index::METHOD_POST);
        put_indexed(out, index::SCHEME_HTTP);
        put_literal(out, index::PATH, rpc.path().as_bytes());
        put_literal(out, index::AUTHORITY, self.authority.as_bytes());
        put_literal(out, index::CONTENT_TYPE, CONTENT_TYPE);
        put_literal(out, index::USER_AGENT, USER_AGENT);
        put_new_literal(out, b"te", b"trailers");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::http2::hpack::Decoder;

    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut fields = Vec::new();
        let decoded = decoder.decode(block, |name, value| fields.push((text(name), text(value))));
        decoded.unwrap();
        fields
    }

    #[test]
    fn a_block_means_the_same_in_any_order_of_methods() {
        let mut decoder = Decoder::default();
        let mut headers = RequestHeaders::new("127.0.0.1:2379".to_owned());
        let mut lengths = Vec::new();
        for round in 0..3 {
            for rpc in Rpc::ALL {
                if round == 2 && rpc == Rpc::Txn {
                    headers.on_table_size(100);
                }
                let mut block = Vec::new();
                headers.write(rpc, &mut block);
                let expected = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", rpc.path()),
                    (":authority", "127.0.0.1:2379"),
                    ("content-type", "application/grpc"),
                    ("user-agent", "keelson-bench"),
                    ("te", "trailers"),
                ];
                let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
                assert_eq!(fields(&mut decoder, &block), expected, "{rpc:?}");
                lengths.push(block.len());
            }
        }
        assert!(lengths[..Rpc::ALL.len()].iter().all(|&length| length > 20));
        assert_eq!(lengths[Rpc::ALL.len()..][..4], [7; 4]);
        let (update, literals) = (lengths[2 * Rpc::ALL.len() + 4], lengths.last().unwrap());
        assert!(update > 50 && *literals > 50);
    }

    #[test]
    fn all_entries_fit_the_default_table() {
        let mut headers =
            RequestHeaders::new("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into());
        let mut bytes = 0;
        for rpc in Rpc::ALL {
            let mut block = Vec::new();
            headers.write(rpc, &mut block);
            bytes += block.len() + 32 * 5;
        }
        assert!(bytes < TABLE_BYTES_DEFAULT, "{bytes}");
    }
}
