//! Typed calls, one after the other, for set-up and checks; and a stream that is read to a certain point.

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
            self.exchange(|event| match event {
                Event::Message(bytes) => message = Some(Answer::decode(bytes)),
                Event::Piece { .. } => unreachable!("unary messages come whole"),
                Event::End(outcome) => end = Some(outcome),
            })
            .await?;
        }
        end.expect("the loop ends with it")?;
        match message {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(Failure::Answer("not the expected message")),
        }
    }

    /// Opens a stream with one request and takes its messages until `is_last` says so of one. The
    /// stream stays open as long as the connection; nothing else is to be called on it.
    pub async fn stream(
        &mut self,
        rpc: Rpc,
        request: &impl Message,
        mut is_last: impl FnMut(&[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let stream = self.session.open(rpc, 0);
        self.session.send(stream, |out| {
            request.encode(out).expect("the buffer grows as needed");
        });
        let mut outcome = Ok(false);
        while let Ok(false) = outcome {
            self.exchange(|event| {
                // What comes behind the last message, or behind a failure, is of no interest.
                if let Ok(false) = outcome {
                    outcome = match event {
                        Event::Message(bytes) => is_last(bytes),
                        Event::Piece { .. } => unreachable!("whole messages were asked for"),
                        Event::End(Ok(())) => Err(Failure::Answer("the server ended the stream")),
                        Event::End(Err(failure)) => Err(failure),
                    };
                }
            })
            .await?;
        }
        outcome.map(drop)
    }

    /// Writes what waits, reads once, and hands on what that means.
    async fn exchange(&mut self, mut on_event: impl FnMut(Event<'_>)) -> Result<(), Failure> {
        let out = self.session.out();
        self.socket.write_all(out).await?;
        out.clear();
        if self.socket.read_buf(&mut self.received).await? == 0 {
            return Err(Failure::Transport("closed by the server".to_owned()));
        }
        let used = self
            .session
            .on_bytes(&self.received, |_, event| on_event(event))?;
        self.received.drain(..used);
        Ok(())
    }
}
