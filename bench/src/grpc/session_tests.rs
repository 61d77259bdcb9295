//! A connection against recorded, rare and hostile bytes of a server.

#![allow(clippy::unwrap_used)]

use keelson_proto::http2::hpack::{put_indexed, put_inserted, put_new_inserted};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// What etcd 3.5.1 sent for two Txns and two Puts, one frame a line: SETTINGS that grpc-go always
/// sends, windows and PINGs of its bandwidth probe, and answers whose fields move into the dynamic
/// table, Huffman-coded, and come as indices from then on.
const RECORDED: &[&str] = &[
    "00000c0400000000000005000040000003ffffffff",
    "000000040100000000",
    "0000040800000000000000004f",
    "00000806000000000002041010090e0707",
    "00000e010400000001885f8b1d75d0620d263d4c4d6564",
    "00002b00000000000100000000260a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e011803200210011a0612040a021803",
    "00001801050000000140889acac8b21234da8f013040899acac8b5254207317f00",
    "0000040800000000000000001d",
    "00000806000000000002041010090e0707",
    "00000201040000000388c0",
    "000021000000000003000000001c0a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e0118042002",
    "000002010500000003bfbe",
    "0000040800000000000000001d",
    "00000806000000000002041010090e0707",
    "00000201040000000588c0",
    "000021000000000005000000001c0a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e0118052002",
    "000002010500000005bfbe",
    "0000040800000000000000004f",
    "00000806000000000002041010090e0707",
    "00000201040000000788c0",
    "00004b00000000000700000000460a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e01180520021a280a260a021805121e0a1062656e63682f303030303030303030311002180520022a047fd0c5cf2001",
    "000002010500000007bfbe",
];

/// How often a recording is damaged.
const DAMAGES: u64 = 5_000;

/// What a call was seen to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(u32, usize),
    Piece(u32, usize),
    End(u32, Result<(), String>),
}

fn recorded() -> Vec<u8> {
    let hex = RECORDED.concat();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// A connection with calls 1, 2, ... on streams 1, 3, ...
fn session(calls: u32) -> Session {
    let mut session = Session::new("localhost:2379".to_owned());
    for token in 1..=calls {
        session.call(Rpc::Put, token, Delivery::Unary, |out| {
            out.extend_from_slice(b"request");
        });
    }
    session
}

/// Hands bytes over as a socket would and returns what came of them.
fn feed(session: &mut Session, rest: &mut Vec<u8>, bytes: &[u8]) -> Result<Vec<Seen>, Failure> {
    let mut seen = Vec::new();
    rest.extend_from_slice(bytes);
    let used = session.on_bytes(rest, |token, event| seen.push(Seen::of(token, event)))?;
    rest.drain(..used);
    Ok(seen)
}

fn take(session: &mut Session, bytes: &[u8]) -> Result<Vec<Seen>, Failure> {
    let mut rest = Vec::new();
    let seen = feed(session, &mut rest, bytes)?;
    assert!(rest.is_empty(), "whole frames are used up");
    Ok(seen)
}

impl Seen {
    fn of(token: u32, event: Event<'_>) -> Self {
        match event {
            Event::Message(message) => Self::Message(token, message.len()),
            Event::Piece { bytes, .. } => Self::Piece(token, bytes.len()),
            Event::End(outcome) => Self::End(token, outcome.map_err(|failure| failure.to_string())),
        }
    }
}

fn frame(kind: FrameKind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHead::new(kind, flags, stream, payload.len() as u32).write(&mut out);
    out.extend_from_slice(payload);
    out
}

fn settings(values: &[(SettingId, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for &(id, value) in values {
        put_setting(&mut payload, id, value);
    }
    frame(FrameKind::Settings, 0, 0, &payload)
}

fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        match *name {
            ":status" => put_inserted(&mut block, 8, value.as_bytes()),
            _ => put_new_inserted(&mut block, name.as_bytes(), value.as_bytes()),
        }
    }
    frame(
        FrameKind::Headers,
        flags | flags::END_HEADERS,
        stream,
        &block,
    )
}

fn data(stream: u32, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0];
    payload.extend_from_slice(&(message.len() as u32).to_be_bytes());
    payload.extend_from_slice(message);
    frame(FrameKind::Data, 0, stream, &payload)
}

fn ok_trailers(stream: u32) -> Vec<u8> {
    headers(stream, flags::END_STREAM, &[("grpc-status", "0")])
}

fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(FrameKind::WindowUpdate, 0, stream, &bytes.to_be_bytes())
}

/// The frames that the session has written since it was asked last.
fn written(session: &mut Session) -> Vec<(FrameHead, Vec<u8>)> {
    let out = std::mem::take(session.out());
    let mut bytes = out.strip_prefix(&PREFACE[..]).unwrap_or(&out);
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() {
        let head = FrameHead::parse(head);
        let (payload, rest) = rest.split_at(head.payload_bytes as usize);
        frames.push((head, payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

fn sent_bytes(frames: &[(FrameHead, Vec<u8>)], stream: u32) -> usize {
    let of_stream = frames
        .iter()
        .filter(|(head, _)| head.kind == FrameKind::Data as u8 && head.stream == stream);
    of_stream.map(|(_, payload)| payload.len()).sum()
}

#[test]
fn recorded_answers_are_the_same_wherever_they_are_cut() {
    let bytes = recorded();
    let expected = [
        Seen::Message(1, 38),
        Seen::End(1, Ok(())),
        Seen::Message(2, 28),
        Seen::End(2, Ok(())),
        Seen::Message(3, 28),
        Seen::End(3, Ok(())),
        Seen::Message(4, 70),
        Seen::End(4, Ok(())),
    ];
    for at in 0..=bytes.len() {
        let (mut session, mut rest) = (session(4), Vec::new());
        let mut seen = feed(&mut session, &mut rest, &bytes[..at]).unwrap();
        seen.extend(feed(&mut session, &mut rest, &bytes[at..]).unwrap());
        assert_eq!(seen, expected, "cut at {at}");
    }
    let (mut session, mut rest) = (session(4), Vec::new());
    let mut seen = Vec::new();
    for byte in bytes.chunks(1) {
        seen.extend(feed(&mut session, &mut rest, byte).unwrap());
    }
    assert_eq!(seen, expected);
    let frames = written(&mut session);
    let ping = frames
        .iter()
        .find(|(head, _)| head.kind == FrameKind::Ping as u8);
    let (head, opaque) = ping.unwrap();
    assert_eq!(head.flags, flags::ACK);
    assert_eq!(opaque[..], [2, 4, 0x10, 0x10, 9, 0x0e, 7, 7]);
}

#[test]
fn damaged_recordings_end_calls_once_and_never_panic() {
    let whole = recorded();
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..DAMAGES {
        let mut bytes = whole.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let mut session = session(4);
        let mut ends = [0; 5];
        let mut count = |token: u32, event: Event<'_>| {
            ends[token as usize] += usize::from(matches!(event, Event::End(_)));
        };
        // Whatever is left has its end when the connection is given up.
        let _ = session.on_bytes(&bytes, &mut count);
        session.fail_all(&Failure::Transport("lost".to_owned()), &mut count);
        assert_eq!(ends, [0, 1, 1, 1, 1]);
        assert!(!session.is_usable());
    }
}

#[test]
fn errors_come_in_trailers_with_or_without_headers() {
    let mut session = session(3);
    let mut bytes = settings(&[]);
    bytes.extend(headers(
        1,
        flags::END_STREAM,
        &[
            (":status", "200"),
            ("grpc-status", "11"),
            ("grpc-message", "etcdserver: 100%25"),
        ],
    ));
    bytes.extend(headers(3, 0, &[(":status", "200")]));
    bytes.extend(headers(3, flags::END_STREAM, &[("grpc-status", "8")]));
    bytes.extend(headers(5, 0, &[(":status", "503")]));
    let seen = take(&mut session, &bytes).unwrap();
    let end = |token, text: &str| Seen::End(token, Err(text.to_owned()));
    let expected = [
        end(1, "OutOfRange: etcdserver: 100%"),
        end(2, "ResourceExhausted: "),
        end(3, "unexpected answer: an HTTP status other than 200"),
    ];
    assert_eq!(seen, expected);
    let resets = written(&mut session);
    let resets = resets
        .iter()
        .filter(|(head, _)| head.kind == FrameKind::RstStream as u8);
    assert_eq!(resets.map(|(head, _)| head.stream).collect::<Vec<_>>(), [5]);
}

#[test]
fn an_answer_that_is_not_whole_is_no_success() {
    let good_headers = |stream| headers(stream, 0, &[(":status", "200")]);
    let cases: [(Vec<u8>, &str); 6] = [
        (ok_trailers(1), "an HTTP status"),
        ([good_headers(1), ok_trailers(1)].concat(), "no message"),
        (
            [
                good_headers(1),
                data(1, b"a"),
                data(1, b"b"),
                ok_trailers(1),
            ]
            .concat(),
            "more than one",
        ),
        (
            [
                good_headers(1),
                frame(FrameKind::Data, 0, 1, &[0, 0, 0, 0, 9, 1]),
                ok_trailers(1),
            ]
            .concat(),
            "half a message",
        ),
        (
            [
                good_headers(1),
                frame(FrameKind::Data, flags::END_STREAM, 1, &[0, 0, 0, 0, 0]),
            ]
            .concat(),
            "no trailers",
        ),
        (
            [
                good_headers(1),
                frame(FrameKind::Data, 0, 1, &[1, 0, 0, 0, 0]),
            ]
            .concat(),
            "compressed",
        ),
    ];
    for (bytes, text) in cases {
        let mut session = session(1);
        take(&mut session, &settings(&[])).unwrap();
        let seen = take(&mut session, &bytes).unwrap();
        let Some(Seen::End(1, Err(told))) = seen.last() else {
            panic!("{text}: {seen:?}");
        };
        assert!(told.contains(text), "{told}");
    }
}

#[test]
fn rare_frames_are_understood() {
    let mut session = session(1);
    let mut bytes = settings(&[]);
    // An interim answer, headers with priority and padding, cut into three, and padded DATA.
    bytes.extend(headers(1, 0, &[(":status", "103")]));
    let mut block = Vec::new();
    put_indexed(&mut block, 8);
    put_new_inserted(&mut block, b"x-long", &[b'v'; 40]);
    let first = [&[2, 0, 0, 0, 0, 9][..], &block[..10], &[0, 0]].concat();
    let padded = flags::PADDED | flags::PRIORITY;
    bytes.extend(frame(FrameKind::Headers, padded, 1, &first));
    bytes.extend(frame(FrameKind::Continuation, 0, 1, &block[10..20]));
    bytes.extend(frame(
        FrameKind::Continuation,
        flags::END_HEADERS,
        1,
        &block[20..],
    ));
    let message = [3, 0, 0, 0, 0, 2, 7, 8, 0, 0, 0];
    bytes.extend(frame(FrameKind::Data, flags::PADDED, 1, &message));
    bytes.extend(frame(FrameKind::Priority, 0, 1, &[0; 5]));
    bytes.extend(frame(FrameKind::Data, 0, 1, &[]));
    let mut unknown = frame(FrameKind::Data, 0, 0, b"anything");
    unknown[3] = 0xee;
    bytes.extend(unknown);
    bytes.extend(ok_trailers(1));
    let expected = [Seen::Message(1, 2), Seen::End(1, Ok(()))];
    assert_eq!(take(&mut session, &bytes).unwrap(), expected);
    // What comes late for a stream that has ended is no fault.
    let late = [data(1, b"x"), window_update(1, 5), ok_trailers(1)].concat();
    assert_eq!(take(&mut session, &late).unwrap(), []);
}

#[test]
fn requests_keep_to_the_windows() {
    let mut session = Session::new("localhost:2379".to_owned());
    let body = |bytes: usize| move |out: &mut Vec<u8>| out.resize(out.len() + bytes, 7);
    session.call(Rpc::Put, 1, Delivery::Unary, body(100_000));
    session.call(Rpc::Put, 2, Delivery::Unary, body(10));
    let frames = written(&mut session);
    assert_eq!(sent_bytes(&frames, 1), 65_535);
    assert!(frames.iter().all(|(head, _)| head.payload_bytes <= 16_384));
    assert_eq!(sent_bytes(&frames, 3), 0, "it waits for its turn");
    // The connection's window alone does not help, nor the stream's.
    let grant = [settings(&[]), window_update(0, 1 << 20)].concat();
    take(&mut session, &grant).unwrap();
    assert_eq!(sent_bytes(&written(&mut session), 1), 0);
    let wider = settings(&[(SettingId::InitialWindowSize, 65_535 + 20_000)]);
    take(&mut session, &wider).unwrap();
    assert_eq!(sent_bytes(&written(&mut session), 1), 20_000);
    take(&mut session, &window_update(1, 1 << 20)).unwrap();
    let frames = written(&mut session);
    assert_eq!(sent_bytes(&frames, 1), 100_005 - 65_535 - 20_000);
    assert_eq!(sent_bytes(&frames, 3), 15);
    let ends = |stream: u32| {
        let last = frames.iter().rfind(|(head, _)| head.stream == stream);
        last.unwrap().0.has(flags::END_STREAM)
    };
    assert!(ends(1) && ends(3));
    // A smaller window can be overdrawn, and then nothing moves until it is positive again.
    let narrow = settings(&[(SettingId::InitialWindowSize, 100)]);
    take(&mut session, &narrow).unwrap();
    session.call(Rpc::Put, 3, Delivery::Unary, body(200));
    assert_eq!(sent_bytes(&written(&mut session), 5), 100);
}

#[test]
fn no_more_streams_are_opened_than_the_server_allows() {
    let mut session = Session::new("localhost:2379".to_owned());
    take(
        &mut session,
        &settings(&[
            (SettingId::MaxConcurrentStreams, 2),
            (SettingId::HeaderTableSize, 0),
        ]),
    )
    .unwrap();
    for token in 1..=4 {
        session.call(Rpc::Put, token, Delivery::Unary, |out| out.push(1));
    }
    let streams = |session: &mut Session| {
        let frames = written(session);
        let opened = frames
            .iter()
            .filter(|(head, _)| head.kind == FrameKind::Headers as u8);
        opened.map(|(head, _)| head.stream).collect::<Vec<_>>()
    };
    assert_eq!(streams(&mut session), [1, 3]);
    let answer = [
        headers(3, 0, &[(":status", "200")]),
        data(3, b"x"),
        ok_trailers(3),
    ]
    .concat();
    let seen = take(&mut session, &answer).unwrap();
    assert_eq!(seen.last(), Some(&Seen::End(2, Ok(()))));
    assert_eq!(streams(&mut session), [5]);
    let reset = frame(FrameKind::RstStream, 0, 1, &7_u32.to_be_bytes());
    let seen = take(&mut session, &reset).unwrap();
    let [Seen::End(1, Err(told))] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!(told.starts_with("Unavailable"), "{told}");
    assert_eq!(streams(&mut session), [7]);
}

#[test]
fn what_was_received_is_granted_again() {
    let mut session = session(1);
    let begin = [settings(&[]), headers(1, 0, &[(":status", "200")])].concat();
    take(&mut session, &begin).unwrap();
    written(&mut session);
    // One endless message in full frames.
    let first = frame(FrameKind::Data, 0, 1, &[0, 0x3f, 0xff, 0xff, 0xff]);
    take(&mut session, &first).unwrap();
    let full = frame(FrameKind::Data, 0, 1, &[9; 16_384]);
    let (mut received, mut granted) = (5_u64, [0_u64; 2]);
    for _ in 0..2_000 {
        take(&mut session, &full).unwrap();
        received += 16_384;
        for (head, payload) in written(&mut session) {
            assert_eq!(head.kind, FrameKind::WindowUpdate as u8);
            let bytes = u32::from_be_bytes(payload.try_into().unwrap());
            granted[head.stream as usize] += u64::from(bytes);
        }
        let windows = [CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES].map(u64::from);
        for (granted, window) in granted.iter().zip(windows) {
            assert!(received - granted <= window / 2);
        }
    }
    assert!(granted.iter().all(|&granted| granted > 0));
}

#[test]
fn a_server_that_goes_away_still_answers_what_it_took_up() {
    let mut session = session(3);
    let payload = [3_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    let bytes = [settings(&[]), frame(FrameKind::GoAway, 0, 0, &payload)].concat();
    let seen = take(&mut session, &bytes).unwrap();
    assert!(matches!(&seen[..], [Seen::End(3, Err(_))]), "{seen:?}");
    assert!(!session.is_usable());
    let answer = [
        headers(1, 0, &[(":status", "200")]),
        data(1, b"x"),
        ok_trailers(1),
    ]
    .concat();
    let seen = take(&mut session, &answer).unwrap();
    assert_eq!(seen.last(), Some(&Seen::End(1, Ok(()))));
}

#[test]
fn streams_carry_messages_both_ways_until_one_side_ends_them() {
    let mut session = Session::new("localhost:2379".to_owned());
    take(&mut session, &settings(&[])).unwrap();
    let stream = session.open(Rpc::Watch, 9);
    for _ in 0..2 {
        session.send(stream, |out| out.push(1));
    }
    assert_eq!(sent_bytes(&written(&mut session), stream), 12);
    let answers = [
        headers(stream, 0, &[(":status", "200")]),
        data(stream, b"one"),
        data(stream, b"three"),
        ok_trailers(stream),
    ]
    .concat();
    let expected = [
        Seen::Message(9, 3),
        Seen::Message(9, 5),
        Seen::End(9, Ok(())),
    ];
    assert_eq!(take(&mut session, &answers).unwrap(), expected);
    let frames = written(&mut session);
    assert_eq!(frames[0].0.kind, FrameKind::RstStream as u8);
    // Nothing is sent where nobody listens.
    session.send(stream, |out| out.push(1));
    assert!(session.out().is_empty());
}

/// A frame that ends the connection, and a part of what is told.
type Fault = (&'static str, FrameKind, u8, u32, &'static [u8]);

/// Frames about the connection; the first ones come instead of SETTINGS or in them.
const CONNECTION_FAULTS: &[Fault] = &[
    ("not SETTINGS", FrameKind::Ping, 0, 0, &[0; 8]),
    ("impossible length", FrameKind::Settings, 0, 0, &[0; 5]),
    ("impossible length", FrameKind::Settings, 1, 0, &[0; 6]),
    ("of a stream", FrameKind::Settings, 0, 1, &[]),
    (
        "too large",
        FrameKind::Settings,
        0,
        0,
        &[0, 4, 0x80, 0, 0, 0],
    ),
    (
        "MAX_FRAME_SIZE",
        FrameKind::Settings,
        0,
        0,
        &[0, 5, 0, 0, 0x3f, 0xff],
    ),
];

const STREAM_FAULTS: &[Fault] = &[
    ("impossible length", FrameKind::Ping, 0, 0, &[0; 7]),
    ("PING of a stream", FrameKind::Ping, 0, 1, &[0; 8]),
    ("short GOAWAY", FrameKind::GoAway, 0, 0, &[0; 3]),
    ("GOAWAY of a stream", FrameKind::GoAway, 0, 1, &[0; 8]),
    ("by nothing", FrameKind::WindowUpdate, 0, 0, &[0; 4]),
    (
        "too large",
        FrameKind::WindowUpdate,
        0,
        0,
        &[0x7f, 0xff, 0xff, 0xff],
    ),
    (
        "too large",
        FrameKind::WindowUpdate,
        0,
        1,
        &[0x7f, 0xff, 0xff, 0xff],
    ),
    ("push", FrameKind::PushPromise, 0, 1, &[]),
    ("impossible length", FrameKind::RstStream, 0, 1, &[0; 3]),
    ("never opened", FrameKind::RstStream, 0, 9, &[0; 4]),
    ("never opened", FrameKind::Data, 0, 2, &[]),
    (
        "never opened",
        FrameKind::Headers,
        flags::END_HEADERS,
        0,
        &[0x88],
    ),
    ("before HEADERS", FrameKind::Data, 0, 1, &[0, 0, 0, 0, 0]),
    ("padding", FrameKind::Data, flags::PADDED, 1, &[1]),
    ("padding", FrameKind::Headers, flags::PADDED, 1, &[]),
    ("priority", FrameKind::Headers, flags::PRIORITY, 1, &[0; 4]),
    ("of nothing", FrameKind::Continuation, 0, 1, &[]),
    (
        "out of step",
        FrameKind::Headers,
        flags::END_HEADERS,
        1,
        &[0xff, 0xff],
    ),
];

#[track_caller]
fn check_fault(bytes: &[u8], text: &str) {
    let failure = take(&mut session(2), bytes).unwrap_err();
    assert!(failure.breaks_connection());
    assert!(failure.to_string().contains(text), "{text}: {failure}");
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    for &(text, kind, flag, stream, payload) in CONNECTION_FAULTS {
        check_fault(&frame(kind, flag, stream, payload), text);
    }
    check_fault(&[0xff; 9], "longer than allowed");
    for &(text, kind, flag, stream, payload) in STREAM_FAULTS {
        let fault = frame(kind, flag, stream, payload);
        check_fault(&[settings(&[]), fault].concat(), text);
    }
    let block = frame(FrameKind::Headers, 0, 1, &[0x88]);
    let interrupted = [settings(&[]), block.clone(), window_update(0, 1)];
    check_fault(&interrupted.concat(), "interrupted");
    let other = frame(FrameKind::Continuation, 0, 3, &[]);
    check_fault(
        &[settings(&[]), block.clone(), other].concat(),
        "of another",
    );
    let more = frame(FrameKind::Continuation, 0, 1, &[0x88; 16_384]);
    let endless = [settings(&[]), block, more.repeat(5)];
    check_fault(&endless.concat(), "without end");
}
