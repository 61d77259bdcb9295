//! Snapshots on their way to and from other members, by member: etcd's `etcd_network_snapshot_*`.
//!
//! Members come and go while the process runs, and a cell stays where it is. So a core has a place for as many members as a
//! cluster may have; a member takes one with its first snapshot and keeps it. Where all are taken, by members that
//! were removed since, a further one is not counted.

use std::time::Duration;

use keelson_storage::ids::MemberId;
use keelson_storage::limits::CLUSTER_MEMBERS_MAX;

use super::cells::{Counter, Gauge, Histogram, Shape};
use super::registry::Registry;
use super::text::{HistogramSums, Text};

/// etcd's buckets for all of a transfer: 100 ms to about a minute.
const TRANSFER_SHAPE: Shape = Shape::seconds(Duration::from_millis(100), 10);

/// The transfers of one core.
#[derive(Debug)]
pub struct TransferMetrics {
    places: [Place; CLUSTER_MEMBERS_MAX],
}

/// Those with one member.
#[derive(Debug, Default)]
struct Place {
    /// 0 while the place is free.
    member: Gauge,
    sent: TransferCells,
    received: TransferCells,
}

/// Those in one direction.
#[derive(Debug)]
pub struct TransferCells {
    /// Snapshots that arrived.
    pub success: Counter,
    /// Those that did not.
    pub failures: Counter,
    /// Those on their way.
    pub inflights: Gauge,
    /// How long those that arrived took.
    pub duration: Histogram,
}

impl TransferMetrics {
    /// Snapshots for this member.
    pub fn sent_to(&self, member: MemberId) -> Option<&TransferCells> {
        self.place_of(member).map(|place| &place.sent)
    }

    /// Snapshots of this member.
    pub fn received_from(&self, member: MemberId) -> Option<&TransferCells> {
        self.place_of(member).map(|place| &place.received)
    }

    /// No snapshot is on its way; those that are, are said afterwards.
    pub fn clear_inflights(&self) {
        for place in &self.places {
            place.sent.inflights.set(0);
            place.received.inflights.set(0);
        }
    }

    fn place_of(&self, member: MemberId) -> Option<&Place> {
        let mut places = self.places.iter();
        let its = |place: &&Place| [0, member.0].contains(&place.member.value());
        let place = places.find(its)?;
        place.member.set(member.0);
        Some(place)
    }
}

impl TransferCells {
    /// A transfer ended.
    pub fn ended(&self, arrived: bool, took: Duration) {
        if arrived {
            self.success.increment();
            self.duration.observe_duration(took);
        } else {
            self.failures.increment();
        }
    }
}

impl Default for TransferMetrics {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Place::default()),
        }
    }
}

impl Default for TransferCells {
    fn default() -> Self {
        Self {
            success: Counter::default(),
            failures: Counter::default(),
            inflights: Gauge::default(),
            duration: Histogram::new(TRANSFER_SHAPE),
        }
    }
}

/// Which way.
#[derive(Clone, Copy)]
enum Way {
    Send,
    Receive,
}

impl Way {
    fn label(self) -> &'static str {
        match self {
            Self::Send => "To",
            Self::Receive => "From",
        }
    }

    fn cells(self, place: &Place) -> &TransferCells {
        match self {
            Self::Send => &place.sent,
            Self::Receive => &place.received,
        }
    }
}

/// Calls `write` with each member's label and the cells of the core that has its shard; those that have never counted
/// anything stay out, as in etcd.
fn each(registry: &Registry, way: Way, mut write: impl FnMut(&str, &TransferCells)) {
    let cores = registry.cores().iter();
    for place in cores.flat_map(|core| &core.transfers.places) {
        let cells = way.cells(place);
        let ended = cells.success.value() + cells.failures.value();
        if ended + cells.inflights.value() > 0 {
            write(&format!("{:x}", place.member.value()), cells);
        }
    }
}

fn numbers(
    (name, registry, text): (&str, &Registry, &mut Text),
    way: Way,
    of: fn(&TransferCells) -> u64,
) {
    each(registry, way, |member, cells| {
        text.sample(name, &[(way.label(), member)], of(cells) as f64);
    });
}

fn durations((name, registry, text): (&str, &Registry, &mut Text), way: Way) {
    each(registry, way, |member, cells| {
        let sums = HistogramSums::of(&cells.duration);
        text.histogram(name, &[(way.label(), member)], &sums);
    });
}

pub(super) fn send_success(name: &str, registry: &Registry, text: &mut Text) {
    numbers((name, registry, text), Way::Send, |cells| {
        cells.success.value()
    });
}

pub(super) fn send_failures(name: &str, registry: &Registry, text: &mut Text) {
    numbers((name, registry, text), Way::Send, |cells| {
        cells.failures.value()
    });
}

pub(super) fn send_inflights(name: &str, registry: &Registry, text: &mut Text) {
    numbers((name, registry, text), Way::Send, |cells| {
        cells.inflights.value()
    });
}

pub(super) fn send_durations(name: &str, registry: &Registry, text: &mut Text) {
    durations((name, registry, text), Way::Send);
}

pub(super) fn receive_success(name: &str, registry: &Registry, text: &mut Text) {
    numbers((name, registry, text), Way::Receive, |cells| {
        cells.success.value()
    });
}

pub(super) fn receive_failures(name: &str, registry: &Registry, text: &mut Text) {
    numbers((name, registry, text), Way::Receive, |cells| {
        cells.failures.value()
    });
}

pub(super) fn receive_inflights(name: &str, registry: &Registry, text: &mut Text) {
    numbers((name, registry, text), Way::Receive, |cells| {
        cells.inflights.value()
    });
}

pub(super) fn receive_durations(name: &str, registry: &Registry, text: &mut Text) {
    durations((name, registry, text), Way::Receive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_has_its_place_and_none_is_given_twice() {
        let transfers = TransferMetrics::default();
        let ids = || (1..=CLUSTER_MEMBERS_MAX as u64).map(MemberId);
        for member in ids() {
            let cells = transfers.sent_to(member).expect("there is a place");
            cells.ended(true, Duration::from_secs(member.0));
        }
        assert!(transfers.received_from(MemberId(99)).is_none());
        for member in ids() {
            let cells = transfers.sent_to(member).expect("it has a place");
            assert_eq!(cells.success.value(), 1);
            assert_eq!(cells.duration.sum_raw(), member.0 * 1_000_000_000);
        }
    }
}
