//! What was seen: operations, latencies, errors, and the course of them over the seconds.

use std::ops::Range;

use hdrhistogram::Histogram;

use super::clock::SECOND;
use crate::grpc::Failure;
use crate::stats::{Errors, LATENCY_NS_MAX, latency_histogram};

/// Digits kept of the latencies of one second: enough for a curve, and small enough for hours.
const SECOND_DIGITS: u8 = 2;
/// Seconds that the course is kept for; later ones count in the sums only.
const SECONDS_MAX: usize = 24 * 3_600;
/// Latencies below are not kept apart.
const LATENCY_NS_MIN: u64 = 1_000;

/// What was seen, by one worker or by all.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Answers inside the measured window.
    pub operations: u64,
    /// Answers, ramp included.
    pub operations_total: u64,
    pub latency_ns: Histogram<u64>,
    /// The course over the window.
    pub seconds: Vec<Second>,
    /// Each kind of operation by itself, if the job has several.
    pub steps: Vec<Step>,
    /// Optimistic updates inside the window that found another's revision and were tried again.
    pub conflicts: u64,
    /// Bytes of listings that arrived inside the window.
    pub bytes: u64,
    /// How late an operation of an open loop began at most.
    pub behind_ns_max: u64,
    /// Operations of an open loop that were due and never began. The time that they had waited is
    /// among the latencies.
    pub unsent: u64,
    pub errors: Errors,
    /// The first error in words.
    pub first_error: Option<String>,
    /// How long was measured: shorter than planned if the job ended by its size or was stopped.
    pub measured_ns: u64,
    /// CPU time of the generator's threads meanwhile.
    pub cpu_ns: u64,
    window: Range<u64>,
}

/// One second of the window.
#[derive(Clone, Debug)]
pub struct Second {
    /// Answers that arrived in it.
    pub operations: u64,
    /// Their latencies.
    pub latency_ns: Histogram<u32>,
}

/// One kind of operation.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: &'static str,
    /// Whether it counts among the job's operations; events that come beside them do not.
    pub is_operation: bool,
    pub operations: u64,
    pub latency_ns: Histogram<u64>,
}

impl Tally {
    /// Nothing yet. Kinds of operations are named if there are several.
    pub fn new(steps: &[(&'static str, bool)]) -> Self {
        let step = |&(name, is_operation)| Step {
            name,
            is_operation,
            operations: 0,
            latency_ns: latency_histogram(),
        };
        Self {
            operations: 0,
            operations_total: 0,
            latency_ns: latency_histogram(),
            seconds: Vec::new(),
            steps: steps.iter().map(step).collect(),
            conflicts: 0,
            bytes: 0,
            behind_ns_max: 0,
            unsent: 0,
            errors: Errors::new(),
            first_error: None,
            measured_ns: 0,
            cpu_ns: 0,
            window: 0..0,
        }
    }

    /// Sets the borders of what is measured.
    pub fn set_window(&mut self, window: Range<u64>) {
        self.window = window;
    }

    /// Counts an operation that brought what it should. `step` matters only if steps are named.
    pub fn record(&mut self, step: usize, began: u64, ended: u64) {
        let latency = ended.saturating_sub(began);
        let began_inside = self.window.contains(&began);
        let ended_inside = self.window.contains(&ended);
        if let Some(step) = self.steps.get_mut(step) {
            if began_inside {
                step.latency_ns.saturating_record(latency);
            }
            step.operations += u64::from(ended_inside);
            if !step.is_operation {
                return;
            }
        }
        self.operations_total += 1;
        if began_inside {
            self.latency_ns.saturating_record(latency);
        }
        if ended_inside {
            self.operations += 1;
            self.record_second((ended - self.window.start) / SECOND, latency);
        }
    }

    /// Counts an optimistic update that must be tried again.
    pub fn record_conflict(&mut self, now: u64) {
        self.conflicts += u64::from(self.window.contains(&now));
    }

    /// Counts bytes of listings.
    pub fn record_bytes(&mut self, bytes: u64, now: u64) {
        if self.window.contains(&now) {
            self.bytes += bytes;
        }
    }

    /// Counts an operation that was due inside the window and never began.
    pub fn record_unsent(&mut self, due: u64, end: u64) {
        self.unsent += 1;
        if self.window.contains(&due) {
            self.latency_ns.saturating_record(end.saturating_sub(due));
        }
        self.behind_ns_max = self.behind_ns_max.max(end.saturating_sub(due));
    }

    /// Counts a failure.
    pub fn record_failure(&mut self, failure: &Failure) {
        self.record_error(failure.code(), failure.to_string());
    }

    /// Counts an error that is no failure of a call.
    pub fn record_error(&mut self, code: String, text: String) {
        *self.errors.entry(code).or_default() += 1;
        self.first_error.get_or_insert(text);
    }

    /// Adds what another worker saw of the same job.
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.operations_total += other.operations_total;
        add_histogram(&mut self.latency_ns, &other.latency_ns);
        for (at, second) in other.seconds.into_iter().enumerate() {
            match self.seconds.get_mut(at) {
                Some(own) => {
                    own.operations += second.operations;
                    own.latency_ns
                        .add(second.latency_ns)
                        .expect("all histograms have the same bounds");
                }
                None => self.seconds.push(second),
            }
        }
        if self.steps.is_empty() {
            self.steps = other.steps;
        } else {
            for (own, step) in self.steps.iter_mut().zip(other.steps) {
                own.operations += step.operations;
                add_histogram(&mut own.latency_ns, &step.latency_ns);
            }
        }
        self.conflicts += other.conflicts;
        self.bytes += other.bytes;
        self.behind_ns_max = self.behind_ns_max.max(other.behind_ns_max);
        self.unsent += other.unsent;
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.measured_ns = self.measured_ns.max(other.measured_ns);
        self.cpu_ns += other.cpu_ns;
    }

    fn record_second(&mut self, at: u64, latency: u64) {
        let at = usize::try_from(at).unwrap_or(SECONDS_MAX);
        if at >= SECONDS_MAX {
            return;
        }
        while self.seconds.len() <= at {
            self.seconds.push(Second {
                operations: 0,
                latency_ns: Histogram::new_with_bounds(
                    LATENCY_NS_MIN,
                    LATENCY_NS_MAX,
                    SECOND_DIGITS,
                )
                .expect("the bounds are constants that the histogram accepts"),
            });
        }
        let second = &mut self.seconds[at];
        second.operations += 1;
        second.latency_ns.saturating_record(latency);
    }
}

fn add_histogram(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("all histograms have the same bounds");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::clock::MILLISECOND;
    use super::*;

    #[test]
    fn only_the_window_counts() {
        let mut tally = Tally::new(&[]);
        tally.set_window(SECOND..3 * SECOND);
        let at = |millis: u64| millis * MILLISECOND;
        for (began, ended) in [
            (0, 500),
            (900, 1_100),
            (1_100, 1_200),
            (2_500, 2_700),
            (2_900, 3_100),
        ] {
            tally.record(0, at(began), at(ended));
        }
        tally.record_failure(&Failure::Answer("no value"));
        assert_eq!(tally.operations, 3, "answers inside the window");
        assert_eq!(tally.latency_ns.len(), 3, "begun inside the window");
        assert_eq!(tally.operations_total, 5);
        let course: Vec<u64> = tally.seconds.iter().map(|one| one.operations).collect();
        assert_eq!(course, [2, 1]);
        assert_eq!(tally.errors["UnexpectedAnswer"], 1);
        assert!(tally.first_error.unwrap().contains("no value"));
    }

    #[test]
    fn tallies_of_workers_add_up() {
        let steps = [("create", true), ("event", false)];
        let mut sum = Tally::new(&[]);
        for worker in 1..=2 {
            let mut tally = Tally::new(&steps);
            tally.set_window(0..10 * SECOND);
            for _ in 0..worker {
                tally.record(0, 0, MILLISECOND);
                tally.record(1, 0, worker * SECOND);
            }
            tally.record_conflict(5);
            tally.record_bytes(100, 5);
            tally.record_unsent(9 * SECOND, 10 * SECOND);
            tally.record_failure(&Failure::Answer("x"));
            tally.cpu_ns = 7;
            tally.measured_ns = worker * SECOND;
            sum.add(tally);
        }
        assert_eq!((sum.operations, sum.operations_total), (3, 3));
        assert_eq!(
            sum.latency_ns.len(),
            3 + 2,
            "what was never sent has waited"
        );
        assert_eq!(sum.steps[0].operations, 3);
        assert_eq!(sum.steps[1].latency_ns.len(), 3);
        assert_eq!((sum.conflicts, sum.bytes, sum.unsent), (2, 200, 2));
        assert_eq!((sum.cpu_ns, sum.measured_ns), (14, 2 * SECOND));
        assert_eq!(sum.behind_ns_max, SECOND);
        assert_eq!(sum.errors["UnexpectedAnswer"], 2);
        assert_eq!(sum.seconds[0].operations, 3);
    }
}
