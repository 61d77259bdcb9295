//! What a server tells of itself: its plain HTTP pages `/metrics` and `/version`, and what it serves.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use keelson_proto::etcdserverpb::{RangeRequest, RangeStreamResponse};

use crate::grpc::{Channel, Failure, Rpc};

/// Flushes of the log; Keelson keeps etcd's name.
const LOG_FLUSHES: &str = "etcd_disk_wal_fsync_duration_seconds_count";
/// Commits of etcd's second database, each of which ends with a flush. Keelson has no such file.
const DATABASE_FLUSHES: &str = "etcd_disk_backend_commit_duration_seconds_count";
/// Only Keelson has it.
const KEELSON_GROUPS: &str = "keelson_wal_groups_total";

/// Flushes since the start; None if the server does not tell.
pub async fn flush_count(address: SocketAddr) -> Option<f64> {
    flushes(&get(address, "/metrics").await.ok()?)
}

fn flushes(page: &str) -> Option<f64> {
    let log = sample(page, LOG_FLUSHES)?;
    let database = match sample(page, KEELSON_GROUPS) {
        Some(_) => 0.0,
        None => sample(page, DATABASE_FLUSHES).unwrap_or(0.0),
    };
    Some(log + database)
}

/// Checkpoints that were made since the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checkpoints {
    pub count: f64,
    pub bytes: f64,
    pub seconds: f64,
}

/// What a server made of checkpoints; None if it makes none, as etcd.
pub async fn checkpoints(address: SocketAddr) -> Result<Option<Checkpoints>> {
    Ok(checkpoints_of(&get(address, "/metrics").await?))
}

fn checkpoints_of(page: &str) -> Option<Checkpoints> {
    Some(Checkpoints {
        count: sample(page, "keelson_checkpoint_total")?,
        bytes: sample(page, "keelson_checkpoint_bytes_total")?,
        seconds: sample(page, "keelson_checkpoint_duration_seconds_sum")?,
    })
}

/// The server version that `/version` tells.
pub async fn version(address: SocketAddr) -> Result<String> {
    let page = get(address, "/version").await?;
    let version: serde_json::Value = serde_json::from_str(&page).context("/version is no JSON")?;
    let text = version["etcdserver"]
        .as_str()
        .context("/version names no etcdserver")?;
    Ok(text.to_owned())
}

/// Whether the server knows RangeStream, which etcd 3.5 does not.
pub async fn serves_range_stream(address: SocketAddr) -> Result<bool> {
    let mut channel = Channel::connect(address).await?;
    let request = RangeRequest {
        key: "ready".into(),
        ..Default::default()
    };
    match channel
        .call::<RangeStreamResponse>(Rpc::RangeStream, &request)
        .await
    {
        Err(Failure::Status {
            code: Code::Unimplemented,
            ..
        }) => Ok(false),
        Err(failure) => Err(failure.into()),
        Ok(_) => Ok(true),
    }
}

/// One page by HTTP/1.0, whose body ends with the connection.
async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    socket.read_to_string(&mut page).await?;
    let (head, body) = page.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{path} answered {status}");
    }
    Ok(body.to_owned())
}

/// The sum of the samples of one metric, whatever their labels.
fn sample(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.split_once('}') {
            Some((labels, value)) => labels.starts_with('{').then_some(value)?,
            None => rest.strip_prefix(' ')?,
        };
        value.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels_and_names_match_whole() {
        let page =
            "# TYPE a_count counter\na_count 3\na_count_more 9\nb{x=\"1\"} 2\nb{x=\"2\"} 4e1\n";
        assert_eq!(sample(page, "a_count"), Some(3.0));
        assert_eq!(sample(page, "b"), Some(42.0));
        assert_eq!(sample(page, "c"), None);
    }

    #[test]
    fn only_who_makes_checkpoints_tells_of_them() {
        let page = "keelson_checkpoint_total 2\nkeelson_checkpoint_bytes_total 100\n\
                    keelson_checkpoint_duration_seconds_sum 0.5\n";
        let expected = Checkpoints {
            count: 2.0,
            bytes: 100.0,
            seconds: 0.5,
        };
        assert_eq!(checkpoints_of(page), Some(expected));
        assert_eq!(checkpoints_of("etcd_server_version 1\n"), None);
    }

    #[test]
    fn etcd_flushes_two_files_and_keelson_one() {
        let page = format!("{LOG_FLUSHES} 10\n{DATABASE_FLUSHES} 3\n");
        assert_eq!(flushes(&page), Some(13.0));
        assert_eq!(flushes(&format!("{page}{KEELSON_GROUPS} 10\n")), Some(10.0));
        assert_eq!(flushes("up 1\n"), None);
    }
}
