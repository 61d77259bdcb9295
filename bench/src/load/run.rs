//! A load, from its description to its tally.
//!
//! [`fill`] writes the keys that jobs read, for loads that follow each other on one server.
//! [`Load::connect`] fills the server if the job reads keys, starts a worker thread for each clone
//! of the job and waits until all are connected and prepared. [`Load::begin`] lets them go;
//! [`Load::finish`] brings the sum of what they saw.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::clock::{Clock, nanos};
use super::flow::{Flow, Pace, share};
use super::net::Net;
use super::ops::{FILL_PLACES, Fill, Keepalive, Kube, Kv, Share, Watch, fills};
use super::tally::Tally;
use super::worker::{Shift, Signals, Worker, Workload};
use crate::grpc::Failure;
use crate::job::{JobSpec, Op};

/// The window of a job that ends by its size.
const UNTIMED: Duration = Duration::from_secs(365 * 24 * 3_600);
/// How often is told how far a filling is.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// A running load.
pub struct Load {
    spec: Arc<JobSpec>,
    workers: Vec<Handle>,
    /// Of the workers that have ended, the last one first.
    tallies: Vec<Tally>,
}

/// The command's end of one worker thread.
struct Handle {
    begin: Option<oneshot::Sender<Range<Instant>>>,
    tally: oneshot::Receiver<Result<Tally, Failure>>,
    signals: Signals,
}

/// The thread's end.
struct Duty {
    spec: Arc<JobSpec>,
    worker: usize,
    addresses: Vec<SocketAddr>,
    revisions: Arc<[Vec<i64>]>,
    run: u32,
    clock: Clock,
    signals: Signals,
    ready: oneshot::Sender<Result<(), Failure>>,
    begin: oneshot::Receiver<Range<Instant>>,
}

impl Load {
    /// Prepares the servers and the workers, and waits until all of it is there.
    pub async fn connect(spec: &JobSpec, addresses: &[SocketAddr]) -> Result<Self> {
        let spec = Arc::new(spec.clone());
        let fills = fills(&spec);
        let clock = Clock::new();
        let revisions = filled(&spec, fills, addresses, clock, Signals::default()).await?;
        Self::start(spec, addresses, clock, revisions).await
    }

    /// The same on servers that hold the job's keys already. No job that guards its changes.
    pub async fn connect_filled(spec: &JobSpec, addresses: &[SocketAddr]) -> Result<Self> {
        assert!(
            !matches!(spec.op, Op::TxnUpdate | Op::Mixed),
            "{} needs the revisions of its keys",
            spec.op
        );
        Self::start(
            Arc::new(spec.clone()),
            addresses,
            Clock::new(),
            Arc::default(),
        )
        .await
    }

    /// Starts the workers and waits until they are ready.
    async fn start(
        spec: Arc<JobSpec>,
        addresses: &[SocketAddr],
        clock: Clock,
        revisions: Arc<[Vec<i64>]>,
    ) -> Result<Self> {
        let run = rand::random();
        let mut workers = Vec::new();
        let mut waiting = Vec::new();
        for worker in 0..spec.numjobs as usize {
            let (begin, on_begin) = oneshot::channel();
            let (report_tally, tally) = oneshot::channel();
            let (report_ready, ready) = oneshot::channel();
            let signals = Signals::default();
            let duty = Duty {
                spec: spec.clone(),
                worker,
                addresses: connections(&spec, worker, addresses),
                revisions: revisions.clone(),
                run,
                clock,
                signals: signals.clone(),
                ready: report_ready,
                begin: on_begin,
            };
            spawn(&spec, format!("load-{worker}"), move || {
                if let Some(tally) = duty.fulfil() {
                    // Nobody listens once the command has been interrupted.
                    let _ = report_tally.send(tally);
                }
            })?;
            workers.push(Handle {
                begin: Some(begin),
                tally,
                signals,
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
            spec,
            workers,
            tallies: Vec::new(),
        })
    }

    /// Lets the workers go and tells the window that will be measured.
    pub fn begin(&mut self) -> Range<Instant> {
        let start = Instant::now() + self.spec.ramp_time();
        let length = match self.spec.runtime() {
            Duration::ZERO => UNTIMED,
            runtime => runtime,
        };
        let window = start..start + length;
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
            .map(|worker| worker.signals.done.load(Ordering::Relaxed))
            .sum()
    }

    /// Ends the load before its time; [`Load::finish`] brings what was seen.
    pub fn stop(&self) {
        for worker in &self.workers {
            worker.signals.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for the last answers. To be called again if the future was dropped.
    pub async fn finish(&mut self) -> Result<Tally> {
        while let Some(worker) = self.workers.last_mut() {
            let tally = (&mut worker.tally)
                .await
                .context("a load thread ended early")?
                .context("the load broke off")?;
            self.tallies.push(tally);
            self.workers.pop();
        }
        let mut tallies = self.tallies.iter();
        let mut sum = tallies.next().context("a load has a worker")?.clone();
        for tally in tallies {
            sum.add(tally.clone());
        }
        Ok(sum)
    }

    /// What each clone saw, once the load is finished.
    pub fn clones(&self) -> impl Iterator<Item = &Tally> {
        self.tallies.iter().rev()
    }
}

impl Drop for Load {
    /// A load that nobody waits for does not go on.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Duty {
    /// One worker thread, from connecting to its tally. None if it never began.
    fn fulfil(self) -> Option<Result<Tally, Failure>> {
        let job = self.spec.clone();
        let revisions = self.revisions.clone();
        let share = Share {
            job: &job,
            worker: self.worker,
            run: self.run,
            revisions: &revisions,
        };
        let pace = |rate| Pace::per_second(rate, self.worker, job.numjobs as usize);
        let rate: Vec<Pace> = job.rate.map(pace).into_iter().collect();
        match job.op {
            Op::Put | Op::TxnUpdate | Op::Range | Op::List | Op::Delete | Op::Mixed => {
                self.work(Kv::new(share), rate, &Kv::steps(&job))
            }
            Op::LeaseKeepalive => self.work(Keepalive::new(share), rate, &[]),
            Op::Watch | Op::WatchLatency => self.work(Watch::new(share), rate, &[]),
            Op::KubeNodeLeases | Op::KubePodChurn | Op::Kube1kNodes => {
                let paces = Kube::paces(&job, self.worker);
                self.work(Kube::new(share), paces, &Kube::steps(&job))
            }
            Op::Disk => unreachable!("the disk probe is no load"),
        }
    }

    fn work<W: Workload>(
        mut self,
        workload: W,
        paces: Vec<Pace>,
        steps: &[(&'static str, bool)],
    ) -> Option<Result<Tally, Failure>> {
        let workers = self.spec.numjobs as usize;
        let flow = Flow::new(self.spec.iodepth as usize, paces);
        let shift = Shift::new(flow, Tally::new(steps));
        let prepared = Net::connect(&self.addresses).and_then(|net| {
            let mut worker = Worker::new(workload, net, self.clock, shift, self.signals.clone());
            worker.prepare().map(|()| worker)
        });
        let mut worker = match prepared {
            Ok(worker) => worker,
            Err(failure) => {
                // Nobody listens once the command has been interrupted.
                let _ = self.ready.send(Err(failure));
                return None;
            }
        };
        // As above.
        let _ = self.ready.send(Ok(()));
        let clock = self.clock;
        let window = worker.await_window(|| match self.begin.try_recv() {
            Ok(window) => Some(Some(clock.nanos(window.start)..clock.nanos(window.end))),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(None),
        });
        let operations = match self.spec.size {
            Some(size) => {
                let share = share(size, self.worker, workers);
                share.end - share.start
            }
            None => u64::MAX,
        };
        let outcome = match window {
            Ok(Some(window)) => {
                let begin = window.start.saturating_sub(nanos(self.spec.ramp_time()));
                worker.run(begin, window, operations)
            }
            Ok(None) => return None,
            Err(failure) => Err(failure),
        };
        Some(outcome.map(|()| worker.into_parts().1))
    }
}

/// Writes the keys that a job needs, and tells meanwhile how many of them are written.
pub async fn fill(
    spec: &JobSpec,
    addresses: &[SocketAddr],
    mut tell: impl FnMut(u64),
) -> Result<()> {
    let fills = fills(spec);
    let batches: u64 = fills.iter().map(Fill::batches).sum();
    let signals = Signals::default();
    let written = filled(spec, fills, addresses, Clock::new(), signals.clone());
    tokio::pin!(written);
    loop {
        tokio::select! {
            outcome = &mut written => return outcome.map(drop),
            () = tokio::time::sleep(TELL_INTERVAL) => {
                let done = u128::from(signals.done.load(Ordering::Relaxed));
                let keys = u128::from(spec.key_count) * done / u128::from(batches.max(1));
                tell(u64::try_from(keys).unwrap_or(u64::MAX));
            }
        }
    }
}

/// The mod revisions of the keys that the job needs, once they are written.
async fn filled(
    spec: &JobSpec,
    fills: Vec<Fill>,
    addresses: &[SocketAddr],
    clock: Clock,
    signals: Signals,
) -> Result<Arc<[Vec<i64>]>> {
    if fills.is_empty() {
        return Ok(Arc::default());
    }
    let (report, filled) = oneshot::channel();
    let addresses = addresses.to_vec();
    spawn(spec, "load-fill".to_owned(), move || {
        let write = |work| write_keys(work, &addresses, clock, signals.clone());
        let filled = fills.into_iter().map(write);
        // Nobody listens once the command has been interrupted.
        let _ = report.send(filled.collect::<Result<Vec<_>>>());
    })?;
    let revisions = filled.await.context("the filling thread ended early")??;
    Ok(revisions.into())
}

fn write_keys(
    workload: Fill,
    addresses: &[SocketAddr],
    clock: Clock,
    signals: Signals,
) -> Result<Vec<i64>> {
    let batches = workload.batches();
    let ways: Vec<SocketAddr> = addresses
        .iter()
        .copied()
        .cycle()
        .take(FILL_PLACES as usize)
        .collect();
    let shift = Shift::new(Flow::new(ways.len(), Vec::new()), Tally::new(&[]));
    let net = Net::connect(&ways)?;
    let mut worker = Worker::new(workload, net, clock, shift, signals);
    let now = clock.now();
    worker.run(now, now..now.saturating_add(nanos(UNTIMED)), batches)?;
    let (workload, tally) = worker.into_parts();
    if let Some(error) = tally.first_error {
        bail!("cannot write the keys: {error}");
    }
    Ok(workload.revisions)
}

/// The addresses of one worker's connections: its share, spread over the endpoints.
fn connections(job: &JobSpec, worker: usize, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let share = share(u64::from(job.connections), worker, job.numjobs as usize);
    // Every worker needs one.
    let end = share.end.max(share.start + 1);
    (share.start..end)
        .map(|at| addresses[at as usize % addresses.len()])
        .collect()
}

/// Starts a thread on the CPUs that the job allows.
fn spawn(job: &JobSpec, name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut allowed = CpuSet::new();
    for &cpu in &job.cpus_allowed {
        let cpu = cpu as usize;
        if cpu >= CpuSet::MAX_CPU {
            bail!("there is no CPU {cpu}");
        }
        allowed.set(cpu);
    }
    let (report, bound) = std::sync::mpsc::channel();
    let bind = !job.cpus_allowed.is_empty();
    thread::Builder::new().name(name).spawn(move || {
        let is_bound = if bind {
            sched_setaffinity(None, &allowed)
        } else {
            Ok(())
        };
        let goes_on = is_bound.is_ok();
        // The caller waits for it.
        let _ = report.send(is_bound);
        if goes_on {
            work();
        }
    })?;
    bound
        .recv()
        .context("a load thread ended early")?
        .with_context(|| format!("cannot run on the CPUs {:?}", job.cpus_allowed))
}
