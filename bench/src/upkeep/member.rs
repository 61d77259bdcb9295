//! One member on a fresh data directory: filled, asked, looked at from outside.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use keelson_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse, RangeRequest,
    RangeResponse, WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
};

use crate::grpc::{Channel, Failure, Rpc};
use crate::load::{WatchAnswer, key_range, read_watch};
use crate::procfs::Usage;
use crate::report::spinner;
use crate::scrape;
use crate::server::{Home, Launch, Server};
use crate::settle::settled;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What the log takes at most, with its spare segments.
const LOG_BYTES: u64 = 3 << 29;

/// A running member that nobody else uses.
pub struct Member {
    /// Before the home, so that the process ends before its folder goes.
    server: Server,
    home: Home,
    name: String,
    version: String,
}

impl Member {
    /// Starts a member with room for all that is written.
    pub async fn start(launch: &Launch, parent: &Path) -> Result<Self> {
        let home = Home::create(parent)?;
        let mut server = launch.without_quota().start(&home)?;
        server.ready(READY_TIMEOUT).await?;
        let version = scrape::version(server.address()).await?;
        Ok(Self {
            server,
            home,
            name: launch.name.clone(),
            version,
        })
    }

    /// What the server is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that it tells.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What the process has used so far.
    pub fn usage(&mut self) -> Result<Usage> {
        self.server.usage()
    }

    /// Lets the peak of its memory begin anew. False if that is not possible.
    pub fn reset_peak(&self) -> bool {
        self.server.reset_peak()
    }

    /// Sum of the lengths of its files.
    pub fn data_bytes(&self) -> Result<u64> {
        self.home.data_bytes()
    }

    /// Waits until it writes nothing more.
    pub async fn settle(&mut self) -> Result<Usage> {
        let bar = spinner(format!("{} comes to rest", self.name));
        let usage = settled(|| self.server.usage()).await;
        bar.finish_and_clear();
        usage
    }

    /// Stops it in order; its files go.
    pub async fn stop(self) -> Result<()> {
        self.server.stop().await
    }
}

/// Fails if a folder's disk has no room for so many bytes of snapshots, and for the log.
pub fn ensure_room(folder: &Path, bytes: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot look at the disk of {}", folder.display()))?;
    let (free_bytes, needed_bytes) = (disk.f_bavail * disk.f_frsize, bytes + LOG_BYTES);
    ensure!(
        free_bytes >= needed_bytes,
        "{} MiB of disk are needed in {}, and {} are free",
        needed_bytes >> 20,
        folder.display(),
        free_bytes >> 20
    );
    Ok(())
}

/// How many keys of jobs there are, and the revision.
pub async fn contents(address: SocketAddr) -> Result<(i64, i64)> {
    let mut channel = Channel::connect(address).await?;
    let (key, range_end) = key_range();
    let request = RangeRequest {
        key,
        range_end,
        count_only: true,
        ..Default::default()
    };
    let answer: RangeResponse = channel.call(Rpc::Range, &request).await?;
    let revision = answer.header.map_or(0, |header| header.revision);
    Ok((answer.count, revision))
}

/// Compacts up to a revision and waits until it is done on the disk. Seconds.
pub async fn compact(address: SocketAddr, revision: i64) -> Result<f64> {
    let mut channel = Channel::connect(address).await?;
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    let begun = Instant::now();
    let _: CompactionResponse = channel
        .call(Rpc::Compact, &request)
        .await
        .with_context(|| format!("cannot compact to revision {revision}"))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Defragments, which makes Keelson write a checkpoint. Seconds.
pub async fn defragment(address: SocketAddr) -> Result<f64> {
    let mut channel = Channel::connect(address).await?;
    let begun = Instant::now();
    let _: DefragmentResponse = channel
        .call(Rpc::Defragment, &DefragmentRequest {})
        .await
        .context("cannot defragment")?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Watches all keys of jobs from a revision until so many events have come. Bytes of the answers.
pub async fn watch_history(
    address: SocketAddr,
    start_revision: i64,
    event_count: u64,
    mut tell: impl FnMut(u64),
) -> Result<u64> {
    let mut channel = Channel::connect(address).await?;
    let (key, range_end) = key_range();
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let (mut seen, mut bytes) = (0, 0);
    let events = channel.stream(Rpc::Watch, &request, |message| {
        bytes += message.len() as u64;
        match read_watch(message, |_| seen += 1) {
            Ok(WatchAnswer::Created | WatchAnswer::Events) => {}
            Ok(WatchAnswer::Canceled) => {
                return Err(Failure::Answer("the server canceled the watch"));
            }
            Err(_) => return Err(Failure::Answer("not a WatchResponse")),
        }
        tell(seen);
        Ok(seen >= event_count)
    });
    events.await?;
    Ok(bytes)
}
