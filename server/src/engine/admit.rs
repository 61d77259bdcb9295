//! Admission: what may go into the log, and what is refused before it gets there.

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_proto::etcdserverpb::request_op::Request as Op;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, RequestOp, TxnRequest};
use keelson_storage::ids::MemberId;
use keelson_storage::io::Disk;
use keelson_storage::state::Request;

use super::limits::QUEUED_BYTES_MAX;
use super::shard::{Engine, Origin, Queued};

/// What etcd charges a put beyond its key and value.
const PUT_OVERHEAD_BYTES: u64 = 256;

/// What etcd charges a lease.
const LEASE_BYTES: u64 = 64;

impl<D: Disk> Engine<D> {
    /// Admits a write or answers why not.
    pub(super) fn admit(&mut self, origin: Origin, request: Request, body: Bytes) {
        // Whoever proposes it, nothing is applied here, so nobody would be answered. Another member may take it.
        let stuck = self.wal.is_out_of_room().then_some(ApiError::NoSpace);
        match stuck.or_else(|| self.refusal(&request, &body)) {
            None => self.enqueue(Queued::new(origin, request, body, self.now_us)),
            Some(error) => {
                self.facts.proposals_failed += 1;
                self.reply(origin, Err(error));
            }
        }
    }

    /// Queues a command of the engine's own. It has no size worth limiting and nobody waits for it.
    pub(super) fn queue_own(&mut self, request: Request) {
        let body = request.encode_body();
        self.enqueue(Queued::new(Origin::Engine, request, body, self.now_us));
    }

    /// The same, ahead of everything that waits.
    pub(super) fn queue_first(&mut self, request: Request) {
        let body = request.encode_body();
        self.queued_bytes += body.len();
        let queued = Queued::new(Origin::Engine, request, body, self.now_us);
        self.queue.push_front(queued);
    }

    pub(super) fn enqueue(&mut self, queued: Queued) {
        self.queued_bytes += queued.body.len();
        self.queue.push_back(queued);
    }

    pub(super) fn refusal(&mut self, request: &Request, body: &Bytes) -> Option<ApiError> {
        if self.stopping {
            return Some(ApiError::Stopped);
        }
        if self.is_without_leader() {
            return Some(ApiError::NoLeader);
        }
        let waiting_bytes = self.queued_bytes + self.forwarding.held_bytes();
        if waiting_bytes + body.len() > QUEUED_BYTES_MAX {
            return Some(ApiError::TooManyRequests);
        }
        if let Some(change) = request.member_change()
            && let Err(error) = self.check_reconfiguration(change)
        {
            return Some(error);
        }
        let cost = cost_bytes(request);
        if cost == 0 {
            return None;
        }
        // What is left of the logs is kept for deletes and compactions.
        if self.is_quorum_short_of_room() {
            let lacking: Vec<_> = self.lacking_room().collect();
            self.raise_nospace(&lacking);
            return Some(ApiError::NoSpace);
        }
        if self.is_over_quota(cost) {
            if !self.has_nospace() {
                self.raise_nospace(&[self.config.member]);
            }
            return Some(ApiError::NoSpace);
        }
        None
    }

    /// Whether `cost` more bytes pass the quota.
    fn is_over_quota(&self, cost: u64) -> bool {
        let quota_bytes = self.config.quota_bytes;
        quota_bytes.is_some_and(|quota| self.state.size_in_use_bytes() + cost > quota)
    }

    fn has_nospace(&self) -> bool {
        let alarms = self.state.alarms();
        let nospace = AlarmType::Nospace as i32;
        alarms.iter().any(|alarm| alarm.alarm == nospace)
    }

    /// Proposes the NOSPACE alarm for these members, once until it is applied.
    fn raise_nospace(&mut self, members: &[MemberId]) {
        if self.nospace_proposed {
            return;
        }
        let alarms = self.state.alarms();
        let nospace = AlarmType::Nospace as i32;
        let raised = |id: &MemberId| {
            let mut raised = alarms.iter().filter(|alarm| alarm.alarm == nospace);
            raised.any(|alarm| alarm.member_id == id.0)
        };
        for member in members.iter().filter(|id| !raised(id)) {
            self.nospace_proposed = true;
            self.queue_own(Request::Alarm(AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: member.0,
                alarm: nospace,
            }));
        }
    }
}

/// What a request may add to the database, by etcd's cost model. 0 means it is never refused.
fn cost_bytes(request: &Request) -> u64 {
    match request {
        Request::Put(put) => put_cost(put.key.len(), put.value.len()),
        Request::Txn(txn) => txn_cost(txn),
        Request::LeaseGrant(_) => LEASE_BYTES,
        _ => 0,
    }
}

fn put_cost(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes) as u64 + PUT_OVERHEAD_BYTES
}

fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Op::RequestPut(put)) => put_cost(put.key.len(), put.value.len()),
        Some(Op::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}
