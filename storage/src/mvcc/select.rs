//! Reading a span of keys: a Range request turned into a plan, walked in steps, and finished.
//!
//! The plan is etcd's, including its odd parts. Without a sort order the walk stops one key after the
//! limit, and if a sort target other than the key was named, those keys are then sorted ascending and
//! cut to the limit again. With a sort order or with revision filters everything is fetched, filtered,
//! sorted and then cut. `count` is the number of keys in the span at the read revision; neither limit
//! nor filters change it.
//!
//! A select is pinned to the revision it began at. Each step visits a bounded number of keys and
//! remembers the next one, so the tree may change between steps. The count of a select that does not
//! visit the whole span costs O(log n) at the newest revision; at an older one it is that number with
//! the changes since undone, or a walk if the change log since then is longer than the span.

use std::cmp::Ordering;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};

use crate::ids::Revision;
use crate::mvcc::layers::Found;
use crate::mvcc::record::Record;
use crate::mvcc::scrub::Pin;
use crate::mvcc::store::Store;

/// Undoing a change costs less than visiting a key, by about this factor.
const KEY_PER_CHANGE_COST: u64 = 2;

/// Which keys a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Exactly one.
    Key(Bytes),
    /// All from `start` up to but not including `end`; without an end, to the last.
    Range {
        /// The first.
        start: Bytes,
        /// The first that is not in it.
        end: Option<Bytes>,
    },
}

/// What a select returns.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The versions, in the order they were asked for.
    pub records: Vec<Record>,
    /// The number of keys in the range at the read revision, whatever limit and filters say.
    pub count: i64,
    /// Whether the limit cut something off.
    pub more: bool,
    /// The header's revision: the store's when the select began.
    pub revision: Revision,
    /// Whether values are left out of the answer.
    pub keys_only: bool,
}

/// A select that is answered in steps.
#[derive(Debug)]
pub struct Select {
    plan: Plan,
    /// What is read.
    revision: Revision,
    /// What the header says.
    newest: Revision,
    stage: Stage,
    /// The first key the next step visits.
    cursor: Bytes,
    records: Vec<Record>,
    count: i64,
    pin: Option<Pin>,
}

#[derive(Debug)]
struct Plan {
    span: Span,
    limit: usize,
    /// Stop fetching after this many matches.
    fetch_max: usize,
    sort: Option<(SortTarget, SortOrder)>,
    filters: Option<Filters>,
    keys_only: bool,
    count_only: bool,
}

#[derive(Debug)]
struct Filters {
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

#[derive(Debug)]
enum Stage {
    /// Fetching and counting at once, from `cursor` on.
    Fetch,
    /// Only counting, from `cursor` on.
    CountKeys,
    /// `count` is the count at `newest`; the changes of these ordinals are to be undone.
    UndoChanges {
        next: u64,
        end: u64,
    },
    Done,
}

impl Span {
    /// etcd's rule: no end means one key, an end of one zero byte means no end.
    pub(crate) fn new(key: &Bytes, range_end: &Bytes) -> Self {
        match &range_end[..] {
            [] => Self::Key(key.clone()),
            [0] => Self::Range {
                start: key.clone(),
                end: None,
            },
            _ => Self::Range {
                start: key.clone(),
                end: Some(range_end.clone()),
            },
        }
    }

    /// Whether a key is in it.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.contains_by(|other| key.cmp(other))
    }

    /// Whether a key is in it that is compared with others by `compare`.
    pub(crate) fn contains_by(&self, compare: impl Fn(&[u8]) -> Ordering) -> bool {
        match self {
            Self::Key(only) => compare(only).is_eq(),
            Self::Range { start, end } => {
                compare(start).is_ge() && end.as_ref().is_none_or(|end| compare(end).is_lt())
            }
        }
    }
}

impl Selection {
    /// The response message, with only the header's revision set. Records whose values have to be
    /// filled in are added to `cold`, in the order of the message.
    #[must_use]
    pub fn into_response(self, cold: &mut Vec<Record>) -> RangeResponse {
        let kvs = self.records.iter().map(|record| {
            if self.keys_only {
                record.key_value_keys_only()
            } else {
                record.key_value_or_cold(cold)
            }
        });
        RangeResponse {
            header: Some(ResponseHeader {
                revision: self.revision.0,
                ..ResponseHeader::default()
            }),
            kvs: kvs.collect(),
            more: self.more,
            count: self.count,
        }
    }
}

impl Select {
    /// Checks the revision and plans the walk.
    pub(crate) fn begin(store: &Store, request: &RangeRequest) -> Result<Self, ApiError> {
        let newest = store.read_revision();
        if request.revision > newest.0 {
            return Err(ApiError::FutureRev);
        }
        let revision = if request.revision <= 0 {
            newest
        } else {
            Revision(request.revision)
        };
        if revision < store.compact_revision() {
            return Err(ApiError::Compacted);
        }
        let plan = Plan::new(request);
        let cursor = match &plan.span {
            Span::Key(key) => key.clone(),
            Span::Range { start, .. } => start.clone(),
        };
        let mut select = Self {
            plan,
            revision,
            newest,
            stage: Stage::Fetch,
            cursor,
            records: Vec::new(),
            count: 0,
            pin: None,
        };
        if select.plan.count_only {
            select.begin_count(store);
        }
        Ok(select)
    }

    /// The revision it reads.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn pinned(self, pin: Pin) -> Self {
        Self {
            pin: Some(pin),
            ..self
        }
    }

    /// The records that are put in order by their values, some of which are on the disk: they have to be
    /// made whole before the select can be completed. None if there are no such.
    pub fn unsorted(&mut self) -> Option<&mut [Record]> {
        let by_value = matches!(self.plan.sort, Some((SortTarget::Value, _)));
        let is_complete = matches!(self.stage, Stage::Done);
        let waits =
            by_value && is_complete && self.records.iter().any(|record| record.place().is_some());
        waits.then_some(&mut self.records)
    }

    /// Visits at most `budget` keys or changes; the answer once there are no more to visit.
    pub(crate) fn step(&mut self, store: &Store, budget: usize) -> Option<Selection> {
        let budget = budget.max(1);
        match self.stage {
            Stage::Fetch => self.fetch(store, budget),
            Stage::CountKeys => self.count_keys(store, budget),
            Stage::UndoChanges { next, end } => self.undo_changes(store, next, end, budget),
            Stage::Done => {}
        }
        let is_complete = matches!(self.stage, Stage::Done) && self.unsorted().is_none();
        is_complete.then(|| self.finish())
    }

    /// Sorts, cuts, hands over and lets go of the revision.
    fn finish(&mut self) -> Selection {
        self.pin = None;
        let mut records = std::mem::take(&mut self.records);
        if let Some((target, order)) = self.plan.sort {
            records.sort_by(|left, right| {
                let ordering = compare_by(target, left, right);
                if order == SortOrder::Descend {
                    ordering.reverse()
                } else {
                    ordering
                }
            });
        }
        let more = records.len() > self.plan.limit;
        records.truncate(self.plan.limit);
        Selection {
            records,
            count: self.count,
            more,
            revision: self.newest,
            keys_only: self.plan.keys_only,
        }
    }

    fn fetch(&mut self, store: &Store, budget: usize) {
        let Self {
            plan,
            records,
            count,
            ..
        } = self;
        let revision = self.revision;
        let mut stopped_early = false;
        let next = visit(store, &plan.span, &self.cursor, revision, budget, |found| {
            *count += 1;
            if plan
                .filters
                .as_ref()
                .is_none_or(|filters| filters.admit(found))
            {
                records.push(store.record_of(found));
            }
            stopped_early = records.len() >= plan.fetch_max;
            !stopped_early
        });
        match next {
            Some(next) => self.cursor = next,
            None if stopped_early => self.begin_count(store),
            None => self.stage = Stage::Done,
        }
    }

    /// Decides how the whole span is counted. The count so far is dropped.
    fn begin_count(&mut self, store: &Store) {
        self.count = 0;
        let Span::Range { start, end } = &self.plan.span else {
            // One key: visiting it is the count.
            self.stage = Stage::CountKeys;
            return;
        };
        let live = store.live_between(start, end.as_deref());
        let (next, end) = (
            store.change_ordinal_of(self.revision.next()),
            store.next_change_ordinal(),
        );
        if end - next <= live.saturating_mul(KEY_PER_CHANGE_COST) {
            self.count = live.cast_signed();
            self.stage = Stage::UndoChanges { next, end };
            if next == end {
                self.stage = Stage::Done;
            }
        } else {
            self.cursor = start.clone();
            self.stage = Stage::CountKeys;
        }
    }

    fn count_keys(&mut self, store: &Store, budget: usize) {
        let mut count = 0;
        let next = visit(
            store,
            &self.plan.span,
            &self.cursor,
            self.revision,
            budget,
            |_| {
                count += 1;
                true
            },
        );
        self.count += count;
        match next {
            Some(next) => self.cursor = next,
            None => self.stage = Stage::Done,
        }
    }

    fn undo_changes(&mut self, store: &Store, next: u64, end: u64, budget: usize) {
        let until = end.min(next.saturating_add(budget as u64));
        for change in store.changes_between(next, until) {
            let delta = change.count_delta();
            if delta != 0 && change.is_in(&self.plan.span) {
                self.count -= delta;
            }
        }
        self.stage = if until == end {
            Stage::Done
        } else {
            Stage::UndoChanges { next: until, end }
        };
    }
}

impl Plan {
    fn new(request: &RangeRequest) -> Self {
        let unlimited = usize::MAX;
        let limit = match request.limit {
            limit if limit > 0 => usize::try_from(limit).unwrap_or(unlimited),
            _ => unlimited,
        };
        let filters = Filters::new(request);
        let target = SortTarget::try_from(request.sort_target).ok();
        let order = SortOrder::try_from(request.sort_order).ok();
        // The walk is in ascending key order already, so that needs no sort.
        let sort = match (target, order) {
            (Some(SortTarget::Key), Some(SortOrder::None | SortOrder::Ascend)) => None,
            (Some(target), Some(SortOrder::None)) => Some((target, SortOrder::Ascend)),
            (Some(target), Some(order)) => Some((target, order)),
            _ => None,
        };
        let sorts_before_limit =
            sort.is_some() && (order != Some(SortOrder::None) || filters.is_some());
        let fetch_max = if sorts_before_limit {
            unlimited
        } else {
            limit.saturating_add(1)
        };
        Self {
            span: Span::new(&request.key, &request.range_end),
            limit,
            fetch_max,
            sort,
            filters,
            keys_only: request.keys_only,
            count_only: request.count_only,
        }
    }
}

impl Filters {
    fn new(request: &RangeRequest) -> Option<Self> {
        let span = |min: i64, max: i64| {
            let min = if min == 0 { i64::MIN } else { min };
            let max = if max == 0 { i64::MAX } else { max };
            (min, max)
        };
        let none = request.min_mod_revision == 0
            && request.max_mod_revision == 0
            && request.min_create_revision == 0
            && request.max_create_revision == 0;
        (!none).then(|| Self {
            mod_revision: span(request.min_mod_revision, request.max_mod_revision),
            create_revision: span(request.min_create_revision, request.max_create_revision),
        })
    }

    fn admit(&self, found: Found<'_>) -> bool {
        let within =
            |(min, max): (i64, i64), revision: Revision| min <= revision.0 && revision.0 <= max;
        within(self.mod_revision, found.revision())
            && within(self.create_revision, found.create_revision())
    }
}

/// Visits what a read at `revision` sees of a span, from `cursor` on, until `take` says no or `budget`
/// keys were passed. Returns the key to go on from if it was the budget that ended it.
fn visit(
    store: &Store,
    span: &Span,
    cursor: &Bytes,
    revision: Revision,
    budget: usize,
    mut take: impl FnMut(Found<'_>) -> bool,
) -> Option<Bytes> {
    let Span::Range { end, .. } = span else {
        let versions = store.versions(cursor);
        if let Some(found) = versions.and_then(|versions| versions.live_at(revision)) {
            take(found);
        }
        return None;
    };
    let mut left = budget;
    let mut walk = store.walk(cursor, end.as_deref());
    while let Some((key, versions)) = walk.next() {
        if left == 0 {
            return Some(Bytes::copy_from_slice(key));
        }
        left -= 1;
        if let Some(found) = versions.live_at(revision)
            && !take(found)
        {
            return None;
        }
    }
    None
}

fn compare_by(target: SortTarget, left: &Record, right: &Record) -> Ordering {
    match target {
        SortTarget::Key => left.key().cmp(right.key()),
        SortTarget::Version => left.version.cmp(&right.version),
        SortTarget::Create => left.create_revision.cmp(&right.create_revision),
        SortTarget::Mod => left.revision.cmp(&right.revision),
        SortTarget::Value => left.value().cmp(right.value()),
    }
}
