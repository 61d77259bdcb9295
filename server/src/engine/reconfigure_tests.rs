//! The rules as etcd 3.5.1 showed them.

use keelson_storage::state::Member;

use super::*;

const LONG: u64 = CONNECTED_AFTER_US;
const ME: MemberId = MemberId(1);

/// Voters: those who have started, by id from 1, then those who have not; then a learner 99 if wanted.
fn cluster(started: u64, waiting: u64, learner: bool) -> Cluster {
    let mut cluster = Cluster::default();
    for id in 1..=started + waiting {
        let name = if id <= started { "m" } else { "" };
        let member = Member {
            id,
            name: name.to_owned(),
            ..Member::default()
        };
        cluster.members.insert(MemberId(id), member);
    }
    if learner {
        let member = Member {
            id: 99,
            is_learner: true,
            ..Member::default()
        };
        cluster.members.insert(MemberId(99), member);
    }
    cluster
}

fn view<'a>(
    connected: &'a [(MemberId, u64)],
    matched: &'a [(MemberId, RaftIndex)],
) -> LeaderView<'a> {
    LeaderView {
        me: ME,
        matched: RaftIndex(1000),
        others_matched: matched,
        others_connected_us: connected,
        is_strict: true,
    }
}

/// Members 2 to `through`, connected for `for_us`.
fn connected(through: u64, for_us: u64) -> Vec<(MemberId, u64)> {
    (2..=through).map(|id| (MemberId(id), for_us)).collect()
}

fn verdict(cluster: &Cluster, change: MemberChange, through: u64) -> Result<(), ApiError> {
    check(cluster, change, &view(&connected(through, LONG), &[]))
}

#[test]
fn a_voter_comes_if_enough_have_started_and_all_are_connected() {
    let add = MemberChange::AddVoter(MemberId(50));
    // The first step of a cluster of one, and its second before the new one has started.
    assert_eq!(verdict(&cluster(1, 0, false), add, 1), Ok(()));
    let refused = Err(ApiError::MemberNotEnoughStarted);
    assert_eq!(verdict(&cluster(1, 1, false), add, 1), refused);
    assert_eq!(verdict(&cluster(3, 0, false), add, 3), Ok(()));
    assert_eq!(
        verdict(&cluster(3, 0, false), add, 2),
        Err(ApiError::Unhealthy)
    );
    // Three of five have started, one is not connected.
    assert_eq!(
        verdict(&cluster(3, 1, false), add, 3),
        Err(ApiError::Unhealthy)
    );
}

#[test]
fn a_learner_comes_if_all_voters_are_connected() {
    let add = MemberChange::AddLearner(MemberId(50));
    assert_eq!(verdict(&cluster(3, 0, true), add, 3), Ok(()));
    assert_eq!(
        verdict(&cluster(3, 0, true), add, 2),
        Err(ApiError::Unhealthy)
    );
    assert_eq!(verdict(&cluster(1, 0, false), add, 1), Ok(()));
}

#[test]
fn somebody_counts_as_connected_after_a_while() {
    let add = MemberChange::AddLearner(MemberId(50));
    let three = cluster(3, 0, false);
    let fresh = connected(3, CONNECTED_AFTER_US - 1);
    assert_eq!(
        check(&three, add, &view(&fresh, &[])),
        Err(ApiError::Unhealthy)
    );
}

#[test]
fn a_member_goes_if_those_who_stay_can_decide() {
    let remove = |id| MemberChange::Remove(MemberId(id));
    // The only one.
    let refused = Err(ApiError::MemberNotEnoughStarted);
    assert_eq!(verdict(&cluster(1, 0, false), remove(1), 1), refused);
    // One that has started, when the other has not.
    assert_eq!(verdict(&cluster(1, 1, false), remove(1), 1), refused);
    assert_eq!(verdict(&cluster(1, 1, false), remove(2), 1), Ok(()));
    // Of three: all there; the one that is down; another than the one that is down.
    assert_eq!(verdict(&cluster(3, 0, false), remove(2), 3), Ok(()));
    assert_eq!(verdict(&cluster(3, 0, false), remove(3), 2), Ok(()));
    assert_eq!(
        verdict(&cluster(3, 0, false), remove(2), 2),
        Err(ApiError::Unhealthy)
    );
    assert_eq!(
        verdict(&cluster(3, 0, false), remove(1), 2),
        Err(ApiError::Unhealthy)
    );
    // Three of four are there.
    assert_eq!(verdict(&cluster(3, 1, false), remove(2), 3), Ok(()));
    // A learner decides nothing, and nobody is nobody.
    assert_eq!(verdict(&cluster(3, 0, true), remove(99), 1), Ok(()));
    assert_eq!(verdict(&cluster(3, 0, false), remove(77), 3), Ok(()));
}

#[test]
fn a_learner_gets_a_vote_when_it_is_in_step() {
    let promote = MemberChange::AddVoter(MemberId(99));
    let promoted = |cluster: &Cluster, matched, is_strict| {
        let matched = [(MemberId(99), RaftIndex(matched))];
        let view = LeaderView {
            is_strict,
            ..view(&[], &matched)
        };
        check(cluster, promote, &view)
    };
    let three = cluster(3, 0, true);
    assert_eq!(promoted(&three, 900, true), Ok(()));
    assert_eq!(promoted(&three, 899, true), Err(ApiError::LearnerNotReady));
    assert_eq!(promoted(&three, 899, false), Err(ApiError::LearnerNotReady));
    let waiting = cluster(1, 2, true);
    let refused = Err(ApiError::MemberNotEnoughStarted);
    assert_eq!(promoted(&waiting, 1000, true), refused);
    assert_eq!(promoted(&waiting, 1000, false), Ok(()));
    // A voter is in step with itself; the state says that it is no learner.
    assert_eq!(verdict(&three, MemberChange::AddVoter(ME), 3), Ok(()));
}

#[test]
fn without_the_strict_check_all_other_changes_pass() {
    let alone = LeaderView {
        is_strict: false,
        ..view(&[], &[])
    };
    for change in [
        MemberChange::AddVoter(MemberId(50)),
        MemberChange::AddLearner(MemberId(50)),
        MemberChange::Remove(MemberId(1)),
    ] {
        assert_eq!(check(&cluster(1, 2, false), change, &alone), Ok(()));
    }
}
