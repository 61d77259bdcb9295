//! A connection's task: moves bytes between socket and session, and begins calls.
//!
//! ```text
//!   poll: recv(2) into the core's buffer -> session -> for each new stream: check, route, spawn its handler (deferred)
//!         handlers run, write into the session's output, wake this task
//!   poll: everything in the output -> one sendmsg(2)
//! ```
//!
//! # Invariants
//!
//! 1. This task never waits for a handler.
//! 2. A turn reads and writes bounded amounts (`socket.rs`), so one connection cannot keep the core.
//! 3. When this task ends, the session is closed: every open stream is lost, and the handlers end by themselves.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use keelson_proto::http2::PREFACE;
use tonic::Status;

use super::head::RequestHead;
use super::session::{Session, SharedSession};
use crate::front::call::{Call, Service, read_timeout};
use crate::front::connection::{Connection, Order, Phase};
use crate::front::limits::{self, CALL_COUNT_PER_CORE_MAX};
use crate::front::messages::{Messages, not_installed};
use crate::front::replies::{CallRecord, Replies, UnsentGauge};
use crate::front::server::FrontShared;
use crate::front::socket::{SLICE_COUNT_MAX, Socket};
use crate::runtime::spawn;

/// Serves the connection until it ends; its preface is the first thing that will be read.
///
/// # Errors
/// The socket broke.
pub(in crate::front) async fn serve<S: Service>(
    front: &Rc<FrontShared<S>>,
    connection: &Rc<Connection>,
    socket: Socket<Connection>,
) -> io::Result<()> {
    read_preface(&socket).await?;
    connection.enter(Phase::Http2);
    let unsent = front.unsent.for_connection();
    let streams_max = front
        .config
        .max_concurrent_streams
        .min(limits::STREAM_COUNT_PER_CONNECTION_MAX);
    let session = Session::new(
        front.config.message_bytes_max,
        streams_max,
        unsent.clone(),
        front.spares.clone(),
    );
    let driver = Driver {
        front,
        connection,
        socket: &socket,
        session: Rc::new(RefCell::new(session)),
        unsent,
    };
    let ended = poll_fn(|cx| driver.poll(cx)).await;
    driver.session.borrow_mut().close();
    ended
}

/// Takes the preface, which has been recognised before.
async fn read_preface(socket: &Socket<Connection>) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    let count = poll_fn(|cx| socket.poll_recv(cx, &mut preface)).await?;
    assert_eq!(count, preface.len(), "it was put back whole");
    Ok(())
}

/// What one connection's task works with.
struct Driver<'a, S: Service> {
    front: &'a Rc<FrontShared<S>>,
    connection: &'a Rc<Connection>,
    socket: &'a Socket<Connection>,
    session: SharedSession,
    unsent: UnsentGauge,
}

impl<S: Service> Driver<'_, S> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.begin_turn();
        while self.connection.poke().poll_wait(cx).is_ready() {
            match self.connection.take_order() {
                Some(Order::Close) => return Poll::Ready(Ok(())),
                Some(Order::Drain) => self.session.borrow_mut().drain(),
                Some(Order::Ping) => {
                    self.session.borrow_mut().ping();
                    self.connection.ping_sent();
                }
                None => {}
            }
        }
        // What is written first makes room for what reading answers.
        let mut wrote = self.write(cx)?;
        let read = self.read(cx)?;
        if wrote.is_ready() {
            wrote = self.write(cx)?;
        }
        let session = self.session.borrow();
        // A failed connection ends when the client has been told why, or does not want to hear it.
        let over = session.failure().is_some() || session.is_drained();
        if read.is_ready() || (over && wrote.is_ready()) {
            return Poll::Ready(Ok(()));
        }
        drop(session);
        self.session.borrow_mut().register_task(cx.waker());
        Poll::Pending
    }

    /// Reads what there is. Ready at the end of the stream.
    fn read(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            {
                let session = self.session.borrow();
                if session.failure().is_some() || session.is_choked() {
                    return Poll::Pending;
                }
            }
            let mut buffer = self.front.receive_buffer.borrow();
            let count = ready!(self.socket.poll_recv(cx, &mut buffer))?;
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            self.session.borrow_mut().on_bytes(&buffer[..count]);
            drop(buffer);
            self.begin_opened();
        }
    }

    fn begin_opened(&self) {
        loop {
            let opened = self.session.borrow_mut().take_opened();
            let Some((stream, head)) = opened else { break };
            self.begin(stream, head);
        }
        if self.session.borrow_mut().take_pong() {
            self.connection.pong_received();
        }
    }

    /// Sends the output. Ready when all of it is sent.
    fn write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut session = self.session.borrow_mut();
        loop {
            if session.output().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
            let count = session.output().slices(&mut slices);
            let sent = ready!(self.socket.poll_send(cx, &slices[..count]))?;
            session.on_sent(sent);
        }
    }

    /// Starts the handler of a new stream, or answers it at once.
    fn begin(&self, stream: u32, head: Rc<RequestHead>) {
        if let Some((code, status)) = http_refusal(&head) {
            self.session.borrow_mut().respond_http(stream, code, status);
            return;
        }
        match self.call(stream, head) {
            Ok(call) => spawn(self.front.service.clone().serve(call)),
            Err(status) => {
                let refused = self.session.borrow_mut().finish(stream, Err(status));
                refused.expect("the stream has just been opened");
            }
        }
    }

    fn call(&self, stream: u32, head: Rc<RequestHead>) -> Result<Call, Status> {
        let service = &self.front.service;
        let method = service.route(&head.path);
        let method = method.ok_or_else(|| unknown_path(&**service, &head.path))?;
        self.admit()?;
        check_encoding(&head)?;
        let timeout = read_timeout(head.get("grpc-timeout"))?;
        let observer = &self.front.observer;
        let record = CallRecord {
            method,
            observer: observer.clone(),
            stopping: self.front.stopping.clone(),
            live: self.front.live.clone(),
        };
        Ok(Call {
            method,
            head,
            messages: Messages::new(self.session.clone(), stream, method, observer.clone()),
            reply: Replies::new(self.session.clone(), stream, record),
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
fn http_refusal(head: &RequestHead) -> Option<(u16, Status)> {
    if &*head.method != "POST" {
        let text = format!(
            "Received a HEADERS frame with :method {:?} which should be POST",
            head.method
        );
        return Some((405, Status::internal(text)));
    }
    let content_type = head.get("content-type").unwrap_or_default();
    if is_grpc(content_type) {
        return None;
    }
    let text = format!(
        "invalid gRPC request content-type {:?}",
        String::from_utf8_lossy(content_type)
    );
    Some((415, Status::invalid_argument(text)))
}

/// `application/grpc`, alone or followed by a subtype or parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    content_type.len() >= NAME.len()
        && content_type[..NAME.len()].eq_ignore_ascii_case(NAME)
        && matches!(content_type.get(NAME.len()), None | Some(b'+' | b';'))
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

/// Refuses compressed calls.
fn check_encoding(head: &RequestHead) -> Result<(), Status> {
    match head.get("grpc-encoding") {
        None | Some(b"identity" | b"") => Ok(()),
        Some(name) => Err(not_installed(&String::from_utf8_lossy(name))),
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
