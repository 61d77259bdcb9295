//! The members of a shard's group follow those of `main`.
//!
//! ```text
//!   leads?  --no-->  next look
//!     | yes
//!   own members, then main's (linearizable)  -->  one change that is missing  -->  the shard's log
//! ```
//!
//! Every change of `main` is monotonic: an id that was removed never comes back, and a voter never becomes a learner. The own
//! list is read first, so whoever is on it and not on `main`'s was removed there: its removal is right whenever it is
//! applied. An addition, a promotion or new URLs that are out of date by then are refused, or followed by the next look's. So it does not
//! matter who else proposed what meanwhile, and no order between leaders is needed.

use std::rc::Rc;
use std::time::Duration;

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    Member as Listed, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};
use keelson_storage::state::{Member, MemberAdd, Request};

use super::Api;
use crate::engine::message::{Answer, Ask};
use crate::runtime;

/// How often a shard's leader looks at `main`'s members.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Has the members of this shard's group follow `main`'s while the leader is here. Ends at once for `main` itself.
pub async fn follow_main(api: Rc<Api>) {
    let Some(main) = api.main.clone() else {
        return;
    };
    let mut said = None;
    while !api.core.stopping().is_set() {
        runtime::sleep(LOOK_INTERVAL).await;
        // Nobody leads, or an answer is late: the next look comes.
        let Ok(changes) = missing_changes(&api, &main).await else {
            continue;
        };
        let refused = propose_one(&api, changes).await;
        if let Some(error) = refused.filter(|_| said != refused) {
            tracing::warn!(
                error = error.message(),
                "the members of a shard do not follow main's yet; trying on"
            );
        }
        said = refused;
    }
}

/// What the shard's group lacks to be like `main`'s. Nothing where another member leads it.
async fn missing_changes(api: &Api, main: &Api) -> Result<Vec<Request>, ApiError> {
    let Answer::Status(status) = api.ask(Ask::Status).await? else {
        unreachable!("a status is answered with a status");
    };
    if status.leader != api.config.member_id {
        return Ok(Vec::new());
    }
    let learners_max = api.config.learners_max;
    let own = members(api, false).await?;
    let seen = members(main, false).await?;
    if changes(&own, &seen, learners_max).is_empty() {
        return Ok(Vec::new());
    }
    Ok(changes(&own, &members(main, true).await?, learners_max))
}

/// One at a time: the group takes the next when the last one is applied. One that is refused, because it is not safe yet,
/// does not keep the others back; the last refusal, if none was taken.
async fn propose_one(api: &Api, changes: Vec<Request>) -> Option<ApiError> {
    let mut refused = None;
    for change in changes {
        let body = change.encode_body();
        match api.write(change, body).await {
            Ok(_) => return None,
            Err(error) => refused = Some(error),
        }
    }
    refused
}

async fn members(api: &Api, linearizable: bool) -> Result<Vec<Listed>, ApiError> {
    match api.ask(Ask::Members { linearizable }).await? {
        Answer::Members(_, members) => Ok(members),
        other => unreachable!("a member list is answered with members, not {other:?}"),
    }
}

/// The commands that make `own` like `main`: who comes before who leaves. A group without members is one that is not
/// founded yet, and tells nothing; even a linearizable list of `main` can be that.
#[must_use]
pub fn changes(own: &[Listed], main: &[Listed], learners_max: u32) -> Vec<Request> {
    if own.is_empty() || main.is_empty() {
        return Vec::new();
    }
    let in_own = |id: u64| own.iter().find(|member| member.id == id);
    let mut changes = Vec::new();
    for member in main {
        let Some(known) = in_own(member.id) else {
            changes.push(Request::MemberAdd(MemberAdd {
                member: Some(Member {
                    id: member.id,
                    peer_urls: member.peer_ur_ls.clone(),
                    is_learner: member.is_learner,
                    ..Member::default()
                }),
                learners_max,
            }));
            continue;
        };
        if known.is_learner && !member.is_learner {
            let promote = MemberPromoteRequest { id: member.id };
            changes.push(Request::MemberPromote(promote));
        }
        if known.peer_ur_ls != member.peer_ur_ls {
            changes.push(Request::MemberUpdate(MemberUpdateRequest {
                id: member.id,
                peer_ur_ls: member.peer_ur_ls.clone(),
            }));
        }
    }
    let is_gone = |id: u64| main.iter().all(|member| member.id != id);
    let gone = own.iter().filter(|member| is_gone(member.id));
    changes.extend(gone.map(|member| Request::MemberRemove(MemberRemoveRequest { id: member.id })));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, is_learner: bool) -> Listed {
        Listed {
            id,
            peer_ur_ls: vec![format!("http://m{id}:2380")],
            is_learner,
            ..Listed::default()
        }
    }

    #[test]
    fn a_group_is_made_like_main_and_then_left_alone() {
        let main = [member(1, false), member(2, false), member(4, true)];
        let mut moved = member(1, false);
        moved.peer_ur_ls = vec!["http://old:2380".to_owned()];
        let own = [moved, member(2, true), member(3, false)];
        let changes = changes(&own, &main, 1);
        let shown: Vec<_> = changes.iter().map(|change| format!("{change:?}")).collect();
        assert_eq!(changes.len(), 4, "{shown:?}");
        assert!(matches!(&changes[0], Request::MemberUpdate(update) if update.id == 1));
        assert!(matches!(&changes[1], Request::MemberPromote(promote) if promote.id == 2));
        assert!(
            matches!(&changes[2], Request::MemberAdd(add) if add.member.as_ref().is_some_and(|member| member.id == 4 && member.is_learner))
        );
        assert!(matches!(&changes[3], Request::MemberRemove(remove) if remove.id == 3));
        assert_eq!(super::changes(&main, &main, 1), []);
        // Names and client URLs are each shard's own.
        let mut named = main.clone();
        named[0].name = "other".to_owned();
        assert_eq!(super::changes(&named, &main, 1), []);
    }

    #[test]
    fn a_group_that_is_not_founded_yet_changes_nothing() {
        let founded = [member(1, false), member(2, false)];
        assert_eq!(changes(&founded, &[], 1), []);
        assert_eq!(changes(&[], &founded, 1), []);
    }
}
