//! A document for a terminal: what it ran on, then each job as fio would print it.

use std::fmt::Write as _;

use super::document::{Contender, Document, JobResult, Round, ServerUse};
use super::figures::FIGURES;
use super::terminal::{Table, count, number, spread, wrapped};
use crate::job::{JobSpec, spec_summary};
use crate::stats::{Errors, Latency, Spread};

const MIB: f64 = (1 << 20) as f64;
const LINE_CHARS_MAX: usize = 100;
/// The percentiles that fio prints, five to a line.
const PERCENTS: [f64; 17] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95,
    99.99,
];
/// The ratios of the summary over several jobs: name, head of the column.
const SUMMARY: [(&str, &str); 5] = [
    ("throughput_ratio", "throughput"),
    ("cpu_per_op_ratio", "CPU per op"),
    ("p50_ratio", "p50"),
    ("p99_ratio", "p99"),
    ("rss_above_baseline_ratio", "RSS above base"),
];

/// The whole of it.
pub fn text(document: &Document) -> String {
    let mut out = format!("{}\n", document.machine);
    if let Some(probe) = &document.disk_probe {
        line(
            &mut out,
            &format!(
                "probe    a durable 4 KiB write alone takes {} us (p50), {} us (p99) on this disk",
                number(probe.write_4k_depth1_p50_us),
                number(probe.write_4k_depth1_p99_us)
            ),
        );
    }
    for warning in &document.warnings {
        line(&mut out, &format!("WARNING  {warning}"));
    }
    for job in &document.jobs {
        out.push('\n');
        job_text(&mut out, job, document);
    }
    for result in &document.disk {
        out.push('\n');
        out += &result.text();
    }
    let upkeep = (document.maintain.iter().map(|result| result.text()))
        .chain(document.backup.iter().map(|result| result.text()))
        .chain(document.memory.iter().map(|result| result.text()));
    for text in upkeep {
        out.push('\n');
        out += &text;
    }
    let compared = document.jobs.iter().filter(|job| !job.ratios.is_empty());
    if compared.count() > 1 {
        out.push('\n');
        summary(&mut out, document);
    }
    if document.interrupted {
        line(
            &mut out,
            "\ninterrupted: what was measured until then is above",
        );
    }
    out
}

/// A job as one would write it, in lines.
pub fn spec_text(spec: &JobSpec) -> String {
    wrapped(&spec_summary(spec), LINE_CHARS_MAX, 2)
}

fn job_text(out: &mut String, job: &JobResult, document: &Document) {
    line(out, &format!("{}: {}", job.name, spec_text(&job.spec)));
    for server in &job.servers {
        if let Some(note) = &server.note {
            line(out, &format!("  {}: {note}", server.name));
        }
    }
    if document.command == "compare" {
        comparison(out, job, document);
    } else {
        for server in &job.servers {
            for round in &server.rounds {
                round_text(out, server, round, document);
            }
        }
    }
    for server in &job.servers {
        let mut errors = Errors::new();
        for (code, count) in server.rounds.iter().flat_map(|round| &round.errors) {
            *errors.entry(code.clone()).or_default() += count;
        }
        if document.command == "compare" || !errors.is_empty() {
            line(
                out,
                &format!("  {} errors: {}", server.name, error_text(&errors)),
            );
        }
    }
}

/// One row a figure, one column a server, and the ratio.
fn comparison(out: &mut String, job: &JobResult, document: &Document) {
    let members = match document.members {
        1 => String::new(),
        count => format!("{count} members each; "),
    };
    let rounds: Vec<String> = job
        .servers
        .iter()
        .map(|server| server.rounds.len().to_string())
        .collect();
    line(
        out,
        &format!(
            "  {members}{} of {} rounds; medians, and ratios with (min .. max) over rounds\n",
            rounds.join(" and "),
            document.rounds
        ),
    );
    let mut table = Table::default();
    let names = job
        .servers
        .iter()
        .map(|server| format!("{} {}", server.name, server.version));
    let head = (job.servers.len() > 1).then(|| "ratio".to_owned());
    table.row(std::iter::once(String::new()).chain(names).chain(head));
    for figure in FIGURES {
        let values: Vec<Option<&Spread>> = job
            .servers
            .iter()
            .map(|server| server.figures.get(figure.name))
            .collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let cells = values
            .into_iter()
            .map(|value| value.map_or("-".to_owned(), |value| figure.shown(value.median)));
        let ratio =
            (job.servers.len() > 1).then(|| spread(job.ratio_spread.get(figure.ratio).copied()));
        table.row(
            std::iter::once(format!("  {}", figure.label))
                .chain(cells)
                .chain(ratio),
        );
    }
    out.push_str(&table.render());
    let kinds = job.kinds();
    if !kinds.is_empty() {
        line(
            out,
            "\n  p50 / p99 in us, and operations of a round, by kind:",
        );
        out.push_str(&kind_table(job, &kinds));
    }
}

fn kind_table(job: &JobResult, kinds: &[&str]) -> String {
    let mut table = Table::default();
    for kind in kinds {
        let cells = job.servers.iter().map(|server| match server.kind(kind) {
            Some(of) => format!(
                "{} / {} ({})",
                number(of.p50_us),
                number(of.p99_us),
                count(of.operations as u64)
            ),
            None => "-".to_owned(),
        });
        table.row(std::iter::once(format!("    {kind}")).chain(cells));
    }
    table.render()
}

/// One round as fio would show a job.
fn round_text(out: &mut String, server: &Contender, round: &Round, document: &Document) {
    let cut = if round.cut_short { ", cut short" } else { "" };
    let (name, version) = (&server.name, &server.version);
    let seconds = number(round.seconds);
    line(
        out,
        &format!("  {name} {version}: {seconds} s measured{cut}"),
    );
    line(out, &throughput_line(round));
    latency_text(out, &round.latency_us);
    parts_text(out, round);
    line(
        out,
        &format!("  errors     : {}", error_text(&round.errors)),
    );
    if let Some(first) = &round.first_error {
        line(out, &format!("    first    : {first}"));
    }
    if round.unsent > 0 || round.behind_us_max > 0.0 {
        let late = number(round.behind_us_max);
        let unsent = round.unsent;
        line(
            out,
            &format!("  schedule   : at most {late} us late, {unsent} never sent"),
        );
    }
    if let Some(used) = &round.server {
        server_text(out, used, document.members);
    }
    line(
        out,
        &format!(
            "  generator  : CPU {} s per 100k ops ({} % of a core)",
            number(round.generator_cpu_seconds_per_100k),
            number(round.generator_cpu_percent)
        ),
    );
}

fn throughput_line(round: &Round) -> String {
    let per_second = Spread::over(round.per_second.iter().map(|&count| count as f64));
    let range = per_second.map_or(String::new(), |spread| {
        let [min, median, max] =
            [spread.min, spread.median, spread.max].map(|value| count(value as u64));
        format!("; per second min {min}, median {median}, max {max}")
    });
    format!(
        "  throughput : {} ops/s, {} ops{range}",
        number(round.operations_per_second),
        count(round.operations)
    )
}

/// Kinds of operations, and clones.
fn parts_text(out: &mut String, round: &Round) {
    for step in round.steps.iter().filter(|step| step.is_there()) {
        let (operations, latency) = (count(step.operations), latency_line(&step.latency_us));
        line(
            out,
            &format!("    {:<13}: {operations} ops; {latency}", step.name),
        );
    }
    for (index, clone) in round.clones.iter().enumerate() {
        let speed = number(clone.operations_per_second);
        let (latency, errors) = (latency_line(&clone.latency_us), error_text(&clone.errors));
        line(
            out,
            &format!("    clone {index:<7}: {speed} ops/s; {latency}; errors {errors}"),
        );
    }
}

fn server_text(out: &mut String, used: &ServerUse, members: u32) {
    let mib = |bytes: u64| number(bytes as f64 / MIB);
    let of_members = if members > 1 { ", all members" } else { "" };
    line(
        out,
        &format!(
            "  server     : CPU {} s per 100k ops ({} % of a core{of_members}); RSS peak {} MiB, {} MiB above {} MiB",
            number(used.cpu_seconds_per_100k),
            number(used.cpu_percent),
            mib(used.rss_bytes_peak),
            mib(used.rss_bytes_above_baseline),
            mib(used.rss_bytes_baseline)
        ),
    );
    line(
        out,
        &format!(
            "               per op: {} bytes written, {} flushes, {} write calls",
            number(used.written_bytes_per_operation),
            used.flushes_per_operation
                .map_or("unknown".to_owned(), number),
            number(used.write_calls_per_operation)
        ),
    );
}

fn latency_text(out: &mut String, latency: &Latency) {
    line(out, &format!("  latency us : {}", latency_line(latency)));
    if latency.count == 0 {
        return;
    }
    line(out, "  percentiles (us):");
    let told = PERCENTS.iter().filter_map(|wanted| {
        let mut points = latency.percentiles.iter();
        let (_, us) = points.find(|(percent, _)| percent == wanted)?;
        Some(format!("{wanted:5.2}th=[{:>9}]", number(*us)))
    });
    for few in told.collect::<Vec<_>>().chunks(5) {
        line(out, &format!("   | {}", few.join(", ")));
    }
}

fn latency_line(latency: &Latency) -> String {
    if latency.count == 0 {
        return "nothing was timed".to_owned();
    }
    let [min, mean, stddev, p99, max] = [
        latency.min,
        latency.mean,
        latency.stddev,
        latency.p99,
        latency.max,
    ]
    .map(number);
    format!("min {min}, avg {mean}, stdev {stddev}, p99 {p99}, max {max}")
}

fn error_text(errors: &Errors) -> String {
    if errors.is_empty() {
        return "none".to_owned();
    }
    let counts: Vec<String> = errors
        .iter()
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    counts.join(", ")
}

/// The ratios of all jobs, one row each.
fn summary(out: &mut String, document: &Document) {
    let contenders = document.contenders();
    line(
        out,
        &format!("summary: ratios of {contenders}, median (min .. max)\n"),
    );
    let mut table = Table::default();
    let heads = SUMMARY.iter().map(|(_, head)| (*head).to_owned());
    table.row(std::iter::once(String::new()).chain(heads));
    for job in &document.jobs {
        let cells = SUMMARY
            .iter()
            .map(|(name, _)| spread(job.ratio_spread.get(*name).copied()));
        table.row(std::iter::once(format!("  {}", job.name)).chain(cells));
    }
    out.push_str(&table.render());
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes any text");
}
