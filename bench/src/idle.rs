//! `idle`: what a server costs while nobody asks it anything.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::cli::{IdleOptions, OutputFormat};
use crate::machine::Machine;
use crate::report::{PROGRESS_INTERVAL, Table, number, print_json, progress};
use crate::scrape;
use crate::server::{Home, Launch};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Start-up work ends before the measurement begins.
const REST: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Report {
    command: &'static str,
    machine: Machine,
    seconds: u64,
    servers: Vec<Idle>,
}

#[derive(Serialize)]
struct Idle {
    name: String,
    version: String,
    cpu_percent_of_core: f64,
    rss_bytes_peak: u64,
}

/// Runs the command.
pub async fn run(options: &IdleOptions) -> Result<()> {
    let parent = options.servers.start.data_parent()?;
    let machine = Machine::facts(&parent);
    let mut servers = Vec::new();
    for launch in options.servers.start.launches(options.servers.against)? {
        servers.push(measure(&launch, &Home::create(&parent)?, options.seconds).await?);
    }
    let report = Report {
        command: "idle",
        machine,
        seconds: options.seconds,
        servers,
    };
    match options.servers.output_format {
        OutputFormat::Json => print_json(&report)?,
        OutputFormat::Text => print_text(&report),
    }
    Ok(())
}

async fn measure(launch: &Launch, home: &Home, seconds: u64) -> Result<Idle> {
    let mut server = launch.start(home)?;
    server.ready(READY_TIMEOUT).await?;
    let version = scrape::version(server.address()).await?;
    tokio::time::sleep(REST).await;
    let bar = progress(
        seconds * 1_000,
        "{msg} {bar:40} {elapsed} of idle time, {eta} left",
    );
    bar.set_message(launch.name.clone());
    let (before, start) = (server.usage()?, Instant::now());
    let duration = Duration::from_secs(seconds);
    while start.elapsed() < duration {
        tokio::time::sleep(PROGRESS_INTERVAL.min(duration - start.elapsed())).await;
        bar.set_position(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
    let (after, elapsed) = (server.usage()?, start.elapsed());
    bar.finish_and_clear();
    server.stop().await?;
    let busy_seconds = after.cpu_seconds - before.cpu_seconds;
    Ok(Idle {
        name: launch.name.clone(),
        version,
        cpu_percent_of_core: 100.0 * busy_seconds / elapsed.as_secs_f64(),
        rss_bytes_peak: after.rss_bytes_peak,
    })
}

fn print_text(report: &Report) {
    println!("{}", report.machine);
    println!(
        "idle     {} s after {} s of rest\n",
        report.seconds,
        REST.as_secs()
    );
    let mut table = Table::default();
    let row = |name: &str, cell: &dyn Fn(&Idle) -> String| {
        std::iter::once(name.to_owned())
            .chain(report.servers.iter().map(cell))
            .collect::<Vec<_>>()
    };
    table.row(row("", &|idle| format!("{} {}", idle.name, idle.version)));
    table.row(row("CPU, % of one core", &|idle| {
        number(idle.cpu_percent_of_core)
    }));
    table.row(row("peak RSS, MiB", &|idle| {
        number(idle.rss_bytes_peak as f64 / 1_048_576.0)
    }));
    print!("{}", table.render());
}
