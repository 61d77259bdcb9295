//! Loads against a real server, if there is one, and against servers that misbehave.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use keelson_proto::etcdserverpb::{PutResponse, ResponseHeader};
use keelson_proto::http2::hpack::{put_indexed, put_new_literal};
use keelson_proto::http2::{FRAME_HEAD_BYTES, FrameHead, FrameKind, PREFACE, flags};
use prost::Message;

use crate::job::{JobSpec, Setting, jobs};
use crate::load::{Load, Tally};
use crate::server::{Home, Launch};

/// A server that stalls does so this long.
const STALL: Duration = Duration::from_millis(400);
const READY_TIMEOUT: Duration = Duration::from_secs(60);

fn job(name: &str, settings: &[(&str, &str)]) -> JobSpec {
    let settings: Vec<Setting> = settings
        .iter()
        .map(|(word, value)| Setting {
            word: (*word).to_owned(),
            value: (*value).to_owned(),
            line: None,
        })
        .collect();
    jobs(&[name.to_owned()], &settings).unwrap().remove(0)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Runs a job to its end.
async fn run(job: &JobSpec, addresses: &[SocketAddr]) -> Tally {
    let mut load = Load::connect(job, addresses).await.unwrap();
    load.begin();
    load.finish().await.unwrap()
}

/// The server that the tests are to use, or the one beside this test's folder.
fn keelson() -> Option<Launch> {
    let named = std::env::var_os("KEELSON_BENCH_SERVER").map(PathBuf::from);
    let built = std::env::current_exe().unwrap();
    let built = built.parent()?.parent()?.join("keelson");
    let binary = named.or_else(|| built.is_file().then_some(built))?;
    Some(Launch {
        name: "keelson".to_owned(),
        binary,
        flags: Vec::new(),
    })
}

#[test]
fn every_op_brings_what_it_asks_for() {
    let Some(launch) = keelson() else {
        let mut terminal = std::io::stderr();
        writeln!(
            terminal,
            "NOT RUN: no server, and none in KEELSON_BENCH_SERVER"
        )
        .unwrap();
        return;
    };
    let home = Home::create(&std::env::temp_dir()).unwrap();
    block_on(async {
        let mut server = launch.start(&home).unwrap();
        server.ready(READY_TIMEOUT).await.unwrap();
        let addresses = [server.address()];
        let short = ["runtime", "ramp_time"].map(|word| (word, "300ms"));
        let of = |name: &str, more: &[(&str, &str)]| job(name, &[&short, more].concat());
        let two = [("numjobs", "2"), ("key_count", "300")];
        let with_deletes = [
            ("mix", "put:20,range:70,delete:5,list:5"),
            ("key_count", "50"),
        ];
        let full = [("key_count", "1k"), ("list_mode", "full")];
        let loads = [
            of("put-seq", &two),
            of("put-rand", &[("iodepth", "1")]),
            of("put-rand", &[("rate", "500")]),
            of("txn-update", &two),
            of("range-point", &[("serializable", "1"), ("key_count", "1k")]),
            of("range-list", &[("key_count", "1k"), ("page_limit", "70")]),
            of("range-list", &full),
            of("range-list:range-list-stream", &[("key_count", "1k")]),
            of(
                "watch-fanout",
                &[("watchers", "25"), ("watchers_per_stream", "10")],
            ),
            of("watch-fanout", &[("numjobs", "2"), ("watchers", "25")]),
            of("watch-latency", &[]),
            of("lease-keepalive", &[("numjobs", "2")]),
            of("mixed", &with_deletes),
            of(
                "kube-node-leases",
                &[("nodes", "500"), ("renew_interval", "1s")],
            ),
            of("kube-pod-churn", &[]),
            of("kube-1k-nodes", &[("runtime", "1s"), ("numjobs", "2")]),
        ];
        for job in &loads {
            let tally = run(job, &addresses).await;
            let name = &job.name;
            assert_eq!(tally.first_error, None, "{name}");
            assert!(tally.operations > 0, "{name}");
            assert!(!tally.latency_ns.is_empty(), "{name}");
            assert!(
                tally.cpu_ns > 0 && tally.measured_ns >= 299_000_000,
                "{name}"
            );
            let course: u64 = tally.seconds.iter().map(|second| second.operations).sum();
            assert_eq!(course, tally.operations, "{name}");
            for step in &tally.steps {
                assert!(step.operations > 0, "{name}: {}", step.name);
            }
            let lists = job.op == crate::job::Op::List;
            assert!(!lists || tally.bytes >= tally.operations << 20, "{name}");
        }
        server.stop().await.unwrap();
    });
}

/// Answers every request that ends with an empty PutResponse, until `is_wanted` says no.
fn answer_puts(mut socket: TcpStream, mut is_wanted: impl FnMut() -> bool) {
    let mut received = Vec::new();
    let mut chunk = [0; 16_384];
    let mut out = Vec::new();
    FrameHead::new(FrameKind::Settings, 0, 0, 0).write(&mut out);
    let mut preface_bytes = PREFACE.len();
    while is_wanted() {
        if socket.write_all(&out).is_err() {
            return;
        }
        out.clear();
        match socket.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => received.extend_from_slice(&chunk[..bytes]),
        }
        if received.len() < preface_bytes {
            continue;
        }
        received.drain(..std::mem::take(&mut preface_bytes));
        while let Some(head) = received.first_chunk::<FRAME_HEAD_BYTES>() {
            let head = FrameHead::parse(head);
            let end = FRAME_HEAD_BYTES + head.payload_bytes as usize;
            if received.len() < end {
                break;
            }
            received.drain(..end);
            if head.kind == FrameKind::Data as u8 && head.has(flags::END_STREAM) {
                put_answer(&mut out, head);
            }
        }
    }
}

fn put_answer(out: &mut Vec<u8>, request: FrameHead) {
    let answer = PutResponse {
        header: Some(ResponseHeader::default()),
        prev_kv: None,
    };
    let message = answer.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    let (mut headers, mut trailers) = (Vec::new(), Vec::new());
    put_indexed(&mut headers, 8);
    put_new_literal(&mut trailers, b"grpc-status", b"0");
    let last = flags::END_HEADERS | flags::END_STREAM;
    let frames = [
        (FrameKind::Headers, flags::END_HEADERS, headers),
        (FrameKind::Data, 0, body),
        (FrameKind::Headers, last, trailers),
        // Room for as much as was taken.
        (
            FrameKind::WindowUpdate,
            0,
            request.payload_bytes.to_be_bytes().to_vec(),
        ),
    ];
    for (kind, flag, payload) in frames {
        let stream = match kind {
            FrameKind::WindowUpdate => 0,
            _ => request.stream,
        };
        FrameHead::new(kind, flag, stream, payload.len() as u32).write(out);
        out.extend_from_slice(&payload);
    }
}

/// A server that treats its connections as it likes.
fn fake(serve: impl Fn(usize, TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (at, socket) in listener.incoming().enumerate() {
            let serve = serve.clone();
            thread::spawn(move || serve(at, socket.unwrap()));
        }
    });
    address
}

#[test]
fn a_stall_shows_in_the_latencies_of_all_that_was_due() {
    let address = fake(|_, socket| {
        let begun = Instant::now();
        let mut has_stalled = false;
        answer_puts(socket, || {
            if begun.elapsed() > STALL && !has_stalled {
                has_stalled = true;
                thread::sleep(STALL);
            }
            true
        });
    });
    let settings = [
        ("rate", "1k"),
        ("runtime", "2s"),
        ("ramp_time", "0"),
        ("iodepth", "4"),
        ("connections", "1"),
    ];
    let tally = block_on(run(&job("put-rand", &settings), &[address]));
    assert_eq!(tally.first_error, None);
    assert_eq!(tally.latency_ns.len(), 2_000, "each is counted");
    // Every request that was due during the stall has waited for its end, 4 in flight or not.
    let stalled = tally.latency_ns.count_between(10_000_000, u64::MAX);
    assert!(stalled >= 350, "{stalled}");
    let max = Duration::from_nanos(tally.latency_ns.max());
    assert!(max >= STALL * 9 / 10, "{max:?}");
    let behind = Duration::from_nanos(tally.behind_ns_max);
    assert!(behind >= STALL * 9 / 10, "{behind:?}");
    assert_eq!(tally.unsent, 0);
}

#[test]
fn clients_of_a_broken_connection_stop_and_the_others_go_on() {
    let address = fake(|at, socket| {
        let mut left = if at == 0 { 20 } else { u32::MAX };
        answer_puts(socket, move || {
            left -= 1;
            left > 0
        });
    });
    let settings = [
        ("runtime", "500ms"),
        ("ramp_time", "0"),
        ("iodepth", "4"),
        ("connections", "2"),
    ];
    let tally = block_on(run(&job("put-rand", &settings), &[address]));
    assert_eq!(tally.errors["Transport"], 2);
    assert!(tally.operations > 100, "{}", tally.operations);
    assert!(tally.measured_ns >= 499_000_000);
}

#[test]
fn a_server_that_speaks_no_http2_ends_the_load_at_once() {
    let address = fake(|_, mut socket| {
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        thread::sleep(Duration::from_secs(60));
    });
    let begun = Instant::now();
    let settings = [("runtime", "30s"), ("iodepth", "3"), ("connections", "1")];
    let tally = block_on(run(&job("put-rand", &settings), &[address]));
    assert_eq!((tally.operations_total, tally.errors["Transport"]), (0, 3));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_server_that_never_answers_can_be_left() {
    let address = fake(|_, socket| {
        thread::sleep(Duration::from_secs(60));
        drop(socket);
    });
    let begun = Instant::now();
    let settings = [("runtime", "30s"), ("iodepth", "3"), ("connections", "1")];
    let tally = block_on(async {
        let mut load = Load::connect(&job("put-rand", &settings), &[address])
            .await
            .unwrap();
        load.begin();
        tokio::time::sleep(Duration::from_millis(100)).await;
        load.stop();
        load.finish().await.unwrap()
    });
    assert_eq!((tally.operations_total, tally.errors["Unanswered"]), (0, 3));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_cannot_be_prepared_is_told() {
    let refused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = refused.local_addr().unwrap();
    drop(refused);
    for name in ["put-rand", "range-point", "lease-keepalive"] {
        let job = job(name, &[("cpus_allowed", "0")]);
        let error = block_on(Load::connect(&job, &[address])).err().unwrap();
        assert!(
            format!("{error:#}").contains("refused"),
            "{name}: {error:#}"
        );
    }
}
