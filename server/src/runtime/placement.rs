//! Where a new connection goes: a pure rule over the cores' load figures.
//!
//! A connection stays on its core for life, and a request that starts on the engine's core needs no
//! cross-core hop (about 35 us each way when the other side sleeps). So the engine's core takes connections
//! while it has time to spare; after that the least loaded core does. A load figure lags behind by a few
//! hundred milliseconds, and clients open their connections in bursts, so each connection placed within the
//! last moments counts as [`FRESH_BUSY_PERMILLE`] until the figure has caught up.

/// The engine's core has time to spare below this load: what is left is for the engine itself and for bursts
/// of the connections already there.
pub const ENGINE_BUSY_PERMILLE_MAX: u32 = 600;

/// What a connection that the load figure does not show yet is assumed to cost.
pub const FRESH_BUSY_PERMILLE: u32 = 40;

/// What the rule knows about a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreLoad {
    /// Busy share of wall time, averaged over a few hundred milliseconds.
    pub busy_permille: u32,
    /// Connections the core serves.
    pub connection_count: u32,
    /// Connections among those that came too recently to show in `busy_permille`.
    pub fresh_count: u32,
}

impl CoreLoad {
    fn expected_permille(&self) -> u32 {
        self.busy_permille
            .saturating_add(self.fresh_count.saturating_mul(FRESH_BUSY_PERMILLE))
    }
}

/// Chooses a core for a new connection; `None` when every core has `connection_count_max` already.
#[must_use]
pub fn choose(engine: usize, loads: &[CoreLoad], connection_count_max: u32) -> Option<usize> {
    assert!(
        engine < loads.len(),
        "the engine's core {engine} is one of {} cores",
        loads.len()
    );
    let has_room = |load: &CoreLoad| load.connection_count < connection_count_max;
    if has_room(&loads[engine]) && loads[engine].expected_permille() < ENGINE_BUSY_PERMILLE_MAX {
        return Some(engine);
    }
    // Ties go to fewer connections, then to the engine (no hop), then to the lower index.
    (0..loads.len())
        .filter(|&index| has_room(&loads[index]))
        .min_by_key(|&index| {
            (
                loads[index].expected_permille(),
                loads[index].connection_count,
                index != engine,
                index,
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(busy_permille: u32, connection_count: u32, fresh_count: u32) -> CoreLoad {
        CoreLoad {
            busy_permille,
            connection_count,
            fresh_count,
        }
    }

    #[test]
    fn engine_core_first_while_it_has_time_to_spare() {
        assert_eq!(
            choose(1, &[load(0, 0, 0), load(599, 900, 0)], 1000),
            Some(1)
        );
        assert_eq!(choose(0, &[load(0, 0, 0)], 1000), Some(0));
    }

    #[test]
    fn least_loaded_core_once_the_engine_is_busy() {
        let loads = [load(700, 10, 0), load(300, 50, 0), load(200, 90, 0)];
        assert_eq!(choose(0, &loads, 1000), Some(2));
    }

    #[test]
    fn engine_keeps_the_connection_when_all_others_are_busier() {
        assert_eq!(
            choose(0, &[load(700, 10, 0), load(900, 1, 0)], 1000),
            Some(0)
        );
        assert_eq!(
            choose(1, &[load(900, 1, 0), load(900, 1, 0)], 1000),
            Some(1)
        );
    }

    #[test]
    fn a_burst_spills_over_before_the_load_figure_moves() {
        let mut loads = [CoreLoad::default(); 2];
        for _ in 0..64 {
            let at = choose(0, &loads, 1000).unwrap();
            loads[at].fresh_count += 1;
            loads[at].connection_count += 1;
        }
        assert!(
            loads[0].connection_count >= 15 && loads[1].connection_count >= 15,
            "{loads:?}"
        );
    }

    #[test]
    fn full_cores_are_passed_over() {
        assert_eq!(choose(0, &[load(0, 10, 0), load(500, 9, 0)], 10), Some(1));
        assert_eq!(choose(0, &[load(0, 10, 0), load(500, 10, 0)], 10), None);
    }
}
