//! The profile that is written: TOML for `keelson --profile FILE`, with the figures behind each value.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::knob::Knob;
use super::search::{Found, Search, Settled};
use crate::disk::{Cell, DiskResult, Figures};
use crate::job::JobSpec;
use crate::machine::Machine;
use crate::report::{Table, number};

/// What the figures were taken on.
pub struct Origin<'a> {
    /// The folder on the disk that was measured.
    pub data_dir: &'a str,
    pub machine: &'a Machine,
    pub probe: &'a DiskResult,
    /// When, as RFC 3339.
    pub written: &'a str,
}

/// The profile's text.
pub fn text(origin: &Origin<'_>, search: &Search<'_>, found: &Found) -> String {
    let mut out = String::new();
    comment(&mut out, &head(origin, search, found));
    let summary = format!(
        "Tuned by keelson-bench for {}: {} on {}, {} CPUs",
        origin.data_dir,
        origin.machine.filesystem.kind,
        origin.machine.filesystem.source,
        search.around.online.len()
    );
    line(&mut out, &format!("\nsummary = {}", quoted(&summary)));

    line(&mut out, "");
    reasons(&mut out, found, &[Knob::CoreCount, Knob::EngineCore]);
    let cores = search.around.cores_text(&found.setup.cores);
    line(&mut out, &format!("cores = {}", quoted(&cores)));

    let wal = &found.setup.tuning.wal;
    line(&mut out, "\n[wal]");
    reasons(&mut out, found, &[Knob::Depth]);
    line(&mut out, &format!("depth = {}", wal.depth));
    reasons(&mut out, found, &[Knob::GroupDelay]);
    line(
        &mut out,
        &format!("group_delay_us = {}", wal.group_delay_us),
    );
    reasons(&mut out, found, &[Knob::GroupBytes]);
    line(
        &mut out,
        &format!("group_bytes_max = {}", wal.group_bytes_max),
    );
    out
}

fn head(origin: &Origin<'_>, search: &Search<'_>, found: &Found) -> String {
    let each = |figure: fn(&JobSpec) -> u64| {
        let values: BTreeSet<u64> = search.loads.iter().map(figure).collect();
        let texts: Vec<String> = values.iter().map(u64::to_string).collect();
        texts.join(", ")
    };
    let (ramp, runtime) = search
        .loads
        .first()
        .map_or((0, 0), |load| (load.ramp_time_ms, load.runtime_ms));
    let mut text = format!(
        "Written by keelson-bench tune, {}, for keelson {}. Use it with: keelson --profile FILE\n\n{}\n\n",
        origin.written, found.version, origin.machine
    );
    for warning in origin.machine.warnings() {
        text += &format!("WARNING  {warning}\n\n");
    }
    text += &format!(
        "The disk without a server, written as the log writes (`keelson-bench disk` tells more):\n{}\n",
        disk_table(&origin.probe.runs)
    );
    text += &format!(
        "Loads: puts of {} bytes with {} in flight; {runtime} ms each after {ramp} ms, on a fresh\n\
         member for each value, {} round(s) in alternating order. Figures are geometric means over the\n\
         loads and medians over the rounds; gain is puts/s over those of the first value, with\n\
         (min .. max) over the rounds. The default, which is the first of each list, stays unless a value\n\
         is better in every round, and in the median by {:.0} % and by half of that spread. The load\n\
         generator ran on the same CPUs.\n",
        each(|load| load.value_bytes),
        each(|load| u64::from(load.iodepth)),
        search.rounds,
        search.gain_min * 100.0,
    );
    text += &match &found.check {
        Some(check) => format!("\n{}", check.text()),
        None => "\nAll of these are the defaults.".to_owned(),
    };
    text
}

fn disk_table(runs: &[Figures]) -> String {
    let mut table = Table::default();
    table.row(["  bs", "iodepth", "IOPS", "MB/s", "p50 us", "p99 us"].map(str::to_owned));
    for run in runs {
        let Cell {
            bs_bytes, iodepth, ..
        } = run.cell;
        table.row([
            format!("  {}k", bs_bytes >> 10),
            iodepth.to_string(),
            number(run.iops),
            number(run.bytes_per_second / 1e6),
            number(run.latency_us.p50),
            number(run.latency_us.p99),
        ]);
    }
    table.render()
}

/// What settled these knobs, as comments.
fn reasons(out: &mut String, found: &Found, knobs: &[Knob]) {
    for knob in knobs {
        let is_asked = |settled: &&Settled| settled.question == knob.name();
        match found.settled.iter().find(is_asked) {
            Some(settled) => comment(out, &settled.text()),
            None => comment(out, &format!("{}: nothing to choose here", knob.name())),
        }
    }
}

fn comment(out: &mut String, text: &str) {
    for text in text.lines() {
        line(out, format!("# {text}").trim_end());
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a string does not fail");
}

/// A TOML string of one line; its escapes are those of JSON.
fn quoted(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    serde_json::Value::from(line).to_string()
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod profile_tests;
