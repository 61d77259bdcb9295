//! Two servers that are told the same things: real etcd as the reference, and the server under
//! test. Every step answers with the number of equal responses, or with the first difference.

use std::collections::BTreeMap;
use std::fmt::Debug;

use keelson_proto::etcdserverpb as pb;

use super::generate::STREAM_COUNT;
use super::normal::{normal, normal_control, normal_events};
use super::step::{Call, Outcome, Step};
use super::watches::Watches;
use super::world::{ActiveWatch, WatchKey, World};
use crate::harness::{Clients, Server, ServerKind, ServerOptions, shapes};

/// How much has been compared.
#[derive(Debug, Default)]
pub struct Compared {
    /// Answers, watch control answers among them.
    pub responses: u64,
    /// Watch events.
    pub events: u64,
    /// How often each kind of call got an answer, or was refused with which text.
    pub kinds: BTreeMap<String, u64>,
}

impl Compared {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Compared) {
        self.responses += other.responses;
        self.events += other.events;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind.clone()).or_default() += count;
        }
    }
}

/// The first difference of a run.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// What was compared.
    pub what: String,
    /// What the reference gave.
    pub reference: String,
    /// What the server under test gave.
    pub subject: String,
}

/// Both servers, and what is known about them.
#[derive(Debug)]
pub struct Pair {
    /// The state both are in.
    pub world: World,
    /// How much has been compared so far.
    pub compared: Compared,
    reference: Side,
    subject: Side,
    marker_count: u64,
}

#[derive(Debug)]
struct Side {
    // Held for its Drop, which ends the process.
    _server: Server,
    clients: Clients,
    watches: Watches,
}

impl Side {
    async fn start(options: ServerOptions) -> Side {
        let server = options.start().await;
        let clients = server.clients().await;
        let watches = Watches::open(&clients, STREAM_COUNT);
        Side {
            _server: server,
            clients,
            watches,
        }
    }
}

impl Pair {
    /// Two fresh servers.
    pub async fn start(name: &str) -> Pair {
        // The reference needs no durability, only answers.
        let reference = ServerOptions::new(&format!("{name}-reference"))
            .kind(ServerKind::Etcd)
            .flag("--unsafe-no-fsync");
        let subject = ServerOptions::new(&format!("{name}-subject")).many_checkpoints();
        let (reference, subject) = tokio::join!(Side::start(reference), Side::start(subject));
        Pair {
            world: World::new(),
            compared: Compared::default(),
            reference,
            subject,
            marker_count: 0,
        }
    }

    /// Does one step on both servers and compares.
    pub async fn perform(&mut self, step: &Step) -> Result<(), Mismatch> {
        match step {
            Step::Call(Call::Compact(request)) => {
                // A watch that still reads history would be canceled or not, by chance.
                self.barrier().await?;
                self.call(&Call::Compact(*request)).await.map(drop)
            }
            Step::Call(Call::HashKv(request)) => self.hash_kv(request).await,
            Step::Call(call) => self.call(call).await.map(drop),
            Step::WatchCreate { stream, request } => self.watch_create(*stream, request).await,
            Step::WatchCancel { stream, watch_id } => {
                let (stream, watch_id) = (*stream, *watch_id);
                self.watch_cancel(WatchKey { stream, watch_id }).await
            }
            Step::WatchProgress { stream } => self.watch_progress(*stream).await,
            Step::Barrier => self.barrier().await,
        }
    }

    async fn call(&mut self, call: &Call) -> Result<Outcome, Mismatch> {
        let (reference, subject) = tokio::join!(
            call.perform(&self.reference.clients),
            call.perform(&self.subject.clients),
        );
        let reference = normal(call, reference);
        let subject = normal(call, subject);
        self.equal(call, &reference, &subject)?;
        let kind = kind_of(call, &reference);
        *self.compared.kinds.entry(kind).or_default() += 1;
        self.world.observe(call, &reference);
        Ok(reference)
    }

    /// HashKV where its value is defined: see the table of exceptions.
    async fn hash_kv(&mut self, request: &pb::HashKvRequest) -> Result<(), Mismatch> {
        if request.revision != 0 && request.revision == self.world.compact_revision {
            return Ok(());
        }
        let count = Call::Range(pb::RangeRequest {
            range_end: shapes::bytes("\0"),
            count_only: true,
            revision: request.revision,
            ..shapes::get("\0")
        });
        if let Outcome::Range(counted) = self.call(&count).await?
            && counted.count == 0
        {
            return Ok(());
        }
        self.call(&Call::HashKv(*request)).await.map(drop)
    }

    async fn watch_create(
        &mut self,
        stream: usize,
        request: &pb::WatchCreateRequest,
    ) -> Result<(), Mismatch> {
        let start = request.start_revision;
        let ends_at_once = start != 0 && start < self.world.compact_revision;
        let (reference, subject) = tokio::join!(
            self.reference
                .watches
                .create(stream, request.clone(), ends_at_once),
            self.subject
                .watches
                .create(stream, request.clone(), ends_at_once),
        );
        let answers = self.equal_control(request, reference, subject)?;
        if !ends_at_once && !answers[0].canceled {
            let watch_id = answers[0].watch_id;
            self.world.watches.push(ActiveWatch {
                at: WatchKey { stream, watch_id },
                request: request.clone(),
                starts_at_compaction: start != 0 && start == self.world.compact_revision,
            });
        }
        Ok(())
    }

    async fn watch_cancel(&mut self, at: WatchKey) -> Result<(), Mismatch> {
        let known = self.world.watches.iter().position(|watch| watch.at == at);
        let Some(index) = known else {
            self.reference.watches.cancel_unknown(at);
            self.subject.watches.cancel_unknown(at);
            return Ok(());
        };
        self.barrier().await?;
        self.world.watches.remove(index);
        let (reference, subject) = tokio::join!(
            self.reference.watches.cancel(at),
            self.subject.watches.cancel(at),
        );
        self.equal_control(&("cancel", at), reference, subject)?;
        Ok(())
    }

    async fn watch_progress(&mut self, stream: usize) -> Result<(), Mismatch> {
        self.barrier().await?;
        if !self.world.can_report_progress(stream) {
            return Ok(());
        }
        let revision = self.world.revision;
        tokio::join!(
            self.reference.watches.progress(stream, revision),
            self.subject.watches.progress(stream, revision),
        );
        self.compared.responses += 1;
        Ok(())
    }

    /// Writes a key that each watch must report, waits until both servers have, and compares all
    /// that each watch has reported up to there.
    async fn barrier(&mut self) -> Result<(), Mismatch> {
        let mut due = Vec::new();
        for watch in self.world.watches.clone() {
            if watch.is_blind() {
                continue;
            }
            let revision = self.mark(&watch).await?;
            if revision >= watch.request.start_revision {
                due.push((watch, revision));
            }
        }
        for (watch, revision) in due {
            let (reference, subject) = tokio::join!(
                self.reference.watches.events_until(watch.at, revision),
                self.subject.watches.events_until(watch.at, revision),
            );
            let reference = normal_events(&watch, reference);
            let subject = normal_events(&watch, subject);
            self.compared.events += reference.len() as u64;
            self.equal(&("events of", &watch), &reference, &subject)?;
        }
        Ok(())
    }

    /// Makes an event that `watch` lets through and returns its revision.
    async fn mark(&mut self, watch: &ActiveWatch) -> Result<i64, Mismatch> {
        let key = match watch.request.key.is_empty() {
            true => shapes::bytes("\0"),
            false => watch.request.key.clone(),
        };
        self.marker_count += 1;
        let put = shapes::put(&key, format!("marker {}", self.marker_count));
        self.call(&Call::Put(put)).await?;
        if watch.wants_deletes_only() {
            self.call(&Call::Delete(shapes::delete(&key))).await?;
        }
        Ok(self.world.revision)
    }

    fn equal_control(
        &mut self,
        what: &dyn Debug,
        reference: Vec<pb::WatchResponse>,
        subject: Vec<pb::WatchResponse>,
    ) -> Result<Vec<pb::WatchResponse>, Mismatch> {
        let plain = |answers: Vec<pb::WatchResponse>| -> Vec<pb::WatchResponse> {
            answers.into_iter().map(normal_control).collect()
        };
        let (reference, subject) = (plain(reference), plain(subject));
        self.equal(what, &reference, &subject)?;
        Ok(reference)
    }

    fn equal<T: Debug + PartialEq>(
        &mut self,
        what: &dyn Debug,
        reference: &T,
        subject: &T,
    ) -> Result<(), Mismatch> {
        self.compared.responses += 1;
        if reference == subject {
            return Ok(());
        }
        Err(Mismatch {
            what: format!("{what:?}"),
            reference: format!("{reference:?}"),
            subject: format!("{subject:?}"),
        })
    }
}

/// `Put`, or `Put: etcdserver: key is not provided`.
fn kind_of(call: &Call, outcome: &Outcome) -> String {
    let debug = format!("{call:?}");
    let name = debug.split('(').next().unwrap_or_default();
    match outcome {
        Outcome::Failed((_, text)) => format!("{name}: {text}"),
        _ => name.to_owned(),
    }
}
