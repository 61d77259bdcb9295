//! One watch stream: requests in at any time, responses out in the order the server sent them.
//!
//! A server may keep back its response headers until it has a first message, so the call is made
//! by a task of its own; nothing here waits for it.

use std::time::Duration;

use futures_util::stream;
use keelson_proto::etcdserverpb::watch_client::WatchClient;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use keelson_proto::mvccpb::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::wait::DEADLINE;

/// A watch stream; dropping it resets the stream.
#[derive(Debug)]
pub struct WatchSession {
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    reader: JoinHandle<()>,
    responses: mpsc::UnboundedReceiver<Result<WatchResponse, Status>>,
}

impl WatchSession {
    /// Opens a stream with these metadata entries.
    pub fn open(mut client: WatchClient<Channel>, metadata: &[(&'static str, &str)]) -> Self {
        let (requests, outbox) = mpsc::unbounded_channel();
        let (inbox, responses) = mpsc::unbounded_channel();
        let outgoing = stream::unfold(outbox, |mut outbox| async {
            let next: Option<WatchRequest> = outbox.recv().await;
            next.map(|request| (request, outbox))
        });
        let mut request = Request::new(outgoing);
        for (name, value) in metadata {
            let value = value.parse().expect("metadata values are ASCII");
            request.metadata_mut().insert(*name, value);
        }
        let reader = tokio::spawn(async move {
            let mut incoming = match client.watch(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    // Nobody listens any more only when the test has ended.
                    let _ = inbox.send(Err(status));
                    return;
                }
            };
            loop {
                let item = match incoming.message().await {
                    Ok(Some(response)) => Ok(response),
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let last = item.is_err();
                if inbox.send(item).is_err() || last {
                    return;
                }
            }
        });
        WatchSession {
            requests: Some(requests),
            reader,
            responses,
        }
    }

    /// Asks for a watch.
    pub fn create(&self, request: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(request));
    }

    /// Asks for a watch to end.
    pub fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    /// Asks how far the stream is.
    pub fn request_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    /// The next response; panics if the stream ends or nothing comes.
    pub async fn next(&mut self) -> WatchResponse {
        match self.next_item().await {
            Some(Ok(response)) => response,
            Some(Err(status)) => panic!("the watch stream failed: {status:?}"),
            None => panic!("the watch stream ended"),
        }
    }

    /// The next response, the failure that ends the stream, or `None` at its end.
    pub async fn next_item(&mut self) -> Option<Result<WatchResponse, Status>> {
        tokio::time::timeout(DEADLINE, self.responses.recv())
            .await
            .expect("a watch response was due")
    }

    /// The next response if one comes within `patience`.
    pub async fn next_within(&mut self, patience: Duration) -> Option<WatchResponse> {
        match tokio::time::timeout(patience, self.responses.recv()).await {
            Ok(Some(Ok(response))) => Some(response),
            Ok(Some(Err(status))) => panic!("the watch stream failed: {status:?}"),
            Ok(None) => panic!("the watch stream ended"),
            Err(_) => None,
        }
    }

    /// Asks for a watch and takes its `created` answer.
    pub async fn created(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.create(request);
        let response = self.next().await;
        assert!(
            response.created,
            "want the created answer, got {response:?}"
        );
        assert!(response.events.is_empty(), "no event before created");
        response
    }

    /// Events of watch `watch_id` until `count` have come; fails on any other kind of response.
    pub async fn events(&mut self, watch_id: i64, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert_eq!(response.watch_id, watch_id, "in {response:?}");
            assert!(!response.created && !response.canceled, "in {response:?}");
            assert!(!response.events.is_empty(), "in {response:?}");
            events.extend(response.events);
        }
        assert_eq!(events.len(), count, "too many events: {events:?}");
        events
    }

    /// Asks for progress, again every 100 ms as kube-apiserver does, until it is answered.
    pub async fn progress(&mut self) -> WatchResponse {
        let start = std::time::Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "no answer to progress requests");
            self.request_progress();
            if let Some(response) = self.next_within(Duration::from_millis(100)).await {
                return response;
            }
        }
    }

    /// Ends the request side of the stream; responses go on.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    fn send(&self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        let requests = self.requests.as_ref().expect("the request side is open");
        requests
            .send(request)
            .expect("the watch stream still takes requests");
    }
}

impl Drop for WatchSession {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
