//! `etcdserverpb.Maintenance`, as far as one member goes.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use keelson_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentResponse, HashKvRequest, HashKvResponse, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, StatusResponse,
};
use keelson_storage::ids::MemberId;
use keelson_storage::mvcc::HashKvResult;
use keelson_storage::snapshot::ValueReader;
use keelson_storage::state::{Request, Response};
use tonic::Status;

use super::{Api, decode};
use crate::engine::message::{Answer, Ask};
use crate::runtime;

pub(super) async fn alarm(api: &Rc<Api>, body: Bytes) -> Result<AlarmResponse, Status> {
    let request: AlarmRequest = decode(&body)?;
    match api.write(Request::Alarm(request), body).await? {
        Response::Alarm(response) => Ok(response),
        other => unreachable!("an alarm is answered with its response, not {other:?}"),
    }
}

pub(super) async fn status(api: &Rc<Api>) -> Result<StatusResponse, Status> {
    match api.ask(Ask::Status).await? {
        Answer::Status(status) => Ok(*status),
        other => unreachable!("status is answered with the status, not {other:?}"),
    }
}

/// No page of the database is ever rewritten in place, so there is nothing to defragment. What a
/// compaction left behind goes with the next checkpoint, and files that are more than a little useless with
/// one that was asked for here: that is waited for.
pub(super) async fn defragment(api: &Rc<Api>) -> Result<DefragmentResponse, Status> {
    let (disk, began) = (&api.metrics.disk, Instant::now());
    disk.defrags_in_flight.add(1);
    let answer = api.ask_without_limit(Ask::Defragment).await;
    disk.defrags_in_flight.subtract(1);
    match answer? {
        Answer::Checkpointed(header) => Ok(DefragmentResponse {
            header: Some(header),
        })
        .inspect(|_| disk.backend_defrag.observe_duration(began.elapsed())),
        other => unreachable!("a checkpoint is answered when it is durable, not with {other:?}"),
    }
}

/// Hands the leadership of this endpoint's member to another voter.
pub(super) async fn move_leader(api: &Rc<Api>, body: Bytes) -> Result<MoveLeaderResponse, Status> {
    let request: MoveLeaderRequest = decode(&body)?;
    match api
        .ask(Ask::MoveLeader(MemberId(request.target_id)))
        .await?
    {
        Answer::LeaderMoved(header) => Ok(MoveLeaderResponse {
            header: Some(header),
        }),
        other => {
            unreachable!("a change of the leader is answered when it is done, not with {other:?}")
        }
    }
}

impl Api {
    /// Has a checkpoint made; what comes of it is in the log.
    pub async fn request_checkpoint(self: Rc<Self>) {
        match self.ask_without_limit(Ask::Checkpoint).await {
            Ok(_) => tracing::info!("the checkpoint that was asked for by a signal is durable"),
            Err(error) => tracing::error!(%error, "no checkpoint was made"),
        }
    }

    /// A value of the newest snapshot is damaged: has that found by the engine, which has it mended where others can.
    pub(super) async fn find_damage(self: Rc<Self>) {
        if let Err(error) = self.ask_without_limit(Ask::Rebuild).await {
            tracing::error!(%error, "the damage is still there");
        }
    }
}

/// The hash of everything the store holds, at its newest revision.
pub(super) async fn hash(api: &Rc<Api>) -> Result<HashResponse, Status> {
    let (header, result) = hash_at(api, 0).await?;
    Ok(HashResponse {
        header: Some(header),
        hash: result.hash,
    })
}

pub(super) async fn hash_kv(api: &Rc<Api>, body: Bytes) -> Result<HashKvResponse, Status> {
    let request: HashKvRequest = decode(&body)?;
    let (header, result) = hash_at(api, request.revision).await?;
    Ok(HashKvResponse {
        header: Some(header),
        hash: result.hash,
        compact_revision: result.compact_revision.0,
        hash_revision: result.hash_revision.0,
    })
}

/// Gathers the records on the engine's core and hashes them on a helper thread.
async fn hash_at(
    api: &Rc<Api>,
    revision: i64,
) -> Result<(keelson_proto::etcdserverpb::ResponseHeader, HashKvResult), Status> {
    let began = Instant::now();
    let Answer::Hash(header, scan) = api.ask_without_limit(Ask::Hash { revision }).await? else {
        unreachable!("a hash is answered with the records to hash");
    };
    let mut reader = ValueReader::default();
    let hash = move || scan.finish(|snapshot, place| reader.read(snapshot, place));
    let result = runtime::spawn_blocking(hash)
        .await
        .map_err(|error| Status::unavailable(format!("no thread to hash on: {error}")))?
        .map_err(|error| Status::data_loss(error.to_string()))?;
    api.metrics
        .mvcc
        .hash_revision
        .observe_duration(began.elapsed());
    Ok((header, result))
}
