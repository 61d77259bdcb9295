//! The lease that Event objects are attached to.
//!
//! kube-apiserver does not grant a lease for each of them: one serves a thousand objects or a short
//! while, and lives that much longer.

use super::super::clock::SECOND;
use super::super::wire::{number_field, put_number};
use crate::grpc::{Delivery, Event, Failure, Rpc, Session};

/// The token of the grants.
pub const GRANT_TOKEN: u32 = (1 << 31) - 1;
/// As kube-apiserver's lease manager has them: objects on a lease, and how long it is used, at most
/// and as a part of the TTL.
const OBJECTS_MAX: u32 = 1_000;
const USE_MAX: u64 = 60 * SECOND;
const USE_PART: u64 = 20;
/// Field numbers of LeaseGrantRequest and LeaseGrantResponse.
const GRANT_TTL: u32 = 1;
const GRANTED_ID: u32 = 2;

/// The present lease, and the next one while it is on its way.
#[derive(Debug)]
pub struct EventLease {
    ttl: u64,
    id: u64,
    granted: u64,
    objects: u32,
    is_asked_for: bool,
    failure: Option<Failure>,
}

impl EventLease {
    /// Leases for objects that live so many nanoseconds.
    pub fn new(ttl: u64) -> Self {
        Self {
            ttl,
            id: 0,
            granted: 0,
            objects: 0,
            is_asked_for: false,
            failure: None,
        }
    }

    /// The lease for one more object. Asks for a new one when the present one has served enough.
    pub fn take(&mut self, session: &mut Session, now: u64) -> u64 {
        self.objects += 1;
        let is_used_up = self.objects > OBJECTS_MAX || now >= self.granted + self.use_time();
        if (self.id == 0 || is_used_up) && !self.is_asked_for {
            self.is_asked_for = true;
            let seconds = (self.ttl + self.use_time()).div_ceil(SECOND);
            session.call(Rpc::LeaseGrant, GRANT_TOKEN, Delivery::Unary, |out| {
                put_number(out, GRANT_TTL, seconds);
            });
        }
        self.id
    }

    /// Whether there is one.
    pub fn is_ready(&self) -> Result<bool, Failure> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.id != 0),
        }
    }

    /// Takes what came for the grant. An error is to be counted.
    pub fn on_event(&mut self, event: Event<'_>, now: u64) -> Result<(), Failure> {
        let failure = match event {
            Event::Message(message) => match number_field(message, GRANTED_ID) {
                Ok(id @ 1..) => {
                    (self.id, self.granted, self.objects) = (id, now, 0);
                    return Ok(());
                }
                _ => Failure::Answer("no lease"),
            },
            Event::Piece { .. } => unreachable!("whole messages were asked for"),
            Event::End(outcome) => {
                self.is_asked_for = false;
                match outcome {
                    Ok(()) => return Ok(()),
                    Err(failure) => failure,
                }
            }
        };
        self.failure = Some(failure.clone());
        Err(failure)
    }

    fn use_time(&self) -> u64 {
        USE_MAX.min(self.ttl / USE_PART)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_serves_many_objects_and_then_another_is_asked_for() {
        let mut session = Session::new("localhost:1".to_owned());
        let mut lease = EventLease::new(3_600 * SECOND);
        let asked = |session: &mut Session| std::mem::take(session.out()).len() > 60;
        assert_eq!(lease.take(&mut session, 0), 0);
        assert!(asked(&mut session) && !lease.is_ready().unwrap());
        lease.on_event(Event::Message(&[0x10, 9]), SECOND).unwrap();
        lease.on_event(Event::End(Ok(())), SECOND).unwrap();
        for _ in 0..OBJECTS_MAX {
            assert_eq!(lease.take(&mut session, 2 * SECOND), 9);
        }
        assert!(session.out().is_empty());
        assert_eq!(
            lease.take(&mut session, 2 * SECOND),
            9,
            "until the next is there"
        );
        assert!(!session.out().is_empty());
        session.out().clear();
        lease.take(&mut session, 2 * SECOND);
        assert!(session.out().is_empty(), "one is on its way");
        lease
            .on_event(Event::Message(&[0x10, 10]), 3 * SECOND)
            .unwrap();
        lease.on_event(Event::End(Ok(())), 3 * SECOND).unwrap();
        assert_eq!(lease.take(&mut session, 62 * SECOND), 10);
        assert!(session.out().is_empty());
        lease.take(&mut session, 63 * SECOND);
        assert!(!session.out().is_empty(), "it has served for a minute");
        assert!(lease.on_event(Event::Message(&[]), 0).is_err());
    }
}
