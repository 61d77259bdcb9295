//! The state machine against the naive one, over random commands with reads, selects in steps, hashes
//! and scrubbing in between.

#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::request_op::Request as Operation;
use keelson_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
};
use proptest::prelude::*;

use super::naive::{Event, Naive, Version};
use super::*;
use crate::ids::{LeaseId, LeaseTime, RaftIndex, Revision, Term};
use crate::mvcc::{Change, Select};

/// One thing that happens to both.
#[derive(Clone, Debug)]
enum Step {
    Apply(Request),
    /// Time passes on the lease clock.
    Wait(u64),
    Read(RangeRequest),
    /// Begins a select that is answered over the following steps.
    Begin(RangeRequest, usize),
    Scrub(usize),
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => (b'a'..b'e').prop_map(|a| Bytes::from(vec![a])),
        8 => (b'a'..b'd', b'a'..b'd').prop_map(|(a, b)| Bytes::from(vec![a, b])),
        1 => Just(Bytes::from_static(b"\0")),
        1 => Just(Bytes::new()),
    ]
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => Just(Bytes::new()), 2 => Just(Bytes::from_static(b"\0")), 4 => key()]
}

fn value() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(b'0'..b'3', 0..3).prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0), 2 => 1i64..6, 1 => Just(-3)]
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0i64), 5 => 1i64..60, 1 => -3i64..0]
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let filter = || prop_oneof![7 => Just(0i64), 1 => 1i64..40];
    let limit = prop_oneof![3 => Just(0i64), 3 => 1i64..6, 1 => Just(-1), 1 => Just(i64::MAX)];
    let sort = prop_oneof![2 => Just((0, 0)), 1 => (0i32..3, 0i32..5)];
    let spans = (key(), range_end(), revision(), limit, sort);
    let filters = (filter(), filter(), filter(), filter());
    (
        spans,
        filters,
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
    )
        .prop_map(
            |((key, range_end, revision, limit, sort), filters, keys_only, count_only)| {
                RangeRequest {
                    key,
                    range_end,
                    limit: if limit == i64::MAX { 1 << 40 } else { limit },
                    revision,
                    sort_order: sort.0,
                    sort_target: sort.1,
                    serializable: false,
                    keys_only,
                    count_only,
                    min_mod_revision: filters.0,
                    max_mod_revision: filters.1,
                    min_create_revision: filters.2,
                    max_create_revision: filters.3,
                }
            },
        )
}

fn put() -> impl Strategy<Value = PutRequest> {
    let rarely = || proptest::bool::weighted(0.15);
    (key(), value(), lease(), any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    use compare::TargetUnion;
    let operand = prop_oneof![
        (0i64..4).prop_map(|n| (0, TargetUnion::Version(n))),
        (0i64..40).prop_map(|n| (1, TargetUnion::CreateRevision(n))),
        (0i64..40).prop_map(|n| (2, TargetUnion::ModRevision(n))),
        value().prop_map(|value| (3, TargetUnion::Value(value))),
        lease().prop_map(|n| (4, TargetUnion::Lease(n))),
    ];
    (0i32..4, operand, key(), range_end()).prop_map(
        |(result, (target, operand), key, range_end)| Compare {
            result,
            target,
            key,
            range_end,
            target_union: Some(operand),
        },
    )
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let simple = prop_oneof![
        3 => range().prop_map(Operation::RequestRange),
        4 => put().prop_map(Operation::RequestPut),
        2 => delete().prop_map(Operation::RequestDeleteRange),
    ];
    let simple = simple.prop_map(|operation| RequestOp {
        request: Some(operation),
    });
    let level = |operations: BoxedStrategy<RequestOp>| {
        let branch = || proptest::collection::vec(operations.clone(), 0..4);
        (
            proptest::collection::vec(compare(), 0..3),
            branch(),
            branch(),
        )
            .prop_map(|(compare, success, failure)| TxnRequest {
                compare,
                success,
                failure,
            })
    };
    let inner = level(simple.clone().boxed());
    let inner = inner.prop_map(|txn| RequestOp {
        request: Some(Operation::RequestTxn(txn)),
    });
    level(prop_oneof![4 => simple, 1 => inner].boxed())
}

fn command() -> impl Strategy<Value = Request> {
    let ttl = prop_oneof![8 => 1i64..20, 1 => Just(9_000_000_000), 1 => Just(9_000_000_001)];
    let from = prop_oneof![20 => 0u64..60_000, 1 => Just(u64::MAX)];
    prop_oneof![
        8 => put().prop_map(Request::Put),
        4 => delete().prop_map(Request::DeleteRange),
        6 => txn().prop_map(Request::Txn),
        2 => (-1i64..60).prop_map(|revision| Request::Compact(CompactionRequest { revision, physical: false })),
        3 => (lease(), ttl).prop_map(|(id, ttl)| Request::LeaseGrant(LeaseGrantRequest { ttl, id })),
        1 => lease().prop_map(|id| Request::LeaseRevoke(LeaseRevokeRequest { id })),
        1 => lease().prop_map(|id| Request::LeaseRenew(LeaseKeepAliveRequest { id })),
        2 => (from, proptest::collection::vec(lease(), 0..4))
            .prop_map(|(from, ids)| Request::LeaseRenewMany(LeaseRenewMany { from, ids })),
        2 => lease().prop_map(|id| Request::LeaseExpire(LeaseRevokeRequest { id })),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => command().prop_map(Step::Apply),
        2 => (0u64..8_000).prop_map(Step::Wait),
        6 => range().prop_map(Step::Read),
        3 => (range(), 1usize..6).prop_map(|(range, budget)| Step::Begin(range, budget)),
        6 => (1usize..12).prop_map(Step::Scrub),
    ]
}

/// What the naive one answers, in the real one's type.
fn naive_apply(naive: &mut Naive, request: &Request, now: u64) -> Result<Response, ApiError> {
    use keelson_proto::etcdserverpb as pb;
    let header = |naive: &Naive| {
        Some(pb::ResponseHeader {
            revision: naive.revision,
            ..pb::ResponseHeader::default()
        })
    };
    Ok(match request {
        Request::Put(put) => Response::Put(naive.put(put)?),
        Request::DeleteRange(delete) => Response::DeleteRange(naive.delete(delete)),
        Request::Txn(txn) => Response::Txn(naive.txn(txn)?),
        Request::Compact(compaction) => {
            naive.compact(compaction.revision)?;
            Response::Compact(pb::CompactionResponse {
                header: header(naive),
            })
        }
        Request::LeaseGrant(grant) => {
            naive.grant(grant.id, grant.ttl, now)?;
            Response::LeaseGrant(pb::LeaseGrantResponse {
                header: header(naive),
                id: grant.id,
                ttl: grant.ttl,
                error: String::new(),
            })
        }
        Request::LeaseRevoke(revoke) => {
            naive.revoke(revoke.id)?;
            Response::LeaseRevoke(pb::LeaseRevokeResponse {
                header: header(naive),
            })
        }
        Request::LeaseRenew(renew) => {
            let ttl = naive.renew(renew.id, now);
            Response::LeaseKeepAlive(pb::LeaseKeepAliveResponse {
                header: header(naive),
                id: renew.id,
                ttl,
            })
        }
        Request::LeaseRenewMany(renew) => {
            let from = now.max(renew.from);
            let ids = renew.ids.iter();
            let renewals = ids.map(|id| Renewal {
                id: LeaseId(*id),
                ttl_seconds: naive.renew(*id, from),
            });
            Response::LeaseRenewMany(renewals.collect())
        }
        Request::LeaseExpire(expire) => {
            if naive
                .leases
                .get(&expire.id)
                .is_some_and(|(_, deadline)| *deadline <= now)
            {
                naive.revoke(expire.id)?;
            }
            Response::Empty
        }
        other => unreachable!("the generator does not make {other:?}"),
    })
}

fn event(change: &Change) -> Event {
    Event {
        version: Version {
            kv: change.record.key_value(),
            tombstone: change.record.tombstone,
        },
        prev: change.prev.as_ref().map(|prev| prev.key_value()),
    }
}

/// Both, side by side.
struct Pair {
    state: State,
    naive: Naive,
    at: Position,
    /// Running selects with what they must answer.
    selects: Vec<(Select, usize, keelson_proto::etcdserverpb::RangeResponse)>,
}

impl Pair {
    fn new() -> Self {
        let at = Position {
            index: RaftIndex(0),
            term: Term(1),
            lease_time: LeaseTime(0),
        };
        Self {
            state: State::new(),
            naive: Naive::new(),
            at,
            selects: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Apply(request) => {
                self.at.index = self.at.index.next();
                self.state.on_entry(self.at);
                let expected = naive_apply(&mut self.naive, request, self.at.lease_time.0);
                assert_eq!(self.state.apply(self.at, request), expected, "{request:?}");
            }
            Step::Wait(milliseconds) => self.at.lease_time.0 += milliseconds,
            Step::Read(range) => {
                let found = self
                    .state
                    .select(range)
                    .map(|selection| selection.into_response());
                assert_eq!(found, self.naive.range(range), "{range:?}");
            }
            Step::Begin(range, budget) => match self.state.select_begin(range) {
                Ok(select) => {
                    let expected = self.naive.range(range).expect("the real one accepts it");
                    self.selects.push((select, *budget, expected));
                }
                Err(error) => assert_eq!(self.naive.range(range), Err(error)),
            },
            Step::Scrub(budget) => {
                self.state.scrub(*budget);
            }
        }
        let state = &mut self.state;
        self.selects.retain_mut(|(select, budget, expected)| {
            let Some(selection) = state.select_step(select, *budget) else {
                return true;
            };
            assert_eq!(&selection.into_response(), expected, "a select is pinned");
            false
        });
    }

    fn check(&self) {
        let (state, naive) = (&self.state, &self.naive);
        state.check_invariants();
        assert_eq!(state.revision(), Revision(naive.revision));
        assert_eq!(state.compact_revision(), Revision(naive.compact_revision));
        assert!(state.scrubbed_revision() <= state.compact_revision());
        let live = naive.live(&[], &[0], naive.revision);
        assert_eq!(state.key_count(), live.len() as u64);
        let changes: Vec<_> = state
            .changes()
            .from(state.compact_revision())
            .map(event)
            .collect();
        assert_eq!(changes, naive.events(naive.compact_revision));

        let leases: Vec<_> = state
            .lease_ids()
            .map(|id| state.lease(id).unwrap().clone())
            .collect();
        assert!(leases.is_sorted_by_key(|lease| (lease.deadline, lease.id)));
        assert_eq!(leases.len(), naive.leases.len());
        assert_eq!(
            state.lease_next_deadline(),
            leases.first().map(|lease| lease.deadline)
        );
        for lease in &leases {
            let expected = naive.leases[&lease.id.0];
            assert_eq!((lease.granted_ttl_seconds, lease.deadline.0), expected);
            assert_eq!(
                lease.keys.iter().cloned().collect::<Vec<_>>(),
                naive.attached(lease.id.0)
            );
        }
        let now = self.at.lease_time;
        let due = leases
            .iter()
            .filter(|lease| lease.deadline <= now)
            .map(|lease| lease.id);
        assert_eq!(
            state.lease_expired(now, 2),
            due.take(2).collect::<Vec<LeaseId>>()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Responses, changes, leases, counts and sizes are those of the naive list of all versions,
    /// whatever is scrubbed when, and once everything is scrubbed nothing unreachable is held.
    #[test]
    fn g_kv_model(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.run(step);
            pair.check();
        }
        // Every revision that can be read, and both edges of what cannot.
        for revision in -1..=pair.naive.revision + 1 {
            let all = Bytes::from_static(b"\0");
            let all = RangeRequest { key: Bytes::new(), range_end: all, revision, ..RangeRequest::default() };
            pair.run(&Step::Read(all.clone()));
            pair.run(&Step::Read(RangeRequest { count_only: true, ..all.clone() }));
            pair.run(&Step::Begin(RangeRequest { limit: 1, ..all }, 2));
        }
        while !pair.selects.is_empty() {
            pair.run(&Step::Scrub(3));
        }
        while pair.state.scrub(5) {}
        pair.check();
        prop_assert_eq!(pair.state.scrubbed_revision(), pair.state.compact_revision());
        let oldest = pair.state.changes().first().map(|change| change.revision());
        prop_assert!(oldest.is_none_or(|oldest| oldest >= pair.state.compact_revision()));
    }

    /// The same commands give the same state: by value or through the log's bytes, scrubbed or not.
    #[test]
    fn g_r_7_determinism(
        commands in proptest::collection::vec((command(), 0u64..3_000), 1..80),
        scrubs in proptest::collection::vec(0usize..9, 80),
    ) {
        let mut by_value = State::new();
        let mut by_bytes = State::new();
        let mut now = 0;
        for (index, (request, wait)) in commands.iter().enumerate() {
            now += wait;
            let at = Position { index: RaftIndex(index as u64 + 1), term: Term(3), lease_time: LeaseTime(now) };
            by_value.on_entry(at);
            let expected = by_value.apply(at, request);

            let command = Command::new(request.kind(), 5, request.encode_body());
            let mut entry = BytesMut::new();
            encode_entry(at.lease_time, &[command], &mut entry);
            let (lease_time, commands) = decode_entry(&entry.freeze()).unwrap();
            let at = Position { lease_time, ..at };
            by_bytes.on_entry(at);
            let request = commands[0].request().unwrap();
            prop_assert_eq!(by_bytes.apply(at, &request), expected);
            by_bytes.scrub(scrubs[index]);
            prop_assert_eq!(by_value.digest(), by_bytes.digest());
        }
        let revision = by_value.revision();
        let delete = Request::DeleteRange(DeleteRangeRequest {
            key: Bytes::new(),
            range_end: Bytes::from_static(b"\0"),
            prev_kv: false,
        });
        let at = by_value.applied();
        by_value.apply(at, &delete).unwrap();
        prop_assert_eq!(by_value.digest() == by_bytes.digest(), by_value.revision() == revision);
    }
}
