//! A member's lane and its snapshot file. Records become durable in order; a crash leaves those that were
//! reported, and perhaps some more.

use std::collections::BTreeMap;

use keelson_storage::ids::{MemberId, RaftIndex, ShardId, Term};
use keelson_storage::wal::{RecordKind, WalRecord};

use super::Rng;
use super::machine::File;
use crate::durable::{encode_hard_state, record_kind};
use crate::node::{Entry, HardState, Mark};

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// Number of the first record.
    first: usize,
    records: Vec<WalRecord>,
    /// Records up to here are durable.
    durable: usize,
    pub(super) file: Option<File>,
    /// What the durable records say.
    hard_state: (Term, MemberId),
    commit: RaftIndex,
    log: BTreeMap<RaftIndex, Term>,
}

impl Disk {
    pub(super) fn append_hard_state(&mut self, state: HardState) {
        let payload = encode_hard_state(state);
        self.append(RecordKind::HardState, Mark::default(), payload);
    }

    pub(super) fn append_entry(&mut self, entry: &Entry) {
        let kind = record_kind(entry.kind);
        self.append(kind, entry.mark(), entry.payload.clone());
    }

    pub(super) fn append_log_start(&mut self, at: Mark) {
        self.append(RecordKind::LogStart, at, bytes::Bytes::new());
    }

    fn append(&mut self, kind: RecordKind, at: Mark, payload: bytes::Bytes) {
        self.records.push(WalRecord {
            kind,
            shard: ShardId(0),
            term: at.term,
            index: at.index,
            payload,
        });
    }

    pub(super) fn end(&self) -> usize {
        self.first + self.records.len()
    }

    /// Everything before `end` is durable.
    pub(super) fn flush(&mut self, end: usize) {
        for at in self.durable..end {
            let record = self.records[at - self.first].clone();
            self.note(&record);
        }
        self.durable = self.durable.max(end);
    }

    fn note(&mut self, record: &WalRecord) {
        match record.kind {
            RecordKind::HardState => {
                let number = |at: usize| {
                    let bytes = record.payload[at..at + 8].try_into();
                    u64::from_le_bytes(bytes.expect("the slice has eight bytes"))
                };
                self.hard_state = (Term(number(0)), MemberId(number(8)));
                self.commit = self.commit.max(RaftIndex(number(16)));
            }
            RecordKind::Entry | RecordKind::Membership => {
                self.log.split_off(&record.index);
                self.log.insert(record.index, record.term);
            }
            RecordKind::LogStart => {}
        }
    }

    /// The file counts from now on.
    pub(super) fn finish_file(&mut self, file: File, takes_place_of_log: bool) {
        if takes_place_of_log {
            self.log.clear();
        }
        self.file = Some(file);
    }

    /// Whether the entry is durable here.
    pub(super) fn holds(&self, at: Mark) -> bool {
        let in_file = self
            .file
            .as_ref()
            .is_some_and(|file| file.at().index >= at.index);
        in_file || self.log.get(&at.index) == Some(&at.term)
    }

    /// Term and vote that a restart finds.
    pub(super) fn hard_state(&self) -> (Term, MemberId) {
        let in_file = self.file.as_ref().map(|file| file.hard_state);
        in_file
            .filter(|state| state.term > self.hard_state.0)
            .map_or(self.hard_state, |state| (state.term, state.vote))
    }

    /// Whether a restart finds that the entry is committed.
    pub(super) fn knows_committed(&self, index: RaftIndex) -> bool {
        let in_file = self.file.as_ref().map(|file| file.at().index);
        self.commit >= index || in_file >= Some(index)
    }

    /// The last entry that is durable here.
    pub(super) fn last(&self) -> RaftIndex {
        let in_file = self.file.as_ref().map(|file| file.at().index);
        let in_log = self.log.last_key_value().map(|(index, _)| *index);
        in_file.max(in_log).unwrap_or_default()
    }

    /// What is before `covered` may go; some of it stays, as segments do.
    pub(super) fn trim(&mut self, covered: usize, rng: &mut Rng) {
        let covered = covered.min(self.durable);
        if covered > self.first {
            let gone = rng.below((covered - self.first) as u64 + 1) as usize;
            self.records.drain(..gone);
            self.first += gone;
        }
    }

    /// The power fails.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let more = rng.below((self.end() - self.durable) as u64 + 1) as usize;
        let end = if rng.chance(500) {
            self.durable
        } else {
            self.durable + more
        };
        self.flush(end);
        self.records.truncate(end - self.first);
    }

    /// The records with their numbers.
    pub(super) fn records(&self) -> impl Iterator<Item = (usize, WalRecord)> + '_ {
        let numbered = self.records.iter().cloned().enumerate();
        numbered.map(|(at, record)| (self.first + at, record))
    }
}
