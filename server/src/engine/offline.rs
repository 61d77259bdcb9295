//! The state of a member that does not run, put together as its start would do it, and nothing written.

use std::sync::Arc;

use keelson_consensus::durable::Replay;
use keelson_consensus::node::{HardState, Mark};
use keelson_storage::dir::{StoppedDir, StoppedShard};
use keelson_storage::ids::Lsn;
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
    shard: &StoppedShard,
) -> Result<(Option<Snapshot>, Vec<String>), SnapshotError> {
    let Some(path) = dir.snapshots_path(shard.shard) else {
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

/// What the directory and its log say of a shard's past, for [`LostState::check_empty`]: `last` is its last record in a
/// lane that begins with `first`.
pub(crate) fn past_of(shard: &StoppedShard, first: Lsn, last: Lsn) -> (bool, bool) {
    let is_begun = match shard.is_written_down {
        true => last == Lsn(0),
        false => first > Lsn(1),
    };
    (is_begun, first == Lsn(1))
}

/// The state of a shard that a start would find.
///
/// # Errors
/// Those with which a start would be refused.
pub(crate) fn state_of(dir: &StoppedDir, shard: &StoppedShard) -> Result<State, EngineError> {
    let (snapshot, unfinished) = load_newest(dir, shard)?;
    let snapshot = snapshot.map(Arc::new);
    let mut replaying = Replaying {
        replay: replay_behind(snapshot.as_deref()),
        state: snapshot.map_or_else(State::new, State::from_snapshot),
        values: ValueReader::default(),
        last_lsn: Lsn(0),
        error: None,
    };
    let lane = dir.lane_path(shard.lane);
    let mut first_lsn = Lsn(1);
    if lane.is_dir() {
        let mut disk = ReadOnlyDisk::new(&lane);
        let report = read_lane(&mut disk, shard.lane, |lsn, record| {
            if record.shard == shard.shard {
                replaying.on_record(lsn, &record);
            }
        })?;
        first_lsn = report.first_lsn;
    }
    if let Some(error) = replaying.error {
        return Err(LostState::explain(error, &unfinished));
    }
    let past = past_of(shard, first_lsn, replaying.last_lsn);
    LostState::check_empty(&replaying.replay, past, &unfinished)?;
    replaying.replay.finish()?;
    Ok(replaying.state)
}

struct Replaying {
    replay: Replay,
    state: State,
    values: ValueReader,
    last_lsn: Lsn,
    /// The first record that made no sense; nothing after it is applied.
    error: Option<EngineError>,
}

impl Replaying {
    fn on_record(&mut self, lsn: Lsn, record: &WalRecord) {
        self.last_lsn = lsn;
        if self.error.is_none() {
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
