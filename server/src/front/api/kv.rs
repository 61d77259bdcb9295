//! `etcdserverpb.KV`: ranges, puts, deletes, transactions, compaction.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use keelson_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, TxnRequest, TxnResponse, range_request,
};
use keelson_storage::state::{
    Request, Response, is_read_only, validate_delete_range, validate_put, validate_range,
    validate_txn,
};
use tonic::Status;

use super::range_response::RangeResponse;
use super::{Api, decode, learner};
use crate::engine::message::{Answer, Ask};
use crate::front::Call;

pub(super) async fn range(api: &Rc<Api>, mut call: Call) {
    let selected = match call.messages.unary().await {
        Ok(body) => select(api, &body).await,
        Err(status) => Err(status),
    };
    match selected {
        Ok(response) => {
            if let Some(slices) = response.send(api, call.reply) {
                slices.await;
            }
        }
        Err(status) => call.reply.finish(Err(status)),
    }
}

pub(super) async fn range_stream(api: &Rc<Api>, mut call: Call) {
    let selected = match call.messages.unary().await {
        Ok(body) => match streamable(&body) {
            Ok(()) => select(api, &body).await,
            Err(status) => Err(status),
        },
        Err(status) => Err(status),
    };
    match selected {
        Ok(response) => {
            response
                .stream(api, call.reply, api.config.request_bytes_max)
                .await;
        }
        Err(status) => call.reply.finish(Err(status)),
    }
}

async fn select(api: &Api, body: &Bytes) -> Result<RangeResponse, Status> {
    let request: RangeRequest = decode(body)?;
    learner::admits_range(api, &request)?;
    validate_range(&request)?;
    let began = Instant::now();
    let answer = api.ask_without_limit(Ask::Range(request)).await;
    api.metrics.server.range[usize::from(answer.is_ok())].observe_duration(began.elapsed());
    match answer? {
        Answer::Range(header, selection) => Ok(RangeResponse::new(header, selection)),
        other => unreachable!("a range is answered with a selection, not {other:?}"),
    }
}

/// What a streamed range cannot do, in etcd's words.
fn streamable(body: &Bytes) -> Result<(), Status> {
    let request: RangeRequest = decode(body)?;
    let custom_sort = request.sort_order != range_request::SortOrder::None as i32
        || request.sort_target != range_request::SortTarget::Key as i32;
    if custom_sort {
        return Err(Status::unimplemented(
            "RangeStream does not support custom sort orders",
        ));
    }
    let filtered = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filtered.iter().any(|bound| *bound != 0) {
        return Err(Status::unimplemented(
            "RangeStream does not support revision filters",
        ));
    }
    Ok(())
}

pub(super) async fn put(api: &Rc<Api>, body: Bytes) -> Result<PutResponse, Status> {
    let request: PutRequest = decode(&body)?;
    validate_put(&request)?;
    match api.write(Request::Put(request), body).await? {
        Response::Put(response) => Ok(response),
        other => unreachable!("a put is answered with its response, not {other:?}"),
    }
}

pub(super) async fn delete_range(
    api: &Rc<Api>,
    body: Bytes,
) -> Result<DeleteRangeResponse, Status> {
    let request: DeleteRangeRequest = decode(&body)?;
    validate_delete_range(&request)?;
    match api.write(Request::DeleteRange(request), body).await? {
        Response::DeleteRange(response) => Ok(response),
        other => unreachable!("a delete is answered with its response, not {other:?}"),
    }
}

pub(super) async fn txn(api: &Rc<Api>, body: Bytes) -> Result<TxnResponse, Status> {
    let request: TxnRequest = decode(&body)?;
    validate_txn(&request, &api.config.limits)?;
    let done = if is_read_only(&request) {
        let answer = api.ask(Ask::ReadTxn(request)).await?;
        api.response(answer, Ask::Load).await?
    } else {
        api.write(Request::Txn(request), body).await?
    };
    match done {
        Response::Txn(response) => Ok(response),
        other => unreachable!("a txn is answered with its response, not {other:?}"),
    }
}

pub(super) async fn compact(api: &Rc<Api>, body: Bytes) -> Result<CompactionResponse, Status> {
    let request: CompactionRequest = decode(&body)?;
    let physical = request.physical;
    let ask = Ask::Write {
        request: Request::Compact(request),
        body,
    };
    let answer = if physical {
        api.ask_without_limit(ask).await?
    } else {
        api.ask(ask).await?
    };
    match api.response(answer, Ask::LoadWritten).await? {
        Response::Compact(response) => Ok(response),
        other => unreachable!("a compaction is answered with its response, not {other:?}"),
    }
}
