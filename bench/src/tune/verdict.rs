//! Which value won, and whether by more than the noise: pure arithmetic over the trials.
//!
//! A trial is measured under several loads. Two trials of one round are compared by the geometric
//! mean of the ratios of their rates, load by load, so that each load counts the same whatever its
//! size; under the load with one request in flight, a rate is nothing but a latency turned round.

use serde::Serialize;

use crate::stats::Spread;

/// A gain that costs this much at the 99th percentile is none.
const P99_LOSS_MAX: f64 = 1.25;

/// What one load brought in one trial.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LoadFigures {
    pub operations_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub server_cpu_us_per_operation: f64,
}

/// One candidate in one round: the figures of each load.
pub type Trial = Vec<LoadFigures>;

/// How a candidate did, over all rounds and loads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Standing {
    /// Rate over that of the first candidate, round by round; all 1 for the first.
    pub gain: Spread,
    /// Geometric means over the loads, medians over the rounds.
    pub operations_per_second: f64,
    pub p99_us: f64,
    pub server_cpu_us_per_operation: f64,
}

/// The outcome of a knob's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub standings: Vec<Standing>,
    /// The candidate that is kept.
    pub chosen: usize,
    /// The fastest that was better than the first by more than the noise, if any.
    pub fastest: Option<usize>,
}

/// Judges rounds of trials: `rounds[round][candidate]`, the default first. A gain counts if
/// it shows in every round and its median exceeds the noise: `gain_min`, such as 0.03, or half of the
/// spread over the rounds, whichever is more.
pub fn judge(rounds: &[Vec<Trial>], gain_min: f64) -> Verdict {
    let count = rounds.first().map_or(0, Vec::len);
    assert!(count > 0, "there is something to judge");
    assert!(
        rounds.iter().all(|round| round.len() == count),
        "every candidate ran in every round"
    );
    let beats = |one: usize, other: usize| {
        let gain = ratios(rounds, one, other, |load| load.operations_per_second);
        let p99 = ratios(rounds, one, other, |load| load.p99_us);
        let noise = gain_min.max((gain.max - gain.min) / 2.0);
        gain.median >= 1.0 + noise && gain.min > 1.0 && p99.median <= P99_LOSS_MAX
    };
    let standings: Vec<Standing> = (0..count).map(|one| standing(rounds, one)).collect();
    let by_gain = |&one: &usize, &other: &usize| {
        let gain = |at: usize| standings[at].gain.median;
        gain(one).total_cmp(&gain(other))
    };
    let fastest = (1..count).filter(|&one| beats(one, 0)).max_by(by_gain);
    let chosen = match fastest {
        None => 0,
        // Of those that the fastest does not clearly beat, the first.
        Some(fastest) => (0..count)
            .find(|&one| one == fastest || !beats(fastest, one))
            .expect("the fastest itself is among them"),
    };
    Verdict {
        standings,
        chosen,
        fastest,
    }
}

fn standing(rounds: &[Vec<Trial>], one: usize) -> Standing {
    let median = |figure: fn(&LoadFigures) -> f64| {
        let means = rounds
            .iter()
            .map(|round| geometric_mean(round[one].iter().map(figure)));
        Spread::over(means).map_or(0.0, |spread| spread.median)
    };
    Standing {
        gain: ratios(rounds, one, 0, |load| load.operations_per_second),
        operations_per_second: median(|load| load.operations_per_second),
        p99_us: median(|load| load.p99_us),
        server_cpu_us_per_operation: median(|load| load.server_cpu_us_per_operation),
    }
}

/// A figure of one candidate over that of another, round by round.
fn ratios(
    rounds: &[Vec<Trial>],
    one: usize,
    other: usize,
    figure: fn(&LoadFigures) -> f64,
) -> Spread {
    let ratio = |round: &Vec<Trial>| {
        let loads = round[one].iter().zip(&round[other]);
        geometric_mean(loads.map(|(one, other)| figure(one) / figure(other)))
    };
    Spread::over(rounds.iter().map(ratio)).expect("rates and latencies are above 0")
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, logs) = values.fold((0.0, 0.0), |(count, logs), value| {
        (count + 1.0, logs + value.ln())
    });
    (logs / count).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(operations_per_second: f64, p99_us: f64) -> LoadFigures {
        LoadFigures {
            operations_per_second,
            p50_us: 100.0,
            p99_us,
            server_cpu_us_per_operation: 10.0,
        }
    }

    /// Rounds of candidates with one load each, by their rates.
    fn rounds(rates: &[&[f64]]) -> Vec<Vec<Trial>> {
        let trial = |rate: &f64| vec![load(*rate, 200.0)];
        rates
            .iter()
            .map(|round| round.iter().map(trial).collect())
            .collect()
    }

    #[test]
    fn a_gain_must_show_in_every_round_and_exceed_the_noise() {
        let clear = rounds(&[&[100.0, 110.0], &[90.0, 99.0], &[120.0, 126.0]]);
        assert_eq!(judge(&clear, 0.03).chosen, 1);
        let small = rounds(&[&[100.0, 102.0], &[90.0, 92.0], &[120.0, 122.0]]);
        assert_eq!(judge(&small, 0.03).chosen, 0);
        let shaky = rounds(&[&[100.0, 120.0], &[90.0, 110.0], &[120.0, 119.0]]);
        assert_eq!(judge(&shaky, 0.03).chosen, 0);
        let wild = rounds(&[&[100.0, 101.0], &[90.0, 110.0], &[120.0, 240.0]]);
        assert_eq!(judge(&wild, 0.03).chosen, 0);
    }

    #[test]
    fn the_first_of_those_as_good_as_the_fastest_is_kept() {
        let same = rounds(&[&[100.0, 150.0, 151.0], &[100.0, 149.0, 152.0]]);
        let verdict = judge(&same, 0.03);
        assert_eq!((verdict.fastest, verdict.chosen), (Some(2), 1));
        let better = rounds(&[&[100.0, 150.0, 170.0], &[100.0, 150.0, 171.0]]);
        assert_eq!(judge(&better, 0.03).chosen, 2);
    }

    #[test]
    fn loads_count_the_same_and_a_worse_tail_loses() {
        let two = |small: f64, large: f64| vec![load(small, 200.0), load(large, 200.0)];
        let verdict = judge(
            &[vec![two(1_000.0, 100_000.0), two(2_000.0, 50_000.0)]],
            0.03,
        );
        assert!((verdict.standings[1].gain.median - 1.0).abs() < 1e-9);
        assert!((verdict.standings[0].operations_per_second - 10_000.0).abs() < 1e-6);
        let tail = [vec![vec![load(100.0, 200.0)], vec![load(130.0, 400.0)]]];
        assert_eq!(judge(&tail, 0.03).chosen, 0);
    }
}
