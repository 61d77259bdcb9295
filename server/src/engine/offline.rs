//! The state of a member that does not run, put together as its start would do it, and nothing written.

use std::sync::Arc;

use keelson_consensus::durable::Replay;
use keelson_consensus::node::{HardState, Mark};
use keelson_storage::dir::{MAIN_SHARD_ID, StoppedDir};
use keelson_storage::ids::{LaneId, Lsn};
use keelson_storage::io::ReadOnlyDisk;
use keelson_storage::mvcc::Record;
use keelson_storage::recovery::read_lane;
use keelson_storage::snapshot::{Listed, Snapshot, SnapshotError, ValueReader};
use keelson_storage::state::State;
use keelson_storage::wal::WalRecord;

use super::apply::replay_committed;
use super::lost::LostState;
use super::shard::EngineError;

/// The snapshot that counts, loaded; none before the first checkpoint. And the paths of newer files that look unfinished.
pub(crate) fn load_newest(
    dir: &StoppedDir,
) -> Result<(Option<Snapshot>, Vec<String>), SnapshotError> {
    let Some(path) = dir.snapshots_path(MAIN_SHARD_ID) else {
        return Ok((None, Vec::new()));
    };
    let mut disk = ReadOnlyDisk::new(&path);
    let Listed { newest, unfinished } = Snapshot::list(&mut disk)?;
    let snapshot = newest
        .map(|(file, entry)| Snapshot::load(&mut disk, file, &entry))
        .transpose()?;
    Ok((snapshot, unfinished))
}

/// The log as it goes on behind a snapshot.
pub(crate) fn replay_behind(snapshot: Option<&Snapshot>) -> Replay {
    snapshot.map_or_else(Replay::default, |snapshot| {
        let meta = snapshot.meta();
        let hard_state = HardState {
            term: meta.hard_state.term,
            vote: meta.hard_state.vote,
            commit: meta.applied.index,
        };
        let mark = Mark {
            index: meta.applied.index,
            term: meta.applied.term,
        };
        Replay::after_snapshot(hard_state, mark)
    })
}

/// The state that a start would find.
///
/// # Errors
/// Those with which a start would be refused.
pub(crate) fn state_of(dir: &StoppedDir) -> Result<State, EngineError> {
    let (snapshot, unfinished) = load_newest(dir)?;
    let snapshot = snapshot.map(Arc::new);
    let mut replaying = Replaying {
        replay: replay_behind(snapshot.as_deref()),
        state: snapshot.map_or_else(State::new, State::from_snapshot),
        values: ValueReader::default(),
        error: None,
    };
    let lane = dir.lane_path(LaneId(0));
    let mut first_lsn = Lsn(1);
    if lane.is_dir() {
        let mut disk = ReadOnlyDisk::new(&lane);
        let report = read_lane(&mut disk, LaneId(0), |lsn, record| {
            replaying.on_record(lsn, &record);
        })?;
        first_lsn = report.first_lsn;
    }
    if let Some(error) = replaying.error {
        return Err(LostState::explain(error, &unfinished));
    }
    let is_trimmed = first_lsn > Lsn(1);
    let past = (is_trimmed, !is_trimmed);
    LostState::check_empty(&replaying.replay, past, &unfinished)?;
    replaying.replay.finish()?;
    Ok(replaying.state)
}

struct Replaying {
    replay: Replay,
    state: State,
    values: ValueReader,
    /// The first record that made no sense; nothing after it is applied.
    error: Option<EngineError>,
}

impl Replaying {
    fn on_record(&mut self, _: Lsn, record: &WalRecord) {
        if self.error.is_none() && record.shard == MAIN_SHARD_ID {
            self.error = self.apply(record).err();
        }
    }

    fn apply(&mut self, record: &WalRecord) -> Result<(), EngineError> {
        self.replay.on_record(record.clone())?;
        let values = &mut self.values;
        // Who looks into a directory does not know whose it is.
        let decides_alone = |state: &State| state.cluster().voters().count() <= 1;
        let (replay, state) = (&mut self.replay, &mut self.state);
        replay_committed(replay, state, decides_alone, |record| load(values, record))
    }
}

/// The whole of a cold record.
fn load(values: &mut ValueReader, record: Record) -> Result<Record, SnapshotError> {
    match (record.place(), record.snapshot()) {
        (Some(place), Some(snapshot)) => {
            let value = values.read(snapshot, place)?;
            Ok(record.with_value(&value))
        }
        _ => Ok(record),
    }
}
