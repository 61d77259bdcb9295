//! What is recorded of a run: plain values, times in microseconds of one clock that all clients share.

use bytes::Bytes;
use keelson_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

use super::log::EventLog;

/// Everything that was seen of a cluster.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every change, in revision order.
    pub log: EventLog,
    /// Operations of clients, in the order in which they were invoked.
    pub ops: Vec<Op>,
    /// Watches.
    pub watches: Vec<Watch>,
    /// Leases that were seen to be gone.
    pub lease_ends: Vec<LeaseEnd>,
    /// Jumps of members' clocks.
    pub clock_jumps: Vec<ClockJump>,
    /// From when until when somebody was in office, each time.
    pub offices: Vec<(u64, u64)>,
    /// From when until when whoever was in office could get nothing done: it stood still, or too many disks did.
    pub standstills: Vec<(u64, u64)>,
    /// When the record ends.
    pub ended_us: u64,
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    /// Whose.
    pub client: u32,
    /// The member that was asked.
    pub member: u64,
    /// When it was sent.
    pub invoked_us: u64,
    /// When its answer came, if one did.
    pub returned_us: Option<u64>,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a client asks. Values that are put are unique in a history.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each holds the request it is named after")]
pub enum Call {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Range(RangeRequest),
    Txn(TxnRequest),
    Compact {
        revision: i64,
    },
    LeaseGrant {
        id: i64,
        ttl_seconds: i64,
    },
    LeaseRevoke {
        id: i64,
    },
    KeepAlive {
        id: i64,
    },
    TimeToLive {
        id: i64,
    },
    /// A change of the members; its place in the history does not matter to the keyspace.
    Members(MembersChange),
}

/// A change of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each holds the member it is about")]
pub enum MembersChange {
    AddLearner(u64),
    Promote(u64),
    Remove(u64),
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nobody knows whether it took effect, or ever will.
    Unknown,
    /// It had no effect, and the error was this.
    Failed(String),
    /// A read or write at a revision below the compact revision was refused; no effect.
    Compacted,
    /// It was answered.
    Done(Reply),
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each holds the response it is named after")]
pub enum Reply {
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Range(RangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    LeaseGrant,
    LeaseRevoke,
    /// 0: there is no such lease.
    KeepAlive {
        ttl_seconds: i64,
    },
    /// -1: there is no such lease.
    TimeToLive {
        ttl_seconds: i64,
    },
    Members,
}

/// A watch of one client on one member, from its request to its end. A client that goes on elsewhere has a new one.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Whose.
    pub client: u32,
    /// The member.
    pub member: u64,
    /// What it asked for.
    pub wanted: WatchWanted,
    /// What it received, in order, each with its time.
    pub seen: Vec<(u64, Seen)>,
    /// Whether it must have received everything there is by the end of the history.
    pub is_complete: bool,
}

/// What a watch asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of the request")]
pub struct WatchWanted {
    pub key: Bytes,
    pub range_end: Bytes,
    pub start_revision: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub fragment: bool,
}

/// One response of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of the response")]
pub enum Seen {
    Created {
        revision: i64,
    },
    Events {
        revision: i64,
        fragment: bool,
        events: Vec<WatchEvent>,
    },
    /// A notification that speaks for this watch.
    Progress {
        revision: i64,
    },
    Canceled {
        compact_revision: i64,
    },
}

/// An event as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of the event")]
pub struct WatchEvent {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub is_delete: bool,
    /// Value and modification revision of the version before.
    pub prev: Option<(Bytes, i64)>,
}

/// A lease that some member's state no longer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnd {
    /// Which.
    pub id: i64,
    /// When that was first seen.
    pub at_us: u64,
}

/// A member's clock went forward at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockJump {
    /// When.
    pub at_us: u64,
    /// How far.
    pub by_us: u64,
}

impl Op {
    /// The answer, if there was one.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Done(reply) => Some(reply),
            _ => None,
        }
    }
}
