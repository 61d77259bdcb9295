//! `replay`: how long a member takes from exec to its first answer when its log is full.
//!
//! The member is filled through the API, stopped with SIGTERM and started on the same directory.
//! Before the stop and after the start it must hold every key and the last revision that the
//! acknowledged writes imply. The log is still in the page cache at the second start, unless the
//! server reads it with O_DIRECT. After the restart nobody asks it anything for a while, and what it
//! then holds in memory is its idle resident set.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::checkpoint::{CheckpointFigures, checkpoint};
use crate::cli::{OutputFormat, ReplayOptions};
use crate::job::JobSpec;
use crate::machine::Machine;
use crate::report::{Table, number, print_json, spinner};
use crate::scrape;
use crate::server::{Home, Launch};
use crate::upkeep::{PutsInTurn, contents, put_in_turn};

const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Without requests, before the idle resident set is read.
const REST: Duration = Duration::from_secs(5);

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
    /// From the restart to the end.
    rss_bytes_peak: u64,
    /// After a rest.
    rss_bytes_idle: u64,
    /// After that.
    checkpoints: Vec<CheckpointFigures>,
}

/// Runs the command.
pub async fn run(options: &ReplayOptions) -> Result<()> {
    let parent = options.servers.start.data_parent()?;
    let machine = Machine::facts(&parent);
    let puts = PutsInTurn {
        puts: options.puts,
        key_count: options.key_count.unwrap_or(options.puts),
        value_bytes: options.value_bytes,
        in_flight: options.clients,
    };
    let job = puts.job()?;
    let fewer = |count| {
        PutsInTurn {
            puts: count,
            ..puts
        }
        .job()
    };
    let later = [fewer(1)?, fewer(options.puts.div_ceil(10))?];
    let mut servers = Vec::new();
    for launch in options.servers.start.launches(options.servers.against)? {
        let launch = launch.without_quota();
        servers.push(measure(&launch, &parent, (&job, &later), options.puts).await?);
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

async fn measure(
    launch: &Launch,
    parent: &Path,
    (job, later): (&JobSpec, &[JobSpec]),
    puts: u64,
) -> Result<Replay> {
    let home = Home::create(parent)?;
    let mut server = launch.start(&home)?;
    server.ready(READY_TIMEOUT).await?;
    let version = scrape::version(server.address()).await?;
    let fill_seconds = put_in_turn(&launch.name, server.address(), job).await?;
    let filled = contents(server.address()).await?;
    // A fresh member is at revision 1.
    let expected = (job.key_count.min(puts) as i64, puts as i64 + 1);
    ensure!(
        filled == expected,
        "{}: {filled:?} (keys, revision) instead of {expected:?}",
        launch.name
    );
    server.stop().await?;
    let data_bytes = home.data_bytes()?;

    let bar = spinner(format!("{} replays", launch.name));
    let mut server = launch.start(&home)?;
    let replay = server.ready(READY_TIMEOUT).await?;
    let replay_cpu_seconds = server.usage()?.cpu_seconds;
    bar.set_message(format!("{} rests", launch.name));
    tokio::time::sleep(REST).await;
    let usage = server.usage()?;
    bar.finish_and_clear();
    let replayed = contents(server.address()).await?;
    ensure!(
        replayed == expected,
        "{}: {replayed:?} (keys, revision) after the restart instead of {expected:?}",
        launch.name
    );
    let mut checkpoints = Vec::new();
    for job in later {
        checkpoints.extend(checkpoint((&launch.name, &mut server), parent, job).await?);
    }
    server.stop().await?;
    Ok(Replay {
        name: launch.name.clone(),
        version,
        fill_seconds,
        replay_seconds: replay.as_secs_f64(),
        replay_cpu_seconds,
        data_bytes,
        key_count: replayed.0,
        revision: replayed.1,
        rss_bytes_peak: usage.rss_bytes_peak,
        rss_bytes_idle: usage.rss_bytes,
        checkpoints,
    })
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
    table.row(row("idle RSS, MiB", &|replay| {
        number(replay.rss_bytes_idle as f64 / 1_048_576.0)
    }));
    let most = report.servers.iter().map(|server| server.checkpoints.len());
    for number in 0..most.max().unwrap_or(0) {
        let cell = |figure: fn(&CheckpointFigures) -> f64| {
            move |replay: &Replay| {
                let made = replay.checkpoints.get(number);
                made.map_or("-".to_owned(), |made| self::number(figure(made)))
            }
        };
        table.row(row(
            "checkpoint of so many puts",
            &cell(|made| made.puts as f64),
        ));
        table.row(row("  MB", &cell(|made| made.bytes / 1e6)));
        table.row(row("  s", &cell(|made| made.seconds)));
        table.row(row("  MB/s", &cell(|made| made.bytes_per_second / 1e6)));
        table.row(row("  of the disk probe", &cell(|made| made.probe_ratio)));
    }
    print!("{}", table.render());
}
