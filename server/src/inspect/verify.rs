//! `keelson inspect verify`: everything that a member relies on, compared with its checksums and its rules.
//!
//! The log is read from its start to the first damage: behind that its records cannot be told. Of the snapshot all damage
//! is found, values included, and if it and the log are sound, whether the log goes on where the snapshot ends.

use std::process::ExitCode;

use keelson_storage::dir::{MAIN_SHARD_ID, StoppedDir};
use keelson_storage::ids::{LaneId, Lsn};
use keelson_storage::io::{Disk, ReadOnlyDisk};
use keelson_storage::recovery::{TailReport, read_lane};
use keelson_storage::snapshot::{Listed, Snapshot, SnapshotError, Survey};
use keelson_storage::state::{Request, decode_entry};
use keelson_storage::wal::{RecordKind, WalRecord};

use super::line::{Line, Printer};
use crate::backup::bytes_bar;
use crate::engine::{EngineError, LostState, offline};

/// What was found so far.
struct Findings<'a> {
    out: &'a mut Printer,
    damage_count: u64,
}

impl Findings<'_> {
    fn sound(&mut self, about: &str, says: &str) -> anyhow::Result<()> {
        self.print("ok", about, says)
    }

    fn note(&mut self, about: &str, says: &str) -> anyhow::Result<()> {
        self.print("note", about, says)
    }

    fn damage(&mut self, about: &str, says: &str) -> anyhow::Result<()> {
        self.damage_count += 1;
        self.print("damage", about, says)
    }

    fn print(&mut self, level: &'static str, about: &str, says: &str) -> anyhow::Result<()> {
        let line = Line::new(level).with("about", about).with("says", says);
        Ok(self.out.print(&line)?)
    }
}

pub(super) fn verify(dir: &StoppedDir, out: &mut Printer) -> anyhow::Result<ExitCode> {
    let mut findings = Findings {
        out,
        damage_count: 0,
    };
    let found = verify_snapshot(dir, &mut findings)?;
    verify_log(dir, &found, &mut findings)?;
    let damage_count = findings.damage_count;
    let says = match damage_count {
        0 => "everything is as it was written".to_owned(),
        count => format!("damaged places: {count}"),
    };
    let line = Line::new("end")
        .with("damages", damage_count)
        .with("says", says);
    out.print(&line)?;
    Ok(ExitCode::from(u8::from(damage_count > 0)))
}

/// What the log is compared with.
#[derive(Default)]
struct FoundSnapshot {
    /// The snapshot, if its index is sound.
    snapshot: Option<Snapshot>,
    /// Paths of newer files that look unfinished.
    unfinished: Vec<String>,
}

fn verify_snapshot(dir: &StoppedDir, findings: &mut Findings<'_>) -> anyhow::Result<FoundSnapshot> {
    let Some(path) = dir.snapshots_path(MAIN_SHARD_ID) else {
        findings.sound("snapshot", "there is none yet")?;
        return Ok(FoundSnapshot::default());
    };
    let mut disk = ReadOnlyDisk::new(&path);
    let Listed { newest, unfinished } = match Snapshot::list(&mut disk) {
        Ok(listed) => listed,
        Err(error) => {
            findings.damage("snapshot", &error.to_string())?;
            return Ok(FoundSnapshot::default());
        }
    };
    let nothing = |unfinished| FoundSnapshot {
        snapshot: None,
        unfinished,
    };
    let counts = newest.as_ref().map(|(_, entry)| entry.name.clone());
    for entry in disk.list()? {
        let says = match &counts {
            Some(counts) if entry.name == *counts => continue,
            Some(counts) if entry.name < *counts => {
                "a newer one counts, and the next start removes this one"
            }
            _ => "it looks unfinished; if the log does without it, the next start removes it",
        };
        findings.note(&entry.name, says)?;
    }
    let Some((file, entry)) = newest else {
        findings.sound("snapshot", "there is none yet")?;
        return Ok(nothing(unfinished));
    };
    let bar = bytes_bar("snapshot", entry.bytes);
    let survey = Survey::of(&mut disk, file, &entry, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    for damage in &survey.damages {
        findings.damage(&entry.name, &damage.to_string())?;
    }
    let Some(snapshot) = survey.snapshot else {
        return Ok(nothing(unfinished));
    };
    if !entry
        .name
        .starts_with(&format!("{:08}.", snapshot.sequence().0))
    {
        let error = SnapshotError::ForeignFile {
            file: snapshot.path().to_owned(),
            problem: "it was written under another name",
        };
        findings.damage(&entry.name, &error.to_string())?;
    }
    if survey.damages.is_empty() {
        let says = format!(
            "{} keys, {} versions, {} bytes of index and {} bytes of values, at revision {}",
            snapshot.key_count(),
            snapshot.version_count(),
            snapshot.index_bytes(),
            survey.value_bytes,
            snapshot.meta().revision
        );
        findings.sound(&entry.name, &says)?;
    }
    Ok(FoundSnapshot {
        snapshot: Some(snapshot),
        unfinished,
    })
}

fn verify_log(
    dir: &StoppedDir,
    found: &FoundSnapshot,
    findings: &mut Findings<'_>,
) -> anyhow::Result<()> {
    // The log of `main` is put together; without its snapshot nobody can tell where it must begin.
    let has_snapshot_files = dir.snapshots_path(MAIN_SHARD_ID).is_some();
    let snapshot = found.snapshot.as_ref();
    let knows_start = snapshot.is_some() || !has_snapshot_files || findings.damage_count == 0;
    for lane in dir.lanes()? {
        let about = format!("wal-{:04}", lane.0);
        let mut disk = ReadOnlyDisk::new(&dir.lane_path(lane));
        let mut replay = offline::replay_behind(snapshot);
        let mut wrong: Option<EngineError> = None;
        let report = read_lane(&mut disk, lane, |_, record| {
            let is_main = lane == LaneId(0) && record.shard == MAIN_SHARD_ID;
            if wrong.is_none() && is_main && knows_start {
                wrong = check_record(&mut replay, &record).err();
            }
        });
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                findings.damage(&about, &error.to_string())?;
                continue;
            }
        };
        if wrong.is_none() && knows_start && lane == LaneId(0) {
            let begins = LostState::check_empty(
                &replay,
                (report.first_lsn > Lsn(1), report.first_lsn == Lsn(1)),
                &found.unfinished,
            );
            let ends = replay.finish().map_err(EngineError::from);
            wrong = begins.map_err(EngineError::from).and(ends).err();
        }
        match wrong.map(|error| LostState::explain(error, &found.unfinished)) {
            Some(error) => findings.damage(&about, &error.to_string())?,
            None => {
                let says = format!(
                    "{} records in {} groups and {} segments, {} bytes",
                    report.records, report.groups, report.segments, report.bytes_read
                );
                findings.sound(&about, &says)?;
            }
        }
        if let TailReport::Cut { file, offset, .. } = &report.tail {
            let says = format!(
                "{file}: from byte {offset} on are the remains of writes that were interrupted and never \
                 acknowledged; the next start cuts them off"
            );
            findings.note(&about, &says)?;
        }
    }
    Ok(())
}

/// Whether a record continues the log, and its commands can be read.
fn check_record(
    replay: &mut keelson_consensus::durable::Replay,
    record: &WalRecord,
) -> Result<(), EngineError> {
    replay.on_record(record.clone())?;
    while replay.take_committed().is_some() {}
    match record.kind {
        RecordKind::HardState | RecordKind::LogStart => {}
        RecordKind::Entry | RecordKind::Membership => {
            if record.payload.is_empty() {
                return Ok(());
            }
            let wrong = |source| EngineError::Command {
                index: record.index,
                source,
            };
            let (_, commands) = decode_entry(&record.payload).map_err(wrong)?;
            for command in commands {
                Request::decode(command.kind, &command.body).map_err(wrong)?;
            }
        }
    }
    Ok(())
}
