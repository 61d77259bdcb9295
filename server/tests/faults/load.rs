//! Clients of keys, of leases and of the history: one operation at a time each, at one member until it fails them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, Error, LeaseGrantOptions};
use fastrand::Rng;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::request_op::Request;

use crate::check::{Call, Outcome, Reply};
use crate::cluster::Cluster;
use crate::record::Record;
use crate::translate;

/// Keys that all clients share.
const KEY_COUNT: usize = 12;
/// How far behind the newest revision a compaction stays, so that whoever writes the changes down loses none.
const COMPACT_BEHIND: i64 = 150;
const COMPACT_EVERY: Duration = Duration::from_secs(6);
/// The longest time to live that a lease gets, in seconds.
pub const LEASE_TTL_SECONDS_MAX: u64 = 6;
/// What somebody writes in a short time who wants a disk to be full: more than a log has prepared.
const MUCH_COUNT: u64 = 120;
const MUCH_BYTES: usize = 48 << 10;
const MUCH_PATIENCE: Duration = Duration::from_millis(500);
const MUCH_CLIENT: u32 = 900;
/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// What a client is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads and writes of shared keys.
    Keys,
    /// Leases with keys attached to them.
    Leases,
    /// Compactions.
    Compactions,
}

/// A client.
pub struct Worker {
    kind: Kind,
    number: u32,
    record: Record,
    endpoints: Vec<String>,
    home: usize,
    pause: Duration,
    dice: Rng,
    asked: u64,
    /// Where keys were last seen.
    known: BTreeMap<Bytes, i64>,
    leases: Vec<(i64, i64)>,
}

/// A client that connects to one member.
pub async fn connect(endpoint: &str) -> Result<Client, Error> {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(1))
        .with_timeout(PATIENCE);
    Client::connect([endpoint], Some(options)).await
}

impl Worker {
    /// One that has not begun.
    pub fn new(
        kind: Kind,
        number: u32,
        record: &Record,
        endpoints: &[String],
        seed: u64,
        pause: Duration,
    ) -> Worker {
        Worker {
            kind,
            number,
            record: record.clone(),
            endpoints: endpoints.to_vec(),
            home: number as usize % endpoints.len(),
            pause,
            dice: Rng::with_seed(seed ^ (u64::from(number) << 32)),
            asked: 0,
            known: BTreeMap::new(),
            leases: Vec::new(),
        }
    }

    /// Asks until the record is quiet.
    pub async fn run(mut self) {
        let mut client = None;
        while !self.record.is_quiet() {
            let pause = match self.kind {
                Kind::Compactions => COMPACT_EVERY,
                _ => self.pause.mul_f64(0.5 + self.dice.f64()),
            };
            tokio::time::sleep(pause).await;
            if client.is_none() {
                client = connect(&self.endpoints[self.home]).await.ok();
            }
            let Some(connected) = &mut client else {
                continue;
            };
            let Some(call) = self.draw() else { continue };
            let number = self.record.invoke(self.number, self.home, call.clone());
            let answer = tokio::time::timeout(PATIENCE, ask(connected, &call)).await;
            let outcome = match answer {
                Ok(Ok(reply)) => Outcome::Done(reply),
                Ok(Err(error)) => translate::outcome(&error),
                Err(_) => Outcome::Unknown,
            };
            self.learn(&call, &outcome);
            if outcome == Outcome::Unknown {
                client = None;
                self.home = self.dice.usize(0..self.endpoints.len());
            } else {
                self.record.conclude(number, outcome);
            }
        }
    }

    fn draw(&mut self) -> Option<Call> {
        self.asked += 1;
        match self.kind {
            Kind::Keys => Some(self.draw_keys()),
            Kind::Leases => Some(self.draw_leases()),
            Kind::Compactions => {
                let revision = self.record.revision() - COMPACT_BEHIND;
                (revision > 1).then_some(Call::Compact { revision })
            }
        }
    }

    fn key(&mut self) -> Bytes {
        format!("k/{:02}", self.dice.usize(0..KEY_COUNT)).into()
    }

    /// A value that is put once.
    fn value(&self, turn: u32) -> Bytes {
        format!("{}-{}-{turn}", self.number, self.asked).into()
    }

    fn put(&mut self, turn: u32) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key(),
            value: self.value(turn),
            prev_kv: self.dice.bool(),
            ..pb::PutRequest::default()
        }
    }

    fn draw_keys(&mut self) -> Call {
        match self.dice.u32(0..100) {
            0..30 => Call::Put(self.put(0)),
            30..38 => Call::Delete(self.draw_delete()),
            38..55 => Call::Txn(self.draw_swap()),
            55..65 => Call::Txn(self.draw_several()),
            _ => Call::Range(self.draw_read()),
        }
    }

    fn draw_delete(&mut self) -> pb::DeleteRangeRequest {
        let first = self.dice.usize(0..KEY_COUNT);
        // Some take several keys at once.
        let range_end = match self.dice.u32(0..5) {
            0 => format!("k/{:02}", first + 3),
            _ => String::new(),
        };
        pb::DeleteRangeRequest {
            key: format!("k/{first:02}").into(),
            range_end: range_end.into(),
            prev_kv: self.dice.bool(),
        }
    }

    fn draw_read(&mut self) -> pb::RangeRequest {
        let all = pb::RangeRequest {
            key: "k/".into(),
            range_end: "k0".into(),
            ..pb::RangeRequest::default()
        };
        let one = pb::RangeRequest {
            key: self.key(),
            ..pb::RangeRequest::default()
        };
        match self.dice.u32(0..10) {
            0 => pb::RangeRequest { limit: 3, ..all },
            1 => all,
            2 => pb::RangeRequest {
                revision: (self.record.revision() - self.dice.i64(0..300)).max(1),
                ..all
            },
            3 => pb::RangeRequest {
                serializable: true,
                ..all
            },
            4 => pb::RangeRequest {
                count_only: true,
                ..all
            },
            _ => one,
        }
    }

    /// Put if the key is as it was last seen, else read it.
    fn draw_swap(&mut self) -> pb::TxnRequest {
        let put = self.put(0);
        let key = put.key.clone();
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(
                self.known.get(&key).copied().unwrap_or(0),
            )),
            ..pb::Compare::default()
        };
        let read = pb::RangeRequest {
            key,
            ..pb::RangeRequest::default()
        };
        pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(Request::RequestPut(put))],
            failure: vec![op(Request::RequestRange(read))],
        }
    }

    /// Changes of several keys at once.
    fn draw_several(&mut self) -> pb::TxnRequest {
        let first = self.put(0);
        let mut second = self.put(1);
        let mut delete = pb::DeleteRangeRequest {
            key: self.key(),
            ..pb::DeleteRangeRequest::default()
        };
        if second.key == first.key {
            second.key = format!("k/x{}", self.number).into();
        }
        if delete.key == first.key || delete.key == second.key {
            delete.key = format!("k/y{}", self.number).into();
        }
        pb::TxnRequest {
            success: vec![
                op(Request::RequestPut(first)),
                op(Request::RequestPut(second)),
                op(Request::RequestDeleteRange(delete)),
            ],
            ..pb::TxnRequest::default()
        }
    }

    fn draw_leases(&mut self) -> Call {
        let held = self.dice.choice(&self.leases).copied();
        let id = i64::from(self.number) << 32 | self.asked as i64;
        let ttl_seconds = self.dice.i64(2..=LEASE_TTL_SECONDS_MAX as i64);
        let Some((lease, _)) = held.filter(|_| self.leases.len() >= 2) else {
            return Call::LeaseGrant { id, ttl_seconds };
        };
        match self.dice.u32(0..20) {
            0..7 => Call::Put(pb::PutRequest {
                key: format!("l/{}/{}", self.number, self.dice.u32(0..6)).into(),
                value: self.value(0),
                lease,
                ..pb::PutRequest::default()
            }),
            7..14 => Call::KeepAlive { id: lease },
            14..17 => Call::TimeToLive { id: lease },
            17 => Call::LeaseRevoke { id: lease },
            _ if self.leases.len() < 6 => Call::LeaseGrant { id, ttl_seconds },
            _ => {
                // Left to end by itself.
                self.leases.retain(|(held, _)| *held != lease);
                Call::TimeToLive { id: lease }
            }
        }
    }

    fn learn(&mut self, call: &Call, outcome: &Outcome) {
        if let Outcome::Done(Reply::Range(range)) = outcome {
            for kv in &range.kvs {
                self.known.insert(kv.key.clone(), kv.mod_revision);
            }
        }
        match (call, outcome) {
            (Call::LeaseGrant { id, ttl_seconds }, Outcome::Done(_)) => {
                self.leases.push((*id, *ttl_seconds));
            }
            (Call::LeaseRevoke { id }, _)
            | (Call::KeepAlive { id }, Outcome::Done(Reply::KeepAlive { ttl_seconds: 0 })) => {
                self.leases.retain(|(held, _)| held != id);
            }
            (Call::Put(put), Outcome::Failed(_)) => {
                self.leases.retain(|(held, _)| *held != put.lease);
            }
            _ => {}
        }
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

/// Writes large values at a member, whether they are accepted or not; how many were.
pub async fn write_much(record: &Record, cluster: &Cluster, index: usize) -> u64 {
    let mut accepted = 0;
    let Some(mut client) = cluster.client(index).await else {
        return accepted;
    };
    for turn in 0..MUCH_COUNT {
        let mut value = format!("much-{}-{turn}-", record.now_us()).into_bytes();
        value.resize(MUCH_BYTES, b'.');
        let call = Call::Put(pb::PutRequest {
            key: format!("m/{}", turn % 4).into(),
            value: value.into(),
            ..pb::PutRequest::default()
        });
        let number = record.invoke(MUCH_CLIENT, index, call.clone());
        match tokio::time::timeout(MUCH_PATIENCE, ask(&mut client, &call)).await {
            Ok(Ok(reply)) => {
                accepted += 1;
                record.conclude(number, Outcome::Done(reply));
            }
            Ok(Err(error)) => match translate::outcome(&error) {
                Outcome::Unknown => {}
                outcome => record.conclude(number, outcome),
            },
            Err(_) => {}
        }
    }
    accepted
}

/// Sends a call, and translates the answer.
pub async fn ask(client: &mut Client, call: &Call) -> Result<Reply, Error> {
    Ok(match call {
        Call::Put(put) => {
            let options = translate::put_options(put);
            let response = client.put(&*put.key, &*put.value, Some(options)).await?;
            Reply::Put(translate::put(&response))
        }
        Call::Delete(delete) => {
            let options = translate::delete_options(delete);
            let response = client.delete(&*delete.key, Some(options)).await?;
            Reply::Delete(translate::delete(&response))
        }
        Call::Range(range) => {
            let options = translate::get_options(range);
            let response = client.get(&*range.key, Some(options)).await?;
            Reply::Range(translate::range(&response))
        }
        Call::Txn(txn) => {
            let response = client.txn(translate::txn_request(txn)).await?;
            Reply::Txn(translate::txn(&response))
        }
        Call::Compact { revision } => {
            let response = client.compact(*revision, None).await?;
            Reply::Compact(translate::compact(&response))
        }
        Call::LeaseGrant { id, ttl_seconds } => {
            let options = LeaseGrantOptions::new().with_id(*id);
            client.lease_grant(*ttl_seconds, Some(options)).await?;
            Reply::LeaseGrant
        }
        Call::LeaseRevoke { id } => {
            client.lease_revoke(*id).await?;
            Reply::LeaseRevoke
        }
        Call::KeepAlive { id } => return keep_alive(client, *id).await,
        Call::TimeToLive { id } => {
            let response = client.lease_time_to_live(*id, None).await?;
            Reply::TimeToLive {
                ttl_seconds: response.ttl(),
            }
        }
        Call::Members(_) => unreachable!("the faults change the members, not the clients"),
    })
}

/// The crate keeps the first answer to itself: it says only whether there is such a lease. The second one is read.
async fn keep_alive(client: &mut Client, id: i64) -> Result<Reply, Error> {
    let (mut keeper, mut answers) = match client.lease_keep_alive(id).await {
        Ok(kept) => kept,
        Err(Error::LeaseKeepAliveError(text)) if text == "lease not found" => {
            return Ok(Reply::KeepAlive { ttl_seconds: 0 });
        }
        Err(error) => return Err(error),
    };
    keeper.keep_alive().await?;
    let answer = answers.message().await?;
    let answer = answer.ok_or_else(|| Error::LeaseKeepAliveError("the stream ended".to_owned()))?;
    Ok(Reply::KeepAlive {
        ttl_seconds: answer.ttl(),
    })
}
