//! One watcher: what it wants, and how far it has come.

use bytes::Bytes;
use keelson_proto::etcdserverpb::WatchCreateRequest;
use keelson_proto::etcdserverpb::watch_create_request::FilterType;
use keelson_storage::ids::Revision;
use keelson_storage::mvcc::Change;

use super::intervals::End;

/// What a client asked to watch, in etcd's terms.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// First key; never empty.
    pub key: Bytes,
    /// End of the range: empty for one key, one zero byte for everything from `key` on.
    pub range_end: Bytes,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// Send the value before each event along.
    pub prev_kv: bool,
    /// Send empty responses now and then if nothing happens.
    pub progress_notify: bool,
    /// Split responses above the request size limit.
    pub fragment: bool,
    /// First revision wanted; 0 for what comes next.
    pub start_revision: i64,
    /// Id wanted by the client; 0 lets the stream choose.
    pub watch_id: i64,
}

impl From<WatchCreateRequest> for WatchSpec {
    fn from(request: WatchCreateRequest) -> Self {
        let filtered = |wanted: FilterType| request.filters.contains(&(wanted as i32));
        Self {
            key: if request.key.is_empty() {
                Bytes::from_static(&[0])
            } else {
                Bytes::copy_from_slice(&request.key)
            },
            range_end: Bytes::copy_from_slice(&request.range_end),
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
            start_revision: request.start_revision,
            watch_id: request.watch_id,
        }
    }
}

impl WatchSpec {
    /// Whether no key can ever match.
    pub(super) fn is_empty_range(&self) -> bool {
        !self.range_end.is_empty() && self.range_end[..] != [0] && self.key >= self.range_end
    }

    /// The range to register, or `None` for a single key.
    pub(super) fn end(&self) -> Option<End> {
        match &self.range_end[..] {
            [] => None,
            [0] => Some(End::Open),
            _ => Some(End::Before(self.range_end.clone())),
        }
    }

    pub(super) fn wants(&self, change: &Change) -> bool {
        !(if change.record.tombstone {
            self.no_delete
        } else {
            self.no_put
        })
    }
}

/// A watcher of a stream.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: u64,
    pub(super) id: i64,
    pub(super) spec: WatchSpec,
    pub(super) phase: Phase,
    /// Nothing was sent since the last progress tick.
    pub(super) idle: bool,
    /// Changes of the batch at hand that this watcher matches.
    pub(super) matched: Vec<usize>,
}

/// How far a watcher has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Gets batches as they come, changes from this revision on.
    Live { from: Revision },
    /// Late: everything below the cursor was sent. `asked` while a slice is on its way.
    Late { cursor: Revision, asked: bool },
}

impl Watcher {
    /// Whether progress up to `revision` may be told to it.
    pub(super) fn is_synced(&self, revision: Revision) -> bool {
        match self.phase {
            Phase::Live { from } => {
                revision.next() >= from && revision.0 >= self.spec.start_revision
            }
            Phase::Late { .. } => false,
        }
    }
}
