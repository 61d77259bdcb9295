//! G-KV-11: the same random requests to real etcd and to the server under test; every answer and
//! every watch event must be equal, but for the table in `normal.rs`.
//!
//! `KEELSON_DIFF_SEEDS=7,8` picks the seeds (a lone number is one seed), `KEELSON_DIFF_REQUESTS`
//! the number of steps for each. A failure prints the one-line command that plays it again, and a
//! short list of steps that still shows it.

mod generate;
mod normal;
mod pair;
mod step;
mod watches;
mod world;

use std::time::{Duration, Instant};

use generate::Generator;
use pair::{Compared, Mismatch, Pair};
use step::Step;

use crate::harness::heavy;

const SEEDS_DEFAULT: &[u64] = &[1, 2, 3, 4];
const STEPS_DEFAULT: usize = 1_200;
const STEPS_SHOWN: usize = 8;
const SHRINK_TIME_MAX: Duration = Duration::from_secs(90);
const SHRINK_STEPS_MIN: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_kv_11_same_answers_as_etcd() {
    let _alone = heavy().await;
    println!("not compared exactly:");
    for (what, why) in normal::EXCEPTIONS {
        println!("  {what}: {why}");
    }
    let mut total = Compared::default();
    for seed in seeds() {
        let compared = run(seed, steps_per_seed()).await;
        total.add(&compared);
        println!(
            "seed {seed}: {} responses and {} watch events equal",
            compared.responses, compared.events
        );
    }
    for (kind, count) in &total.kinds {
        println!("  {count:6} {kind}");
    }
    println!(
        "differential: {} responses and {} watch events compared, all equal",
        total.responses, total.events
    );
}

async fn run(seed: u64, count: usize) -> Compared {
    let mut generator = Generator::new(seed);
    let mut pair = Pair::start(&format!("differential-{seed}")).await;
    let mut trace = Trace {
        seed,
        steps: Vec::new(),
    };
    for index in 0..count {
        trace.steps.push(match index + 1 == count {
            true => Step::Barrier,
            false => generator.next(&pair.world),
        });
        if let Err(mismatch) = pair.perform(&trace.steps[index]).await {
            drop(pair);
            report(&trace, &mismatch).await;
        }
    }
    pair.compared
}

/// What was done so far; says how to do it again when a test panics, for whatever reason.
struct Trace {
    seed: u64,
    steps: Vec<Step>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let shown = self.steps.len().saturating_sub(STEPS_SHOWN);
        println!("seed {}, the last steps:", self.seed);
        for (index, step) in self.steps.iter().enumerate().skip(shown) {
            println!("  {index}: {step:?}");
        }
        println!(
            "play it again: KEELSON_DIFF_SEEDS={} KEELSON_DIFF_REQUESTS={} \
             cargo test -p keelson --test blackbox g_kv_11 -- --nocapture",
            self.seed,
            self.steps.len() + 1,
        );
    }
}

async fn report(trace: &Trace, mismatch: &Mismatch) -> ! {
    println!("step {}: {mismatch:#?}", trace.steps.len() - 1);
    println!("shrinking:");
    let (steps, mismatch) = shrink(trace.steps.clone(), mismatch.clone()).await;
    for (index, step) in steps.iter().enumerate() {
        println!("  {index}: {step:?}");
    }
    panic!(
        "the answers differ at: {}\n  etcd:       {}\n  under test: {}",
        mismatch.what, mismatch.reference, mismatch.subject,
    );
}

/// Leaves out chunks of steps, ever smaller ones, as long as some difference remains.
async fn shrink(mut steps: Vec<Step>, mut mismatch: Mismatch) -> (Vec<Step>, Mismatch) {
    let mut chunk = steps.len() / 2;
    let start = Instant::now();
    while chunk >= 1 && steps.len() > SHRINK_STEPS_MIN {
        let mut at = 0;
        // The last step shows the difference and stays.
        while at + 1 < steps.len() && start.elapsed() < SHRINK_TIME_MAX {
            let end = (at + chunk).min(steps.len() - 1);
            let mut fewer = steps.clone();
            fewer.drain(at..end);
            // Fewer steps may hang or panic where all of them did not: then they show something
            // else.
            let played = tokio::spawn(play(fewer.clone())).await;
            match played.unwrap_or_default() {
                Some((length, found)) => {
                    fewer.truncate(length);
                    steps = fewer;
                    mismatch = found;
                }
                None => at = end,
            }
        }
        chunk /= 2;
    }
    (steps, mismatch)
}

/// Plays steps on fresh servers: how many it took to see a difference, and which.
async fn play(steps: Vec<Step>) -> Option<(usize, Mismatch)> {
    let mut pair = Pair::start("differential-shrink").await;
    for (index, step) in steps.iter().enumerate() {
        if let Err(mismatch) = pair.perform(step).await {
            return Some((index + 1, mismatch));
        }
    }
    None
}

fn seeds() -> Vec<u64> {
    match std::env::var("KEELSON_DIFF_SEEDS") {
        Ok(list) => list
            .split(',')
            .map(|seed| {
                seed.trim()
                    .parse()
                    .expect("KEELSON_DIFF_SEEDS lists numbers")
            })
            .collect(),
        Err(_) => SEEDS_DEFAULT.to_vec(),
    }
}

fn steps_per_seed() -> usize {
    match std::env::var("KEELSON_DIFF_REQUESTS") {
        Ok(count) => count.parse().expect("KEELSON_DIFF_REQUESTS is a number"),
        Err(_) => STEPS_DEFAULT,
    }
}
