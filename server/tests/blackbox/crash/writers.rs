//! Writers that remember what they asked for and what they were told.

use bytes::Bytes;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::request_op::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::{Response, Status};

use crate::harness::shapes::{self, bytes, mod_revision_is};
use crate::harness::{Clients, revision_of};

/// Writers at a time.
pub const WRITER_COUNT: u64 = 6;

const HOT_KEYS: u64 = 3;
const LEASE_TTL: i64 = 1_000_000;

/// What was asked.
#[derive(Debug, Clone)]
pub enum Wish {
    /// A key of the writer's own; the value is unique.
    Put {
        /// The key.
        key: Bytes,
        /// The value, never used twice.
        token: Bytes,
    },
    /// Two keys at once, one of them contended.
    Pair {
        /// The contended key.
        hot: Bytes,
        /// The other key.
        own: Bytes,
        /// The value of both, never used twice.
        token: Bytes,
    },
    /// Remove a key that is there.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// A new lease.
    Grant {
        /// Its id.
        id: i64,
    },
    /// End a lease that holds one key.
    Revoke {
        /// Its id.
        id: i64,
        /// The key it holds.
        key: Bytes,
    },
}

/// A wish and its answer.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What was asked.
    pub wish: Wish,
    /// `Some(Some(revision))`: done there. `Some(None)`: answered, and it changed no key (a
    /// transaction that lost, a grant). `None`: no answer came.
    pub acknowledged: Option<Option<i64>>,
}

impl Operation {
    /// The lease this grants (true) or ends (false).
    pub fn lease_change(&self) -> Option<(i64, bool)> {
        match self.wish {
            Wish::Grant { id } => Some((id, true)),
            Wish::Revoke { id, .. } => Some((id, false)),
            _ => None,
        }
    }
}

/// One writer of one round.
#[derive(Debug)]
pub struct Writer {
    clients: Clients,
    name: String,
    lease_base: i64,
    rng: StdRng,
    own: Vec<Bytes>,
    done: Vec<Operation>,
}

impl Writer {
    /// A writer whose keys, values and leases no other writer uses.
    pub fn new(clients: Clients, round: u64, number: u64) -> Writer {
        let unique = round * WRITER_COUNT + number;
        Writer {
            clients,
            name: format!("{round:03}.{number}"),
            lease_base: (1 + unique as i64) << 32,
            rng: StdRng::seed_from_u64(unique),
            own: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Writes until the server is gone, and returns all that was asked.
    pub async fn run(mut self) -> Vec<Operation> {
        loop {
            let alive = match self.rng.random_range(0..100) {
                0..60 => self.put().await,
                60..80 => self.pair().await,
                80..92 => self.delete().await,
                _ => self.lease().await,
            };
            if !alive {
                return self.done;
            }
        }
    }

    async fn put(&mut self) -> bool {
        let (key, token) = self.own_key("u");
        let request = shapes::put(&key, &token);
        let answer = self.clients.kv.clone().put(request).await;
        let done = told(answer, |response| Some(revision_of(&response.header)));
        if done.is_some() {
            self.own.push(key.clone());
        }
        self.note(Wish::Put { key, token }, done)
    }

    async fn pair(&mut self) -> bool {
        let hot = bytes(format!("hot/{}", self.rng.random_range(0..HOT_KEYS)));
        let Ok(read) = self.clients.kv.clone().range(shapes::get(&hot)).await else {
            return false;
        };
        let known = read
            .into_inner()
            .kvs
            .first()
            .map_or(0, |kv| kv.mod_revision);
        let (own, token) = self.own_key("p");
        let puts = [&hot, &own].map(|key| Request::RequestPut(shapes::put(key, &token)));
        let request = shapes::txn(vec![mod_revision_is(&hot, known)], puts.to_vec(), vec![]);
        let answer = self.clients.kv.clone().txn(request).await;
        let done = told(answer, |response: pb::TxnResponse| {
            response.succeeded.then(|| revision_of(&response.header))
        });
        self.note(Wish::Pair { hot, own, token }, done)
    }

    async fn delete(&mut self) -> bool {
        if self.own.is_empty() {
            return true;
        }
        let index = self.rng.random_range(0..self.own.len());
        let key = self.own.swap_remove(index);
        let answer = self
            .clients
            .kv
            .clone()
            .delete_range(shapes::delete(&key))
            .await;
        let done = told(answer, |response| {
            assert_eq!(response.deleted, 1, "a key of our own was gone");
            Some(revision_of(&response.header))
        });
        self.note(Wish::Delete { key }, done)
    }

    async fn lease(&mut self) -> bool {
        let id = self.lease_base + self.done.len() as i64;
        let granted = self
            .clients
            .lease
            .clone()
            .lease_grant(shapes::grant(id, LEASE_TTL))
            .await;
        if !self.note(Wish::Grant { id }, told(granted, |_| None)) {
            return false;
        }
        let (key, token) = self.own_key("l");
        let put = shapes::put_leased(&key, &token, id);
        let put = self.clients.kv.clone().put(put).await;
        let done = told(put, |response| Some(revision_of(&response.header)));
        let wish = Wish::Put {
            key: key.clone(),
            token,
        };
        if !self.note(wish, done) || self.rng.random_range(0..2) == 0 {
            return done.is_some();
        }
        let revoke = pb::LeaseRevokeRequest { id };
        let revoked = self.clients.lease.clone().lease_revoke(revoke).await;
        let done = told(revoked, |response| Some(revision_of(&response.header)));
        self.note(Wish::Revoke { id, key }, done)
    }

    /// A key and a value that were never used before.
    fn own_key(&self, kind: &str) -> (Bytes, Bytes) {
        let turn = self.done.len();
        let key = format!("{kind}/{}/{turn:05}", self.name);
        // Sizes differ, so that records begin and end anywhere in a page.
        let padding = "-".repeat(turn * 37 % 700);
        let token = format!("{key} {padding}");
        (bytes(key), bytes(token))
    }

    fn note(&mut self, wish: Wish, acknowledged: Option<Option<i64>>) -> bool {
        self.done.push(Operation { wish, acknowledged });
        acknowledged.is_some()
    }
}

/// What an answer says; `None` if the connection broke first. Refusals by the server are failures
/// of the test: nothing here may be refused.
fn told<T>(
    answer: Result<Response<T>, Status>,
    revision: impl FnOnce(T) -> Option<i64>,
) -> Option<Option<i64>> {
    match answer {
        Ok(response) => Some(revision(response.into_inner())),
        Err(status) => {
            assert!(
                !status.message().starts_with("etcdserver:"),
                "refused: {status:?}"
            );
            None
        }
    }
}
