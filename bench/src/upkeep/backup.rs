//! `backup`: how fast a checkpoint, a backup and a restore are beside the disk's own rate, and what the
//! latter two cost clients.
//!
//! ```text
//!   fill, rest | probe, checkpoint | probe, save | probe, restore | quiet puts
//!              | puts + save | puts without | puts + restore | puts without
//! ```
//!
//! Save and restore are commands of Keelson's program, timed as an operator would see them: the save
//! includes the checkpoint that the member makes for it, the restore the verification of every byte.
//! The probe is the disk's sequential rate just before; no step can beat it for long. All three steps read from the disk
//! as much as they write to it, so the disk's rate of copies is what they can reach.
//!
//! A backup beside puts takes minutes, in which a member that is flooded makes checkpoints, too. So what it costs is told
//! twice: over puts in a few quiet seconds, and over puts for as long without it. The history is compacted before each of
//! them, so that all begin alike.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::filling::{fill, set, shipped};
use super::member::{Member, compact, contents, defragment, ensure_room};
use super::puts::{Puts, Stretch};
use super::tool::timed;
use crate::cli::{BackupOptions, ServerKind};
use crate::disk;
use crate::interrupt::Interrupt;
use crate::job::JobSpec;
use crate::machine::Machine;
use crate::outcome::{Ending, deliver};
use crate::report::{Document, spinner};
use crate::server::{Launch, forget_removed};
use crate::stats::Spread;

/// The file that the probe writes over: as large as the data, within these bounds.
const PROBE_FILE_BYTES: (u64, u64) = (64 << 20, 1 << 30);
const PROBE_TIME: Duration = Duration::from_secs(2);
/// Copies of the data that are there at once: the snapshot, the next one, the backup, what is restored.
const COPIES: u64 = 4;

/// What the command measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupResult {
    pub name: String,
    pub version: String,
    pub key_count: u64,
    pub value_bytes: u64,
    pub fill_seconds: f64,
    /// The puts.
    pub spec: JobSpec,
    /// Over the rounds, by the names of the steps: `checkpoint_probe_ratio`, `save_beside_puts_p99_ratio`.
    pub ratios: BTreeMap<String, Spread>,
    pub steps: Vec<BackupStep>,
}

/// One step of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupStep {
    pub name: String,
    /// From 1.
    pub round: u32,
    /// The bytes that were moved, if any were.
    pub transfer: Option<Transfer>,
    /// The puts, if there were any.
    pub puts: Option<Stretch>,
    /// Their p99 over that of the quiet ones of the same round.
    pub p99_ratio: Option<f64>,
    /// Their p99 over that of puts for as long without the work beside them.
    pub p99_without_ratio: Option<f64>,
}

/// Bytes that were moved, beside what the disk can take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Transfer {
    pub bytes: u64,
    pub seconds: f64,
    pub bytes_per_second: f64,
    /// Durable writes of 1 MiB, four in flight, before the step.
    pub probe_bytes_per_second: f64,
    pub probe_ratio: f64,
    /// Copies of 1 MiB, four in flight, before the step.
    pub copy_bytes_per_second: f64,
    pub copy_ratio: f64,
}

/// The filled member and what its steps need.
struct Steps<'a> {
    member: Member,
    launch: &'a Launch,
    parent: &'a Path,
    puts: &'a Puts,
    probe_file_bytes: u64,
    round: u32,
    /// The last probe.
    probe_bytes_per_second: f64,
    copy_bytes_per_second: f64,
}

/// Runs the command.
pub async fn run(options: &BackupOptions, interrupt: &Interrupt) -> Result<Ending> {
    let parent = options.start.data_parent()?;
    ensure_room(&parent, COPIES * options.data_bytes)?;
    let launch = options.start.launch(ServerKind::Keelson)?;
    let puts = Puts::new(options.overrides.settings())?;
    let key_count = (options.data_bytes / options.data_value_bytes).max(1);
    let filling = shipped(
        "range-point",
        &[
            set("key_count", key_count),
            set("value_bytes", options.data_value_bytes),
        ],
    )?;
    let mut document = Document::new("backup", Machine::facts(&parent), 1, options.rounds);
    disk::quote(&mut document, &parent, interrupt).await;
    let mut result = BackupResult {
        name: launch.name.clone(),
        version: String::new(),
        key_count,
        value_bytes: options.data_value_bytes,
        fill_seconds: 0.0,
        spec: puts.spec().clone(),
        ratios: BTreeMap::new(),
        steps: Vec::new(),
    };
    let work = async {
        let member = Member::start(&launch, &parent).await?;
        member.version().clone_into(&mut result.version);
        result.fill_seconds = fill(member.name(), member.address(), &filling).await?;
        let (least, most) = PROBE_FILE_BYTES;
        let mut steps = Steps {
            member,
            launch: &launch,
            parent: &parent,
            puts: &puts,
            probe_file_bytes: options.data_bytes.clamp(least, most),
            round: 0,
            probe_bytes_per_second: 0.0,
            copy_bytes_per_second: 0.0,
        };
        for round in 1..=options.rounds {
            steps.round = round;
            steps.all(&mut result.steps).await?;
        }
        steps.member.stop().await
    };
    let outcome = interrupt.or(work).await.unwrap_or(Ok(()));
    if !result.steps.is_empty() {
        result.summarize();
        document.backup.push(result);
    }
    deliver(document, &options.output, outcome, interrupt)
}

impl Steps<'_> {
    async fn all(&mut self, steps: &mut Vec<BackupStep>) -> Result<()> {
        let address = self.member.address();
        let folder = self.folder()?;
        let file = folder.path().join("backup.db");

        self.probe().await?;
        let before = self.member.usage()?.written_bytes;
        let bar = spinner(format!("checkpoint, round {}", self.round));
        let seconds = defragment(address).await?;
        bar.finish_and_clear();
        let written_bytes = self.member.usage()?.written_bytes - before;
        steps.push(self.step("checkpoint", Some((written_bytes, seconds)), None));

        self.probe().await?;
        let bar = spinner(format!("save, round {}", self.round));
        let seconds = timed(self.save(&file)).await?;
        bar.finish_and_clear();
        let file_bytes = length(&file)?;
        steps.push(self.step("save", Some((file_bytes, seconds)), None));

        self.probe().await?;
        let bar = spinner(format!("restore, round {}", self.round));
        let restored = self.folder()?;
        let seconds = timed(self.restore(&file, restored.path())).await?;
        bar.finish_and_clear();
        steps.push(self.step("restore", Some((file_bytes, seconds)), None));
        drop(restored);
        fs::remove_file(&file).context("cannot remove the backup")?;
        forget_removed(self.parent)?;
        self.member.settle().await?;
        self.beside_puts(&file, steps).await
    }

    async fn beside_puts(&mut self, file: &Path, steps: &mut Vec<BackupStep>) -> Result<()> {
        self.begin_anew().await?;
        let address = self.member.address();
        let quiet = self.puts.quiet(address, self.member.name()).await?;
        let quiet = Stretch::new("quiet", [(quiet.seconds, &quiet.tally)])?;
        let quiet_p99_us = quiet.latency_us.p99;
        steps.push(self.step("quiet", None, Some(quiet)));
        let from = steps.len();

        let save = self.save(file);
        let names = ("save beside puts", "without save");
        steps.extend(self.with_and_without(names, save, file).await?);

        let restored_to = self.folder()?;
        let restore = self.restore(file, restored_to.path());
        let names = ("restore beside puts", "without restore");
        steps.extend(self.with_and_without(names, restore, file).await?);
        for step in &mut steps[from..] {
            step.p99_ratio = step.p99_us().map(|p99_us| p99_us / quiet_p99_us);
        }
        Ok(())
    }

    /// Puts beside a command, and then for as long without it.
    async fn with_and_without(
        &mut self,
        names: (&str, &str),
        command: Command,
        file: &Path,
    ) -> Result<[BackupStep; 2]> {
        self.begin_anew().await?;
        let (address, round) = (self.member.address(), self.round);
        let what = |name: &str| format!("{name}, round {round}");
        let work = timed(command);
        let with = self.puts.beside(address, what(names.0), work).await?;
        let seconds = with.outcome;
        let moved = (length(file)?, seconds);
        let puts = Stretch::new(names.0, [(seconds, &with.tally)])?;
        let mut with = self.step(names.0, Some(moved), Some(puts));

        self.begin_anew().await?;
        let time = Duration::from_secs_f64(seconds);
        let without = self.puts.alone(address, what(names.1), time).await?;
        let puts = Stretch::new(names.1, [(without.seconds, &without.tally)])?;
        with.p99_without_ratio = with.p99_us().map(|p99_us| p99_us / puts.latency_us.p99);
        Ok([with, self.step(names.1, None, Some(puts))])
    }

    /// Compacts the history that puts have made, and waits until the member rests.
    async fn begin_anew(&mut self) -> Result<()> {
        let address = self.member.address();
        let (_, revision) = contents(address).await?;
        compact(address, revision).await?;
        self.member.settle().await?;
        Ok(())
    }

    /// Waits until the disk is left alone, and asks what it can take.
    async fn probe(&mut self) -> Result<()> {
        self.member.settle().await?;
        let bar = spinner("disk probe".to_owned());
        let rates = disk::probe_sequential(self.parent, self.probe_file_bytes, PROBE_TIME).await;
        bar.finish_and_clear();
        (self.probe_bytes_per_second, self.copy_bytes_per_second) = rates?;
        Ok(())
    }

    fn save(&self, file: &Path) -> Command {
        let mut command = Command::new(&self.launch.binary);
        command.args(["snapshot", "save"]).arg(file);
        command.args(["--endpoints", &self.member.address().to_string()]);
        command
    }

    fn restore(&self, file: &Path, folder: &Path) -> Command {
        let mut command = Command::new(&self.launch.binary);
        command.args(["snapshot", "restore"]).arg(file);
        command.arg("--data-dir").arg(folder.join("data"));
        command
    }

    fn step(&self, name: &str, moved: Option<(u64, f64)>, puts: Option<Stretch>) -> BackupStep {
        let transfer = moved.map(|(bytes, seconds)| {
            let bytes_per_second = bytes as f64 / seconds;
            Transfer {
                bytes,
                seconds,
                bytes_per_second,
                probe_bytes_per_second: self.probe_bytes_per_second,
                probe_ratio: bytes_per_second / self.probe_bytes_per_second,
                copy_bytes_per_second: self.copy_bytes_per_second,
                copy_ratio: bytes_per_second / self.copy_bytes_per_second,
            }
        });
        BackupStep {
            name: name.to_owned(),
            round: self.round,
            transfer,
            puts,
            p99_ratio: None,
            p99_without_ratio: None,
        }
    }

    fn folder(&self) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        let folder = builder
            .prefix("keelson-bench-backup-")
            .tempdir_in(self.parent);
        folder.with_context(|| format!("cannot use {}", self.parent.display()))
    }
}

impl BackupStep {
    fn p99_us(&self) -> Option<f64> {
        self.puts.as_ref().map(|puts| puts.latency_us.p99)
    }
}

impl BackupResult {
    /// The puts of all steps.
    pub fn stretches(&self) -> impl Iterator<Item = (&str, &Stretch)> {
        let stretches = self.steps.iter().filter_map(|step| step.puts.as_ref());
        stretches.map(|stretch| (self.name.as_str(), stretch))
    }

    /// The steps in their order, each name once.
    pub fn step_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for step in &self.steps {
            if !names.contains(&step.name.as_str()) {
                names.push(&step.name);
            }
        }
        names
    }

    /// A figure of the steps of one name, over the rounds.
    pub fn over_rounds(
        &self,
        name: &str,
        of: impl Fn(&BackupStep) -> Option<f64>,
    ) -> Option<Spread> {
        let steps = self.steps.iter().filter(|step| step.name == name);
        Spread::over(steps.filter_map(of))
    }

    fn summarize(&mut self) {
        let mut ratios = BTreeMap::new();
        for name in self.step_names() {
            let word = name.replace(' ', "_");
            let of_probe = self.over_rounds(name, |step| Some(step.transfer.as_ref()?.probe_ratio));
            let of_copy = self.over_rounds(name, |step| Some(step.transfer.as_ref()?.copy_ratio));
            let of_quiet = self.over_rounds(name, |step| step.p99_ratio);
            let of_without = self.over_rounds(name, |step| step.p99_without_ratio);
            ratios.extend(of_probe.map(|spread| (format!("{word}_probe_ratio"), spread)));
            ratios.extend(of_copy.map(|spread| (format!("{word}_copy_ratio"), spread)));
            ratios.extend(of_quiet.map(|spread| (format!("{word}_p99_ratio"), spread)));
            let word = format!("{word}_p99_without_ratio");
            ratios.extend(of_without.map(|spread| (word, spread)));
        }
        self.ratios = ratios;
    }
}

fn length(file: &Path) -> Result<u64> {
    let meta = fs::metadata(file);
    let meta = meta.with_context(|| format!("cannot look at {}", file.display()))?;
    Ok(meta.len())
}
