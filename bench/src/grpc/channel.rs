//! Typed calls, one after the other, for set-up and checks.

use std::net::SocketAddr;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::failure::Failure;
use super::requests::Rpc;
use super::session::{Event, Session};
use super::streams::Delivery;

const READ_BYTES: usize = 64 << 10;

/// One connection.
pub struct Channel {
    socket: TcpStream,
    session: Session,
    received: Vec<u8>,
}

impl Channel {
    /// Connects; HTTP/2 begins with the first call.
    pub async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            session: Session::new(address.to_string()),
            received: Vec::with_capacity(READ_BYTES),
        })
    }

    /// Sends one request and waits for its one answer. Of no further use if the future is dropped.
    pub async fn call<Answer: Message + Default>(
        &mut self,
        rpc: Rpc,
        request: &impl Message,
    ) -> Result<Answer, Failure> {
        if !self.session.is_usable() {
            return Err(Failure::Transport("the connection is closed".to_owned()));
        }
        self.session.call(rpc, 0, Delivery::Unary, |out| {
            request.encode(out).expect("the buffer grows as needed");
        });
        let mut message = None;
        let mut end = None;
        while end.is_none() {
            let out = self.session.out();
            self.socket.write_all(out).await?;
            out.clear();
            if self.socket.read_buf(&mut self.received).await? == 0 {
                return Err(Failure::Transport("closed by the server".to_owned()));
            }
            let used = self
                .session
                .on_bytes(&self.received, |_, event| match event {
                    Event::Message(bytes) => message = Some(Answer::decode(bytes)),
                    Event::Piece { .. } => unreachable!("unary messages come whole"),
                    Event::End(outcome) => end = Some(outcome),
                })?;
            self.received.drain(..used);
        }
        end.expect("the loop ends with it")?;
        match message {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(Failure::Answer("not the expected message")),
        }
    }
}
