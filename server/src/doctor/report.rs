//! What was found, for people and for programs.

use std::fmt::Write as _;

use keelson_tuning::doctor::{Finding, Level, can_start};
use serde_json::json;

use crate::cli::Output;
use crate::config::Notice;

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Everything that was looked at, in order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether a member can start.
    pub fn can_start(&self) -> bool {
        can_start(&self.findings)
    }

    /// The report with what is to be said about the configuration.
    pub fn text(&self, output: Output, notices: &[Notice]) -> String {
        match output {
            Output::Json => self.as_json(notices),
            Output::Text | Output::Yaml => self.as_text(notices),
        }
    }

    fn as_text(&self, notices: &[Notice]) -> String {
        let mut out = String::new();
        for notice in notices {
            let _infallible = writeln!(out, "{}", notice.text);
        }
        for finding in &self.findings {
            let Finding { about, says, .. } = finding;
            let _infallible = writeln!(out, "{:<5}  {about:<14}  {says}", word(finding.level));
            let steps = [
                ("change", finding.change.as_deref()),
                ("run", finding.command.as_deref()),
                ("file", finding.file),
            ];
            for (label, step) in steps {
                if let Some(step) = step {
                    let _infallible = writeln!(out, "{:23}{label}: {step}", "");
                }
            }
        }
        let count = |level| {
            let of_level = self
                .findings
                .iter()
                .filter(|finding| finding.level == level);
            of_level.count()
        };
        let verdict = if self.can_start() {
            "A member can start here".to_owned()
        } else {
            format!("A member cannot start here: {} fatal", count(Level::Fatal))
        };
        let (warnings, notes) = (count(Level::Warn), count(Level::Note));
        let _infallible = writeln!(out, "\n{verdict}; warnings: {warnings}, notes: {notes}.");
        out
    }

    fn as_json(&self, notices: &[Notice]) -> String {
        let notices: Vec<&str> = notices.iter().map(|notice| &*notice.text).collect();
        let document = json!({
            "can_start": self.can_start(),
            "findings": self.findings,
            "notices": notices,
        });
        format!("{document:#}\n")
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Warn => "warn",
        Level::Fatal => "fatal",
    }
}
