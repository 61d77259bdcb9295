//! Counters, gauges and histograms that one core writes and every core may read.
//!
//! A cell is an atomic only so that a scrape on another core reads whole values. Its owner is the
//! one writer, so adding is a plain load and a plain store: no read-modify-write instruction, no
//! bus lock, no contention. Two writers on one cell would lose counts, never memory safety.
//!
//! Invariants:
//! 1. A cell is written by the core it was handed to, and by no other thread.
//! 2. A histogram's count is the sum of its buckets, so a scrape between two stores never shows
//!    more observations in a bucket than in total.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most buckets that a histogram can have, not counting the one without an upper bound.
const BUCKETS_MAX: usize = 24;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter that has counted nothing.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`; the owner core only.
    #[inline]
    pub fn add(&self, count: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(count), Ordering::Relaxed);
    }

    /// The value now; any core.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, never below zero.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value; the owner core only.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `count`; the owner core only.
    #[inline]
    pub fn add(&self, count: u64) {
        self.set(self.value().wrapping_add(count));
    }

    /// Subtracts `count`; the owner core only. Stops at zero.
    #[inline]
    pub fn subtract(&self, count: u64) {
        self.set(self.value().saturating_sub(count));
    }

    /// The value now; any core.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The buckets of a histogram: `first`, `2 * first`, `4 * first` and so on, in raw units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Upper bound of the first bucket, in raw units.
    first: u64,
    /// Buckets with an upper bound.
    bucket_count: usize,
    /// Raw units in one unit of the metric: 1e9 for nanoseconds shown as seconds.
    raw_per_unit: f64,
}

impl Shape {
    /// Durations, counted in nanoseconds and shown in seconds.
    pub const fn seconds(first: Duration, bucket_count: usize) -> Self {
        Self::new(first.as_nanos() as u64, bucket_count, 1e9)
    }

    /// Durations, counted in nanoseconds and shown in milliseconds.
    pub const fn milliseconds(first: Duration, bucket_count: usize) -> Self {
        Self::new(first.as_nanos() as u64, bucket_count, 1e6)
    }

    /// Plain numbers.
    pub const fn plain(first: u64, bucket_count: usize) -> Self {
        Self::new(first, bucket_count, 1.0)
    }

    const fn new(first: u64, bucket_count: usize, raw_per_unit: f64) -> Self {
        assert!(first > 0, "a histogram's first bound is above zero");
        assert!(
            bucket_count <= BUCKETS_MAX,
            "more buckets than a histogram can hold"
        );
        Self {
            first,
            bucket_count,
            raw_per_unit,
        }
    }

    /// The upper bounds as shown, without the infinite one.
    pub fn bounds(&self) -> impl Iterator<Item = f64> + use<> {
        let Self {
            first,
            bucket_count,
            raw_per_unit,
        } = *self;
        (0..bucket_count).map(move |index| (first as f64 * 2f64.powi(index as i32)) / raw_per_unit)
    }

    /// A raw value as shown.
    pub fn shown(&self, raw: u64) -> f64 {
        raw as f64 / self.raw_per_unit
    }

    /// The bucket of a raw value: the first whose bound is not below it.
    #[inline]
    fn bucket_index(&self, raw: u64) -> usize {
        let steps = raw.div_ceil(self.first).max(1);
        let index = (u64::BITS - (steps - 1).leading_zeros()) as usize;
        index.min(self.bucket_count)
    }
}

/// Observations sorted into buckets that double in width.
#[derive(Debug)]
pub struct Histogram {
    shape: Shape,
    buckets: [Counter; BUCKETS_MAX + 1],
    sum: Counter,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            buckets: Default::default(),
            sum: Counter::default(),
        }
    }

    /// Counts one raw value; the owner core only.
    #[inline]
    pub fn observe(&self, raw: u64) {
        self.buckets[self.shape.bucket_index(raw)].increment();
        self.sum.add(raw);
    }

    /// Counts one duration in a histogram of durations; the owner core only.
    #[inline]
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The buckets' bounds.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Observations so far; any core.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::value).sum()
    }

    /// Sum of the raw observations; any core.
    pub fn sum_raw(&self) -> u64 {
        self.sum.value()
    }

    /// Observations in each bucket, not cumulated, the infinite one last; any core.
    pub fn bucket_counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.buckets[..=self.shape.bucket_count]
            .iter()
            .map(Counter::value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_reaches_it() {
        let shape = Shape::plain(1000, 4);
        for (raw, index) in [
            (0, 0),
            (1, 0),
            (1000, 0),
            (1001, 1),
            (2000, 1),
            (2001, 2),
            (4000, 2),
            (4001, 3),
            (8000, 3),
            (8001, 4),
            (u64::MAX, 4),
        ] {
            assert_eq!(shape.bucket_index(raw), index, "{raw}");
        }
        assert_eq!(
            shape.bounds().collect::<Vec<_>>(),
            [1000.0, 2000.0, 4000.0, 8000.0]
        );
    }

    #[test]
    fn etcd_bounds_come_out_as_etcd_writes_them() {
        let shape = Shape::seconds(Duration::from_millis(1), 14);
        let bounds: Vec<f64> = shape.bounds().collect();
        assert_eq!(bounds[0], 0.001);
        assert_eq!(bounds[13], 8.192);
    }

    #[test]
    fn a_histogram_counts_and_sums() {
        let histogram = Histogram::new(Shape::seconds(Duration::from_millis(1), 3));
        for millis in [1, 2, 3, 100] {
            histogram.observe_duration(Duration::from_millis(millis));
        }
        assert_eq!(histogram.bucket_counts().collect::<Vec<_>>(), [1, 1, 1, 1]);
        assert_eq!(histogram.count(), 4);
        assert_eq!(histogram.shape().shown(histogram.sum_raw()), 0.106);
    }

    #[test]
    fn a_gauge_stops_at_zero() {
        let gauge = Gauge::default();
        gauge.set(2);
        gauge.subtract(3);
        assert_eq!(gauge.value(), 0);
    }
}
