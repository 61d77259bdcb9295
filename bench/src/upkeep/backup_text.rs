//! What `backup` measured, for a terminal.

use super::backup::{BackupResult, BackupStep, Transfer};
use super::puts::Stretch;
use crate::report::{Table, number, ratio_spread, spec_text};

const MB: f64 = 1e6;
const HEAD: [&str; 10] = [
    "MB",
    "s",
    "MB/s",
    "probe MB/s",
    "of probe",
    "copy MB/s",
    "of copy",
    "puts/s",
    "p50 us",
    "p99 us",
];

impl BackupResult {
    /// A table of the steps, and their ratios.
    pub fn text(&self) -> String {
        let rounds = self.steps.iter().map(|step| step.round).max().unwrap_or(0);
        let mut out = format!(
            "backup: {} {}, {} keys with values of {} bytes\n  puts: {}\n  rounds: {rounds}, medians\n\n",
            self.name,
            self.version,
            self.key_count,
            self.value_bytes,
            spec_text(&self.spec)
        );
        let mut table = Table::default();
        table.row(std::iter::once("").chain(HEAD).map(str::to_owned));
        for name in self.step_names() {
            let cell = |of: &dyn Fn(&BackupStep) -> Option<f64>| {
                let spread = self.over_rounds(name, of);
                spread.map_or("-".to_owned(), |spread| number(spread.median))
            };
            let moved = |of: fn(&Transfer) -> f64| cell(&|step| step.transfer.as_ref().map(of));
            let puts = |of: fn(&Stretch) -> f64| cell(&|step| step.puts.as_ref().map(of));
            table.row([
                format!("    {name}"),
                moved(|transfer| transfer.bytes as f64 / MB),
                moved(|transfer| transfer.seconds),
                moved(|transfer| transfer.bytes_per_second / MB),
                moved(|transfer| transfer.probe_bytes_per_second / MB),
                moved(|transfer| transfer.probe_ratio),
                moved(|transfer| transfer.copy_bytes_per_second / MB),
                moved(|transfer| transfer.copy_ratio),
                puts(|puts| puts.operations_per_second),
                puts(|puts| puts.latency_us.p50),
                puts(|puts| puts.latency_us.p99),
            ]);
        }
        out += &table.render();
        out.push('\n');
        let mut table = Table::default();
        for (name, spread) in &self.ratios {
            table.row([format!("    {name}"), ratio_spread(Some(*spread))]);
        }
        out += &table.render();
        out
    }
}
