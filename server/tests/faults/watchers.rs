//! Watches that go on where they stood, at another member, when one fails. The scribe is a watch of everything that
//! also writes down every change, which is what all others are judged by.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{WatchFilterType, WatchOptions, WatchStream};
use fastrand::Rng;

use crate::check::{Event, Seen, Watch, WatchEvent, WatchWanted};
use crate::load::connect;
use crate::record::Record;
use crate::translate;

/// A watch that hears nothing for so long asks where it stands, and tries another member when that is not answered.
const SILENCE_MAX: Duration = Duration::from_millis(500);
const UNANSWERED_MAX: u32 = 6;
const PAUSE: Duration = Duration::from_millis(100);

/// Somebody who watches.
pub struct Watcher {
    number: u32,
    record: Record,
    endpoints: Vec<String>,
    home: usize,
    dice: Rng,
    wanted: WatchWanted,
    is_scribe: bool,
    /// Goes on from here; 0 for what comes from now on.
    next: i64,
    /// Knows everything that it wants up to here.
    reached: i64,
}

impl Watcher {
    /// The one who writes everything down.
    pub fn scribe(number: u32, record: &Record, endpoints: &[String], seed: u64) -> Watcher {
        let wanted = WatchWanted {
            key: vec![0].into(),
            range_end: vec![0].into(),
            prev_kv: true,
            ..WatchWanted::default()
        };
        Watcher {
            next: 2,
            is_scribe: true,
            ..Watcher::new(number, record, endpoints, seed, wanted)
        }
    }

    /// One of the others, who want this and that.
    pub fn any(number: u32, record: &Record, endpoints: &[String], seed: u64) -> Watcher {
        let mut dice = Rng::with_seed(seed ^ u64::from(number));
        let (key, range_end): (Bytes, Bytes) = match dice.u32(0..4) {
            0 => ("k/03".into(), Bytes::new()),
            1 => ("k/".into(), "k0".into()),
            2 => ("l/".into(), "l0".into()),
            _ => (vec![0].into(), vec![0].into()),
        };
        let wanted = WatchWanted {
            key,
            range_end,
            prev_kv: dice.bool(),
            no_put: dice.u32(0..6) == 0,
            no_delete: dice.u32(0..6) == 0,
            ..WatchWanted::default()
        };
        Watcher::new(number, record, endpoints, seed, wanted)
    }

    fn new(
        number: u32,
        record: &Record,
        endpoints: &[String],
        seed: u64,
        wanted: WatchWanted,
    ) -> Watcher {
        Watcher {
            number,
            record: record.clone(),
            endpoints: endpoints.to_vec(),
            home: number as usize % endpoints.len(),
            dice: Rng::with_seed(seed ^ u64::from(number) << 16),
            wanted,
            is_scribe: false,
            next: 0,
            reached: 0,
        }
    }

    /// Watches until the record allows it to end.
    pub async fn run(mut self) {
        while !self.record.may_end_at(self.reached) {
            let mut watch = Watch {
                client: self.number,
                member: self.home as u64,
                wanted: WatchWanted {
                    start_revision: self.next,
                    ..self.wanted.clone()
                },
                seen: Vec::new(),
                is_complete: false,
            };
            if let Some(mut stream) = self.open(&watch.wanted).await {
                watch.is_complete = self.follow(&mut stream, &mut watch).await;
            }
            if !watch.seen.is_empty() {
                self.record.pages().watches.push(watch);
            }
            self.home = self.dice.usize(0..self.endpoints.len());
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open(&self, wanted: &WatchWanted) -> Option<WatchStream> {
        let mut options = WatchOptions::new().with_start_revision(wanted.start_revision);
        if !wanted.range_end.is_empty() {
            options = options.with_range(wanted.range_end.to_vec());
        }
        if wanted.prev_kv {
            options = options.with_prev_key();
        }
        let puts = wanted.no_put.then_some(WatchFilterType::NoPut);
        let deletes = wanted.no_delete.then_some(WatchFilterType::NoDelete);
        options = options.with_filters(puts.into_iter().chain(deletes).collect::<Vec<_>>());
        let mut client = connect(&self.endpoints[self.home]).await.ok()?;
        let key = wanted.key.to_vec();
        let opening = client.watch(key, Some(options));
        let opened = tokio::time::timeout(Duration::from_secs(2), opening).await;
        opened.ok()?.ok()
    }

    /// Whether it has got everything and may end; false if the stream has failed.
    async fn follow(&mut self, stream: &mut WatchStream, watch: &mut Watch) -> bool {
        let mut unanswered = 0;
        loop {
            if self.record.may_end_at(self.reached) {
                return true;
            }
            let Ok(message) = tokio::time::timeout(SILENCE_MAX, stream.message()).await else {
                unanswered += 1;
                if unanswered > UNANSWERED_MAX || stream.request_progress().await.is_err() {
                    return false;
                }
                continue;
            };
            let Ok(Some(response)) = message else {
                return false;
            };
            unanswered = 0;
            let seen = translate::seen(&response);
            watch.seen.push((self.record.now_us(), seen.clone()));
            if !self.see(seen) {
                return false;
            }
        }
    }

    /// Whether the watch goes on.
    fn see(&mut self, seen: Seen) -> bool {
        match seen {
            Seen::Created { revision } => {
                if self.next == 0 {
                    self.next = revision + 1;
                }
            }
            Seen::Progress { revision } => {
                self.reached = self.reached.max(revision);
                self.next = self.next.max(revision + 1);
            }
            Seen::Events { events, .. } => {
                let last = events.last().map_or(0, |event| event.mod_revision);
                self.reached = self.reached.max(last);
                self.next = self.next.max(last + 1);
                if self.is_scribe {
                    self.write_down(&events);
                }
            }
            Seen::Canceled { compact_revision } => {
                self.next = self.next.max(compact_revision);
                return false;
            }
        }
        true
    }

    fn write_down(&self, events: &[WatchEvent]) {
        let pages = &mut *self.record.pages();
        let now_us = self.record.now_us();
        for revision in events.chunk_by(|one, next| one.mod_revision == next.mod_revision) {
            let changes: Vec<Event> = revision.iter().map(translate::change).collect();
            match pages.log.push(changes) {
                Ok(()) => pages.seen_us.push(now_us),
                Err(violation) => pages.violations.push(violation),
            }
        }
        self.record.reached(pages.log.revision());
    }
}
