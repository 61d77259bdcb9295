//! What `maintain` measured, for a terminal.

use super::maintain::{DURING, MaintainResult, MaintainRound, Maintained, QUIET};
use super::puts::{STRETCH_FIGURES, Stretch};
use crate::report::{Table, number, ratio_spread, spec_text};
use crate::stats::Spread;

const MIB: f64 = (1 << 20) as f64;
const HEAD: [&str; 6] = [
    "puts/s", "p50 us", "p99 us", "p99.9 us", "max us", "work, s",
];

impl MaintainResult {
    /// A table for each server, and its ratios.
    pub fn text(&self) -> String {
        let order = if self.at_once {
            "at once"
        } else {
            "one after the other"
        };
        let mut out = format!(
            "maintain: {}\n  beside them a compaction of at least {} revisions and {} defrags, {order}\n",
            spec_text(&self.spec),
            self.revisions,
            self.defrags
        );
        for server in &self.servers {
            out += &server.text();
        }
        out
    }
}

impl Maintained {
    fn text(&self) -> String {
        let rounds = self.rounds.len();
        let mut out = format!(
            "\n  {} {}: rounds: {rounds}, medians\n\n",
            self.name, self.version
        );
        let mut table = Table::default();
        table.row(std::iter::once("").chain(HEAD).map(str::to_owned));
        for name in self.stretch_names() {
            let median =
                |of: &dyn Fn(&Stretch) -> f64| self.median(&|round| round.stretch(name).map(of));
            let figures = STRETCH_FIGURES.iter().map(|(_, _, of)| median(of));
            let seconds = median(&|stretch| stretch.work_seconds);
            table.row(
                std::iter::once(format!("    {name}"))
                    .chain(figures)
                    .chain([seconds]),
            );
        }
        let ratios = STRETCH_FIGURES.iter().map(|(_, name, _)| {
            let spread = self.ratios.get(*name);
            spread.map_or("-".to_owned(), |spread| number(spread.median))
        });
        table.row(std::iter::once(format!("    {DURING} / {QUIET}")).chain(ratios));
        out += &table.render();
        out += &format!(
            "\n    p99 {DURING} / {QUIET}: {}\n",
            ratio_spread(self.ratios.get("p99_ratio").copied())
        );
        out += &format!(
            "    compaction of {} versions: {} s; defrag: {} s; files: {} MiB before, {} MiB after\n",
            self.median(&|round| Some(round.versions_compacted as f64)),
            self.median(&|round| Some(round.compaction_seconds)),
            self.median(&|round| Some(Spread::over(round.defrag_seconds.clone())?.median)),
            self.median(&|round| Some(round.data_bytes_before as f64 / MIB)),
            self.median(&|round| Some(round.data_bytes_after as f64 / MIB)),
        );
        let errors: Vec<String> = self.errors();
        out += &match &errors[..] {
            [] => "    errors: none\n".to_owned(),
            errors => format!("    errors: {}\n", errors.join(", ")),
        };
        out
    }

    fn stretch_names(&self) -> Vec<&str> {
        let first = self.rounds.first();
        let stretches = first.iter().flat_map(|round| &round.stretches);
        stretches.map(|stretch| stretch.name.as_str()).collect()
    }

    fn median(&self, of: &dyn Fn(&MaintainRound) -> Option<f64>) -> String {
        let spread = Spread::over(self.rounds.iter().filter_map(of));
        spread.map_or("-".to_owned(), |spread| number(spread.median))
    }

    fn errors(&self) -> Vec<String> {
        let stretches = self.rounds.iter().flat_map(|round| &round.stretches);
        let counted = stretches.filter(|stretch| stretch.name != DURING);
        let errors = counted.flat_map(|stretch| {
            let named =
                |(code, count): (&String, &u64)| format!("{count} {code} ({})", stretch.name);
            stretch.errors.iter().map(named)
        });
        errors.collect()
    }
}
