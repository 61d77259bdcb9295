//! The random requests. A seed decides all of them, together with what the reference server
//! answered so far (its revision, its compact revision), so a run can be played again.
//!
//! Keys come from a small pool, so that requests meet the traces of earlier ones; revisions are
//! picked around the interesting ones. Requests that real etcd 3.5.1 is known to answer otherwise
//! than newer etcd are not generated; the table in `normal.rs` names them.

use bytes::Bytes;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::request_op::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::step::{Call, Step};
use super::world::{WatchKey, World};
use crate::harness::shapes;

/// Watch streams of a run. The last one takes the watches that start in the future.
pub const STREAM_COUNT: usize = 3;

const LEASE_IDS: i64 = 8;
const WATCHES_MAX: usize = 7;
const TXN_DEPTH_MAX: u32 = 2;
const OPS_LIMIT: usize = 128;

/// A source of steps.
#[derive(Debug)]
pub struct Generator {
    rng: StdRng,
    keys: Vec<Bytes>,
}

impl Generator {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Generator {
        let mut keys: Vec<Bytes> = (0..12).map(|n| shapes::bytes(format!("k{n:02}"))).collect();
        for key in ["a", "a/1", "a/2", "a/3", "a/b/1", "a0", "b", "b/1", "z"] {
            keys.push(shapes::bytes(key));
        }
        for key in [&b"\0"[..], b"\0\0", b"a\0", b"a\xff", b"\xff", b"\xff\xff"] {
            keys.push(shapes::bytes(key));
        }
        Generator {
            rng: StdRng::seed_from_u64(seed),
            keys,
        }
    }

    /// The next step.
    pub fn next(&mut self, world: &World) -> Step {
        match self.rng.random_range(0..1000) {
            0..250 => Step::Call(Call::Range(self.range(world, true))),
            250..500 => Step::Call(Call::Put(self.put())),
            500..580 => Step::Call(Call::Delete(self.delete())),
            580..800 => Step::Call(Call::Txn(self.txn(world, 0))),
            800..815 => Step::Call(Call::Compact(self.compact(world))),
            815..900 => Step::Call(self.lease()),
            900..920 => Step::Call(Call::HashKv(self.hash_kv(world))),
            920..960 => self.watch_create(world),
            960..975 => self.watch_cancel(world),
            975..990 => Step::WatchProgress {
                stream: self.rng.random_range(0..STREAM_COUNT - 1),
            },
            _ => Step::Barrier,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn key(&mut self) -> Bytes {
        if self.rng.random_range(0..300) == 0 {
            return Bytes::new();
        }
        self.real_key()
    }

    fn real_key(&mut self) -> Bytes {
        let index = self.rng.random_range(0..self.keys.len());
        self.keys[index].clone()
    }

    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.rng.random_range(0..100) {
            0..40 => Bytes::new(),
            40..60 => shapes::prefix_end(key),
            60..68 => Bytes::from_static(b"\0"),
            68..93 => self.real_key(),
            _ => shapes::bytes([key, &b"\0"[..]].concat()),
        }
    }

    fn value(&mut self) -> Bytes {
        let length = match self.rng.random_range(0..100) {
            0..5 => 0,
            5..97 => self.rng.random_range(1..12),
            _ => self.rng.random_range(1_000..20_000),
        };
        // Few letters, so that values repeat and compare as less, equal and greater.
        (0..length)
            .map(|_| b'a' + self.rng.random_range(0..4))
            .collect()
    }

    fn revision(&mut self, world: &World) -> i64 {
        let around = match self.rng.random_range(0..10) {
            0..4 => world.revision,
            4..7 => world.compact_revision,
            _ => self
                .rng
                .random_range(world.compact_revision..=world.revision),
        };
        let revision = around + self.rng.random_range(-2..=2);
        if revision <= 0 && self.chance(80) {
            0
        } else {
            revision
        }
    }

    fn lease_id(&mut self) -> i64 {
        self.rng.random_range(1..=LEASE_IDS)
    }

    fn range(&mut self, world: &World, top: bool) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut request = pb::RangeRequest {
            key,
            range_end,
            serializable: self.chance(20),
            keys_only: self.chance(15),
            count_only: self.chance(12),
            ..Default::default()
        };
        if self.chance(35) {
            request.limit = self.rng.random_range(-1..6);
        }
        // A range inside a transaction fails the whole transaction when its revision is refused.
        if self.chance(if top { 30 } else { 10 }) {
            request.revision = self.revision(world);
        }
        if self.chance(35) {
            request.sort_order = self.rng.random_range(0..3);
            request.sort_target = self.rng.random_range(0..5);
        }
        if self.chance(15) {
            let filters = [
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ];
            for filter in filters {
                if self.rng.random_range(0..2) == 0 {
                    *filter = self.rng.random_range(0..=world.revision + 1);
                }
            }
        }
        request
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut request = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            prev_kv: self.chance(30),
            ..Default::default()
        };
        if self.chance(25) {
            request.lease = self.lease_id();
        }
        if self.chance(8) {
            request.ignore_value = true;
            if self.chance(80) {
                request.value = Bytes::new();
            }
        }
        if self.chance(8) {
            request.ignore_lease = true;
            if self.chance(80) {
                request.lease = 0;
            }
        }
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        let mut range_end = self.range_end(&key);
        // Deleting nearly everything is kept rare, or little would be left to read.
        if range_end == b"\0"[..] && self.chance(70) {
            range_end = Bytes::new();
        }
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.chance(50),
        }
    }

    fn txn(&mut self, world: &World, depth: u32) -> pb::TxnRequest {
        if self.rng.random_range(0..150) == 0 {
            return self.txn_of_many_ops(world);
        }
        let compares = self.rng.random_range(0..4);
        let compare = (0..compares).map(|_| self.compare(world)).collect();
        let mut branch = || {
            let count = self.rng.random_range(0..5);
            (0..count).map(|_| self.operation(world, depth)).collect()
        };
        pb::TxnRequest {
            compare,
            success: branch(),
            failure: branch(),
        }
    }

    /// Around the limit of operations, also with a nested transaction eating the rest of it.
    fn txn_of_many_ops(&mut self, world: &World) -> pb::TxnRequest {
        let count = OPS_LIMIT - 2 + self.rng.random_range(0..4);
        let mut txn = pb::TxnRequest::default();
        if self.chance(50) {
            txn.compare = (0..count).map(|_| self.compare(world)).collect();
        } else {
            let read = |_| shapes::op(Request::RequestRange(shapes::get("k00")));
            txn.failure = (0..count).map(read).collect();
            let nested = pb::TxnRequest {
                success: (0..self.rng.random_range(0..4)).map(read).collect(),
                ..Default::default()
            };
            txn.success = vec![shapes::op(Request::RequestTxn(nested))];
        }
        txn
    }

    fn operation(&mut self, world: &World, depth: u32) -> pb::RequestOp {
        let request = match self.rng.random_range(0..100) {
            0..30 => Request::RequestRange(self.range(world, false)),
            30..75 => Request::RequestPut(self.put()),
            75..88 => Request::RequestDeleteRange(self.delete()),
            88..99 if depth < TXN_DEPTH_MAX => Request::RequestTxn(self.txn(world, depth + 1)),
            88..99 => Request::RequestPut(self.put()),
            _ => return pb::RequestOp { request: None },
        };
        shapes::op(request)
    }

    fn compare(&mut self, world: &World) -> pb::Compare {
        let key = self.key();
        let range_end = match self.chance(25) {
            true => self.range_end(&key),
            false => Bytes::new(),
        };
        let result = [
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ][self.rng.random_range(0..4)];
        let target = [
            CompareTarget::Version,
            CompareTarget::Create,
            CompareTarget::Mod,
            CompareTarget::Value,
            CompareTarget::Lease,
        ][self.rng.random_range(0..5)];
        let near = self.rng.random_range(0..=world.revision);
        // The union may be absent or of another kind than the target: then it counts as zero.
        let kind = match self.rng.random_range(0..40) {
            0 => None,
            1 => Some(CompareTarget::Mod),
            _ => Some(target),
        };
        let target_union = kind.map(|kind| match kind {
            CompareTarget::Version => TargetUnion::Version(self.rng.random_range(0..4)),
            CompareTarget::Create if self.chance(40) => TargetUnion::CreateRevision(0),
            CompareTarget::Create => TargetUnion::CreateRevision(near),
            CompareTarget::Mod if self.chance(40) => TargetUnion::ModRevision(0),
            CompareTarget::Mod => TargetUnion::ModRevision(near),
            CompareTarget::Value => TargetUnion::Value(self.value()),
            CompareTarget::Lease => TargetUnion::Lease(self.rng.random_range(0..=LEASE_IDS)),
        });
        pb::Compare {
            result: result.into(),
            target: target.into(),
            key,
            range_end,
            target_union,
        }
    }

    fn compact(&mut self, world: &World) -> pb::CompactionRequest {
        let revision = match self.rng.random_range(0..10) {
            0 => world.revision + 1,
            1 => world.compact_revision,
            2 => world.revision,
            _ => self
                .rng
                .random_range(world.compact_revision..=world.revision),
        };
        shapes::compact(revision, self.chance(50))
    }

    fn lease(&mut self) -> Call {
        let id = self.lease_id();
        match self.rng.random_range(0..100) {
            0..40 => {
                let ttl = match self.rng.random_range(0..12) {
                    0 => 9_000_000_001,
                    1 => 9_000_000_000,
                    _ => self.rng.random_range(10_000..20_000),
                };
                Call::LeaseGrant(shapes::grant(id, ttl))
            }
            40..60 => Call::LeaseRevoke(pb::LeaseRevokeRequest { id }),
            60..72 => Call::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id }),
            72..92 => Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest {
                id,
                keys: self.chance(70),
            }),
            _ => Call::LeaseLeases(pb::LeaseLeasesRequest {}),
        }
    }

    fn hash_kv(&mut self, world: &World) -> pb::HashKvRequest {
        let revision = match self.rng.random_range(0..4) {
            0..2 => 0,
            2 => world.revision + self.rng.random_range(-5..=1),
            _ => self
                .rng
                .random_range(world.compact_revision..=world.revision),
        };
        pb::HashKvRequest {
            revision: revision.max(0),
        }
    }

    fn watch_create(&mut self, world: &World) -> Step {
        if world.watches.len() >= WATCHES_MAX {
            return self.watch_cancel(world);
        }
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut request = pb::WatchCreateRequest {
            key,
            range_end,
            prev_kv: self.chance(50),
            progress_notify: self.chance(20),
            fragment: self.chance(20),
            ..Default::default()
        };
        // Explicit ids collide now and then, and stand in the way of the automatic ones.
        if self.chance(40) {
            request.watch_id = self.rng.random_range(1..5);
        }
        if self.chance(12) {
            request.filters.push(0);
        }
        if self.chance(12) {
            request.filters.push(1);
        }
        let mut stream = self.rng.random_range(0..STREAM_COUNT - 1);
        match self.rng.random_range(0..100) {
            0..30 => {}
            30..45 => {
                stream = STREAM_COUNT - 1;
                request.start_revision = world.revision + self.rng.random_range(1..40);
            }
            45..60 if world.compact_revision > 0 => {
                let start = world.compact_revision + self.rng.random_range(-1..=1);
                request.start_revision = start.clamp(1, world.revision);
            }
            _ => {
                let first = world.compact_revision.max(1);
                request.start_revision = self.rng.random_range(first..=world.revision);
            }
        }
        if request.filters.len() > 1 {
            // Nothing tells when a watch that shows nothing has read its history, so it has none:
            // compaction would end it or not, by chance.
            request.start_revision = 0;
        }
        Step::WatchCreate { stream, request }
    }

    fn watch_cancel(&mut self, world: &World) -> Step {
        if world.watches.is_empty() || self.chance(10) {
            return Step::WatchCancel {
                stream: 0,
                watch_id: 99,
            };
        }
        let index = self.rng.random_range(0..world.watches.len());
        let WatchKey { stream, watch_id } = world.watches[index].at;
        Step::WatchCancel { stream, watch_id }
    }
}
