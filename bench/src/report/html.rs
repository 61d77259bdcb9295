//! Documents as one page that stands by itself: styles and pictures are in it, nothing is fetched.

use anyhow::Result;
use clap::ValueEnum;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts;
use super::document::{Document, JobResult};
use super::figures::{FIGURES, Figure};
use super::terminal::{count, number, spread};
use crate::disk::{DiskResult, Figures, Way};
use crate::job::spec_summary;

const STYLE: &str = include_str!("page.css");
/// The ratios of the table over all jobs: name, head.
const SUMMARY: [(&str, &str); 5] = [
    ("throughput_ratio", "throughput"),
    ("cpu_per_op_ratio", "server CPU per op"),
    ("p50_ratio", "p50"),
    ("p99_ratio", "p99"),
    ("rss_above_baseline_ratio", "RSS above baseline"),
];

/// The page over one or several results, each with the name of its file.
pub fn page(results: &[(String, Document)]) -> Result<String> {
    let mut sections = Vec::new();
    for (name, document) in results {
        sections.push(result(name, document)?);
    }
    let title = "keelson-bench report";
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    @for section in sections { (section) }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn result(name: &str, document: &Document) -> Result<Markup> {
    let mut jobs = Vec::new();
    for job in &document.jobs {
        jobs.push(job_section(job, document)?);
    }
    Ok(html! {
        section.result {
            p.source { (document.tool) " " (document.command) ", " (document.started) ", " code { (name) } }
            (facts(document))
            @for warning in &document.warnings { p.warning { (warning) } }
            @if document.interrupted {
                p.warning { "Interrupted: rounds or jobs are missing, and one round may be shorter." }
            }
            @if document.jobs.iter().any(|job| !job.ratios.is_empty()) { (summary(document)) }
            @for job in jobs { (job) }
            @for disk in &document.disk { (disk_section(disk)) }
        }
    })
}

/// What it ran on.
fn facts(document: &Document) -> Markup {
    let machine = document.machine.to_string();
    let facts = machine
        .lines()
        .map(|line| line.split_once(' ').unwrap_or((line, "")));
    html! {
        dl.facts {
            @for (term, fact) in facts {
                dt { (term) }
                dd { (fact.trim()) }
            }
            @if let Some(probe) = &document.disk_probe {
                dt { "probe" }
                dd {
                    "a durable 4 KiB write alone takes " (number(probe.write_4k_depth1_p50_us)) " us (p50), "
                    (number(probe.write_4k_depth1_p99_us)) " us (p99) on this disk"
                }
            }
            @if document.command == "compare" {
                dt { "rounds" }
                dd {
                    (document.rounds) " for each server, in turns; "
                    @if document.members > 1 { (document.members) " members each; " }
                    "medians are shown, and ratios with the smallest and largest of the rounds"
                }
            }
        }
    }
}

fn summary(document: &Document) -> Markup {
    html! {
        h2 { "All jobs" }
        p.hint { "Ratios of " (document.contenders()) ". Green is better for the first." }
        div.scroll {
            table {
                thead { tr { th { "job" } @for (_, head) in SUMMARY { th { (head) } } } }
                tbody {
                    @for job in &document.jobs {
                        tr {
                            th { a href={ "#" (job.name) } { (job.name) } }
                            @for (name, _) in SUMMARY { (ratio_cell(job, name)) }
                        }
                    }
                }
            }
        }
    }
}

fn job_section(job: &JobResult, document: &Document) -> Result<Markup> {
    let bars = charts::bars(job)?;
    let mut pictures = Vec::new();
    if let Some(svg) = charts::percentiles(job)? {
        pictures.push(("Latency by percentile", svg));
    }
    if let Some(svg) = charts::course(job)? {
        pictures.push(("Operations per second", svg));
    }
    let has_rounds = job.servers.iter().any(|server| server.rounds.len() > 1);
    Ok(html! {
        section.job id=(job.name) {
            h2 { (job.name) }
            p.spec { code { (spec_summary(&job.spec)) } }
            p.legend {
                @for (index, server) in job.servers.iter().enumerate() {
                    span {
                        i style={ "background: var(" (charts::series_variable(index)) ")" } {}
                        (server.name) " " (server.version)
                    }
                }
                @if has_rounds { span.hint { "bold: median of the rounds; thin: each round" } }
            }
            @for server in &job.servers {
                @if let Some(note) = &server.note { p.hint { (server.name) ": " (note) } }
            }
            div.pictures {
                figure {
                    figcaption { "Throughput, CPU, latency" }
                    (PreEscaped(bars))
                }
                figure {
                    figcaption { "All figures" }
                    div.scroll { (figure_table(job)) }
                }
                @for (caption, svg) in pictures {
                    figure {
                        figcaption { (caption) }
                        (PreEscaped(svg))
                    }
                }
                @if !job.kinds().is_empty() {
                    figure.wide {
                        figcaption { "By kind of operation" }
                        div.scroll { (kind_table(job)) }
                    }
                }
            }
            (errors(job, document))
        }
    })
}

/// What a probe of a disk brought, a table for each way of writing.
fn disk_section(disk: &DiskResult) -> Markup {
    let heads = [
        "block",
        "in flight",
        "IOPS",
        "MB/s",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "max, us",
    ];
    let of_way = |way: Way| disk.runs.iter().filter(move |run| run.cell.way == way);
    html! {
        section.job id=(disk.name) {
            h2 { (disk.name) }
            p.spec {
                "a file of " (disk.file_bytes >> 20) " MiB in " code { (disk.directory) }
                ", filled once and written over in turn"
            }
            div.pictures {
                @for way in Way::value_variants().iter().copied().filter(|&way| of_way(way).count() > 0) {
                    figure {
                        figcaption { (way.name()) }
                        p.hint { (way.story()) }
                        div.scroll {
                            table {
                                thead { tr { @for head in heads { th { (head) } } } }
                                tbody { @for run in of_way(way) { (disk_row(run)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn disk_row(run: &Figures) -> Markup {
    let latency = &run.latency_us;
    let figures = [
        run.iops,
        run.bytes_per_second / 1e6,
        latency.p50,
        latency.p99,
        latency.p999,
        latency.max,
    ];
    html! {
        tr {
            th { (run.cell.block()) }
            td { (run.cell.iodepth) }
            @for figure in figures { td { (number(figure)) } }
        }
    }
}

fn figure_table(job: &JobResult) -> Markup {
    let is_known = |figure: &&Figure| {
        job.servers
            .iter()
            .any(|server| server.figures.contains_key(figure.name))
    };
    let compares = job.servers.len() > 1;
    html! {
        table {
            thead {
                tr {
                    th {}
                    @for server in &job.servers { th { (server.name) } }
                    @if compares { th { "ratio" } }
                }
            }
            tbody {
                @for figure in FIGURES.iter().filter(is_known) {
                    tr {
                        th { (figure.label) }
                        @for server in &job.servers {
                            td {
                                @match server.figures.get(figure.name) {
                                    Some(value) => (figure.shown(value.median)),
                                    None => "-",
                                }
                            }
                        }
                        @if compares { (ratio_cell(job, figure.ratio)) }
                    }
                }
            }
        }
    }
}

/// Latencies of each kind of operation of a job that has several.
fn kind_table(job: &JobResult) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th {}
                    @for server in &job.servers {
                        th { (server.name) " p50, us" }
                        th { "p99, us" }
                        th { "in a round" }
                    }
                }
            }
            tbody {
                @for kind in job.kinds() {
                    tr {
                        th { (kind) }
                        @for server in &job.servers {
                            @match server.kind(kind) {
                                Some(of) => {
                                    td { (number(of.p50_us)) }
                                    td { (number(of.p99_us)) }
                                    td { (count(of.operations as u64)) }
                                }
                                None => { td { "-" } td { "-" } td { "-" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A ratio with its spread, marked if it is clearly good or bad for the first server.
fn ratio_cell(job: &JobResult, name: &str) -> Markup {
    let Some(ratio) = job.ratio_spread.get(name) else {
        return html! { td { "-" } };
    };
    let is_more_better = FIGURES
        .iter()
        .any(|figure| figure.ratio == name && figure.is_more_better);
    let (is_all_above, is_all_below) = (ratio.min > 1.0, ratio.max < 1.0);
    let class = match (is_all_above, is_all_below) {
        (true, _) if is_more_better => "good",
        (_, true) if !is_more_better => "good",
        (false, false) => "",
        _ => "bad",
    };
    html! { td class=(class) { (spread(Some(*ratio))) } }
}

fn errors(job: &JobResult, document: &Document) -> Markup {
    html! {
        @for server in &job.servers {
            @for (index, round) in server.rounds.iter().enumerate() {
                @if !round.errors.is_empty() {
                    p.warning {
                        (server.name)
                        @if document.rounds > 1 { ", round " (index + 1) }
                        ": "
                        @for (code, count) in &round.errors { (count) " " (code) " " }
                        @if let Some(first) = &round.first_error { "(first: " (first) ")" }
                    }
                }
            }
        }
    }
}
