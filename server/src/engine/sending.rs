//! Snapshot files on their way to members that lag too far for the log.
//!
//! ```text
//!   raft: snapshot(at) --> offer --> have n --> pieces are read, and sent as far as the window reaches --> done
//!                            ^                                        |
//!                            +---- nothing heard for a while, or the link broke: where did it stop? ----+
//! ```
//!
//! Raft sends a member nothing but heartbeats until it is told how a transfer ended, or the member is heard to have what
//! it needs. A file stays where it is as long as it is being sent. The disk and the link get no more than a checkpoint
//! would while commands come, all transfers together. The log is kept behind a file until the member has it, up to a bound;
//! where it grows towards that faster than the checkpoint and then the transfer advance, they hurry.
//!
//! Nothing here outlives a crash: the next leader, or this one, offers a file anew, and the receiver says how much of
//! it there is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use keelson_consensus::node::{Feed, Mark, Membership, SnapshotMark};
use keelson_consensus::replicate::{Item, SnapshotAck, SnapshotOffer};
use keelson_storage::ids::{MemberId, Term};
use keelson_storage::io::Disk;
use keelson_storage::snapshot::Snapshot;

use super::limits::{
    CHECKPOINT_BURST_BYTES, CHECKPOINT_PAUSE_US, LOG_HELD_FOR_CHECKPOINT, LOG_HELD_FOR_TRANSFER,
    SNAPSHOT_ABANDONED_AFTER_US, SNAPSHOT_REPEAT_US, SNAPSHOT_RETRY_US, SNAPSHOT_WINDOW_BYTES,
};
use super::open::membership_of;
use super::shard::{Engine, TransferEnd};

/// All transfers from this member.
#[derive(Debug, Default)]
pub(super) struct Sending {
    transfers: BTreeMap<MemberId, Transfer>,
    next_transfer: u64,
    next_piece: u64,
    /// Bytes that may be read before the next pause, and when they were last topped up.
    allowance: i64,
    allowed_at_us: u64,
}

/// One file on its way to one member.
#[derive(Debug)]
struct Transfer {
    offer: SnapshotOffer,
    /// Holds the file.
    snapshot: Arc<Snapshot>,
    stage: Stage,
    /// The receiver has everything before it.
    have: u64,
    /// Everything before it was asked of the disk.
    asked: u64,
    /// Pieces behind what was sent, in order: number, offset, and the content once it was read.
    pieces: VecDeque<(u64, u64, Option<Bytes>)>,
    began_us: u64,
    /// When the receiver was last heard, and when it was last asked or got further.
    heard_at_us: u64,
    moved_at_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The next answer says where to go on.
    Offered,
    Flowing,
    /// It cannot be taken, or not be read; raft hears of it at this time.
    Failed(u64),
}

impl Sending {
    /// `seed` differs between starts, so that an answer to an earlier start means nothing.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            next_transfer: seed << 32,
            ..Self::default()
        }
    }
}

impl<D: Disk> Engine<D> {
    /// Raft has a snapshot for a member.
    pub(super) fn send_snapshot(
        &mut self,
        to: MemberId,
        term: Term,
        at: Mark,
        membership: Membership,
    ) {
        let current = self.snapshots.current();
        let Some(snapshot) = current.filter(|current| mark_of(current) == at).cloned() else {
            // A newer one has become current since.
            return self.node.report_snapshot(to, false);
        };
        let sending = &mut self.sending;
        sending.next_transfer += 1;
        let offer = SnapshotOffer {
            transfer: sending.next_transfer,
            term,
            at,
            membership,
            file_bytes: snapshot.image_bytes(),
            file_crc: snapshot.head_checksum(),
        };
        tracing::info!(member = %to, index = at.index.0, bytes = offer.file_bytes, "a snapshot is sent");
        self.group_send(to, Item::SnapshotOffer(offer.clone()));
        let transfer = Transfer {
            offer,
            snapshot,
            stage: Stage::Offered,
            have: 0,
            asked: 0,
            pieces: VecDeque::new(),
            began_us: self.now_us,
            heard_at_us: self.now_us,
            moved_at_us: self.now_us,
        };
        self.sending.transfers.insert(to, transfer);
    }

    /// A receiver says how far it is.
    pub(super) fn on_snapshot_ack(&mut self, from: MemberId, number: u64, ack: SnapshotAck) {
        let now_us = self.now_us;
        let transfer = self.sending.transfers.get_mut(&from);
        let Some(transfer) = transfer.filter(|transfer| transfer.offer.transfer == number) else {
            return;
        };
        transfer.heard_at_us = now_us;
        match ack {
            SnapshotAck::Have(have) if have <= transfer.offer.file_bytes => {
                if transfer.stage == Stage::Offered {
                    transfer.go_on_from(have);
                    transfer.moved_at_us = now_us;
                } else if have > transfer.have {
                    transfer.have = have;
                    transfer.moved_at_us = now_us;
                }
            }
            SnapshotAck::Have(_) => {}
            SnapshotAck::Done => {
                let began_us = transfer.began_us;
                self.sending.transfers.remove(&from);
                self.facts.snapshots_sent += 1;
                self.note_sent(from, true, began_us);
                self.node.report_snapshot(from, true);
                tracing::info!(member = %from, "a snapshot has arrived");
            }
            SnapshotAck::Failed => {
                tracing::warn!(member = %from, "a member could not take a snapshot; it gets a new one");
                transfer.stage = Stage::Failed(now_us + SNAPSHOT_RETRY_US);
                self.want_other_snapshot_file();
            }
        }
    }

    /// What was sent to a member may be lost.
    pub(super) fn on_transfer_unreachable(&mut self, member: MemberId) {
        if let Some(transfer) = self.sending.transfers.get_mut(&member) {
            transfer.moved_at_us = 0;
        }
    }

    /// Gives every transfer a turn.
    pub(super) fn advance_sending(&mut self) {
        self.take_pieces();
        if self.sending.transfers.is_empty() {
            return;
        }
        self.end_transfers();
        let is_unhurried = self.is_serving() && !self.is_log_ahead_of_transfers();
        self.sending.top_up(
            self.now_us,
            self.config.checkpoint.bytes_per_second,
            is_unhurried,
        );
        let mut transfers = std::mem::take(&mut self.sending.transfers);
        for (member, transfer) in &mut transfers {
            self.advance_transfer(*member, transfer);
        }
        self.sending.transfers = transfers;
    }

    /// Whether the log that is kept behind a snapshot grows faster than the snapshot arrives.
    fn is_log_ahead_of_transfers(&self) -> bool {
        self.sending.transfers.values().any(|transfer| {
            let arrived = transfer.have as f64 / transfer.offer.file_bytes as f64;
            let filled = self.node.held_share(transfer.offer.at.index);
            filled > LOG_HELD_FOR_CHECKPOINT + LOG_HELD_FOR_TRANSFER * arrived
        })
    }

    /// When transfers have to be looked at again although nothing has happened.
    pub(super) fn sending_deadline_us(&self) -> Option<u64> {
        let sending = &self.sending;
        let deadline = |transfer: &Transfer| match transfer.stage {
            Stage::Failed(at_us) => at_us,
            Stage::Flowing if transfer.may_ask() => sending.allowed_at_us + CHECKPOINT_PAUSE_US,
            _ => transfer.moved_at_us + SNAPSHOT_REPEAT_US,
        };
        sending.transfers.values().map(deadline).min()
    }

    /// Snapshots on their way to other members.
    #[must_use]
    pub fn snapshots_in_sending(&self) -> usize {
        self.sending.transfers.len()
    }

    /// Members for whom a snapshot is on its way.
    pub fn snapshot_receivers(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.sending.transfers.keys().copied()
    }

    fn note_sent(&mut self, member: MemberId, arrived: bool, began_us: u64) {
        self.durations.transfers.push(TransferEnd {
            member,
            is_received: false,
            arrived,
            took_us: self.now_us.saturating_sub(began_us),
        });
    }

    fn take_pieces(&mut self) {
        while let Some((number, piece)) = self.snapshots.take_piece() {
            let mut transfers = self.sending.transfers.values_mut();
            let found = transfers.find_map(|transfer| {
                let mut pieces = transfer.pieces.iter();
                let place = pieces.position(|(wanted, ..)| *wanted == number)?;
                Some((transfer, place))
            });
            // One that nobody waits for was asked for before its transfer went back or ended.
            let Some((transfer, place)) = found else {
                continue;
            };
            match piece {
                Ok(piece) => transfer.pieces[place].2 = Some(piece),
                Err(error) => {
                    tracing::error!(%error, "a snapshot cannot be read to be sent");
                    transfer.stage = Stage::Failed(self.now_us + SNAPSHOT_RETRY_US);
                }
            }
        }
    }

    /// Ends those that raft does not wait for any more, and those that lead to nothing.
    fn end_transfers(&mut self) {
        let progress = self.node.progress();
        let waiting = |member: MemberId| {
            let mut peers = progress.iter();
            peers.any(|peer| peer.member == member && matches!(peer.feed, Feed::Snapshot(_)))
        };
        let now_us = self.now_us;
        let mut failed = Vec::new();
        self.sending.transfers.retain(|member, transfer| {
            let is_over = match transfer.stage {
                Stage::Failed(at_us) => now_us >= at_us,
                _ => now_us >= transfer.heard_at_us + SNAPSHOT_ABANDONED_AFTER_US,
            };
            if is_over {
                failed.push((*member, transfer.began_us));
            }
            !is_over && waiting(*member)
        });
        for (member, began_us) in failed {
            tracing::warn!(%member, "a snapshot did not arrive; it is offered again");
            self.facts.snapshots_unsent += 1;
            self.note_sent(member, false, began_us);
            self.node.report_snapshot(member, false);
        }
    }

    fn advance_transfer(&mut self, to: MemberId, transfer: &mut Transfer) {
        if self.now_us >= transfer.moved_at_us + SNAPSHOT_REPEAT_US
            && !matches!(transfer.stage, Stage::Failed(_))
        {
            transfer.stage = Stage::Offered;
            transfer.moved_at_us = self.now_us;
            self.group_send(to, Item::SnapshotOffer(transfer.offer.clone()));
        }
        if transfer.stage != Stage::Flowing {
            return;
        }
        while transfer.may_ask() && self.sending.allowance > 0 {
            let left = transfer.offer.file_bytes - transfer.asked;
            let bytes = left.min(self.config.slices.snapshot_piece_bytes);
            self.sending.next_piece += 1;
            let number = self.sending.next_piece;
            self.snapshots
                .read_piece(&transfer.snapshot, transfer.asked, bytes as usize, number);
            transfer.pieces.push_back((number, transfer.asked, None));
            transfer.asked += bytes;
            self.sending.allowance -= bytes as i64;
        }
        while let Some((_, _, Some(_))) = transfer.pieces.front()
            && let Some((_, offset, Some(data))) = transfer.pieces.pop_front()
        {
            let transfer = transfer.offer.transfer;
            let data = Item::SnapshotData {
                transfer,
                offset,
                data,
            };
            self.group_send(to, data);
        }
    }
}

impl Sending {
    fn top_up(&mut self, now_us: u64, bytes_per_second: u64, is_unhurried: bool) {
        let passed_us = now_us - self.allowed_at_us;
        self.allowed_at_us = now_us;
        let earned = u128::from(bytes_per_second) * u128::from(passed_us) / 1_000_000;
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.allowance = if is_unhurried {
            self.allowance
                .saturating_add(earned)
                .min(CHECKPOINT_BURST_BYTES)
        } else {
            i64::MAX
        };
    }
}

impl Transfer {
    /// Whether another piece of the file is wanted.
    fn may_ask(&self) -> bool {
        self.stage == Stage::Flowing
            && self.asked < self.offer.file_bytes.min(self.have + SNAPSHOT_WINDOW_BYTES)
    }

    fn go_on_from(&mut self, have: u64) {
        self.stage = Stage::Flowing;
        self.have = have;
        self.asked = have;
        self.pieces.clear();
    }
}

/// The last entry in a snapshot.
pub(super) fn mark_of(snapshot: &Snapshot) -> Mark {
    let applied = snapshot.meta().applied;
    Mark {
        index: applied.index,
        term: applied.term,
    }
}

/// A snapshot as the group knows it; none of one that does not know its cluster.
pub(super) fn snapshot_mark(snapshot: &Snapshot) -> Option<SnapshotMark> {
    let membership = membership_of(&snapshot.meta().cluster)?;
    Some(SnapshotMark {
        at: mark_of(snapshot),
        membership,
    })
}
