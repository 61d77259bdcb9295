//! The progress of a migration: a bar for every step, and the end if somebody interrupts.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use keelson_storage::migrate::{MigrateProgress, MigrateStep};

use super::progress::bytes_bar;

/// The bar of the step that runs.
pub(super) struct MigrationBar {
    bar: Option<(MigrateStep, ProgressBar)>,
    /// Set when the tool is to end.
    interrupted: Arc<AtomicBool>,
}

impl MigrationBar {
    pub(super) fn new(interrupted: Arc<AtomicBool>) -> Self {
        Self {
            bar: None,
            interrupted,
        }
    }

    /// Shows how far it has come.
    pub(super) fn show(&mut self, now: MigrateProgress) -> ControlFlow<()> {
        if self.bar.as_ref().is_none_or(|(step, _)| *step != now.step) {
            self.finish();
            let bar = bytes_bar(name(now.step), now.total_bytes);
            self.bar = Some((now.step, bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(now.done_bytes);
        }
        if self.interrupted.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Takes the bar away.
    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn name(step: MigrateStep) -> &'static str {
    match step {
        MigrateStep::Read => "reading",
        MigrateStep::Write => "writing",
        MigrateStep::Hash => "hashing",
    }
}
