//! Listings: all keys of a range in pages, in one answer, or in a stream.

use std::ops::Range;

use tonic::Code;

use super::super::wire::{put_bytes, put_number};
use super::listing::Listing;
use crate::grpc::{Delivery, Failure, Rpc, Session};
use crate::job::ListMode;

/// Field numbers of RangeRequest.
const KEY: u32 = 1;
const RANGE_END: u32 = 2;
const LIMIT: u32 = 3;
const REVISION: u32 = 4;
const SERIALIZABLE: u32 = 7;

/// How all keys of a range are read.
pub struct Pages {
    range: Range<Vec<u8>>,
    mode: ListMode,
    page_limit: u64,
    serializable: bool,
}

impl Pages {
    /// A way to read a range.
    pub fn new(range: Range<Vec<u8>>, mode: ListMode, page_limit: u64, serializable: bool) -> Self {
        Self {
            range,
            mode,
            page_limit,
            serializable,
        }
    }

    /// Forgets what was listed before.
    pub fn begin(&self, listing: &mut Listing) {
        listing.begin(self.mode == ListMode::Stream);
    }

    /// Asks for the first page of a listing, or for the next one if it has begun.
    pub fn call(&self, listing: &Listing, session: &mut Session, token: u32) {
        let rpc = match self.mode {
            ListMode::Stream => Rpc::RangeStream,
            ListMode::Paged | ListMode::Full => Rpc::Range,
        };
        session.call(rpc, token, Delivery::Pieces, |out| self.write(listing, out));
    }

    /// True if the failure says that the server knows no RangeStream: it is asked for one Range
    /// from then on.
    pub fn falls_back(&mut self, listing: &Listing, failure: &Failure) -> bool {
        let is_unknown =
            matches!(failure, Failure::Status { code, .. } if *code == Code::Unimplemented);
        if is_unknown && listing.is_stream() {
            self.mode = ListMode::Full;
        }
        is_unknown && listing.is_stream()
    }

    /// Appends a RangeRequest for what follows the last key that was listed, as kube-apiserver
    /// continues: from the least key behind it, at the revision of the first page.
    fn write(&self, listing: &Listing, out: &mut Vec<u8>) {
        let is_first = listing.key_count == 0;
        if is_first {
            put_bytes(out, KEY, &self.range.start);
        } else {
            put_bytes(out, KEY, &[&listing.last_key[..], b"\0"].concat());
        }
        put_bytes(out, RANGE_END, &self.range.end);
        if self.mode == ListMode::Paged {
            put_number(out, LIMIT, self.page_limit);
        }
        if !is_first {
            put_number(out, REVISION, listing.revision.cast_unsigned());
        }
        if self.serializable {
            put_number(out, SERIALIZABLE, 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
    use keelson_proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;

    fn request(pages: &Pages, listing: &Listing) -> RangeRequest {
        let mut out = Vec::new();
        pages.write(listing, &mut out);
        RangeRequest::decode(&out[..]).unwrap()
    }

    #[test]
    fn pages_continue_behind_the_last_key_at_the_first_revision() {
        let mut pages = Pages::new(b"a/".to_vec()..b"a0".to_vec(), ListMode::Paged, 500, true);
        let mut listing = Listing::default();
        pages.begin(&mut listing);
        let first = request(&pages, &listing);
        assert_eq!(
            (&first.key[..], &first.range_end[..]),
            (&b"a/"[..], &b"a0"[..])
        );
        assert_eq!(
            (first.limit, first.revision, first.serializable),
            (500, 0, true)
        );
        let answer = RangeResponse {
            header: Some(ResponseHeader {
                revision: 77,
                ..Default::default()
            }),
            kvs: vec![KeyValue {
                key: "a/k".into(),
                ..Default::default()
            }],
            more: true,
            count: 9,
        };
        listing.take(&answer.encode_to_vec(), true).unwrap();
        assert!(listing.more);
        listing.begin_page();
        let next = request(&pages, &listing);
        assert_eq!((&next.key[..], next.revision), (&b"a/k\0"[..], 77));
        let unknown = Failure::Status {
            code: Code::Unimplemented,
            message: String::new(),
        };
        assert!(
            !pages.falls_back(&listing, &unknown),
            "no stream was asked for"
        );
    }

    #[test]
    fn a_server_without_streams_is_asked_for_one_answer() {
        let mut pages = Pages::new(b"a".to_vec()..b"b".to_vec(), ListMode::Stream, 500, false);
        let mut listing = Listing::default();
        pages.begin(&mut listing);
        assert!(!pages.falls_back(&listing, &Failure::Answer("other")));
        let unknown = Failure::Status {
            code: Code::Unimplemented,
            message: String::new(),
        };
        assert!(pages.falls_back(&listing, &unknown));
        assert!(
            pages.falls_back(&listing, &unknown),
            "another was under way"
        );
        pages.begin(&mut listing);
        assert!(!listing.is_stream());
        assert_eq!(request(&pages, &listing).limit, 0);
    }
}
