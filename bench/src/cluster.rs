//! One to several members of one kind, started together, measured as one, stopped together.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::procfs::Usage;
use crate::server::{Home, Launch, Peers, Server};

/// The running members of one cluster, on fresh data directories.
pub struct Cluster {
    /// Before the homes, so that processes end before their folders go.
    members: Vec<Server>,
    homes: Vec<Home>,
}

impl Cluster {
    /// Starts all members in folders of their own inside `parent`.
    pub fn start(launch: &Launch, parent: &Path, members_count: u32) -> Result<Self> {
        let homes: Result<Vec<Home>> = (0..members_count).map(|_| Home::create(parent)).collect();
        let mut cluster = Self {
            members: Vec::new(),
            homes: homes?,
        };
        let peers = Peers::of(&cluster.homes);
        for home in &cluster.homes {
            cluster.members.push(launch.start_as(home, &peers)?);
        }
        Ok(cluster)
    }

    /// Waits until each member answers a linearizable Range.
    pub async fn ready(&mut self, timeout: Duration) -> Result<()> {
        for member in &mut self.members {
            member.ready(timeout).await?;
        }
        Ok(())
    }

    /// Where clients connect.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Server::address).collect()
    }

    /// What all members have used so far; an error if one is gone.
    pub fn usage(&mut self) -> Result<Usage> {
        let mut sum = Usage::default();
        for member in &mut self.members {
            sum = sum + member.usage()?;
        }
        Ok(sum)
    }

    /// Lets the peaks of memory begin anew. False if that is not possible.
    pub fn reset_peaks(&self) -> bool {
        self.members.iter().all(Server::reset_peak)
    }

    /// Stops all members in order and waits until each has ended well.
    pub async fn stop(self) -> Result<()> {
        for member in self.members {
            member.stop().await?;
        }
        // Here, so that no folder goes while a member still writes to it.
        drop(self.homes);
        Ok(())
    }
}
