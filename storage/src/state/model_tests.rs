//! The state machine against the naive one, over random commands with reads, selects in steps, hashes
//! and scrubbing in between.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

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
use crate::ids::{LeaseId, LeaseTime, RaftIndex, Revision, SnapshotSeq, Term};
use crate::io::SimDisk;
use crate::mvcc::{Change, Checkpoint, Progress, Record, Reuse, Select, Selection, Wanted};
use crate::snapshot::{BuilderConfig, HardState, ImagePart, Snapshot};

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
    /// Begins a checkpoint, gives it a slice of this size, or completes it.
    Checkpoint(usize),
    /// Starts anew from the newest snapshot, and applies what came after it.
    Restart,
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

/// Some are so long that the blocks that hold them may stay where they are.
fn value() -> impl Strategy<Value = Bytes> {
    let long = (b'0'..b'3', 3_000usize..9_000);
    prop_oneof![
        9 => proptest::collection::vec(b'0'..b'3', 0..3).prop_map(Bytes::from),
        1 => long.prop_map(|(byte, bytes)| vec![byte; bytes].into()),
    ]
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
        5 => (1usize..9).prop_map(Step::Checkpoint),
        1 => Just(Step::Restart),
    ]
}

/// Checkpoints of a state, and their files, in memory.
#[derive(Default)]
struct Files {
    contents: BTreeMap<SnapshotSeq, Vec<u8>>,
    running: Option<Checkpoint>,
    last: SnapshotSeq,
}

impl Files {
    /// A slice of the running checkpoint, or a new one. True when one was begun.
    fn advance(&mut self, state: &mut State, budget: usize) -> bool {
        let Some(job) = &mut self.running else {
            let meta = state.freeze(HardState::default(), None);
            self.last = SnapshotSeq(self.last.0 + 1);
            // A leaf for every value, so that there are many; or larger ones in turns, made of several.
            let is_fine = !self.last.0.is_multiple_of(3);
            let config = BuilderConfig {
                values_run_bytes_max: if is_fine { 1 } else { 40_000 },
                ..BuilderConfig::default()
            };
            let last = state.snapshot().cloned();
            let frozen = Arc::clone(state.frozen().expect("it was just frozen"));
            let job = Checkpoint::new(self.last, config, meta, frozen, last, Reuse::ANY);
            self.running = Some(job);
            self.contents.insert(self.last, Vec::new());
            return true;
        };
        while let Some(Wanted { leaf, parts }) = job.take_wanted() {
            let read = |part: &ImagePart| {
                let file = &self.contents[&part.file];
                &file[part.offset as usize..(part.offset + part.bytes) as usize]
            };
            let run: Vec<u8> = parts.iter().flat_map(read).copied().collect();
            job.on_run(leaf, run.into());
        }
        let progress = job.step(budget).expect("no block is damaged");
        let file = self.contents.get_mut(&self.last).expect("it was begun");
        while let Some(write) = job.take_write() {
            assert_eq!(file.len().max(4096) as u64, write.offset);
            file.resize(write.offset as usize, 0);
            file.extend_from_slice(write.buf.as_slice());
        }
        if progress == Progress::Complete {
            let job = self.running.take().expect("it runs");
            let (snapshot, superblock) = job.into_snapshot("file");
            file[..4096].copy_from_slice(superblock.as_slice());
            assert_eq!(file.len() as u64, snapshot.file_bytes());
            let mut disk = SimDisk::new(1);
            disk.edit("00000001.snap", 0, file);
            let (id, entry) = Snapshot::newest_in(&mut disk).unwrap().unwrap();
            let loaded = Snapshot::load(&mut disk, id, &entry).expect("it is sound");
            assert_eq!(loaded.lenders(), snapshot.lenders());
            state.replace_frozen(Arc::new(snapshot));
        }
        false
    }

    fn load(&self, record: Record) -> Record {
        let Some(place) = record.place() else {
            return record;
        };
        let start = place.block.offset as usize + place.start as usize;
        let value = &self.contents[&place.block.file][start..start + place.bytes as usize];
        record.with_value(value)
    }

    /// Applies a command, with the values it needs and those of its response.
    fn apply(
        &self,
        state: &mut State,
        at: Position,
        request: &Request,
    ) -> Result<Response, ApiError> {
        let cold = state.cold_values(request);
        state.supply(cold.into_iter().map(|record| self.load(record)));
        let mut response = state.apply(at, request)?;
        let cold = state.take_cold().into_iter();
        response.fill(cold.map(|record| self.load(record).key_value().value));
        Ok(response)
    }

    fn response(&self, selection: Selection) -> keelson_proto::etcdserverpb::RangeResponse {
        let records = selection.records.into_iter();
        let records = records.map(|record| self.load(record)).collect();
        Selection {
            records,
            ..selection
        }
        .into_response(&mut Vec::new())
    }

    fn step(&self, state: &mut State, select: &mut Select, budget: usize) -> Option<Selection> {
        for record in select.unsorted().into_iter().flatten() {
            *record = self.load(record.clone());
        }
        state.select_step(select, budget)
    }

    fn digest(&self, state: &State) -> u64 {
        state.digest_with(&mut |record| self.load(record))
    }
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
    files: Files,
    /// What was applied since the last freeze whose snapshot is complete, and since the last freeze.
    applied: Vec<(Position, Request)>,
    applied_since_freeze: usize,
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
            files: Files::default(),
            applied: Vec::new(),
            applied_since_freeze: 0,
            selects: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Apply(request) => {
                self.at.index = self.at.index.next();
                self.state.on_entry(self.at);
                let expected = naive_apply(&mut self.naive, request, self.at.lease_time.0);
                let found = self.files.apply(&mut self.state, self.at, request);
                assert_eq!(found, expected, "{request:?}");
                self.applied.push((self.at, request.clone()));
                self.applied_since_freeze += 1;
            }
            Step::Wait(milliseconds) => self.at.lease_time.0 += milliseconds,
            Step::Read(range) => {
                let found = self.state.select_begin(range);
                let found = found.map(|mut select| {
                    loop {
                        if let Some(selection) =
                            self.files.step(&mut self.state, &mut select, 1_000)
                        {
                            break self.files.response(selection);
                        }
                    }
                });
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
                self.state.scrub(*budget, None);
            }
            Step::Checkpoint(budget) => self.checkpoint(*budget),
            Step::Restart => self.restart(),
        }
        let Self { state, files, .. } = self;
        self.selects.retain_mut(|(select, budget, expected)| {
            let Some(selection) = files.step(state, select, *budget) else {
                return true;
            };
            assert_eq!(&files.response(selection), expected, "a select is pinned");
            false
        });
    }

    fn checkpoint(&mut self, budget: usize) {
        if self.files.advance(&mut self.state, budget) {
            self.applied_since_freeze = 0;
        } else if self.files.running.is_none() {
            self.applied
                .drain(..self.applied.len() - self.applied_since_freeze);
        }
    }

    fn restart(&mut self) {
        let digest = self.files.digest(&self.state);
        self.state = match self.state.snapshot() {
            Some(snapshot) => State::from_snapshot(Arc::clone(snapshot)),
            None => State::new(),
        };
        self.files.running = None;
        for (at, request) in &self.applied {
            self.state.on_entry(*at);
            // It was compared when it was applied first.
            let _answered = self.files.apply(&mut self.state, *at, request);
        }
        assert_eq!(self.files.digest(&self.state), digest, "the same state");
        self.selects.clear();
    }

    fn check(&self) {
        let (state, naive) = (&self.state, &self.naive);
        state.check_invariants();
        assert_eq!(state.revision(), Revision(naive.revision));
        assert_eq!(state.compact_revision(), Revision(naive.compact_revision));
        assert!(state.scrubbed_revision() <= state.compact_revision());
        assert!(state.size_in_use_bytes() <= state.size_bytes());
        let live = naive.live(&[], &[0], naive.revision);
        assert_eq!(state.key_count(), live.len() as u64);
        let changes: Vec<_> = state
            .changes_from(state.compact_revision())
            .map(|change| {
                let Change { record, prev } = change.change();
                event(&Change {
                    record: self.files.load(record),
                    prev: prev.map(|prev| self.files.load(prev)),
                })
            })
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
            .filter(|lease| lease.deadline < now)
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
        while pair.state.scrub(5, None) {}
        pair.check();
        prop_assert_eq!(pair.state.scrubbed_revision(), pair.state.compact_revision());
        // What the next snapshot will hold is known before it is made.
        let in_use = pair.state.frozen().is_none().then(|| pair.state.size_in_use_bytes());
        pair.run(&Step::Checkpoint(7));
        while pair.files.running.is_some() {
            pair.run(&Step::Checkpoint(7));
        }
        if let Some(in_use) = in_use {
            prop_assert_eq!(pair.state.size_in_use_bytes(), in_use);
        }
        // With everything in one layer, nothing unreachable is left.
        for _ in 0..2 {
            pair.run(&Step::Checkpoint(1));
            while pair.files.running.is_some() {
                pair.run(&Step::Checkpoint(3));
            }
        }
        pair.check();
        pair.run(&Step::Restart);
        pair.check();
        let oldest = pair.state.changes_from(Revision(i64::MIN)).next().map(|change| change.revision());
        prop_assert!(oldest.is_none_or(|oldest| oldest >= pair.state.compact_revision()));
        prop_assert_eq!(pair.state.size_bytes(), pair.state.size_in_use_bytes());
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
            by_bytes.scrub(scrubs[index], None);
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
