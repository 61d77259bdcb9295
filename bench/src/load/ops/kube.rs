//! The kube jobs: what kube-apiserver asks of its store while a cluster lives.
//!
//! Four tasks, each with a schedule of its own, and watches of every resource as each API server
//! keeps them:
//!
//! ```text
//!   renew   each node updates its Lease object once in an interval
//!   pod     create, bind, two status updates, delete, and Event objects with a TTL between them
//!   get     each node reads its Node object once in an interval
//!   list    once a second someone lists all Node objects in pages
//! ```
//!
//! Changes are Txns guarded by the mod revision. The requests of one pod follow each other at once.
//! A pod's first request counts from when the pod was due, each later one from when it was sent.

use std::ops::Range;

use super::super::clock::MILLISECOND;
use super::super::flow::{Pace, Start, share};
use super::super::keys::{KeyText, value};
use super::super::net::Net;
use super::super::wire::Malformed;
use super::super::worker::{Shift, Workload};
use super::Share;
use super::answer::Answer;
use super::event_lease::{EventLease, GRANT_TOKEN};
use super::fill::Fill;
use super::listing::Listing;
use super::pages::Pages;
use super::requests::{Change, guarded, range};
use super::stamp::{STAMP_BYTES, Stamp};
use super::watchers::{WATCH_TOKENS, Watchers};
use crate::grpc::{Delivery, Event, Failure, Rpc};
use crate::job::{JobSpec, ListMode, Op};

const NODE_LEASES: &str = "/registry/leases/kube-node-lease/node-";
const NODES: &str = "/registry/minions/node-";
const PODS: &str = "/registry/pods/default/pod-";
const EVENTS: &str = "/registry/events/default/pod-";
/// The resources that an API server watches; most of them are quiet here.
const RESOURCES: [&str; 14] = [
    "/registry/pods/",
    "/registry/minions/",
    "/registry/leases/",
    "/registry/events/",
    "/registry/configmaps/",
    "/registry/secrets/",
    "/registry/serviceaccounts/",
    "/registry/services/specs/",
    "/registry/endpointslices/",
    "/registry/deployments/",
    "/registry/replicasets/",
    "/registry/statefulsets/",
    "/registry/daemonsets/",
    "/registry/jobs/",
];
/// Keys in a page of a list.
const PAGE_LIMIT: u64 = 500;
const LISTS_PER_SECOND: u64 = 1;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Renew,
    Create,
    Bind,
    Status,
    Event,
    Delete,
    Get,
    List,
    Seen,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Renew => "lease-renew",
            Self::Create => "pod-create",
            Self::Bind => "pod-bind",
            Self::Status => "pod-status",
            Self::Event => "event-create",
            Self::Delete => "pod-delete",
            Self::Get => "node-get",
            Self::List => "node-list",
            Self::Seen => "watch-event",
        }
    }
}

/// What a schedule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Renew,
    Pod,
    Get,
    List,
}

/// The workload of a cluster.
pub struct Kube {
    tasks: Vec<Task>,
    /// The nodes of this worker.
    nodes: Range<u64>,
    next_renewal: u64,
    next_get: u64,
    next_pod: u64,
    workers: u64,
    /// The kinds of operations of the job, as they are tallied.
    steps: Vec<Step>,
    /// What becomes of a pod.
    script: Vec<Step>,
    node_leases: KeyText,
    node_names: KeyText,
    pods: KeyText,
    events: KeyText,
    /// The mod revision of each node's Lease object.
    revisions: Vec<i64>,
    value: Vec<u8>,
    writer: u64,
    event_lease: EventLease,
    pages: Pages,
    node_count: u64,
    watchers: Watchers,
    places: Vec<Place>,
}

/// What goes on in one place.
#[derive(Default)]
struct Place {
    task: Option<Task>,
    /// The node or the pod.
    index: u64,
    /// How far the pod's script is done.
    script_at: usize,
    /// The pod's mod revision; of an Event object that is to be written, its own.
    mod_revision: i64,
    event_revision: i64,
    /// When the present request began.
    began: u64,
    answer: Option<Result<Answer, Malformed>>,
    listing: Listing,
}

impl Kube {
    /// The share of one worker in a cluster.
    pub fn new(share_of: Share<'_>) -> Self {
        let (job, worker) = (share_of.job, share_of.worker);
        let workers = job.numjobs as usize;
        let value_bytes = job.value_bytes.max(STAMP_BYTES as u64);
        let named = |prefix: &str| {
            let prefix = format!("{prefix}{:08x}-", share_of.run);
            KeyText::new(prefix.as_bytes(), 0)
        };
        let node_names = KeyText::new(NODES.as_bytes(), 0);
        let nodes = share(u64::from(job.kube.nodes), worker, workers);
        Self {
            tasks: tasks(job.op).to_vec(),
            next_renewal: nodes.start,
            next_get: nodes.start,
            nodes,
            next_pod: worker as u64,
            workers: workers as u64,
            steps: steps(job),
            script: script(job.kube.events_per_pod),
            node_leases: KeyText::new(NODE_LEASES.as_bytes(), 0),
            pages: Pages::new(node_names.range(), ListMode::Paged, PAGE_LIMIT, false),
            node_names,
            pods: named(PODS),
            events: named(EVENTS),
            revisions: share_of.revisions.first().cloned().unwrap_or_default(),
            value: value(job.seed, value_bytes),
            writer: share_of.writer(),
            event_lease: EventLease::new(job.kube.event_ttl_ms * MILLISECOND),
            node_count: u64::from(job.kube.nodes),
            watchers: watchers(job, worker),
            places: (0..job.iodepth).map(|_| Place::default()).collect(),
        }
    }

    /// The objects that are there before anything begins: of each node its Lease and its Node.
    pub fn fills(job: &JobSpec) -> Vec<Fill> {
        let value_bytes = job.value_bytes.max(STAMP_BYTES as u64);
        [NODE_LEASES, NODES]
            .map(|prefix| {
                let keys = KeyText::new(prefix.as_bytes(), 0);
                let value = value(job.seed, value_bytes);
                Fill::new(keys, u64::from(job.kube.nodes), value)
            })
            .into()
    }

    /// The names of the kinds of operations, and whether they count: events that are seen do not.
    pub fn steps(job: &JobSpec) -> Vec<(&'static str, bool)> {
        let steps = steps(job).into_iter();
        steps
            .map(|step| (step.name(), step != Step::Seen))
            .collect()
    }

    /// The schedule of each task.
    pub fn paces(job: &JobSpec, worker: usize) -> Vec<Pace> {
        let workers = job.numjobs as usize;
        let nodes = share(u64::from(job.kube.nodes), worker, workers);
        let interval = job.kube.renew_interval_ms * MILLISECOND;
        let each_node = Pace::every(interval, nodes.end - nodes.start);
        let pace = |task: &Task| match task {
            Task::Renew => each_node.clone(),
            Task::Get => each_node.clone().halfway(),
            Task::Pod => Pace::per_second(u64::from(job.kube.pods_per_second), worker, workers),
            Task::List => Pace::per_second(LISTS_PER_SECOND, worker, workers),
        };
        tasks(job.op).iter().map(pace).collect()
    }

    /// The next node in turn.
    fn next_node(nodes: &Range<u64>, next: &mut u64) -> u64 {
        let node = *next;
        *next = if node + 1 < nodes.end {
            node + 1
        } else {
            nodes.start
        };
        node
    }

    fn step(&self, place: &Place) -> Step {
        match place.task {
            Some(Task::Renew) => Step::Renew,
            Some(Task::Get) => Step::Get,
            Some(Task::List) => Step::List,
            Some(Task::Pod) => self.script[place.script_at],
            None => unreachable!("a place with a request has a task"),
        }
    }

    /// Sends the request that the place needs now.
    fn send(&mut self, at: u32, net: &mut Net, now: u64) {
        let place = &self.places[at as usize];
        let step = self.step(place);
        let stamp = Stamp {
            writer: self.writer,
            began: place.began,
            place: at,
            turn: 0,
        };
        stamp.write(&mut self.value);
        let session = net.session(at as usize);
        let value = &self.value;
        let mut change = Change::Put { value, lease: 0 };
        let (key, mod_revision) = match step {
            Step::Renew => {
                let known = self.revisions[place.index as usize];
                (self.node_leases.key(place.index), known)
            }
            Step::Create | Step::Bind | Step::Status => {
                (self.pods.key(place.index), place.mod_revision)
            }
            Step::Delete => {
                change = Change::Delete;
                (self.pods.key(place.index), place.mod_revision)
            }
            Step::Event => {
                let lease = self.event_lease.take(session, now);
                change = Change::Put { value, lease };
                let number = place.script_at as u8;
                let mut key = self.events.key(place.index);
                key.extend_from_slice(&[b'.', b'a' + number / 10, b'0' + number % 10]);
                (key, place.event_revision)
            }
            Step::Get => (self.node_names.key(place.index), 0),
            Step::List => {
                self.pages.call(&place.listing, session, at);
                return;
            }
            Step::Seen => unreachable!("events are seen, not sent"),
        };
        self.places[at as usize].answer = None;
        if step == Step::Get {
            session.call(Rpc::Range, at, Delivery::Unary, |out| {
                range(out, &key, false)
            });
        } else {
            session.call(Rpc::Txn, at, Delivery::Unary, |out| {
                guarded(out, &key, mod_revision, change);
            });
        }
    }

    /// The answer is whole and good as far as gRPC goes.
    fn on_answer(&mut self, at: u32, shift: &mut Shift) {
        let step = self.step(&self.places[at as usize]);
        let place = &mut self.places[at as usize];
        let Some(Ok(answer)) = place.answer.take() else {
            shift.fail(at, &Failure::Answer("not the expected message"));
            return;
        };
        match (step, answer) {
            (Step::Renew, Answer::Changed(revision)) => {
                self.revisions[place.index as usize] = revision;
            }
            (Step::Event, Answer::Changed(_)) => place.event_revision = 0,
            (_, Answer::Changed(revision)) => place.mod_revision = revision,
            (_, Answer::Conflict(found)) => {
                match step {
                    Step::Renew => self.revisions[place.index as usize] = found,
                    Step::Event => place.event_revision = found,
                    _ => place.mod_revision = found,
                }
                shift.tally.record_conflict(shift.now);
                shift.go_on(at);
                return;
            }
            (_, Answer::Missing) => {
                shift.fail(at, &Failure::Answer("no such key"));
                return;
            }
            (_, Answer::Good) => {}
        }
        self.finish_step(at, step, shift);
    }

    /// A page of a list has come.
    fn on_page(&mut self, at: u32, shift: &mut Shift) {
        let place = &mut self.places[at as usize];
        let listing = &mut place.listing;
        if place.answer.take().is_some() {
            shift.fail(at, &Failure::Answer("not the expected message"));
        } else if listing.more {
            listing.begin_page();
            shift.go_on(at);
        } else if listing.key_count >= self.node_count {
            shift.tally.record_bytes(listing.bytes, shift.now);
            self.finish_step(at, Step::List, shift);
        } else {
            shift.fail(at, &Failure::Answer("not all keys are listed"));
        }
    }

    fn finish_step(&mut self, at: u32, step: Step, shift: &mut Shift) {
        let place = &mut self.places[at as usize];
        shift.record(tallied(&self.steps, step), place.began);
        if place.task == Some(Task::Pod) && place.script_at + 1 < self.script.len() {
            place.script_at += 1;
            place.began = shift.now;
            shift.go_on(at);
        } else {
            shift.flow.release(at);
        }
    }
}

impl Workload for Kube {
    fn prepare(&mut self, net: &mut Net) {
        self.watchers.open(net);
        self.event_lease.take(net.session(0), 0);
    }

    fn is_ready(&self) -> Result<bool, Failure> {
        Ok(self.watchers.is_ready()? && self.event_lease.is_ready()?)
    }

    fn start(&mut self, start: Start, net: &mut Net, shift: &mut Shift) {
        let task = self.tasks[start.task];
        let place = &mut self.places[start.place as usize];
        place.task = Some(task);
        place.began = shift.flow.began(start.place);
        match task {
            Task::Renew => place.index = Self::next_node(&self.nodes, &mut self.next_renewal),
            Task::Get => place.index = Self::next_node(&self.nodes, &mut self.next_get),
            Task::List => self.pages.begin(&mut place.listing),
            Task::Pod => {
                place.index = self.next_pod;
                self.next_pod += self.workers;
                (place.script_at, place.mod_revision, place.event_revision) = (0, 0, 0);
            }
        }
        self.send(start.place, net, shift.now);
    }

    fn go_on(&mut self, at: u32, net: &mut Net, shift: &mut Shift) {
        self.send(at, net, shift.now);
    }

    fn on_event(&mut self, token: u32, event: Event<'_>, shift: &mut Shift) {
        if token >= WATCH_TOKENS {
            let writer = self.writer;
            let seen = tallied(&self.steps, Step::Seen);
            let taken = self.watchers.on_event(event, |value| {
                if let Some(stamp) = Stamp::read(value, writer) {
                    shift.record(seen, stamp.began);
                }
            });
            if let Err(failure) = taken {
                shift.tally.record_failure(&failure);
            }
            return;
        }
        if token == GRANT_TOKEN {
            if let Err(failure) = self.event_lease.on_event(event, shift.now) {
                shift.tally.record_failure(&failure);
            }
            return;
        }
        let place = &mut self.places[token as usize];
        let is_list = place.task == Some(Task::List);
        match event {
            Event::Message(message) => {
                place.answer = Some(match place.task {
                    Some(Task::Get) => Answer::range(message),
                    _ => Answer::guarded(message),
                });
            }
            Event::Piece { bytes, is_last } => {
                if let Err(malformed) = place.listing.take(bytes, is_last) {
                    place.answer = Some(Err(malformed));
                }
            }
            Event::End(Ok(())) if is_list => self.on_page(token, shift),
            Event::End(Ok(())) => self.on_answer(token, shift),
            Event::End(Err(failure)) => shift.fail(token, &failure),
        }
    }
}

/// The tasks of a job.
fn tasks(op: Op) -> &'static [Task] {
    match op {
        Op::KubeNodeLeases => &[Task::Renew],
        Op::KubePodChurn => &[Task::Pod],
        _ => &[Task::Renew, Task::Pod, Task::Get, Task::List],
    }
}

/// The kinds of operations of a job.
fn steps(job: &JobSpec) -> Vec<Step> {
    let mut steps = Vec::new();
    for task in tasks(job.op) {
        match task {
            Task::Renew => steps.push(Step::Renew),
            Task::Get => steps.push(Step::Get),
            Task::List => steps.push(Step::List),
            Task::Pod => steps.extend(script(job.kube.events_per_pod)),
        }
    }
    steps.push(Step::Seen);
    let mut known = Vec::new();
    steps.retain(|step| {
        let is_new = !known.contains(step);
        known.push(*step);
        is_new
    });
    steps
}

/// Where a kind is tallied.
fn tallied(steps: &[Step], step: Step) -> usize {
    let at = steps.iter().position(|&other| other == step);
    at.expect("only the job's own kinds happen")
}

/// What becomes of a pod, its Event objects shared out over its changes.
fn script(events_per_pod: u32) -> Vec<Step> {
    const LIFE: [Step; 4] = [Step::Create, Step::Bind, Step::Status, Step::Status];
    let mut script = Vec::new();
    for (at, &step) in LIFE.iter().enumerate() {
        script.push(step);
        let events = share(u64::from(events_per_pod), at, LIFE.len());
        script.extend(events.map(|_| Step::Event));
    }
    script.push(Step::Delete);
    script
}

/// One stream for each API server of this worker, with a watch of each resource.
fn watchers(job: &JobSpec, worker: usize) -> Watchers {
    let servers = share(u64::from(job.watchers), worker, job.numjobs as usize);
    let resources = match job.op {
        Op::KubeNodeLeases => &RESOURCES[2..3],
        _ => &RESOURCES[..],
    };
    let ranges = resources
        .iter()
        .map(|prefix| KeyText::new(prefix.as_bytes(), 0).range());
    Watchers::new(servers.map(|_| ranges.clone().collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_shared_out_over_a_pods_life() {
        use Step::{Bind, Create, Delete, Event, Status};
        assert_eq!(script(0), [Create, Bind, Status, Status, Delete]);
        assert_eq!(
            script(5),
            [
                Create, Event, Bind, Event, Status, Event, Status, Event, Event, Delete
            ]
        );
    }

    #[test]
    fn nodes_take_turns() {
        let nodes = 3..5;
        let mut next = 3;
        let turns: Vec<u64> = (0..5).map(|_| Kube::next_node(&nodes, &mut next)).collect();
        assert_eq!(turns, [3, 4, 3, 4, 3]);
    }
}
