//! What can be turned, and which values of it are worth a trial on this machine.

use keelson_tuning::Tuning;

use crate::disk::{Cell, Figures, Way};

/// Depths that are probed and tried. The log takes up to 16, but a disk that gains from more than
/// eight writes in flight is full with larger groups as well.
pub const DEPTHS: [u32; 4] = [1, 2, 4, 8];
/// Block sizes at which a greater depth must pay off in the disk probe to be tried.
pub const PROBED_BYTES: [u64; 2] = [4 << 10, 64 << 10];
/// What a greater depth must gain in the disk probe to be tried on a member.
const DEPTH_GAIN_MIN: f64 = 1.05;
const GROUP_DELAYS_US: [u64; 3] = [50, 200, 1_000];
const GROUP_BYTES: [u64; 2] = [256 << 10, 4 << 20];

/// A setting, or where the member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// How many cores the member runs on.
    CoreCount,
    /// Which of them is the first, which runs the engine.
    EngineCore,
    /// Groups in flight.
    Depth,
    /// How long a group waits for company.
    GroupDelay,
    /// How large a group may grow.
    GroupBytes,
}

/// Everything that is turned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The engine's first.
    pub cores: Vec<u32>,
    pub tuning: Tuning,
}

/// What the values depend on.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The CPUs that this process, and so its servers, may use.
    pub online: Vec<u32>,
    /// The greatest depth at which the disk still gained.
    pub depth_useful_max: u32,
}

/// One value on trial, with everything else as it was.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub label: String,
    pub setup: Setup,
}

impl Setup {
    /// What a member does by itself: half of the cores, the first ones.
    pub fn defaults(around: &Surroundings) -> Self {
        let half = around.online.len().div_ceil(2);
        Self {
            cores: around.online[..half].to_vec(),
            tuning: Tuning::default(),
        }
    }

    /// The server's flags for it.
    pub fn flags(&self, around: &Surroundings) -> Vec<String> {
        let wal = &self.tuning.wal;
        vec![
            format!("--cores={}", around.cores_text(&self.cores)),
            format!("--wal-depth={}", wal.depth),
            format!("--wal-group-delay-us={}", wal.group_delay_us),
            format!("--wal-group-bytes-max={}", wal.group_bytes_max),
        ]
    }
}

impl Surroundings {
    /// What the probe of the disk, and the CPUs, leave to be tried.
    pub fn new(online: Vec<u32>, probe: &[Figures]) -> Self {
        let rate = |bs_bytes, iodepth| {
            let cell = Cell {
                way: Way::Direct,
                bs_bytes,
                iodepth,
            };
            probe
                .iter()
                .find(|run| run.cell == cell)
                .map_or(0.0, |run| run.iops)
        };
        let gains = |two: &[u32]| {
            let gain = |bs| rate(bs, two[1]) >= DEPTH_GAIN_MIN * rate(bs, two[0]);
            PROBED_BYTES.into_iter().any(gain)
        };
        let useful = DEPTHS.windows(2).take_while(|two| gains(two)).last();
        Self {
            online,
            depth_useful_max: useful.map_or(DEPTHS[0], |two| two[1]),
        }
    }

    /// Cores in the spelling of `--cores`.
    pub fn cores_text(&self, cores: &[u32]) -> String {
        if cores == self.online {
            return "all".to_owned();
        }
        if self.online.starts_with(cores) {
            return cores.len().to_string();
        }
        match cores {
            [one] => format!("{one}-{one}"),
            several => {
                let texts: Vec<String> = several.iter().map(u32::to_string).collect();
                texts.join(",")
            }
        }
    }
}

impl Knob {
    /// In the order in which they are settled: what matters most comes first.
    pub const ALL: [Self; 5] = [
        Self::CoreCount,
        Self::EngineCore,
        Self::Depth,
        Self::GroupDelay,
        Self::GroupBytes,
    ];

    /// What is settled, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::CoreCount => "cores, how many",
            Self::EngineCore => "cores, the engine's first",
            Self::Depth => "wal.depth",
            Self::GroupDelay => "wal.group_delay_us",
            Self::GroupBytes => "wal.group_bytes_max",
        }
    }

    /// The values to try, the default first: it stays if no other is better by more than the noise.
    pub fn candidates(self, from: &Setup, around: &Surroundings) -> Vec<Candidate> {
        match self {
            Self::CoreCount => core_counts(from, around),
            Self::EngineCore => engine_cores(from, around),
            Self::Depth => {
                let useful = |depth: &u32| *depth <= around.depth_useful_max.max(2);
                let depths = DEPTHS.into_iter().filter(useful).map(u64::from);
                numbers(from, "wal", "depth", depths)
            }
            // A lane with one group in flight never has a group that could wait.
            Self::GroupDelay if from.tuning.wal.depth == 1 => Vec::new(),
            Self::GroupDelay => numbers(from, "wal", "group_delay_us", GROUP_DELAYS_US),
            Self::GroupBytes => numbers(from, "wal", "group_bytes_max", GROUP_BYTES),
        }
    }
}

/// Half of the cores, then one, twice as many each time, and all. Puts alone do not show what the
/// fan-out of watches needs, so fewer cores must be faster to be chosen, not just as fast.
fn core_counts(from: &Setup, around: &Surroundings) -> Vec<Candidate> {
    let (all, default) = (around.online.len(), from.cores.len());
    let powers = std::iter::successors(Some(1), |count| Some(count * 2));
    let counts = powers.take_while(|&count| count < all).chain([all]);
    let others = counts.filter(|&count| count != default);
    std::iter::once(default)
        .chain(others)
        .map(|count| {
            let cores = around.online[..count].to_vec();
            Candidate {
                label: around.cores_text(&cores),
                setup: Setup {
                    cores,
                    ..from.clone()
                },
            }
        })
        .collect()
}

/// As many cores as before, beginning with the first, the second, one in the middle, or the last:
/// disks and network cards interrupt some cores more than others.
fn engine_cores(from: &Setup, around: &Surroundings) -> Vec<Candidate> {
    let all = around.online.len();
    let mut candidates: Vec<Candidate> = Vec::new();
    for first in [0, 1, all / 2, all - 1] {
        let mut cores = around.online.clone();
        cores.rotate_left(first % all);
        cores.truncate(from.cores.len());
        if candidates.iter().all(|known| known.setup.cores != cores) {
            candidates.push(Candidate {
                label: around.cores_text(&cores),
                setup: Setup {
                    cores,
                    ..from.clone()
                },
            });
        }
    }
    candidates
}

/// Values of one setting, its default first.
fn numbers(
    from: &Setup,
    section: &str,
    key: &str,
    values: impl IntoIterator<Item = u64>,
) -> Vec<Candidate> {
    let setting = keelson_tuning::setting(section, key).expect("the caller names a setting");
    let others = values.into_iter().filter(|&value| value != setting.default);
    std::iter::once(setting.default)
        .chain(others)
        .map(|value| {
            let mut setup = from.clone();
            (setting.set)(&mut setup.tuning, value);
            Candidate {
                label: value.to_string(),
                setup,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(online: &[u32], depth_useful_max: u32) -> Surroundings {
        Surroundings {
            online: online.to_vec(),
            depth_useful_max,
        }
    }

    fn labels(knob: Knob, from: &Setup, around: &Surroundings) -> Vec<String> {
        let candidates = knob.candidates(from, around);
        for candidate in &candidates {
            assert_eq!(candidate.setup.tuning.check(), Ok(()), "{candidate:?}");
        }
        candidates.into_iter().map(|one| one.label).collect()
    }

    #[test]
    fn cores_are_tried_by_number_and_by_place() {
        let around = around(&[0, 1, 2, 3, 6, 7], 4);
        let mut setup = Setup::defaults(&around);
        assert_eq!(
            labels(Knob::CoreCount, &setup, &around),
            ["3", "1", "2", "4", "all"]
        );
        assert_eq!(
            labels(Knob::EngineCore, &setup, &around),
            ["3", "1,2,3", "3,6,7", "7,0,1"]
        );
        setup.cores = around.online.clone();
        assert_eq!(
            labels(Knob::EngineCore, &setup, &around),
            ["all", "1,2,3,6,7,0", "3,6,7,0,1,2", "7,0,1,2,3,6"]
        );
        setup.cores = vec![0];
        assert_eq!(
            labels(Knob::EngineCore, &setup, &around),
            ["1", "1-1", "3-3", "7-7"]
        );
    }

    #[test]
    fn one_core_leaves_nothing_to_choose() {
        let around = around(&[5], 4);
        let setup = Setup::defaults(&around);
        for knob in [Knob::CoreCount, Knob::EngineCore] {
            assert_eq!(labels(knob, &setup, &around), ["all"]);
        }
    }

    #[test]
    fn settings_begin_with_their_default_and_stop_where_nothing_is_gained() {
        let shallow = around(&[0], 1);
        let mut setup = Setup::defaults(&shallow);
        assert_eq!(labels(Knob::Depth, &setup, &shallow), ["4", "1", "2"]);
        let deep = around(&[0], 8);
        assert_eq!(labels(Knob::Depth, &setup, &deep), ["4", "1", "2", "8"]);
        assert_eq!(
            labels(Knob::GroupBytes, &setup, &deep),
            ["1048576", "262144", "4194304"]
        );
        assert_eq!(
            labels(Knob::GroupDelay, &setup, &deep),
            ["0", "50", "200", "1000"]
        );
        setup.tuning.wal.depth = 1;
        assert!(labels(Knob::GroupDelay, &setup, &deep).is_empty());
    }

    #[test]
    fn flags_name_every_knob() {
        let around = around(&[0, 1], 8);
        let mut setup = Setup::defaults(&around);
        setup.tuning.wal.depth = 4;
        setup.cores = vec![1, 0];
        assert_eq!(
            setup.flags(&around),
            [
                "--cores=1,0",
                "--wal-depth=4",
                "--wal-group-delay-us=0",
                "--wal-group-bytes-max=1048576"
            ]
        );
    }
}
