//! Alarms: which members raised which, and what an active one forbids.
//!
//! A NOSPACE alarm refuses whatever makes the store grow, a CORRUPT alarm refuses every change. Reads
//! that do not go through the log are never refused. The rule is applied to every command before it
//! is executed, on every member alike.

use std::collections::BTreeSet;

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

use crate::ids::MemberId;
use crate::snapshot::AlarmMeta;
use crate::state::command::Request;
use crate::state::txn::has_put;

/// The active alarms.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// (type, member) of each; a type this version does not know is kept and forbids nothing.
    active: BTreeSet<(i32, u64)>,
    nospace: bool,
    corrupt: bool,
}

impl Alarms {
    /// Executes an alarm request and returns the alarms of its answer.
    pub(crate) fn apply(&mut self, request: &AlarmRequest) -> Vec<AlarmMember> {
        let alarm = (request.alarm, request.member_id);
        let changed = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => return self.get(request.alarm),
            Ok(AlarmAction::Activate) => {
                let is_real = request.alarm != AlarmType::None as i32;
                if is_real {
                    self.active.insert(alarm);
                }
                is_real
            }
            Ok(AlarmAction::Deactivate) => self.active.remove(&alarm),
            Err(_) => false,
        };
        self.on_changed();
        if changed {
            vec![to_message(alarm)]
        } else {
            Vec::new()
        }
    }

    /// The alarms as a snapshot has them.
    pub(crate) fn restore(active: &[AlarmMeta]) -> Self {
        let active = active.iter().map(|alarm| (alarm.alarm, alarm.member.0));
        let mut alarms = Self {
            active: active.collect(),
            ..Self::default()
        };
        alarms.on_changed();
        alarms
    }

    /// What [`Alarms::restore`] is given.
    pub(crate) fn to_meta(&self) -> Vec<AlarmMeta> {
        let active = self.active.iter().copied();
        let to_meta = |(alarm, member)| AlarmMeta {
            alarm,
            member: MemberId(member),
        };
        active.map(to_meta).collect()
    }

    /// All active alarms, by type and member.
    pub(crate) fn all(&self) -> Vec<AlarmMember> {
        self.active.iter().copied().map(to_message).collect()
    }

    /// Refuses what an active alarm forbids.
    pub(crate) fn admit(&self, request: &Request) -> Result<(), ApiError> {
        if self.corrupt && changes_data(request) {
            return Err(ApiError::Corrupt);
        }
        if self.nospace && needs_space(request) {
            return Err(ApiError::NoSpace);
        }
        Ok(())
    }

    fn on_changed(&mut self) {
        self.nospace = !self.get(AlarmType::Nospace as i32).is_empty();
        self.corrupt = !self.get(AlarmType::Corrupt as i32).is_empty();
    }

    /// The active alarms of one type; of all types for NONE.
    fn get(&self, alarm: i32) -> Vec<AlarmMember> {
        if alarm == AlarmType::None as i32 {
            return self.all();
        }
        self.active
            .range((alarm, 0)..=(alarm, u64::MAX))
            .copied()
            .map(to_message)
            .collect()
    }
}

fn to_message((alarm, member_id): (i32, u64)) -> AlarmMember {
    AlarmMember { member_id, alarm }
}

fn needs_space(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::LeaseGrant(_) => true,
        Request::Txn(txn) => has_put(txn),
        _ => false,
    }
}

fn changes_data(request: &Request) -> bool {
    match request {
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseExpire(_) => true,
        Request::LeaseRenew(_)
        | Request::LeaseRenewMany(_)
        | Request::Alarm(_)
        | Request::Tick
        | Request::ClusterInit(_)
        | Request::MemberPublish(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_) => false,
    }
}
