//! The other shards of a member's core, which share its lane with the first one.
//!
//! Little is asked of them: somebody puts keys and lists them, so that groups of several shards are written, replayed,
//! trimmed and repaired together. What they promise is judged more simply than what the first one does: members agree
//! at every entry, a list has every key that was acknowledged before it was asked for, and no such key is missing in
//! the end.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};
use keelson_server::engine::Engine;
use keelson_server::engine::message::{Answer, Ask, Token};
use keelson_storage::ids::{MemberId, ShardId};
use keelson_storage::mvcc::Record;
use keelson_storage::state::Request;

use crate::check::{Applied, Group, Violation};
use crate::disk::SharedDisk;
use crate::world::World;

/// States are compared at every entry whose index is a multiple of this.
const DIGEST_EVERY: u64 = 4;
/// Questions that wait for an answer: together they fit the smallest segment.
const ASKED_MAX: usize = 16;
/// How long somebody waits for an answer, in microseconds.
const PATIENCE_US: u64 = 5_000_000;
/// The longest pause between two questions to a shard, in microseconds.
const PAUSE_US_MAX: u64 = 60_000;

/// One of the other shards, over all members.
#[derive(Debug, Default)]
pub struct Other {
    group: Group,
    acknowledged: BTreeSet<Bytes>,
    asked: BTreeMap<u64, Asked>,
    /// When somebody asks it something.
    pub next_us: u64,
}

#[derive(Debug)]
struct Asked {
    at_us: u64,
    member: MemberId,
    what: What,
}

#[derive(Debug)]
enum What {
    Put(Bytes),
    /// A list, and what had been acknowledged when it was asked for.
    List(BTreeSet<Bytes>),
}

/// The id of the shard at a place among those of a core.
#[must_use]
pub fn shard_at(place: usize) -> ShardId {
    ShardId(place as u16 * 3)
}

/// Every value follows from its key.
fn value_of(key: &[u8]) -> Vec<u8> {
    key.repeat(1 + usize::from(key[key.len() - 1] % 90))
}

fn all_keys() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"n"),
        range_end: Bytes::from_static(b"o"),
        keys_only: true,
        ..RangeRequest::default()
    }
}

impl World {
    /// Asks other shards something, if it is time to.
    pub(crate) fn ask_company(&mut self) {
        for place in 1..=self.company.len() {
            let other = &mut self.company[place - 1];
            if self.is_quiet || other.next_us > self.now_us {
                continue;
            }
            other.next_us = self.now_us + 1 + self.dice.below(PAUSE_US_MAX);
            let now_us = self.now_us;
            other
                .asked
                .retain(|_, asked| now_us < asked.at_us + PATIENCE_US);
            if other.asked.len() >= ASKED_MAX {
                continue;
            }
            let member = self.dice.index(self.members.len());
            let member = &mut self.members[member];
            let Some(running) = &mut member.running else {
                continue;
            };
            self.next_token += 1;
            let (what, ask) = if self.dice.chance(750) {
                let key = Bytes::from(format!("n{:08}", self.next_token));
                let request = Request::Put(PutRequest {
                    key: key.clone(),
                    value: value_of(&key).into(),
                    ..PutRequest::default()
                });
                let body = request.encode_body();
                (What::Put(key), Ask::Write { request, body })
            } else {
                let acknowledged = other.acknowledged.clone();
                (What::List(acknowledged), Ask::Range(all_keys()))
            };
            let member = member.id;
            let at_us = self.now_us;
            let asked = Asked {
                at_us,
                member,
                what,
            };
            other.asked.insert(self.next_token, asked);
            running.ask_shard(place, Token(self.next_token), ask, self.now_us);
        }
    }

    /// An answer of another shard.
    pub(crate) fn on_company_reply(
        &mut self,
        place: usize,
        token: Token,
        answer: Result<Answer, ApiError>,
    ) -> Result<(), Violation> {
        let other = &mut self.company[place - 1];
        let Some(asked) = other.asked.remove(&token.0) else {
            return Ok(());
        };
        match (asked.what, answer) {
            (What::Put(key), Ok(_)) => {
                self.trace.count("write to another shard");
                other.acknowledged.insert(key);
                Ok(())
            }
            (What::List(known), Ok(Answer::Range(_, selection))) => {
                self.trace.count("list of another shard");
                let records = selection.records.iter();
                let found: BTreeSet<&[u8]> = records.map(|record| record.key()).collect();
                let missing = known.iter().find(|key| !found.contains(key.as_ref()));
                missing.map_or(Ok(()), |key| {
                    let who = asked.member;
                    let what = format!("a list of shard {place} at {who} lacks {key:?}");
                    Err(Violation::new("G-KV-1", what))
                })
            }
            _ => Ok(()),
        }
    }

    /// Whoever waits for a member that is gone learns that it is.
    pub(crate) fn drop_company(&mut self, member: MemberId) {
        for other in &mut self.company {
            other.asked.retain(|_, asked| asked.member != member);
        }
    }

    /// Looks at the other shards of a member after its turn.
    pub(crate) fn observe_company(&mut self, index: usize) -> Result<(), Violation> {
        let member = &mut self.members[index];
        let id = member.id.0;
        let Some(running) = &mut member.running else {
            return Ok(());
        };
        for (place, other) in self.company.iter_mut().enumerate() {
            let engine = running.shards.iter().nth(place + 1);
            let engine = engine.expect("every member has all shards");
            if engine.node().is_leader() {
                let (term, last) = (engine.node().term().0, engine.node().last().0);
                other.group.on_leader(id, term, last)?;
            }
            let applied = engine.state().applied();
            let is_news = running.company_seen[place] != applied.index.0;
            if !is_news || !engine.is_between_entries() {
                continue;
            }
            running.company_seen[place] = applied.index.0;
            let is_due = applied.index.0.is_multiple_of(DIGEST_EVERY);
            let seen = Applied {
                member: id,
                index: applied.index.0,
                term: applied.term.0,
                revision: engine.state().revision().0,
                digest: is_due.then(|| digest(engine)),
            };
            self.trace.number(seen.index << 20 | id);
            other.group.on_applied(seen)?;
        }
        Ok(())
    }

    /// Whether the members have the same of all other shards.
    pub(crate) fn is_company_equal(&self) -> bool {
        let running = self
            .members
            .iter()
            .filter_map(|member| member.running.as_ref());
        let mut all = running.map(|running| {
            let others = running.shards.iter().skip(1);
            let applied = others.map(|engine| engine.state().applied());
            applied.collect::<Vec<_>>()
        });
        let first = all.next();
        all.all(|applied| Some(applied) == first)
    }

    /// In the end all members have all of it.
    pub(crate) fn judge_company(&mut self) -> Result<(), Violation> {
        for (place, other) in self.company.iter().enumerate() {
            let mut first = None;
            for member in &self.members {
                let Some(running) = &member.running else {
                    continue;
                };
                let engine = running.shards.iter().nth(place + 1);
                let engine = engine.expect("every member has all shards");
                let id = member.id;
                let selection = engine.state().select(&all_keys());
                let selection = selection.expect("a sound request");
                let records = selection.records.iter();
                let found: BTreeSet<&[u8]> = records.map(|record| record.key()).collect();
                let lost = other
                    .acknowledged
                    .iter()
                    .find(|key| !found.contains(key.as_ref()));
                if let Some(key) = lost {
                    let what = format!("{key:?} of shard {} is lost on {id}", place + 1);
                    return Err(Violation::new("G-D-1", what));
                }
                let digest = digest(engine);
                if *first.get_or_insert(digest) != digest {
                    let what = format!("digests of shard {} differ in the end", place + 1);
                    return Err(Violation::new("G-R-7", what));
                }
            }
        }
        Ok(())
    }
}

fn digest(engine: &Engine<SharedDisk>) -> u64 {
    engine
        .state()
        .digest_with(&mut |record: Record| match record.place() {
            Some(_) => record.with_value(&value_of(record.key())),
            None => record,
        })
}
