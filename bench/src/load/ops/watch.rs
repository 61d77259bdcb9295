//! watch and watch-latency: one writer whose writes many watchers see.
//!
//! An operation is one event at one watcher, timed from the beginning of its write (in an open loop:
//! from when the write was due). A write stays in flight until it is answered and every watcher has
//! seen it, so in a closed loop the fan-out sets the pace and no backlog of events builds up.

use super::super::flow::{Start, share};
use super::super::keys::{KEY_PREFIX, KeyChoice, KeyText, value};
use super::super::net::Net;
use super::super::wire::header_revision;
use super::super::worker::{Shift, Workload};
use super::Share;
use super::requests::put;
use super::stamp::{STAMP_BYTES, Stamp};
use super::watchers::{WATCH_TOKENS, Watchers};
use crate::grpc::{Delivery, Event, Failure, Rpc};
use crate::job::JobSpec;

/// The workload of a writer and its watchers.
pub struct Watch {
    keys: KeyText,
    key: Vec<u8>,
    value: Vec<u8>,
    choice: KeyChoice,
    watchers: Watchers,
    watcher_count: u64,
    writer: u64,
    places: Vec<Write>,
}

/// The write in one place.
#[derive(Clone, Default)]
struct Write {
    turn: u32,
    /// Watchers that have not seen it.
    unseen: u64,
    is_answered: bool,
    has_message: bool,
    /// Neither answered nor seen by all.
    is_under_way: bool,
}

impl Watch {
    /// The writer and the watchers of one worker. Clones of the job have keys of their own.
    pub fn new(share_of: Share<'_>) -> Self {
        let job = share_of.job;
        let keys = keys(job, share_of.worker);
        let workers = job.numjobs as usize;
        let watchers = share(u64::from(job.watchers), share_of.worker, workers);
        let watcher_count = watchers.end - watchers.start;
        let per_stream = u64::from(job.watchers_per_stream).max(1);
        let range = keys.range();
        let streams = (0..watcher_count.div_ceil(per_stream)).map(|stream| {
            let count = per_stream.min(watcher_count - stream * per_stream);
            (0..count).map(|_| range.clone()).collect()
        });
        Self {
            key: keys.key(0),
            keys,
            value: value(job.seed, job.value_bytes.max(STAMP_BYTES as u64)),
            choice: KeyChoice::new(job, share_of.worker),
            watchers: Watchers::new(streams.collect()),
            watcher_count,
            writer: share_of.writer(),
            places: vec![Write::default(); job.iodepth as usize],
        }
    }

    fn on_write_event(&mut self, place: u32, event: Event<'_>, shift: &mut Shift) {
        let write = &mut self.places[place as usize];
        match event {
            Event::Message(message) => write.has_message = header_revision(message).is_ok(),
            Event::Piece { .. } => unreachable!("whole messages were asked for"),
            Event::End(Ok(())) if write.has_message => {
                write.is_answered = true;
                write.finish(place, shift);
            }
            Event::End(outcome) => {
                let strange = Failure::Answer("not the expected message");
                // The place may be given up already, with the watchers.
                if std::mem::take(&mut write.is_under_way) {
                    shift.fail(place, &outcome.err().unwrap_or(strange));
                }
            }
        }
    }

    fn on_watch_event(&mut self, event: Event<'_>, shift: &mut Shift) {
        let (places, writer) = (&mut self.places, self.writer);
        let taken = self.watchers.on_event(event, |value| {
            let Some(stamp) = Stamp::read(value, writer) else {
                return;
            };
            shift.record(0, stamp.began);
            let Some(write) = places.get_mut(stamp.place as usize) else {
                return;
            };
            if write.turn == stamp.turn && write.is_under_way {
                write.unseen = write.unseen.saturating_sub(1);
                write.finish(stamp.place, shift);
            }
        });
        let Err(failure) = taken else { return };
        shift.tally.record_failure(&failure);
        // Nobody sees these any more.
        for (place, write) in places.iter_mut().enumerate() {
            if std::mem::take(&mut write.is_under_way) {
                shift.fail(place as u32, &failure);
            }
        }
    }
}

impl Write {
    /// Makes room for the next write if nothing of this one is missing.
    fn finish(&mut self, place: u32, shift: &mut Shift) {
        if self.is_under_way && self.is_answered && self.unseen == 0 {
            self.is_under_way = false;
            shift.flow.release(place);
        }
    }
}

impl Workload for Watch {
    fn prepare(&mut self, net: &mut Net) {
        self.watchers.open(net);
    }

    fn is_ready(&self) -> Result<bool, Failure> {
        self.watchers.is_ready()
    }

    fn start(&mut self, start: Start, net: &mut Net, shift: &mut Shift) {
        let place = start.place;
        if let Some(failure) = self.watchers.failure() {
            shift.fail(place, &failure.clone());
            return;
        }
        let write = &mut self.places[place as usize];
        *write = Write {
            turn: write.turn.wrapping_add(1),
            unseen: self.watcher_count,
            is_under_way: true,
            ..Write::default()
        };
        let stamp = Stamp {
            writer: self.writer,
            began: shift.flow.began(place),
            place,
            turn: write.turn,
        };
        stamp.write(&mut self.value);
        self.keys.patch(&mut self.key, self.choice.next());
        let (key, value) = (&self.key, &self.value);
        net.session(place as usize)
            .call(Rpc::Put, place, Delivery::Unary, |out| {
                put(out, key, value, 0);
            });
    }

    fn go_on(&mut self, _place: u32, _net: &mut Net, _shift: &mut Shift) {
        unreachable!("a write is one request");
    }

    fn on_event(&mut self, token: u32, event: Event<'_>, shift: &mut Shift) {
        if token < WATCH_TOKENS {
            self.on_write_event(token, event, shift);
        } else {
            self.on_watch_event(event, shift);
        }
    }
}

/// The keys of one clone: watchers of one must not see what another writes.
fn keys(job: &JobSpec, worker: usize) -> KeyText {
    if job.numjobs == 1 {
        return KeyText::of(job);
    }
    let prefix = [KEY_PREFIX, format!("{worker:02}/").as_bytes()].concat();
    KeyText::new(&prefix, usize::try_from(job.key_bytes).unwrap_or(0))
}
