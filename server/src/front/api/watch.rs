//! `etcdserverpb.Watch`: the shell around the core's [`FanOut`](crate::fanout::FanOut).
//!
//! A stream has a reader task, which hands requests to the fan-out, and a writer, which sends what the
//! fan-out puts into the stream's queue. The writer sends one response at a time and waits for the client
//! to take it, so a slow client holds up its own stream only; what it misses it gets from the history.

use std::rc::Rc;

use futures_lite::future::or;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::WatchRequest;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use tonic::Status;

use super::{Api, decode};
use crate::engine::message::{Answer, Ask, StreamKey};
use crate::fanout::WatchSpec;
use crate::front::{Call, Closed, Messages, Replies};
use crate::runtime::{self, LocalEvent};

/// Metadata with which a client asks not to be served by a member that has no leader.
const REQUIRE_LEADER: &str = "hasleader";

/// What the two tasks of a stream share.
struct Stream {
    key: StreamKey,
    /// The writer has sent something, so there may be room for further requests.
    room: LocalEvent,
    /// Why the reader ended, if that ends the stream.
    failed: std::cell::RefCell<Option<Status>>,
    /// Wakes the writer.
    work: LocalEvent,
}

pub(super) async fn serve(api: Rc<Api>, call: Call) {
    let require_leader = call.head.get(REQUIRE_LEADER) == Some(b"true");
    if require_leader && !has_leader(&api).await {
        return call.reply.finish(Err(ApiError::NoLeader.into()));
    }
    let key = api.fanout.borrow_mut().open_stream();
    let stream = Rc::new(Stream {
        key,
        room: LocalEvent::new(),
        failed: Default::default(),
        work: LocalEvent::new(),
    });
    api.writers.borrow_mut().insert(key, stream.work.clone());
    runtime::spawn(read(api.clone(), stream.clone(), call.messages));
    write(&api, &stream, call.reply).await;
    api.writers.borrow_mut().remove(&key);
    api.fanout.borrow_mut().close_stream(key);
    stream.room.notify();
    api.after_fanout();
}

async fn has_leader(api: &Api) -> bool {
    matches!(
        api.ask(Ask::Health).await,
        Ok(Answer::Health {
            has_leader: true,
            ..
        })
    )
}

/// Takes the client's requests, one after the other, each when the one before has taken effect. A
/// client that closes its direction keeps its watchers, as with etcd.
async fn read(api: Rc<Api>, stream: Rc<Stream>, mut messages: Messages) {
    loop {
        while !api.fanout.borrow().takes_requests(stream.key) {
            if !api.writers.borrow().contains_key(&stream.key) {
                return;
            }
            stream.room.wait().await;
        }
        let request = match messages.next().await {
            Ok(Some(body)) => decode::<WatchRequest>(&body),
            Ok(None) => return,
            Err(status) => Err(status),
        };
        match request {
            Ok(request) => on_request(&api, stream.key, request),
            Err(status) => {
                *stream.failed.borrow_mut() = Some(status);
                stream.work.notify();
                return;
            }
        }
    }
}

fn on_request(api: &Api, stream: StreamKey, request: WatchRequest) {
    {
        let mut fanout = api.fanout.borrow_mut();
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                fanout.request_create(stream, WatchSpec::from(create));
            }
            Some(RequestUnion::CancelRequest(cancel)) => fanout.cancel(stream, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => fanout.request_progress(stream),
            None => {}
        }
    }
    api.after_fanout();
}

async fn write(api: &Api, stream: &Stream, mut reply: Replies) {
    loop {
        loop {
            let response = api.fanout.borrow_mut().take_response(stream.key);
            let Some(response) = response else { break };
            api.flush_asks();
            if reply.send_raw(response).await.is_err() {
                return;
            }
            stream.room.notify();
        }
        if let Some(status) = stream.failed.borrow_mut().take() {
            return reply.finish(Err(status));
        }
        let work = async {
            stream.work.wait().await;
            None
        };
        let closed = async { Some(reply.closed().await) };
        match or(work, closed).await {
            None => {}
            Some(Closed::Gone) => return,
            Some(Closed::Stopping) => return reply.finish(Err(ApiError::Stopped.into())),
        }
    }
}
