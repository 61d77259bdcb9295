//! Figures made of figures: latency percentiles, medians over rounds, ratios with their spread,
//! errors by code.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

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

/// The percentiles that are reported, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1_000.0,
        }
    }
}

/// A median and the smallest and largest of what it was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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

    /// The ratio of two figures round by round: both ran under the same disturbances of the
    /// machine, which a ratio of two medians would not know.
    pub fn of_ratios(
        ours: impl IntoIterator<Item = f64>,
        theirs: impl IntoIterator<Item = f64>,
    ) -> Option<Self> {
        Self::over(
            ours.into_iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours / theirs),
        )
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
    fn ratios_pair_the_rounds_and_drop_divisions_by_zero() {
        let spread = Spread::of_ratios([10.0, 30.0, 5.0], [5.0, 10.0, 0.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 2.5,
                min: 2.0,
                max: 3.0
            }
        );
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
        assert!(latency.p999 <= latency.max);
    }
}
