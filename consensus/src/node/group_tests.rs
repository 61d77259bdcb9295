//! One node on its own, and a leader whose peers the test plays.

use bytes::Bytes;
use keelson_storage::ids::{MemberId, RaftIndex, Term};

use super::*;
use crate::limits::UNCOMMITTED_BYTES_MAX;
use crate::node::{Feed, Mark, Role};

const ME: MemberId = MemberId(7);
const A: MemberId = MemberId(8);
const B: MemberId = MemberId(9);

fn alone() -> Node {
    with(Restored {
        membership: Membership::of_voters([ME]),
        ..Restored::default()
    })
}

fn with(restored: Restored) -> Node {
    Node::restore(NodeConfig::new(ME, 1), restored)
}

fn payload(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Everything there is to write is on the disk.
fn persist(node: &mut Node) {
    while let Some(ready) = node.take_ready() {
        node.on_persisted(ready.number);
    }
}

fn apply(node: &mut Node) -> Vec<RaftIndex> {
    let mut indexes = Vec::new();
    while let Some(entry) = node.take_committed() {
        node.on_applied(entry.index);
        indexes.push(entry.index);
    }
    indexes
}

/// A leader of three whose followers are the test's; all of its log is durable and committed.
fn leader() -> Node {
    let mut node = with(Restored {
        membership: Membership::of_voters([ME, A, B]),
        ..Restored::default()
    });
    node.campaign();
    for pre in [true, false] {
        persist(&mut node);
        let asked = node.take_messages();
        assert_eq!(asked.len(), 2);
        let vote = Message {
            term: asked[0].1.term,
            body: Body::Vote {
                pre,
                granted: true,
                committed: Mark::default(),
            },
        };
        node.on_message(A, vote).unwrap();
    }
    assert_eq!(node.role(), Role::Leader);
    persist(&mut node);
    for peer in [A, B] {
        accept(&mut node, peer, 1);
    }
    assert_eq!(apply(&mut node), [RaftIndex(1)]);
    let _ = node.take_messages();
    node
}

fn accept(node: &mut Node, from: MemberId, index: u64) {
    let message = Message {
        term: node.term(),
        body: Body::AppendAccepted {
            index: RaftIndex(index),
            commit: RaftIndex(0),
        },
    };
    node.on_message(from, message).unwrap();
}

#[test]
fn g_d_1_nothing_commits_before_it_is_durable() {
    let mut node = alone();
    node.campaign();
    let index = node.propose(payload("x")).unwrap();
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.entries.len(), 2);
    assert_eq!(ready.hard_state.unwrap().vote, ME);
    assert!(node.take_committed().is_none());
    node.on_persisted(ready.number);
    assert_eq!(node.take_committed().unwrap().index, RaftIndex(1));
    let entry = node.take_committed().unwrap();
    assert_eq!((entry.index, entry.payload), (index, payload("x")));
    assert!(node.take_committed().is_none());
}

#[test]
fn g_r_1_a_lone_voter_leads_when_its_vote_is_durable() {
    let mut node = alone();
    node.campaign();
    let ready = node.take_ready().unwrap();
    assert!(!node.is_leader());
    assert_eq!(node.leader(), None);
    assert_eq!(node.read_index_alone(), None);
    node.on_persisted(ready.number);
    assert_eq!(node.leader(), Some(ME));
    assert_eq!(node.read_index_alone(), Some(RaftIndex(1)));
    let read = node.read_index().unwrap();
    let state = node.take_read_state().unwrap();
    assert_eq!((state.id, state.index), (read, RaftIndex(1)));
}

#[test]
fn a_lone_voter_sends_nothing_of_its_term_before_that_is_durable() {
    // Not so in the crate: whoever leads speaks at once, and this one leads before it has written its vote.
    let mut node = with(Restored {
        membership: Membership {
            voters: [ME].into(),
            learners: [A].into(),
        },
        ..Restored::default()
    });
    node.campaign();
    let ready = node.take_ready().unwrap();
    assert!(node.take_messages().is_empty());
    node.on_persisted(ready.number);
    let sent = node.take_messages();
    assert!(
        sent.iter()
            .any(|(to, message)| *to == A && matches!(message.body, Body::Append { .. }))
    );
}

#[test]
fn each_restart_enters_a_new_term_and_continues_the_log() {
    let entry = |index| Entry {
        term: Term(4),
        index: RaftIndex(index),
        kind: EntryKind::Commands,
        payload: payload("old"),
    };
    let mut node = with(Restored {
        hard_state: HardState {
            term: Term(4),
            vote: ME,
            commit: RaftIndex(40),
        },
        start: Mark {
            index: RaftIndex(7),
            term: Term(3),
        },
        entries: vec![entry(8), entry(9)],
        applied: RaftIndex(8),
        membership: Membership::of_voters([ME]),
        snapshot: None,
    });
    // What was recorded as committed is committed, as far as it is there.
    assert_eq!(node.committed(), RaftIndex(9));
    node.campaign();
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.hard_state.unwrap().term, Term(5));
    assert_eq!(ready.entries[0].mark(), convert::mark(10, 5));
    node.on_persisted(ready.number);
    assert_eq!(apply(&mut node), [RaftIndex(9), RaftIndex(10)]);
    // Nobody lags.
    assert_eq!(node.first(), RaftIndex(11));
}

#[test]
fn oversized_entries_are_refused() {
    let mut node = alone();
    node.campaign();
    let payload = Bytes::from(vec![0; ENTRY_PAYLOAD_BYTES_MAX + 1]);
    assert!(matches!(
        node.propose(payload),
        Err(NodeError::EntryTooLarge { .. })
    ));
    assert_eq!(node.last(), RaftIndex(1));
}

#[test]
fn a_node_that_never_campaigned_refuses_proposals_and_reads() {
    assert_eq!(alone().propose(Bytes::new()), Err(NodeError::NotLeader));
    assert_eq!(alone().read_index(), Err(NodeError::NoLeader));
}

#[test]
fn g_r_6_the_leader_commits_on_a_majority_of_others() {
    let mut node = leader();
    let index = node.propose(payload("x")).unwrap();
    let ready = node.take_ready().unwrap();
    // Sent before it is written here.
    let sent = node.take_messages();
    assert_eq!(sent.len(), 2);
    accept(&mut node, A, index.0);
    assert!(node.take_committed().is_none());
    accept(&mut node, B, index.0);
    assert_eq!(apply(&mut node), [index]);
    assert!(node.persisted() < index);
    node.on_persisted(ready.number);
    assert_eq!(node.persisted(), index);
}

#[test]
fn a_commit_index_is_written_with_the_next_entries_only() {
    let mut node = leader();
    assert!(node.take_ready().is_none());
    node.propose(payload("x")).unwrap();
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.hard_state.unwrap().commit, RaftIndex(1));
    node.on_persisted(ready.number);
    accept(&mut node, A, 2);
    assert_eq!(apply(&mut node), [RaftIndex(2)]);
    assert!(node.take_ready().is_none());
}

#[test]
fn uncommitted_entries_are_bounded() {
    let mut node = leader();
    while node.has_room() {
        node.propose(payload("x")).unwrap();
    }
    assert_eq!(node.last().0, 1 + ENTRIES_UNCOMMITTED_MAX as u64);
    persist(&mut node);
    let last = node.last().0;
    accept(&mut node, A, last);
    apply(&mut node);
    assert!(node.has_room());
    let large = Bytes::from(vec![0; ENTRY_PAYLOAD_BYTES_MAX]);
    let mut count = 0;
    while node.has_room() {
        node.propose(large.clone()).unwrap();
        count += 1;
    }
    assert_eq!(
        count,
        UNCOMMITTED_BYTES_MAX / ENTRY_PAYLOAD_BYTES_MAX as u64
    );
}

#[test]
fn a_stale_rejection_does_not_lead_below_what_was_accepted() {
    let mut node = leader();
    for _ in 0..3 {
        node.propose(payload("x")).unwrap();
    }
    persist(&mut node);
    accept(&mut node, A, 3);
    node.report_unreachable(A);
    let reject = |index, hint| Message {
        term: Term(1),
        body: Body::AppendRejected {
            index: RaftIndex(index),
            hint: convert::mark(hint, 0),
            commit: RaftIndex(0),
            wants_snapshot: RaftIndex(0),
        },
    };
    for (index, hint) in [(3, 0), (4, 1), (2, 1)] {
        node.on_message(A, reject(index, hint)).unwrap();
        let peer = node.progress()[0];
        assert_eq!(peer.matched, RaftIndex(3));
        assert!(peer.next > peer.matched, "{peer:?}");
    }
}

#[test]
fn what_no_sound_peer_sends_is_refused() {
    let mut node = leader();
    let term = node.term();
    let sound_entry = Entry {
        term,
        index: RaftIndex(2),
        kind: EntryKind::Commands,
        payload: Bytes::new(),
    };
    let append = |term, entries| Message {
        term,
        body: Body::Append {
            previous: convert::mark(1, 1),
            commit: RaftIndex(1),
            entries,
        },
    };
    let gap = Entry {
        index: RaftIndex(3),
        ..sound_entry.clone()
    };
    let future = Entry {
        term: Term(9),
        ..sound_entry.clone()
    };
    let bad = [
        append(Term(0), vec![]),
        append(term, vec![gap]),
        append(term, vec![future]),
        Message {
            term,
            body: Body::AppendAccepted {
                index: RaftIndex(99),
                commit: RaftIndex(0),
            },
        },
        Message {
            term,
            body: Body::Snapshot {
                at: convert::mark(5, 1),
                membership: Membership::default(),
            },
        },
        Message {
            term,
            body: Body::ReadIndex {
                context: Bytes::new(),
            },
        },
    ];
    for message in bad {
        let refused = node.on_message(A, message.clone());
        assert!(
            matches!(refused, Err(NodeError::Message { from: A, .. })),
            "{message:?}"
        );
    }
    let own = node.on_message(ME, append(term, vec![sound_entry]));
    assert!(matches!(own, Err(NodeError::Message { .. })));
}

#[test]
fn a_member_whose_log_is_gone_says_so() {
    let mut node = with(Restored {
        membership: Membership::of_voters([ME, A, B]),
        ..Restored::default()
    });
    let heartbeat = Message {
        term: Term(3),
        body: Body::Heartbeat {
            commit: RaftIndex(12),
            context: Bytes::new(),
        },
    };
    let refused = node.on_message(A, heartbeat);
    assert!(matches!(refused, Err(NodeError::LogLost { .. })));
}

#[test]
fn g_r_3_one_change_of_the_membership_at_a_time() {
    let mut node = leader();
    let change = MembershipChange::AddLearner(MemberId(20));
    node.propose_membership(payload("m"), change).unwrap();
    assert_eq!(
        node.propose_membership(payload("m"), change),
        Err(NodeError::MembershipPending)
    );
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.entries[0].kind, EntryKind::Membership);
    assert_eq!(ready.entries[0].payload, payload("m"));
    node.on_persisted(ready.number);
    accept(&mut node, A, 2);
    let entry = node.take_committed().unwrap();
    assert_eq!(entry.kind, EntryKind::Membership);
    let membership = node.apply_membership(change).unwrap();
    assert!(membership.learners.contains(&MemberId(20)));
    // That much is written at once.
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.hard_state.unwrap().commit, entry.index);
    node.on_persisted(ready.number);
    node.on_applied(entry.index);
    assert_eq!(
        node.propose_membership(payload("m"), change),
        Err(MembershipError::Known(MemberId(20)).into())
    );
    let promote = MembershipChange::AddVoter(MemberId(20));
    assert!(node.propose_membership(payload("m"), promote).is_ok());
    assert!(node.progress().iter().any(|peer| peer.is_learner));
}

#[test]
fn g_r_3_a_leader_that_leaves_calls_a_successor_and_steps_down() {
    let mut node = leader();
    let leave = MembershipChange::Remove(ME);
    let index = node.propose_membership(payload("m"), leave).unwrap();
    persist(&mut node);
    accept(&mut node, B, index.0);
    let _ = node.take_messages();
    let entry = node.take_committed().unwrap();
    node.apply_membership(leave).unwrap();
    node.on_applied(entry.index);
    let sent = node.take_messages();
    assert!(
        sent.iter()
            .any(|(to, message)| *to == B && message.body == Body::TimeoutNow)
    );
    assert_eq!(node.role(), Role::Follower);
    for _ in 0..100 {
        node.tick();
    }
    assert_eq!(
        node.role(),
        Role::Follower,
        "who is no member stands for nothing"
    );
    accept(&mut node, A, index.0);
}

#[test]
fn a_new_member_learns_from_the_log_who_founded_the_cluster() {
    let mut node = with(Restored::default());
    for _ in 0..100 {
        node.tick();
    }
    assert_eq!(node.role(), Role::Follower);
    let founders = Membership {
        voters: [A, B, ME].into(),
        learners: [MemberId(30)].into(),
    };
    assert_eq!(node.found(&founders), Ok(founders.clone()));
    let others = Membership::of_voters([A]);
    assert_eq!(node.found(&others), Ok(founders));
}

#[test]
fn a_follower_on_a_slow_disk_answers_heartbeats_and_holds_back_the_rest() {
    let mut node = with(Restored {
        membership: Membership::of_voters([ME, A, B]),
        ..Restored::default()
    });
    let append = |index| Message {
        term: Term(1),
        body: Body::Append {
            previous: convert::mark(index - 1, u64::from(index > 1)),
            commit: RaftIndex(0),
            entries: vec![Entry {
                term: Term(1),
                index: RaftIndex(index),
                kind: EntryKind::Commands,
                payload: payload("x"),
            }],
        },
    };
    node.on_message(A, append(1)).unwrap();
    persist(&mut node);
    assert_eq!(node.take_messages().len(), 1);
    node.on_message(A, append(2)).unwrap();
    let heartbeat = Message {
        term: Term(1),
        body: Body::Heartbeat {
            commit: RaftIndex(1),
            context: payload("read"),
        },
    };
    node.on_message(A, heartbeat).unwrap();
    let ready = node.take_ready().unwrap();
    let sent = node.take_messages();
    assert_eq!(sent.len(), 1);
    assert!(matches!(sent[0].1.body, Body::HeartbeatAnswer { .. }));
    node.on_persisted(ready.number);
    let sent = node.take_messages();
    assert!(matches!(sent[0].1.body, Body::AppendAccepted { index, .. } if index.0 == 2));
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let mut node = with(Restored {
        membership: Membership::of_voters([ME, A, B]),
        ..Restored::default()
    });
    let snapshot = Message {
        term: Term(3),
        body: Body::Snapshot {
            at: convert::mark(50, 2),
            membership: Membership::of_voters([ME, A]),
        },
    };
    node.on_message(A, snapshot).unwrap();
    let append = Message {
        term: Term(3),
        body: Body::Append {
            previous: convert::mark(50, 2),
            commit: RaftIndex(51),
            entries: vec![Entry {
                term: Term(3),
                index: RaftIndex(51),
                kind: EntryKind::Commands,
                payload: payload("x"),
            }],
        },
    };
    node.on_message(A, append).unwrap();
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.snapshot.unwrap().at, convert::mark(50, 2));
    let state = ready.hard_state.unwrap();
    assert_eq!((state.term, state.commit), (Term(3), RaftIndex(0)));
    assert!(ready.entries.is_empty());
    // Until the file counts, nothing goes on.
    assert!(node.take_ready().is_none());
    assert!(node.take_committed().is_none());
    for _ in 0..100 {
        node.tick();
    }
    assert_eq!(node.role(), Role::Follower);
    assert!(node.take_messages().is_empty());
    node.on_persisted(ready.number);
    assert_eq!(node.membership(), Membership::of_voters([ME, A]));
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.entries[0].index, RaftIndex(51));
    assert_eq!(ready.hard_state.unwrap().commit, RaftIndex(50));
    node.on_persisted(ready.number);
    assert_eq!(apply(&mut node), [RaftIndex(51)]);
}

/// Nine more entries, which A has as well.
fn commit_more(node: &mut Node, after_each: fn(&mut Node)) {
    for _ in 0..9 {
        node.propose(payload("x")).unwrap();
        persist(node);
        let last = node.last().0;
        accept(node, A, last);
        after_each(node);
    }
}

#[test]
fn a_member_that_lags_too_far_makes_the_leader_want_a_snapshot_file() {
    let mut node = leader();
    node.config.keep = LogKeep {
        entries: 2,
        bytes: 1 << 20,
    };
    let apply_each = |node: &mut Node| assert_eq!(apply(node).len(), 1);
    let more = |node: &mut Node| commit_more(node, apply_each);
    more(&mut node);
    assert_eq!(node.first(), RaftIndex(9));
    node.report_unreachable(B);
    let reject = Message {
        term: Term(1),
        body: Body::AppendRejected {
            index: RaftIndex(1),
            hint: convert::mark(1, 1),
            commit: RaftIndex(1),
            wants_snapshot: RaftIndex(0),
        },
    };
    let answer = Message {
        term: Term(1),
        body: Body::HeartbeatAnswer {
            commit: RaftIndex(1),
            context: Bytes::new(),
        },
    };
    let _ = node.on_message(B, reject);
    node.on_message(B, answer.clone()).unwrap();
    assert!(node.wants_snapshot_file());
    commit_more(&mut node, |_| {});
    node.on_snapshot_file(SnapshotMark {
        at: convert::mark(10, 1),
        membership: node.membership(),
    });
    assert!(!node.wants_snapshot_file());
    apply(&mut node);
    assert_eq!(node.first(), RaftIndex(9), "raft has not asked for it yet");
    node.on_message(B, answer).unwrap();
    let sent = node.take_messages();
    assert!(sent.iter().any(|(to, message)| *to == B
        && matches!(&message.body, Body::Snapshot { at, .. } if at.index.0 == 10)));
    assert_eq!(node.progress()[1].feed, Feed::Snapshot(RaftIndex(10)));
    more(&mut node);
    assert_eq!(node.first(), RaftIndex(11), "what comes after it stays");
    node.report_snapshot(B, true);
    more(&mut node);
    assert_eq!(node.first(), RaftIndex(11), "also when it has just arrived");
    accept(&mut node, B, 10);
    assert_eq!(node.progress()[1].feed, Feed::Replicate);
    more(&mut node);
    assert_eq!(node.first(), RaftIndex(11), "and until it has caught up");
    let last = node.last().0;
    accept(&mut node, B, last);
    more(&mut node);
    assert_eq!(
        node.first(),
        RaftIndex(node.last().0 - 1),
        "it has caught up, and is kept no more than others"
    );
}
