//! gRPC by hand on an HTTP/2 connection, for what a well-behaved client library would never send.

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// One HTTP/2 connection; dropping it closes the connection.
#[derive(Debug)]
pub struct RawConnection {
    send: SendRequest<Bytes>,
    authority: String,
    driver: JoinHandle<()>,
}

/// What came back for one request.
#[derive(Debug)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// `grpc-status`, from the trailers or from headers that end the stream.
    pub code: Option<i32>,
    /// `grpc-message`.
    pub message: String,
    /// The body, with gRPC's frame headers.
    pub body: Vec<u8>,
}

impl RawConnection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> RawConnection {
        let stream = TcpStream::connect(address)
            .await
            .expect("the server accepts");
        let (send, connection): (_, Connection<TcpStream, Bytes>) = h2::client::handshake(stream)
            .await
            .expect("the server speaks HTTP/2");
        let driver = tokio::spawn(async move {
            // How a connection ends is seen by its requests.
            let _ = connection.await;
        });
        RawConnection {
            send,
            authority: address.to_owned(),
            driver,
        }
    }

    /// `open` for a future that keeps its address.
    pub async fn open_owned(address: String) -> RawConnection {
        RawConnection::open(&address).await
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// POSTs `frames` to `path` as gRPC.
    pub async fn call(&self, path: &str, frames: Vec<u8>) -> Result<RawAnswer, h2::Error> {
        self.call_as(path, "application/grpc", frames).await
    }

    /// POSTs with another content type.
    pub async fn call_as(
        &self,
        path: &str,
        content_type: &str,
        frames: Vec<u8>,
    ) -> Result<RawAnswer, h2::Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", content_type)
            .header("te", "trailers")
            .body(())
            .expect("the request is well formed");
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, false)?;
        // A server may answer and reset the stream before it has read all.
        let _ = stream.send_data(Bytes::from(frames), true);
        let (head, mut body) = response.await?.into_parts();
        let mut answer = RawAnswer {
            status: head.status.as_u16(),
            code: None,
            message: String::new(),
            body: Vec::new(),
        };
        answer.read_status(&head.headers);
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            answer.body.extend_from_slice(&chunk);
        }
        if let Some(trailers) = body.trailers().await? {
            answer.read_status(&trailers);
        }
        Ok(answer)
    }
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl RawAnswer {
    fn read_status(&mut self, headers: &http::HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(code) = text("grpc-status") {
            self.code = code.parse().ok();
            self.message = text("grpc-message").unwrap_or_default().to_owned();
        }
    }
}

/// A gRPC frame: flag, length, message.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("test messages are small");
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame
}
