//! A gRPC client as thin as HTTP/2 allows: the `h2` crate and a five-byte prefix.
//!
//! The generator shares its CPU with the server it measures, so a request costs one clone of a
//! prepared header block and one of a prepared message, and an answer is looked at no further than
//! its status and its length. Each channel is one TCP connection; its driver is a task of the
//! local set that the caller runs in.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Version, header};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Code;

use crate::coalesce::{Socket, drive};

/// Compression flag (always 0 here) and length, in front of every message.
pub const PREFIX_BYTES: usize = 5;
/// Receive windows large enough to never hold a server back.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Longest answer taken; etcd itself sets no bound.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server answered with an error.
    #[error("{code:?}: {message}")]
    Status { code: Code, message: String },
    /// The connection or the stream broke.
    #[error("transport: {0}")]
    Transport(#[from] h2::Error),
    /// No connection could be made.
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The answer is not what the call must bring.
    #[error("unexpected answer: {0}")]
    Answer(&'static str),
}

impl Failure {
    /// The name under which the failure is counted.
    pub fn code(&self) -> String {
        match self {
            Self::Status { code, .. } => format!("{code:?}"),
            Self::Transport(_) | Self::Connect(_) => "Transport".to_owned(),
            Self::Answer(_) => "UnexpectedAnswer".to_owned(),
        }
    }

    /// True if the connection cannot be used any further.
    pub fn breaks_connection(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::Connect(_))
    }
}

/// One connection; clones share it.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest<Bytes>,
    address: SocketAddr,
}

/// The header block of one RPC, built once.
#[derive(Clone)]
pub struct Call(Request<()>);

impl Channel {
    /// Connects and starts the connection's driver on the current local set.
    pub async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = Socket::new(stream);
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(socket.clone())
            .await?;
        // An error of the connection reaches every stream that is open on it.
        tokio::task::spawn_local(drive(connection, socket));
        Ok(Self { send, address })
    }

    /// The header block for a path such as `/etcdserverpb.KV/Put`.
    pub fn prepare(&self, path: &str) -> Call {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .version(Version::HTTP_2)
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::USER_AGENT, "keelson-bench")
            .body(())
            .expect("the parts are constants and a socket address");
        Call(request)
    }

    /// Sends one framed message and returns the body of the one answer.
    pub async fn unary(&mut self, call: &Call, message: Bytes) -> Result<Bytes, Failure> {
        let (response, mut send) = self.begin(call).await?;
        send.send_data(message, true)?;
        let (head, mut body) = response.await?.into_parts();
        let answer = read_message(&mut body).await?;
        match answer {
            Some(answer) => {
                while let Some(rest) = body.data().await {
                    body.flow_control().release_capacity(rest?.len())?;
                }
                let trailers = body.trailers().await?;
                check_status(trailers.as_ref().unwrap_or(&head.headers))?;
                Ok(answer)
            }
            None => {
                let trailers = body.trailers().await?;
                check_status(trailers.as_ref().unwrap_or(&head.headers))?;
                Err(Failure::Answer("no message"))
            }
        }
    }

    /// A typed unary call, for set-up and checks.
    pub async fn call<Answer: Message + Default>(
        &mut self,
        path: &str,
        request: &impl Message,
    ) -> Result<Answer, Failure> {
        let call = self.prepare(path);
        let answer = self.unary(&call, frame(request)).await?;
        Answer::decode(answer).map_err(|_| Failure::Answer("not the expected message"))
    }

    /// Opens a stream that both sides write to.
    pub async fn open(&mut self, call: &Call) -> Result<Duplex, Failure> {
        let (response, send) = self.begin(call).await?;
        Ok(Duplex {
            send,
            receive: Receive::Waiting(response),
        })
    }

    async fn begin(&mut self, call: &Call) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        Ok(self.send.send_request(call.0.clone(), false)?)
    }
}

/// A stream of messages in both directions.
pub struct Duplex {
    send: SendStream<Bytes>,
    receive: Receive,
}

/// The answering half: servers send their headers with the first message, or before.
enum Receive {
    Waiting(ResponseFuture),
    Open(HeaderMap, RecvStream),
}

impl Duplex {
    /// Sends one framed message and waits for the next one of the server.
    pub async fn exchange(&mut self, message: Bytes) -> Result<Bytes, Failure> {
        self.send.send_data(message, false)?;
        if let Receive::Waiting(response) = &mut self.receive {
            let (head, body) = response.await?.into_parts();
            self.receive = Receive::Open(head.headers, body);
        }
        let Receive::Open(headers, body) = &mut self.receive else {
            unreachable!("the line above opened it");
        };
        if let Some(answer) = read_message(body).await? {
            return Ok(answer);
        }
        let trailers = body.trailers().await?;
        check_status(trailers.as_ref().unwrap_or(headers))?;
        Err(Failure::Answer("the server ended the stream"))
    }
}

/// A message with its prefix, ready to be sent.
pub fn frame(message: &impl Message) -> Bytes {
    let body_bytes = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + body_bytes);
    out.put_u8(0);
    out.put_u32(u32::try_from(body_bytes).expect("requests are far smaller than 4 GiB"));
    message
        .encode(&mut out)
        .expect("the buffer grows as needed");
    out.freeze()
}

/// Reads one message; None if the body ends before it. Answers in one DATA frame, the usual case,
/// are not copied.
async fn read_message(body: &mut RecvStream) -> Result<Option<Bytes>, Failure> {
    let mut gathered = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        if gathered.is_empty() && chunk.len() >= PREFIX_BYTES {
            let end = PREFIX_BYTES + message_bytes(&chunk)?;
            if chunk.len() == end {
                return Ok(Some(chunk.slice(PREFIX_BYTES..)));
            }
        }
        gathered.extend_from_slice(&chunk);
        if gathered.len() >= PREFIX_BYTES {
            let end = PREFIX_BYTES + message_bytes(&gathered)?;
            if gathered.len() > end {
                return Err(Failure::Answer("more than one message for one request"));
            }
            if gathered.len() == end {
                gathered.advance(PREFIX_BYTES);
                return Ok(Some(gathered.freeze()));
            }
        }
    }
    if gathered.is_empty() {
        Ok(None)
    } else {
        Err(Failure::Answer("half a message"))
    }
}

/// The length in a message's prefix.
fn message_bytes(prefix: &[u8]) -> Result<usize, Failure> {
    if prefix[0] != 0 {
        return Err(Failure::Answer("compressed without being asked to"));
    }
    let bytes = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if bytes > ANSWER_BYTES_MAX {
        Err(Failure::Answer("too long"))
    } else {
        Ok(bytes)
    }
}

/// The gRPC status in trailers, or in the headers of an answer without a body.
fn check_status(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(status) = headers.get("grpc-status") else {
        return Err(Failure::Answer("no grpc-status"));
    };
    if status.as_bytes() == b"0" {
        return Ok(());
    }
    let message = headers
        .get("grpc-message")
        .map(|text| text.as_bytes())
        .unwrap_or_default();
    Err(Failure::Status {
        code: Code::from_bytes(status.as_bytes()),
        message: String::from_utf8_lossy(message).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::PutRequest;

    use super::*;

    #[test]
    fn a_frame_carries_its_length() {
        let request = PutRequest {
            key: "k".into(),
            value: "value".into(),
            ..Default::default()
        };
        let framed = frame(&request);
        assert_eq!(framed[..PREFIX_BYTES], [0, 0, 0, 0, 10]);
        assert_eq!(message_bytes(&framed).unwrap(), 10);
        assert_eq!(
            PutRequest::decode(framed.slice(PREFIX_BYTES..)).unwrap(),
            request
        );
        assert!(message_bytes(&[1, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_status_is_a_code_and_a_message() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            check_status(&headers).unwrap_err().code(),
            "UnexpectedAnswer"
        );
        headers.insert("grpc-status", "0".parse().unwrap());
        assert!(check_status(&headers).is_ok());
        headers.insert("grpc-status", "8".parse().unwrap());
        headers.insert(
            "grpc-message",
            "etcdserver: mvcc: database space exceeded".parse().unwrap(),
        );
        let failure = check_status(&headers).unwrap_err();
        assert_eq!(failure.code(), "ResourceExhausted");
        assert!(failure.to_string().contains("space exceeded"));
        assert!(!failure.breaks_connection());
    }
}
