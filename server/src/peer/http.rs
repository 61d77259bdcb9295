//! Plain HTTP on the peer port: who belongs to the cluster, as etcd's peer port tells a member that joins.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use keelson_storage::ids::ClusterId;
use keelson_storage::state::Member;
use serde_json::{Map, Value};

use super::limits::HTTP_CONNECTION_MAX;
use super::peers::Peers;
use crate::front::http::version_body;
use crate::front::{Http1Socket, RationedSocket, Traffic};
use crate::runtime::{Socket, timeout};

/// Names the cluster in every answer about it, in hexadecimal digits.
pub(super) const CLUSTER_HEADER: &str = "x-etcd-cluster-id";

/// Nobody counts these bytes.
struct Uncounted;

impl Traffic for Uncounted {
    fn received(&self, _count: usize) {}
    fn sent(&self, _count: usize) {}
}

/// Answers the requests of a connection, which began with these bytes.
pub(super) async fn serve(peers: &Peers, socket: Socket, begin: Bytes) {
    let socket = Rc::new(RationedSocket::new(socket, Rc::new(Uncounted)));
    socket.unread(begin);
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(peers, request.method(), request.uri().path());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let serving = http1::Builder::new().serve_connection(Http1Socket(socket.clone()), service);
    let mut serving = std::pin::pin!(serving);
    let rationed = std::future::poll_fn(|cx| {
        socket.begin_turn();
        std::future::Future::poll(serving.as_mut(), cx)
    });
    let stopped = async {
        peers.state().stopped.wait().await;
        Ok(())
    };
    // A client that breaks off, or is too slow, has nothing more to hear.
    let _ = timeout(
        HTTP_CONNECTION_MAX,
        futures_lite::future::or(rationed, stopped),
    )
    .await;
}

fn answer(peers: &Peers, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let body = match path {
        "/members" => members_body(peers.members().values()),
        "/version" => version_body(),
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    if method != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        let allowed = header::HeaderValue::from_static("GET");
        answer.headers_mut().insert(header::ALLOW, allowed);
        return answer;
    }
    let mut answer = Response::new(Full::from(body));
    let headers = answer.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    if path == "/members" {
        let cluster = cluster_text(peers.identity().cluster);
        let cluster = header::HeaderValue::from_str(&cluster).expect("hexadecimal digits");
        headers.insert(CLUSTER_HEADER, cluster);
    }
    answer
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

pub(super) fn cluster_text(cluster: ClusterId) -> String {
    format!("{:x}", cluster.0)
}

/// The members by id, as etcd writes them: what is empty or false is left out, but for the peer URLs.
fn members_body<'a>(members: impl Iterator<Item = &'a Member>) -> String {
    let rows = members.map(|member| {
        let mut row = Map::new();
        row.insert("id".to_owned(), member.id.into());
        row.insert("peerURLs".to_owned(), member.peer_urls.clone().into());
        if member.is_learner {
            row.insert("isLearner".to_owned(), true.into());
        }
        if !member.name.is_empty() {
            row.insert("name".to_owned(), member.name.clone().into());
        }
        if !member.client_urls.is_empty() {
            row.insert("clientURLs".to_owned(), member.client_urls.clone().into());
        }
        Value::Object(row)
    });
    let rows = Value::Array(rows.collect());
    format!("{rows}\n")
}

/// Reads what [`members_body`] or etcd wrote.
pub(super) fn read_members(body: &[u8]) -> Option<Vec<Member>> {
    let rows: Value = serde_json::from_slice(body).ok()?;
    let texts = |row: &Value, name: &str| -> Option<Vec<String>> {
        let Some(list) = row.get(name).filter(|list| !list.is_null()) else {
            return Some(Vec::new());
        };
        let texts = list.as_array()?.iter();
        texts.map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let rows = rows.as_array()?.iter();
    rows.map(|row| {
        Some(Member {
            id: row.get("id")?.as_u64().filter(|id| *id != 0)?,
            name: row
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            peer_urls: texts(row, "peerURLs")?,
            client_urls: texts(row, "clientURLs")?,
            is_learner: row
                .get("isLearner")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_etcd_writes_them_and_read_again() {
        let members = vec![
            Member {
                id: 1,
                name: "a".to_owned(),
                peer_urls: vec!["http://a:2380".to_owned()],
                client_urls: vec!["http://a:2379".to_owned()],
                is_learner: false,
            },
            Member {
                id: u64::MAX,
                peer_urls: vec!["http://b:2380".to_owned()],
                is_learner: true,
                ..Member::default()
            },
        ];
        let body = members_body(members.iter());
        let wanted: Value = serde_json::from_str(
            r#"[{"id":1,"peerURLs":["http://a:2380"],"name":"a","clientURLs":["http://a:2379"]},
                {"id":18446744073709551615,"peerURLs":["http://b:2380"],"isLearner":true}]"#,
        )
        .expect("it is JSON");
        let found: Value = serde_json::from_str(&body).expect("it is JSON");
        assert_eq!(found, wanted);
        assert_eq!(read_members(body.as_bytes()), Some(members));
        for wrong in [
            "",
            "{}",
            "[1]",
            r#"[{"id":0}]"#,
            r#"[{"id":1,"peerURLs":1}]"#,
        ] {
            assert_eq!(read_members(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
