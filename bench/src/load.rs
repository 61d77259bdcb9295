//! The load generator: clients in a closed loop, many to a connection, all on one thread.
//!
//! A command describes the load as a [`Job`] and starts it with [`Load::connect`]: worker threads
//! (one by default) connect, make what the operation needs (leases), and wait. [`Load::begin`]
//! lets them go; each client then keeps one request in flight. [`Load::finish`] brings the sum of
//! what the workers saw.
//!
//! 1. Throughput counts the answers that arrived inside the measured window; latency is recorded
//!    for every request that *began* inside it, so a stall at the end is not lost.
//! 2. An answer that is missing, empty or an error is counted by code and never as an operation.
//! 3. A client whose connection broke stops; the others go on.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use keelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
};

use crate::grpc::{Call, Channel, Duplex, Failure, frame};
use crate::request::{KEY_BYTES, Template};
use crate::stats::{Errors, latency_histogram};

/// Leases outlive any run.
const LEASE_TTL_SECONDS: i64 = 3_600;
/// How long answers may be outstanding after the window.
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// A pause after an error, so that a server that refuses everything is not flooded.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// What each client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Write one key.
    Put,
    /// Read one key, linearizable.
    Range,
    /// Renew the client's own lease on its own stream.
    Keepalive,
}

/// A load, fully described.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    pub op: Op,
    pub clients: usize,
    pub connections: usize,
    pub threads: usize,
    pub key_count: u64,
    pub value_bytes: usize,
    /// Which keys are touched, and when the job ends.
    pub extent: Extent,
    pub seed: u64,
}

/// How far a job goes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// Random keys until the measured time is over.
    Timed { ramp_seconds: u64, seconds: u64 },
    /// This many operations, keys in turn.
    Counted(u64),
}

/// What was seen.
pub struct Tally {
    /// Answers inside the measured window.
    pub operations: u64,
    /// Answers, ramp included.
    pub operations_total: u64,
    pub latency_ns: Histogram<u64>,
    pub errors: Errors,
    /// The first error in words.
    pub first_error: Option<String>,
}

impl Tally {
    fn new() -> Self {
        Self {
            operations: 0,
            operations_total: 0,
            latency_ns: latency_histogram(),
            errors: Errors::new(),
            first_error: None,
        }
    }

    fn count_error(&mut self, code: String, text: String) {
        *self.errors.entry(code).or_default() += 1;
        self.first_error.get_or_insert(text);
    }

    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.operations_total += other.operations_total;
        self.latency_ns
            .add(other.latency_ns)
            .expect("all histograms have the same bounds");
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// A running load.
pub struct Load {
    extent: Extent,
    workers: Vec<Worker>,
}

/// The command's end of one worker thread.
struct Worker {
    begin: Option<oneshot::Sender<Range<Instant>>>,
    tally: oneshot::Receiver<Tally>,
    done: Arc<AtomicU64>,
}

impl Load {
    /// Starts the workers and waits until each is connected and prepared.
    pub async fn connect(job: &Job, address: SocketAddr) -> Result<Self> {
        let mut workers = Vec::new();
        let mut waiting = Vec::new();
        for index in 0..job.threads {
            let (begin, on_begin) = oneshot::channel();
            let (report_tally, tally) = oneshot::channel();
            let (report_ready, ready) = oneshot::channel();
            let done = Arc::new(AtomicU64::new(0));
            let (job, counter) = (job.clone(), done.clone());
            let work = move || {
                let shift = Shift::new(&job, index, counter);
                if let Some(tally) = work(&job, shift, index, address, report_ready, on_begin) {
                    // Nobody listens once the command has been interrupted.
                    let _ = report_tally.send(tally);
                }
            };
            thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(work)?;
            workers.push(Worker {
                begin: Some(begin),
                tally,
                done,
            });
            waiting.push(ready);
        }
        for ready in waiting {
            ready
                .await
                .context("a load thread ended early")?
                .context("cannot prepare the load")?;
        }
        Ok(Self {
            extent: job.extent,
            workers,
        })
    }

    /// Lets the clients go and tells the window that will be measured.
    pub fn begin(&mut self) -> Range<Instant> {
        let now = Instant::now();
        let window = match self.extent {
            Extent::Timed {
                ramp_seconds,
                seconds,
            } => {
                let start = now + Duration::from_secs(ramp_seconds);
                start..start + Duration::from_secs(seconds)
            }
            Extent::Counted(_) => now..now + Duration::from_secs(365 * 24 * 3_600),
        };
        for worker in &mut self.workers {
            let begin = worker.begin.take().expect("a load begins once");
            // A worker that has died is noticed when its tally does not come.
            let _ = begin.send(window.clone());
        }
        window
    }

    /// Answers so far.
    pub fn done(&self) -> u64 {
        self.workers
            .iter()
            .map(|worker| worker.done.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits for the last answers. To be called again if the future was dropped.
    pub async fn finish(&mut self) -> Result<Tally> {
        let mut sum = Tally::new();
        while let Some(worker) = self.workers.last_mut() {
            sum.add(
                (&mut worker.tally)
                    .await
                    .context("a load thread ended early")?,
            );
            self.workers.pop();
        }
        Ok(sum)
    }
}

/// One worker thread, from connecting to its tally. None if it never began.
fn work(
    job: &Job,
    shift: Shift,
    index: usize,
    address: SocketAddr,
    ready: oneshot::Sender<Result<(), Failure>>,
    begin: oneshot::Receiver<Range<Instant>>,
) -> Option<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("the process may open an epoll descriptor");
    let shift = Rc::new(RefCell::new(shift));
    LocalSet::new().block_on(&runtime, async {
        let callers = match prepare(job, index, address).await {
            Ok(callers) => callers,
            Err(failure) => {
                // Nobody listens once the command has been interrupted.
                let _ = ready.send(Err(failure));
                return None;
            }
        };
        // As above.
        let _ = ready.send(Ok(()));
        let window = begin.await.ok()?;
        let last_answer = window.end + ANSWER_GRACE;
        shift.borrow_mut().window = window;
        let clients: Vec<_> = callers
            .into_iter()
            .map(|caller| tokio::task::spawn_local(run_client(caller, shift.clone())))
            .collect();
        let mut unanswered = 0;
        for client in clients {
            if tokio::time::timeout_at(last_answer.into(), client)
                .await
                .is_err()
            {
                unanswered += 1;
            }
        }
        let mut tally = std::mem::replace(&mut shift.borrow_mut().tally, Tally::new());
        for _ in 0..unanswered {
            tally.count_error(
                "Unanswered".to_owned(),
                "no answer after the end".to_owned(),
            );
        }
        Some(tally)
    })
}

/// Connects this worker's share of the connections and makes a caller per client.
async fn prepare(job: &Job, index: usize, address: SocketAddr) -> Result<Vec<Caller>, Failure> {
    let share = |total: usize| (index + 1) * total / job.threads - index * total / job.threads;
    let mut channels = Vec::new();
    for _ in 0..share(job.connections).max(1) {
        channels.push(Channel::connect(address).await?);
    }
    let mut callers = Vec::new();
    for client in 0..share(job.clients) {
        let channel = channels[client % channels.len()].clone();
        callers.push(Caller::prepare(job, channel).await?);
    }
    Ok(callers)
}

/// One client: the next request leaves when the answer to the last one is here.
async fn run_client(mut caller: Caller, shift: Rc<RefCell<Shift>>) {
    let mut began = Instant::now();
    loop {
        let Some(key) = shift.borrow_mut().next_key(began) else {
            break;
        };
        let message = caller.message(&shift, key);
        let outcome = caller.exchange(message).await;
        let ended = Instant::now();
        let failure = shift.borrow_mut().record(began, ended, outcome);
        began = ended;
        if let Some(broken) = failure {
            if broken {
                break;
            }
            tokio::time::sleep(ERROR_PAUSE).await;
            began = Instant::now();
        }
    }
}

/// How a client asks.
enum Caller {
    Unary {
        channel: Channel,
        call: Call,
        answer_bytes_min: usize,
    },
    Lease {
        duplex: Duplex,
        message: Bytes,
    },
}

impl Caller {
    async fn prepare(job: &Job, mut channel: Channel) -> Result<Self, Failure> {
        match job.op {
            Op::Put => {
                let call = channel.prepare("/etcdserverpb.KV/Put");
                Ok(Self::Unary {
                    channel,
                    call,
                    answer_bytes_min: 1,
                })
            }
            // The answer holds the value, or else the key was not there.
            Op::Range => {
                let call = channel.prepare("/etcdserverpb.KV/Range");
                Ok(Self::Unary {
                    channel,
                    call,
                    answer_bytes_min: job.value_bytes.max(KEY_BYTES),
                })
            }
            Op::Keepalive => {
                let request = LeaseGrantRequest {
                    ttl: LEASE_TTL_SECONDS,
                    id: 0,
                };
                let lease: LeaseGrantResponse = channel
                    .call("/etcdserverpb.Lease/LeaseGrant", &request)
                    .await?;
                let call = channel.prepare("/etcdserverpb.Lease/LeaseKeepAlive");
                let message = frame(&LeaseKeepAliveRequest { id: lease.id });
                Ok(Self::Lease {
                    duplex: channel.open(&call).await?,
                    message,
                })
            }
        }
    }

    fn message(&self, shift: &RefCell<Shift>, key: u64) -> Bytes {
        match self {
            Self::Unary { .. } => shift.borrow().template.message(key),
            Self::Lease { message, .. } => message.clone(),
        }
    }

    async fn exchange(&mut self, message: Bytes) -> Result<(), Failure> {
        match self {
            Self::Unary {
                channel,
                call,
                answer_bytes_min,
            } => {
                let answer = channel.unary(call, message).await?;
                if answer.len() < *answer_bytes_min {
                    return Err(Failure::Answer("no value"));
                }
            }
            Self::Lease { duplex, .. } => {
                let answer = LeaseKeepAliveResponse::decode(duplex.exchange(message).await?);
                if !answer.is_ok_and(|lease| lease.ttl > 0) {
                    return Err(Failure::Answer("the lease is gone"));
                }
            }
        }
        Ok(())
    }
}

/// What the clients of one worker share.
struct Shift {
    template: Template,
    window: Range<Instant>,
    keys: Keys,
    tally: Tally,
    done: Arc<AtomicU64>,
}

/// Which key comes next.
enum Keys {
    Random { rng: SmallRng, key_count: u64 },
    InTurn { left: Range<u64>, key_count: u64 },
}

impl Shift {
    fn new(job: &Job, index: usize, done: Arc<AtomicU64>) -> Self {
        let key_count = job.key_count;
        let keys = match job.extent {
            Extent::Timed { .. } => {
                let rng = SmallRng::seed_from_u64(job.seed.wrapping_add(index as u64));
                Keys::Random { rng, key_count }
            }
            Extent::Counted(total) => {
                let border = |index: usize| total * index as u64 / job.threads as u64;
                Keys::InTurn {
                    left: border(index)..border(index + 1),
                    key_count,
                }
            }
        };
        let template = Template::new(job);
        let now = Instant::now();
        Self {
            template,
            window: now..now,
            keys,
            tally: Tally::new(),
            done,
        }
    }

    /// The key of the next request, or None if the job is over.
    fn next_key(&mut self, now: Instant) -> Option<u64> {
        if now >= self.window.end {
            return None;
        }
        match &mut self.keys {
            Keys::Random { rng, key_count } => Some(rng.random_range(0..*key_count)),
            Keys::InTurn { left, key_count } => left.next().map(|index| index % *key_count),
        }
    }

    /// Counts an outcome. For an error, tells whether the connection is broken.
    fn record(
        &mut self,
        began: Instant,
        ended: Instant,
        outcome: Result<(), Failure>,
    ) -> Option<bool> {
        if let Err(failure) = outcome {
            self.tally.count_error(failure.code(), failure.to_string());
            return Some(failure.breaks_connection());
        }
        if self.window.contains(&began) {
            let nanos = u64::try_from((ended - began).as_nanos()).unwrap_or(u64::MAX);
            self.tally.latency_ns.saturating_record(nanos);
        }
        self.tally.operations += u64::from(self.window.contains(&ended));
        self.tally.operations_total += 1;
        self.done
            .store(self.tally.operations_total, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(op: Op, extent: Extent) -> Job {
        Job {
            op,
            clients: 4,
            connections: 2,
            threads: 2,
            key_count: 7,
            value_bytes: 300,
            extent,
            seed: 1,
        }
    }

    #[test]
    fn counted_jobs_touch_each_index_once_over_all_workers() {
        let job = job(Op::Put, Extent::Counted(21));
        let mut seen = Vec::new();
        for index in 0..2 {
            let mut shift = Shift::new(&job, index, Arc::default());
            let now = Instant::now();
            shift.window = now..now + Duration::from_secs(1);
            while let Some(key) = shift.next_key(now) {
                seen.push(key);
            }
        }
        let expected: Vec<u64> = (0..21).map(|index| index % 7).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn only_the_window_counts() {
        let extent = Extent::Timed {
            ramp_seconds: 0,
            seconds: 1,
        };
        let mut shift = Shift::new(&job(Op::Range, extent), 0, Arc::default());
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        shift.window = at(1_000)..at(2_000);
        for (began, ended) in [(0, 500), (900, 1_100), (1_100, 1_200), (1_900, 2_100)] {
            assert_eq!(shift.record(at(began), at(ended), Ok(())), None);
        }
        assert_eq!(
            shift.record(at(1), at(2), Err(Failure::Answer("no value"))),
            Some(false)
        );
        assert_eq!(shift.tally.operations, 2, "answers inside the window");
        assert_eq!(
            shift.tally.latency_ns.len(),
            2,
            "requests that began inside the window"
        );
        assert_eq!(shift.tally.operations_total, 4);
        assert_eq!(shift.tally.errors["UnexpectedAnswer"], 1);
        assert!(shift.next_key(at(2_000)).is_none());
        assert!(shift.next_key(at(1_999)).is_some_and(|key| key < 7));
    }
}
