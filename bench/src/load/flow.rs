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
    pace: Option<Pace>,
    end: u64,
    /// Nothing is waited for any longer than this.
    answers_until: u64,
    behind_max: u64,
}

/// The schedule of an open loop.
#[derive(Clone, Debug)]
pub struct Pace {
    begin: u64,
    /// Operations of the whole job, all workers together, in a second.
    per_second: u64,
    /// This worker takes every so many-th of them.
    stride: u64,
    next: u64,
}

impl Pace {
    /// The share of one of several workers in a job's rate.
    pub fn new(per_second: u64, worker: usize, workers: usize) -> Self {
        Self {
            begin: 0,
            per_second: per_second.max(1),
            stride: workers as u64,
            next: worker as u64,
        }
    }

    /// Sets when the schedule begins.
    pub fn begin(&mut self, now: u64) {
        self.begin = now;
    }

    /// When the next operation is due.
    pub fn due(&self) -> u64 {
        let after = u128::from(self.next) * u128::from(SECOND) / u128::from(self.per_second);
        self.begin
            .saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// Goes on to the operation after it.
    pub fn advance(&mut self) {
        self.next += self.stride;
    }
}

impl Flow {
    /// So many places, all free, and nothing that may begin.
    pub fn new(places: usize, pace: Option<Pace>) -> Self {
        let places = u32::try_from(places).expect("a job has far fewer places than 2^32");
        Self {
            began: vec![0; places as usize],
            // The first place is taken first.
            free: (0..places).rev().collect(),
            resting: VecDeque::new(),
            in_flight: 0,
            left: 0,
            pace,
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
        if let Some(pace) = &mut self.pace {
            pace.begin(now);
        }
    }

    /// The place in which an operation begins now, if one may.
    pub fn next(&mut self, now: u64) -> Option<u32> {
        while let Some(&(until, place)) = self.resting.front()
            && until <= now
        {
            self.resting.pop_front();
            self.free.push(place);
        }
        if self.left == 0 {
            return None;
        }
        let began = match &self.pace {
            None if now < self.end => now,
            Some(pace) if pace.due() <= now && pace.due() < self.end => pace.due(),
            _ => return None,
        };
        let place = self.free.pop()?;
        if let Some(pace) = &mut self.pace {
            pace.advance();
            self.behind_max = self.behind_max.max(now - began);
        }
        self.left -= 1;
        self.in_flight += 1;
        self.began[place as usize] = began;
        Some(place)
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
    pub fn retire(&mut self, _place: u32) {
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
        let due = match &self.pace {
            Some(pace) if self.left > 0 && !self.free.is_empty() && pace.due() < self.end => {
                pace.due()
            }
            _ => u64::MAX,
        };
        rested.min(due)
    }

    /// When the operations were due that never began; to be asked once, when all is over.
    pub fn take_unsent(&mut self) -> impl Iterator<Item = u64> {
        let end = self.end;
        let mut pace = self.pace.take();
        let mut left = std::mem::take(&mut self.left);
        std::iter::from_fn(move || {
            let pace = pace.as_mut()?;
            let due = pace.due();
            if left == 0 || due >= end {
                return None;
            }
            left -= 1;
            pace.advance();
            Some(due)
        })
    }

    /// Whether an operation was due before the end and has not begun; only in an open loop.
    fn is_overdue(&self) -> bool {
        let was_due = |pace: &Pace| pace.due() < self.end;
        self.pace.as_ref().is_some_and(was_due)
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
