//! The front with clients that keep the rules: stock gRPC clients, raw HTTP/2 and HTTP/1.1, and a server that stops.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::http::Request;
use bytes::Bytes;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use keelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_proto::etcdserverpb::watch_client::WatchClient;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, SnapshotRequest, TxnRequest, WatchRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic::transport::Endpoint;

use super::echo_harness::*;
use super::*;

#[test]
fn unary_calls_of_all_sizes_and_their_errors() {
    let server = serve();
    clients(async {
        let channel = server.channel().await;
        let mut kv = KvClient::new(channel).max_decoding_message_size(64 << 20);
        for value_bytes in [0, 1, 255, 256, 1000, 16_384, 70_000, 1_500_000, 2_000_000] {
            let answer = kv
                .put(put_request("k", value_bytes))
                .await
                .unwrap()
                .into_inner();
            assert_eq!(answer.prev_kv.unwrap().value.len(), value_bytes);
        }
        // Responses in slices, far beyond every window.
        for value_bytes in [0, 10, 100_000, 8 << 20] {
            let request = RangeRequest {
                limit: value_bytes,
                ..RangeRequest::default()
            };
            let answer = kv.range(request).await.unwrap().into_inner();
            assert_eq!(answer.kvs[0].value.len() as i64, value_bytes);
        }
        // A status message that is not ASCII arrives percent-encoded and is decoded by the client.
        let key = Bytes::from("größe 100% \n kaputt");
        let error = kv
            .delete_range(DeleteRangeRequest {
                key,
                ..Default::default()
            })
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::FailedPrecondition, "größe 100% \n kaputt")
        );
        // Unknown method and unknown service, in grpc-go's words.
        let error = kv.txn(TxnRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
        assert_eq!(
            error.message(),
            "unknown method Txn for service etcdserverpb.KV"
        );
        let mut lease =
            keelson_proto::etcdserverpb::lease_client::LeaseClient::new(server.channel().await);
        let error = lease
            .lease_leases(keelson_proto::etcdserverpb::LeaseLeasesRequest {})
            .await
            .unwrap_err();
        assert_eq!(error.message(), "unknown service etcdserverpb.Lease");
        // The deadline arrives.
        let mut request = tonic::Request::new(put_request("k", 1));
        request.set_timeout(Duration::from_secs(30));
        let left_ms = kv
            .put(request)
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision;
        assert!(
            (20_000..=30_000).contains(&left_ms),
            "{left_ms} ms left of 30 s"
        );
    });
    assert_eq!(server.seen.failed.load(Ordering::Relaxed), 1);
    assert_eq!(server.seen.ok.load(Ordering::Relaxed), 14);
    assert_eq!(server.seen.started.load(Ordering::Relaxed), 15);
    assert_eq!(server.seen.received_messages.load(Ordering::Relaxed), 15);
    assert_eq!(server.seen.sent_messages.load(Ordering::Relaxed), 14);
    let report = server.stop();
    assert_eq!(
        report,
        DrainReport {
            cut_connection_count: 0,
            cut_call_count: 0
        }
    );
}

#[test]
fn a_request_that_is_too_large_gets_etcds_status_and_others_go_on() {
    let server = serve();
    clients(async {
        let mut kv = KvClient::new(server.channel().await);
        let max = FrontConfig::default().message_bytes_max;
        let error = kv.put(put_request("k", max + 1)).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        let wanted = format!("({} vs. {max})", max + 1 + 3 + 5);
        assert_eq!(
            error.message(),
            format!("grpc: received message larger than max {wanted}")
        );
        kv.put(put_request("k", 10)).await.unwrap();
    });
    server.stop();
}

#[test]
fn streams_both_ways() {
    let server = serve();
    clients(async {
        let channel = server.channel().await;
        let mut watch = WatchClient::new(channel.clone());
        let (send, requests) = tokio::sync::mpsc::channel::<WatchRequest>(4);
        let requests = futures_util::stream::unfold(requests, |mut requests| async {
            requests.recv().await.map(|request| (request, requests))
        });
        let mut answers = watch.watch(requests).await.unwrap().into_inner();
        for _ in 0..1000 {
            send.send(WatchRequest::default()).await.unwrap();
            assert!(answers.message().await.unwrap().is_some());
        }
        drop(send);
        assert!(answers.message().await.unwrap().is_none());

        let mut maintenance = MaintenanceClient::new(channel);
        let mut parts = maintenance
            .snapshot(SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        let mut bytes = 0;
        while let Some(part) = parts.message().await.unwrap() {
            bytes += part.blob.len();
        }
        assert_eq!(bytes, SNAPSHOT_BLOB_COUNT * SNAPSHOT_BLOB_BYTES);
        // Dropped half way: the handler notices.
        let mut parts = maintenance
            .snapshot(SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        parts.message().await.unwrap();
        drop(parts);
        while server.seen.cancelled.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.stop();
}

/// Sends one request whose body is `body` in pieces, and returns the HTTP status, gRPC status and message.
async fn raw_call(
    address: SocketAddr,
    request: Request<()>,
    pieces: &[&[u8]],
) -> (u16, Option<u16>, String) {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    for piece in pieces {
        body.send_data(Bytes::copy_from_slice(piece), false)
            .unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Refused when the server has answered and closed the stream already.
    let _ = body.send_data(Bytes::new(), true);
    let response = response.await.unwrap();
    let (head, mut stream) = response.into_parts();
    let mut headers = head.headers;
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
    }
    if let Some(trailers) = stream.trailers().await.unwrap() {
        headers.extend(trailers);
    }
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let code = text("grpc-status").map(|code| code.parse().unwrap());
    drop(send);
    driver.abort();
    (
        head.status.as_u16(),
        code,
        text("grpc-message").unwrap_or_default(),
    )
}

#[test]
fn grpc_rules_are_kept_as_grpc_go_keeps_them() {
    let server = serve();
    clients(async {
        let framed = encode_message(&put_request("key", 300));
        let at = server.address;
        let put = || grpc_request("/etcdserverpb.KV/Put");
        // Cut anywhere, a message arrives whole.
        let all: Vec<&[u8]> = framed.chunks(1).collect();
        assert_eq!(
            raw_call(
                at,
                put(),
                &all[..50]
                    .iter()
                    .copied()
                    .chain([&framed[50..]])
                    .collect::<Vec<_>>()
            )
            .await
            .1,
            Some(0)
        );
        // A body that ends inside a message, and none at all.
        assert_eq!(raw_call(at, put(), &[&framed[..20]]).await.1, Some(13));
        assert_eq!(raw_call(at, put(), &[]).await.1, Some(13));
        // Compression is not offered.
        let mut gzip = put();
        gzip.headers_mut()
            .insert("grpc-encoding", "gzip".parse().unwrap());
        let answer = raw_call(at, gzip, &[&framed]).await;
        assert_eq!(
            (answer.1, answer.2.contains("Decompressor is not installed")),
            (Some(12), true)
        );
        let mut flagged = framed.to_vec();
        flagged[0] = 1;
        assert_eq!(raw_call(at, put(), &[&flagged]).await.1, Some(13));
        flagged[0] = 9;
        assert_eq!(raw_call(at, put(), &[&flagged]).await.1, Some(13));
        // Not gRPC.
        let mut json = put();
        json.headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        assert_eq!(raw_call(at, json, &[]).await.0, 415);
        let mut get = put();
        *get.method_mut() = ::http::Method::GET;
        assert_eq!(raw_call(at, get, &[]).await.0, 405);
        let answer = raw_call(at, grpc_request("/nothing"), &[]).await;
        assert_eq!((answer.0, answer.1), (200, Some(12)));
        let mut late = put();
        late.headers_mut()
            .insert("grpc-timeout", "soon".parse().unwrap());
        assert_eq!(raw_call(at, late, &[&framed]).await.1, Some(13));
    });
    server.stop();
}

#[test]
fn http1_on_the_same_port_and_alone_on_the_metrics_port() {
    let server = serve();
    clients(async {
        for address in [server.address, server.metrics_address] {
            let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
            // Two requests on one connection; the first byte alone must not decide the protocol.
            socket.write_all(b"P").await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            socket
                .write_all(b"OST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
                .await
                .unwrap();
            assert!(
                read_until(&mut socket, "hello")
                    .await
                    .starts_with("HTTP/1.1 200")
            );
            socket
                .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            read_until(&mut socket, "{\"health\":\"true\"}").await;
            socket
                .write_all(b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut rest = String::new();
            socket.read_to_string(&mut rest).await.unwrap();
            assert!(rest.starts_with("HTTP/1.1 404"), "{rest}");
        }
        let refused = Endpoint::from_shared(format!("http://{}", server.metrics_address))
            .unwrap()
            .connect()
            .await;
        if let Ok(channel) = refused {
            assert!(
                KvClient::new(channel)
                    .put(put_request("k", 1))
                    .await
                    .is_err()
            );
        }
    });
    server.stop();
}

async fn read_until(socket: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let count = socket.read(&mut buffer).await.unwrap();
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&buffer[..count]);
        if String::from_utf8_lossy(&seen).ends_with(end) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
}

#[test]
fn stopping_finishes_running_calls_and_ends_streams() {
    let server = serve();
    clients(async {
        let channel = server.channel().await;
        let mut kv = KvClient::new(channel.clone());
        let slow = tokio::spawn(async move {
            let request = PutRequest {
                lease: 400,
                ..put_request("k", 10)
            };
            kv.put(request).await
        });
        let mut watch = WatchClient::new(channel);
        let requests = futures_util::stream::pending::<WatchRequest>();
        let mut answers = watch.watch(requests).await.unwrap().into_inner();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let address = server.address;
        let started = Instant::now();
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        let ended = answers.message().await.unwrap_err();
        assert_eq!(
            (ended.code(), ended.message()),
            (Code::Unavailable, "stopping")
        );
        slow.await.unwrap().expect("a running call is finished");
        drop(answers);
        drop(watch);
        let report = stopped.await.unwrap();
        assert_eq!(
            report,
            DrainReport {
                cut_connection_count: 0,
                cut_call_count: 0
            }
        );
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    });
}

#[test]
fn stopping_cuts_what_does_not_end_in_time() {
    let server = serve_on(1, FrontConfig::default(), Duration::from_millis(200));
    clients(async {
        let mut kv = KvClient::new(server.channel().await);
        let slow = tokio::spawn(async move {
            let request = PutRequest {
                lease: 30_000,
                ..put_request("k", 10)
            };
            kv.put(request).await
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        let report = tokio::task::spawn_blocking(move || server.stop())
            .await
            .unwrap();
        assert_eq!(
            report,
            DrainReport {
                cut_connection_count: 1,
                cut_call_count: 1
            }
        );
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(slow.await.unwrap().is_err());
    });
}

#[test]
fn a_port_in_use_is_an_error() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = Listener::bind(local, Role::Client).unwrap();
    let again = Listener::bind(first.local_address().unwrap(), Role::Client);
    assert_eq!(
        again.err().map(|error| error.kind()),
        Some(std::io::ErrorKind::AddrInUse)
    );
}
