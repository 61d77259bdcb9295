//! `etcdserverpb.Cluster`, as far as one member goes.

use std::rc::Rc;

use keelson_proto::etcdserverpb::MemberListResponse;
use tonic::Status;

use super::Api;
use crate::engine::message::{Answer, Ask};

pub(super) async fn member_list(api: &Rc<Api>) -> Result<MemberListResponse, Status> {
    let Answer::Members(header, members) = api.ask(Ask::Members).await? else {
        unreachable!("a member list is answered with members");
    };
    Ok(MemberListResponse {
        header: Some(header),
        members,
    })
}
