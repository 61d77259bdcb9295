//! An HTTP/2 connection: one task that drives the `h2` crate, and a task per call.
//!
//! ```text
//!   poll: read frames -> for each new stream: check, route, spawn its handler (deferred)
//!         handlers run, fill h2's queues, wake this task
//!   poll: h2 writes all queued frames into the socket's gather buffer -> one send(2)
//! ```
//!
//! # Invariants
//!
//! 1. This task never waits for a handler.
//! 2. A turn reads and writes bounded amounts (`socket.rs`), so one connection cannot keep the core.
//! 3. When this task ends, h2 reports the loss to every open stream, and their handlers end by themselves.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream};
use http::request::Parts;
use http::{HeaderMap, Method as Verb, Request, Response, StatusCode};
use tonic::Status;

use super::call::{Call, Service, read_timeout};
use super::connection::{Connection, Order, Phase};
use super::limits::{self, CALL_COUNT_PER_CORE_MAX};
use super::messages::{Assembler, Messages, PartialBudget, not_installed};
use super::replies::{CallRecord, Payload, Replies, UnsentGauge, refuse, trailers};
use super::server::FrontShared;
use super::socket::{FlushMode, Socket, SocketHandle};
use crate::runtime::spawn;

/// The first bytes of every HTTP/2 connection.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type H2Connection = h2::server::Connection<Socket<Connection>, Payload>;

/// Serves the connection until it ends.
pub(super) async fn serve<S: Service>(
    front: &Rc<FrontShared<S>>,
    connection: &Rc<Connection>,
    socket: Socket<Connection>,
) -> Result<(), h2::Error> {
    let handle = socket.handle();
    handle.set_mode(FlushMode::EndOfTurn);
    let mut handshake =
        builder(front.config.max_concurrent_streams).handshake::<_, Payload>(socket);
    let h2 = poll_fn(|cx| {
        handle.begin_turn();
        while connection.poke().poll_wait(cx).is_ready() {
            // No call is running yet, so draining and closing are the same.
            if let Some(Order::Drain | Order::Close) = connection.take_order() {
                return Poll::Ready(Ok(None));
            }
        }
        let made = Pin::new(&mut handshake).poll(cx).map(|made| made.map(Some));
        flush_turn(&handle, cx, made)
    })
    .await?;
    let Some(mut h2) = h2 else { return Ok(()) };
    connection.enter(Phase::Http2);
    let mut driver = Driver {
        front,
        connection,
        ping_pong: h2.ping_pong().expect("it is taken once"),
        unsent: front.unsent.for_connection(),
        partial: PartialBudget::default(),
    };
    poll_fn(|cx| {
        handle.begin_turn();
        let ended = driver.poll(&mut h2, cx);
        flush_turn(&handle, cx, ended)
    })
    .await
    .map(|_| ())
}

/// Sends what the turn gathered; a failed send ends the connection with `None`.
fn flush_turn<T>(
    handle: &SocketHandle<Connection>,
    cx: &mut Context<'_>,
    outcome: Poll<Result<Option<T>, h2::Error>>,
) -> Poll<Result<Option<T>, h2::Error>> {
    match handle.poll_flush_turn(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(Ok(None)),
        // Whatever the kernel did not take goes out when it does.
        Poll::Ready(Ok(())) | Poll::Pending => outcome,
    }
}

fn builder(max_concurrent_streams: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(max_concurrent_streams.min(limits::STREAM_COUNT_PER_CONNECTION_MAX))
        .max_send_buffer_size(limits::STREAM_SEND_BUFFER_BYTES)
        .data_frame_budget(limits::SMALL_FRAME_BUDGET_BYTES);
    builder
}

/// State of one connection's task.
struct Driver<'a, S: Service> {
    front: &'a Rc<FrontShared<S>>,
    connection: &'a Rc<Connection>,
    ping_pong: PingPong,
    unsent: UnsentGauge,
    partial: PartialBudget,
}

impl<S: Service> Driver<'_, S> {
    fn poll(
        &mut self,
        h2: &mut H2Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<()>, h2::Error>> {
        loop {
            while self.connection.poke().poll_wait(cx).is_ready() {
                match self.connection.take_order() {
                    Some(Order::Close) => return Poll::Ready(Ok(None)),
                    Some(Order::Drain) => h2.graceful_shutdown(),
                    Some(Order::Ping) => self.send_ping(),
                    None => {}
                }
            }
            match h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(Some(()))),
                Poll::Pending => break,
            }
        }
        if self.ping_pong.poll_pong(cx).is_ready() {
            self.connection.pong_received();
        }
        Poll::Pending
    }

    fn send_ping(&mut self) {
        // Refused while a ping is under way; then that one counts.
        if self.ping_pong.send_ping(Ping::opaque()).is_ok() {
            self.connection.ping_sent();
        }
    }

    /// Starts the handler of a new stream, or answers it at once.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Payload>) {
        let (head, body) = request.into_parts();
        if let Some(status) = http_refusal(&head) {
            refuse_http(respond, status);
            return;
        }
        match self.call(head, body, respond) {
            Ok(call) => spawn(self.front.service.clone().serve(call)),
            Err((respond, status)) => refuse(respond, &status),
        }
    }

    // The error is the answer and the way to send it; both are moved on at once.
    #[allow(clippy::result_large_err)]
    fn call(
        &self,
        head: Parts,
        body: RecvStream,
        respond: SendResponse<Payload>,
    ) -> Result<Call, (SendResponse<Payload>, Status)> {
        let path = head.uri.path();
        let Some(method) = self.front.service.route(path) else {
            return Err((respond, unknown_path(&*self.front.service, path)));
        };
        let checked = self
            .admit()
            .and_then(|()| Ok((encoding(&head.headers)?, read_timeout(&head.headers)?)));
        let (encoding, timeout) = match checked {
            Ok(checked) => checked,
            Err(status) => return Err((respond, status)),
        };
        let observer = &self.front.observer;
        let record = CallRecord {
            method,
            observer: observer.clone(),
            unsent: self.unsent.clone(),
            stopping: self.front.stopping.clone(),
            live: self.front.live.clone(),
        };
        let assembler = Assembler::new(
            self.front.config.message_bytes_max,
            encoding,
            self.partial.clone(),
        );
        Ok(Call {
            method,
            headers: head.headers,
            messages: Messages::new(body, assembler, method, observer.clone()),
            reply: Replies::new(respond, record),
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            peer: self.connection.peer.clone(),
        })
    }

    /// Refuses calls of clients that do not take their answers, and calls beyond the core's limit.
    fn admit(&self) -> Result<(), Status> {
        if self.unsent.connection_bytes() > limits::UNSENT_BYTES_PER_CONNECTION_MAX
            || self.unsent.core_bytes() > limits::UNSENT_BYTES_PER_CORE_MAX
            || self.front.live.count() >= CALL_COUNT_PER_CORE_MAX
        {
            return Err(Status::resource_exhausted("etcdserver: too many requests"));
        }
        Ok(())
    }
}

/// The HTTP status of a request that is not gRPC.
fn http_refusal(head: &Parts) -> Option<(StatusCode, Status)> {
    if head.method != Verb::POST {
        let text = format!(
            "Received a HEADERS frame with :method {:?} which should be POST",
            head.method.as_str()
        );
        return Some((StatusCode::METHOD_NOT_ALLOWED, Status::internal(text)));
    }
    let content_type = head
        .headers
        .get(http::header::CONTENT_TYPE)
        .map_or(&b""[..], |value| value.as_bytes());
    if is_grpc(content_type) {
        return None;
    }
    let text = format!(
        "invalid gRPC request content-type {:?}",
        String::from_utf8_lossy(content_type)
    );
    Some((
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Status::invalid_argument(text),
    ))
}

/// `application/grpc`, alone or followed by a subtype or parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    content_type.len() >= NAME.len()
        && content_type[..NAME.len()].eq_ignore_ascii_case(NAME)
        && matches!(content_type.get(NAME.len()), None | Some(b'+' | b';'))
}

fn refuse_http(mut respond: SendResponse<Payload>, (code, status): (StatusCode, Status)) {
    let mut response = Response::new(());
    *response.status_mut() = code;
    *response.headers_mut() = trailers(&status);
    // The client may have gone away already.
    let _ = respond.send_response(response, true);
}

/// etcd's answer to a path without a method.
fn unknown_path<S: Service>(services: &S, path: &str) -> Status {
    let path = path.strip_prefix('/').unwrap_or(path);
    Status::unimplemented(match path.rsplit_once('/') {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if services.has_service(service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    })
}

/// The call's message encoding, when it is one.
fn encoding(headers: &HeaderMap) -> Result<Option<String>, Status> {
    match headers
        .get("grpc-encoding")
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
    {
        None => Ok(None),
        Some(name) if name == "identity" || name.is_empty() => Ok(None),
        Some(name) => Err(not_installed(&name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc() {
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=y",
            "Application/gRPC",
        ] {
            assert!(is_grpc(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "application/json",
            "application/grpc-web",
            "application/grpcx",
            "text/plain",
        ] {
            assert!(!is_grpc(bad.as_bytes()), "{bad}");
        }
    }
}
