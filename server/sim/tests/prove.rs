//! The judges bite: every deliberate bug is found within its number of seeds.

use keelson_storage::bugs::Bug;
use sim::run::{Settings, run_seed, seeds_to_find};

#[test]
fn every_deliberate_bug_is_found() {
    let jobs: Vec<_> = Bug::ALL
        .into_iter()
        .map(|bug| (bug, std::thread::spawn(move || find(bug))))
        .collect();
    let missed: Vec<Bug> = jobs
        .into_iter()
        .filter_map(|(bug, job)| {
            let found = job.join().expect("a run catches the panics of its members");
            match found {
                Some((seed, rule)) => {
                    println!("{bug:?} violates {rule} in seed {seed}");
                    None
                }
                None => Some(bug),
            }
        })
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The first seed that finds a bug and would have passed without it, and the promise that was broken.
fn find(bug: Bug) -> Option<(u64, &'static str)> {
    let with_bug = Settings {
        bug: Some(bug),
        ..Settings::default()
    };
    (1..=seeds_to_find(bug)).find_map(|seed| {
        let failure = run_seed(seed, with_bug).failure?;
        let is_sound = run_seed(seed, Settings::default()).failure.is_none();
        is_sound.then_some((seed, failure.violation.rule))
    })
}
