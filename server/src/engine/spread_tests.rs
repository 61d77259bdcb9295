//! Who leads a shard, where that is not left to elections.

use super::cluster_tests::{Shape, World};
use super::transfer_tests::leader;

/// A member that `main` has removed led another shard as the preferred one, and looked so often whether it was that it
/// never got to handing over.
#[test]
fn g_r_3_who_was_removed_hands_over_a_shard_that_it_is_preferred_to_lead() {
    for seed in 70..73 {
        let mut world = World::new(seed, Shape::LOG);
        world.settle();
        let removed = leader(&world);
        for engine in world.engines.iter_mut().flatten() {
            engine.config.group.spread_rank = Some(removed);
        }
        for _ in 0..2_000 {
            world.step();
        }
        assert_eq!(leader(&world), removed, "it stays where it is preferred");
        let mut has_handed_over = false;
        for _ in 0..3_000 {
            world.step();
            let engine = world.engines[removed].as_mut().expect("it runs");
            engine.step_aside();
            has_handed_over |= !engine.node().is_leader();
        }
        assert!(has_handed_over);
        assert_ne!(leader(&world), removed);
    }
}
