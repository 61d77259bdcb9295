//! Clients in the world: what they ask, whom, and what they make of answers and silence.

use keelson_proto::ApiError;
use keelson_server::engine::message::{Answer, Ask, Token};

use crate::check::{Call, Op, Outcome, Reply};
use crate::client::{Came, Kind, Pending, ask_of, come, draw};
use crate::member::CORES;
use crate::world::World;

impl World {
    /// Has every client act whose time has come.
    pub(crate) fn act_clients(&mut self) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            match &client.pending {
                Some(pending) if pending.deadline_us <= self.now_us => self.give_up(index),
                None if !self.is_quiet && client.next_us <= self.now_us => self.invoke(index),
                _ => {}
            }
        }
    }

    fn invoke(&mut self, index: usize) {
        if matches!(self.clients[index].kind, Kind::Operator) {
            return self.operate(index);
        }
        let number = self.history.ops.len();
        let kind = &self.clients[index].kind;
        let call = draw(
            kind,
            number,
            &self.history.log,
            &self.options,
            &mut self.dice,
        );
        self.send(index, call);
    }

    /// Sends an operation to the client's member, or to any.
    pub(crate) fn send(&mut self, index: usize, call: Call) {
        let place = match self.clients[index].home {
            Some(home) => self.members.iter().position(|member| member.id == home),
            None => Some(self.dice.index(self.members.len())),
        };
        let pause_us = 1 + self.dice.below(self.options.pause_us);
        self.clients[index].next_us = self.now_us + pause_us;
        let Some(place) = place else {
            self.clients[index].home = None;
            return;
        };
        let member = &mut self.members[place];
        let Some(running) = &mut member.running else {
            return;
        };
        if let Call::LeaseRevoke { id } = &call {
            self.lease_terms.remove(id);
        }
        self.next_token += 1;
        let token = Token(self.next_token);
        let port = self.dice.index(CORES);
        running.ask(port, token, ask_of(&call), self.now_us);
        let patience_us = match self.is_calm {
            true => 20_000_000,
            false => self.dice.between(300_000, 6_000_000),
        };
        self.tokens.insert(token.0, index);
        self.clients[index].pending = Some(Pending {
            op: self.history.ops.len(),
            token,
            member: member.id,
            port,
            deadline_us: self.now_us + patience_us,
            half: None,
        });
        let id = member.id;
        self.trace.event(
            self.now_us,
            format_args!("client {index} asks {id}: {call:?}"),
        );
        self.history.ops.push(Op {
            client: index as u32,
            member: id.0,
            invoked_us: self.now_us,
            returned_us: None,
            call,
            outcome: Outcome::Unknown,
        });
    }

    /// Nobody will ever know.
    pub(crate) fn give_up(&mut self, index: usize) {
        if let Some(pending) = self.clients[index].pending.take() {
            self.tokens.remove(&pending.token.0);
            self.trace.count("request of unknown fate");
            self.trace
                .event(self.now_us, format_args!("client {index} gives up"));
        }
    }

    /// A member answers.
    pub(crate) fn on_reply(
        &mut self,
        place: usize,
        token: Token,
        answer: Result<Answer, ApiError>,
    ) {
        let Some(index) = self.tokens.remove(&token.0) else {
            return;
        };
        let Some(mut pending) = self.clients[index].pending.take() else {
            return;
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let outcome = outcome_of(error);
                return self.conclude(index, &pending, outcome);
            }
        };
        match come(pending.half.take(), answer) {
            Came::Whole(reply) => self.conclude(index, &pending, Outcome::Done(reply)),
            Came::Needs(half, records) => {
                self.trace.count("answer from the disk");
                pending.half = Some(half);
                let load = match ask_of(&self.history.ops[pending.op].call) {
                    Ask::Write { .. } => Ask::LoadWritten(records),
                    _ => Ask::Load(records),
                };
                if let Some(running) = &mut self.members[place].running {
                    running.ask(pending.port, token, load, self.now_us);
                }
                self.tokens.insert(token.0, index);
                self.clients[index].pending = Some(pending);
            }
        }
    }

    fn conclude(&mut self, index: usize, pending: &Pending, outcome: Outcome) {
        self.trace.event(
            self.now_us,
            format_args!("client {index} hears {outcome:?}"),
        );
        let op = &mut self.history.ops[pending.op];
        op.returned_us = Some(self.now_us);
        if let Kind::Leases(leases) = &mut self.clients[index].kind {
            match (&op.call, &outcome) {
                (Call::LeaseGrant { id, ttl_seconds }, Outcome::Done(_)) => {
                    leases.push((*id, *ttl_seconds));
                }
                (Call::LeaseRevoke { id }, _)
                | (Call::KeepAlive { id }, Outcome::Done(Reply::KeepAlive { ttl_seconds: 0 })) => {
                    leases.retain(|(held, _)| held != id);
                }
                (Call::Put(put), Outcome::Failed(_)) if put.lease != 0 => {
                    leases.retain(|(held, _)| *held != put.lease);
                }
                _ => {}
            }
        }
        op.outcome = outcome;
    }

    /// Whoever waits for a member that is gone learns that it is.
    pub(crate) fn drop_connections(&mut self, place: usize) {
        let id = self.members[place].id;
        self.drop_company(id);
        for index in 0..self.clients.len() {
            let waits = self.clients[index].pending.as_ref();
            if waits.is_some_and(|pending| pending.member == id) {
                self.give_up(index);
            }
        }
    }
}

/// Whether an error leaves the fate of a request open.
fn outcome_of(error: ApiError) -> Outcome {
    match error {
        ApiError::Timeout
        | ApiError::TimeoutDueToLeaderFail
        | ApiError::TimeoutDueToConnectionLost
        | ApiError::TimeoutWaitAppliedIndex => Outcome::Unknown,
        ApiError::Compacted => Outcome::Compacted,
        error => Outcome::Failed(error.message().to_owned()),
    }
}
