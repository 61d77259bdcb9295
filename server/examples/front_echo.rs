//! Measures the front alone: an echoing Put service on one core, and a client that loads it.
//!
//! ```text
//! cargo run --release --example front_echo -- serve 127.0.0.1:5000 [CORE]
//! cargo run --release --example front_echo -- load 127.0.0.1:5000 CONNECTIONS IN_FLIGHT SECONDS [VALUE_BYTES]
//! ```
//!
//! `load` prints requests per second, latency percentiles, and the server's CPU seconds per 100,000 requests,
//! which it reads from `/proc` (so both must run on one machine). `serve` ends on a line on its standard input.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keelson_proto::etcdserverpb::{PutRequest, PutResponse};
use keelson_proto::mvccpb::KeyValue;
use keelson_server::front::{
    Call, Front, FrontConfig, HttpService, Listener, Method, MethodKind, MethodTable, NoObserver,
    Role, Service, encode_message, handover,
};
use keelson_server::runtime::{self, RuntimeConfig};
use keelson_storage::ids::CoreId;
use prost::Message as _;
use tonic::Status;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static METHODS: [Method; 1] = [Method::new(0, "/etcdserverpb.KV/Put", MethodKind::Unary)];

struct Echo(MethodTable);

impl Service for Echo {
    fn route(&self, path: &str) -> Option<&'static Method> {
        self.0.route(path)
    }

    fn has_service(&self, service: &str) -> bool {
        self.0.has_service(service)
    }

    async fn serve(self: Rc<Self>, mut call: Call) {
        let answer = match call.messages.unary().await.map(PutRequest::decode) {
            Ok(Ok(request)) => {
                let prev_kv = KeyValue {
                    key: request.key,
                    value: request.value,
                    ..KeyValue::default()
                };
                Ok(PutResponse {
                    header: None,
                    prev_kv: Some(prev_kv),
                })
            }
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(status) => Err(status),
        };
        call.reply.send_unary(answer);
    }
}

struct Pid;

impl HttpService for Pid {
    async fn handle(&self, _request: Request<Bytes>) -> Response<Full<Bytes>> {
        Response::new(Full::from(std::process::id().to_string()))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", address] => serve(address, "0"),
        ["serve", address, core] => serve(address, core),
        ["load", address, connections, in_flight, seconds] => {
            load(address, connections, in_flight, seconds, "256");
        }
        [
            "load",
            address,
            connections,
            in_flight,
            seconds,
            value_bytes,
        ] => {
            load(address, connections, in_flight, seconds, value_bytes);
        }
        _ => eprintln!(
            "usage: serve ADDRESS [CORE] | load ADDRESS CONNECTIONS IN_FLIGHT SECONDS [VALUE_BYTES]"
        ),
    }
}

fn serve(address: &str, core: &str) {
    runtime::raise_open_files().expect("the limit on open files can be raised");
    let listener = Listener::bind(address.parse().expect("an address"), Role::Client)
        .expect("the port is free");
    let core = CoreId(core.parse().expect("a core number"));
    let seats = |links: &[runtime::CoreLink]| vec![(vec![listener], handover(links, 0).0)];
    let main = |core: runtime::Core, (listeners, seat)| async move {
        let echo = Rc::new(Echo(MethodTable::new(&METHODS)));
        let front = Front::new(
            FrontConfig::default(),
            echo,
            Rc::new(Pid),
            Rc::new(NoObserver),
        );
        front.accept(listeners, seat);
        core.stopping().wait().await;
        front.drain(Duration::from_secs(1)).await;
    };
    let cores =
        runtime::start(&[core], &RuntimeConfig::default(), seats, main).expect("the core starts");
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .expect("standard input can be read");
    cores.stopper().stop();
    cores.join().expect("the core ends well");
}

fn load(address: &str, connections: &str, in_flight: &str, seconds: &str, value_bytes: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    let [connections, in_flight, seconds, value_bytes]: [usize; 4] =
        [connections, in_flight, seconds, value_bytes]
            .map(|number| number.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let pid = server_pid(address).await;
        let request = PutRequest {
            key: Bytes::from_static(b"/registry/pods/default/example-0001"),
            value: Bytes::from(vec![b'x'; value_bytes]),
            ..PutRequest::default()
        };
        let framed = encode_message(&request);
        let ends = Instant::now() + Duration::from_secs(seconds as u64);
        let (cpu_before, started) = (cpu_seconds(pid), Instant::now());
        let mut workers = Vec::new();
        for _ in 0..connections {
            let socket = tokio::net::TcpStream::connect(address).await.expect("the server listens");
            socket.set_nodelay(true).expect("an option of every socket");
            let (send, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .handshake::<_, Bytes>(socket)
                .await
                .expect("it speaks HTTP/2");
            tokio::spawn(connection);
            for _ in 0..in_flight {
                let (mut send, framed) = (send.clone(), framed.clone());
                workers.push(tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    while Instant::now() < ends {
                        let sent = Instant::now();
                        call(&mut send, framed.clone()).await;
                        latencies.push(sent.elapsed().as_micros() as u32);
                    }
                    latencies
                }));
            }
        }
        let mut latencies = Vec::new();
        for worker in workers {
            latencies.extend(worker.await.expect("a worker ends well"));
        }
        let (cpu, elapsed) = (cpu_seconds(pid) - cpu_before, started.elapsed().as_secs_f64());
        latencies.sort_unstable();
        let count = latencies.len();
        let at = |share: f64| latencies[((count as f64 * share) as usize).min(count - 1)];
        println!(
            "{:.0} requests/s, latency p50 {} us, p99 {} us, p99.9 {} us, server CPU {:.3} s per 100k",
            count as f64 / elapsed,
            at(0.5),
            at(0.99),
            at(0.999),
            cpu / count as f64 * 100_000.0
        );
    });
}

async fn call(send: &mut h2::client::SendRequest<Bytes>, framed: Bytes) {
    let request = Request::builder()
        .method("POST")
        .uri("http://bench/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a valid request");
    let mut ready = send.clone().ready().await.expect("the connection lives");
    let (response, mut body) = ready
        .send_request(request, false)
        .expect("the stream opens");
    body.send_data(framed, true).expect("the stream is open");
    let mut body = response.await.expect("an answer").into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("a whole answer");
        body.flow_control()
            .release_capacity(chunk.len())
            .expect("the stream is known");
    }
    let trailers = body.trailers().await.expect("trailers").expect("trailers");
    assert_eq!(
        trailers.get("grpc-status").map(|code| code.as_bytes()),
        Some(&b"0"[..])
    );
}

async fn server_pid(address: SocketAddr) -> u32 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("the server listens");
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("it takes bytes");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    answer
        .rsplit("\r\n")
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("the process id")
}

/// User and system time of a process, from `/proc`.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .expect("the server runs on this machine");
    let fields = stat.rsplit(')').next().expect("a name in parentheses");
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    // SAFETY: sysconf takes a plain number.
    ticks.iter().sum::<f64>() / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}
