//! Bytes that are no request, connections that say nothing, and very many of them.

use std::time::Duration;

use h2::client::SendRequest;
use http::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{a_moment, serves_others};
use crate::harness::raw::{RawConnection, frame};
use crate::harness::{DEADLINE, Server, heavy, http as web, ours_only, raise_open_files, shapes};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const MIB: u64 = 1 << 20;

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address())
        .await
        .expect("the server accepts")
}

/// Reads until the server closes; whether it did in time.
async fn closes(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let read = stream.read_to_end(&mut rest);
    tokio::time::timeout(DEADLINE, read).await.is_ok()
}

#[tokio::test]
async fn garbage_is_turned_away() {
    let server = Server::start("bad-garbage").await;
    let mut rng = StdRng::seed_from_u64(7);
    let mut inputs: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n".to_vec(),
        b"HELLO WORLD\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello".to_vec(),
        vec![0; 4_096],
        [PREFACE, &[0xff; 64]].concat(),
        [PREFACE, EMPTY_SETTINGS, &[0xff; 64]].concat(),
    ];
    for length in [1_000, 5_000, 50_000] {
        inputs.push((0..length).map(|_| rng.random_range(0x80..=0xff)).collect());
    }
    for input in inputs {
        let mut stream = connect(&server).await;
        // The server may close before it has taken all.
        let _ = stream.write_all(&input).await;
        let shown = String::from_utf8_lossy(&input[..input.len().min(40)]).into_owned();
        let mut answer = Vec::new();
        // More garbage, so that whoever waits for the end of a line finds none.
        let _ = stream.shutdown().await;
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "still open after {shown:?}");
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn silent_and_half_open_connections_disturb_nobody() {
    let server = Server::start("bad-half-open").await;
    let before = server.resident_bytes();
    let mut open = Vec::new();
    for number in 0..300 {
        let mut stream = connect(&server).await;
        let part: &[u8] = match number % 6 {
            0 => b"",
            1 => &PREFACE[..7],
            2 => PREFACE,
            3 => b"GET /health HTTP/1.1\r\nHost: x\r\n",
            4 => b"POST /v3 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc",
            _ => &[],
        };
        stream.write_all(part).await.expect("the server reads");
        if number % 6 == 5 {
            stream.shutdown().await.expect("our side can be closed");
        }
        open.push(stream);
    }
    serves_others(&server).await;
    // Slow loris: some go on, byte by byte.
    for at in 7..PREFACE.len() {
        for stream in open.iter_mut().skip(1).step_by(6) {
            // One that the server gave up on needs no more bytes.
            let _ = stream.write_all(&PREFACE[at..=at]).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    serves_others(&server).await;
    let health = web::get(&server.address(), "/health")
        .await
        .expect("HTTP is served");
    assert_eq!(health.status, 200);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 256 * MIB, "300 idle connections cost {grown} bytes");
}

#[tokio::test]
async fn connections_cut_in_the_middle_of_a_request() {
    let server = Server::start("bad-cut").await;
    for turn in 0..200_usize {
        let connection = RawConnection::open(&server.address()).await;
        let value = vec![b'x'; 100_000];
        let put = prost::Message::encode_to_vec(&shapes::put("cut", value));
        let body = frame(&put);
        let call = connection.call("/etcdserverpb.KV/Put", body);
        let patience = Duration::from_micros(turn as u64 * 20);
        // Dropping the call resets the stream, dropping the connection closes the socket.
        drop(tokio::time::timeout(patience, call).await);
    }
    serves_others(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_and_header_floods_disturb_nobody() {
    let server = Server::start("bad-rapid-reset").await;
    let before = server.resident_bytes();
    for _ in 0..5 {
        let (mut send, driver) = handshake(&server).await;
        for _ in 0..4_000 {
            let request = request(&server, "/etcdserverpb.KV/Range");
            let Ok(()) = std::future::poll_fn(|context| send.poll_ready(context)).await else {
                break;
            };
            let Ok((response, stream)) = send.send_request(request, false) else {
                break;
            };
            // Both dropped: the stream is reset.
            drop((response, stream));
            tokio::task::yield_now().await;
        }
        driver.abort();
    }
    serves_others(&server).await;
    let (mut send, driver) = handshake(&server).await;
    let mut flood = request(&server, "/etcdserverpb.KV/Range");
    for number in 0..2_000 {
        let name = http::HeaderName::from_bytes(format!("x-flood-{number}").as_bytes());
        let value = http::HeaderValue::from_str(&"y".repeat(500)).expect("a header value");
        flood
            .headers_mut()
            .insert(name.expect("a header name"), value);
    }
    if let Ok((response, _)) = send.send_request(flood, true) {
        // An error, a reset, or silence: anything but service.
        let answer = tokio::time::timeout(Duration::from_secs(5), response).await;
        if let Ok(Ok(answer)) = answer {
            let code = answer.headers().get("grpc-status");
            let refused = !answer.status().is_success() || code.is_some_and(|code| code != "0");
            assert!(refused, "a megabyte of headers was taken: {answer:?}");
        }
    }
    driver.abort();
    a_moment().await;
    serves_others(&server).await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 256 * MIB, "abuse cost {grown} bytes");
}

fn request(server: &Server, path: &str) -> Request<()> {
    Request::post(format!("{}{path}", server.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("the request is well formed")
}

async fn handshake(server: &Server) -> (SendRequest<bytes::Bytes>, tokio::task::JoinHandle<()>) {
    let stream = connect(server).await;
    let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(async move {
        // The server may well end a connection that is abused.
        let _ = connection.await;
    });
    (send, driver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_p_1_ten_thousand_connections() {
    const WANTED: u64 = 10_000;
    const SPARE: u64 = 1_000;
    const BYTES_EACH: u64 = 128 << 10;
    let _alone = heavy().await;
    let limit = raise_open_files(2 * WANTED);
    let count = WANTED.min(limit.saturating_sub(SPARE));
    if count < WANTED {
        println!("only {count} connections: the hard limit of open files is {limit}");
    }
    let server = Server::start("bad-10k").await;
    let before = server.resident_bytes();
    let mut connections = Vec::new();
    while (connections.len() as u64) < count {
        let batch = (0..100).map(|_| RawConnection::open_owned(server.address()));
        connections.extend(futures_util::future::join_all(batch).await);
    }
    serves_others(&server).await;
    let grown = server.resident_bytes().saturating_sub(before);
    println!("{count} connections: {} KiB each", (grown >> 10) / count);
    assert!(
        grown < count * BYTES_EACH,
        "{count} connections cost {grown} bytes"
    );
    // All of them are alive, first and last alike.
    for chunk in connections.chunks(100).step_by(10) {
        let calls = chunk
            .iter()
            .map(|connection| connection.call("/etcdserverpb.Maintenance/Status", frame(b"")));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.expect("an answer").code, Some(0));
        }
    }
    drop(connections);
    serves_others(&server).await;
}

#[tokio::test]
async fn a_thousand_streams_on_one_connection() {
    let server = Server::start("bad-streams").await;
    let clients = server.clients().await;
    clients.put_key("a", "1").await;
    let calls = (0..1_000).map(|_| clients.range(shapes::get("a")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.count, 1);
    }
}

/// Pings on a connection, with or without a stream that is open, and whether it survived.
async fn survives_pings(server: &Server, with_stream: bool, count: u32, every: Duration) -> bool {
    let stream = connect(server).await;
    let (mut send, mut connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let mut pings = connection.ping_pong().expect("the first to ask");
    let driver = tokio::spawn(async move { connection.await.is_ok() });
    let held = with_stream.then(|| {
        let watch = request(server, "/etcdserverpb.Watch/Watch");
        send.send_request(watch, false).expect("a stream opens")
    });
    for _ in 0..count {
        if tokio::time::timeout(DEADLINE, pings.ping(h2::Ping::opaque()))
            .await
            .expect("a ping is answered")
            .is_err()
        {
            return false;
        }
        tokio::time::sleep(every).await;
    }
    let alive = !driver.is_finished() && send.ready().await.is_ok();
    drop(held);
    driver.abort();
    alive
}

#[tokio::test]
async fn keepalive_pings_are_welcome() {
    ours_only!("etcd counts pings of a silent stream under 5 s as strikes");
    let server = Server::start("bad-pings").await;
    let (busy, idle) = tokio::join!(
        survives_pings(&server, true, 7, Duration::from_secs(2)),
        survives_pings(&server, false, 3, Duration::from_secs(6)),
    );
    assert!(busy, "pings every 2 s beside a stream");
    assert!(idle, "pings without a stream");
    assert!(closes_nothing(&server).await);
}

/// An HTTP/1.1 connection that asks for nothing is not held against anyone either.
async fn closes_nothing(server: &Server) -> bool {
    let stream = connect(server).await;
    drop(stream);
    serves_others(server).await;
    let mut stream = connect(server).await;
    stream
        .write_all(b"GET /version HTTP/1.0\r\n\r\n")
        .await
        .expect("the server reads");
    closes(stream).await
}
