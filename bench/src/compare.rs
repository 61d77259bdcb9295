//! `compare`: one load against Keelson and etcd in alternating rounds of one run.
//!
//! Each round starts its server on a fresh data directory, so that no round inherits the files or
//! the memory of an earlier one, and every second round swaps the order, so that a slow drift of
//! the machine favours neither. Ratios are taken round by round and are Keelson's figure over the
//! other's.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::cli::{Against, CompareOptions, OutputFormat};
use crate::job::{JobSpec, Setting, jobs};
use crate::load::Load;
use crate::machine::Machine;
use crate::procfs::{Usage, own_cpu_seconds};
use crate::report::{
    PROGRESS_INTERVAL, Table, fail_on_errors, number, print_json, progress, spread,
};
use crate::scrape;
use crate::server::{Home, Launch, Server};
use crate::stats::{Errors, Latency, Spread};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// CPU time is told for this many operations.
const OPERATIONS_UNIT: f64 = 100_000.0;

#[derive(Serialize)]
struct Report {
    command: &'static str,
    machine: Machine,
    job: JobSpec,
    servers: Vec<Contender>,
    /// Keelson over the other; absent if there is no other.
    ratios: Option<Ratios>,
}

/// One server and what its rounds brought.
#[derive(Serialize)]
struct Contender {
    name: String,
    version: String,
    median: Medians,
    rounds: Vec<Round>,
}

/// The figures of one round.
#[derive(Clone, Debug, Serialize)]
struct Round {
    operations: u64,
    operations_per_second: f64,
    latency_us: Latency,
    server_cpu_seconds_per_100k: f64,
    rss_bytes_peak: u64,
    write_calls_per_operation: f64,
    written_bytes_per_operation: f64,
    /// Absent if the server does not count its flushes.
    flushes_per_operation: Option<f64>,
    generator_cpu_seconds_per_100k: f64,
    errors: Errors,
    first_error: Option<String>,
}

/// Declares the figures once, for medians, ratios and the table.
macro_rules! figures {
    ($($median:ident, $ratio:ident, $label:literal, $of:expr;)+) => {
        /// The median of each figure over the rounds, with its spread.
        #[derive(Serialize)]
        struct Medians { $($median: Option<Spread>,)+ }

        /// The ratio of each figure, with its spread over the rounds.
        #[derive(Serialize)]
        struct Ratios { $($ratio: Option<Spread>,)+ }

        impl Medians {
            fn of(rounds: &[Round]) -> Self {
                Self { $($median: Spread::over(rounds.iter().filter_map($of)),)+ }
            }
        }

        impl Ratios {
            fn of(ours: &[Round], theirs: &[Round]) -> Self {
                Self { $($ratio: Spread::of_ratios(
                    ours.iter().filter_map($of),
                    theirs.iter().filter_map($of),
                ),)+ }
            }
        }

        fn add_rows(table: &mut Table, report: &Report) {
            $(
                let medians = report.servers.iter().map(|server| server.median.$median);
                let cells = medians.map(|value| value.map_or("-".into(), |value| number(value.median)));
                let ratio = report.ratios.as_ref().map(|ratios| spread(ratios.$ratio));
                table.row(std::iter::once($label.to_owned()).chain(cells).chain(ratio));
            )+
        }
    };
}

figures! {
    operations_per_second, throughput_ratio, "operations/s",
        |round: &Round| Some(round.operations_per_second);
    p50_us, p50_ratio, "latency p50, us", |round: &Round| Some(round.latency_us.p50);
    p99_us, p99_ratio, "latency p99, us", |round: &Round| Some(round.latency_us.p99);
    p999_us, p999_ratio, "latency p99.9, us", |round: &Round| Some(round.latency_us.p999);
    server_cpu_seconds_per_100k, cpu_per_op_ratio, "server CPU-s per 100k",
        |round: &Round| Some(round.server_cpu_seconds_per_100k);
    rss_bytes_peak, rss_peak_ratio, "peak RSS, bytes",
        |round: &Round| Some(round.rss_bytes_peak as f64);
    write_calls_per_operation, write_calls_ratio, "write calls per op (no io_uring)",
        |round: &Round| Some(round.write_calls_per_operation);
    written_bytes_per_operation, written_bytes_ratio, "bytes written per op",
        |round: &Round| Some(round.written_bytes_per_operation);
    flushes_per_operation, flushes_ratio, "flushes per op",
        |round: &Round| round.flushes_per_operation;
    generator_cpu_seconds_per_100k, generator_cpu_ratio, "generator CPU-s per 100k",
        |round: &Round| Some(round.generator_cpu_seconds_per_100k);
}

/// Runs the command.
pub async fn run(options: &CompareOptions) -> Result<()> {
    let parent = options.servers.data_parent()?;
    let machine = Machine::facts(&parent);
    let launches = options.servers.launches(Against::Etcd)?;
    let job = job(options)?;
    let round_millis = (options.ramp_seconds + options.seconds) * 1_000;
    let total_millis = round_millis * options.rounds * launches.len() as u64;
    let bar = progress(total_millis, "{msg:24} {bar:40} {percent}%, {eta} left");
    let mut rounds: Vec<Vec<Round>> = launches.iter().map(|_| Vec::new()).collect();
    let mut versions = vec![String::new(); launches.len()];
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..launches.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let launch = &launches[index];
            bar.set_message(format!("{} {}/{}", launch.name, round + 1, options.rounds));
            let home = Home::create(&parent)?;
            let mut server = launch.start(&home)?;
            server.ready(READY_TIMEOUT).await?;
            versions[index] = scrape::version(server.address()).await?;
            rounds[index].push(measure(&mut server, &job, &bar).await?);
            server.stop().await?;
        }
    }
    bar.finish_and_clear();
    let ratios = match &rounds[..] {
        [ours, theirs] => Some(Ratios::of(ours, theirs)),
        _ => None,
    };
    let contender = |((launch, version), rounds): ((&Launch, String), Vec<Round>)| Contender {
        name: launch.name.clone(),
        version,
        median: Medians::of(&rounds),
        rounds,
    };
    let servers = launches
        .iter()
        .zip(versions)
        .zip(rounds)
        .map(contender)
        .collect();
    let report = Report {
        command: "compare",
        machine,
        job,
        servers,
        ratios,
    };
    match options.servers.output_format {
        OutputFormat::Json => print_json(&report)?,
        OutputFormat::Text => print_text(&report, options),
    }
    for server in &report.servers {
        for round in &server.rounds {
            fail_on_errors(&server.name, &round.errors, round.first_error.as_deref())?;
        }
    }
    Ok(())
}

fn job(options: &CompareOptions) -> Result<JobSpec> {
    let setting = |word: &str, value: u64| Setting {
        word: word.to_owned(),
        value: value.to_string(),
        line: None,
    };
    let millis = |word: &str, seconds: u64| setting(word, seconds);
    let mut settings = vec![
        millis("runtime", options.seconds),
        millis("ramp_time", options.ramp_seconds),
        setting("connections", options.load.connections),
        setting("numjobs", options.load.threads),
        setting("iodepth", options.clients.div_ceil(options.load.threads)),
        setting("seed", options.load.seed),
    ];
    if options.op != "lease-keepalive" {
        settings.push(setting("key_count", options.key_count));
        settings.push(setting("value_bytes", options.load.value_bytes as u64));
    }
    let mut jobs = jobs(&[options.op.clone()], &settings)?;
    Ok(jobs.pop().expect("the file holds a job"))
}

/// Puts one server under the load. What /proc tells is taken at the borders of the window; the
/// flush counter, whose page costs the server some CPU, outside the whole load.
async fn measure(server: &mut Server, job: &JobSpec, bar: &ProgressBar) -> Result<Round> {
    let mut load = Load::connect(job, &[server.address()]).await?;
    let flushes_before = scrape::flush_count(server.address()).await;
    let window = load.begin();
    let seconds = (window.end - window.start).as_secs_f64();
    let at_start = snapshot(server, window.start, bar).await?;
    let at_end = snapshot(server, window.end, bar).await?;
    let tally = load.finish().await?;
    let flushes_after = scrape::flush_count(server.address()).await;
    let rss_bytes_peak = server.usage()?.rss_bytes_peak;
    if tally.errors.is_empty() {
        ensure!(
            tally.operations > 0,
            "no answer came inside the measured time"
        );
    }
    let operations = tally.operations as f64;
    let per_100k = |seconds: f64| seconds * OPERATIONS_UNIT / operations;
    let ((before, own_before), (after, own_after)) = (at_start, at_end);
    let flushes = flushes_before
        .zip(flushes_after)
        .map(|(before, after)| after - before);
    Ok(Round {
        operations: tally.operations,
        operations_per_second: operations / seconds,
        latency_us: Latency::from(&tally.latency_ns),
        server_cpu_seconds_per_100k: per_100k(after.cpu_seconds - before.cpu_seconds),
        rss_bytes_peak,
        write_calls_per_operation: (after.write_calls - before.write_calls) as f64 / operations,
        written_bytes_per_operation: (after.written_bytes - before.written_bytes) as f64
            / operations,
        flushes_per_operation: flushes.map(|count| count / tally.operations_total as f64),
        generator_cpu_seconds_per_100k: per_100k(own_after - own_before),
        errors: tally.errors,
        first_error: tally.first_error,
    })
}

/// What the server and this process have used at a point in time.
async fn snapshot(server: &mut Server, at: Instant, bar: &ProgressBar) -> Result<(Usage, f64)> {
    loop {
        let now = Instant::now();
        if now >= at {
            return Ok((server.usage()?, own_cpu_seconds()?));
        }
        let step = PROGRESS_INTERVAL.min(at - now);
        tokio::time::sleep(step).await;
        bar.inc(u64::try_from(step.as_millis()).unwrap_or(u64::MAX));
    }
}

fn print_text(report: &Report, options: &CompareOptions) {
    let job = &report.job;
    println!("{}", report.machine);
    println!(
        "load     {:?}, {} clients on {} connections, {} thread(s), {} keys, {} bytes a value",
        job.op,
        job.in_flight(),
        job.connections,
        job.numjobs,
        job.key_count,
        job.value_bytes
    );
    println!(
        "rounds   {} of {} s after {} s of ramp; medians, ratios with (min .. max) over rounds\n",
        options.rounds, options.seconds, options.ramp_seconds
    );
    let mut table = Table::default();
    let names = report
        .servers
        .iter()
        .map(|server| format!("{} {}", server.name, server.version));
    let ratio = report.ratios.as_ref().map(|_| "ratio".to_owned());
    table.row(std::iter::once(String::new()).chain(names).chain(ratio));
    add_rows(&mut table, report);
    print!("{}", table.render());
    for server in &report.servers {
        let errors: u64 = server
            .rounds
            .iter()
            .flat_map(|round| round.errors.values())
            .sum();
        println!("{} errors: {errors}", server.name);
    }
}
