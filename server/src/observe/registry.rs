//! All cores' cells and the facts that do not change, and the page that a scrape gets.
//!
//! The registry is built once at start-up, before the cores run, and shared by `Arc`; nothing in it
//! is written again but the cells, each by its core.

use std::sync::Arc;

use super::cells::{Counter, Gauge, Histogram};
use super::core_metrics::CoreMetrics;
use super::names::{FAMILIES, Family, Series};
use super::process::ProcessFacts;
use super::text::{HistogramSums, Text};
use crate::config::{Config, version};

/// What the member knows about itself from the start on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The member's id; shown in hexadecimal.
    pub member_id: u64,
    /// The API level that the member reports as its version, such as 3.6.14.
    pub server_version: &'static str,
    /// The cluster version, such as 3.6.0.
    pub cluster_version: &'static str,
    /// Keelson's own version.
    pub keelson_version: &'static str,
    /// The quota; `None` when it is switched off.
    pub quota_backend_bytes: Option<u64>,
    /// Feature gates and whether they are on.
    pub features: Vec<FeatureFact>,
}

impl Facts {
    /// The facts of a member with this configuration and id.
    pub fn new(config: &Config, member_id: u64) -> Self {
        Self {
            member_id,
            server_version: version::API,
            cluster_version: version::CLUSTER,
            keelson_version: version::KEELSON,
            quota_backend_bytes: config.quota_backend_bytes,
            features: config
                .feature_gates
                .iter()
                .map(|(feature, enabled)| FeatureFact {
                    name: feature.name,
                    stage: feature.stage,
                    enabled,
                })
                .collect(),
        }
    }
}

/// One feature gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureFact {
    /// The gate's name.
    pub name: &'static str,
    /// `ALPHA`, `BETA` or empty.
    pub stage: &'static str,
    /// Whether it is on.
    pub enabled: bool,
}

/// The cells of every core, and the facts.
#[derive(Debug)]
pub struct Registry {
    cores: Vec<Arc<CoreMetrics>>,
    facts: Facts,
}

impl Registry {
    /// One set of cells for each of `cores` (CPU numbers).
    pub fn new(cores: &[u32], facts: Facts) -> Self {
        let cores = cores
            .iter()
            .map(|core| Arc::new(CoreMetrics::new(*core)))
            .collect();
        Self { cores, facts }
    }

    /// The cells of the `index`-th core, counted as in [`Registry::new`].
    ///
    /// # Panics
    /// If there is no such core.
    pub fn core(&self, index: usize) -> &Arc<CoreMetrics> {
        assert!(
            index < self.cores.len(),
            "core index {index} of {}",
            self.cores.len()
        );
        &self.cores[index]
    }

    /// Every core's cells.
    pub fn cores(&self) -> &[Arc<CoreMetrics>] {
        &self.cores
    }

    /// The facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Writes the metrics page.
    pub fn render(&self, process: &ProcessFacts) -> String {
        let mut text = Text::with_capacity(256 * 1024);
        for family in FAMILIES {
            self.render_family(family, process, &mut text);
        }
        text.finish()
    }

    /// The sum of one counter over the cores.
    pub fn sum(&self, cell: fn(&CoreMetrics) -> &Counter) -> u64 {
        self.cores.iter().map(|core| cell(core).value()).sum()
    }

    /// The sum of one gauge over the cores.
    pub fn sum_gauge(&self, cell: fn(&CoreMetrics) -> &Gauge) -> u64 {
        self.cores.iter().map(|core| cell(core).value()).sum()
    }

    /// Adds up one histogram over the cores; `cell` picks it out of a core's cells.
    pub(super) fn sum_histogram<'a>(
        &'a self,
        cell: impl Fn(&'a CoreMetrics) -> &'a Histogram,
    ) -> HistogramSums {
        let mut cores = self.cores.iter().map(|core| cell(core));
        let first = cores.next().expect("a member runs on at least one core");
        let mut sums = HistogramSums::of(first);
        for histogram in cores {
            for (total, count) in sums.buckets.iter_mut().zip(histogram.bucket_counts()) {
                *total += count;
            }
            sums.sum_raw = sums.sum_raw.wrapping_add(histogram.sum_raw());
        }
        sums
    }

    fn render_family(&self, family: &Family, process: &ProcessFacts, text: &mut Text) {
        let name = family.name;
        match &family.series {
            Series::Counter(cell) => {
                text.family(name, family.kind, family.help);
                text.sample(name, &[], self.sum(*cell) as f64);
            }
            Series::Gauge(cell) => {
                text.family(name, family.kind, family.help);
                text.sample(name, &[], self.sum_gauge(*cell) as f64);
            }
            Series::Histogram(cell) => {
                text.family(name, family.kind, family.help);
                text.histogram(name, &[], &self.sum_histogram(cell));
            }
            Series::CoreCounter(cell, raw_per_unit) => {
                text.family(name, family.kind, family.help);
                for core in &self.cores {
                    let number = core.core.to_string();
                    let value = cell(core).value() as f64 / raw_per_unit;
                    text.sample(name, &[("core", &number)], value);
                }
            }
            Series::CoreGauge(cell) => {
                text.family(name, family.kind, family.help);
                for core in &self.cores {
                    let number = core.core.to_string();
                    text.sample(name, &[("core", &number)], cell(core).value() as f64);
                }
            }
            Series::Process(fact) => {
                if let Some(value) = fact(process) {
                    text.family(name, family.kind, family.help);
                    text.sample(name, &[], value);
                }
            }
            Series::Labelled(write) => {
                text.family(name, family.kind, family.help);
                write(name, self, text);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "registry_tests.rs"]
mod tests;
