//! The front with clients that do not keep the rules, or that come in thousands: each costs itself something, and
//! nobody else.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keelson_proto::etcdserverpb::RangeRequest;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::echo_harness_tests::*;
use super::*;

#[test]
fn a_client_that_never_reads_costs_bounded_memory_and_delays_nobody() {
    let server = serve();
    clients(async {
        // Windows as large as the protocol allows, and nobody who takes the bytes off the socket.
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(i32::MAX as u32)
            .initial_connection_window_size(i32::MAX as u32)
            .handshake::<_, Bytes>(socket)
            .await
            .unwrap();
        let mut connection = Box::pin(connection);
        let mut send = send;
        let mut streams = Vec::new();
        for _ in 0..200 {
            let request = grpc_request("/etcdserverpb.KV/Range");
            let (response, mut body) = send.send_request(request, false).unwrap();
            let message = RangeRequest {
                limit: 64 << 20,
                ..RangeRequest::default()
            };
            body.send_data(encode_message(&message), true).unwrap();
            streams.push(response);
        }
        // Long enough to send the requests; from then on the connection is not polled.
        let _ = tokio::time::timeout(Duration::from_millis(200), &mut connection).await;

        let mut kv = KvClient::new(server.channel().await);
        let started = Instant::now();
        for _ in 0..200 {
            kv.put(put_request("k", 100)).await.unwrap();
        }
        let each = started.elapsed() / 200;
        assert!(
            each < Duration::from_millis(50),
            "a put beside a client that does not read took {each:?}"
        );
        let peak = server.seen.unsent_peak.load(Ordering::Relaxed) as usize;
        // The output, and a chunk of each of the 200 calls behind it.
        let bound = limits::OUT_BYTES_MAX + 200 * (256 << 10);
        assert!(peak <= bound, "{peak} bytes were queued");
        drop(streams);
        drop(connection);
    });
    server.stop();
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let server = serve();
    clients(async {
        let mut kv = KvClient::new(server.channel().await);
        let mut garbage = vec![
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            b"\0\0\0\0".to_vec(),
            b"GET".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame at all, is it".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00".to_vec(),
            b"PRI * HTTP/2.0 nearly".to_vec(),
        ];
        garbage.extend((0..50_u32).map(|seed| {
            let mut state = seed.wrapping_mul(2_654_435_761) | 1;
            (0..5000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect()
        }));
        for bytes in garbage {
            let mut socket = tokio::net::TcpStream::connect(server.address)
                .await
                .unwrap();
            // Refused when the server has closed already.
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            let ended =
                tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
            assert!(
                ended.is_ok(),
                "not closed after {:?}",
                &bytes[..bytes.len().min(30)]
            );
            kv.put(put_request("k", 1)).await.unwrap();
        }
        while server.seen.open.load(Ordering::Relaxed) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.stop();
}

#[test]
fn a_silent_client_is_pinged_and_one_that_does_not_answer_is_closed() {
    let config = FrontConfig {
        keepalive_interval: Duration::from_millis(300),
        keepalive_timeout: Duration::from_millis(300),
        ..FrontConfig::default()
    };
    let server = serve_on(1, config, Duration::from_secs(5));
    clients(async {
        // This one answers pings, being driven.
        let mut kv = KvClient::new(server.channel().await);
        kv.put(put_request("k", 1)).await.unwrap();
        // This one has gone, without a FIN to tell: nobody drives it.
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (_send, connection) = h2::client::handshake::<_>(socket).await.unwrap();
        let mut connection = Box::pin(connection);
        let _ = tokio::time::timeout(Duration::from_millis(100), &mut connection).await;
        assert_eq!(server.seen.open.load(Ordering::Relaxed), 2);
        let started = Instant::now();
        while server.seen.open.load(Ordering::Relaxed) > 1 {
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "the dead connection is still open"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(started.elapsed() > Duration::from_millis(300));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        kv.put(put_request("k", 1)).await.unwrap();
        assert_eq!(server.seen.open.load(Ordering::Relaxed), 1);
    });
    server.stop();
}

#[test]
fn clients_may_ping_as_often_as_etcdctl_and_kube_apiserver_do_and_more() {
    let server = serve();
    clients(async {
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (send, mut connection) = h2::client::handshake(socket).await.unwrap();
        let mut ping_pong = connection.ping_pong().unwrap();
        let driver = tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let (response, _body) = send
            .send_request(grpc_request("/etcdserverpb.Watch/Watch"), false)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        // 400 pings in a row: far more often than every two seconds.
        for _ in 0..400 {
            ping_pong.ping(h2::Ping::opaque()).await.unwrap();
        }
        let mut send = send.ready().await.expect("no GOAWAY");
        let (response, mut body) = send
            .send_request(grpc_request("/etcdserverpb.KV/Put"), false)
            .unwrap();
        body.send_data(encode_message(&put_request("k", 1)), true)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert!(!driver.is_finished());
        driver.abort();
    });
    server.stop();
}

#[test]
fn many_connections_over_two_cores() {
    let server = serve_on(2, FrontConfig::default(), Duration::from_secs(5));
    clients(async {
        let mut channels = Vec::new();
        for _ in 0..300 {
            channels.push(KvClient::new(server.channel().await));
        }
        let mut idle = Vec::new();
        for _ in 0..2000 {
            idle.push(
                tokio::net::TcpStream::connect(server.address)
                    .await
                    .unwrap(),
            );
        }
        for _ in 0..2 {
            for kv in &mut channels {
                kv.put(put_request("k", 10)).await.unwrap();
            }
        }
        assert_eq!(server.seen.open.load(Ordering::Relaxed), 2300);
        let counts: Vec<u32> = server
            .cores
            .as_ref()
            .unwrap()
            .links()
            .iter()
            .map(|link| link.stats().connection_count)
            .collect();
        assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
        drop(idle);
        drop(channels);
        while server.seen.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.stop();
}
