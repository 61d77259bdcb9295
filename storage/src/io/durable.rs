//! Which of two ways makes a write durable sooner, as measured, now.
//!
//! ```text
//!   through:  one write with RWF_DSYNC           fewest steps; they end on the CPU that the disk interrupts
//!   apart:    the write, then an fdatasync       a step more; the kernel runs it on any CPU
//! ```
//!
//! Behind RWF_DSYNC is a kernel thread bound to the interrupted CPU, unless the disk can write through its cache. Where
//! somebody else computes on that CPU, the kernel lets it go on until the next tick: writes that took 0.15 ms take 4.
//! The second way does not mind, but costs more where nobody is in the way. So both are measured, the better one is
//! used, and the other one is tried from time to time.

use std::time::Duration;

/// How much a new measurement counts in the average.
const WEIGHT: f64 = 1.0 / 64.0;
/// And how much one of the way that is only tried: it is rare, and when it is much better than those before, they were late.
const WEIGHT_TRIED_BETTER: f64 = 1.0 / 2.0;
const WEIGHT_TRIED_WORSE: f64 = 1.0 / 8.0;
/// Writing apart has to be better by this, so that a single late write changes nothing.
const MARGIN: f64 = 1.5;
/// How long a way is used, at least, before the other one is tried (microseconds).
const TRIED_AFTER_US: u64 = 1_000_000;
/// One measurement counts as no more than this (microseconds): a disk that stood still says nothing about the ways.
const COUNTED_MAX_US: f64 = 20_000.0;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By RWF_DSYNC.
    Through,
    /// By an fdatasync after it.
    Apart,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Ways {
    /// Averages in microseconds. None before the first measurement.
    through_us: Option<f64>,
    apart_us: Option<f64>,
    used: Way,
    /// When the way that is not used is tried.
    try_at_us: u64,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            through_us: None,
            apart_us: None,
            used: Way::Through,
            try_at_us: 0,
        }
    }
}

impl Ways {
    /// The way for a write that begins now.
    pub(super) fn choose(&mut self, now_us: u64) -> Way {
        if now_us < self.try_at_us {
            return self.used;
        }
        self.try_at_us = now_us + TRIED_AFTER_US;
        match (self.used, self.apart_us) {
            // One write tells what the other way costs.
            (Way::Through, _) => Way::Apart,
            // It is used from now on as if it were only just good enough: a single late write ends that.
            (Way::Apart, apart_us) => {
                self.through_us = apart_us.map(|apart_us| apart_us * MARGIN);
                self.used = Way::Through;
                Way::Through
            }
        }
    }

    /// A write that took this way is durable, or has failed.
    pub(super) fn on_durable(&mut self, way: Way, took: Duration, now_us: u64) {
        let took_us = (took.as_secs_f64() * 1e6).min(COUNTED_MAX_US);
        let average = match way {
            Way::Through => &mut self.through_us,
            Way::Apart => &mut self.apart_us,
        };
        let before = average.unwrap_or(took_us);
        let weight = match (way == self.used, took_us < before) {
            (true, _) => WEIGHT,
            (false, true) => WEIGHT_TRIED_BETTER,
            (false, false) => WEIGHT_TRIED_WORSE,
        };
        *average = Some(before + (took_us - before) * weight);
        if self.used == Way::Through
            && let (Some(through_us), Some(apart_us)) = (self.through_us, self.apart_us)
            && through_us > apart_us * MARGIN
        {
            self.used = Way::Apart;
            self.try_at_us = now_us + TRIED_AFTER_US;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes one after the other for a while; how many took each way.
    fn write(
        ways: &mut Ways,
        now_us: &mut u64,
        for_us: u64,
        through: u64,
        apart: u64,
    ) -> (u64, u64) {
        let end_us = *now_us + for_us;
        let mut counts = (0, 0);
        while *now_us < end_us {
            let way = ways.choose(*now_us);
            let took_us = match way {
                Way::Through => through,
                Way::Apart => apart,
            };
            *now_us += took_us;
            ways.on_durable(way, Duration::from_micros(took_us), *now_us);
            match way {
                Way::Through => counts.0 += 1,
                Way::Apart => counts.1 += 1,
            }
        }
        counts
    }

    #[test]
    fn the_way_that_is_faster_now_is_used_and_the_other_one_tried() {
        let mut ways = Ways::default();
        let mut now_us = 0;
        let (through, apart) = write(&mut ways, &mut now_us, 10_000_000, 150, 250);
        assert!(
            through > 60_000 && (5..=15).contains(&apart),
            "{through}, {apart}"
        );
        // Somebody computes on the disk's CPU.
        let (through, apart) = write(&mut ways, &mut now_us, 10_000_000, 4_000, 250);
        assert!(
            apart > 35_000 && (5..=30).contains(&through),
            "{through}, {apart}"
        );
        // And stops.
        let (through, apart) = write(&mut ways, &mut now_us, 10_000_000, 150, 250);
        assert!(through > 50_000, "{through}, {apart}");
    }

    #[test]
    fn a_late_write_now_and_then_changes_nothing() {
        let mut ways = Ways::default();
        let mut now_us = 0;
        write(&mut ways, &mut now_us, 2_000_000, 150, 250);
        for _ in 0..20 {
            ways.on_durable(Way::Through, Duration::from_millis(4), now_us);
            let (through, apart) = write(&mut ways, &mut now_us, 50_000, 150, 250);
            assert!(apart <= 1 && through > 0, "{through}, {apart}");
        }
        // Nor does a disk that stands still, whatever the way.
        ways.on_durable(Way::Through, Duration::from_secs(5), now_us);
        let (through, _) = write(&mut ways, &mut now_us, 3_000_000, 150, 250);
        assert!(through > 10_000, "{through}");
    }

    #[test]
    fn a_first_write_that_was_late_is_forgotten() {
        let mut ways = Ways::default();
        let mut now_us = 0;
        write(&mut ways, &mut now_us, 10_000, 150, 15_000);
        write(&mut ways, &mut now_us, 8_000_000, 150, 250);
        let (through, apart) = write(&mut ways, &mut now_us, 1_000_000, 4_000, 250);
        assert!(apart > 3_000, "{through}, {apart}");
    }
}
