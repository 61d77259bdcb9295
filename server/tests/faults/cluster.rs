//! Three members, the network between them, and an operator who looks after them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType, Client, MemberAddOptions};

use crate::disk::Disk;
use crate::load::connect;
use crate::member::Member;
use crate::network::Network;
use crate::ports::free_port;
use crate::proxy;
use crate::switch::Switch;

/// How many members a cluster has.
pub const MEMBERS: usize = 3;
/// How long anything may take that must happen in the end. It says nothing about speed.
const DEADLINE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the operator waits for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What members stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Nothing between them.
    Direct,
    /// One network and one disk; proxies between them.
    Proxies,
    /// Each a network namespace, and a disk of its own that can be full.
    Namespaces,
}

impl Ground {
    /// What the environment asks for, or else the best there is.
    pub fn of_environment() -> Ground {
        let wanted = std::env::var("KEELSON_FAULTS_NET");
        match wanted.as_deref() {
            Ok("proxies") => return Ground::Proxies,
            Ok("namespaces") => return Ground::Namespaces,
            Ok(other) => panic!("KEELSON_FAULTS_NET is {other:?}, want proxies or namespaces"),
            Err(_) => {}
        }
        match Switch::lay(&Network::default()) {
            Ok(_) => Ground::Namespaces,
            Err(why) => {
                println!("with proxies, and without full disks: {why}");
                Ground::Proxies
            }
        }
    }
}

/// A cluster of real processes.
pub struct Cluster {
    /// The members, by place.
    pub members: Vec<Member>,
    /// Between them.
    pub network: Network,
    /// What the members keep and print.
    pub folder: PathBuf,
    /// By place, if members have disks of their own.
    pub disks: Vec<Disk>,
    switch: Option<Switch>,
}

impl Cluster {
    /// Starts a cluster whose members get these flags beside the usual ones, and waits until it serves.
    pub async fn start(name: &str, ground: Ground, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            members: Vec::new(),
            network: Network::default(),
            folder: folder(name),
            disks: Vec::new(),
            switch: None,
        };
        if ground == Ground::Namespaces {
            Disk::sweep(&rounds());
            let laid = Switch::lay(&cluster.network);
            cluster.switch = Some(laid.unwrap_or_else(|why| panic!("no namespaces: {why}")));
        }
        for index in 0..MEMBERS {
            let member = cluster.member(index, ground).await;
            cluster.members.push(member);
        }
        let founders = cluster.initial_cluster();
        for member in &mut cluster.members {
            member.founding.0.clone_from(&founders);
            let flags = flags.iter().map(|flag| (*flag).to_owned());
            member.flags.extend(flags);
            member.start();
        }
        cluster.all_healthy().await;
        cluster.learn_ids().await;
        cluster
    }

    async fn member(&mut self, index: usize, ground: Ground) -> Member {
        let address = match &self.switch {
            Some(switch) => switch.member_address(index),
            None => "127.0.0.1".to_owned(),
        };
        let (client, peer) = (free_port(), free_port());
        let peer_listen = format!("{address}:{peer}");
        let mut peer_url = format!("http://{peer_listen}");
        if ground == Ground::Proxies {
            let proxied = free_port();
            proxy::serve(proxied, peer_listen.clone(), index, self.network.clone()).await;
            peer_url = format!("http://127.0.0.1:{proxied}");
        }
        let folder = self.folder.join(format!("n{index}"));
        let mut member = Member {
            name: format!("n{index}"),
            client_address: format!("{address}:{client}"),
            peer_listen,
            peer_url,
            data_dir: folder.join("data"),
            folder,
            wrapper: Vec::new(),
            flags: Vec::new(),
            founding: (String::new(), "new"),
            child: None,
        };
        if let Some(switch) = &self.switch {
            member.wrapper = switch.wrapper(index);
            let disk = Disk::mount(&member.folder);
            self.disks
                .push(disk.unwrap_or_else(|why| panic!("no disk that can be full: {why}")));
            member.data_dir = member.folder.join("disk/data");
            // A full disk is noticed when the next segment is made.
            let segment_bytes = 2 << 20;
            member.flags = vec![format!("--wal-segment-bytes={segment_bytes}")];
        }
        member
    }

    fn initial_cluster(&self) -> String {
        let pairs = self.members.iter();
        let pairs = pairs.map(|member| format!("{}={}", member.name, member.peer_url));
        pairs.collect::<Vec<_>>().join(",")
    }

    /// Where clients reach the members, by place.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// A client of one member.
    pub async fn client(&self, index: usize) -> Option<Client> {
        connect(&self.members[index].endpoint()).await.ok()
    }

    /// Waits until every member says that it is well. None may end by itself.
    pub async fn all_healthy(&mut self) {
        let start = Instant::now();
        loop {
            let mut healthy = 0;
            for member in &mut self.members {
                if let Some(status) = member.has_exited() {
                    panic!("{} ended by itself with {status}", member.name);
                }
                healthy += usize::from(member.is_healthy().await);
            }
            if healthy == MEMBERS {
                return;
            }
            assert!(
                start.elapsed() < DEADLINE,
                "{healthy} of {MEMBERS} members are well, after {DEADLINE:?} without faults"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a linearizable read is answered by any member; how long that took.
    pub async fn serves(&self) -> Duration {
        let start = Instant::now();
        loop {
            for index in 0..MEMBERS {
                let Some(mut client) = self.client(index).await else {
                    continue;
                };
                let read = client.get("nothing", None);
                if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), read).await {
                    return start.elapsed();
                }
            }
            assert!(
                start.elapsed() < DEADLINE,
                "nobody serves after {DEADLINE:?} without faults"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Has the network know who has which id.
    pub async fn learn_ids(&self) {
        for (index, member) in self.members.iter().enumerate() {
            let id = self.id(index).await;
            let id = id.unwrap_or_else(|| panic!("{} does not tell its id", member.name));
            self.network.know(id, index);
        }
    }

    async fn id(&self, index: usize) -> Option<u64> {
        let status = self.status(index).await?;
        Some(status.header()?.member_id())
    }

    async fn status(&self, index: usize) -> Option<etcd_client::StatusResponse> {
        let mut client = self.client(index).await?;
        let answer = tokio::time::timeout(Duration::from_secs(1), client.status()).await;
        answer.ok()?.ok()
    }

    /// The place of the member that leads, as most recently heard of.
    pub async fn leader(&self) -> Option<usize> {
        let mut newest: Option<(u64, u64)> = None;
        for index in 0..MEMBERS {
            if self.members[index].child.is_none() {
                continue;
            }
            if let Some(status) = self.status(index).await
                && status.leader() != 0
            {
                newest = newest.max(Some((status.raft_term(), status.leader())));
            }
        }
        self.network.member(newest?.1)
    }

    /// Hands the leadership to another member.
    pub async fn move_leader(&self, to: usize) -> Result<(), String> {
        let leader = self.leader().await.ok_or("there is no leader")?;
        let to = self.id(to).await.ok_or("it does not tell its id")?;
        let client = self.client(leader).await;
        let mut client = client.ok_or("the leader is not reached")?;
        let moved = tokio::time::timeout(ANSWER_MAX, client.move_leader(to)).await;
        match moved {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// A member loses everything, and another one takes its place: removed, added as a learner, promoted.
    pub async fn replace(&mut self, index: usize) {
        let id = self
            .id(index)
            .await
            .expect("a member that is well has an id");
        self.members[index].kill();
        let other = (index + 1) % MEMBERS;
        self.insist(other, "a member is removed", async |client| {
            let list = client.member_list().await.ok()?;
            let is_there = list.members().iter().any(|member| member.id() == id);
            if is_there {
                client.member_remove(id).await.ok()?;
            }
            Some(())
        })
        .await;
        fs::remove_dir_all(&self.members[index].data_dir).expect("a member has data");
        let url = self.members[index].peer_url.clone();
        let new = self
            .insist(other, "a member is added", async |client| {
                let list = client.member_list().await.ok()?;
                let known = list.members().iter();
                let mut known = known.filter(|member| member.peer_urls().contains(&url));
                if let Some(member) = known.next() {
                    return Some(member.id());
                }
                let options = MemberAddOptions::new().with_is_learner();
                let added = client.member_add([url.clone()], Some(options)).await;
                Some(added.ok()?.member()?.id())
            })
            .await;
        self.network.know(new, index);
        let cluster = self.initial_cluster();
        let member = &mut self.members[index];
        member.founding = (cluster, "existing");
        member.start();
        self.insist(other, "a member is promoted", async |client| {
            let list = client.member_list().await.ok()?;
            let is_voter =
                |member: &etcd_client::Member| member.id() == new && !member.is_learner();
            if !list.members().iter().any(is_voter) {
                client.member_promote(new).await.ok()?;
            }
            Some(())
        })
        .await;
    }

    /// Stops everybody in order.
    pub async fn stop(&mut self) {
        for member in &mut self.members {
            member.stop().await;
        }
    }

    /// Nothing that stops writes is raised.
    pub async fn has_no_alarm(&self, index: usize) {
        let alarms = self
            .insist(index, "alarms are told", async |client| {
                let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await;
                Some(alarms.ok()?.alarms().to_vec())
            })
            .await;
        let raised: Vec<u64> = alarms.iter().map(|alarm| alarm.member_id()).collect();
        assert!(raised.is_empty(), "alarms of {raised:?}");
    }

    /// Asks a member until it does as it is told.
    async fn insist<T>(
        &self,
        index: usize,
        what: &str,
        mut ask: impl AsyncFnMut(&mut Client) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(mut client) = self.client(index).await
                && let Ok(Some(done)) = tokio::time::timeout(ANSWER_MAX, ask(&mut client)).await
            {
                return done;
            }
            assert!(start.elapsed() < DEADLINE, "gave up waiting: {what}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.clear();
        self.switch = None;
        // What the disks hold stays in their images.
        self.disks.clear();
        if std::thread::panicking() {
            eprintln!("data and logs: {}", self.folder.display());
        } else {
            // A leftover folder harms nothing; `cargo clean` removes it.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A new folder on a real disk.
fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let turn = COUNT.fetch_add(1, Ordering::Relaxed);
    rounds().join(format!("{name}-{}-{turn}", std::process::id()))
}

/// Where the folders of all rounds are.
fn rounds() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults")
}
