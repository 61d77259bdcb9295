//! `etcdserverpb.Cluster`: who the members are, and changes of that.
//!
//! Checked here is what needs no state: that a member has URLs by which it can be reached. The engine of the
//! leader checks whether a change is safe, and the state, when it applies it, whether it makes sense.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use keelson_consensus::bootstrap;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use keelson_storage::state::{Member, MemberAdd, Request, Response};
use tonic::Status;

use super::{Api, decode};
use crate::config::HttpUrl;
use crate::engine::message::{Answer, Ask};

pub(super) async fn member_list(api: &Rc<Api>, body: Bytes) -> Result<MemberListResponse, Status> {
    let request: MemberListRequest = decode(&body)?;
    let ask = Ask::Members {
        linearizable: request.linearizable,
    };
    let Answer::Members(mut header, members) = api.ask(ask).await? else {
        unreachable!("a member list is answered with members");
    };
    // etcd tells no revision here.
    header.revision = 0;
    Ok(MemberListResponse {
        header: Some(header),
        members,
    })
}

/// The new member's id is chosen here and travels with the command, as the time does that makes it unique.
pub(super) async fn member_add(api: &Rc<Api>, body: Bytes) -> Result<MemberAddResponse, Status> {
    let request: MemberAddRequest = decode(&body)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_seconds = since_epoch.map_or(0, |since| since.as_secs());
    let peer_urls = check_urls(&request.peer_ur_ls)?;
    let add = Request::MemberAdd(MemberAdd {
        member: Some(Member {
            id: bootstrap::added_member_id(&peer_urls, unix_seconds).0,
            peer_urls,
            is_learner: request.is_learner,
            ..Member::default()
        }),
        learners_max: api.config.learners_max,
    });
    let body = add.encode_body();
    match api.write(add, body).await? {
        Response::MemberAdd(response) => Ok(response),
        other => unreachable!("a new member is answered with its response, not {other:?}"),
    }
}

pub(super) async fn member_remove(
    api: &Rc<Api>,
    body: Bytes,
) -> Result<MemberRemoveResponse, Status> {
    let request: MemberRemoveRequest = decode(&body)?;
    match api.write(Request::MemberRemove(request), body).await? {
        Response::MemberRemove(response) => Ok(response),
        other => unreachable!("a removal is answered with its response, not {other:?}"),
    }
}

pub(super) async fn member_update(
    api: &Rc<Api>,
    body: Bytes,
) -> Result<MemberUpdateResponse, Status> {
    let request: MemberUpdateRequest = decode(&body)?;
    check_urls(&request.peer_ur_ls)?;
    match api.write(Request::MemberUpdate(request), body).await? {
        Response::MemberUpdate(response) => Ok(response),
        other => unreachable!("an update is answered with its response, not {other:?}"),
    }
}

pub(super) async fn member_promote(
    api: &Rc<Api>,
    body: Bytes,
) -> Result<MemberPromoteResponse, Status> {
    let request: MemberPromoteRequest = decode(&body)?;
    match api.write(Request::MemberPromote(request), body).await? {
        Response::MemberPromote(response) => Ok(response),
        other => unreachable!("a promotion is answered with its response, not {other:?}"),
    }
}

/// The URLs in order, if there are any and each is one that this version can reach. A slash at the end is a path
/// to etcd.
fn check_urls(urls: &[String]) -> Result<Vec<String>, ApiError> {
    let check = |url: &String| {
        let parsed = HttpUrl::parse(url).ok();
        let is_plain = !url.trim_end().ends_with('/');
        parsed.filter(|_| is_plain).ok_or(ApiError::MemberBadUrls)
    };
    let mut checked = urls.iter().map(check).collect::<Result<Vec<_>, _>>()?;
    if checked.is_empty() {
        return Err(ApiError::MemberBadUrls);
    }
    checked.sort();
    Ok(checked.iter().map(HttpUrl::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_put_in_order_and_odd_ones_refused_as_in_etcd() {
        let check = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            check_urls(&urls)
        };
        assert_eq!(
            check(&["http://b:1", " http://a:2"]),
            Ok(vec!["http://a:2".to_owned(), "http://b:1".to_owned()])
        );
        for odd in [
            &[][..],
            &[""],
            &["a:1"],
            &["http://127.0.0.1"],
            &["http://127.0.0.1:1/"],
            &["http://127.0.0.1:1/x"],
            &["ftp://127.0.0.1:1"],
            &["http://a:1", "b"],
        ] {
            assert_eq!(check(odd), Err(ApiError::MemberBadUrls), "{odd:?}");
        }
    }
}
