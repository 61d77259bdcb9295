//! A snapshot file that the leader sends, because its log does not reach back to what this member needs; and the moment
//! at which its state takes the place of this member's own.
//!
//! ```text
//!   offer --> pieces are written --> flushed --> every byte verified --> raft's message --> start of the log, durable
//!         --> superblock, durable: the file counts --> the state is the file's --> raft may go on
//! ```
//!
//! `consensus/PROTOCOL.md`, section 7, says what a crash leaves between any two of them. Files that were not finished are
//! removed by the next start. While a file arrives no checkpoint begins: it would be older and have the higher number.
//!
//! Invariants:
//! 1. Raft hears of a snapshot only when all of its file is durable but the superblock, and sound.
//! 2. The superblock is written only when the record is durable that the log begins behind it.
//! 3. Nobody is told anything that depends on the new state before the file counts.

use std::sync::Arc;

use bytes::Bytes;
use keelson_consensus::durable::{ReadyNumber, encode_hard_state};
use keelson_consensus::node::{Body, HardState, Message, SnapshotMark};
use keelson_consensus::replicate::{Item, SnapshotAck, SnapshotOffer};
use keelson_storage::ids::{Lsn, MemberId, RaftIndex};
use keelson_storage::io::Disk;
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use keelson_storage::snapshot::Snapshot;
use keelson_storage::state::State;
use keelson_storage::wal::RecordKind;

use super::limits::{SNAPSHOT_ABANDONED_AFTER_US, SNAPSHOT_PIECE_BYTES};
use super::persist::Persisting;
use super::sending::{mark_of, snapshot_mark};
use super::shard::{Engine, EngineError, TransferEnd};
use super::verify::{Verified, Verify};

/// The file that arrives, if one does.
#[derive(Debug)]
pub(super) struct Receiving {
    from: MemberId,
    offer: SnapshotOffer,
    stage: Stage,
    /// What the sender was told to have arrived.
    told: u64,
    began_us: u64,
    heard_at_us: u64,
}

#[derive(Debug)]
enum Stage {
    Arriving,
    Verifying(Verify),
    /// Raft has taken it, and the log is going to begin behind it.
    Accepted(Verified),
    /// The record is durable; the superblock is on its way to the disk.
    Heading {
        number: ReadyNumber,
        /// The last record before the one that says where the log begins.
        covered: Lsn,
        state: Box<State>,
    },
    /// Between two stages.
    Moving,
}

impl<D: Disk> Engine<D> {
    /// The leader has a snapshot for this member.
    pub(super) fn on_snapshot_offer(
        &mut self,
        from: MemberId,
        offer: SnapshotOffer,
    ) -> Result<(), EngineError> {
        if offer.term < self.node.term() {
            return Ok(());
        }
        let is_needed =
            self.node.is_waiting_for_snapshot() || offer.at.index > self.node.committed();
        if let Some(receiving) = &mut self.receiving {
            let known = &receiving.offer;
            let is_same = (known.at, known.file_bytes, known.file_crc)
                == (offer.at, offer.file_bytes, offer.file_crc);
            if is_same && receiving.from == from {
                receiving.offer = offer;
                receiving.heard_at_us = self.now_us;
                self.answer_offer();
                return Ok(());
            }
            if receiving.is_accepted() {
                return Ok(());
            }
            self.give_up_receiving();
        }
        if !self.may_begin_with(&offer) {
            self.answer(from, offer.transfer, SnapshotAck::Failed);
            return Ok(());
        }
        if !is_needed {
            // Its log has got there in another way. Raft tells the leader.
            self.answer(from, offer.transfer, SnapshotAck::Done);
            return self.hand_over_to_raft(from, &offer);
        }
        let is_possible = offer.file_bytes.is_multiple_of(SNAPSHOT_BLOCK_BYTES as u64)
            && offer.file_bytes > SNAPSHOT_BLOCK_BYTES as u64;
        if !is_possible {
            self.answer(from, offer.transfer, SnapshotAck::Failed);
            return Ok(());
        }
        tracing::info!(
            member = %from,
            index = offer.at.index.0,
            bytes = offer.file_bytes,
            "a snapshot arrives"
        );
        self.snapshots.begin_incoming(offer.file_bytes);
        self.receiving = Some(Receiving {
            from,
            offer,
            stage: Stage::Arriving,
            told: 0,
            began_us: self.now_us,
            heard_at_us: self.now_us,
        });
        self.answer_offer();
        Ok(())
    }

    /// A piece of it has come.
    pub(super) fn on_snapshot_data(
        &mut self,
        from: MemberId,
        transfer: u64,
        offset: u64,
        data: &Bytes,
    ) {
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        let is_wanted = receiving.from == from
            && receiving.offer.transfer == transfer
            && matches!(receiving.stage, Stage::Arriving)
            && self.snapshots.incoming_next() == Some(offset);
        if !is_wanted {
            return;
        }
        receiving.heard_at_us = self.now_us;
        if data.len() as u64 > SNAPSHOT_PIECE_BYTES {
            return self.refuse_snapshot("a piece is too large");
        }
        if let Err(error) = self.snapshots.take_incoming(data) {
            self.refuse_snapshot(&error.to_string());
        }
    }

    /// Moves on with what has been written and verified.
    pub(super) fn advance_receiving(&mut self) -> Result<(), EngineError> {
        if let Some(error) = self.snapshots.take_incoming_failure() {
            self.refuse_snapshot(&error.to_string());
        }
        let Some(receiving) = &mut self.receiving else {
            return Ok(());
        };
        match &mut receiving.stage {
            Stage::Arriving => self.advance_arriving(),
            Stage::Verifying(verify) => match verify.take() {
                None => {}
                Some(Ok(verified)) => self.on_snapshot_verified(verified)?,
                Some(Err(error)) => self.refuse_snapshot(&error.to_string()),
            },
            Stage::Accepted(_) | Stage::Moving => {}
            Stage::Heading { .. } => {
                if let Some(snapshot) = self.snapshots.received() {
                    self.on_snapshot_durable(&snapshot);
                }
            }
        }
        Ok(())
    }

    /// When it has to be looked at again although nothing has happened.
    pub(super) fn receiving_deadline_us(&self) -> Option<u64> {
        let receiving = self.receiving.as_ref()?;
        let arrives = matches!(receiving.stage, Stage::Arriving);
        arrives.then(|| receiving.heard_at_us + SNAPSHOT_ABANDONED_AFTER_US)
    }

    /// Whether a file arrives or is being put in place.
    #[must_use]
    pub fn is_receiving_snapshot(&self) -> bool {
        self.receiving.is_some()
    }

    /// The member whose snapshot arrives, if one does.
    #[must_use]
    pub fn snapshot_sender(&self) -> Option<MemberId> {
        self.receiving.as_ref().map(|receiving| receiving.from)
    }

    /// Raft puts the snapshot in the place of the log: the record of it goes to the lane.
    pub(super) fn begin_install(
        &mut self,
        number: ReadyNumber,
        snapshot: &SnapshotMark,
        hard_state: HardState,
    ) -> Result<(), EngineError> {
        let accepted = self.receiving.as_ref().is_some_and(|receiving| {
            matches!(receiving.stage, Stage::Accepted(_)) && receiving.offer.at == snapshot.at
        });
        assert!(
            accepted,
            "invariant 1: raft installs {:?}, whose file is not there",
            snapshot.at
        );
        self.give_up_checkpoint();
        let at = snapshot.at;
        let start = self.append(RecordKind::LogStart, at.term, at.index, &Bytes::new())?;
        let payload = encode_hard_state(hard_state);
        let last = self.append(
            RecordKind::HardState,
            hard_state.term,
            RaftIndex(0),
            &payload,
        )?;
        let covered = Lsn(start.0 - 1);
        self.persisting
            .push_back((last, Persisting::Snapshot { number, covered }));
        Ok(())
    }

    /// The record is durable: now the file may count.
    pub(super) fn on_log_start_durable(&mut self, number: ReadyNumber, covered: Lsn) {
        let receiving = self.receiving.as_mut();
        let receiving = receiving.expect("a file that raft has taken stays until it counts");
        let stage = std::mem::replace(&mut receiving.stage, Stage::Moving);
        let Stage::Accepted(Verified { snapshot, state }) = stage else {
            unreachable!("invariant 2: the record was written for a file that was accepted")
        };
        self.snapshots.commit_incoming(snapshot);
        receiving.stage = Stage::Heading {
            number,
            covered,
            state,
        };
    }

    fn advance_arriving(&mut self) {
        let Some(receiving) = &self.receiving else {
            return;
        };
        let is_late = self.now_us >= receiving.heard_at_us + SNAPSHOT_ABANDONED_AFTER_US;
        let at = receiving.offer.at.index;
        let told = receiving.told;
        let is_needless = self.node.committed() >= at && !self.node.is_waiting_for_snapshot();
        if is_late {
            self.note_received(false);
        }
        if is_late || is_needless || self.node.is_leader() {
            return self.give_up_receiving();
        }
        let arrived = self.snapshots.incoming_arrived().unwrap_or_default();
        if arrived > told
            && let Some(receiving) = &mut self.receiving
        {
            receiving.told = arrived;
            let (from, transfer) = (receiving.from, receiving.offer.transfer);
            self.answer(from, transfer, SnapshotAck::Have(arrived));
        }
        if let Some(file) = self.snapshots.flushed_incoming() {
            let bell = self.bell();
            let verify = Verify::begin(file, bell.as_ref(), &mut self.snapshots);
            let receiving = self.receiving.as_mut().expect("it was there above");
            receiving.stage = Stage::Verifying(verify);
        }
    }

    fn on_snapshot_verified(&mut self, verified: Verified) -> Result<(), EngineError> {
        let receiving = self.receiving.as_mut().expect("the caller saw it");
        let (from, offer) = (receiving.from, receiving.offer.clone());
        let found = snapshot_mark(&verified.snapshot);
        let announced = SnapshotMark {
            at: offer.at,
            membership: offer.membership.clone(),
        };
        if found != Some(announced) {
            self.refuse_snapshot("it is of another entry or membership than was announced");
            return Ok(());
        }
        receiving.stage = Stage::Accepted(verified);
        self.answer(from, offer.transfer, SnapshotAck::Done);
        self.hand_over_to_raft(from, &offer)?;
        if !self.node.is_installing() {
            // Meanwhile the log got there in another way, or another leader was elected.
            self.give_up_receiving();
        }
        Ok(())
    }

    fn hand_over_to_raft(
        &mut self,
        from: MemberId,
        offer: &SnapshotOffer,
    ) -> Result<(), EngineError> {
        let (term, at) = (offer.term, offer.at);
        let membership = offer.membership.clone();
        if self.is_rejoining() {
            // Meanwhile others may have gone on to a later term.
            if self.may_begin_with(offer) {
                self.node.rejoin(from, term, at, membership)?;
            }
            return Ok(());
        }
        let body = Body::Snapshot { at, membership };
        self.node.on_message(from, Message { term, body })?;
        Ok(())
    }

    /// The file counts: its state is this member's.
    fn on_snapshot_durable(&mut self, snapshot: &Arc<Snapshot>) {
        self.note_received(true);
        let stage = self.receiving.take().map(|receiving| receiving.stage);
        let Some(Stage::Heading {
            number,
            covered,
            state,
        }) = stage
        else {
            unreachable!("the superblock is written in this stage only")
        };
        self.facts.snapshots_received += 1;
        tracing::info!(
            sequence = snapshot.sequence().0,
            index = mark_of(snapshot).index.0,
            revision = snapshot.meta().revision.0,
            "the state is that of a snapshot from another member"
        );
        self.swap_state(*state, covered);
        if let Some(mark) = snapshot_mark(snapshot) {
            self.node.on_snapshot_file(mark);
        }
        self.node.on_persisted(number);
        self.review_membership();
        self.end_rejoin();
    }

    /// Tells the sender where to go on.
    fn answer_offer(&mut self) {
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        let (from, transfer) = (receiving.from, receiving.offer.transfer);
        let ack = match receiving.stage {
            Stage::Arriving => {
                let next = self.snapshots.incoming_next();
                SnapshotAck::Have(next.expect("a file that arrives is there"))
            }
            Stage::Verifying(_) => SnapshotAck::Have(receiving.offer.file_bytes),
            Stage::Accepted(_) | Stage::Heading { .. } | Stage::Moving => SnapshotAck::Done,
        };
        self.answer(from, transfer, ack);
    }

    fn refuse_snapshot(&mut self, why: &str) {
        if let Some(receiving) = &self.receiving {
            tracing::error!(member = %receiving.from, %why, "a snapshot cannot be taken");
            let (from, transfer) = (receiving.from, receiving.offer.transfer);
            self.answer(from, transfer, SnapshotAck::Failed);
        }
        self.note_received(false);
        self.give_up_receiving();
    }

    fn note_received(&mut self, arrived: bool) {
        if let Some(receiving) = &self.receiving {
            self.durations.transfers.push(TransferEnd {
                member: receiving.from,
                is_received: true,
                arrived,
                took_us: self.now_us.saturating_sub(receiving.began_us),
            });
        }
    }

    fn give_up_receiving(&mut self) {
        self.receiving = None;
        self.snapshots.abort_incoming();
    }

    fn answer(&mut self, to: MemberId, transfer: u64, ack: SnapshotAck) {
        self.group_send(to, Item::SnapshotAck { transfer, ack });
    }
}

impl Receiving {
    fn is_accepted(&self) -> bool {
        !matches!(self.stage, Stage::Arriving | Stage::Verifying(_))
    }
}
