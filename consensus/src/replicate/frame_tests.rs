//! Frames read back as they were made; bytes that are none are refused; entries are not copied.

use bytes::{Bytes, BytesMut};
use keelson_storage::ids::{ClusterId, CoreId, MemberId, RaftIndex, ShardId, Term};
use keelson_storage::state::{Command, CommandKind};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::node::{Body, Entry, EntryKind, Mark, Membership, Message};

fn header() -> FrameHeader {
    FrameHeader {
        version: VERSION_MAX,
        cluster: ClusterId(0xc1),
        from: MemberId(0xf1),
        to: MemberId(0xf2),
        sequence: 7,
        taken: 5,
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

prop_compose! {
    fn mark()(index in 0_u64..1 << 62, term in any::<u64>()) -> Mark {
        Mark { index: RaftIndex(index), term: Term(term) }
    }
}

prop_compose! {
    fn membership()(
        voters in btree_set(1_u64..99, 0..5),
        learners in btree_set(1_u64..99, 0..5),
    ) -> Membership {
        let ids = |ids: std::collections::BTreeSet<u64>| ids.into_iter().map(MemberId).collect();
        Membership { voters: ids(voters), learners: ids(learners) }
    }
}

prop_compose! {
    fn append()(
        previous in mark(),
        commit in any::<u64>(),
        entries in vec((any::<u64>(), any::<bool>(), bytes(40)), 0..6),
    ) -> Body {
        let numbered = entries.into_iter().enumerate();
        let entries = numbered.map(|(at, (term, is_membership, payload))| Entry {
            term: Term(term),
            index: RaftIndex(previous.index.0 + 1 + at as u64),
            kind: if is_membership { EntryKind::Membership } else { EntryKind::Commands },
            payload,
        });
        Body::Append { previous, commit: RaftIndex(commit), entries: entries.collect() }
    }
}

fn body() -> impl Strategy<Value = Body> {
    let index = || any::<u64>().prop_map(RaftIndex);
    prop_oneof![
        append(),
        (index(), index()).prop_map(|(index, commit)| Body::AppendAccepted { index, commit }),
        (index(), mark(), index(), index()).prop_map(|(index, hint, commit, wants_snapshot)| {
            Body::AppendRejected {
                index,
                hint,
                commit,
                wants_snapshot,
            }
        }),
        (index(), bytes(30)).prop_map(|(commit, context)| Body::Heartbeat { commit, context }),
        (index(), bytes(30))
            .prop_map(|(commit, context)| Body::HeartbeatAnswer { commit, context }),
        (any::<bool>(), any::<bool>(), mark(), mark()).prop_map(
            |(pre, transfer, last, committed)| Body::RequestVote {
                pre,
                transfer,
                last,
                committed,
            }
        ),
        (any::<bool>(), any::<bool>(), mark()).prop_map(|(pre, granted, committed)| Body::Vote {
            pre,
            granted,
            committed,
        }),
        (mark(), membership()).prop_map(|(at, membership)| Body::Snapshot { at, membership }),
        Just(Body::TimeoutNow),
        bytes(30).prop_map(|context| Body::ReadIndex { context }),
        (index(), bytes(30)).prop_map(|(index, context)| Body::ReadIndexAnswer { index, context }),
    ]
}

prop_compose! {
    fn command()(
        kind in 0..CommandKind::ALL.len(),
        request_id in any::<u64>(),
        user in bytes(5),
        auth_revision in any::<u64>(),
        body in bytes(40),
    ) -> Command {
        Command { kind: CommandKind::ALL[kind], request_id, user, auth_revision, body }
    }
}

fn item() -> impl Strategy<Value = Item> {
    let refusal = prop_oneof![
        Just(ForwardRefusal::NotLeader),
        Just(ForwardRefusal::TooManyRequests),
        Just(ForwardRefusal::NoSpace),
        Just(ForwardRefusal::Stopping),
        Just(ForwardRefusal::Unhealthy),
        Just(ForwardRefusal::NotEnoughStarted),
        Just(ForwardRefusal::LearnerNotReady),
        Just(ForwardRefusal::NotCapable),
    ];
    let ack = prop_oneof![
        any::<u64>().prop_map(SnapshotAck::Have),
        Just(SnapshotAck::Done),
        Just(SnapshotAck::Failed),
    ];
    prop_oneof![
        6 => (any::<u64>(), body()).prop_map(|(term, body)| Item::Raft(Message {
            term: Term(term),
            body,
        })),
        1 => vec(command(), 0..5).prop_map(Item::Forward),
        1 => (refusal, any::<u64>(), vec(any::<u64>(), 0..5)).prop_map(|(why, leader, request_ids)| {
            Item::ForwardRefused { why, leader: MemberId(leader), request_ids }
        }),
        1 => (any::<[u64; 3]>(), mark(), membership(), any::<u32>()).prop_map(
            |([transfer, term, file_bytes], at, membership, file_crc)| {
                Item::SnapshotOffer(SnapshotOffer {
                    transfer,
                    term: Term(term),
                    at,
                    membership,
                    file_bytes,
                    file_crc,
                })
            }
        ),
        1 => (any::<u64>(), any::<u64>(), bytes(99)).prop_map(|(transfer, offset, data)| {
            Item::SnapshotData { transfer, offset, data }
        }),
        1 => (any::<u64>(), ack).prop_map(|(transfer, ack)| Item::SnapshotAck { transfer, ack }),
        1 => (Item::SERVER_KINDS, bytes(20)).prop_map(|(kind, body)| Item::Server { kind, body }),
    ]
}

fn items() -> impl Strategy<Value = Vec<(ShardId, Item)>> {
    vec((any::<u16>().prop_map(ShardId), item()), 0..6)
}

fn build(items: &[(ShardId, Item)]) -> Bytes {
    let mut builder = FrameBuilder::new();
    for (shard, item) in items {
        builder.push(*shard, item);
    }
    builder.finish(&header())
}

/// With a checksum that fits, as a peer with a bug would send it.
fn resealed(mut frame: BytesMut) -> Bytes {
    if frame.len() >= FRAME_HEADER_BYTES {
        let body_bytes = u32::try_from(frame.len() - FRAME_HEADER_BYTES).unwrap();
        frame[8..12].copy_from_slice(&body_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    frame.freeze()
}

proptest! {
    #[test]
    fn frames_read_back_as_they_were_made(items in items()) {
        let frame = build(&items);
        prop_assert_eq!(frame_bytes(&frame[..12]), Ok(Some(frame.len())));
        let read = Frame::decode(frame).unwrap();
        prop_assert_eq!(read.check(&header()), Ok(()));
        prop_assert_eq!(read, Frame { header: header(), items });
    }

    #[test]
    fn a_changed_bit_is_noticed(items in items(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut frame = BytesMut::from(&build(&items)[..]);
        let at = at.index(frame.len());
        frame[at] ^= 1_u8 << bit;
        prop_assert!(Frame::decode(frame.freeze()).is_err());
    }

    #[test]
    fn no_content_makes_the_decoder_panic(
        items in items(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut frame = BytesMut::from(&build(&items)[..]);
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if cuts {
            frame.truncate(cut.index(frame.len()));
        }
        let frame = resealed(frame);
        let _either = (Hello::decode(frame.clone()), Welcome::decode(frame.clone()));
        if let Ok(read) = Frame::decode(frame.clone()) {
            // What is accepted has one encoding.
            let mut builder = FrameBuilder::new();
            for (shard, item) in &read.items {
                builder.push(*shard, item);
            }
            prop_assert_eq!(builder.finish(&read.header), frame);
        }
    }

    #[test]
    fn noise_is_no_frame(noise in vec(any::<u8>(), 0..200)) {
        prop_assert!(Frame::decode(Bytes::from(noise.clone())).is_err());
        let _either = frame_bytes(&noise);
    }
}

#[test]
fn payloads_are_slices_of_the_frame() {
    let entry = Entry {
        term: Term(1),
        index: RaftIndex(2),
        kind: EntryKind::Commands,
        payload: Bytes::from(vec![7; 5000]),
    };
    let append = Message {
        term: Term(1),
        body: Body::Append {
            previous: Mark::default(),
            commit: RaftIndex(0),
            entries: vec![entry],
        },
    };
    let command = Command::new(CommandKind::Put, 1, Bytes::from(vec![8; 5000]));
    let items = [
        (ShardId(0), Item::Raft(append)),
        (ShardId(1), Item::Forward(vec![command])),
        (
            ShardId(2),
            Item::SnapshotData {
                transfer: 1,
                offset: 0,
                data: Bytes::from(vec![9; 5000]),
            },
        ),
    ];
    let frame = build(&items);
    let place = frame.as_ptr_range();
    let read = Frame::decode(frame).unwrap();
    let slices: Vec<&Bytes> = read
        .items
        .iter()
        .map(|(_, item)| match item {
            Item::Raft(Message {
                body: Body::Append { entries, .. },
                ..
            }) => &entries[0].payload,
            Item::Forward(commands) => &commands[0].body,
            Item::SnapshotData { data, .. } => data,
            other => panic!("{other:?} was not sent"),
        })
        .collect();
    assert_eq!(slices.len(), 3);
    for slice in slices {
        assert!(place.contains(&slice.as_ptr()));
    }
}

#[test]
fn a_frame_that_belongs_elsewhere_is_refused() {
    let frame = Frame::decode(build(&[])).unwrap();
    let elsewhere = [
        FrameHeader {
            version: 9,
            ..header()
        },
        FrameHeader {
            cluster: ClusterId(1),
            ..header()
        },
        FrameHeader {
            from: MemberId(1),
            ..header()
        },
        FrameHeader {
            to: MemberId(1),
            ..header()
        },
    ];
    for expected in elsewhere {
        assert!(frame.check(&expected).is_err(), "{expected:?}");
    }
}

#[test]
fn the_length_is_looked_at_before_anything_is_read() {
    let mut begin = BytesMut::from(&build(&[])[..12]);
    assert_eq!(frame_bytes(&begin[..3]), Ok(None));
    assert_eq!(frame_bytes(&begin[..11]), Ok(None));
    assert_eq!(frame_bytes(&begin), Ok(Some(FRAME_HEADER_BYTES)));
    let body_bytes = u32::try_from(FRAME_BODY_BYTES_MAX + 1).unwrap();
    begin[8..12].copy_from_slice(&body_bytes.to_le_bytes());
    assert_eq!(frame_bytes(&begin), Err(FrameError::TooLong { body_bytes }));
    assert_eq!(frame_bytes(b"GET / HT"), Err(FrameError::Magic));
    assert_eq!(frame_bytes(b"K!"), Err(FrameError::Magic));
}

#[test]
fn an_item_of_a_later_version_is_named() {
    let item = Item::Server {
        kind: 64,
        body: Bytes::new(),
    };
    let mut frame = BytesMut::from(&build(&[(ShardId(0), item)])[..]);
    frame[FRAME_HEADER_BYTES] = 200;
    assert_eq!(
        Frame::decode(resealed(frame)),
        Err(FrameError::UnknownKind(200))
    );
}

#[test]
fn members_agree_on_the_newest_version_that_both_speak() {
    assert_eq!(negotiate((1, 3), (2, 5)), Some(3));
    assert_eq!(negotiate((2, 5), (1, 3)), Some(3));
    assert_eq!(negotiate((1, 1), (1, 1)), Some(1));
    assert_eq!(negotiate((1, 2), (3, 4)), None);
}

#[test]
fn greetings_read_back_as_they_were_made() {
    let hello = Hello {
        cluster: ClusterId(1),
        from: MemberId(2),
        to: MemberId(3),
        versions: (VERSION_MIN, VERSION_MAX),
        core: CoreId(4),
        start: 5,
    };
    assert_eq!(Hello::decode(hello.encode()), Ok(hello));
    let answers = [
        Ok(7),
        Err(Refusal::Cluster),
        Err(Refusal::NotAMember),
        Err(Refusal::OtherMember),
        Err(Refusal::Version),
        Err(Refusal::SameMember),
        Err(Refusal::Core),
    ];
    for answer in answers {
        let welcome = Welcome {
            cluster: ClusterId(1),
            from: MemberId(3),
            to: MemberId(2),
            answer,
            start: 6,
        };
        assert_eq!(Welcome::decode(welcome.encode()), Ok(welcome));
    }
    assert!(matches!(
        Hello::decode(build(&[])),
        Err(FrameError::Version { .. })
    ));
}

/// The layout never changes within a version.
#[test]
fn the_bytes_of_a_frame_are_fixed() {
    let message = Message {
        term: Term(3),
        body: Body::AppendAccepted {
            index: RaftIndex(9),
            commit: RaftIndex(8),
        },
    };
    let frame = build(&[(ShardId(2), Item::Raft(message))]);
    let mut expected = BytesMut::new();
    expected.extend_from_slice(b"KLFR");
    expected.extend_from_slice(&crc32c::crc32c(&frame[8..]).to_le_bytes());
    expected.extend_from_slice(&[40, 0, 0, 0, VERSION_MAX as u8, 0, 0, 0]);
    for word in [0xc1_u64, 0xf1, 0xf2, 7, 5] {
        expected.extend_from_slice(&word.to_le_bytes());
    }
    expected.extend_from_slice(&[1, 0, 2, 0, 32, 0, 0, 0]);
    expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    for word in [3_u64, 9, 8] {
        expected.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(frame, expected.freeze());
}
