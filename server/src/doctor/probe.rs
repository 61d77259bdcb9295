//! What a member with this configuration needs, and what comes of trying it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keelson_storage::dir::DataDir;
use keelson_storage::io::{RingError, probe_directory, probe_rings};
use keelson_storage::limits::{WAL_BLOCK_BYTES, WAL_RING_ENTRIES};
use keelson_tuning::doctor::{DirState, Needs, PortProbe, Probes, RingFailure};

use crate::config::Config;
use crate::front::limits::LISTEN_BACKLOG;
use crate::front::{Listener, Role};
use crate::runtime::{self, EXECUTOR_RINGS};

/// Files that a core opens, with some to spare: its rings, and the descriptors by which it is woken.
const FILES_PER_CORE: u64 = 10;
/// Files besides: log, lock, sockets, signals.
const FILES_FIXED: u64 = 32;

/// Tries everything. Nothing of it stays.
pub(super) fn probe(config: &Config) -> (Needs, Probes) {
    let data_dir =
        std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let existing_dir = existing(&data_dir);
    // As at a start; where it fails, the limit is as low for the rings below.
    let _ = runtime::raise_open_files();
    let cores = cores(config);
    let core_count = cores.as_ref().map_or(1, Vec::len);
    let lanes = lane_dirs(&data_dir);
    let runtime = &config.tuning.runtime;
    let of_core = [runtime.uring_entries as u32].into_iter();
    let rings = std::iter::repeat_n(of_core.chain(EXECUTOR_RINGS), core_count).flatten();
    let probes = Probes {
        rings: probe_rings(rings).map_err(|error| RingFailure {
            errno: errno(&error),
            says: error.to_string(),
        }),
        data_dir: dir_state(&data_dir),
        durable_write: (!config.unsafe_no_fsync).then(|| {
            // Where the log is, if there is one: other files have no place in a data directory.
            let place = lanes.first().unwrap_or(&existing_dir);
            probe_directory(place).map_err(|error| error.to_string())
        }),
        free_bytes: rustix::fs::statvfs(&existing_dir)
            .ok()
            .map(|facts| facts.f_bavail * facts.f_frsize),
        cores,
        ports: ports(config),
    };
    let needs = Needs {
        data_dir,
        existing_dir,
        is_durable: !config.unsafe_no_fsync,
        core_count: core_count as u64,
        uring_entries: runtime.uring_entries,
        log_ring_entries: u64::from(WAL_RING_ENTRIES),
        files_per_core: FILES_PER_CORE,
        files_fixed: FILES_FIXED + segment_count(&lanes),
        listen_backlog: LISTEN_BACKLOG.unsigned_abs().into(),
        quota_bytes: config.quota_backend_bytes,
        segment_bytes: config.tuning.wal.segment_bytes,
        log_block_bytes: WAL_BLOCK_BYTES,
        log_unit_bytes: config.tuning.wal.unit_bytes,
    };
    (needs, probes)
}

/// The directory itself, or the nearest one above it that exists.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|path| path.canonicalize().ok());
    found.unwrap_or_else(|| PathBuf::from("/"))
}

fn errno(error: &RingError) -> Option<i32> {
    match error {
        RingError::Refused { source, .. } => source.raw_os_error(),
        RingError::Missing(_) => None,
    }
}

fn dir_state(path: &Path) -> Result<DirState, String> {
    DataDir::check(path).map_err(|error| error.to_string())?;
    match DataDir::is_created(path) {
        Ok(true) => Ok(DirState::Created),
        Ok(false) => Ok(DirState::New),
        Err(error) => Err(error.to_string()),
    }
}

/// The directories of the log's lanes, if there are any.
fn lane_dirs(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir.join("member"))
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && is_lane(path))
        .collect()
}

fn is_lane(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("wal-"))
}

/// A member keeps every segment of its log open.
fn segment_count(lanes: &[PathBuf]) -> u64 {
    lanes
        .iter()
        .filter_map(|lane| Some(std::fs::read_dir(lane).ok()?.count() as u64))
        .sum()
}

fn cores(config: &Config) -> Result<Vec<u32>, String> {
    let online: Vec<u32> = runtime::available_cores()
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(|core| u32::from(core.0))
        .collect();
    config
        .cores
        .resolve(&online)
        .map_err(|error| error.to_string())
}

fn ports(config: &Config) -> Vec<PortProbe> {
    let of = |addresses: Vec<SocketAddr>, flag: &'static str| {
        addresses.into_iter().map(move |address| PortProbe {
            address: address.to_string(),
            flag,
            outcome: Listener::bind(address, Role::HttpOnly)
                .map(drop)
                .map_err(|error| error.to_string()),
        })
    };
    let shards = config.shards.iter().map(|shard| shard.client_addresses());
    of(config.client_addresses(), "--listen-client-urls")
        .chain(of(shards.flatten().collect(), "--shards"))
        .chain(of(config.metrics_addresses(), "--listen-metrics-urls"))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directory_that_exists_is_found() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(existing(&here), here);
        assert_eq!(existing(&here.join("no/such/directory")), here);
        assert_eq!(existing(Path::new("/no-such-directory")), Path::new("/"));
    }
}
