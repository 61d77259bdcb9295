//! Many worlds, and worlds with a bug in them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Rng;
use super::member::Bugs;
use super::world::{Options, Summary, World};

const SEEDS: u64 = 300;

/// Seeds to run, `FIRST..END`.
const SEEDS_VARIABLE: &str = "KEELSON_CLUSTER_SEEDS";

/// Set to have a single seed say what happens.
const TRACE_VARIABLE: &str = "KEELSON_CLUSTER_TRACE";

fn seeds() -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var(SEEDS_VARIABLE) else {
        return 0..SEEDS;
    };
    let (first, end) = asked.split_once("..").expect("seeds are FIRST..END");
    let number = |text: &str| text.parse().expect("a seed is a number");
    number(first)..number(end)
}

fn swarm(seed: u64) -> Options {
    Options {
        traces: std::env::var(TRACE_VARIABLE).is_ok(),
        ..Options::swarm(&mut Rng(seed ^ 0xabcd))
    }
}

#[test]
fn g_r_1_g_r_2_groups_are_safe_and_move_again() {
    let seeds = seeds();
    let mut sum = Summary::default();
    for seed in seeds.clone() {
        let run = World::new(seed, swarm(seed)).run();
        let summary = run.unwrap_or_else(|problem| {
            panic!(
                "{problem}\n{SEEDS_VARIABLE}={seed}..{} {TRACE_VARIABLE}=1 cargo test -p keelson-consensus \
                 g_r_1_g_r_2 -- --nocapture",
                seed + 1
            )
        });
        sum.applied += summary.applied;
        sum.terms += summary.terms;
        sum.crashes += summary.crashes;
        sum.changes += summary.changes;
        sum.removed += summary.removed;
        sum.replaced += summary.replaced;
        sum.snapshots += summary.snapshots;
        sum.install_crashes += summary.install_crashes;
        sum.unpersisted += summary.unpersisted;
        sum.reads += summary.reads;
        sum.lease_reads += summary.lease_reads;
        sum.repairs += summary.repairs;
    }
    println!("{sum:?}");
    for (what, count) in [
        ("entries applied", sum.applied),
        ("terms with a leader", sum.terms),
        ("crashes", sum.crashes),
        ("changes of the membership", sum.changes),
        ("members removed", sum.removed),
        ("entries replaced", sum.replaced),
        ("snapshots put in place", sum.snapshots),
        ("crashes meanwhile", sum.install_crashes),
        ("entries applied before they were durable", sum.unpersisted),
        ("reads", sum.reads),
        ("reads under a lease", sum.lease_reads),
        ("snapshots asked for", sum.repairs),
    ] {
        assert!(
            count > 0 || seeds != (0..SEEDS),
            "no {what} in {SEEDS} seeds"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 14, 15] {
        let run = || {
            World::new(seed, swarm(seed))
                .run()
                .expect("these seeds are sound")
        };
        assert_eq!(run(), run());
    }
}

/// How many seeds until a bug is found, in worlds that bring it out and are sound without it.
fn seeds_to_find(bugs: Bugs, options: impl Fn(u64) -> Options) -> u64 {
    for seed in 0..SEEDS {
        let run = |bugs| {
            let world = World::new(
                seed,
                Options {
                    bugs,
                    ..options(seed)
                },
            );
            catch_unwind(AssertUnwindSafe(|| world.run()))
        };
        let sound = run(Bugs::default());
        assert!(matches!(sound, Ok(Ok(_))), "seed {seed}: {sound:?}");
        if !matches!(run(bugs), Ok(Ok(_))) {
            return seed + 1;
        }
    }
    SEEDS + 1
}

const SPEAKS_EARLY: Bugs = Bugs {
    speaks_early: true,
    long_lease: false,
};

const LONG_LEASE: Bugs = Bugs {
    speaks_early: false,
    long_lease: true,
};

fn slow_disks(seed: u64) -> Options {
    Options {
        members: 3,
        crash: 8,
        slow_disk: 100,
        ..swarm(seed)
    }
}

#[test]
fn speaking_before_persisting_is_noticed_at_once() {
    assert_eq!(seeds_to_find(SPEAKS_EARLY, slow_disks), 1);
}

#[test]
fn speaking_before_persisting_breaks_what_a_group_promises() {
    let by_its_effects = |seed| Options {
        checks_messages: false,
        ..slow_disks(seed)
    };
    assert!(seeds_to_find(SPEAKS_EARLY, by_its_effects) <= 10);
}

#[test]
fn a_lease_that_lasts_too_long_is_noticed() {
    let lonely_leaders = |seed| Options {
        leases: true,
        members: 3,
        cut: 20,
        loss: 0,
        delay_max: 1,
        slow_disk: 900,
        ..swarm(seed)
    };
    assert!(seeds_to_find(LONG_LEASE, lonely_leaders) <= 20);
}
