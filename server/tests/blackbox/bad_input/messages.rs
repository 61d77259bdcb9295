//! Requests that are too large, cut off, or not gRPC at all.

use bytes::Bytes;
use keelson_proto::etcdserverpb::request_op::Request;
use tonic::Code;

use super::serves_others;
use crate::harness::raw::{RawConnection, frame};
use crate::harness::{Server, ServerOptions, refused, shapes};

const MIB: usize = 1 << 20;
const REQUEST_MAX: usize = 3 * MIB / 2;
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

#[tokio::test]
async fn large_requests_are_refused_with_the_right_error() {
    let server = Server::start("bad-large").await;
    let clients = server.clients().await;
    let value = |length| vec![b'x'; length];
    // What the log adds to a request counts too; half a KiB of room is enough for it.
    clients
        .put(shapes::put("fits", value(REQUEST_MAX - 512)))
        .await;
    let too_large = (
        Code::InvalidArgument,
        "etcdserver: request is too large".to_owned(),
    );
    for length in [REQUEST_MAX, REQUEST_MAX + 1, 2 * MIB - 1024] {
        let answer = clients
            .kv
            .clone()
            .put(shapes::put("large", value(length)))
            .await;
        assert_eq!(refused(answer), too_large, "{length} bytes");
    }
    let puts = (0..4).map(|n| Request::RequestPut(shapes::put(format!("{n}"), value(MIB / 2))));
    let answer = clients
        .kv
        .clone()
        .txn(shapes::txn(vec![], puts.collect(), vec![]))
        .await;
    assert_eq!(
        refused(answer).0,
        Code::ResourceExhausted,
        "2 MiB in four parts"
    );
    let puts = (0..4).map(|n| Request::RequestPut(shapes::put(format!("{n}"), value(400 << 10))));
    let answer = clients
        .kv
        .clone()
        .txn(shapes::txn(vec![], puts.collect(), vec![]))
        .await;
    assert_eq!(refused(answer), too_large, "1.6 MiB in four parts");
    for length in [2 * MIB + 1, 20 * MIB] {
        let answer = clients
            .kv
            .clone()
            .put(shapes::put("huge", value(length)))
            .await;
        assert_eq!(refused(answer).0, Code::ResourceExhausted, "{length} bytes");
    }
    // The same connection goes on.
    assert_eq!(clients.range(shapes::get("large")).await.count, 0);
    assert_eq!(clients.range(shapes::get("fits")).await.count, 1);
}

#[tokio::test]
async fn the_request_limit_is_a_flag() {
    let server = ServerOptions::new("bad-limit-flag")
        .flag("--max-request-bytes=10000")
        .start()
        .await;
    let clients = server.clients().await;
    clients.put(shapes::put("fits", vec![b'x'; 9_000])).await;
    let answer = clients
        .kv
        .clone()
        .put(shapes::put("large", vec![b'x'; 11_000]))
        .await;
    assert_eq!(refused(answer).0, Code::InvalidArgument);
    let beyond = vec![b'x'; 10_000 + MIB / 2];
    let answer = clients.kv.clone().put(shapes::put("huge", beyond)).await;
    assert_eq!(refused(answer).0, Code::ResourceExhausted);
}

#[tokio::test]
async fn answers_may_be_larger_than_requests() {
    let server = Server::start("bad-large-answer").await;
    let clients = server.clients().await;
    for number in 0..24 {
        clients
            .put(shapes::put(format!("big/{number:02}"), vec![b'y'; MIB]))
            .await;
    }
    let listed = clients.range(shapes::list("big/")).await;
    assert_eq!(
        listed.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(),
        24 * MIB
    );
}

#[tokio::test]
async fn broken_frames_get_an_error_and_nothing_else_breaks() {
    let server = Server::start("bad-frames").await;
    let connection = RawConnection::open(&server.address()).await;
    let mut cut = frame(&[0; 100]);
    cut.truncate(50);
    let mut endless = vec![0];
    endless.extend_from_slice(&u32::MAX.to_be_bytes());
    let mut compressed = frame(b"");
    compressed[0] = 1;
    let cases: [(&str, Vec<u8>); 6] = [
        ("nothing at all", Vec::new()),
        ("half a frame header", vec![0, 0, 0]),
        ("a frame cut off", cut),
        ("a frame of 4 GiB", endless),
        ("compressed, not said how", compressed),
        ("a bad flag", vec![7, 0, 0, 0, 0]),
    ];
    for (name, body) in cases {
        // Some of these may cost the stream (a reset), none of them the connection.
        if let Ok(answer) = connection.call(STATUS, body).await {
            assert!(
                answer.status != 200 || answer.code != Some(0),
                "{name}: {answer:?}"
            );
        }
        assert!(!connection.is_closed(), "{name}");
        let fine = connection
            .call(STATUS, frame(b""))
            .await
            .expect("served again");
        assert_eq!(fine.code, Some(0), "after {name}");
    }
    for content_type in ["text/plain", "application/json", "application/grpc-web"] {
        if let Ok(answer) = connection.call_as(STATUS, content_type, frame(b"")).await {
            let refused = answer.status != 200 || answer.code != Some(0);
            assert!(refused, "{content_type}: {answer:?}");
        }
    }
    let with_suffix = "application/grpc+proto";
    let fine = connection
        .call_as(STATUS, with_suffix, frame(b""))
        .await
        .expect("served");
    assert_eq!(fine.code, Some(0));
    serves_others(&server).await;
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    let server = Server::start("bad-protobuf").await;
    let connection = RawConnection::open(&server.address()).await;
    let messages: [&[u8]; 4] = [
        // A length that runs past the end; a field number of zero; an endless varint; a bad wire
        // type.
        &[0x0a, 0x7f, b'a'],
        &[0x02, 0x00],
        &[0xff; 12],
        &[0x0f],
    ];
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/Range",
    ] {
        for message in messages {
            let answer = connection
                .call(path, frame(message))
                .await
                .expect("an answer");
            assert!(
                answer.code.is_some_and(|code| code != 0),
                "{path} {message:?}: {answer:?}"
            );
        }
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn deep_transactions_do_not_exhaust_the_stack() {
    let server = Server::start("bad-deep-txn").await;
    let clients = server.clients().await;
    let mut nested = shapes::txn(vec![], vec![], vec![]);
    // Encoded by hand: the library refuses to write what the server has to refuse to read.
    let mut encoded = prost::Message::encode_to_vec(&nested);
    for _ in 0..5_000 {
        encoded = wrap(2, &wrap(4, &encoded));
    }
    let connection = RawConnection::open(&server.address()).await;
    // etcd takes it (each level costs an operation, so the limit of 128 refuses it).
    let answer = connection
        .call("/etcdserverpb.KV/Txn", frame(&encoded))
        .await
        .expect("answer");
    assert!(answer.code.is_some_and(|code| code != 0), "{answer:?}");
    for _ in 0..20 {
        nested = shapes::txn(vec![], vec![Request::RequestTxn(nested)], vec![]);
    }
    clients.txn(nested).await;
    serves_others(&server).await;
}

/// A length-delimited protobuf field.
fn wrap(field: u8, content: &[u8]) -> Vec<u8> {
    let mut wrapped = vec![field << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        wrapped.push(length as u8 | 0x80);
        length >>= 7;
    }
    wrapped.push(length as u8);
    wrapped.extend_from_slice(content);
    wrapped
}

#[tokio::test]
async fn keys_and_values_of_any_bytes() {
    let server = Server::start("bad-any-bytes").await;
    let clients = server.clients().await;
    let all: Vec<u8> = (0..=255).collect();
    let keys = [
        &all[..],
        b"\0",
        b"\0\0\0",
        b"\xff\xff\xff",
        "k\u{fc}".as_bytes(),
    ];
    for key in keys {
        clients.put(shapes::put(key, &all)).await;
        let read = clients.range(shapes::get(key)).await;
        assert_eq!(read.kvs[0].key, key);
        assert_eq!(read.kvs[0].value, Bytes::copy_from_slice(&all));
    }
    let long = vec![b'k'; 100_000];
    clients.put(shapes::put(&long, "v")).await;
    assert_eq!(clients.range(shapes::get(&long)).await.count, 1);
}
