//! `grpc.health.v1.Health`: the member as a whole, under the empty service name.

use std::rc::Rc;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::health::health_check_response::ServingStatus;
use keelson_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::Status;

use super::{Api, decode};
use crate::front::{Call, Closed};

pub(super) async fn check(_: &Rc<Api>, body: Bytes) -> Result<HealthCheckResponse, Status> {
    let request: HealthCheckRequest = decode(&body)?;
    if request.service.is_empty() {
        Ok(serving())
    } else {
        Err(Status::not_found("unknown service"))
    }
}

/// A member that answers at all is serving, and stays so until it ends the stream by going away.
pub(super) async fn watch(mut call: Call) {
    let request = match call.messages.unary().await {
        Ok(body) => decode::<HealthCheckRequest>(&body),
        Err(status) => Err(status),
    };
    let response = match request {
        Ok(request) if request.service.is_empty() => serving(),
        Ok(_) => HealthCheckResponse {
            status: ServingStatus::ServiceUnknown as i32,
        },
        Err(status) => return call.reply.finish(Err(status)),
    };
    if call.reply.send(&response).await.is_err() {
        return;
    }
    if call.reply.closed().await == Closed::Stopping {
        call.reply.finish(Err(ApiError::Stopped.into()));
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    }
}
