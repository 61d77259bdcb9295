//! The plain HTTP pages of a server: `/metrics` and `/version`.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// etcd's counter of WAL flushes, which Keelson keeps too.
const FLUSH_COUNT: &str = "etcd_disk_wal_fsync_duration_seconds_count";

/// Flushes since the start; None if the server does not tell.
pub async fn flush_count(address: SocketAddr) -> Option<f64> {
    sample(&get(address, "/metrics").await.ok()?, FLUSH_COUNT)
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
}
