//! The session against frames written by hand: in any cut, in any order, and against the rules.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use keelson_proto::etcdserverpb::PutRequest;
use keelson_proto::http2::hpack::{Decoder, index, put_indexed, put_literal};
use keelson_proto::http2::{
    ErrorCode, FRAME_HEAD_BYTES, FrameHead, FrameKind, SettingId, flags, put_setting,
};
use proptest::prelude::*;
use prost::Message as _;
use tonic::{Code, Status};

use super::outgoing::SpareBuffers;
use super::send::encode_message;
use super::session::{DRAIN_PING, Session};
use crate::front::limits;
use crate::front::replies::UnsentGauge;

const STREAMS_MAX: u32 = 8;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

fn session() -> Session {
    let gauge = UnsentGauge::default();
    Session::new(
        MESSAGE_BYTES_MAX,
        STREAMS_MAX,
        gauge,
        SpareBuffers::default(),
    )
}

/// A session that has had the client's settings and whose own are out of the way.
fn opened() -> Session {
    let mut session = session();
    session.on_bytes(&settings(&[]));
    take_frames(&mut session);
    session
}

fn frame(kind: FrameKind, flag: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHead::new(kind, flag, stream, payload.len() as u32).write(&mut out);
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

fn block() -> Vec<u8> {
    let mut block = Vec::new();
    put_indexed(&mut block, index::METHOD_POST);
    put_indexed(&mut block, index::SCHEME_HTTP);
    put_literal(&mut block, index::PATH, b"/etcdserverpb.KV/Put");
    put_literal(&mut block, index::CONTENT_TYPE, b"application/grpc");
    block
}

fn headers(stream: u32, flag: u8) -> Vec<u8> {
    frame(
        FrameKind::Headers,
        flags::END_HEADERS | flag,
        stream,
        &block(),
    )
}

fn data(stream: u32, flag: u8, payload: &[u8]) -> Vec<u8> {
    frame(FrameKind::Data, flag, stream, payload)
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(FrameKind::WindowUpdate, 0, stream, &increment.to_be_bytes())
}

fn put_message(value_bytes: usize) -> Bytes {
    encode_message(&PutRequest {
        key: Bytes::from_static(b"key"),
        value: Bytes::from(vec![7; value_bytes]),
        ..PutRequest::default()
    })
}

/// Takes the whole output, as frames.
fn take_frames(session: &mut Session) -> Vec<(FrameHead, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[]); 3];
        let count = session.output().slices(&mut slices);
        if count == 0 {
            break;
        }
        let first = slices[0].to_vec();
        session.on_sent(first.len());
        bytes.extend(first);
    }
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let Some(head) = rest.first_chunk::<FRAME_HEAD_BYTES>() {
        let head = FrameHead::parse(head);
        let end = FRAME_HEAD_BYTES + head.payload_bytes as usize;
        frames.push((head, rest[FRAME_HEAD_BYTES..end].to_vec()));
        rest = &rest[end..];
    }
    assert!(rest.is_empty(), "the output is whole frames");
    frames
}

fn kinds(frames: &[(FrameHead, Vec<u8>)]) -> Vec<(FrameKind, u32)> {
    let kind = |(head, _): &(FrameHead, Vec<u8>)| (FrameKind::of(head.kind).unwrap(), head.stream);
    frames.iter().map(kind).collect()
}

fn code_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[payload.len() - 4..].try_into().unwrap())
}

fn poll<T>(ask: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match ask(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => Some(ready),
        Poll::Pending => None,
    }
}

fn next_message(session: &mut Session, stream: u32) -> Option<Result<Option<Bytes>, Status>> {
    poll(|cx| session.poll_message(stream, cx))
}

/// Two calls, one with padding, priority and a continuation, and an empty message; then trailers.
fn conversation() -> Vec<u8> {
    let mut bytes = settings(&[(SettingId::InitialWindowSize, 1 << 20)]);
    bytes.extend(headers(1, 0));
    let message = put_message(300);
    bytes.extend(data(1, 0, &message[..100]));
    let block = block();
    let mut padded = vec![3, 0, 0, 0, 0, 9];
    padded.extend_from_slice(&block[..5]);
    padded.extend_from_slice(&[0; 3]);
    bytes.extend(frame(
        FrameKind::Headers,
        flags::PADDED | flags::PRIORITY,
        3,
        &padded,
    ));
    bytes.extend(frame(
        FrameKind::Continuation,
        flags::END_HEADERS,
        3,
        &block[5..],
    ));
    bytes.extend(data(1, flags::END_STREAM, &message[100..]));
    let mut padded = vec![2];
    padded.extend_from_slice(&[0; 5]);
    padded.extend_from_slice(&[0; 2]);
    bytes.extend(data(3, flags::PADDED, &padded));
    bytes.extend(frame(FrameKind::Ping, 0, 0, b"12345678"));
    bytes.extend(headers(3, flags::END_STREAM));
    bytes
}

#[test]
fn any_cut_brings_the_same_calls() {
    let bytes = conversation();
    for cut in 0..bytes.len() {
        let mut session = session();
        session.on_bytes(&bytes[..cut]);
        session.on_bytes(&bytes[cut..]);
        check_conversation(session);
    }
    let mut session = session();
    for byte in &bytes {
        session.on_bytes(std::slice::from_ref(byte));
    }
    check_conversation(session);
}

fn check_conversation(mut session: Session) {
    assert_eq!(session.failure(), None);
    let opened: Vec<u32> = std::iter::from_fn(|| session.take_opened())
        .map(|(stream, _)| stream)
        .collect();
    assert_eq!(opened, [1, 3]);
    let message = next_message(&mut session, 1).unwrap().unwrap().unwrap();
    assert_eq!(PutRequest::decode(message).unwrap().value.len(), 300);
    assert_eq!(next_message(&mut session, 1).unwrap().unwrap(), None);
    assert_eq!(
        next_message(&mut session, 3).unwrap().unwrap(),
        Some(Bytes::new())
    );
    assert_eq!(next_message(&mut session, 3).unwrap().unwrap(), None);
    let frames = take_frames(&mut session);
    let ack = frames
        .iter()
        .find(|(head, _)| head.kind == FrameKind::Ping as u8);
    let (head, payload) = ack.expect("a ping is answered");
    assert!(head.has(flags::ACK));
    assert_eq!(payload, b"12345678");
}

#[test]
fn a_unary_answer_is_three_frames_and_repeats_cost_a_byte_a_field() {
    let mut session = opened();
    let mut decoder = Decoder::default();
    let mut sizes = Vec::new();
    for stream in [1, 3, 5] {
        session.on_bytes(&headers(stream, flags::END_STREAM));
        session.send_unary(stream, &PutRequest::default()).unwrap();
        let frames = take_frames(&mut session);
        let expected = [
            (FrameKind::Headers, stream),
            (FrameKind::Data, stream),
            (FrameKind::Headers, stream),
        ];
        assert_eq!(kinds(&frames), expected);
        let mut fields = Vec::new();
        for (_, block) in [&frames[0], &frames[2]] {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            decoder
                .decode(block, |name, value| fields.push((text(name), text(value))))
                .unwrap();
        }
        let expected = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", "0"),
        ];
        assert_eq!(fields.len(), expected.len());
        for ((name, value), expected) in fields.iter().zip(expected) {
            assert_eq!((name.as_str(), value.as_str()), expected);
        }
        assert!(frames[2].0.has(flags::END_STREAM));
        assert!(!session.is_open(stream));
        sizes.push(frames[0].1.len() + frames[2].1.len());
    }
    assert_eq!(sizes[1..], [3, 3]);
}

#[test]
fn a_client_without_a_table_gets_literals_and_is_told_the_size() {
    let mut session = session();
    session.on_bytes(&settings(&[(SettingId::HeaderTableSize, 0)]));
    take_frames(&mut session);
    let mut decoder = Decoder::new(0);
    for stream in [1, 3] {
        session.on_bytes(&headers(stream, flags::END_STREAM));
        session.send_unary(stream, &PutRequest::default()).unwrap();
        for (head, payload) in take_frames(&mut session) {
            if head.kind == FrameKind::Headers as u8 {
                decoder.decode(&payload, |_, _| {}).unwrap();
            }
        }
    }
    assert_eq!(decoder.changes(), 0);
}

#[test]
fn an_answer_waits_for_both_windows_and_ends_behind_its_bytes() {
    let mut session = opened();
    session.on_bytes(&settings(&[(SettingId::InitialWindowSize, 100_000)]));
    session.on_bytes(&headers(1, flags::END_STREAM));
    take_frames(&mut session);
    session.send_data(1, Bytes::from(vec![1; 150_000])).unwrap();
    session.finish(1, Ok(())).unwrap();
    let sent = |session: &mut Session| -> (usize, bool) {
        let frames = take_frames(session);
        let data = frames
            .iter()
            .filter(|(head, _)| head.kind == FrameKind::Data as u8);
        let ended = frames
            .last()
            .is_some_and(|(head, _)| head.has(flags::END_STREAM));
        (data.map(|(_, payload)| payload.len()).sum(), ended)
    };
    // The connection's window is the smaller one at first.
    assert_eq!(sent(&mut session), (65_535, false));
    session.on_bytes(&window(0, 1 << 20));
    assert_eq!(sent(&mut session), (100_000 - 65_535, false));
    session.on_bytes(&window(1, 49_999));
    assert_eq!(sent(&mut session), (49_999, false));
    assert!(session.is_open(1));
    session.on_bytes(&settings(&[(SettingId::InitialWindowSize, 100_001)]));
    assert_eq!(sent(&mut session), (1, true));
    assert!(!session.is_open(1));
}

#[test]
fn streams_share_the_output_in_turn() {
    let mut session = opened();
    session.on_bytes(&settings(&[(SettingId::InitialWindowSize, 1 << 30)]));
    session.on_bytes(&window(0, 1 << 30));
    take_frames(&mut session);
    for stream in [1, 3] {
        session.on_bytes(&headers(stream, flags::END_STREAM));
        session
            .send_data(stream, Bytes::from(vec![0; 3 * limits::OUT_BYTES_MAX]))
            .unwrap();
    }
    assert!(session.output().unsent_bytes() < limits::OUT_BYTES_MAX + (17 << 10));
    assert!(poll(|cx| session.poll_room(1, cx)).is_none());
    let frames = take_frames(&mut session);
    let of = |stream: u32| -> usize {
        let own = frames.iter().filter(|(head, _)| head.stream == stream);
        own.filter(|(head, _)| head.kind == FrameKind::Data as u8)
            .map(|(_, payload)| payload.len())
            .sum()
    };
    assert_eq!(
        (of(1), of(3)),
        (3 * limits::OUT_BYTES_MAX, 3 * limits::OUT_BYTES_MAX)
    );
    let last_of_one = frames
        .iter()
        .rposition(|(head, _)| head.stream == 1)
        .unwrap();
    let first_of_three = frames
        .iter()
        .position(|(head, _)| head.stream == 3 && head.kind == FrameKind::Data as u8)
        .unwrap();
    assert!(
        first_of_three < last_of_one,
        "neither waits for the other to end"
    );
    assert_eq!(poll(|cx| session.poll_room(1, cx)), Some(Ok(())));
}

#[test]
fn messages_that_nobody_takes_hold_the_window_back() {
    let mut session = opened();
    session.on_bytes(&headers(1, 0));
    let message = put_message(15 << 10);
    let frames_max = limits::STREAM_WINDOW_BYTES as usize / message.len();
    for _ in 0..frames_max {
        session.on_bytes(&data(1, 0, &message));
    }
    assert_eq!(take_frames(&mut session), []);
    for _ in 0..frames_max {
        assert!(next_message(&mut session, 1).unwrap().unwrap().is_some());
    }
    let given: Vec<_> = kinds(&take_frames(&mut session));
    assert!(given.contains(&(FrameKind::WindowUpdate, 1)), "{given:?}");
    // Too much for the window is the client's fault.
    let mut session = opened();
    session.on_bytes(&headers(3, 0));
    for _ in 0..=frames_max {
        session.on_bytes(&data(3, 0, &message));
    }
    let frames = take_frames(&mut session);
    let (head, payload) = frames.iter().find(|(head, _)| head.stream == 3).unwrap();
    assert_eq!(head.kind, FrameKind::RstStream as u8);
    assert_eq!(code_of(payload), ErrorCode::FlowControlError as u32);
    assert_eq!(session.failure(), None);
}

#[test]
fn a_message_longer_than_the_window_arrives() {
    let mut session = opened();
    session.on_bytes(&headers(1, 0));
    let message = encode_message(&PutRequest {
        value: Bytes::from(vec![1; MESSAGE_BYTES_MAX - 100]),
        ..PutRequest::default()
    });
    let mut granted = i64::from(limits::STREAM_WINDOW_BYTES);
    for chunk in message
        .chunks(16 << 10)
        .cycle()
        .take(3 * message.len().div_ceil(16 << 10))
    {
        granted -= chunk.len() as i64;
        assert!(granted >= 0, "the client would stand still");
        session.on_bytes(&data(1, 0, chunk));
        while let Some(next) = next_message(&mut session, 1) {
            assert_eq!(next.unwrap().unwrap().len(), message.len() - 5);
        }
        for (head, payload) in take_frames(&mut session) {
            if (head.kind, head.stream) == (FrameKind::WindowUpdate as u8, 1) {
                granted += i64::from(code_of(&payload));
            }
        }
    }
}

#[test]
fn a_reset_stream_is_lost_to_its_handler() {
    let mut session = opened();
    session.on_bytes(&headers(1, 0));
    session.send_data(1, Bytes::from(vec![0; 100_000])).unwrap();
    assert!(poll(|cx| session.poll_lost(1, cx)).is_none());
    session.on_bytes(&frame(FrameKind::RstStream, 0, 1, &8_u32.to_be_bytes()));
    assert!(poll(|cx| session.poll_lost(1, cx)).is_some());
    let lost = next_message(&mut session, 1).unwrap().unwrap_err();
    assert_eq!(lost.code(), Code::Cancelled);
    assert!(session.send_data(1, Bytes::from_static(b"x")).is_err());
    assert!(session.finish(1, Ok(())).is_err());
    // What was on its way is taken and forgotten.
    session.on_bytes(&data(1, 0, b"late"));
    assert_eq!(session.failure(), None);
    take_frames(&mut session);
    assert_eq!(session.unsent.connection_bytes(), 0);
}

#[test]
fn streams_are_refused_beyond_the_limit_also_if_they_are_reset_at_once() {
    let mut session = opened();
    for number in 0..4 * STREAMS_MAX {
        let stream = 2 * number + 1;
        session.on_bytes(&headers(stream, 0));
        if session.take_opened().is_some() {
            session.begin_call();
        }
        session.on_bytes(&frame(
            FrameKind::RstStream,
            0,
            stream,
            &8_u32.to_be_bytes(),
        ));
    }
    assert_eq!(session.live_calls, STREAMS_MAX as usize);
    let frames = take_frames(&mut session);
    assert_eq!(frames.len(), 3 * STREAMS_MAX as usize);
    assert!(
        frames
            .iter()
            .all(|(_, payload)| code_of(payload) == ErrorCode::RefusedStream as u32)
    );
    session.end_call();
    session.on_bytes(&headers(1_001, 0));
    assert!(session.take_opened().is_some());
}

/// Hands the bytes to an opened session, which must fail and say so with the code.
fn expect_failures(cases: &[(&str, Vec<u8>, ErrorCode)]) {
    for (what, bytes, code) in cases {
        let mut session = opened();
        session.on_bytes(bytes);
        assert_eq!(session.failure(), Some(*code), "{what}");
        let frames = take_frames(&mut session);
        let (head, payload) = frames.last().unwrap();
        assert_eq!(head.kind, FrameKind::GoAway as u8, "{what}");
        assert_eq!(code_of(payload), *code as u32, "{what}");
    }
}

fn after_headers(rest: Vec<u8>) -> Vec<u8> {
    [headers(1, 0), rest].concat()
}

#[test]
fn frames_of_the_wrong_shape_end_the_connection() {
    use ErrorCode::{FrameSizeError, ProtocolError};
    let long = FrameHead::new(FrameKind::Data, 0, 1, limits::FRAME_BYTES_MAX + 1);
    let padded = frame(FrameKind::Data, flags::PADDED, 1, &[9, 0]);
    let short_reset = frame(FrameKind::RstStream, 0, 1, &[0; 3]);
    let short_window = frame(FrameKind::WindowUpdate, 0, 0, &[0; 3]);
    let ack = frame(FrameKind::Settings, flags::ACK, 0, &[0; 6]);
    let five = frame(FrameKind::Settings, 0, 0, &[0; 5]);
    let ping = frame(FrameKind::Ping, 0, 0, &[0; 7]);
    expect_failures(&[
        ("too long", long.to_bytes().to_vec(), FrameSizeError),
        ("padding", after_headers(padded), ProtocolError),
        (
            "RST_STREAM of 3",
            after_headers(short_reset),
            FrameSizeError,
        ),
        ("WINDOW_UPDATE of 3", short_window, FrameSizeError),
        ("SETTINGS ack", ack, FrameSizeError),
        ("SETTINGS of 5", five, FrameSizeError),
        ("PING of 7", ping, FrameSizeError),
    ]);
}

#[test]
fn frames_where_they_may_not_stand_end_the_connection() {
    use ErrorCode::ProtocolError;
    let on = |kind: FrameKind, stream: u32, bytes: usize| frame(kind, 0, stream, &vec![0; bytes]);
    expect_failures(&[
        ("DATA on 0", data(0, 0, b"x"), ProtocolError),
        ("DATA, idle", data(1, 0, b"x"), ProtocolError),
        ("HEADERS on 0", headers(0, 0), ProtocolError),
        ("HEADERS, even", headers(2, 0), ProtocolError),
        ("PING on 1", on(FrameKind::Ping, 1, 8), ProtocolError),
        (
            "SETTINGS on 1",
            on(FrameKind::Settings, 1, 0),
            ProtocolError,
        ),
        ("WINDOW_UPDATE, idle", window(1, 1), ProtocolError),
        (
            "RST_STREAM, idle",
            on(FrameKind::RstStream, 1, 4),
            ProtocolError,
        ),
        (
            "PUSH_PROMISE",
            on(FrameKind::PushPromise, 1, 4),
            ProtocolError,
        ),
        ("GOAWAY on 1", on(FrameKind::GoAway, 1, 8), ProtocolError),
        (
            "CONTINUATION",
            on(FrameKind::Continuation, 1, 0),
            ProtocolError,
        ),
    ]);
    let mut session = session();
    session.on_bytes(&headers(1, 0));
    let first = "SETTINGS come first";
    assert_eq!(session.failure(), Some(ProtocolError), "{first}");
}

#[test]
fn impossible_values_and_header_blocks_end_the_connection() {
    use ErrorCode::{CompressionError, EnhanceYourCalm, FlowControlError, ProtocolError};
    let set = |id: SettingId, value: u32| settings(&[(id, value)]);
    let half = frame(FrameKind::Headers, 0, 1, &block());
    let more = frame(FrameKind::Continuation, 0, 1, &[]);
    let bad = |flag: u8| frame(FrameKind::Headers, flag, 1, &[0xff, 0]);
    let late = after_headers(bad(flags::END_HEADERS | flags::END_STREAM));
    expect_failures(&[
        (
            "window",
            set(SettingId::InitialWindowSize, 1 << 31),
            FlowControlError,
        ),
        ("frame size", set(SettingId::MaxFrameSize, 1), ProtocolError),
        ("push", set(SettingId::EnablePush, 2), ProtocolError),
        ("WINDOW_UPDATE of 0", window(0, 0), ProtocolError),
        ("overflow", window(0, (1 << 31) - 1), FlowControlError),
        ("index", bad(flags::END_HEADERS), CompressionError),
        ("late index", late, CompressionError),
        (
            "interleaved",
            [half.clone(), window(0, 1)].concat(),
            ProtocolError,
        ),
        ("idle CONTINUATION", [half, more].concat(), EnhanceYourCalm),
    ]);
}

#[test]
fn broken_rules_of_a_stream_end_the_stream() {
    use ErrorCode::{ProtocolError, StreamClosed};
    let ended = headers(1, flags::END_STREAM);
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        (
            "DATA behind the end",
            [ended.clone(), data(1, 0, b"x")].concat(),
            StreamClosed,
        ),
        (
            "HEADERS behind the end",
            [ended.clone(), headers(1, 1)].concat(),
            StreamClosed,
        ),
        (
            "HEADERS in the middle",
            [headers(1, 0), headers(1, 0)].concat(),
            ProtocolError,
        ),
        (
            "no path",
            frame(FrameKind::Headers, 4, 1, &[0x83, 0x86]),
            ProtocolError,
        ),
        (
            "WINDOW_UPDATE of 0",
            [headers(1, 0), window(1, 0)].concat(),
            ProtocolError,
        ),
    ];
    for (what, bytes, code) in cases {
        let mut session = opened();
        session.on_bytes(&bytes);
        assert_eq!(session.failure(), None, "{what}");
        let frames = take_frames(&mut session);
        let (head, payload) = frames.last().unwrap();
        assert_eq!(
            (head.kind, head.stream),
            (FrameKind::RstStream as u8, 1),
            "{what}"
        );
        assert_eq!(code_of(payload), code as u32, "{what}");
    }
}

#[test]
fn an_early_answer_tells_the_client_that_the_rest_is_not_wanted() {
    let mut session = opened();
    session.on_bytes(&headers(1, 0));
    session
        .finish(1, Err(Status::unavailable("not now")))
        .unwrap();
    let frames = take_frames(&mut session);
    assert_eq!(
        kinds(&frames),
        [(FrameKind::Headers, 1), (FrameKind::RstStream, 1)]
    );
    assert_eq!(code_of(&frames[1].1), ErrorCode::NoError as u32);
}

#[test]
fn a_drain_lets_streams_end_that_were_on_their_way() {
    let mut session = opened();
    session.on_bytes(&headers(1, flags::END_STREAM));
    session.drain();
    let frames = take_frames(&mut session);
    assert_eq!(
        kinds(&frames),
        [(FrameKind::GoAway, 0), (FrameKind::Ping, 0)]
    );
    session.on_bytes(&headers(3, flags::END_STREAM));
    session.on_bytes(&frame(FrameKind::Ping, flags::ACK, 0, &DRAIN_PING));
    session.on_bytes(&headers(5, flags::END_STREAM));
    assert!(session.is_open(3) && !session.is_open(5));
    assert!(!session.is_drained());
    for stream in [1, 3] {
        session.finish(stream, Ok(())).unwrap();
    }
    assert!(session.is_drained());
    let frames = take_frames(&mut session);
    assert_eq!(frames[0].1[..4], 3_u32.to_be_bytes());
}

#[test]
fn a_client_that_takes_no_answers_is_not_read() {
    let mut session = opened();
    let ping = frame(FrameKind::Ping, 0, 0, &[0; 8]);
    let mut count = 0;
    while !session.is_choked() {
        session.on_bytes(&ping);
        count += 1;
    }
    assert!(count > 10_000);
    assert!(session.output().unsent_bytes() < limits::OUT_BYTES_CHOKED + 100);
    take_frames(&mut session);
    assert!(!session.is_choked());
}

#[test]
fn closing_loses_every_stream_and_counts_nothing_as_unsent() {
    let mut session = opened();
    for stream in [1, 3] {
        session.on_bytes(&headers(stream, 0));
        session
            .send_data(stream, Bytes::from(vec![0; 200_000]))
            .unwrap();
    }
    assert!(session.unsent.connection_bytes() >= 400_000);
    session.close();
    assert_eq!(session.unsent.connection_bytes(), 0);
    assert!(!session.is_open(1) && !session.is_open(3));
}

proptest! {
    /// Whatever comes, the session takes it or fails in order; handlers that answer everything go on.
    #[test]
    fn any_frames_are_survived(
        frames in prop::collection::vec(
            (0_u8..12, any::<u8>(), 0_u32..12, prop::collection::vec(any::<u8>(), 0..40)),
            0..60,
        ),
        good in prop::collection::vec(0_usize..4, 0..20),
    ) {
        let mut session = opened();
        for (at, (kind, flag, stream, payload)) in frames.iter().enumerate() {
            if let Some(choice) = good.get(at) {
                let stream = 2 * at as u32 + 1;
                let bytes = match choice {
                    0 => headers(stream, 0),
                    1 => headers(stream, flags::END_STREAM),
                    2 => data(stream.saturating_sub(2), 0, &put_message(10)),
                    _ => window(0, 1_000),
                };
                session.on_bytes(&bytes);
            }
            let head = FrameHead {
                payload_bytes: payload.len() as u32,
                kind: *kind,
                flags: *flag,
                stream: *stream,
            };
            session.on_bytes(&[&head.to_bytes()[..], payload].concat());
            while let Some((stream, _)) = session.take_opened() {
                let _ = next_message(&mut session, stream);
                let _ = session.send_data(stream, Bytes::from(vec![0; 1_000]));
                if stream % 4 == 1 {
                    let _ = session.finish(stream, Ok(()));
                }
            }
            if at % 7 == 6 {
                take_frames(&mut session);
            }
        }
        session.close();
        prop_assert_eq!(session.unsent.connection_bytes(), 0);
        prop_assert_eq!(session.partial_message_bytes, 0);
    }
}
