//! Whether a change of the membership is wise: what only the leader can tell.
//!
//! etcd's rules and errors (`--strict-reconfig-check`, on by default): after the change a majority of the
//! voters must have started, and for long enough as many must be connected as decide. A learner gets a vote
//! when its log is nearly as long as the leader's. Whether a change makes sense at all, the state decides when it is
//! applied; so somebody unknown is let through here.

use keelson_storage::ids::{MemberId, RaftIndex};
use keelson_storage::state::{Cluster, MemberChange};

use keelson_proto::ApiError;

/// A member counts as connected after so long, as in etcd (microseconds).
pub const CONNECTED_AFTER_US: u64 = 5_000_000;

/// Hundredths of the leader's log that a learner must have before it gets a vote.
const LEARNER_READY_PERCENT: u64 = 90;

/// What the leader knows of the others.
#[derive(Clone, Copy, Debug)]
pub struct LeaderView<'a> {
    /// The leader.
    pub me: MemberId,
    /// How far its own log is durable.
    pub matched: RaftIndex,
    /// How far each other member's log equals it.
    pub others_matched: &'a [(MemberId, RaftIndex)],
    /// For how long each other member has been connected, in microseconds. Those who are not are not there.
    pub others_connected_us: &'a [(MemberId, u64)],
    /// `--strict-reconfig-check`.
    pub is_strict: bool,
}

/// Checks a change before it is proposed.
///
/// # Errors
/// [`ApiError::LearnerNotReady`], strict or not; [`ApiError::MemberNotEnoughStarted`], [`ApiError::Unhealthy`].
pub fn check(
    cluster: &Cluster,
    change: MemberChange,
    view: &LeaderView<'_>,
) -> Result<(), ApiError> {
    match change {
        MemberChange::AddVoter(id) if cluster.members.contains_key(&id) => {
            check_promotion(cluster, id, view)
        }
        MemberChange::AddVoter(_) | MemberChange::AddLearner(_) if !view.is_strict => Ok(()),
        MemberChange::AddVoter(_) => {
            check_new_voter(cluster)?;
            check_all_connected(cluster, view)
        }
        MemberChange::AddLearner(_) => check_all_connected(cluster, view),
        MemberChange::Remove(id) if view.is_strict => check_removal(cluster, id, view),
        MemberChange::Remove(_) => Ok(()),
    }
}

fn check_promotion(cluster: &Cluster, id: MemberId, view: &LeaderView<'_>) -> Result<(), ApiError> {
    let matched = view.others_matched.iter().find(|(other, _)| *other == id);
    if let Some((_, matched)) = matched
        && u128::from(matched.0) * 100
            < u128::from(view.matched.0) * u128::from(LEARNER_READY_PERCENT)
    {
        return Err(ApiError::LearnerNotReady);
    }
    // Being in step, it has started.
    let (voters, started) = count(cluster, None);
    if view.is_strict {
        check_started(voters + 1, started + 1)
    } else {
        Ok(())
    }
}

fn check_new_voter(cluster: &Cluster) -> Result<(), ApiError> {
    let (voters, started) = count(cluster, None);
    // A cluster of one has to grow through two members of which one has not started.
    if (voters, started) == (1, 1) {
        return Ok(());
    }
    check_started(voters + 1, started)
}

fn check_removal(cluster: &Cluster, id: MemberId, view: &LeaderView<'_>) -> Result<(), ApiError> {
    let member = cluster.members.get(&id);
    if member.is_some_and(|member| member.is_learner) {
        return Ok(());
    }
    let (voters, started) = count(cluster, Some(id));
    check_started(voters, started)?;
    // One that is down decides nothing now.
    if id != view.me && view.connected_us(id).is_none() {
        return Ok(());
    }
    let (voters, _) = count(cluster, None);
    if connected_count(cluster, view) < 2 + (voters - 1) / 2 {
        return Err(ApiError::Unhealthy);
    }
    Ok(())
}

/// Voters but `without`, and how many of them have started.
fn count(cluster: &Cluster, without: Option<MemberId>) -> (usize, usize) {
    let voters = || {
        cluster
            .voters()
            .filter(|member| Some(MemberId(member.id)) != without)
    };
    (
        voters().count(),
        voters().filter(|member| member.is_started()).count(),
    )
}

fn check_started(voters: usize, started: usize) -> Result<(), ApiError> {
    if started > voters / 2 {
        Ok(())
    } else {
        Err(ApiError::MemberNotEnoughStarted)
    }
}

fn check_all_connected(cluster: &Cluster, view: &LeaderView<'_>) -> Result<(), ApiError> {
    if connected_count(cluster, view) == cluster.voters().count() {
        Ok(())
    } else {
        Err(ApiError::Unhealthy)
    }
}

/// Voters that have been connected for long enough; the leader is one of them.
fn connected_count(cluster: &Cluster, view: &LeaderView<'_>) -> usize {
    let is_connected = |id: MemberId| {
        let for_us = view.connected_us(id);
        id == view.me || for_us.is_some_and(|for_us| for_us >= CONNECTED_AFTER_US)
    };
    let voters = cluster.voters().map(|member| MemberId(member.id));
    voters.filter(|id| is_connected(*id)).count()
}

impl LeaderView<'_> {
    fn connected_us(&self, id: MemberId) -> Option<u64> {
        let mut others = self.others_connected_us.iter();
        let found = others.find(|(other, _)| *other == id)?;
        Some(found.1)
    }
}

#[cfg(test)]
#[path = "reconfigure_tests.rs"]
mod tests;
