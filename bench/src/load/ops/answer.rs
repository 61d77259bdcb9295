//! What must be known of the answers about one key.

use super::super::wire::{Fields, Malformed, Value, bytes_field, header_revision, number_field};

/// Field numbers of RangeResponse, TxnResponse, ResponseOp and KeyValue.
const RANGE_KVS: u32 = 2;
const TXN_SUCCEEDED: u32 = 2;
const TXN_RESPONSES: u32 = 3;
const RESPONSE_RANGE: u32 = 1;
const KV_MOD_REVISION: u32 = 3;

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is what it should be.
    Good,
    /// There is no such key.
    Missing,
    /// The guarded change took place at this revision.
    Changed(i64),
    /// The guarded change found this mod revision, 0 for no key.
    Conflict(i64),
}

impl Answer {
    /// Reads a PutResponse, a DeleteRangeResponse, or another of which only the header matters.
    pub fn plain(message: &[u8]) -> Result<Self, Malformed> {
        header_revision(message).map(|_| Self::Good)
    }

    /// Reads the RangeResponse about one key.
    pub fn range(message: &[u8]) -> Result<Self, Malformed> {
        header_revision(message)?;
        let pair = bytes_field(message, RANGE_KVS)?;
        Ok(pair.map_or(Self::Missing, |_| Self::Good))
    }

    /// Reads the TxnResponse to a guarded change.
    pub fn guarded(message: &[u8]) -> Result<Self, Malformed> {
        let revision = header_revision(message)?;
        if number_field(message, TXN_SUCCEEDED)? != 0 {
            return Ok(Self::Changed(revision));
        }
        let mut fields = Fields(message);
        while let Some((field, value)) = fields.next()? {
            if let (TXN_RESPONSES, Value::Bytes(response)) = (field, value) {
                let range = bytes_field(response, RESPONSE_RANGE)?.ok_or(Malformed)?;
                let pair = bytes_field(range, RANGE_KVS)?;
                let found = pair.map_or(Ok(0), |pair| number_field(pair, KV_MOD_REVISION))?;
                return Ok(Self::Conflict(found.cast_signed()));
            }
        }
        Err(Malformed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{
        PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse, response_op::Response,
    };
    use keelson_proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;

    fn range_response(mod_revisions: &[i64]) -> RangeResponse {
        RangeResponse {
            header: header(),
            kvs: mod_revisions
                .iter()
                .map(|&mod_revision| KeyValue {
                    key: "k".into(),
                    mod_revision,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn header() -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: 90,
            ..Default::default()
        })
    }

    fn txn(succeeded: bool, response: Option<Response>) -> Vec<u8> {
        let responses = response.map(|response| ResponseOp {
            response: Some(response),
        });
        TxnResponse {
            header: header(),
            succeeded,
            responses: responses.into_iter().collect(),
        }
        .encode_to_vec()
    }

    #[test]
    fn a_guarded_change_took_place_or_tells_what_it_found() {
        let put = Response::ResponsePut(PutResponse::default());
        assert_eq!(
            Answer::guarded(&txn(true, Some(put.clone()))),
            Ok(Answer::Changed(90))
        );
        let range = |revisions: &[i64]| Response::ResponseRange(range_response(revisions));
        assert_eq!(
            Answer::guarded(&txn(false, Some(range(&[70])))),
            Ok(Answer::Conflict(70))
        );
        assert_eq!(
            Answer::guarded(&txn(false, Some(range(&[])))),
            Ok(Answer::Conflict(0))
        );
        assert_eq!(Answer::guarded(&txn(false, None)), Err(Malformed));
        assert_eq!(Answer::guarded(&txn(false, Some(put))), Err(Malformed));
        assert_eq!(Answer::guarded(&[]), Err(Malformed));
    }

    #[test]
    fn a_key_is_there_or_not() {
        let read = |revisions: &[i64]| Answer::range(&range_response(revisions).encode_to_vec());
        assert_eq!(read(&[7]), Ok(Answer::Good));
        assert_eq!(read(&[]), Ok(Answer::Missing));
        assert_eq!(Answer::range(&[]), Err(Malformed));
        assert_eq!(Answer::plain(&[]), Err(Malformed));
    }
}
