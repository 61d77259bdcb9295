//! `replay`: how long a member takes from exec to its first answer when its log is full.
//!
//! The member is filled through the API, stopped with SIGTERM and started on the same directory.
//! Before the stop and after the start it must hold every key and the last revision that the
//! acknowledged writes imply. The log is still in the page cache at the second start, unless the
//! server reads it with O_DIRECT.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use keelson_proto::etcdserverpb::{RangeRequest, RangeResponse};

use crate::cli::{OutputFormat, ReplayOptions};
use crate::grpc::{Channel, Rpc};
use crate::job::{JobSpec, Setting, jobs};
use crate::load::{Load, key_range};
use crate::machine::Machine;
use crate::report::{PROGRESS_INTERVAL, Table, fail_on_errors, number, print_json, progress};
use crate::scrape;
use crate::server::{Home, Launch, Server};

const READY_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct Report {
    command: &'static str,
    machine: Machine,
    job: JobSpec,
    servers: Vec<Replay>,
}

#[derive(Serialize)]
struct Replay {
    name: String,
    version: String,
    fill_seconds: f64,
    /// From exec to the first answered Range.
    replay_seconds: f64,
    replay_cpu_seconds: f64,
    /// Length of all files in the data directory after the stop.
    data_bytes: u64,
    key_count: i64,
    revision: i64,
    /// After the restart.
    rss_bytes_peak: u64,
}

/// Runs the command.
pub async fn run(options: &ReplayOptions) -> Result<()> {
    let parent = options.servers.start.data_parent()?;
    let machine = Machine::facts(&parent);
    let job = filling(options)?;
    let mut servers = Vec::new();
    for launch in options.servers.start.launches(options.servers.against)? {
        servers.push(measure(&launch, &Home::create(&parent)?, &job, options.puts).await?);
    }
    let report = Report {
        command: "replay",
        machine,
        job,
        servers,
    };
    match options.servers.output_format {
        OutputFormat::Json => print_json(&report)?,
        OutputFormat::Text => print_text(&report, options.puts),
    }
    Ok(())
}

/// The shipped job that writes keys in turn, so many times.
fn filling(options: &ReplayOptions) -> Result<JobSpec> {
    let set = |word: &str, value: u64| Setting {
        word: word.to_owned(),
        value: value.to_string(),
        line: None,
    };
    let settings = [
        set("size", options.puts),
        set("runtime", 0),
        set("ramp_time", 0),
        set("key_count", options.key_count.unwrap_or(options.puts)),
        set("value_bytes", options.value_bytes),
        set("iodepth", options.clients),
    ];
    Ok(jobs(&["put-seq".to_owned()], &settings)?.remove(0))
}

async fn measure(launch: &Launch, home: &Home, job: &JobSpec, puts: u64) -> Result<Replay> {
    let mut server = launch.start(home)?;
    server.ready(READY_TIMEOUT).await?;
    let version = scrape::version(server.address()).await?;
    let fill_seconds = fill(&launch.name, &server, job, puts).await?;
    let filled = contents(&server).await?;
    // A fresh member is at revision 1.
    let expected = (job.key_count.min(puts) as i64, puts as i64 + 1);
    ensure!(
        filled == expected,
        "{}: {filled:?} (keys, revision) instead of {expected:?}",
        launch.name
    );
    server.stop().await?;
    let data_bytes = home.data_bytes()?;

    let bar = progress(0, "{msg} replays {spinner} {elapsed}");
    bar.set_message(launch.name.clone());
    bar.enable_steady_tick(PROGRESS_INTERVAL);
    let mut server = launch.start(home)?;
    let replay = server.ready(READY_TIMEOUT).await?;
    let usage = server.usage()?;
    bar.finish_and_clear();
    let replayed = contents(&server).await?;
    ensure!(
        replayed == expected,
        "{}: {replayed:?} (keys, revision) after the restart instead of {expected:?}",
        launch.name
    );
    server.stop().await?;
    Ok(Replay {
        name: launch.name.clone(),
        version,
        fill_seconds,
        replay_seconds: replay.as_secs_f64(),
        replay_cpu_seconds: usage.cpu_seconds,
        data_bytes,
        key_count: replayed.0,
        revision: replayed.1,
        rss_bytes_peak: usage.rss_bytes_peak,
    })
}

/// Writes everything and tells how many seconds it took.
async fn fill(name: &str, server: &Server, job: &JobSpec, puts: u64) -> Result<f64> {
    let bar = progress(
        puts,
        "{msg} fills {bar:40} {human_pos} of {human_len} puts, {per_sec}, {eta} left",
    );
    bar.set_message(name.to_owned());
    let mut load = Load::connect(job, &[server.address()]).await?;
    load.begin();
    let start = Instant::now();
    let tally = loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, load.finish()).await {
            Ok(tally) => break tally?,
            Err(_) => bar.set_position(load.done()),
        }
    };
    let elapsed = start.elapsed();
    bar.finish_and_clear();
    fail_on_errors(name, &tally.errors, tally.first_error.as_deref())?;
    ensure!(
        tally.operations_total == puts,
        "{name}: {} of {puts} puts",
        tally.operations_total
    );
    Ok(elapsed.as_secs_f64())
}

/// How many of the job's keys there are, and the revision.
async fn contents(server: &Server) -> Result<(i64, i64)> {
    let mut channel = Channel::connect(server.address()).await?;
    let (key, range_end) = key_range();
    let request = RangeRequest {
        key,
        range_end,
        count_only: true,
        ..Default::default()
    };
    let answer: RangeResponse = channel.call(Rpc::Range, &request).await?;
    Ok((
        answer.count,
        answer.header.map_or(0, |header| header.revision),
    ))
}

fn print_text(report: &Report, puts: u64) {
    let job = &report.job;
    println!("{}", report.machine);
    println!(
        "replay   {puts} puts of {} bytes on {} keys, {} in flight on {} connections\n",
        job.value_bytes, job.key_count, job.iodepth, job.connections
    );
    let mut table = Table::default();
    let row = |name: &str, cell: &dyn Fn(&Replay) -> String| {
        let cells = report.servers.iter().map(cell);
        std::iter::once(name.to_owned())
            .chain(cells)
            .collect::<Vec<_>>()
    };
    table.row(row("", &|replay| {
        format!("{} {}", replay.name, replay.version)
    }));
    table.row(row("fill, s", &|replay| number(replay.fill_seconds)));
    table.row(row("replay, s", &|replay| number(replay.replay_seconds)));
    table.row(row("replay, CPU-s", &|replay| {
        number(replay.replay_cpu_seconds)
    }));
    table.row(row("files, MiB", &|replay| {
        number(replay.data_bytes as f64 / 1_048_576.0)
    }));
    table.row(row("keys", &|replay| replay.key_count.to_string()));
    table.row(row("revision", &|replay| replay.revision.to_string()));
    table.row(row("peak RSS, MiB", &|replay| {
        number(replay.rss_bytes_peak as f64 / 1_048_576.0)
    }));
    print!("{}", table.render());
}
