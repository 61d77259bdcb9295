//! `tune`: probes the disk, searches, and writes the profile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity};

use super::knob::{DEPTHS, PROBED_BYTES, Surroundings};
use super::profile::{self, Origin};
use super::search::Search;
use crate::cli::TuneOptions;
use crate::disk::{self, Cell, Plan, Way};
use crate::interrupt::Interrupt;
use crate::job::{JobSpec, jobs};
use crate::machine::Machine;
use crate::outcome::Ending;

/// The shipped job whose kind of load is run.
const LOAD_JOB: &str = "put-rand";
/// TCP connections at most.
const CONNECTIONS_MAX: u32 = 8;
const KEY_COUNT: u64 = 10_000;
const PROBE_FILE_BYTES: u64 = 64 << 20;

/// How thorough a search is.
struct Effort {
    rounds: u32,
    /// What counts as more than noise.
    gain_min: f64,
    /// Requests in flight of each load.
    in_flight: &'static [u32],
    value_bytes: &'static [u64],
    ramp_ms: u64,
    runtime_ms: u64,
    probe_run: Duration,
}

const THOROUGH: Effort = Effort {
    rounds: 3,
    gain_min: 0.03,
    in_flight: &[1, 64, 512],
    value_bytes: &[256, 4096],
    ramp_ms: 200,
    runtime_ms: 700,
    probe_run: Duration::from_millis(500),
};
const QUICK: Effort = Effort {
    rounds: 2,
    gain_min: 0.1,
    in_flight: &[1, 64],
    value_bytes: &[256],
    ramp_ms: 50,
    runtime_ms: 250,
    probe_run: Duration::from_millis(100),
};

/// Runs the command.
pub async fn run(options: &TuneOptions, interrupt: &Interrupt) -> Result<Ending> {
    let effort = if options.quick { &QUICK } else { &THOROUGH };
    let parent = work_parent(&options.data_dir)?;
    let launch = options.launch()?;
    let machine = Machine::facts(&parent);
    eprintln!("{machine}");
    let Some(probe) = disk::measure(&probe_plan(&parent, effort), interrupt).await? else {
        return Ok(Ending::Interrupted);
    };
    if interrupt.is_set() {
        return Ok(Ending::Interrupted);
    }
    eprintln!("\n{}", probe.text());
    let folder = tempfile::Builder::new()
        .prefix("keelson-tune-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot use {}", parent.display()))?;
    let search = Search {
        launch,
        folder: folder.path(),
        loads: loads(effort)?,
        rounds: options.rounds.unwrap_or(effort.rounds),
        gain_min: effort.gain_min,
        around: Surroundings::new(allowed_cpus()?, &probe.runs),
        interrupt,
    };
    let Some(found) = search.run().await? else {
        eprintln!("no profile is written: the search was interrupted");
        return Ok(Ending::Interrupted);
    };
    let origin = Origin {
        data_dir: &options.data_dir.display().to_string(),
        machine: &machine,
        probe: &probe,
        written: &humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
    };
    let text = profile::text(&origin, &search, &found);
    keelson_tuning::Profile::parse("the profile", &text).expect("what tune writes is a profile");
    match &options.output {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("the profile is written: keelson --profile {}", shown(path));
        }
        None => print!("{text}"),
    }
    Ok(Ending::Complete)
}

/// A path that the server takes for one and not for the name of a profile.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if keelson_tuning::Profile::is_path(&text) {
        text
    } else {
        format!("./{text}")
    }
}

/// The folder for trials: the one that was named, or the one around it if it holds a member's data,
/// to which nothing is added.
fn work_parent(data_dir: &Path) -> Result<PathBuf> {
    let fail = || format!("cannot use {}", data_dir.display());
    ensure!(
        data_dir.is_dir(),
        "there is no folder {}: create it, on the disk that is to hold the data",
        data_dir.display()
    );
    if !data_dir.join("member").exists() {
        return Ok(data_dir.to_path_buf());
    }
    let data_dir = data_dir.canonicalize().with_context(fail)?;
    let around = data_dir.parent().with_context(fail)?;
    let device = |path: &Path| fs::metadata(path).map(|facts| facts.dev());
    if device(around).with_context(fail)? != device(&data_dir).with_context(fail)? {
        bail!(
            "{} holds a member's data, and the folder around it is on another disk: name an empty folder on the \
             disk that is to be measured",
            data_dir.display()
        );
    }
    Ok(around.to_path_buf())
}

fn probe_plan(directory: &Path, effort: &Effort) -> Plan {
    let mut cells = Cell::matrix(&[Way::Direct], &PROBED_BYTES, &DEPTHS);
    cells.push(Cell::SEQUENTIAL_WRITE);
    Plan {
        name: "disk".to_owned(),
        directory: directory.to_path_buf(),
        file_bytes: PROBE_FILE_BYTES,
        cells,
        measured: effort.probe_run,
    }
}

fn loads(effort: &Effort) -> Result<Vec<JobSpec>> {
    let job = jobs(&[LOAD_JOB.to_owned()], &[])?
        .into_iter()
        .next()
        .expect("a shipped file holds a job");
    let load = |value_bytes: u64, in_flight: u32| JobSpec {
        name: format!("put {value_bytes} B x {in_flight}"),
        iodepth: in_flight,
        connections: in_flight.min(CONNECTIONS_MAX),
        value_bytes,
        key_count: KEY_COUNT,
        ramp_time_ms: effort.ramp_ms,
        runtime_ms: effort.runtime_ms,
        ..job.clone()
    };
    let loads = effort.value_bytes.iter().flat_map(|&value_bytes| {
        let in_flight = effort.in_flight.iter();
        in_flight.map(move |&count| load(value_bytes, count))
    });
    Ok(loads.collect())
}

/// The CPUs that this process may use; its servers inherit them.
fn allowed_cpus() -> Result<Vec<u32>> {
    let set = sched_getaffinity(None).context("cannot tell the allowed CPUs")?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    Ok(cpus.map(|cpu| cpu as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_stay_beside_a_members_data() {
        let disk = std::env::current_exe().unwrap();
        let home = tempfile::tempdir_in(disk.parent().unwrap()).unwrap();
        let data_dir = home.path().join("data");
        let missing = work_parent(&data_dir).unwrap_err();
        assert!(missing.to_string().contains("create it"), "{missing}");
        fs::create_dir(&data_dir).unwrap();
        assert_eq!(work_parent(&data_dir).unwrap(), data_dir);
        fs::create_dir(data_dir.join("member")).unwrap();
        let around = home.path().canonicalize().unwrap();
        assert_eq!(work_parent(&data_dir).unwrap(), around);
    }

    #[test]
    fn every_load_differs_from_the_others() {
        for effort in [&THOROUGH, &QUICK] {
            let loads = loads(effort).unwrap();
            assert_eq!(
                loads.len(),
                effort.in_flight.len() * effort.value_bytes.len()
            );
            let names: std::collections::BTreeSet<_> =
                loads.iter().map(|load| &load.name).collect();
            assert_eq!(names.len(), loads.len());
        }
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
