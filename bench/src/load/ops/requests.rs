//! Messages of the plain operations, encoded once; keys and revisions are written into a copy.

use prost::Message;

use keelson_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use super::super::keys::KeyText;
use super::super::wire::{put_bytes, put_bytes_head, put_number, varint_bytes};

/// Field numbers of TxnRequest, RequestOp and Compare.
mod txn {
    pub const COMPARE: u32 = 1;
    pub const SUCCESS: u32 = 2;
    pub const FAILURE: u32 = 3;
    pub const OP_RANGE: u32 = 1;
    pub const OP_PUT: u32 = 2;
    pub const COMPARE_TARGET: u32 = 2;
    pub const COMPARE_KEY: u32 = 3;
    pub const COMPARE_MOD_REVISION: u32 = 6;
    pub const TARGET_MOD: u64 = 2;
}

/// A message in which only keys differ from one request to the next.
struct Template {
    bytes: Vec<u8>,
    /// Where the key stands.
    keys: Vec<usize>,
}

/// The messages of one job.
pub struct Requests {
    keys: KeyText,
    put: Template,
    range: Template,
    delete: Template,
    /// Both branches of the update, which follow its comparison.
    branches: Template,
}

impl Template {
    fn new(bytes: Vec<u8>, key: &[u8]) -> Self {
        let found = bytes.windows(key.len()).enumerate();
        let keys = found
            .filter_map(|(at, window)| (window == key).then_some(at))
            .collect();
        Self { bytes, keys }
    }

    fn write(&self, text: &KeyText, key: u64, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        for &at in &self.keys {
            text.patch(&mut out[begin + at..], key);
        }
    }
}

impl Requests {
    /// Prepares the messages for keys that look like these.
    pub fn new(keys: KeyText, value: &[u8], serializable: bool) -> Self {
        let key = keys.key(0);
        let put = PutRequest {
            key: key.clone().into(),
            value: value.to_vec().into(),
            ..Default::default()
        };
        let range = RangeRequest {
            key: key.clone().into(),
            serializable,
            ..Default::default()
        };
        let reread = RangeRequest {
            key: key.clone().into(),
            ..Default::default()
        };
        let delete = DeleteRangeRequest {
            key: key.clone().into(),
            ..Default::default()
        };
        let mut branches = Vec::new();
        put_operation(&mut branches, txn::SUCCESS, txn::OP_PUT, &put);
        put_operation(&mut branches, txn::FAILURE, txn::OP_RANGE, &reread);
        let template = |bytes: Vec<u8>, count: usize| {
            let template = Template::new(bytes, &key);
            assert_eq!(
                template.keys.len(),
                count,
                "each key is found, and nothing else"
            );
            template
        };
        Self {
            put: template(put.encode_to_vec(), 1),
            range: template(range.encode_to_vec(), 1),
            delete: template(delete.encode_to_vec(), 1),
            branches: template(branches, 2),
            keys,
        }
    }

    /// The keys that the messages name.
    pub fn keys(&self) -> &KeyText {
        &self.keys
    }

    /// Appends a PutRequest.
    pub fn put(&self, key: u64, out: &mut Vec<u8>) {
        self.put.write(&self.keys, key, out);
    }

    /// Appends a RangeRequest for one key.
    pub fn range(&self, key: u64, out: &mut Vec<u8>) {
        self.range.write(&self.keys, key, out);
    }

    /// Appends a DeleteRangeRequest for one key.
    pub fn delete(&self, key: u64, out: &mut Vec<u8>) {
        self.delete.write(&self.keys, key, out);
    }

    /// Appends the TxnRequest that kube-apiserver sends to update an object: put if the mod
    /// revision is the known one, else read.
    pub fn update(&self, key: u64, mod_revision: i64, out: &mut Vec<u8>) {
        put_mod_compare(out, self.keys.bytes(), mod_revision, |out| {
            self.keys.write(key, out);
        });
        self.branches.write(&self.keys, key, out);
    }

    /// Appends a TxnRequest that puts a row of keys.
    pub fn put_batch(&self, keys: std::ops::Range<u64>, out: &mut Vec<u8>) {
        for key in keys {
            let put_bytes = self.put.bytes.len();
            let op_bytes = 1 + varint_bytes(put_bytes as u64) + put_bytes;
            put_bytes_head(out, txn::SUCCESS, op_bytes);
            put_bytes_head(out, txn::OP_PUT, put_bytes);
            self.put(key, out);
        }
    }
}

/// Appends the comparison of a key's mod revision with a known one; `key` writes the key.
pub fn put_mod_compare(
    out: &mut Vec<u8>,
    key_bytes: usize,
    mod_revision: i64,
    key: impl FnOnce(&mut Vec<u8>),
) {
    let revision = mod_revision.cast_unsigned();
    let target_bytes = 2;
    let key_field_bytes = 1 + varint_bytes(key_bytes as u64) + key_bytes;
    // 0 is written too: the comparison is a oneof.
    let revision_bytes = 1 + varint_bytes(revision);
    put_bytes_head(
        out,
        txn::COMPARE,
        target_bytes + key_field_bytes + revision_bytes,
    );
    put_number(out, txn::COMPARE_TARGET, txn::TARGET_MOD);
    put_bytes_head(out, txn::COMPARE_KEY, key_bytes);
    key(out);
    put_number(out, txn::COMPARE_MOD_REVISION, revision);
}

/// Appends one operation of a branch of a TxnRequest.
fn put_operation(out: &mut Vec<u8>, branch: u32, operation: u32, request: &impl Message) {
    let mut op = Vec::new();
    put_bytes(&mut op, operation, &request.encode_to_vec());
    put_bytes(out, branch, &op);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{Compare, RequestOp, TxnRequest, compare, request_op};

    use super::*;

    const VALUE: &[u8] = &[7; 300];

    fn requests() -> Requests {
        Requests::new(KeyText::new(b"bench/", 16), VALUE, true)
    }

    fn put(key: &'static [u8]) -> PutRequest {
        PutRequest {
            key: key.into(),
            value: VALUE.into(),
            ..Default::default()
        }
    }

    fn op(request: request_op::Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    #[test]
    fn patched_messages_are_the_requests_with_that_key() {
        let requests = requests();
        let mut out = Vec::new();
        requests.put(1_234_567_890, &mut out);
        assert_eq!(
            PutRequest::decode(&out[..]).unwrap(),
            put(b"bench/1234567890")
        );
        out.clear();
        requests.range(42, &mut out);
        let range = RangeRequest::decode(&out[..]).unwrap();
        assert_eq!(&range.key[..], b"bench/0000000042");
        assert!(range.serializable && range.range_end.is_empty());
        out.clear();
        requests.delete(0, &mut out);
        let delete = DeleteRangeRequest::decode(&out[..]).unwrap();
        assert_eq!(&delete.key[..], b"bench/0000000000");
    }

    #[test]
    fn an_update_compares_writes_or_reads() {
        let key = b"bench/0000000007";
        for revision in [0, 5, 300, i64::MAX] {
            let mut out = Vec::new();
            requests().update(7, revision, &mut out);
            let expected = TxnRequest {
                compare: vec![Compare {
                    result: compare::CompareResult::Equal.into(),
                    target: compare::CompareTarget::Mod.into(),
                    key: key[..].into(),
                    target_union: Some(compare::TargetUnion::ModRevision(revision)),
                    ..Default::default()
                }],
                success: vec![op(request_op::Request::RequestPut(put(key)))],
                failure: vec![op(request_op::Request::RequestRange(RangeRequest {
                    key: key[..].into(),
                    ..Default::default()
                }))],
            };
            assert_eq!(TxnRequest::decode(&out[..]).unwrap(), expected);
        }
    }

    #[test]
    fn a_batch_puts_each_key_of_its_row() {
        let mut out = Vec::new();
        requests().put_batch(8..10, &mut out);
        let txn = TxnRequest::decode(&out[..]).unwrap();
        let expected = [b"bench/0000000008", b"bench/0000000009"]
            .map(|key| op(request_op::Request::RequestPut(put(key))));
        assert_eq!(txn.success, expected);
    }
}
