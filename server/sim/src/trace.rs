//! What a run leaves: its digest, its last events, and how often rare things happened.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Events that are kept for a report.
const KEPT_COUNT: usize = 100;
/// The longest text of an event.
const TEXT_CHARS_MAX: usize = 600;

thread_local! {
    /// The seed that a thread runs and its last events: a panic hook has nothing else to find them by.
    static KEPT: RefCell<(u64, VecDeque<(u64, String)>)> = RefCell::default();
}

/// What is rare, and has to happen at least once in so many seeds from 1 on: a run that never gets there shows nothing
/// about it.
pub const RARE: [(&str, u64); 26] = [
    ("answer from the disk", 50),
    ("bit rot", 200),
    ("clock jump", 200),
    ("crash", 50),
    ("cut one way", 50),
    ("damage found", 200),
    ("damage repaired: member whole again", 200),
    ("damage repaired: snapshot replaced", 1000),
    ("disk stuck", 50),
    ("entry that waits for a value", 50),
    ("leader change during a change of the members", 1000),
    ("leader steps down", 50),
    ("leader transfer", 50),
    ("lease expired under a new leader", 1000),
    ("list of another shard", 50),
    ("log cut off by a new leader", 1000),
    ("member added", 200),
    ("member ended by its disk", 500),
    ("member removed", 500),
    ("message twice", 50),
    ("process stands still", 50),
    ("snapshot received", 50),
    ("torn end of a log cut off", 50),
    ("watch cancelled by compaction", 50),
    ("watch response in fragments", 50),
    ("write of unknown fate that happened", 50),
];

/// A thread begins a run.
pub fn begin(seed: u64) {
    KEPT.set((seed, VecDeque::new()));
}

/// The seed that this thread runs, and its last events, a line each.
#[must_use]
pub fn last() -> (u64, Vec<String>) {
    KEPT.with_borrow(|(seed, kept)| {
        let lines = kept.iter().map(|(at_us, what)| line(*at_us, what));
        (*seed, lines.collect())
    })
}

/// The record of a run.
#[derive(Debug)]
pub struct Trace {
    digest: u64,
    counts: BTreeMap<&'static str, u64>,
    is_told: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            digest: 0xcbf2_9ce4_8422_2325,
            counts: BTreeMap::new(),
            is_told: false,
        }
    }
}

fn line(at_us: u64, what: &str) -> String {
    format!("{:>12.6} s  {what}", at_us as f64 / 1_000_000.0)
}

/// A text for a reader: values are padded, and requests have many fields that are empty.
fn shortened(text: &str) -> String {
    let mut short = String::with_capacity(text.len().min(TEXT_CHARS_MAX));
    for char in text.chars() {
        if char == '-' && short.ends_with('-') {
            continue;
        }
        short.push(char);
        if short.len() >= TEXT_CHARS_MAX {
            short.push_str("...");
            break;
        }
    }
    short
}

impl Trace {
    /// Every event is printed when it happens.
    pub fn tell(&mut self) {
        self.is_told = true;
    }

    /// Something happened that belongs into the report of a failure.
    pub fn event(&mut self, at_us: u64, what: fmt::Arguments<'_>) {
        let text = shortened(&what.to_string());
        self.bytes(&at_us.to_le_bytes());
        self.bytes(text.as_bytes());
        if self.is_told {
            println!("{}", line(at_us, &text));
        }
        KEPT.with_borrow_mut(|(_, kept)| {
            if kept.len() == KEPT_COUNT {
                kept.pop_front();
            }
            kept.push_back((at_us, text));
        });
    }

    /// Something that is counted by name happened.
    pub fn count(&mut self, what: &'static str) {
        self.count_many(what, 1);
    }

    /// It happened so often.
    pub fn count_many(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    /// A number that tells runs apart.
    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// FNV-1a, which is the same everywhere.
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest ^= u64::from(*byte);
            self.digest = self.digest.wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Equal for equal runs.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Counts by name.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }
}
