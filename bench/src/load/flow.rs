//! When the next operation may begin, and in which of the places in flight.
//!
//! Closed loop: a place that has become free begins again at once. Open loop: operations are due at
//! times fixed ahead; one that finds no free place waits, and its time counts from when it was due.
//! After an error a place rests for a moment, so that a server that refuses everything is not
//! flooded.

use std::collections::VecDeque;
use std::ops::Range;

use super::clock::{MILLISECOND, SECOND};

/// How long a place rests after an error.
const ERROR_PAUSE: u64 = MILLISECOND;
/// How long answers may be outstanding after the end.
const ANSWER_GRACE: u64 = 10 * SECOND;
/// The same when the job is stopped.
const STOPPED_GRACE: u64 = SECOND;

/// The places in flight of one worker.
#[derive(Debug)]
pub struct Flow {
    /// When the operation in each place began, or was due.
    began: Vec<u64>,
    free: Vec<u32>,
    /// Places that rest, and until when, in order.
    resting: VecDeque<(u64, u32)>,
    in_flight: usize,
    /// Operations that may still begin.
    left: u64,
    /// The schedules of an open loop; none in a closed one.
    paces: Vec<Pace>,
    end: u64,
    /// Nothing is waited for any longer than this.
    answers_until: u64,
    behind_max: u64,
}

/// A schedule: operations at even distances.
#[derive(Clone, Debug)]
pub struct Pace {
    begin: u64,
    /// So many operations in a period.
    period: u64,
    count: u64,
    /// Every so many-th of them is this worker's.
    stride: u64,
    next: u64,
    /// So much later than the even distances say.
    delay: u64,
}

/// Where an operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub place: u32,
    /// The schedule that it was due in; 0 in a closed loop.
    pub task: usize,
}

impl Pace {
    /// The share of one of several workers in a job's rate.
    pub fn per_second(rate: u64, worker: usize, workers: usize) -> Self {
        Self {
            begin: 0,
            period: SECOND,
            count: rate.max(1),
            stride: workers as u64,
            next: worker as u64,
            delay: 0,
        }
    }

    /// So many operations in each period, spread evenly.
    pub fn every(period: u64, count: u64) -> Self {
        Self {
            begin: 0,
            period,
            count: count.max(1),
            stride: 1,
            next: 0,
            delay: 0,
        }
    }

    /// The same, halfway between its operations, for another schedule to go with it.
    pub fn halfway(mut self) -> Self {
        self.delay = self.period / self.count / 2;
        self
    }

    /// When the next operation is due.
    fn due(&self) -> u64 {
        let after = u128::from(self.next) * u128::from(self.period) / u128::from(self.count);
        self.begin
            .saturating_add(self.delay)
            .saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    fn advance(&mut self) {
        self.next += self.stride;
    }
}

impl Flow {
    /// So many places, all free, and nothing that may begin.
    pub fn new(places: usize, paces: Vec<Pace>) -> Self {
        let places = u32::try_from(places).expect("a job has far fewer places than 2^32");
        Self {
            began: vec![0; places as usize],
            // The first place is taken first.
            free: (0..places).rev().collect(),
            resting: VecDeque::new(),
            in_flight: 0,
            left: 0,
            paces,
            end: 0,
            answers_until: 0,
            behind_max: 0,
        }
    }

    /// Lets operations begin: so many, until the end of the window.
    pub fn begin(&mut self, now: u64, end: u64, left: u64) {
        self.left = left;
        self.end = end;
        self.answers_until = end.saturating_add(ANSWER_GRACE);
        for pace in &mut self.paces {
            pace.begin = now;
        }
    }

    /// Where an operation begins now, if one may.
    pub fn next(&mut self, now: u64) -> Option<Start> {
        while let Some(&(until, place)) = self.resting.front()
            && until <= now
        {
            self.resting.pop_front();
            self.free.push(place);
        }
        if self.left == 0 {
            return None;
        }
        let (task, began) = match self.first_due() {
            Some((task, due)) if due <= now && due < self.end => (task, due),
            None if self.paces.is_empty() && now < self.end => (0, now),
            _ => return None,
        };
        let place = self.free.pop()?;
        if let Some(pace) = self.paces.get_mut(task) {
            pace.advance();
            self.behind_max = self.behind_max.max(now - began);
        }
        self.left -= 1;
        self.in_flight += 1;
        self.began[place as usize] = began;
        Some(Start { place, task })
    }

    /// When the operation in a place began, or was due.
    pub fn began(&self, place: u32) -> u64 {
        self.began[place as usize]
    }

    /// The operation in a place is over.
    pub fn release(&mut self, place: u32) {
        self.in_flight -= 1;
        self.free.push(place);
    }

    /// The operation in a place failed.
    pub fn rest(&mut self, place: u32, now: u64) {
        self.in_flight -= 1;
        self.resting.push_back((now + ERROR_PAUSE, place));
    }

    /// The operation in a place failed, and none can begin there any more.
    pub fn retire(&mut self) {
        self.in_flight -= 1;
    }

    /// Operations that have begun and are not over.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How late an operation of an open loop began at most.
    pub fn behind_max(&self) -> u64 {
        self.behind_max
    }

    /// Ends the job before its time: nothing begins any more.
    pub fn stop(&mut self, now: u64) {
        if self.left > 0 || now < self.end {
            self.left = 0;
            self.end = self.end.min(now);
            self.answers_until = self.answers_until.min(now + STOPPED_GRACE);
        }
    }

    /// When the last operation may begin.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// True if nothing more will begin.
    pub fn has_ended(&self, now: u64) -> bool {
        let places_left = self.in_flight + self.free.len() + self.resting.len();
        let all_begun = self.left == 0 || places_left == 0;
        all_begun || (now >= self.end && !self.is_overdue())
    }

    /// True if nothing more will come.
    pub fn is_over(&self, now: u64) -> bool {
        (self.has_ended(now) && self.in_flight == 0) || now >= self.answers_until
    }

    /// When [`Flow::next`] will have something to do, if no answer comes before.
    pub fn wake(&self) -> u64 {
        let rested = self.resting.front().map_or(u64::MAX, |&(until, _)| until);
        let due = match self.first_due() {
            Some((_, due)) if self.left > 0 && !self.free.is_empty() && due < self.end => due,
            _ => u64::MAX,
        };
        rested.min(due)
    }

    /// When the operations were due that never began; to be asked once, when all is over.
    pub fn take_unsent(&mut self) -> Vec<u64> {
        let mut unsent = Vec::new();
        while let Some((task, due)) = self.first_due()
            && self.left > 0
            && due < self.end
        {
            self.left -= 1;
            self.paces[task].advance();
            unsent.push(due);
        }
        unsent
    }

    /// The schedule whose next operation is due first, and when.
    fn first_due(&self) -> Option<(usize, u64)> {
        let dues = self.paces.iter().map(Pace::due).enumerate();
        dues.min_by_key(|&(_, due)| due)
    }

    /// Whether an operation was due before the end and has not begun; only in an open loop.
    fn is_overdue(&self) -> bool {
        self.first_due().is_some_and(|(_, due)| due < self.end)
    }
}

/// The share of one of several workers in a total, cut so that all shares together are the total.
pub fn share(total: u64, worker: usize, workers: usize) -> Range<u64> {
    let border = |worker: usize| {
        let border = u128::from(total) * worker as u128 / workers as u128;
        u64::try_from(border).expect("no border lies above the total")
    };
    border(worker)..border(worker + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_begins_where_an_answer_came() {
        let mut flow = Flow::new(2, Vec::new());
        assert_eq!(flow.next(0), None, "before it begins");
        flow.begin(0, 100, u64::MAX);
        let places = [flow.next(1).unwrap().place, flow.next(2).unwrap().place];
        assert_eq!(places, [0, 1]);
        assert_eq!(flow.next(3), None);
        flow.release(1);
        assert_eq!(flow.next(4), Some(Start { place: 1, task: 0 }));
        assert_eq!((flow.began(0), flow.began(1)), (1, 4));
        flow.release(0);
        assert_eq!(flow.next(100), None, "after the end");
        assert!(!flow.is_over(100), "one is in flight");
        flow.release(1);
        assert!(flow.is_over(100));
    }

    #[test]
    fn a_stall_does_not_hide_what_was_due_meanwhile() {
        // 1,000 a second for 10 ms, 2 in flight; the server stalls from 2 ms to 8 ms.
        let at = |millis: u64| millis * MILLISECOND;
        let mut flow = Flow::new(2, vec![Pace::per_second(1_000, 0, 1)]);
        flow.begin(0, at(10), u64::MAX);
        let mut latencies = Vec::new();
        for tick in 0..16 {
            while let Some(start) = flow.next(at(tick)) {
                if (2..8).contains(&tick) {
                    continue;
                }
                latencies.push(at(tick) - flow.began(start.place));
                flow.release(start.place);
            }
            if tick == 7 {
                for place in 0..2 {
                    latencies.push(at(8) - flow.began(place));
                    flow.release(place);
                }
            }
        }
        let millis: Vec<u64> = latencies.iter().map(|nanos| nanos / MILLISECOND).collect();
        assert_eq!(millis, [0, 0, 6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(flow.behind_max(), at(4));
        assert!(flow.is_over(at(16)));
        assert!(flow.take_unsent().is_empty());
    }

    #[test]
    fn what_was_due_before_the_end_is_still_sent_and_else_told() {
        let mut flow = Flow::new(1, vec![Pace::per_second(1_000, 0, 1)]);
        flow.begin(0, 5 * MILLISECOND, u64::MAX);
        flow.next(0).unwrap();
        assert_eq!(flow.wake(), u64::MAX, "no place is free");
        let late = 7 * MILLISECOND;
        assert!(!flow.has_ended(late));
        flow.release(0);
        assert!(!flow.is_over(late));
        assert_eq!(flow.next(late).map(|start| start.place), Some(0));
        assert_eq!(flow.began(0), MILLISECOND);
        assert!(flow.is_over(5 * MILLISECOND + ANSWER_GRACE));
        let due = [2, 3, 4].map(|millis| millis * MILLISECOND);
        assert_eq!(flow.take_unsent(), due);
    }

    #[test]
    fn workers_share_a_rate_and_a_total() {
        let mut dues = Vec::new();
        for worker in 0..3 {
            let mut flow = Flow::new(100, vec![Pace::per_second(10, worker, 3)]);
            flow.begin(SECOND, 2 * SECOND, u64::MAX);
            while let Some(start) = flow.next(2 * SECOND) {
                dues.push(flow.began(start.place));
            }
        }
        dues.sort_unstable();
        let expected: Vec<u64> = (0..10).map(|at| SECOND + at * SECOND / 10).collect();
        assert_eq!(dues, expected);
        let shares: Vec<u64> = (0..3)
            .map(|worker| share(10, worker, 3).count() as u64)
            .collect();
        assert_eq!(shares.iter().sum::<u64>(), 10);
    }

    #[test]
    fn the_earliest_schedule_goes_first() {
        let paces = vec![Pace::every(SECOND, 2).halfway(), Pace::every(SECOND, 3)];
        let mut flow = Flow::new(9, paces);
        flow.begin(0, SECOND, u64::MAX);
        let tasks = std::iter::from_fn(|| flow.next(SECOND)).map(|start| start.task);
        assert_eq!(tasks.collect::<Vec<_>>(), [1, 0, 1, 1, 0]);
    }

    #[test]
    fn a_place_rests_after_an_error_and_is_lost_with_its_connection() {
        let mut flow = Flow::new(2, Vec::new());
        flow.begin(0, SECOND, u64::MAX);
        flow.next(0).unwrap();
        flow.next(0).unwrap();
        flow.rest(0, 5);
        assert_eq!((flow.next(6), flow.wake()), (None, 5 + ERROR_PAUSE));
        assert!(flow.next(5 + ERROR_PAUSE).is_some());
        flow.retire();
        assert!(!flow.is_over(10));
        flow.retire();
        assert!(flow.is_over(10), "no place is left");
    }

    #[test]
    fn a_stopped_load_begins_nothing_more() {
        let mut flow = Flow::new(2, vec![Pace::per_second(1_000, 0, 1)]);
        flow.begin(0, SECOND, u64::MAX);
        flow.next(0).unwrap();
        flow.stop(5 * MILLISECOND);
        assert_eq!(flow.end(), 5 * MILLISECOND);
        assert_eq!(flow.next(9 * MILLISECOND), None);
        assert!(!flow.is_over(9 * MILLISECOND));
        assert!(flow.is_over(5 * MILLISECOND + STOPPED_GRACE));
        assert!(flow.take_unsent().is_empty());
    }
}
