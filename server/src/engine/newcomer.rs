//! A member that has just come to its cluster has an empty state, and says nothing of it.
//!
//! What it holds before the first snapshot or the log of the others has arrived is no older state of the cluster: it is none.
//! A client that reads there, though it does not ask for the newest, would find that nothing was ever written; one that
//! watches from now on would be told all of the past as news. etcd 3.5.1 answers no client before it has
//! applied, from the log, what it published about itself: not even a serializable read, a health check or a status. Here
//! the same entry decides about everything that comes from the state. Status and health say how the member is, so
//! they are answered; serializable reads are refused with an error after which clients ask another member; linearizable ones wait
//! for their index anyway; watches are opened when there is something to watch.
//!
//! It is decided once in the life of a data directory: what a member had before a restart it may tell, with a leader or
//! without. There it serves more than etcd, which waits for a leader at every start.

use keelson_storage::io::Disk;

use super::shard::Engine;

/// What waits until this member has a state.
#[derive(Debug, Default)]
pub(super) struct Newcomer {
    /// Set for good when it has.
    is_settled: bool,
    /// Cores that want to open watches, in the order in which they asked. Each asks once.
    watch_opens: Vec<usize>,
}

impl<D: Disk> Engine<D> {
    /// Whether the state is one in which this member has started, so one that the cluster had when it was there.
    pub(super) fn knows_itself(&mut self) -> bool {
        if !self.newcomer.is_settled {
            let known = self.state.cluster().members.get(&self.config.member);
            let is_whole = !self.is_rejoining() && self.applying.is_none();
            self.newcomer.is_settled = is_whole && known.is_some_and(|known| known.is_started());
        }
        self.newcomer.is_settled
    }

    /// Opens a core's watches, or has them wait for something to watch.
    pub(super) fn ask_watch_open(&mut self, port: usize) {
        if self.knows_itself() {
            self.open_watch(port);
        } else {
            self.newcomer.watch_opens.push(port);
        }
    }

    /// Opens the watches that waited.
    pub(super) fn review_newcomer(&mut self) {
        if self.newcomer.watch_opens.is_empty() || !self.knows_itself() {
            return;
        }
        for port in std::mem::take(&mut self.newcomer.watch_opens) {
            self.open_watch(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keelson_proto::ApiError;
    use keelson_proto::etcdserverpb::RangeRequest;
    use keelson_storage::io::SimDisk;

    use super::*;
    use crate::engine::engine_tests::{crash, disks};
    use crate::engine::forced_tests::{add, ask as write, put, run, start};
    use crate::engine::message::{Answer, Ask, Inbound, NO_TOKEN, Outbound, Token};
    use crate::runtime::ManualClock;

    fn serializable() -> Ask {
        Ask::Range(RangeRequest {
            key: Bytes::from_static(b"before"),
            serializable: true,
            ..RangeRequest::default()
        })
    }

    fn answer(engine: &mut Engine<SimDisk>, ask: Ask) -> Result<Answer, ApiError> {
        while engine.take_reply(0).is_some() {}
        let token = Token(7);
        engine.on_inbound(0, Inbound { token, ask });
        match engine.take_reply(0) {
            Some(Outbound::Reply { result, .. }) => result,
            other => panic!("a read of its own state is answered at once: {other:?}"),
        }
    }

    fn opened_at(engine: &mut Engine<SimDisk>) -> Option<i64> {
        let mut replies = std::iter::from_fn(|| engine.take_reply(0));
        replies.find_map(|reply| match reply {
            Outbound::WatchOpened { revision, .. } => Some(revision.0),
            _ => None,
        })
    }

    fn found(answer: &Result<Answer, ApiError>) -> usize {
        match answer {
            Ok(Answer::Range(_, selection)) => selection.records.len(),
            other => panic!("not a range: {other:?}"),
        }
    }

    #[test]
    fn g_r_3_a_newcomer_tells_nothing_of_its_empty_state() {
        let clock = ManualClock::default();
        let mut first = start(0, disks(1), (1, false), &clock);
        write(&mut first, add(1, true));
        write(&mut first, put("before"));
        for _ in 0..20 {
            first.step(&clock).expect("the disk works");
        }
        let mut second = start(1, disks(2), (2, false), &clock);
        second.step(&clock).expect("the disk works");
        for ask in [
            serializable(),
            Ask::Members {
                linearizable: false,
            },
            Ask::Hash { revision: 0 },
            Ask::PinSnapshot,
        ] {
            let told = answer(&mut second, ask);
            assert!(matches!(told, Err(ApiError::NoLeader)), "{told:?}");
        }
        assert!(answer(&mut second, Ask::Status).is_ok());
        assert!(answer(&mut second, Ask::Health).is_ok());
        let (token, ask) = (NO_TOKEN, Ask::WatchOpen);
        second.on_inbound(0, Inbound { token, ask });
        second.step(&clock).expect("the disk works");
        assert_eq!(opened_at(&mut second), None);
        let mut pair = [first, second];
        run(&mut pair, 1_000, &clock);
        // Nothing that was there before it is news.
        let revision = pair[0].state().revision();
        assert_eq!(opened_at(&mut pair[1]), Some(revision.0));
        assert_eq!(found(&answer(&mut pair[1], serializable())), 1);
        // What is committed gets to its disk with the next entry.
        write(&mut pair[0], put("later"));
        run(&mut pair, 100, &clock);
        let [_, second] = pair;
        // What it had, it tells again, with a leader or without.
        let mut second = start(1, crash(second), (3, false), &clock);
        assert_eq!(found(&answer(&mut second, serializable())), 1);
    }
}
