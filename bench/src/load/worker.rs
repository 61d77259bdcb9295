//! One thread of the generator: one loop over its connections.
//!
//! ```text
//!   turn: begin what may begin -> write once to each connection -> wait
//!         -> read once from each that has something -> count what the answers say
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use super::clock::{Clock, MILLISECOND, SECOND};
use super::flow::{Flow, Start};
use super::net::Net;
use super::tally::Tally;
use crate::grpc::{Event, Failure};

/// How often a worker looks whether it should begin, or stop.
const LOOK_INTERVAL: u64 = MILLISECOND;
const STOP_LOOK_INTERVAL: u64 = 50 * MILLISECOND;
/// How long the set-up of a worker may take.
const PREPARE_MAX: u64 = 60 * SECOND;

/// What the operations of a job do. Tokens below the number of places name a place; others are the
/// workload's own.
pub trait Workload {
    /// Begins what must be there before the first operation.
    fn prepare(&mut self, _net: &mut Net) {}

    /// Whether all of that is there.
    fn is_ready(&self) -> Result<bool, Failure> {
        Ok(true)
    }

    /// Begins an operation.
    fn start(&mut self, start: Start, net: &mut Net, shift: &mut Shift);

    /// Goes on with an operation that takes several requests; see [`Shift::go_on`].
    fn go_on(&mut self, place: u32, net: &mut Net, shift: &mut Shift);

    /// Takes what came for a token.
    fn on_event(&mut self, token: u32, event: Event<'_>, shift: &mut Shift);
}

/// The worker's side of a workload: the time, the places, what was seen.
pub struct Shift {
    /// When this turn began, or what is being handled arrived.
    pub now: u64,
    pub flow: Flow,
    pub tally: Tally,
    again: Vec<u32>,
}

/// How the command and the workers of one load reach each other.
#[derive(Clone, Default)]
pub struct Signals {
    pub stop: Arc<AtomicBool>,
    /// Answers so far.
    pub done: Arc<AtomicU64>,
}

/// A worker, connected.
pub struct Worker<W> {
    pub workload: W,
    net: Net,
    clock: Clock,
    shift: Shift,
    signals: Signals,
}

impl Shift {
    /// At the beginning of time.
    pub fn new(flow: Flow, tally: Tally) -> Self {
        Self {
            now: 0,
            flow,
            tally,
            again: Vec::new(),
        }
    }

    /// The operation in a place has brought what it should.
    pub fn complete(&mut self, place: u32, step: usize) {
        self.tally.record(step, self.flow.began(place), self.now);
        self.flow.release(place);
    }

    /// Something that counts has come, for an operation that may go on.
    pub fn record(&mut self, step: usize, began: u64) {
        self.tally.record(step, began, self.now);
    }

    /// The operation in a place failed.
    pub fn fail(&mut self, place: u32, failure: &Failure) {
        self.tally.record_failure(failure);
        if failure.breaks_connection() {
            self.flow.retire();
        } else {
            self.flow.rest(place, self.now);
        }
    }

    /// The operation in a place goes on with another request, after what has arrived is read.
    pub fn go_on(&mut self, place: u32) {
        self.again.push(place);
    }
}

impl<W: Workload> Worker<W> {
    /// A worker that is to prepare its workload.
    pub fn new(workload: W, net: Net, clock: Clock, shift: Shift, signals: Signals) -> Self {
        Self {
            workload,
            net,
            clock,
            shift,
            signals,
        }
    }

    /// Makes what the workload needs.
    pub fn prepare(&mut self) -> Result<(), Failure> {
        self.workload.prepare(&mut self.net);
        let deadline = self.clock.now() + PREPARE_MAX;
        while !self.workload.is_ready()? {
            if self.clock.now() > deadline {
                return Err(Failure::Answer("no answer while the load was prepared"));
            }
            self.exchange(STOP_LOOK_INTERVAL)?;
        }
        Ok(())
    }

    /// Answers the servers until the window is known. None if it will never be.
    pub fn await_window(
        &mut self,
        mut ask: impl FnMut() -> Option<Option<Range<u64>>>,
    ) -> Result<Option<Range<u64>>, Failure> {
        loop {
            if let Some(known) = ask() {
                return Ok(known);
            }
            self.exchange(LOOK_INTERVAL)?;
        }
    }

    /// Puts the servers under the load: so many operations, until the end of the window. Schedules
    /// begin when the load was to begin, however late this thread is.
    pub fn run(&mut self, begin: u64, window: Range<u64>, operations: u64) -> Result<(), Failure> {
        self.shift.now = self.clock.now();
        self.shift.tally.set_window(window.clone());
        self.shift.flow.begin(begin, window.end, operations);
        let mut cpu = CpuMeter::new(window);
        loop {
            self.shift.now = self.clock.now();
            if self.signals.stop.load(Ordering::Relaxed) {
                self.shift.flow.stop(self.shift.now);
            }
            self.begin_operations();
            let now = self.shift.now;
            cpu.look(now, self.shift.flow.end());
            if self.shift.flow.is_over(now) {
                break;
            }
            let wake = self.shift.flow.wake().min(cpu.wake());
            let wait = wake.saturating_sub(now).min(STOP_LOOK_INTERVAL);
            self.exchange(wait)?;
            self.signals
                .done
                .store(self.shift.tally.operations_total, Ordering::Relaxed);
        }
        self.settle(&cpu);
        Ok(())
    }

    /// What was seen.
    pub fn into_parts(self) -> (W, Tally) {
        (self.workload, self.shift.tally)
    }

    fn begin_operations(&mut self) {
        let mut again = std::mem::take(&mut self.shift.again);
        for place in again.drain(..) {
            if self.net.is_usable(place as usize) {
                self.workload.go_on(place, &mut self.net, &mut self.shift);
            } else {
                let lost = Failure::Transport("the connection is closed".to_owned());
                self.shift.fail(place, &lost);
            }
        }
        self.shift.again = again;
        while let Some(start) = self.shift.flow.next(self.shift.now) {
            if self.net.is_usable(start.place as usize) {
                self.workload.start(start, &mut self.net, &mut self.shift);
            } else {
                let lost = Failure::Transport("the connection is closed".to_owned());
                self.shift.fail(start.place, &lost);
            }
        }
    }

    /// Writes, waits for answers, reads.
    fn exchange(&mut self, wait: u64) -> Result<(), Failure> {
        let (clock, workload, shift) = (self.clock, &mut self.workload, &mut self.shift);
        let turn = shift.now;
        let mut on_event = |now, token, event: Event<'_>| {
            shift.now = now;
            workload.on_event(token, event, shift);
        };
        self.net.write(turn, &mut on_event);
        self.net.wait(wait)?;
        self.net.read(|| clock.now(), &mut on_event);
        Ok(())
    }

    /// Closes the books.
    fn settle(&mut self, cpu: &CpuMeter) {
        let Shift {
            now, flow, tally, ..
        } = &mut self.shift;
        for _ in 0..flow.in_flight() {
            let text = "no answer after the end".to_owned();
            tally.record_error("Unanswered".to_owned(), text);
        }
        tally.behind_ns_max = tally.behind_ns_max.max(flow.behind_max());
        for due in flow.take_unsent() {
            tally.record_unsent(due, *now);
        }
        (tally.measured_ns, tally.cpu_ns) = cpu.measured(*now);
    }
}

/// The CPU time of this thread over the window, or over as much of it as there was.
struct CpuMeter {
    window: Range<u64>,
    /// Time and CPU time when the window began.
    at_start: Option<(u64, u64)>,
    at_end: Option<(u64, u64)>,
}

impl CpuMeter {
    fn new(window: Range<u64>) -> Self {
        Self {
            window,
            at_start: None,
            at_end: None,
        }
    }

    fn look(&mut self, now: u64, end: u64) {
        if self.at_start.is_none() && now >= self.window.start {
            self.at_start = Some((self.window.start.min(end), thread_cpu_ns()));
        }
        self.window.end = end;
        if self.at_end.is_none() && now >= end {
            self.at_end = Some((end, thread_cpu_ns()));
        }
    }

    fn wake(&self) -> u64 {
        match (self.at_start, self.at_end) {
            (None, _) => self.window.start,
            (_, None) => self.window.end,
            _ => u64::MAX,
        }
    }

    /// Length and CPU time of what was measured, which ends now if it has not ended before.
    fn measured(&self, now: u64) -> (u64, u64) {
        let Some((start, cpu_start)) = self.at_start else {
            return (0, 0);
        };
        let (end, cpu_end) = self.at_end.unwrap_or_else(|| (now, thread_cpu_ns()));
        (end.saturating_sub(start), cpu_end.saturating_sub(cpu_start))
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}
