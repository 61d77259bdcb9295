//! Several shards in one process: each is an etcd of its own, and they share what is slow.

use std::path::Path;
use std::time::Duration;

use keelson_proto::etcdserverpb as pb;
use serde_json::Value;

use super::harness::{
    Clients, DEADLINE, Etcdctl, Server, ServerOptions, accepted, eventually, free_port, heavy,
    http, ours_only, shapes,
};

const NAMES: [&str; 2] = ["events", "leases"];

/// Where the shards of a process are served.
fn free_addresses() -> Vec<String> {
    let ports = NAMES.iter().map(|_| free_port());
    ports.map(|port| format!("127.0.0.1:{port}")).collect()
}

fn shards_flag(addresses: &[String]) -> String {
    let pairs = NAMES.iter().zip(addresses);
    let pairs: Vec<String> = pairs
        .map(|(name, address)| format!("{name}=http://{address}"))
        .collect();
    format!("--shards={}", pairs.join(","))
}

async fn clients_of(server: &Server, shards: &[String]) -> Vec<Clients> {
    let mut clients = vec![server.clients().await];
    for address in shards {
        clients.push(Clients::connect(&format!("http://{address}")).await);
    }
    clients
}

/// A metric without labels on the page of this listener.
async fn metric(address: &str, name: &str) -> u64 {
    let page = http::get(address, "/metrics").await.expect("a page").body;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("{name} is on the page"));
    line.parse::<f64>().expect("a number") as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_independent_and_survive_kill_9() {
    ours_only!("etcd has one keyspace");
    let addresses = free_addresses();
    let mut server = ServerOptions::new("shards")
        .flag(shards_flag(&addresses))
        .many_checkpoints()
        .start()
        .await;
    let clients = clients_of(&server, &addresses).await;
    let mut watch = clients[1].watch_session();
    let watcher = watch.created(shapes::watch("k")).await.watch_id;
    for (shard, clients) in clients.iter().enumerate() {
        for count in 0..=shard {
            let revision = clients.put_key("k", format!("{shard}")).await;
            assert_eq!(revision, 2 + count as i64, "revisions are a shard's own");
        }
    }
    let events = watch.events(watcher, 2).await;
    assert!(events.iter().all(|event| {
        let kv = event.kv.as_ref().expect("an event has a key");
        kv.value == "1"
    }));
    clients[1].grant(77, 600).await;
    assert!(
        clients[0].time_to_live(77).await.ttl < 0,
        "leases are a shard's own"
    );
    assert!(clients[1].time_to_live(77).await.ttl > 0);
    clients[2].compact(3).await;
    let at_2 = clients[0].range(shapes::get_at("k", 2)).await;
    assert_eq!(at_2.kvs.len(), 1, "so are compactions");
    for round in 0..120 {
        for clients in &clients {
            clients.put_key(format!("many-{round}"), "x").await;
        }
    }
    server.kill9();
    server.restart().await;
    let clients = clients_of(&server, &addresses).await;
    for (shard, clients) in clients.iter().enumerate() {
        let kept = clients.range(shapes::get("k")).await;
        assert_eq!(kept.kvs[0].value, format!("{shard}"));
        assert_eq!(revision(&kept.header), 2 + shard as i64 + 120);
    }
    assert!(clients[1].time_to_live(77).await.ttl > 0);
    for (shard, address) in addresses.iter().enumerate() {
        let health = http::get(address, "/health").await.expect("it is served");
        assert_eq!(health.status, 200);
        let keys = metric(address, "etcd_debugging_mvcc_keys_total").await;
        assert_eq!(keys, 121);
        let current = metric(address, "etcd_debugging_mvcc_current_revision").await;
        assert_eq!(
            current,
            2 + (shard as u64 + 1) + 120,
            "metrics are a shard's own"
        );
    }
    server.stop().await;
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("a header").revision
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_carries_the_writes_of_all_shards_of_a_core() {
    ours_only!("etcd has one keyspace");
    let _alone = heavy().await;
    let addresses = free_addresses();
    let mut server = ServerOptions::new("shards-flush")
        .flag(shards_flag(&addresses))
        .start()
        .await;
    let clients = clients_of(&server, &addresses).await;
    let page = server.address();
    let groups = metric(&page, "keelson_wal_groups_total").await;
    let entries = metric(&page, "keelson_wal_entries_total").await;
    let mut writers = Vec::new();
    for clients in &clients {
        for writer in 0..8 {
            let clients = clients.clone();
            writers.push(tokio::spawn(async move {
                for round in 0..60 {
                    clients.put_key(format!("{writer}-{round}"), "x").await;
                }
            }));
        }
    }
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let groups = metric(&page, "keelson_wal_groups_total").await - groups;
    let entries = metric(&page, "keelson_wal_entries_total").await - entries;
    let puts = 3 * 8 * 60;
    println!("{puts} puts on 3 shards: {entries} records in {groups} flushes");
    assert!(groups < entries, "{entries} records in {groups} flushes");
    assert!(groups < puts, "{puts} puts in {groups} flushes");
    // The lane is the same on every shard's page.
    let elsewhere = metric(&addresses[1], "keelson_wal_groups_total").await;
    assert!(elsewhere >= groups);
    server.stop().await;
}

/// What a server printed that must refuse to start.
async fn refusal(options: ServerOptions) -> String {
    let mut server = options.launch();
    let status = server
        .wait_exit(DEADLINE)
        .await
        .expect("it refuses to start");
    assert!(!status.success(), "it ended with {status}");
    server.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_not_forgotten_or_moved_in_silence() {
    ours_only!("etcd has one keyspace");
    let addresses = free_addresses();
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shards-{}", std::process::id()));
    let options = || ServerOptions::new("shards-refused").data_dir(&folder);
    let mut server = options().start().await;
    server.clients().await.put_key("before", "x").await;
    server.stop().await;
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    assert_eq!(read("FORMAT"), "keelson data directory\nformat 1\n");
    assert_eq!(
        read("member/SHARDS"),
        "",
        "one shard is laid out as it always was"
    );
    let mut server = options().flag(shards_flag(&addresses)).start().await;
    let clients = clients_of(&server, &addresses).await;
    assert_eq!(clients[0].range(shapes::get("before")).await.kvs.len(), 1);
    assert_eq!(clients[1].range(shapes::get("before")).await.kvs.len(), 0);
    clients[1].put_key("after", "x").await;
    server.stop().await;
    assert_eq!(read("FORMAT"), "keelson data directory\nformat 2\n");
    let log = refusal(options()).await;
    assert!(
        log.contains("has a shard events, which is not configured"),
        "{log}"
    );
    let flag = shards_flag(&addresses);
    let log = refusal(options().flag(&flag).flag("--shards-cores=events=4000")).await;
    assert!(log.contains("there are"), "{log}");
    let log = refusal(options().flag("--shards=main=http://127.0.0.1:1")).await;
    assert!(log.contains("main is always there"), "{log}");
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        let moved = options().flag(&flag).flag("--cores=2");
        let log = refusal(moved.flag("--shards-cores=events=1")).await;
        assert!(log.contains("a shard stays on the core"), "{log}");
    }
    let mut server = options().flag(&flag).start().await;
    let clients = clients_of(&server, &addresses).await;
    assert_eq!(clients[1].range(shapes::get("after")).await.kvs.len(), 1);
    server.stop().await;
    // Only this test knows the folder.
    std::fs::remove_dir_all(&folder).expect("the server has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_all_shards_make_one_data_directory() {
    ours_only!("etcd has one keyspace");
    let addresses = free_addresses();
    let mut server = ServerOptions::new("shards-backup")
        .flag(shards_flag(&addresses))
        .start()
        .await;
    let mut all = addresses.clone();
    all.insert(0, server.address());
    let clients = clients_of(&server, &addresses).await;
    let keelson = server.kind().program();
    let mut files = Vec::new();
    for (shard, clients) in clients.iter().enumerate() {
        clients.put_key("which", format!("{shard}")).await;
        let file = server.folder().join(format!("{shard}.db"));
        Etcdctl::new(all[shard].clone())
            .ok(&["snapshot", "save", &file.display().to_string()])
            .await;
        files.push(file.display().to_string());
    }
    let restored = server.folder().join("restored");
    let run = std::process::Command::new(keelson)
        .args(["snapshot", "restore", &files[0], "--data-dir"])
        .arg(&restored)
        .args(["--name=m1", &server.fill_in("--initial-cluster=m1={peer}")])
        .arg(server.fill_in("--initial-advertise-peer-urls={peer}"))
        .args(["--shard", &format!("events={}", files[1])])
        .args(["--shard", &format!("leases={}", files[2])])
        .output()
        .expect("the program can be started");
    assert!(run.status.success(), "{run:?}");
    server.stop().await;
    let options = || ServerOptions::new("shards-restored").data_dir(&restored);
    let log = refusal(options()).await;
    assert!(log.contains("snapshot files of a shard"), "{log}");
    let mut again = options().flag(shards_flag(&addresses)).start().await;
    let clients = clients_of(&again, &addresses).await;
    for (shard, clients) in clients.iter().enumerate() {
        let kept = clients.range(shapes::get("which")).await;
        assert_eq!(kept.kvs[0].value, format!("{shard}"));
        clients.put_key("more", "x").await;
    }
    again.kill9();
    again.restart().await;
    let clients = clients_of(&again, &addresses).await;
    for clients in &clients {
        assert_eq!(clients.range(shapes::get("more")).await.kvs.len(), 1);
    }
    again.stop().await;
}

/// Waits until a shard of a member answers.
pub(super) async fn serves(address: &str) {
    eventually("a shard of a member serves", || async {
        let answer = http::get(address, "/health").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Three members, each with a shard beside `main`.
pub(super) struct Cluster {
    pub(super) servers: Vec<Server>,
    pub(super) peer_urls: Vec<String>,
    pub(super) events: Vec<String>,
}

impl Cluster {
    /// Where everything will be, of three members and one that may come.
    fn plan() -> Cluster {
        let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
        let urls: Vec<String> = ports
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect();
        let events: Vec<String> = (0..4)
            .map(|_| format!("127.0.0.1:{}", free_port()))
            .collect();
        Cluster {
            servers: Vec::new(),
            peer_urls: urls,
            events,
        }
    }

    /// `extra` are flags of every member.
    pub(super) async fn start(name: &str, extra: &[&str]) -> Cluster {
        let mut cluster = Cluster::plan();
        for index in 0..3 {
            let options = cluster.member(name, index, 3, extra);
            cluster.servers.push(options.launch());
        }
        for index in 0..3 {
            cluster.serves(index).await;
        }
        cluster
    }

    pub(super) fn member(
        &self,
        name: &str,
        index: usize,
        of: usize,
        extra: &[&str],
    ) -> ServerOptions {
        let all: Vec<String> = (0..of)
            .map(|index| format!("n{index}={}", self.peer_urls[index]))
            .collect();
        let peer = &self.peer_urls[index];
        let mut options = ServerOptions::new(&format!("{name}-{index}"))
            .only_own_flags()
            .flag(format!("--name=n{index}"))
            .flag("--data-dir={data}")
            .flag("--listen-client-urls={client}")
            .flag("--advertise-client-urls={client}")
            .flag(format!("--listen-peer-urls={peer}"))
            .flag(format!("--initial-advertise-peer-urls={peer}"))
            .flag(format!("--initial-cluster={}", all.join(",")))
            .flag(format!("--shards=events=http://{}", self.events[index]));
        for flag in extra {
            options = options.flag(*flag);
        }
        options
    }

    async fn serves(&self, index: usize) {
        serves(&self.servers[index].address()).await;
        serves(&self.events[index]).await;
    }

    /// The members that a shard's endpoint lists, by name or id, with whether they are learners.
    pub(super) async fn listed(&self, address: &str) -> Vec<(String, bool)> {
        let list = Etcdctl::new(address).json(&["member", "list"]).await;
        let members = list["members"].as_array().cloned().unwrap_or_default();
        let text = |member: &Value| {
            let learner = member["isLearner"].as_bool().unwrap_or_default();
            (
                member["peerURLs"][0]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                learner,
            )
        };
        members.iter().map(text).collect()
    }

    /// The leader of each shard, when all three members agree on it.
    async fn leaders(&self) -> Option<(u64, u64)> {
        let mut seen = Vec::new();
        for (server, events) in self.servers.iter().zip(&self.events) {
            let events = Clients::connect(&format!("http://{events}")).await;
            let of_main = server.clients().await.status().await.leader;
            seen.push((of_main, events.status().await.leader));
        }
        seen.dedup();
        (seen.len() == 1 && seen[0].0 != 0 && seen[0].1 != 0).then(|| seen[0])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_serve_two_shards_whose_leaders_are_spread() {
    ours_only!("etcd has one keyspace");
    let _alone = heavy().await;
    let mut cluster = Cluster::start("shards-3", &[]).await;
    for (index, server) in cluster.servers.iter().enumerate() {
        let main = Etcdctl::new(server.address());
        let events = Etcdctl::new(cluster.events[index].clone());
        main.ok(&["put", &format!("main-{index}"), "x"]).await;
        events.ok(&["put", "key", &format!("{index}")]).await;
        events.ok(&["put", "key", &format!("{index}+")]).await;
        let health = events.ok(&["endpoint", "health", "--cluster"]).await;
        assert!(
            !health.contains(&server.address()),
            "the shard's own URLs: {health}"
        );
    }
    for (index, server) in cluster.servers.iter().enumerate() {
        let main = Etcdctl::new(server.address());
        let keys = main.ok(&["get", "", "--prefix", "--keys-only"]).await;
        assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 3);
        let events = Etcdctl::new(cluster.events[index].clone());
        assert_eq!(
            events.ok(&["get", "key", "--print-value-only"]).await,
            "2+\n"
        );
    }
    eventually("the leaders are two members", || async {
        let (main, events) = cluster.leaders().await?;
        (main != events).then_some(())
    })
    .await;
    move_leader_of_events(&cluster).await;
    let first = cluster.servers[0].clients().await;
    let leader = first.status().await.leader;
    let mut leading = 0;
    for (index, server) in cluster.servers.iter().enumerate() {
        let own = server.clients().await.status().await;
        if own.header.expect("a header").member_id == leader {
            leading = index;
        }
    }
    cluster.servers[leading].kill9();
    for (index, events) in cluster.events.iter().take(3).enumerate() {
        if index != leading {
            let clients = Clients::connect(&format!("http://{events}")).await;
            eventually("the others decide without it", || async {
                let put = clients.kv.clone().put(shapes::put("after", "x")).await;
                put.ok()
            })
            .await;
        }
    }
    cluster.servers[leading].restart().await;
    cluster.serves(leading).await;
    let back = Clients::connect(&format!("http://{}", cluster.events[leading])).await;
    assert_eq!(back.range(shapes::get("after")).await.kvs.len(), 1);
    for server in &mut cluster.servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_added_to_a_cluster_that_runs() {
    ours_only!("etcd has one keyspace");
    let _alone = heavy().await;
    let name = "shards-added";
    let mut cluster = Cluster::plan();
    for index in 0..3 {
        let plain = cluster.member(name, index, 3, &[]).without_flag("--shards");
        cluster.servers.push(plain.launch());
    }
    for server in &cluster.servers {
        let main = server.address();
        serves(&main).await;
    }
    cluster.servers[0].clients().await.put_key("old", "x").await;
    for index in 0..3 {
        let folder = cluster.servers[index].data_dir();
        let address = cluster.servers[index].address();
        cluster.servers[index].stop().await;
        let flag = format!("--shards=events=http://{}", cluster.events[index]);
        cluster.servers[index].add_flag(&flag);
        cluster.servers[index].restart().await;
        assert!(folder.join("member/SHARDS").exists());
        serves(&address).await;
    }
    for index in 0..3 {
        cluster.serves(index).await;
        let events = Clients::connect(&format!("http://{}", cluster.events[index])).await;
        events.put_key(format!("new-{index}"), "x").await;
        let main = cluster.servers[index].clients().await;
        assert_eq!(main.range(shapes::get("old")).await.kvs.len(), 1);
        assert_eq!(cluster.listed(&cluster.events[index]).await.len(), 3);
    }
    for server in &mut cluster.servers {
        server.stop().await;
    }
}

/// Asked for at the shard's endpoint, another member leads it, and goes on leading it.
async fn move_leader_of_events(cluster: &Cluster) {
    let (main, events) = cluster.leaders().await.expect("they were found just now");
    let mut other = None;
    let mut leading = 0;
    for (index, server) in cluster.servers.iter().enumerate() {
        let status = server.clients().await.status().await;
        let id = status.header.expect("a header").member_id;
        if id == events {
            leading = index;
        } else if id != main {
            other = Some(id);
        }
    }
    let other = other.expect("there are three members");
    let at_leader = Etcdctl::new(cluster.events[leading].clone());
    at_leader.ok(&["move-leader", &format!("{other:x}")]).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leaders = eventually("all agree", || cluster.leaders()).await;
        assert_eq!(leaders, (main, other));
    }
}

/// Waits until a member has a key by itself.
pub(super) async fn has_key(address: &str, key: &str) {
    eventually("a member has the shard's data", || async {
        let get = ["get", key, "--print-value-only", "--consistency=s"];
        let got = Etcdctl::new(address).run(&get, "").await;
        (got.ok && got.out == "x\n").then_some(())
    })
    .await;
}

/// Promotes the member with this peer URL at `main`, waits until the other shard has followed, and tells its id.
async fn promote(cluster: &Cluster, url: &str) -> String {
    let main = Etcdctl::new(cluster.servers[1].address());
    let list = main.json(&["member", "list"]).await;
    let id = list["members"].as_array().and_then(|members| {
        let new = members.iter().find(|member| member["peerURLs"][0] == url)?;
        new["ID"].as_u64()
    });
    let id = format!("{:x}", id.expect("the new member has an id"));
    eventually("it is promoted", || async {
        let promoted = main.run(&["member", "promote", &id], "").await;
        promoted.ok.then_some(())
    })
    .await;
    eventually("and so it is in the other shard", || async {
        let listed = cluster.listed(&cluster.events[1]).await;
        listed.contains(&(url.to_owned(), false)).then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shard_sees_who_joins_and_who_leaves() {
    ours_only!("etcd has one keyspace");
    let _alone = heavy().await;
    let is_wide = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    // On a core of its own the shard has its own lane and links.
    let extra: &[&str] = match is_wide {
        true => &["--cores=2", "--shards-cores=events=1"],
        false => &[],
    };
    let name = "shards-members";
    let mut cluster = Cluster::start(name, extra).await;
    let events = Etcdctl::new(cluster.events[0].clone());
    events.ok(&["put", "before", "x"]).await;
    // Asked for at a shard's endpoint, it is `main` that changes, and the shard follows.
    let url = cluster.peer_urls[3].clone();
    let peers = format!("--peer-urls={url}");
    let add = ["member", "add", "n3", peers.as_str(), "--learner"];
    eventually("a member is added", || async {
        let added = events.run(&add, "").await;
        added.ok.then_some(())
    })
    .await;
    let main_address = cluster.servers[1].address();
    let both = [main_address.clone(), cluster.events[1].clone()];
    for address in &both {
        eventually("a shard lists the new member", || async {
            let listed = cluster.listed(address).await;
            listed.contains(&(url.clone(), true)).then_some(())
        })
        .await;
    }
    let options = cluster
        .member(name, 3, 4, extra)
        .flag("--initial-cluster-state=existing");
    cluster.servers.push(options.launch());
    has_key(&cluster.events[3], "before").await;
    let id = promote(&cluster, &url).await;
    let main = Etcdctl::new(cluster.servers[1].address());
    eventually("it leaves again", || async {
        let removed = main.run(&["member", "remove", &id], "").await;
        removed.ok.then_some(())
    })
    .await;
    eventually("the other shard lets it go, too", || async {
        let listed = cluster.listed(&cluster.events[1]).await;
        (listed.len() == 3).then_some(())
    })
    .await;
    let mut gone = cluster.servers.pop().expect("the new member");
    assert!(
        gone.wait_exit(DEADLINE).await.is_some(),
        "a removed member ends"
    );
    events.ok(&["put", "after", "x"]).await;
    let request = pb::MemberListRequest { linearizable: true };
    let clients = Clients::connect(&format!("http://{}", cluster.events[2])).await;
    let members = accepted(clients.cluster.clone().member_list(request).await).members;
    assert_eq!(members.len(), 3);
    for server in &mut cluster.servers {
        server.stop().await;
    }
}
