//! What front cores and the engine say to each other, one ring each way per core.
//!
//! A front sends [`Inbound`]; the engine answers every token but [`NO_TOKEN`] exactly once. Answers, event batches and
//! progress marks to one core leave in the order in which the engine produced them: that order is what
//! makes watch progress and list-then-watch exact.

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    AlarmMember, Member, RangeRequest, ResponseHeader, StatusResponse, TxnRequest,
};
use keelson_storage::ids::{LeaseId, MemberId, Revision};
use keelson_storage::mvcc::{Change, HashScan, Record, Selection};
use keelson_storage::snapshot::PinnedFile;
use keelson_storage::state::{Renewal, Request, Response};

/// Names a waiting request on the core that sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Token of questions whose answer is not a reply.
pub const NO_TOKEN: Token = Token(u64::MAX);

/// Names a watcher on its core: slot and generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WatcherKey(pub u64);

/// Names a watch stream on its core: slot and generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKey(pub u64);

/// One message from a front core.
#[derive(Debug)]
pub struct Inbound {
    /// Echoed in the reply.
    pub token: Token,
    /// What is wanted.
    pub ask: Ask,
}

/// What a front asks of the engine. Requests arrive decoded, validated and authorized.
#[derive(Debug)]
pub enum Ask {
    /// A command for the log, with the client's own bytes of it.
    Write {
        /// The decoded request.
        request: Request,
        /// The same request as it goes into the log.
        body: Bytes,
    },
    /// A range read; linearizable unless the request says serializable.
    Range(RangeRequest),
    /// A transaction without puts and deletes.
    ReadTxn(TxnRequest),
    /// Facts for `Maintenance.Status`.
    Status,
    /// The records to hash for `HashKV` at this revision (0: newest).
    Hash {
        /// Revision asked for.
        revision: i64,
    },
    /// All lease ids.
    Leases,
    /// Keep-alives in the order in which they came. The TTLs are the answer's to fill in.
    LeaseKeepAlive(Vec<Renewal>),
    /// Remaining time and, if asked, keys of a lease.
    LeaseTimeToLive {
        /// Which lease.
        id: LeaseId,
        /// Whether the attached keys are wanted.
        keys: bool,
    },
    /// The member list.
    Members {
        /// Whether it must be as new as any member has it.
        linearizable: bool,
    },
    /// Active alarms, and whether the member can serve a linearizable read.
    Health,
    /// From here on this core wants event batches. Answered, in order, by [`Outbound::WatchOpened`].
    WatchOpen,
    /// This core has no watcher left.
    WatchIdle,
    /// A slice of history for one watcher. Not answered by token but by [`Outbound::CatchUp`].
    CatchUp(CatchUp),
    /// The values of cold records.
    Load(Vec<Record>),
    /// The same for the answer to a write, which has taken effect: nobody may hear that nothing happened.
    LoadWritten(Vec<Record>),
    /// A checkpoint; answered when it is durable.
    Checkpoint,
    /// The same; and files of which more than a little is useless are not kept for the rest. Answered likewise.
    Defragment,
    /// The same; and every value is read, so what is damaged is found. Answered likewise.
    Rebuild,
    /// The file of the newest snapshot, held where it is.
    PinSnapshot,
    /// Hands the leadership to this member; answered when it leads.
    MoveLeader(MemberId),
    /// Why the answer to a command that came at this time (monotonic, microseconds) may be late. The answer is the error.
    WhyLate {
        /// When it came.
        since_us: u64,
    },
    /// A progress mark for a stream, answered by [`Outbound::Progress`].
    Progress(StreamKey),
}

/// Where a watcher stands in the history, and what it wants of it.
#[derive(Clone, Debug)]
pub struct CatchUp {
    /// Who asks.
    pub watcher: WatcherKey,
    /// First revision not yet delivered.
    pub from: Revision,
    /// First key.
    pub key: Bytes,
    /// End of the range as in etcd: empty for one key, one zero byte for everything from `key` on.
    pub range_end: Bytes,
}

/// One message from the engine.
#[derive(Debug)]
pub enum Outbound {
    /// The answer to a token.
    Reply {
        /// The token of the request.
        token: Token,
        /// What came of it.
        result: Result<Answer, ApiError>,
    },
    /// All changes of consecutive revisions, whole revisions only.
    Batch(Arc<EventBatch>),
    /// Answers [`Ask::WatchOpen`].
    WatchOpened {
        /// Revision of the store now.
        revision: Revision,
        /// The batches behind this message begin after this revision.
        published: Revision,
        /// Oldest revision that a watch may start from.
        compact_revision: Revision,
        /// Raft term, for response headers.
        raft_term: u64,
    },
    /// A slice of history for a watcher.
    CatchUp(CaughtUp),
    /// The state is a later one, which has no changes of some revisions since the last batch. Live watchers have to
    /// look for themselves; the batches behind this message begin after `revision`.
    Leap {
        /// Revision of the store.
        revision: Revision,
        /// Raft term, for response headers.
        raft_term: u64,
    },
    /// Whether this member has no vote from here on. A core takes it for a voter until it is told.
    Learner(bool),
    /// Everything up to `revision` was sent to this core before this mark.
    Progress {
        /// The stream that asked.
        stream: StreamKey,
        /// The store's revision.
        revision: Revision,
    },
}

/// What the engine answers.
#[derive(Debug)]
pub enum Answer {
    /// The response of an applied command or a read-only transaction, header complete.
    Response(Response),
    /// A response some of whose values have to be filled in, and the records that they belong to.
    Cold(Box<(Response, Vec<Record>)>),
    /// The records of [`Ask::Load`] or [`Ask::LoadWritten`], whole.
    Loaded(Vec<Record>),
    /// Everything applied when it was asked for is in a durable snapshot.
    Checkpointed(ResponseHeader),
    /// The member that was asked for leads.
    LeaderMoved(ResponseHeader),
    /// The file of the newest snapshot, if there is any, and whether everything applied is in it.
    Pinned(Option<PinnedFile>, bool),
    /// The result of a range and the header that goes with it.
    Range(ResponseHeader, Selection),
    /// `Maintenance.Status`, header complete.
    Status(Box<StatusResponse>),
    /// Records to hash; the hashing itself runs on a helper thread of the front.
    Hash(ResponseHeader, Box<HashScan>),
    /// Lease ids in ascending order.
    Leases(ResponseHeader, Vec<LeaseId>),
    /// Keep-alives with their TTLs, in the order of the question.
    LeaseKeepAlive(ResponseHeader, Vec<Renewal>),
    /// A lease's times and keys, or `None` if it does not exist.
    LeaseTimeToLive(ResponseHeader, Option<LeaseFacts>),
    /// Members of the cluster.
    Members(ResponseHeader, Vec<Member>),
    /// Health facts.
    Health {
        /// Whether a leader is known.
        has_leader: bool,
        /// Active alarms.
        alarms: Vec<AlarmMember>,
    },
}

/// A lease as `LeaseTimeToLive` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Seconds left, rounded down.
    pub ttl_seconds: i64,
    /// TTL it was granted with.
    pub granted_ttl_seconds: i64,
    /// Attached keys in order, if asked for.
    pub keys: Vec<Bytes>,
}

/// Changes published at once: every change of the revisions `after + 1 ..= through`.
#[derive(Debug)]
pub struct EventBatch {
    /// Last revision of the batch before.
    pub after: Revision,
    /// Last revision in this one.
    pub through: Revision,
    /// Raft term, for response headers.
    pub raft_term: u64,
    /// The changes in revision order.
    pub changes: Vec<Change>,
}

/// A slice of history for one watcher, ending between two revisions.
#[derive(Debug)]
pub struct CaughtUp {
    /// Who asked.
    pub watcher: WatcherKey,
    /// The matching changes, in revision order.
    pub changes: Vec<Change>,
    /// First revision not looked at yet.
    pub next: Revision,
    /// Revision of the store.
    pub current: Revision,
    /// Raft term, for response headers.
    pub raft_term: u64,
    /// Set if `from` lay before the compact revision: the watcher lost history and must be cancelled.
    pub compacted: Option<Revision>,
}

/// Whether `key` lies in `[start, end)` with etcd's special ends.
#[must_use]
pub fn key_in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

#[cfg(test)]
mod tests {
    use super::key_in_range;

    #[test]
    fn ranges_follow_etcds_special_ends() {
        assert!(key_in_range(b"a", b"a", b""));
        assert!(!key_in_range(b"ab", b"a", b""));
        assert!(key_in_range(b"zz", b"a", b"\0"));
        assert!(!key_in_range(b"A", b"a", b"\0"));
        assert!(key_in_range(b"ab", b"a", b"b"));
        assert!(!key_in_range(b"b", b"a", b"b"));
    }
}
