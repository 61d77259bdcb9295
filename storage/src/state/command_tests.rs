//! The entry codec: round trips, fixed bytes, hostile bytes.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::state::members::Member;

fn command() -> impl Strategy<Value = Command> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from);
    (
        0..CommandKind::ALL.len(),
        any::<u64>(),
        bytes(256),
        any::<u64>(),
        bytes(400),
    )
        .prop_map(|(kind, request_id, user, auth_revision, body)| Command {
            kind: CommandKind::ALL[kind],
            request_id,
            user,
            auth_revision,
            body,
        })
}

proptest! {
    #[test]
    fn decode_is_the_inverse_of_encode(
        lease_time in any::<u64>(),
        commands in proptest::collection::vec(command(), 0..12),
    ) {
        let mut out = BytesMut::new();
        encode_entry(LeaseTime(lease_time), &commands, &mut out);
        prop_assert_eq!(out.len(), entry_bytes(&commands));
        let mut wide = BytesMut::new();
        encode_wide_entry(LeaseTime(lease_time), &commands, &mut wide);
        for payload in [out.freeze(), wide.freeze()] {
            let (time, decoded) = decode_entry(&payload).unwrap();
            prop_assert_eq!(time, LeaseTime(lease_time));
            // Bodies are slices of the payload.
            for command in decoded.iter().filter(|command| !command.body.is_empty()) {
                prop_assert!(payload.as_ptr_range().contains(&command.body.as_ptr()));
            }
            prop_assert_eq!(&decoded, &commands);
        }
    }

    #[test]
    fn a_command_has_at_most_its_bound(command in command()) {
        let bytes = entry_bytes(std::slice::from_ref(&command));
        prop_assert!(bytes <= ENTRY_HEADER_BYTES + Command::ENVELOPE_BYTES_MAX + command.body.len());
        if !command.has_user() {
            let alone = command_bytes(command.body.len(), command.request_id, 0);
            prop_assert_eq!(bytes, ENTRY_HEADER_BYTES + alone);
            prop_assert!(alone <= Command::HEADER_BYTES_MAX + command.body.len());
        }
    }

    /// Every shorter, longer or bent entry is an error or something else, never a panic.
    #[test]
    fn hostile_bytes_do_no_harm(
        commands in proptest::collection::vec(command(), 0..5),
        cut in any::<proptest::sample::Index>(),
        bent in any::<proptest::sample::Index>(),
        bits in 1u8..,
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        is_wide in any::<bool>(),
    ) {
        let mut out = BytesMut::new();
        match is_wide {
            true => encode_wide_entry(LeaseTime(7), &commands, &mut out),
            false => encode_entry(LeaseTime(7), &commands, &mut out),
        }
        let payload = out.freeze();
        prop_assert_eq!(decode_entry(&payload.slice(..cut.index(payload.len()))), Err(CommandError::Framing));
        let mut longer = payload.to_vec();
        longer.push(bits);
        prop_assert_eq!(decode_entry(&Bytes::from(longer)), Err(CommandError::Framing));
        let mut changed = payload.to_vec();
        changed[bent.index(payload.len())] ^= bits;
        for payload in [Bytes::from(changed), Bytes::from(noise)] {
            if let Ok((time, commands)) = decode_entry(&payload) {
                let [mut lean, mut wide] = [BytesMut::new(), BytesMut::new()];
                encode_entry(time, &commands, &mut lean);
                encode_wide_entry(time, &commands, &mut wide);
                prop_assert!(lean == payload || wide == payload);
                let requests: Vec<_> = commands.iter().map(Command::request).collect();
                drop(requests);
            }
        }
    }

    #[test]
    fn hostile_bodies_do_no_harm(
        kind in 0..CommandKind::ALL.len(),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(request) = Request::decode(CommandKind::ALL[kind], &Bytes::from(body)) {
            prop_assert_eq!(request.kind(), CommandKind::ALL[kind]);
            let again = Request::decode(request.kind(), &request.encode_body()).unwrap();
            prop_assert_eq!(again, request);
        }
    }
}

/// These bytes are on disk: a change of them is a change of the format.
#[test]
fn golden_bytes() {
    let put = PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        ..PutRequest::default()
    };
    let put = Request::Put(put);
    let commands = [
        Command {
            kind: CommandKind::Put,
            request_id: 0x0102_0304_0506_0708,
            user: Bytes::from_static(b"root"),
            auth_revision: 9,
            body: put.encode_body(),
        },
        Command::new(CommandKind::Tick, 0, Request::Tick.encode_body()),
    ];
    let mut out = BytesMut::new();
    encode_entry(LeaseTime(0x1122), &commands, &mut out);
    #[rustfmt::skip]
    let golden = [
        0x22, 0x11, 0, 0, 0, 0, 0, 0,   2, 0, 0, 0x80,
        0x81,   6,   0x90, 0x9c, 0xb0, 0xd0, 0x80, 0xc1, 0x81, 0x82, 0x02,   9,   4, b'r', b'o', b'o', b't',
        0x0a, 1, b'k', 0x12, 1, b'v',
        10,   0,   0x8f, 0x9c, 0xb0, 0xd0, 0x80, 0xc1, 0x81, 0x82, 0x02,
    ];
    assert_eq!(out[..], golden);
    let mut out = BytesMut::new();
    encode_wide_entry(LeaseTime(0x1122), &commands, &mut out);
    #[rustfmt::skip]
    let golden = [
        0x22, 0x11, 0, 0, 0, 0, 0, 0,   2, 0, 0, 0,
        6, 0, 0, 0,   1,   4,   0, 0,   8, 7, 6, 5, 4, 3, 2, 1,   9, 0, 0, 0, 0, 0, 0, 0,
        b'r', b'o', b'o', b't',   0x0a, 1, b'k', 0x12, 1, b'v',
        0, 0, 0, 0,   10,   0,   0, 0,   0, 0, 0, 0, 0, 0, 0, 0,   0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(out[..], golden);
    assert_eq!(commands[0].request(), Ok(put));
}

#[test]
fn golden_bytes_of_renewals() {
    let renew = Request::LeaseRenewMany(LeaseRenewMany {
        from: 300,
        ids: vec![0x0102_0304_0506_0708, -1],
    });
    let body = renew.encode_body();
    #[rustfmt::skip]
    let golden = [
        0x08, 0xac, 0x02,   0x12, 16,
        8, 7, 6, 5, 4, 3, 2, 1,   0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    assert_eq!(body[..], golden);
    assert_eq!(
        Request::decode(CommandKind::LeaseRenewMany, &body),
        Ok(renew)
    );
}

#[test]
fn golden_bytes_of_a_new_member() {
    let add = Request::MemberAdd(MemberAdd {
        member: Some(Member {
            id: 0x96,
            peer_urls: vec!["u".to_owned()],
            is_learner: true,
            ..Member::default()
        }),
        learners_max: 1,
    });
    let body = add.encode_body();
    #[rustfmt::skip]
    let golden = [
        0x0a, 8,   0x08, 0x96, 0x01,   0x1a, 1, b'u',   0x28, 1,   0x10, 1,
    ];
    assert_eq!(body[..], golden);
    assert_eq!(Request::decode(CommandKind::MemberAdd, &body), Ok(add));
}

#[test]
fn kinds_have_their_numbers() {
    for (index, kind) in CommandKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index + 1);
        assert_eq!(CommandKind::from_number(kind as u8), Ok(kind));
    }
    for number in [0, 18, 255] {
        assert_eq!(
            CommandKind::from_number(number),
            Err(CommandError::UnknownKind(number))
        );
    }
}

/// A count of four billion commands in a short entry reserves nothing.
#[test]
fn a_count_is_not_believed() {
    for highest in [0x7f, 0xff] {
        let mut payload = vec![0; 8];
        payload.extend([0xff, 0xff, 0xff, highest]);
        payload.extend([0; WIDE_HEADER_BYTES]);
        assert_eq!(
            decode_entry(&Bytes::from(payload)),
            Err(CommandError::Framing)
        );
    }
}
