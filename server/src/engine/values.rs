//! Values that are on the disk: reading them for whoever needs them.
//!
//! The index of the snapshot is in memory, its values are not. A version of it is handed out as a cold
//! record, and whoever sends it somewhere has it made whole first: a front asks for the values of the
//! records it is about to encode ([`Ask::Load`](super::message::Ask::Load)), the engine itself for what
//! it publishes, and for commands whose outcome depends on a value. Nobody waits for the disk here: a
//! reader that finds a value missing is looked at again when blocks have arrived.

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::TxnRequest;
use keelson_storage::io::Disk;
use keelson_storage::mvcc::Record;
use keelson_storage::snapshot::SnapshotError;

use super::message::Answer;
use super::shard::{Engine, EngineError, Origin};

/// Records that somebody wants whole.
#[derive(Debug)]
pub(super) struct Loading {
    origin: Origin,
    records: Vec<Record>,
    /// A transaction that needs them to be read; the records themselves, where there is none.
    txn: Option<TxnRequest>,
    /// What its asker hears if a value cannot be read.
    refusal: ApiError,
}

impl<D: Disk> Engine<D> {
    /// Makes records whole, now or when their values have been read.
    pub(super) fn load(&mut self, origin: Origin, records: Vec<Record>, refusal: ApiError) {
        self.advance_loading(Loading {
            origin,
            records,
            txn: None,
            refusal,
        });
    }

    /// Reads a transaction, now or when the values it compares have been read.
    pub(super) fn read_txn(&mut self, origin: Origin, txn: TxnRequest) {
        let records = self.state.cold_values_of_txn(&txn);
        self.advance_loading(Loading {
            origin,
            records,
            txn: Some(txn),
            refusal: ApiError::Corrupt,
        });
    }

    /// Looks at those who wait, if anything has arrived since.
    pub(super) fn advance_loads(&mut self) {
        let arrived = self.snapshots.reads_done();
        if self.reads_seen == arrived {
            return;
        }
        self.reads_seen = arrived;
        for loading in std::mem::take(&mut self.loads) {
            self.advance_loading(loading);
        }
    }

    /// Hands the disk what was asked for in a step and after it. Whatever completes signals the event
    /// descriptor of the snapshot files, and so brings another step.
    ///
    /// # Errors
    /// The snapshot files are of no use any more.
    pub fn pump_snapshots(&mut self) -> Result<(), EngineError> {
        Ok(self.snapshots.pump()?)
    }

    /// Makes records whole as far as their values are at hand, and asks for some of the others. True if
    /// all are whole.
    ///
    /// # Errors
    /// A value cannot be read, or is damaged.
    pub(super) fn warm<'r>(
        &mut self,
        records: impl IntoIterator<Item = &'r mut Record>,
    ) -> Result<bool, SnapshotError> {
        let mut missing = 0;
        for record in records {
            let Some(place) = record.place() else {
                continue;
            };
            if let Some(value) = self.snapshots.cached(place) {
                *record = record.with_value(&value);
                continue;
            }
            if let Some(error) = self.snapshots.failed(place) {
                return Err(error.clone());
            }
            self.snapshots.want(place);
            missing += 1;
            if missing >= self.config.slices.values_wanted {
                break;
            }
        }
        Ok(missing == 0)
    }

    fn advance_loading(&mut self, mut loading: Loading) {
        match self.warm(&mut loading.records) {
            Ok(true) => self.on_loaded(loading),
            Ok(false) => self.loads.push(loading),
            Err(error) => self.refuse_unreadable(loading.origin, loading.refusal, &error),
        }
    }

    pub(super) fn refuse_unreadable(
        &mut self,
        origin: Origin,
        refusal: ApiError,
        error: &SnapshotError,
    ) {
        tracing::error!(%error, "a value cannot be read; the request is refused");
        self.is_mended_by_others(error);
        self.reply(origin, Err(refusal));
    }

    fn on_loaded(&mut self, loading: Loading) {
        let Some(txn) = loading.txn else {
            return self.reply(loading.origin, Ok(Answer::Loaded(loading.records)));
        };
        let is_current = |record: &Record| loading.records.iter().any(|known| known.is(record));
        if self.state.cold_values_of_txn(&txn).iter().all(is_current) {
            self.state.supply(loading.records);
            let answer = self.txn(&txn);
            self.reply(loading.origin, answer);
        } else {
            // Meanwhile it would compare other versions.
            self.read_txn(loading.origin, txn);
        }
    }
}
