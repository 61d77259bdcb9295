//! The shards of this process: which there are, what the data directory knows of them, and their engines, opened.
//!
//! Invariant: the directory says of a shard that it is there only when the shard has a record or a snapshot, so a shard that
//! it names and that has neither was lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use keelson_storage::dir::{DataDir, MAIN_SHARD, ShardPlace, ShardPlaces, shard_id};
use keelson_storage::ids::{LaneId, MemberId, ShardId};
use keelson_storage::io::{IoMode, UringDisk};
use keelson_storage::mvcc::Reuse;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::snapshot::{BuilderConfig, StoreConfig};
use keelson_storage::state::Member;
use keelson_storage::wal::WalConfig;
use keelson_tuning::machine::{Disk, Filesystem, Root};

use super::identity::{Identity, texts};
use crate::config::{Config, HttpUrl, version};
use crate::engine::{
    CheckpointConfig, CompareConfig, EngineConfig, GroupConfig, ShardPast, ShardSeat, Shards,
    Slices, open_lane,
};
use crate::runtime::MonotonicClock;

/// A shard of this process. The first one is `main`.
#[derive(Clone, Debug)]
pub(super) struct ShardPlan {
    pub(super) name: String,
    pub(super) shard: ShardId,
    /// By place in the list of cores; its lane has the same number.
    pub(super) core: usize,
    pub(super) addresses: Vec<SocketAddr>,
    advertised: Vec<HttpUrl>,
    past: ShardPast,
    is_joined: bool,
}

/// The shards of one core.
pub(super) struct CoreShards {
    pub(super) core: usize,
    /// Places in the list of plans, in the order of the engines.
    pub(super) plans: Vec<usize>,
    pub(super) shards: Shards<UringDisk>,
}

/// What of a core's shards is on the disk, before it is read.
pub(super) struct CoreDisks {
    core: usize,
    lane: UringDisk,
    /// Snapshot files, by place in the list of plans.
    snapshots: Vec<(usize, UringDisk)>,
}

/// Which shards there are to be.
///
/// # Errors
/// One is on a core that is not there, or is not where, or not at all where, the directory has it.
pub(super) fn plan(
    config: &Config,
    dir: &DataDir,
    core_count: usize,
) -> anyhow::Result<Vec<ShardPlan>> {
    let known = dir.shards()?;
    let main = (
        MAIN_SHARD,
        config.client_addresses(),
        &config.advertise_client_urls,
        0,
    );
    let others = config.shards.iter().map(|shard| {
        let addresses = shard.client_addresses();
        (
            shard.name.as_str(),
            addresses,
            &shard.advertise_client_urls,
            shard.core,
        )
    });
    let shards = std::iter::once(main).chain(others);
    let plans = shards.map(|(name, addresses, advertised, core)| ShardPlan {
        name: name.to_owned(),
        shard: shard_id(name),
        core,
        addresses,
        advertised: advertised.clone(),
        past: match (known.contains_key(name), name) {
            (true, _) => ShardPast::Known,
            (false, MAIN_SHARD) => ShardPast::Alone,
            (false, _) => ShardPast::New,
        },
        is_joined: known.get(name).is_some_and(|place| place.is_joined),
    });
    let plans: Vec<ShardPlan> = plans.collect();
    for plan in &plans {
        if plan.core >= core_count {
            bail!(
                "--shards-cores has {}={}, but there are {core_count} cores, counted from 0: change it, or --cores",
                plan.name,
                plan.core
            );
        }
    }
    check_known(&plans, &known)?;
    for shard in dir.shards_with_snapshots()? {
        if plans.iter().all(|plan| plan.shard != shard) {
            bail!(
                "the data directory has snapshot files of a shard with id {shard}, which is not configured: name all \
                 shards that it was made with in --shards; an id is made of a shard's name"
            );
        }
    }
    if plans.len() > 1 {
        dir.expect_shards()?;
    }
    Ok(plans)
}

fn check_known(plans: &[ShardPlan], known: &ShardPlaces) -> anyhow::Result<()> {
    for (name, place) in known {
        let Some(plan) = plans.iter().find(|plan| plan.name == *name) else {
            bail!(
                "the data directory has a shard {name}, which is not configured: put it back into --shards; its data \
                 is in it, and a shard is not removed by leaving it out"
            );
        };
        if plan.core != usize::from(place.lane.0) {
            bail!(
                "the log of shard {name} is that of core {}, but --shards-cores places it on core {}: put it back; a \
                 shard stays on the core on which it began",
                place.lane.0,
                plan.core
            );
        }
    }
    Ok(())
}

/// Opens the directories of all lanes and shards.
pub(super) fn open_disks(
    config: &Config,
    dir: &DataDir,
    plans: &[ShardPlan],
) -> anyhow::Result<Vec<CoreDisks>> {
    let mode = if config.unsafe_no_fsync {
        tracing::warn!(
            "--unsafe-no-fsync: acknowledged writes are lost when the machine stops; \
             use it for throw-away data only"
        );
        IoMode::UnsafeBuffered
    } else {
        IoMode::Direct
    };
    let mut by_core: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, plan) in plans.iter().enumerate() {
        by_core.entry(plan.core).or_default().push(place);
    }
    let cores = by_core.into_iter().map(|(core, places)| {
        let snapshots = places.into_iter().map(|place| {
            let path = dir.snapshots_path(plans[place].shard)?;
            Ok((place, UringDisk::open(&path, mode)?))
        });
        Ok(CoreDisks {
            core,
            lane: UringDisk::open(&dir.lane_path(lane_of(core))?, mode)?,
            snapshots: snapshots.collect::<anyhow::Result<_>>()?,
        })
    });
    cores.collect()
}

/// Opens all engines, `main`'s first; with what was read of its lane.
pub(super) fn open(
    config: &Config,
    disks: Vec<CoreDisks>,
    plans: &mut [ShardPlan],
    identity: &Identity,
    core_count: usize,
) -> anyhow::Result<(Vec<CoreShards>, RecoveryReport)> {
    let mut cores: Vec<CoreShards> = Vec::with_capacity(disks.len());
    let mut main_report = None;
    for CoreDisks {
        core,
        lane,
        snapshots,
    } in disks
    {
        let mut seats = Vec::with_capacity(snapshots.len());
        let mut places = Vec::with_capacity(snapshots.len());
        for (place, snapshots) in snapshots {
            let (plan, count) = (&plans[place], plans.len());
            let mut seat = ShardSeat {
                snapshots,
                config: engine_config(config, identity, plan, (place, count), core_count),
                member: Member {
                    client_urls: texts(&plan.advertised),
                    ..identity.me.clone()
                },
                // Of a member that begins anew nothing is there, and that is as it should be.
                past: if identity.rejoins {
                    ShardPast::New
                } else {
                    plan.past
                },
            };
            if let Some(main) = cores.first().and_then(|first| first.shards.iter().next()) {
                seat.take_after(main);
            }
            seats.push(seat);
            places.push(place);
        }
        let wal = wal_config(config);
        let (shards, report) = open_lane((lane_of(core), lane), wal, seats, &MonotonicClock)?;
        for (engine, place) in shards.iter().zip(&places) {
            plans[*place].is_joined |= !engine.founds() && plans[*place].past != ShardPast::Known;
        }
        main_report.get_or_insert(report);
        cores.push(CoreShards {
            core,
            plans: places,
            shards,
        });
    }
    let report = main_report.expect("main has a core");
    Ok((cores, report))
}

/// Writes down what shards there are, where that is news. A member with `main` alone has nothing to write.
pub(super) fn note(dir: &DataDir, plans: &[ShardPlan]) -> anyhow::Result<()> {
    if plans.len() == 1 {
        return Ok(());
    }
    let places = plans.iter().map(|plan| {
        let place = ShardPlace {
            shard: plan.shard,
            lane: lane_of(plan.core),
            is_joined: plan.is_joined,
        };
        (plan.name.clone(), place)
    });
    let places: ShardPlaces = places.collect();
    if dir.shards()? != places {
        dir.set_shards(&places)?;
    }
    Ok(())
}

fn lane_of(core: usize) -> LaneId {
    LaneId(u16::try_from(core).expect("there are fewer cores"))
}

fn wal_config(config: &Config) -> WalConfig {
    let wal = &config.tuning.wal;
    let disk = Disk::under(&Root::system(), &Filesystem::of(&config.data_dir));
    WalConfig {
        segment_bytes: wal.segment_bytes,
        unit_bytes: Disk::log_unit_bytes(disk.as_ref(), wal.unit_bytes),
        depth: wal.depth as usize,
        group_bytes_max: wal.group_bytes_max,
        group_delay_us: wal.group_delay_us,
        spare_segments_max: wal.spare_segments_max as usize,
        attest_delay_us: wal.attest_delay_us,
    }
}

/// The configuration of the shard at this place of so many.
fn engine_config(
    config: &Config,
    identity: &Identity,
    plan: &ShardPlan,
    (place, count): (usize, usize),
    cores: usize,
) -> EngineConfig {
    let memory_budget_bytes = config.tuning.storage.memory_budget_bytes / count as u64;
    let mut group = group_config(config, identity);
    group.spread_rank = (count > 1).then_some(place);
    if plan.is_joined {
        group.founding.clear();
    }
    EngineConfig {
        shard: plan.shard,
        member: identity.member,
        cluster: identity.cluster,
        group,
        seed: start_seed(identity.member) ^ u64::from(plan.shard.0),
        quota_bytes: config.quota_backend_bytes,
        auto_compact: config.auto_compaction,
        checkpoint: checkpoint_config(config),
        compare: CompareConfig {
            interval_us: config.corrupt_check_time.map(micros),
            after_compaction_us: config
                .feature_gates
                .enabled("CompactHashCheck")
                .then(|| micros(config.compact_hash_check_time)),
            at_start: config.feature_gates.enabled("InitialCorruptCheck"),
        },
        snapshots: StoreConfig {
            cache_bytes_max: memory_budget_bytes,
            keeps_written: true,
            ..StoreConfig::default()
        },
        memory_budget_bytes,
        slices: Slices::default(),
        wal_depth: config.tuning.wal.depth as usize,
        cores,
        api_version: version::API.to_owned(),
        storage_version: version::STORAGE.to_owned(),
    }
}

/// A number that another member, or another start of this one, does not have.
pub(super) fn start_seed(member: MemberId) -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = since_epoch.unwrap_or_default().as_millis() as u64;
    // Half of it ends up in request ids, so both parts are in the lower half too.
    member.0 ^ (member.0 >> 32) ^ now_ms
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn group_config(config: &Config, identity: &Identity) -> GroupConfig {
    GroupConfig {
        is_identity_certain: identity.is_certain,
        founding: identity.founding.clone(),
        peers: identity.peers.clone(),
        tick_us: config.heartbeat_interval.as_micros() as u64,
        election_ticks: config.election_ticks(),
        advances_ticks: config.initial_election_tick_advance,
        lease_reads: config.tuning.raft.lease_reads == 1,
        is_strict: config.strict_reconfig_check,
        log_keep_entries: usize::try_from(config.snapshot_catchup_entries).unwrap_or(usize::MAX),
        forces_new_cluster: config.force_new_cluster,
        rejoins: identity.rejoins,
        spread_rank: None,
    }
}

fn checkpoint_config(config: &Config) -> CheckpointConfig {
    let tuning = &config.tuning.checkpoint;
    CheckpointConfig {
        commands: config.snapshot_count,
        log_bytes: (tuning.log_bytes_min, tuning.log_bytes_max),
        interval_us: (tuning.interval_seconds > 0).then(|| tuning.interval_seconds * 1_000_000),
        bytes_per_second: tuning.bytes_per_second,
        reuse: Reuse::MUCH,
        builder: BuilderConfig {
            page_bytes: tuning.page_bytes as usize,
            ..BuilderConfig::default()
        },
    }
}
