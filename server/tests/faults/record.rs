//! What clients asked and heard, with times of one clock, as it happens.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::check::{Call, EventLog, Op, Outcome, Violation, Watch};

/// Shared by everybody who takes part in a round.
#[derive(Clone, Debug)]
pub struct Record(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    pages: Mutex<Pages>,
    /// Clients ask nothing new.
    is_quiet: AtomicBool,
    /// The revision up to which every change is written down.
    revision: AtomicI64,
    /// The revision up to which watches must deliver before they may end; 0 as long as they must go on.
    last_revision: AtomicI64,
}

/// All that is written down.
#[derive(Debug, Default)]
pub struct Pages {
    /// Operations.
    pub ops: Vec<Op>,
    /// Watches.
    pub watches: Vec<Watch>,
    /// Every change, and when it was seen.
    pub log: EventLog,
    /// When each revision was seen, from 2 on.
    pub seen_us: Vec<u64>,
    /// What befell the cluster.
    pub timeline: Vec<(u64, String)>,
    /// Promises that were seen to be broken already.
    pub violations: Vec<Violation>,
}

impl Record {
    /// An empty one; its clock begins now.
    pub fn new() -> Record {
        Record(Arc::new(Shared {
            started: Instant::now(),
            pages: Mutex::default(),
            is_quiet: AtomicBool::new(false),
            revision: AtomicI64::new(1),
            last_revision: AtomicI64::new(0),
        }))
    }

    /// Microseconds since the record began.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_micros()).expect("a round ends before that")
    }

    /// What is written down so far.
    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0
            .pages
            .lock()
            .expect("nobody panics while holding the record")
    }

    /// A client is about to send something; the operation's number.
    pub fn invoke(&self, client: u32, member: usize, call: Call) -> usize {
        let ops = &mut self.pages().ops;
        ops.push(Op {
            client,
            member: member as u64,
            invoked_us: self.now_us(),
            returned_us: None,
            call,
            outcome: Outcome::Unknown,
        });
        ops.len() - 1
    }

    /// An answer came.
    pub fn conclude(&self, number: usize, outcome: Outcome) {
        let op = &mut self.pages().ops[number];
        op.returned_us = Some(self.now_us());
        op.outcome = outcome;
    }

    /// Something befell the cluster.
    pub fn note(&self, what: impl Into<String>) {
        let (at_us, what) = (self.now_us(), what.into());
        println!("{:9.3} s  {what}", at_us as f64 / 1e6);
        self.pages().timeline.push((at_us, what));
    }

    /// Clients ask nothing new from now on.
    pub fn be_quiet(&self) {
        self.0.is_quiet.store(true, Ordering::SeqCst);
    }

    /// Whether they do not.
    pub fn is_quiet(&self) -> bool {
        self.0.is_quiet.load(Ordering::SeqCst)
    }

    /// Every change up to this revision is written down.
    pub fn revision(&self) -> i64 {
        self.0.revision.load(Ordering::SeqCst)
    }

    /// More changes are.
    pub fn reached(&self, revision: i64) {
        self.0.revision.store(revision, Ordering::SeqCst);
    }

    /// Watches may end that have delivered everything up to here.
    pub fn end_watches_at(&self, revision: i64) {
        self.0.last_revision.store(revision, Ordering::SeqCst);
    }

    /// Whether a watch that has delivered everything up to `revision` may end.
    pub fn may_end_at(&self, revision: i64) -> bool {
        let last = self.0.last_revision.load(Ordering::SeqCst);
        last > 0 && revision >= last
    }
}
