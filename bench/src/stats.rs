//! Figures made of figures: latency percentiles, medians over rounds, ratios with their spread,
//! errors by code.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency kept apart from longer ones.
pub const LATENCY_NS_MAX: u64 = 600_000_000_000;
const LATENCY_DIGITS: u8 = 3;

/// How often each error code came, by its gRPC name, or `Transport` for a broken connection.
pub type Errors = BTreeMap<String, u64>;

/// An empty latency histogram in nanoseconds.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds are constants that the histogram accepts")
}

/// The percents at which a latency distribution is told: even steps, then ever closer to 100.
const PERCENTS: [f64; 38] = [
    0.0, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0,
    96.0, 97.0, 98.0, 99.0, 99.25, 99.5, 99.6, 99.7, 99.8, 99.9, 99.925, 99.95, 99.96, 99.97,
    99.98, 99.99, 99.9925, 99.995, 99.997, 99.998, 99.999, 100.0,
];

/// A latency distribution, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Requests that were timed.
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub stddev: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
    /// `[percent, us]`, ascending; as far towards 100 as there are requests to tell it from.
    pub percentiles: Vec<(f64, f64)>,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let us = |nanos: f64| nanos / 1_000.0;
        let at = |percent: f64| us(histogram.value_at_quantile(percent / 100.0) as f64);
        let count = histogram.len() as f64;
        // Beyond one request in so many, every percentile is the maximum.
        let is_told = |percent: f64| percent == 100.0 || count * (100.0 - percent) > 99.999;
        let told = PERCENTS.into_iter().filter(|&percent| is_told(percent));
        Self {
            count: histogram.len(),
            min: if histogram.is_empty() {
                0.0
            } else {
                us(histogram.min() as f64)
            },
            mean: us(histogram.mean()),
            stddev: us(histogram.stdev()),
            p50: at(50.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            max: us(histogram.max() as f64),
            percentiles: told.map(|percent| (percent, at(percent))).collect(),
        }
    }
}

/// A median and the smallest and largest of what it was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// None if there is nothing finite to summarize.
    pub fn over(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        Some(Self {
            median: (sorted[low] + sorted[high]) / 2.0,
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        let spread = Spread::over([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        assert_eq!(Spread::over([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::over([]), None);
    }

    #[test]
    fn percentiles_come_in_microseconds() {
        let mut histogram = latency_histogram();
        for millis in 1..=1_000_u64 {
            histogram.saturating_record(millis * 1_000_000);
        }
        let latency = Latency::from(&histogram);
        assert!((latency.p50 / 500_000.0 - 1.0).abs() < 0.01, "{latency:?}");
        assert!((latency.p99 / 990_000.0 - 1.0).abs() < 0.01, "{latency:?}");
        assert!(latency.p9999 <= latency.max);
        let last = latency.percentiles.len() - 1;
        assert_eq!(latency.percentiles[last], (100.0, latency.max));
        let percents: Vec<f64> = latency
            .percentiles
            .iter()
            .map(|&(percent, _)| percent)
            .collect();
        assert!(percents.is_sorted(), "{percents:?}");
        assert_eq!(percents[last - 1], 99.9, "a thousand requests tell no more");
        let empty = Latency::from(&latency_histogram());
        assert_eq!(empty.percentiles, [(100.0, 0.0)]);
        assert_eq!(
            (empty.min, empty.mean, empty.stddev, empty.max),
            (0.0, 0.0, 0.0, 0.0)
        );
    }
}
