//! Changes of the membership, with etcd's errors. The expected ones were seen at etcd 3.5.1.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::{RaftIndex, Term};
use crate::state::{Position, Response, State};

fn member(id: u64) -> Member {
    Member {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://m{id}:2380")],
        client_urls: vec![format!("http://m{id}:2379")],
        is_learner: false,
    }
}

fn add(id: u64, is_learner: bool) -> Request {
    Request::MemberAdd(MemberAdd {
        member: Some(Member {
            is_learner,
            name: String::new(),
            client_urls: Vec::new(),
            ..member(id)
        }),
        learners_max: 1,
    })
}

fn remove(id: u64) -> Request {
    Request::MemberRemove(MemberRemoveRequest { id })
}

fn promote(id: u64) -> Request {
    Request::MemberPromote(MemberPromoteRequest { id })
}

fn update(id: u64, url: &str) -> Request {
    Request::MemberUpdate(MemberUpdateRequest {
        id,
        peer_ur_ls: vec![url.to_owned()],
    })
}

struct Case {
    state: State,
    index: u64,
}

impl Case {
    fn founded(members: u64) -> Self {
        let mut case = Self {
            state: State::new(),
            index: 0,
        };
        let init = Request::ClusterInit(ClusterInit {
            cluster_id: 77,
            members: (1..=members).map(member).collect(),
        });
        assert_eq!(case.apply(&init), Ok(Response::Empty));
        case
    }

    fn apply(&mut self, request: &Request) -> Result<Response, ApiError> {
        self.index += 1;
        let at = Position {
            index: RaftIndex(self.index),
            term: Term(1),
            ..Position::default()
        };
        self.state.on_entry(at);
        let before = self.state.digest();
        let result = self.state.apply(at, request);
        if result.is_err() {
            assert_eq!(self.state.digest(), before, "an error leaves no trace");
        }
        result
    }

    fn error(&mut self, request: &Request) -> ApiError {
        self.apply(request).unwrap_err()
    }

    fn ids(&self) -> Vec<u64> {
        let members = self.state.cluster().members.keys();
        members.map(|id| id.0).collect()
    }
}

#[test]
fn several_members_found_a_cluster_at_once() {
    let case = Case::founded(3);
    assert_eq!(case.ids(), [1, 2, 3]);
    assert_eq!(case.state.cluster().voters().count(), 3);
}

#[test]
fn a_member_comes_as_a_learner_gets_a_vote_moves_and_goes() {
    let mut case = Case::founded(1);
    let Ok(Response::MemberAdd(added)) = case.apply(&add(9, true)) else {
        panic!("a learner is added");
    };
    assert_eq!(added.header, Some(ResponseHeader::default()));
    let new = added.member.unwrap();
    assert_eq!((new.id, new.is_learner, new.name.as_str()), (9, true, ""));
    assert_eq!(new.peer_ur_ls, ["http://m9:2380"]);
    assert_eq!(added.members.len(), 2);

    let Ok(Response::MemberUpdate(moved)) = case.apply(&update(9, "http://new:1")) else {
        panic!("a member's URLs are changed");
    };
    assert_eq!(moved.members[1].peer_ur_ls, ["http://new:1"]);
    assert!(
        moved.members[1].is_learner,
        "it has no vote for having moved"
    );

    let Ok(Response::MemberPromote(promoted)) = case.apply(&promote(9)) else {
        panic!("a learner is promoted");
    };
    assert!(!promoted.members[1].is_learner);

    let Ok(Response::MemberRemove(removed)) = case.apply(&remove(1)) else {
        panic!("a member is removed");
    };
    assert_eq!(removed.members.len(), 1);
    assert_eq!(case.ids(), [9]);
    assert!(case.state.cluster().removed.contains(&MemberId(1)));
}

#[test]
fn changes_are_refused_as_etcd_refuses_them() {
    let mut case = Case::founded(3);
    assert_eq!(case.error(&add(2, false)), ApiError::MemberExist);
    let taken = Request::MemberAdd(MemberAdd {
        member: Some(Member { id: 8, ..member(2) }),
        learners_max: 1,
    });
    assert_eq!(case.error(&taken), ApiError::PeerUrlExist);
    assert_eq!(case.error(&remove(8)), ApiError::MemberNotFound);
    assert_eq!(case.error(&promote(8)), ApiError::MemberNotFound);
    assert_eq!(case.error(&promote(2)), ApiError::MemberNotLearner);
    let url = "http://m3:2380";
    assert_eq!(case.error(&update(8, url)), ApiError::MemberNotFound);
    assert_eq!(case.error(&update(2, url)), ApiError::PeerUrlExist);
    // Its own URL again is no conflict.
    case.apply(&update(3, url)).unwrap();

    case.apply(&add(8, true)).unwrap();
    assert_eq!(case.error(&add(9, true)), ApiError::TooManyLearners);
    case.apply(&add(9, false)).unwrap();

    case.apply(&remove(8)).unwrap();
    assert_eq!(case.error(&remove(8)), ApiError::MemberNotFound);
    assert_eq!(case.error(&promote(8)), ApiError::MemberNotFound);
    assert_eq!(case.error(&add(8, false)), ApiError::MemberNotFound);
}

#[test]
fn the_last_voter_stays_and_nobody_has_the_id_0() {
    let mut case = Case::founded(1);
    case.apply(&add(9, true)).unwrap();
    assert_eq!(case.error(&remove(1)), ApiError::MemberNotEnoughStarted);
    case.apply(&remove(9)).unwrap();
    assert_eq!(case.error(&add(0, false)), ApiError::MemberBadUrls);
    let nobody = Request::MemberAdd(MemberAdd::default());
    assert_eq!(case.error(&nobody), ApiError::MemberBadUrls);
    assert_eq!(case.ids(), [1]);
}

#[test]
fn a_cluster_has_a_largest_size() {
    let mut case = Case::founded(1);
    for id in 2..=CLUSTER_MEMBERS_MAX as u64 {
        case.apply(&add(id, false)).unwrap();
    }
    assert_eq!(case.error(&add(99, false)), ApiError::TooManyRequests);
}

#[test]
fn a_command_says_what_it_means_to_the_group() {
    let id = MemberId(9);
    for (request, change) in [
        (add(9, false), Some(MemberChange::AddVoter(id))),
        (add(9, true), Some(MemberChange::AddLearner(id))),
        (promote(9), Some(MemberChange::AddVoter(id))),
        (remove(9), Some(MemberChange::Remove(id))),
        (update(9, "http://a:1"), None),
        (Request::MemberAdd(MemberAdd::default()), None),
        (Request::Tick, None),
    ] {
        assert_eq!(request.member_change(), change, "{request:?}");
    }
}
