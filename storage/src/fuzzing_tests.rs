//! The fuzz targets without a fuzzer: their seeds, inputs near them, and what fuzzers found.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// Inputs near each seed.
const NEAR_EACH_SEED: u32 = 300;

fn target(name: &str) -> Target {
    let mut targets = TARGETS.into_iter();
    targets.find(|target| target.name == name).expect("a name")
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Edit {
    Flip(prop::sample::Index, u8),
    Number(prop::sample::Index, u32),
    Cut(prop::sample::Index),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    Remove(prop::sample::Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    let edge = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(1 << 31),
        any::<u32>()
    ];
    prop_oneof![
        6 => (at(), 1u8..).prop_map(|(at, mask)| Edit::Flip(at, mask)),
        4 => (at(), edge).prop_map(|(at, number)| Edit::Number(at, number)),
        1 => at().prop_map(Edit::Cut),
        1 => (at(), at(), 1usize..64).prop_map(|(from, to, bytes)| Edit::Copy(from, to, bytes)),
        1 => (at(), 1usize..64).prop_map(|(at, bytes)| Edit::Remove(at, bytes)),
    ]
}

fn apply(input: &mut Vec<u8>, edit: &Edit) {
    if input.is_empty() {
        return;
    }
    match edit {
        Edit::Flip(at, mask) => {
            let at = at.index(input.len());
            input[at] ^= mask;
        }
        Edit::Number(at, number) => {
            let at = at.index(input.len());
            for (byte, new) in input[at..].iter_mut().zip(number.to_le_bytes()) {
                *byte = new;
            }
        }
        Edit::Cut(at) => input.truncate(at.index(input.len())),
        Edit::Copy(from, to, bytes) => {
            let from = from.index(input.len());
            let piece = input[from..]
                .iter()
                .take(*bytes)
                .copied()
                .collect::<Vec<_>>();
            let to = to.index(input.len());
            input.splice(to..to, piece);
        }
        Edit::Remove(at, bytes) => {
            let at = at.index(input.len());
            input.drain(at..(at + bytes).min(input.len()));
        }
    }
}

fn near_the_seeds(name: &str) {
    let target = target(name);
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(seed);
    }
    let config = ProptestConfig {
        cases: NEAR_EACH_SEED * seeds.len() as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let seed = any::<prop::sample::Index>();
    let input = (seed, prop::collection::vec(edit(), 1..6));
    let outcome = proptest::test_runner::TestRunner::new(config).run(&input, |(seed, edits)| {
        let mut input = seed.get(&seeds).clone();
        for edit in &edits {
            apply(&mut input, edit);
        }
        (target.run)(&input);
        Ok(())
    });
    outcome.expect("no input breaks a decoder");
}

#[test]
fn inputs_near_a_superblock() {
    near_the_seeds("superblock");
}

#[test]
fn inputs_near_pages() {
    near_the_seeds("page");
}

#[test]
fn inputs_near_a_lane() {
    near_the_seeds("wal");
}

#[test]
fn inputs_near_an_entry() {
    near_the_seeds("entry");
}

#[test]
fn inputs_near_a_database_of_etcd() {
    near_the_seeds("import");
}

#[test]
fn inputs_near_a_log_of_etcd() {
    near_the_seeds("etcd_wal");
}

/// Seeds for a fuzzer are written into the folders of `KEELSON_FUZZ_CORPUS`, one for each target.
#[test]
fn every_target_has_seeds() {
    let corpus = std::env::var_os("KEELSON_FUZZ_CORPUS").map(PathBuf::from);
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() > 1, "{}", target.name);
        assert!(seeds.iter().all(|seed| !seed.is_empty()));
        let Some(folder) = corpus.as_ref().map(|corpus| corpus.join(target.name)) else {
            continue;
        };
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        for (number, seed) in seeds.iter().enumerate() {
            let file = folder.join(format!("seed-{number}"));
            std::fs::write(file, seed).expect("the folder can be written");
        }
    }
}
