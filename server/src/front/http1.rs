//! An HTTP/1.1 connection: health, version and metrics, by hyper.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::connection::{Connection, Order, Phase};
use super::limits::{HEADER_LIST_BYTES_MAX, HTTP1_BODY_BYTES_MAX};
use super::socket::{Http1Socket, Socket};

/// Answers plain HTTP requests, as one object per core.
pub trait HttpService: 'static {
    /// Answers one request. The body has been read whole; the extensions hold the [`Role`](super::Role) of the port.
    fn handle(&self, request: Request<Bytes>) -> impl Future<Output = Response<Full<Bytes>>>;
}

/// Serves the connection until it ends.
pub(super) async fn serve<H: HttpService>(
    http: &Rc<H>,
    connection: &Rc<Connection>,
    socket: Socket<Connection>,
) -> hyper::Result<()> {
    let socket = Rc::new(socket);
    let budget = socket.clone();
    connection.enter(Phase::Http1Idle);
    let service = service_fn(|request| {
        let (http, connection) = (http.clone(), connection.clone());
        async move {
            connection.enter(Phase::Http1Busy);
            let response = match read_body(request).await {
                Ok(mut request) => {
                    request.extensions_mut().insert(connection.role);
                    http.handle(request).await
                }
                Err(refusal) => refusal,
            };
            connection.enter(Phase::Http1Idle);
            Ok::<_, Infallible>(response)
        }
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .max_buf_size(HEADER_LIST_BYTES_MAX as usize)
            .serve_connection(Http1Socket(socket), service)
    );
    poll_fn(|cx| {
        budget.begin_turn();
        while connection.poke().poll_wait(cx).is_ready() {
            match connection.take_order() {
                Some(Order::Close) => return Poll::Ready(Ok(())),
                Some(Order::Drain) => serving.as_mut().graceful_shutdown(),
                Some(Order::Ping) | None => {}
            }
        }
        serving.as_mut().poll(cx)
    })
    .await
}

/// Reads the whole body; a body that is too long or breaks off gets its answer here.
async fn read_body(request: Request<Incoming>) -> Result<Request<Bytes>, Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    match Limited::new(body, HTTP1_BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(Request::from_parts(head, body.to_bytes())),
        Err(error) => {
            let mut refusal = Response::new(Full::default());
            *refusal.status_mut() = match error.downcast_ref::<LengthLimitError>() {
                Some(_) => StatusCode::PAYLOAD_TOO_LARGE,
                None => StatusCode::BAD_REQUEST,
            };
            Err(refusal)
        }
    }
}
