//! The connections of one worker and the epoll descriptor that watches them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::clock::SECOND;
use crate::grpc::{Event, Failure, Session};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One read(2) takes so much at most; it fits the second-level cache.
const READ_BYTES: usize = 256 << 10;
/// What is left of a read is less than a frame, with its head.
const REST_BYTES_MAX: usize = (16 << 10) + 16;
/// Written bytes that stand in front of those that are still to be written.
const WRITTEN_BYTES_MAX: usize = 1 << 20;

/// The connections of one worker.
pub struct Net {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
    /// What one read brings, behind the rest of the last one of that connection.
    buffer: Vec<u8>,
}

/// One connection.
struct Connection {
    socket: TcpStream,
    session: Session,
    /// Read, but less than a frame.
    rest: Vec<u8>,
    /// How much of the session's bytes the socket has taken.
    written_bytes: usize,
    /// The socket takes no more until it says so.
    is_blocked: bool,
    /// epoll tells when it does again.
    is_watched_for_room: bool,
    is_lost: bool,
}

impl Net {
    /// Connects to each address.
    pub fn connect(addresses: &[SocketAddr]) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let mut connections = Vec::new();
        for (at, address) in addresses.iter().enumerate() {
            let socket = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            epoll::add(
                &epoll,
                &socket,
                EventData::new_u64(at as u64),
                EventFlags::IN,
            )
            .map_err(std::io::Error::from)?;
            connections.push(Connection {
                socket,
                session: Session::new(address.to_string()),
                rest: Vec::new(),
                written_bytes: 0,
                is_blocked: false,
                is_watched_for_room: false,
                is_lost: false,
            });
        }
        let events = Vec::with_capacity(connections.len().max(1));
        Ok(Self {
            epoll,
            connections,
            events,
            buffer: vec![0; REST_BYTES_MAX + READ_BYTES],
        })
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// A connection's session; which one of a row that goes round all connections.
    pub fn session(&mut self, at: usize) -> &mut Session {
        let at = at % self.connections.len();
        &mut self.connections[at].session
    }

    /// False if no new call may begin there.
    pub fn is_usable(&self, at: usize) -> bool {
        let connection = &self.connections[at % self.connections.len()];
        !connection.is_lost && connection.session.is_usable()
    }

    /// Waits until something has arrived or so many nanoseconds have passed.
    pub fn wait(&mut self, timeout: u64) -> Result<(), Failure> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout / SECOND).unwrap_or(i64::MAX),
            tv_nsec: (timeout % SECOND) as _,
        };
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(std::io::Error::from(error).into()),
        }
    }

    /// Reads once from each connection that has something, and hands on what it means. `now` is
    /// asked after each read.
    pub fn read(
        &mut self,
        mut now: impl FnMut() -> u64,
        mut on_event: impl FnMut(u64, u32, Event<'_>),
    ) {
        for event in &self.events {
            let at = event.data.u64() as usize;
            let connection = &mut self.connections[at];
            let flags = event.flags;
            if flags.contains(EventFlags::OUT) {
                connection.is_blocked = false;
            }
            let read = connection.read(&mut self.buffer, &mut now, &mut on_event);
            if let Err(failure) = read {
                let time = now();
                connection.lose(&self.epoll, &failure, |token, event| {
                    on_event(time, token, event)
                });
            }
        }
    }

    /// Writes what has gathered, once for each connection.
    pub fn write(&mut self, now: u64, mut on_event: impl FnMut(u64, u32, Event<'_>)) {
        for (at, connection) in self.connections.iter_mut().enumerate() {
            if connection.session.out().is_empty() || connection.is_blocked || connection.is_lost {
                continue;
            }
            if let Err(failure) = connection.write(&self.epoll, at) {
                connection.lose(&self.epoll, &failure, |token, event| {
                    on_event(now, token, event)
                });
            }
        }
    }
}

impl Connection {
    fn read(
        &mut self,
        buffer: &mut [u8],
        now: &mut impl FnMut() -> u64,
        on_event: &mut impl FnMut(u64, u32, Event<'_>),
    ) -> Result<(), Failure> {
        let rest_bytes = self.rest.len();
        buffer[..rest_bytes].copy_from_slice(&self.rest);
        let read_bytes = match self.socket.read(&mut buffer[rest_bytes..]) {
            Ok(0) => return Err(Failure::Transport("closed by the server".to_owned())),
            Ok(bytes) => bytes,
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let time = now();
        let bytes = &buffer[..rest_bytes + read_bytes];
        let used = self
            .session
            .on_bytes(bytes, |token, event| on_event(time, token, event))?;
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[used..]);
        Ok(())
    }

    /// Writes as much as the socket takes in one call.
    fn write(&mut self, epoll: &OwnedFd, at: usize) -> Result<(), Failure> {
        let out = self.session.out();
        match self.socket.write(&out[self.written_bytes..]) {
            Ok(bytes) => self.written_bytes += bytes,
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let is_all = self.written_bytes == out.len();
        if is_all || self.written_bytes > WRITTEN_BYTES_MAX {
            out.drain(..self.written_bytes);
            self.written_bytes = 0;
        }
        self.is_blocked = !is_all;
        if is_all == self.is_watched_for_room {
            self.is_watched_for_room = !is_all;
            let room = if is_all {
                EventFlags::empty()
            } else {
                EventFlags::OUT
            };
            let data = EventData::new_u64(at as u64);
            epoll::modify(epoll, &self.socket, data, EventFlags::IN | room)
                .map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    /// Ends all calls on it and forgets the socket.
    fn lose(&mut self, epoll: &OwnedFd, failure: &Failure, on_event: impl FnMut(u32, Event<'_>)) {
        if self.is_lost {
            return;
        }
        self.is_lost = true;
        // The descriptor is open and was added, so this cannot fail; if it did, an event of a lost
        // connection would do no harm.
        let _ = epoll::delete(epoll, &self.socket);
        self.session.fail_all(failure, on_event);
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
