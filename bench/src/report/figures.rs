//! Which figures of a round are summed up over rounds and compared, each once.
//!
//! Ratios are taken round by round, since both servers of a round ran under the same disturbances
//! of the machine. A round that Ctrl-C cut short counts only where there is no other.

use std::collections::BTreeMap;

use super::document::{Round, ServerUse};
use super::terminal::number;
use crate::stats::Spread;

/// One figure.
pub struct Figure {
    /// In the JSON's `figures`.
    pub name: &'static str,
    /// In the JSON's ratios.
    pub ratio: &'static str,
    /// In tables.
    pub label: &'static str,
    /// Bytes are shown in MiB.
    pub is_memory: bool,
    /// Of two servers the one with more is better off.
    pub is_more_better: bool,
    pub of: fn(&Round) -> Option<f64>,
}

/// All of them, in the order of the tables.
pub const FIGURES: &[Figure] = &[
    Figure {
        name: "operations_per_second",
        ratio: "throughput_ratio",
        label: "operations/s",
        is_memory: false,
        is_more_better: true,
        of: |round| Some(round.operations_per_second),
    },
    Figure {
        name: "p50_us",
        ratio: "p50_ratio",
        label: "latency p50, us",
        is_memory: false,
        is_more_better: false,
        of: |round| latency(round, round.latency_us.p50),
    },
    Figure {
        name: "p99_us",
        ratio: "p99_ratio",
        label: "latency p99, us",
        is_memory: false,
        is_more_better: false,
        of: |round| latency(round, round.latency_us.p99),
    },
    Figure {
        name: "p999_us",
        ratio: "p999_ratio",
        label: "latency p99.9, us",
        is_memory: false,
        is_more_better: false,
        of: |round| latency(round, round.latency_us.p999),
    },
    Figure {
        name: "p9999_us",
        ratio: "p9999_ratio",
        label: "latency p99.99, us",
        is_memory: false,
        is_more_better: false,
        of: |round| latency(round, round.latency_us.p9999),
    },
    Figure {
        name: "server_cpu_seconds_per_100k",
        ratio: "cpu_per_op_ratio",
        label: "server CPU-s per 100k ops",
        is_memory: false,
        is_more_better: false,
        of: |round| server(round, |server| server.cpu_seconds_per_100k),
    },
    Figure {
        name: "rss_bytes_peak",
        ratio: "rss_peak_ratio",
        label: "peak RSS, MiB",
        is_memory: true,
        is_more_better: false,
        of: |round| server(round, |server| server.rss_bytes_peak as f64),
    },
    Figure {
        name: "rss_bytes_above_baseline",
        ratio: "rss_above_baseline_ratio",
        label: "RSS above baseline, MiB",
        is_memory: true,
        is_more_better: false,
        of: |round| server(round, |server| server.rss_bytes_above_baseline as f64),
    },
    Figure {
        name: "written_bytes_per_operation",
        ratio: "written_bytes_ratio",
        label: "bytes written per op",
        is_memory: false,
        is_more_better: false,
        of: |round| server(round, |server| server.written_bytes_per_operation),
    },
    Figure {
        name: "write_calls_per_operation",
        ratio: "write_calls_ratio",
        label: "write calls per op",
        is_memory: false,
        is_more_better: false,
        of: |round| server(round, |server| server.write_calls_per_operation),
    },
    Figure {
        name: "flushes_per_operation",
        ratio: "flushes_ratio",
        label: "flushes per op",
        is_memory: false,
        is_more_better: false,
        of: |round| round.server.as_ref()?.flushes_per_operation,
    },
    Figure {
        name: "generator_cpu_seconds_per_100k",
        ratio: "generator_cpu_ratio",
        label: "generator CPU-s per 100k ops",
        is_memory: false,
        is_more_better: false,
        of: |round| Some(round.generator_cpu_seconds_per_100k),
    },
];

impl Figure {
    /// The figure of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.name == name)
    }

    /// A value in the unit of the label.
    pub fn shown(&self, value: f64) -> String {
        const MIB: f64 = (1 << 20) as f64;
        number(if self.is_memory { value / MIB } else { value })
    }
}

/// A latency figure of a round in which there was something to time.
fn latency(round: &Round, us: f64) -> Option<f64> {
    (round.latency_us.count > 0).then_some(us)
}

fn server(round: &Round, of: impl Fn(&ServerUse) -> f64) -> Option<f64> {
    round.server.as_ref().map(of)
}

/// The median of each figure over the rounds.
pub fn figures(rounds: &[Round]) -> BTreeMap<String, Spread> {
    let has_whole = rounds.iter().any(|round| !round.cut_short);
    let counted = rounds
        .iter()
        .filter(|round| !(has_whole && round.cut_short));
    let counted: Vec<&Round> = counted.collect();
    let of = |figure: &Figure| {
        let values = counted.iter().filter_map(|round| (figure.of)(round));
        Some((figure.name.to_owned(), Spread::over(values)?))
    };
    FIGURES.iter().filter_map(of).collect()
}

/// The ratio of each figure over the rounds that both have.
pub fn ratio_spreads(ours: &[Round], theirs: &[Round]) -> BTreeMap<String, Spread> {
    let pairs: Vec<(&Round, &Round)> = ours.iter().zip(theirs).collect();
    let is_whole = |pair: &&(&Round, &Round)| !pair.0.cut_short && !pair.1.cut_short;
    let has_whole = pairs.iter().any(|pair| is_whole(&pair));
    let of = |figure: &Figure| {
        let counted = pairs.iter().filter(|pair| !has_whole || is_whole(pair));
        let ratios = counted.filter_map(|(ours, theirs)| {
            let (ours, theirs) = ((figure.of)(ours)?, (figure.of)(theirs)?);
            Some(ours / theirs)
        });
        Some((figure.ratio.to_owned(), Spread::over(ratios)?))
    };
    FIGURES.iter().filter_map(of).collect()
}
