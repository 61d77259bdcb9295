//! Puts while something else goes on: what that something costs clients.
//!
//! The load is let go, ramps up, and only then the work begins; the stretch ends with the work. In a
//! closed loop a stall of the server holds up as many requests as are in flight, and no more: it shows
//! in the longest latencies and in the throughput, while percentiles hardly move. With a rate, every
//! request that was due meanwhile has waited.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::job::{JobSpec, Setting, jobs};
use crate::load::{Load, Tally};
use crate::report::spinner;
use crate::stats::{Errors, Latency};

/// The shipped job that the puts are.
const JOB: &str = "put-rand";
const SECOND_NANOS: f64 = 1e9;

/// A load of puts that can be run again and again on one server.
pub struct Puts {
    spec: JobSpec,
    /// How long a stretch without other work is.
    quiet: Duration,
}

/// Puts in one stretch of time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// The work that went on beside them, or `quiet`.
    pub name: String,
    /// How long it took; of several pieces of work, all of them together.
    pub work_seconds: f64,
    pub operations: u64,
    pub operations_per_second: f64,
    pub latency_us: Latency,
    /// Operations of an open loop that were due and never began.
    pub unsent: u64,
    pub errors: Errors,
    pub first_error: Option<String>,
}

/// A figure of a stretch: its name in JSON, and the name of its ratio to the quiet stretch.
pub type StretchFigure = (&'static str, &'static str, fn(&Stretch) -> f64);

/// What stretches are compared by.
pub const STRETCH_FIGURES: [StretchFigure; 5] = [
    ("operations_per_second", "throughput_ratio", |stretch| {
        stretch.operations_per_second
    }),
    ("p50_us", "p50_ratio", |stretch| stretch.latency_us.p50),
    ("p99_us", "p99_ratio", |stretch| stretch.latency_us.p99),
    ("p999_us", "p999_ratio", |stretch| stretch.latency_us.p999),
    ("max_us", "max_ratio", |stretch| stretch.latency_us.max),
];

/// A piece of work and the puts beside it.
pub struct Beside<T> {
    pub outcome: T,
    pub seconds: f64,
    pub tally: Tally,
}

impl Puts {
    /// Puts as the shipped job makes them, with what the command line sets.
    pub fn new(overrides: &[Setting]) -> Result<Self> {
        let spec = jobs(&[JOB.to_owned()], overrides)?.remove(0);
        ensure!(
            spec.endpoints.is_empty(),
            "the server is started here: endpoints are for `keelson-bench run`"
        );
        ensure!(
            spec.size.is_none() && spec.runtime_ms > 0,
            "these puts last as long as what goes on beside them: runtime is that of the quiet stretch"
        );
        let quiet = spec.runtime();
        Ok(Self { spec, quiet })
    }

    /// The job.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Nothing but puts, for the job's time.
    pub async fn quiet(&self, address: SocketAddr, who: &str) -> Result<Beside<()>> {
        self.alone(address, format!("{who}: puts"), self.quiet)
            .await
    }

    /// Nothing but puts, for some time.
    pub async fn alone(
        &self,
        address: SocketAddr,
        what: String,
        time: Duration,
    ) -> Result<Beside<()>> {
        let pause = async {
            tokio::time::sleep(time).await;
            Ok(())
        };
        self.beside(address, what, pause).await
    }

    /// Puts for as long as some work takes. An error of the work ends them.
    pub async fn beside<T>(
        &self,
        address: SocketAddr,
        what: String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Beside<T>> {
        let bar = spinner(what.clone());
        let endless = JobSpec {
            runtime_ms: 0,
            ..self.spec.clone()
        };
        let mut load = Load::connect(&endless, &[address]).await?;
        let window = load.begin();
        tokio::time::sleep_until(window.start.into()).await;
        let begun = Instant::now();
        let outcome = work.await?;
        let seconds = begun.elapsed().as_secs_f64();
        load.stop();
        let tally = load.finish().await?;
        bar.finish_and_clear();
        ensure!(
            tally.measured_ns > 0,
            "{what}: {}",
            tally.first_error.as_deref().unwrap_or("nothing was put")
        );
        Ok(Beside {
            outcome,
            seconds,
            tally,
        })
    }
}

impl Stretch {
    /// What one or several pieces of work left of the puts beside them.
    pub fn new<'a>(name: &str, pieces: impl IntoIterator<Item = (f64, &'a Tally)>) -> Result<Self> {
        let mut sum: Option<Tally> = None;
        let (mut work_seconds, mut measured_ns) = (0.0, 0);
        for (seconds, tally) in pieces {
            work_seconds += seconds;
            // Stretches follow each other; clones of a load, which sums are made for, do not.
            measured_ns += tally.measured_ns;
            match &mut sum {
                Some(sum) => sum.add(tally.clone()),
                None => sum = Some(tally.clone()),
            }
        }
        let tally = sum.with_context(|| format!("no puts beside {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            work_seconds,
            operations: tally.operations,
            operations_per_second: tally.operations as f64 * SECOND_NANOS / measured_ns as f64,
            latency_us: Latency::from(&tally.latency_ns),
            unsent: tally.unsent,
            errors: tally.errors,
            first_error: tally.first_error,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tally(operations: u64, latency_ns: u64, measured_ns: u64) -> Tally {
        let mut tally = Tally::new(&[]);
        tally.set_window(0..u64::MAX);
        for _ in 0..operations {
            tally.record(0, 0, latency_ns);
        }
        tally.measured_ns = measured_ns;
        tally
    }

    #[test]
    fn pieces_of_work_follow_each_other() {
        let (one, other) = (
            tally(300, 1_000_000, 1_000_000_000),
            tally(100, 9_000_000, 3_000_000_000),
        );
        let stretch = Stretch::new("defrag", [(1.5, &one), (2.5, &other)]).unwrap();
        assert_eq!((stretch.operations, stretch.work_seconds), (400, 4.0));
        assert_eq!(stretch.operations_per_second, 100.0, "over both times");
        assert!((stretch.latency_us.p50 / 1_000.0 - 1.0).abs() < 0.01);
        assert!((stretch.latency_us.p99 / 9_000.0 - 1.0).abs() < 0.01);
        assert!(Stretch::new("nothing", []).is_err());
    }

    #[test]
    fn puts_that_end_by_themselves_are_refused() {
        let with = |word: &str, value: &str| {
            Puts::new(&[Setting {
                word: word.to_owned(),
                value: value.to_owned(),
                line: None,
            }])
        };
        assert!(with("rate", "5k").is_ok());
        assert!(with("size", "10").is_err());
        assert!(with("endpoints", "h:1").is_err());
    }
}
