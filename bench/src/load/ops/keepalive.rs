//! lease-keepalive: leases renewed over one stream a connection, as clientv3 does.
//!
//! Each place has a lease of its own. Answers carry the lease's id, and servers answer a stream in
//! order, so the answer nearly always is for the place that has waited longest.

use std::collections::VecDeque;

use super::super::flow::Start;
use super::super::net::Net;
use super::super::wire::{number_field, put_number};
use super::super::worker::{Shift, Workload};
use super::Share;
use crate::grpc::{Delivery, Event, Failure, Rpc};

/// Leases outlive any run.
const LEASE_TTL_SECONDS: u64 = 3_600;
/// Tokens of streams begin here; those below name a place.
const STREAM_TOKENS: u32 = 1 << 31;
/// Field numbers, in requests and answers.
const GRANT_TTL: u32 = 1;
const GRANTED_ID: u32 = 2;
const ALIVE_REQUEST_ID: u32 = 1;
const ALIVE_ID: u32 = 2;
const ALIVE_TTL: u32 = 3;

/// The workload that renews.
pub struct Keepalive {
    /// The lease of each place; 0 until it is granted.
    leases: Vec<u64>,
    ungranted: usize,
    /// One for each connection.
    streams: Vec<Stream>,
    failure: Option<Failure>,
}

struct Stream {
    id: u32,
    /// Places that wait for an answer, the longest first.
    waiting: VecDeque<u32>,
}

impl Keepalive {
    /// The leases of one worker.
    pub fn new(share: Share<'_>) -> Self {
        let places = share.job.iodepth as usize;
        Self {
            leases: vec![0; places],
            ungranted: places,
            streams: Vec::new(),
            failure: None,
        }
    }

    fn on_grant(&mut self, place: u32, event: Event<'_>) {
        match event {
            Event::Message(message) => match number_field(message, GRANTED_ID) {
                Ok(id @ 1..) => self.leases[place as usize] = id,
                _ => self.failure = Some(Failure::Answer("no lease")),
            },
            Event::Piece { .. } => unreachable!("whole messages were asked for"),
            Event::End(Ok(())) => self.ungranted -= 1,
            Event::End(Err(failure)) => self.failure = Some(failure),
        }
    }

    fn on_alive(&mut self, stream: usize, message: &[u8], shift: &mut Shift) {
        let waiting = &mut self.streams[stream].waiting;
        let id = number_field(message, ALIVE_ID);
        let is_for = |place: &u32| id == Ok(self.leases[*place as usize]);
        let place = match waiting.front() {
            Some(first) if is_for(first) => waiting.pop_front(),
            _ => match waiting.iter().position(is_for) {
                Some(at) => waiting.remove(at),
                None => None,
            },
        };
        let Some(place) = place else {
            let failure = Failure::Answer("an answer for no lease that was renewed");
            shift.tally.record_failure(&failure);
            return;
        };
        match number_field(message, ALIVE_TTL) {
            Ok(1..) => shift.complete(place, 0),
            _ => shift.fail(place, &Failure::Answer("the lease is gone")),
        }
    }
}

impl Workload for Keepalive {
    fn prepare(&mut self, net: &mut Net) {
        for connection in 0..net.len() {
            let token = STREAM_TOKENS + connection as u32;
            let id = net.session(connection).open(Rpc::LeaseKeepAlive, token);
            self.streams.push(Stream {
                id,
                waiting: VecDeque::new(),
            });
        }
        for place in 0..self.leases.len() {
            net.session(place)
                .call(Rpc::LeaseGrant, place as u32, Delivery::Unary, |out| {
                    put_number(out, GRANT_TTL, LEASE_TTL_SECONDS);
                });
        }
    }

    fn is_ready(&self) -> Result<bool, Failure> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.ungranted == 0),
        }
    }

    fn start(&mut self, start: Start, net: &mut Net, _shift: &mut Shift) {
        let place = start.place;
        let lease = self.leases[place as usize];
        let connection = place as usize % self.streams.len();
        let stream = &mut self.streams[connection];
        stream.waiting.push_back(place);
        net.session(connection).send(stream.id, |out| {
            put_number(out, ALIVE_REQUEST_ID, lease);
        });
    }

    fn go_on(&mut self, _place: u32, _net: &mut Net, _shift: &mut Shift) {
        unreachable!("a renewal is one request");
    }

    fn on_event(&mut self, token: u32, event: Event<'_>, shift: &mut Shift) {
        let Some(stream) = token.checked_sub(STREAM_TOKENS) else {
            self.on_grant(token, event);
            return;
        };
        let stream = stream as usize;
        match event {
            Event::Message(message) => self.on_alive(stream, message, shift),
            Event::Piece { .. } => unreachable!("whole messages were asked for"),
            Event::End(outcome) => {
                let ended = Failure::Transport("the server ended the stream".to_owned());
                let failure = outcome.err().unwrap_or(ended);
                self.failure = Some(failure.clone());
                for place in std::mem::take(&mut self.streams[stream].waiting) {
                    shift.fail(place, &failure);
                }
            }
        }
    }
}
