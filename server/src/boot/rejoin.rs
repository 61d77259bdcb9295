//! A member whose data is damaged, and whose cluster goes on without it, begins anew under its own name.
//!
//! ```text
//!   open --> sound                                            serve
//!        --> damaged, nobody else holds the data              refuse, and say where the damage is
//!        --> damaged, other voters do, and one of them says so
//!              --> member/REJOIN, data set aside --> an empty engine that gets everything from the others
//! ```
//!
//! From then on every start does the same, until the member is whole. What it must not do meanwhile is the engine's matter
//! (`engine/rejoin.rs`).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail};
use keelson_storage::dir::DataDir;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::state::Member;

use super::identity::{Identity, fetch_running, urls_of_others};
use super::shards::{self, CoreDisks, CoreShards, ShardPlan};
use crate::config::Config;
use crate::engine::EngineError;
use crate::runtime;

/// How long the other members may take to say who belongs to the cluster.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the engines on what is there, or on nothing if any of that is damaged: the shards of a lane share its fate.
pub(super) fn open(
    config: &Config,
    dir: &DataDir,
    disks: Vec<CoreDisks>,
    plans: &mut [ShardPlan],
    identity: &mut Identity,
    cores: usize,
) -> anyhow::Result<(Vec<CoreShards>, RecoveryReport)> {
    if !dir.is_rejoining() {
        let error = match shards::open(config, disks, plans, identity, cores) {
            Err(error) if is_damage(&error) && identity.is_certain => error,
            opened => return opened,
        };
        if urls_of_others(config).is_empty() {
            return Err(error);
        }
        tracing::error!(%error, "the data of this member is damaged; the other members are asked for theirs");
        let reason = error.to_string();
        learn_others(config, identity).context(reason)?;
    } else {
        drop(disks);
        learn_others(config, identity)
            .context("this member was getting its data from the others, because it was damaged")?;
    }
    dir.set_data_aside()?;
    tracing::warn!(
        "this member begins anew and gets all its data from the others; what was damaged is in member/damaged until then"
    );
    let disks = shards::open_disks(config, dir, plans)?;
    shards::open(config, disks, plans, identity, cores)
}

/// Which shards of a member that begins anew are whole again. When all are, what was set aside goes.
pub(super) struct Rejoining {
    data_dir: PathBuf,
    whole: Vec<OnceLock<()>>,
    finished: OnceLock<()>,
}

impl Rejoining {
    pub(super) fn new(data_dir: &Path, shards: usize) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            whole: (0..shards).map(|_| OnceLock::new()).collect(),
            finished: OnceLock::new(),
        }
    }

    /// The shard at this place is whole.
    pub(super) fn on_whole(&self, place: usize) {
        self.whole[place].get_or_init(|| ());
        let are_all = self.whole.iter().all(|whole| whole.get().is_some());
        if are_all && self.finished.set(()).is_ok() {
            finish(&self.data_dir);
        }
    }
}

/// What was set aside goes, on a thread beside the cores.
fn finish(data_dir: &Path) {
    let path = data_dir.to_owned();
    let finish = move || {
        if let Err(error) = DataDir::finish_rejoin(&path) {
            tracing::error!(%error, "the next start gets all data of this member from the others once more");
        }
    };
    if let Err(error) = runtime::spawn_helper(finish) {
        tracing::error!(%error, "no thread to remove what was set aside; the next start begins anew once more");
    }
}

/// After the engine has failed: where its disk has lost something, the next start gets everything from the others.
pub(super) fn after_failure(config: &Config, dir: &DataDir, error: &EngineError) {
    if !error.is_damage() || urls_of_others(config).is_empty() {
        return;
    }
    match dir.set_data_aside() {
        Ok(()) => tracing::warn!("the next start of this member gets all its data from the others"),
        Err(error) => tracing::error!(%error, "damaged data cannot be set aside"),
    }
}

fn is_damage(error: &anyhow::Error) -> bool {
    let engine = error.downcast_ref::<EngineError>();
    engine.is_some_and(EngineError::is_damage)
}

/// Whom to ask for the data: the members as one of them knows them.
fn learn_others(config: &Config, identity: &mut Identity) -> anyhow::Result<()> {
    let running = fetch_running(&urls_of_others(config), OTHERS_TIMEOUT)
        .context("no other member of --initial-cluster says who belongs to the cluster")?;
    if running.cluster != identity.cluster {
        bail!("the members of --initial-cluster belong to another cluster");
    }
    let me = identity.member.0;
    let is_known = running.members.iter().any(|member| member.id == me);
    let is_other_voter = |member: &Member| member.id != me && !member.is_learner;
    if !is_known || !running.members.iter().any(is_other_voter) {
        bail!("no other voter of the cluster holds the data, or this member was removed from it");
    }
    identity.founding.clear();
    identity.peers = running.members;
    identity.rejoins = true;
    Ok(())
}
