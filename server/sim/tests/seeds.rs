//! The simulator's default runs: so many seeds, and that a seed is all that a run depends on.

use std::collections::BTreeMap;

use sim::run::{Settings, missed, run_seed, run_seeds};

/// Seeds of the default run.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=50;

#[test]
fn fifty_seeds_keep_every_promise() {
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get());
    let mut failed = Vec::new();
    let mut count = 0;
    let mut happened = BTreeMap::new();
    run_seeds(SEEDS, jobs, Settings::default(), |outcome| {
        count += 1;
        for (what, times) in &outcome.counts {
            *happened.entry(*what).or_default() += times;
        }
        if outcome.failure.is_some() {
            failed.push(outcome.report());
        }
        true
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(count, 50);
    let missed = missed(count, &happened);
    assert!(missed.is_empty(), "never happened: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_digest() {
    for seed in [3, 4] {
        let (one, other) = (
            run_seed(seed, Settings::default()),
            run_seed(seed, Settings::default()),
        );
        assert_eq!(one.digest, other.digest, "seed {seed}");
        assert_eq!(one.counts, other.counts, "seed {seed}");
        assert_eq!(one.simulated_us, other.simulated_us, "seed {seed}");
    }
    assert_ne!(
        run_seed(3, Settings::default()).digest,
        run_seed(4, Settings::default()).digest
    );
}

/// A leader sent a member that lagged a snapshot with a damaged value in it, again and again, because the value stayed
/// where it was from one file to the next.
#[test]
fn a_damaged_value_that_stays_where_it_is_keeps_nobody_from_a_snapshot() {
    let outcome = run_seed(5123, Settings::default());
    assert!(outcome.failure.is_none(), "{}", outcome.report());
}
