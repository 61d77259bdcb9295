//! The directory of a shard's snapshots: the current file, the values in it, and the next file while it is built.
//!
//! The engine owns it. Opening blocks; after that nothing does: calls queue work, [`pump`](SnapshotStore::pump) hands it
//! to the disk and takes what came of it.
//!
//! ```text
//!   reader:   cached? --> want --> pump .. --> cached | failed
//!   builder:  begin --> read_run/take_run, write .. --> commit --> pump .. --> committed
//!   sender:   read_piece --> pump .. --> take_piece
//!   receiver: begin_incoming --> take_incoming .. --> flushed_incoming --> commit_incoming --> pump .. --> received
//! ```
//!
//! Places of values are those of a snapshot. Whoever holds an `Arc` of a snapshot can have the values of its places, also
//! after a newer one became current: its file, and those that lend it values, stay until the last `Arc` is gone.
//!
//! Invariants:
//! 1. A file counts from the moment its superblock is durable, and everything else of it was durable before
//!    (`super::draft`).
//! 2. A file is removed only when a newer one counts, nobody else holds its snapshot, and it lends nothing to a snapshot
//!    that is current or held; or when it never counted.
//! 3. A file that was found at the start is removed only when the owner has a whole state without it.
//!
//! What a crash leaves: the current file; perhaps older ones, which are no longer needed; perhaps one that never counted.
//! The next start removes all but the newest that counts (`super::startup`), when its log was replayed.
//!
//! What fails: a block of values that cannot be read, or is damaged, fails those who want it. A disk without room fails
//! the file that is being built. Any other failed write, flush or creation stops the store for good.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::RawFd;
use std::sync::Arc;

use bytes::Bytes;

use super::draft::{Action, Draft};
use super::error::{Affected, SnapshotDamage, SnapshotError};
use super::image::ImagePart;
use super::incoming::{Incoming, IncomingError, Unverified};
use super::lent::lend;
use super::runs::{Pace, Piece, Runs};
use super::snapshot::Snapshot;
use super::startup::{self, Found, file_name};
use super::stream::PageWrite;
use super::values::{ValueCounters, Values};
use super::version::{BlockPlace, ValuePlace};
use super::written::Written;
use crate::ids::SnapshotSeq;
use crate::io::{AlignedBuf, Completion, Disk, DiskError, FileId};
use crate::limits::{
    SNAPSHOT_CACHE_BYTES_DEFAULT, SNAPSHOT_READS_DEFAULT, SNAPSHOT_SHED_PER_TURN,
    SNAPSHOT_WRITES_CONSIDERATE, SNAPSHOT_WRITES_DEFAULT,
};

/// How much the store does at once, and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bytes of blocks of values that stay in memory.
    pub cache_bytes_max: u64,
    /// Whether the values of a file that was just written stay, in half of that.
    pub keeps_written: bool,
    /// Writes of a new file given and not completed.
    pub writes_in_flight_max: usize,
    /// Reads of blocks of values the disk has at once.
    pub reads_in_flight_max: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cache_bytes_max: SNAPSHOT_CACHE_BYTES_DEFAULT,
            keeps_written: false,
            writes_in_flight_max: SNAPSHOT_WRITES_DEFAULT,
            reads_in_flight_max: SNAPSHOT_READS_DEFAULT,
        }
    }
}

/// The snapshots of one shard.
#[derive(Debug)]
pub struct SnapshotStore<D: Disk> {
    disk: D,
    config: StoreConfig,
    /// Files that count, oldest first: the last one is current, the others are still in use or lend values.
    files: Vec<CountedFile>,
    sequence_max: SnapshotSeq,
    draft: Option<Draft>,
    /// Files given up, until the disk has no more work on them.
    discarded: Vec<Draft>,
    /// Files found at the start that do not count, and the paths of those that look unfinished.
    leftovers: Vec<FileId>,
    unfinished: Vec<String>,
    committed: Option<Arc<Snapshot>>,
    build_failure: Option<SnapshotError>,
    /// The file that another member sends. It is newer than the one being built.
    incoming: Option<Incoming>,
    received: Option<Arc<Snapshot>>,
    incoming_failure: Option<SnapshotError>,
    /// Pieces that were read to be sent, by the number that was given.
    pieces: Vec<(u64, Result<Bytes, SnapshotError>)>,
    /// Parts of pieces that are to be read, and pieces of which some were.
    parts_wanted: Vec<WantedPart>,
    gathering: BTreeMap<u64, Vec<Option<Bytes>>>,
    values: Values,
    /// What is still in memory of the current snapshot's values, and of those of the file being built.
    written: Written,
    writing: Written,
    runs: Runs,
    /// Building takes little of the disk: requests are served beside it.
    is_considerate: bool,
    /// Indexes of removed files, which are let go in slices.
    shedding: Vec<Snapshot>,
    operations: BTreeMap<u64, Operation>,
    next_token: u64,
    completions: Vec<Completion>,
    /// Buffers for writes.
    spare: Vec<AlignedBuf>,
    poison: Option<SnapshotError>,
    counters: StoreCounters,
}

impl<D: Disk> SnapshotStore<D> {
    /// Loads the newest file that counts, and leaves all others where they are. Blocks.
    pub fn open(mut disk: D, config: StoreConfig) -> Result<Self, SnapshotError> {
        let Found {
            newest,
            lenders,
            leftovers,
            unfinished,
            sequence_max,
        } = startup::find(&mut disk)?;
        let mut values = Values::new(config.cache_bytes_max, config.reads_in_flight_max);
        let lending = lenders.into_iter().map(|(file, lender)| CountedFile {
            file,
            sequence: lender.sequence,
            bytes: lender.file_bytes,
            snapshot: None,
        });
        let mut files: Vec<CountedFile> = lending.collect();
        if let Some((file, snapshot)) = newest {
            values.set_oldest(oldest_of(&snapshot));
            files.push(CountedFile::new(file, Arc::new(snapshot)));
        }
        Ok(Self {
            disk,
            config,
            files,
            sequence_max,
            draft: None,
            discarded: Vec::new(),
            leftovers,
            unfinished,
            committed: None,
            build_failure: None,
            incoming: None,
            received: None,
            incoming_failure: None,
            pieces: Vec::new(),
            parts_wanted: Vec::new(),
            gathering: BTreeMap::new(),
            values,
            written: Written::default(),
            writing: Written::default(),
            runs: Runs::default(),
            is_considerate: false,
            shedding: Vec::new(),
            operations: BTreeMap::new(),
            next_token: 0,
            completions: Vec::new(),
            spare: Vec::new(),
            poison: None,
            counters: StoreCounters::default(),
        })
    }

    /// The newest snapshot that is durable, if there is any.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<Snapshot>> {
        self.files.last()?.snapshot.as_ref()
    }

    /// Paths of the files found at the start that are newer than the current one and look unfinished. If the log does
    /// not go back to the current one, it was one of these that held what is missing.
    #[must_use]
    pub fn unfinished(&self) -> &[String] {
        &self.unfinished
    }

    /// Has the files that were found at the start and do not count removed: the owner has a whole state.
    pub fn remove_leftovers(&mut self) {
        self.unfinished.clear();
        for file in std::mem::take(&mut self.leftovers) {
            self.remove(file);
        }
    }

    /// Counts up when a pump is due.
    #[must_use]
    pub fn event_fd(&self) -> Option<RawFd> {
        self.disk.event_fd()
    }

    /// Takes what the disk has done and gives it what was asked for since. Never blocks. An error is for good.
    pub fn pump(&mut self) -> Result<(), SnapshotError> {
        if let Some(cause) = &self.poison {
            return Err(cause.clone());
        }
        let done = self.turn();
        if let Err(cause) = &done {
            self.poison = Some(cause.clone());
        }
        done
    }

    /// Pumps until the disk has done something, if it has anything to do. Blocks: for tools.
    pub fn wait(&mut self) -> Result<(), SnapshotError> {
        self.pump()?;
        self.disk.wait()?;
        self.pump()
    }

    /// Whether the next pump should not wait for the disk: memory is being let go in slices.
    #[must_use]
    pub fn wants_turn(&self) -> bool {
        !self.shedding.is_empty()
    }

    /// A value whose block is in memory: a slice of it.
    pub fn cached(&mut self, place: &ValuePlace) -> Option<Bytes> {
        if let Some(block) = self.written.block(&place.block) {
            self.values.counters.hits += 1;
            let start = place.start as usize;
            return Some(block.slice(start..start + place.bytes as usize));
        }
        self.values.cached(place)
    }

    /// Has the block of a value read, unless it is in memory or on its way. The caller holds the snapshot.
    ///
    /// What comes of it can be had from the pump in which [`reads_done`](Self::reads_done) grew until the second pump
    /// after it, however small the cache is. So a reader that lacks values wants them, takes what is there whenever
    /// `reads_done` has grown, and then wants again what it still lacks.
    pub fn want(&mut self, place: &ValuePlace) {
        assert!(
            self.position_of(place.block.file).is_some(),
            "whoever wants a value holds its snapshot: {}",
            place.block.file
        );
        self.values.want(place);
    }

    /// Why the block of a value did not come. Wanting it again tries again.
    #[must_use]
    pub fn failed(&self, place: &ValuePlace) -> Option<&SnapshotError> {
        self.values.failed(place)
    }

    /// Grows with every block that came or failed.
    #[must_use]
    pub fn reads_done(&self) -> u64 {
        self.values.reads_done()
    }

    /// Another limit of the cache, which it comes down to within some turns.
    pub fn set_cache_bytes_max(&mut self, bytes: u64) {
        self.config.cache_bytes_max = bytes;
        self.share_cache();
    }

    /// Half of the cache at most holds what was written last, and buffers for the next writes; blocks that
    /// were read have the rest.
    fn share_cache(&mut self) {
        let half = self.config.cache_bytes_max / 2;
        self.writing.shrink(half, &mut self.spare);
        self.written
            .shrink(half - self.writing.bytes(), &mut self.spare);
        let mut held = self.written.bytes() + self.writing.bytes();
        self.spare.retain(|buf| {
            let is_kept = held + buf.capacity() as u64 <= half;
            held += u64::from(is_kept) * buf.capacity() as u64;
            is_kept
        });
        self.values
            .set_cache_bytes_max(self.config.cache_bytes_max - held);
    }

    /// Begins the next file. One is built at a time, and none while one arrives, which would be the older one.
    pub fn begin(&mut self) -> SnapshotSeq {
        assert!(self.draft.is_none(), "one file is built at a time");
        assert!(
            self.incoming.is_none(),
            "the newest file is the one that arrives"
        );
        self.build_failure = None;
        self.runs.forget();
        let draft = self.create();
        let sequence = draft.sequence;
        self.draft = Some(draft);
        sequence
    }

    fn create(&mut self) -> Draft {
        self.sequence_max = self.sequence_max.next();
        let sequence = self.sequence_max;
        let token = self.token(Operation::Draft(sequence, 0));
        let file = self.disk.submit_create(&file_name(sequence), 0, token);
        Draft::new(sequence, file)
    }

    /// Path of a file, for messages.
    #[must_use]
    pub fn path_of(&self, sequence: SnapshotSeq) -> String {
        format!("{}/{}", self.disk.location(), file_name(sequence))
    }

    /// Whether there is room for another write of the file being built.
    #[must_use]
    pub fn may_write(&self) -> bool {
        let draft = self.draft.as_ref();
        draft.is_some_and(|draft| draft.pending_writes() < self.writes_max())
    }

    /// Whether building leaves most of the disk to others.
    pub fn set_considerate(&mut self, is_considerate: bool) {
        self.is_considerate = is_considerate;
    }

    fn writes_max(&self) -> usize {
        let most = self.config.writes_in_flight_max;
        if self.is_considerate {
            most.min(SNAPSHOT_WRITES_CONSIDERATE)
        } else {
            most
        }
    }

    /// Takes a write of the file being built; the caller asked [`may_write`](Self::may_write). It goes nowhere if the
    /// file has failed.
    pub fn write(&mut self, write: PageWrite) {
        if let Some(draft) = &mut self.draft {
            self.counters.bytes_written += write.buf.len() as u64;
            draft.write(write);
        }
    }

    /// A buffer of a write that is done, for a builder that [wants one](super::Builder::wants_buf).
    pub fn take_buf(&mut self) -> Option<AlignedBuf> {
        self.spare.pop()
    }

    /// Puts back a buffer for which there was no use.
    pub fn untake_buf(&mut self, buf: AlignedBuf) {
        self.spare.push(buf);
    }

    /// Has parts of the run of a leaf of the current snapshot read for the file being built.
    pub fn read_run(&mut self, leaf: u32, parts: &[ImagePart]) {
        self.runs.ask(leaf, parts);
    }

    /// The next run, in the order asked, with its leaf. Its blocks are not verified yet.
    pub fn take_run(&mut self) -> Option<Result<(u32, Bytes), SnapshotError>> {
        self.runs.take()
    }

    /// All writes are given: once they are durable the superblock is written, and the snapshot is current. It goes
    /// nowhere if the file has failed.
    pub fn commit(&mut self, snapshot: Snapshot, superblock: AlignedBuf) {
        if let Some(draft) = &mut self.draft {
            self.counters.bytes_written += superblock.len() as u64;
            draft.commit(Arc::new(snapshot), superblock);
        }
    }

    /// The snapshot that was committed, once it is durable and current.
    pub fn committed(&mut self) -> Option<Arc<Snapshot>> {
        self.committed.take()
    }

    /// Why the file being built was given up by itself: the disk has no room. Another may be begun later.
    pub fn take_build_failure(&mut self) -> Option<SnapshotError> {
        self.build_failure.take()
    }

    /// Gives up the file being built, if there is one, and removes it. One that has just become current stays, but
    /// nobody hears of it.
    pub fn abort(&mut self) {
        self.committed = None;
        self.build_failure = None;
        self.runs.forget();
        self.writing.shrink(0, &mut self.spare);
        self.share_cache();
        self.discarded.extend(self.draft.take());
    }

    /// Begins a file of this length that another member sends.
    pub fn begin_incoming(&mut self, file_bytes: u64) {
        assert!(self.incoming.is_none(), "one file arrives at a time");
        self.incoming_failure = None;
        let draft = self.create();
        self.incoming = Some(Incoming::new(draft, file_bytes));
    }

    /// Where the next piece of the arriving file begins.
    #[must_use]
    pub fn incoming_next(&self) -> Option<u64> {
        self.incoming.as_ref().map(Incoming::next)
    }

    /// How much of it is with the disk.
    #[must_use]
    pub fn incoming_arrived(&self) -> Option<u64> {
        self.incoming.as_ref().map(Incoming::arrived)
    }

    /// Takes the next piece of it.
    ///
    /// # Errors
    /// It is not a piece of the file that was announced.
    pub fn take_incoming(&mut self, piece: &[u8]) -> Result<(), IncomingError> {
        let incoming = self.incoming.as_mut().ok_or(IncomingError::Misfit)?;
        self.counters.bytes_written += piece.len() as u64;
        incoming.take(piece)
    }

    /// The whole of it, once it is durable but for its superblock: to be verified.
    pub fn flushed_incoming(&mut self) -> Option<Unverified> {
        let directory = self.disk.location();
        self.incoming.as_mut()?.hand_out(directory)
    }

    /// Verifies it at once. Blocks: where there is no thread for it.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn verify_incoming(&mut self, file: &Unverified) -> Result<Snapshot, SnapshotError> {
        file.verify_on(&mut self.disk)
    }

    /// Makes the arriving file, which this snapshot was loaded from, the current one: its superblock is written.
    pub fn commit_incoming(&mut self, snapshot: Arc<Snapshot>) {
        let incoming = self.incoming.as_mut();
        let incoming = incoming.expect("a file that was verified stays until it is committed");
        let head = snapshot.head();
        incoming.draft.commit(snapshot, head);
    }

    /// The snapshot that arrived, once it is durable and current.
    pub fn received(&mut self) -> Option<Arc<Snapshot>> {
        self.received.take()
    }

    /// Why the arriving file was given up by itself: the disk has no room.
    pub fn take_incoming_failure(&mut self) -> Option<SnapshotError> {
        self.incoming_failure.take()
    }

    /// Gives up the arriving file, if there is one, and removes it.
    pub fn abort_incoming(&mut self) {
        let given_up = self.incoming.take().map(|incoming| incoming.draft);
        self.discarded.extend(given_up);
    }

    /// Has a piece of the image of a snapshot read, which the caller holds, for [`take_piece`](Self::take_piece). A
    /// number is used once.
    pub fn read_piece(&mut self, snapshot: &Snapshot, offset: u64, bytes: usize, number: u64) {
        let mut parts = Vec::new();
        if offset == 0 {
            parts.push(Some(Bytes::from_owner(snapshot.image_head())));
        }
        for place in snapshot.image_parts(offset, bytes as u64) {
            self.parts_wanted.push(WantedPart {
                number,
                part: parts.len(),
                place,
            });
            parts.push(None);
        }
        self.gathering.insert(number, parts);
        self.on_part(number);
    }

    /// A piece that was read, with its number. It is not verified.
    pub fn take_piece(&mut self) -> Option<(u64, Result<Bytes, SnapshotError>)> {
        self.pieces.pop()
    }

    /// Holds the current file where it is, for somebody who reads it without the store.
    #[must_use]
    pub fn pin(&self) -> Option<PinnedFile> {
        let snapshot = Arc::clone(self.current()?);
        let path = self.path_of(snapshot.sequence());
        Some(PinnedFile { path, snapshot })
    }

    /// Bytes of the files that count: the current one, and older ones still in use or lending values.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What happened so far, and what is in memory.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        StoreCounters {
            values: self.values.counters,
            cache_bytes: self.values.cache_bytes() + self.written.bytes() + self.writing.bytes(),
            ..self.counters
        }
    }

    /// Gives the disk back, with everything as it is.
    #[must_use]
    pub fn into_disk(self) -> D {
        self.disk
    }

    #[cfg(test)]
    pub(super) fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    #[cfg(test)]
    pub(super) fn sequence_of_draft(&self) -> Option<SnapshotSeq> {
        self.draft.as_ref().map(|draft| draft.sequence)
    }

    fn turn(&mut self) -> Result<(), SnapshotError> {
        self.values.begin_turn();
        self.take_completions()?;
        self.step_drafts();
        self.remove_discarded();
        self.remove_unused();
        self.shed();
        self.start_reads();
        Ok(self.disk.kick()?)
    }

    fn take_completions(&mut self) -> Result<(), SnapshotError> {
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.reap(&mut completions);
        for completion in completions.drain(..) {
            let operation = self.operations.remove(&completion.token);
            match operation.expect("only what was asked for completes, and once") {
                Operation::Value(block) => self.on_value(block, completion),
                Operation::Run(piece) => self.on_run(piece, completion),
                Operation::Part(part) => self.on_part_read(part, completion),
                Operation::Draft(sequence, offset) => {
                    self.on_draft(sequence, offset, completion)?
                }
                // A file that is still there is removed by the next start.
                Operation::Removal => {
                    let failed = completion.result.is_err();
                    self.counters.removals_failed += u64::from(failed);
                    self.counters.files_removed += u64::from(!failed);
                }
            }
        }
        self.completions = completions;
        Ok(())
    }

    fn on_value(&mut self, block: BlockPlace, completion: Completion) {
        let read = completion
            .result
            .map_err(SnapshotError::from)
            .and_then(|()| {
                let buf = completion.buf.expect("a read hands its buffer back");
                self.verify_block(block, buf.as_slice())?;
                Ok(buf)
            });
        self.values.on_read(&block, read);
    }

    /// Compares a block with its checksum. If it is damaged, the newest snapshot that has it says what depends on it.
    fn verify_block(&self, block: BlockPlace, bytes: &[u8]) -> Result<(), SnapshotError> {
        if block.holds(bytes) {
            return Ok(());
        }
        let files = self.files.iter().rev();
        let mut snapshots = files.filter_map(|file| file.snapshot.as_ref());
        let snapshot = snapshots.find(|snapshot| snapshot.leaf_of_block(block).is_some());
        Err(snapshot.or(self.current()).map_or_else(
            || unreachable!("a snapshot stays while something of it is read"),
            |snapshot| snapshot.damaged_block(block),
        ))
    }

    fn on_run(&mut self, piece: Piece, completion: Completion) {
        let read = self.whole((piece.file, piece.offset, piece.bytes), completion);
        self.runs.on_read(piece.id, read);
    }

    fn on_part_read(&mut self, part: WantedPart, completion: Completion) {
        let place = part.place;
        let read = self.whole((place.file, place.offset, place.bytes as usize), completion);
        // Of a piece that has failed, nothing more is wanted.
        let Some(parts) = self.gathering.get_mut(&part.number) else {
            return;
        };
        match read {
            Ok(buf) => {
                parts[part.part] = Some(lend(buf).1);
                self.on_part(part.number);
            }
            Err(error) => {
                self.gathering.remove(&part.number);
                self.pieces.push((part.number, Err(error)));
            }
        }
    }

    /// Hands a piece over if all of its parts are there.
    fn on_part(&mut self, number: u64) {
        let is_whole = |parts: &mut Vec<Option<Bytes>>| parts.iter().all(Option::is_some);
        let Entry::Occupied(mut parts) = self.gathering.entry(number) else {
            return;
        };
        if !is_whole(parts.get_mut()) {
            return;
        }
        let mut parts: Vec<Bytes> = parts.remove().into_iter().flatten().collect();
        let piece = match parts.len() {
            1 => parts.remove(0),
            _ => parts.concat().into(),
        };
        self.pieces.push((number, Ok(piece)));
    }

    /// What was read at an offset of a file, if it is all that was asked for.
    fn whole(
        &self,
        (file, offset, bytes): (SnapshotSeq, u64, usize),
        completion: Completion,
    ) -> Result<AlignedBuf, SnapshotError> {
        completion.result?;
        let buf = completion.buf.expect("a read hands its buffer back");
        if buf.len() == bytes {
            return Ok(buf);
        }
        Err(SnapshotError::Damaged {
            file: self.path_of(file),
            offset: offset + buf.len() as u64,
            reason: SnapshotDamage::Truncated,
            affected: Affected::Everything,
        })
    }

    fn on_incoming(&mut self, offset: u64, completion: Completion) -> Result<(), DiskError> {
        let incoming = self.incoming.as_mut().expect("the caller saw it");
        incoming.draft.on_done();
        match completion.result {
            Ok(()) => incoming.on_written(offset),
            Err(error @ DiskError::NoSpace { .. }) => {
                self.abort_incoming();
                self.incoming_failure = Some(error.into());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn on_draft(
        &mut self,
        sequence: SnapshotSeq,
        offset: u64,
        completion: Completion,
    ) -> Result<(), DiskError> {
        let incoming = self.incoming.as_ref();
        if incoming.is_some_and(|incoming| incoming.draft.sequence == sequence) {
            return self.on_incoming(offset, completion);
        }
        let Some(draft) = self
            .draft
            .as_mut()
            .filter(|draft| draft.sequence == sequence)
        else {
            // Whatever came of it, the file is going to be removed.
            let mut discarded = self.discarded.iter_mut();
            let draft = discarded.find(|draft| draft.sequence == sequence);
            draft
                .expect("a file given up is known until its operations are done")
                .on_done();
            return Ok(());
        };
        draft.on_done();
        let has_values = draft.has_values_at(offset);
        match completion.result {
            Ok(()) => {
                if let Some(buf) = completion.buf {
                    self.on_written((sequence, offset), has_values, buf);
                }
                Ok(())
            }
            Err(error @ DiskError::NoSpace { .. }) => {
                self.abort();
                self.build_failure = Some(error.into());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps a buffer for its values, or to be filled again.
    fn on_written(&mut self, place: (SnapshotSeq, u64), has_values: bool, buf: AlignedBuf) {
        let unkept = if has_values && self.config.keeps_written {
            let half = self.config.cache_bytes_max / 2;
            self.writing.keep(place, buf, half)
        } else {
            Err(buf)
        };
        match unkept {
            Ok(()) => self.share_cache(),
            Err(buf) if self.spare.len() < self.config.writes_in_flight_max => self.spare.push(buf),
            Err(_) => {}
        }
    }

    /// Gives the disk what the files being written need next, and makes them current when they are done.
    fn step_drafts(&mut self) {
        let built_max = self.writes_max();
        let received_max = self.config.writes_in_flight_max;
        loop {
            let built = self.draft.iter_mut().map(|draft| (draft, built_max));
            let received = self.incoming.iter_mut();
            let received = received.map(|incoming| (&mut incoming.draft, received_max));
            let Some((sequence, file, action)) =
                built.chain(received).find_map(|(draft, writes_max)| {
                    let action = draft.next(writes_max)?;
                    Some((draft.sequence, draft.file, action))
                })
            else {
                break;
            };
            self.submit(sequence, file, action);
        }
        if let Some(done) = self.draft.take_if(|draft| draft.is_done()) {
            let snapshot = self.make_current(done);
            self.committed = Some(snapshot);
        }
        let incoming = &mut self.incoming;
        if let Some(done) = incoming.take_if(|incoming| incoming.draft.is_done()) {
            let snapshot = self.make_current(done.draft);
            self.received = Some(snapshot);
        }
    }

    fn submit(&mut self, sequence: SnapshotSeq, file: FileId, action: Action) {
        let offset = match &action {
            Action::Write(write) => write.offset,
            Action::Flush | Action::Head(_) => 0,
        };
        let token = self.token(Operation::Draft(sequence, offset));
        match action {
            Action::Write(PageWrite { offset, buf, .. }) => {
                self.disk.submit_write(file, offset, buf, false, token);
            }
            Action::Flush => self.disk.submit_flush(file, token),
            Action::Head(superblock) => {
                self.disk.submit_write(file, 0, superblock, true, token);
            }
        }
    }

    fn make_current(&mut self, done: Draft) -> Arc<Snapshot> {
        let (file, snapshot) = done.into_file();
        self.written.take(std::mem::take(&mut self.writing));
        self.written.keep_values_of(&snapshot, &mut self.spare);
        self.share_cache();
        self.values.set_oldest(oldest_of(&snapshot));
        self.files
            .push(CountedFile::new(file, Arc::clone(&snapshot)));
        self.runs.forget();
        self.counters.files_written += 1;
        snapshot
    }

    fn remove_discarded(&mut self) {
        let is_idle = |draft: &mut Draft| draft.in_flight() == 0;
        let idle: Vec<_> = self.discarded.extract_if(.., is_idle).collect();
        for draft in idle {
            self.remove(draft.file);
        }
    }

    /// Lets go of snapshots that are not current and that nobody holds, and removes the files that are of no use
    /// without them.
    fn remove_unused(&mut self) {
        for index in (0..self.files.len().saturating_sub(1)).rev() {
            let CountedFile {
                sequence, snapshot, ..
            } = &self.files[index];
            let lends = |file: &CountedFile| {
                let snapshot = file.snapshot.as_ref();
                snapshot.is_some_and(|snapshot| snapshot.borrows_from(*sequence))
            };
            let is_lent = self.files.iter().any(lends);
            // Where nobody else has an `Arc`, nobody can make one: only this store could.
            let is_needed = match snapshot {
                Some(snapshot) => Arc::strong_count(snapshot) > 1,
                None => is_lent,
            };
            if is_needed || self.is_read(*sequence) {
                continue;
            }
            let snapshot = self.files[index].snapshot.take();
            self.shedding.extend(snapshot.and_then(Arc::into_inner));
            if !is_lent {
                let CountedFile { file, .. } = self.files.remove(index);
                self.remove(file);
            }
        }
    }

    /// Whether something of a file is being read, or about to be.
    fn is_read(&self, sequence: SnapshotSeq) -> bool {
        self.values.is_reading(sequence)
            || self.operations.values().any(|o| o.reads(sequence))
            || self
                .parts_wanted
                .iter()
                .any(|part| part.place.file == sequence)
    }

    fn remove(&mut self, file: FileId) {
        let token = self.token(Operation::Removal);
        self.disk.submit_remove(file, token);
    }

    /// A large index is many pieces of memory: freeing all of them at once would be felt.
    fn shed(&mut self) {
        let Some(snapshot) = self.shedding.last_mut() else {
            return;
        };
        if snapshot.shed(SNAPSHOT_SHED_PER_TURN) {
            self.shedding.pop();
        }
    }

    fn start_reads(&mut self) {
        while let Some(block) = self.values.next_read() {
            let file = self.file_of(block.file).file;
            let bytes = block.bytes as usize;
            let token = self.token(Operation::Value(block));
            let buf = AlignedBuf::with_capacity(bytes);
            self.disk.submit_read(file, block.offset, bytes, buf, token);
        }
        for part in std::mem::take(&mut self.parts_wanted) {
            let place = part.place;
            let bytes = place.bytes as usize;
            let file = self.file_of(place.file).file;
            let token = self.token(Operation::Part(part));
            let buf = AlignedBuf::with_capacity(bytes);
            self.disk.submit_read(file, place.offset, bytes, buf, token);
        }
        let ahead = if self.is_considerate {
            Pace::CONSIDERATE
        } else {
            Pace::EAGER
        };
        while let Some(piece) = self.runs.next_read(ahead) {
            let file = self.file_of(piece.file).file;
            let token = self.token(Operation::Run(piece));
            let buf = self.runs.buffer(&piece);
            self.disk
                .submit_read(file, piece.offset, piece.bytes, buf, token);
        }
    }

    fn token(&mut self, operation: Operation) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.operations.insert(token, operation);
        token
    }

    fn position_of(&self, sequence: SnapshotSeq) -> Option<usize> {
        let is_it = |file: &CountedFile| file.sequence == sequence;
        self.files.iter().rposition(is_it)
    }

    fn file_of(&self, sequence: SnapshotSeq) -> &CountedFile {
        let position = self.position_of(sequence);
        &self.files[position.expect("a file stays while something of it is read")]
    }
}

/// A file that stays where it is as long as this lives.
#[derive(Clone, Debug)]
pub struct PinnedFile {
    /// Where it is.
    pub path: String,
    /// What it holds.
    pub snapshot: Arc<Snapshot>,
}

/// What a store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Reads of values.
    pub values: ValueCounters,
    /// Bytes of blocks in memory.
    pub cache_bytes: u64,
    /// Files that became current.
    pub files_written: u64,
    /// Bytes given to files, finished or not.
    pub bytes_written: u64,
    /// Files removed.
    pub files_removed: u64,
    /// Files that could not be removed and wait for the next start.
    pub removals_failed: u64,
}

/// A file that counts.
#[derive(Debug)]
struct CountedFile {
    file: FileId,
    sequence: SnapshotSeq,
    bytes: u64,
    /// None if all that counts of it is the values that it lends.
    snapshot: Option<Arc<Snapshot>>,
}

impl CountedFile {
    fn new(file: FileId, snapshot: Arc<Snapshot>) -> Self {
        Self {
            file,
            sequence: snapshot.sequence(),
            bytes: snapshot.file_bytes(),
            snapshot: Some(snapshot),
        }
    }
}

/// The oldest file that has a value of a snapshot.
fn oldest_of(snapshot: &Snapshot) -> SnapshotSeq {
    let oldest = snapshot.lenders().first();
    oldest.map_or(snapshot.sequence(), |lender| lender.sequence)
}

/// A part of a piece to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WantedPart {
    /// The piece's number, and which of its parts this is.
    number: u64,
    part: usize,
    place: ImagePart,
}

/// What the disk was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Value(BlockPlace),
    Run(Piece),
    Part(WantedPart),
    /// Anything for a file being written; where in it, for a write.
    Draft(SnapshotSeq, u64),
    Removal,
}

impl Operation {
    fn reads(&self, sequence: SnapshotSeq) -> bool {
        match self {
            Operation::Value(block) => block.file == sequence,
            Operation::Run(piece) => piece.file == sequence,
            Operation::Part(part) => part.place.file == sequence,
            Operation::Draft(..) | Operation::Removal => false,
        }
    }
}
