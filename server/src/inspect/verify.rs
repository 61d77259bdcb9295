//! `keelson inspect verify`: everything that a member relies on, compared with its checksums and its rules.
//!
//! A log is read from its start to the first damage: behind that its records cannot be told. Of a snapshot all damage
//! is found, values included, and if it and the log are sound, whether the log goes on where the snapshot ends. That is
//! done for every shard that the directory names.

use std::collections::BTreeSet;
use std::process::ExitCode;

use keelson_consensus::durable::Replay;
use keelson_storage::dir::{MAIN_SHARD_ID, StoppedDir, StoppedShard};
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
    let mut checked = Vec::new();
    for shard in dir.shards()? {
        checked.push(verify_snapshot(dir, shard, &mut findings)?);
    }
    let lanes = dir.lanes()?;
    for lane in &lanes {
        verify_lane(dir, *lane, &mut checked, &mut findings)?;
    }
    for lost in &checked {
        let lane = lost.shard.lane;
        if lost.shard.is_written_down && !lanes.contains(&lane) {
            let says = format!("the log of this shard, wal-{:04}, is not there", lane.0);
            findings.damage(&lost.shard.name, &says)?;
        }
    }
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

/// A shard whose snapshot was looked at, and its log as far as it is read.
struct Checked {
    shard: StoppedShard,
    /// Whether it can be told where the log must begin: not without the snapshot, if there was one.
    knows_start: bool,
    /// Paths of snapshot files that look unfinished, newer than the one that counts.
    unfinished: Vec<String>,
    replay: Replay,
    last_lsn: Lsn,
    /// The first record that made no sense; nothing after it is looked at.
    wrong: Option<EngineError>,
}

impl Checked {
    fn on_record(&mut self, lsn: Lsn, record: &WalRecord) {
        self.last_lsn = lsn;
        if self.wrong.is_none() && self.knows_start {
            self.wrong = check_record(&mut self.replay, record).err();
        }
    }

    /// What is wrong with the log, which begins in its lane at `first`, now that all of it was read.
    fn take_wrong(&mut self, first: Lsn) -> Option<EngineError> {
        let replay = std::mem::take(&mut self.replay);
        if self.wrong.is_none() && self.knows_start {
            let past = offline::past_of(&self.shard, first, self.last_lsn);
            let begins = LostState::check_empty(&replay, past, &self.unfinished);
            let ends = replay.finish().map_err(EngineError::from);
            self.wrong = begins.map_err(EngineError::from).and(ends).err();
        }
        let wrong = self.wrong.take()?;
        Some(LostState::explain(wrong, &self.unfinished))
    }
}

/// What a finding about a shard is headed with: for `main` its file alone.
fn heading(shard: &StoppedShard, about: &str) -> String {
    match shard.shard {
        MAIN_SHARD_ID => about.to_owned(),
        _ => format!("{}/{about}", shard.name),
    }
}

fn verify_snapshot(
    dir: &StoppedDir,
    shard: StoppedShard,
    findings: &mut Findings<'_>,
) -> anyhow::Result<Checked> {
    let damages_before = findings.damage_count;
    let (snapshot, unfinished) = find_snapshot(dir, &shard, findings)?;
    let has_files = dir.snapshots_path(shard.shard).is_some();
    let is_sound = findings.damage_count == damages_before;
    Ok(Checked {
        knows_start: snapshot.is_some() || !has_files || is_sound,
        replay: offline::replay_behind(snapshot.as_ref()),
        shard,
        unfinished,
        last_lsn: Lsn(0),
        wrong: None,
    })
}

/// The snapshot that counts, if its index is sound, and the paths of newer files that look unfinished.
fn find_snapshot(
    dir: &StoppedDir,
    shard: &StoppedShard,
    findings: &mut Findings<'_>,
) -> anyhow::Result<(Option<Snapshot>, Vec<String>)> {
    let about = |file: &str| heading(shard, file);
    let Some(path) = dir.snapshots_path(shard.shard) else {
        findings.sound(&about("snapshot"), "there is none yet")?;
        return Ok((None, Vec::new()));
    };
    let mut disk = ReadOnlyDisk::new(&path);
    let Listed { newest, unfinished } = match Snapshot::list(&mut disk) {
        Ok(listed) => listed,
        Err(error) => {
            findings.damage(&about("snapshot"), &error.to_string())?;
            return Ok((None, Vec::new()));
        }
    };
    let Some((file, entry)) = newest else {
        note_others(&mut disk, None, &about, findings)?;
        findings.sound(&about("snapshot"), "there is none yet")?;
        return Ok((None, unfinished));
    };
    let bar = bytes_bar("snapshot", entry.bytes);
    let survey = Survey::of(&mut disk, file, &entry, &mut |bytes, total| {
        bar.set_length(total);
        bar.inc(bytes);
    });
    bar.finish_and_clear();
    let counts = Some((entry.name.as_str(), survey.snapshot.as_ref()));
    note_others(&mut disk, counts, &about, findings)?;
    for damage in &survey.damages {
        findings.damage(&about(&entry.name), &damage.to_string())?;
    }
    let Some(snapshot) = survey.snapshot else {
        return Ok((None, unfinished));
    };
    if !entry
        .name
        .starts_with(&format!("{:08}.", snapshot.sequence().0))
    {
        let error = SnapshotError::ForeignFile {
            file: snapshot.path().to_owned(),
            problem: "it was written under another name",
        };
        findings.damage(&about(&entry.name), &error.to_string())?;
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
        findings.sound(&about(&entry.name), &says)?;
    }
    Ok((Some(snapshot), unfinished))
}

/// Says what becomes of the files beside the one that counts, which has this name.
fn note_others(
    disk: &mut ReadOnlyDisk,
    counts: Option<(&str, Option<&Snapshot>)>,
    about: &dyn Fn(&str) -> String,
    findings: &mut Findings<'_>,
) -> anyhow::Result<()> {
    let lends = |snapshot: &Snapshot, name: &str| {
        let mut lenders = snapshot.lenders().iter();
        lenders.any(|lender| lender.file_name() == name)
    };
    for entry in disk.list()? {
        let says = match counts {
            Some((counts, _)) if entry.name == counts => continue,
            Some((_, Some(snapshot))) if lends(snapshot, &entry.name) => {
                "the one that counts has values in it"
            }
            Some((counts, Some(_))) if entry.name.as_str() < counts => {
                "a newer one counts, and the next start removes this one"
            }
            Some((counts, None)) if entry.name.as_str() < counts => {
                "a newer one counts, which may have values in it"
            }
            _ => "it looks unfinished; if the log does without it, the next start removes it",
        };
        findings.note(&about(&entry.name), says)?;
    }
    Ok(())
}

/// Reads a lane, and with it the logs of its shards.
fn verify_lane(
    dir: &StoppedDir,
    lane: LaneId,
    checked: &mut [Checked],
    findings: &mut Findings<'_>,
) -> anyhow::Result<()> {
    let about = format!("wal-{:04}", lane.0);
    let mut disk = ReadOnlyDisk::new(&dir.lane_path(lane));
    let mut strangers = BTreeSet::new();
    let report = read_lane(&mut disk, lane, |lsn, record| {
        let mut known = checked.iter_mut();
        let its =
            |known: &&mut Checked| known.shard.lane == lane && known.shard.shard == record.shard;
        match known.find(its) {
            Some(known) => known.on_record(lsn, &record),
            None => drop(strangers.insert(record.shard)),
        }
    });
    let report = match report {
        Ok(report) => report,
        Err(error) => return findings.damage(&about, &error.to_string()),
    };
    let damages_before = findings.damage_count;
    for known in checked.iter_mut().filter(|known| known.shard.lane == lane) {
        if let Some(error) = known.take_wrong(report.first_lsn) {
            findings.damage(&heading(&known.shard, &about), &error.to_string())?;
        }
    }
    for shard in strangers {
        let says = format!(
            "it holds records of a shard with id {shard} that member/SHARDS does not name yet: its first start did not end"
        );
        findings.note(&about, &says)?;
    }
    if findings.damage_count == damages_before {
        let says = format!(
            "{} records in {} groups and {} segments, {} bytes",
            report.records, report.groups, report.segments, report.bytes_read
        );
        findings.sound(&about, &says)?;
    }
    if let TailReport::Cut { file, offset, .. } = &report.tail {
        let says = format!(
            "{file}: from byte {offset} on are the remains of writes that were interrupted and never \
             acknowledged; the next start cuts them off"
        );
        findings.note(&about, &says)?;
    }
    Ok(())
}

/// Whether a record continues the log, and its commands can be read.
fn check_record(replay: &mut Replay, record: &WalRecord) -> Result<(), EngineError> {
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
