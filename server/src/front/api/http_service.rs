//! Health, version and metrics over HTTP/1.1: makes the reads that an answer needs, and sends it.

use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use keelson_proto::etcdserverpb::{AlarmType, RangeRequest};

use super::Api;
use crate::engine::message::{Answer, Ask};
use crate::front::http::{
    self as pages, HealthAlarm, HttpAnswer, HttpFacts, HttpRequest, Listener,
};
use crate::front::{HttpService, Role};
use crate::observe::ProcessFacts;

/// The HTTP/1.1 side of a core's handlers.
pub struct HttpApi(pub Rc<Api>);

impl HttpService for HttpApi {
    async fn handle(&self, request: Request<Bytes>) -> Response<Full<Bytes>> {
        let listener = match request.extensions().get::<Role>() {
            Some(Role::HttpOnly) => Listener::Metrics,
            _ => Listener::Client,
        };
        let asked = HttpRequest {
            listener,
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
        };
        let answer = self.answer(&asked).await;
        let unix_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        answer.verdict.record(&self.0.metrics, unix_ms);
        respond(answer, asked.method == "HEAD")
    }
}

impl HttpApi {
    async fn answer(&self, asked: &HttpRequest<'_>) -> HttpAnswer {
        let needs = pages::needs(asked);
        let mut facts = HttpFacts::healthy();
        let mut alarms = Vec::new();
        if needs.serializable || needs.linearizable {
            facts.has_leader = false;
            if let Ok(Answer::Health {
                has_leader,
                alarms: raised,
            }) = self.0.ask(Ask::Health).await
            {
                facts.has_leader = has_leader;
                alarms.extend(raised.iter().map(|raised| match raised.alarm() {
                    AlarmType::Nospace => HealthAlarm::NoSpace,
                    AlarmType::Corrupt => HealthAlarm::Corrupt,
                    AlarmType::None => HealthAlarm::Other,
                }));
            }
        }
        facts.alarms = &alarms;
        if needs.serializable {
            facts.serializable = self.probe(true).await;
        }
        if needs.linearizable {
            facts.linearizable = self.probe(false).await;
        }
        pages::answer(asked, &facts, || {
            self.0.registry.render(&ProcessFacts::read())
        })
    }

    /// A read of the smallest kind, as etcd's health check makes it.
    async fn probe(&self, serializable: bool) -> Result<(), String> {
        let request = RangeRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            limit: 1,
            serializable,
            keys_only: true,
            ..RangeRequest::default()
        };
        match self.0.ask(Ask::Range(request)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.message().to_owned()),
        }
    }
}

fn respond(answer: HttpAnswer, head_only: bool) -> Response<Full<Bytes>> {
    let mut headers = HeaderMap::new();
    for (name, value) in answer.headers {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let body = if head_only {
        Bytes::new()
    } else {
        Bytes::from(answer.body)
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}
