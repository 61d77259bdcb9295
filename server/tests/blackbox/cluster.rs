//! Three members: whom a client asks does not matter, and one that dies is not missed.

use std::collections::BTreeMap;

use keelson_proto::etcdserverpb as pb;

use super::harness::{Server, ServerOptions, eventually, free_port, heavy, shapes};

const MEMBERS: usize = 3;

/// Flags with which a member is soon behind the log of the others.
const SHORT_LOG: &[&str] = &[
    "--snapshot-count=50",
    "--checkpoint-log-bytes-min=32768",
    "--snapshot-catchup-entries=10",
];

pub(super) fn peer_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A member among those with these ports, not started.
pub(super) fn member(name: &str, index: usize, ports: &[u16], flags: &[&str]) -> ServerOptions {
    let own = peer_url(ports[index]);
    let members = ports.iter().enumerate();
    let cluster: Vec<String> = members
        .map(|(index, port)| format!("n{index}={}", peer_url(*port)))
        .collect();
    let options = ServerOptions::new(&format!("{name}-{index}"))
        .only_own_flags()
        .flag(format!("--name=n{index}"))
        .flag("--data-dir={data}")
        .flag("--listen-client-urls={client}")
        .flag("--advertise-client-urls={client}")
        .flag(format!("--listen-peer-urls={own}"))
        .flag(format!("--initial-advertise-peer-urls={own}"))
        .flag(format!("--initial-cluster={}", cluster.join(",")));
    let flags = flags.iter();
    flags.fold(options, |options, flag| options.flag(*flag))
}

/// Starts a cluster and waits until every member serves.
pub(super) async fn start_with(name: &str, ports: &[u16], flags: &[&str]) -> Vec<Server> {
    let indexes = 0..ports.len();
    let servers: Vec<Server> = indexes
        .map(|index| member(name, index, ports, flags).launch())
        .collect();
    for server in &servers {
        serves(server).await;
    }
    servers
}

async fn start(name: &str) -> Vec<Server> {
    start_with(name, &ports(), &[]).await
}

pub(super) fn ports() -> Vec<u16> {
    (0..MEMBERS).map(|_| free_port()).collect()
}

pub(super) async fn serves(server: &Server) {
    let address = server.address();
    eventually("every member serves", || async {
        let answer = super::harness::http::get(&address, "/health").await;
        answer.ok().filter(|answer| answer.status == 200)
    })
    .await;
}

pub(super) async fn have_the_same(servers: &[Server]) {
    eventually("all members have the same hash", || async {
        let mut hashes = Vec::new();
        for server in servers {
            hashes.push(hash(server).await);
        }
        hashes.dedup();
        (hashes.len() == 1).then_some(())
    })
    .await;
}

/// Puts a key through a member, again and again until it is acknowledged.
pub(super) async fn put(server: &Server, key: &str) {
    eventually("a write is accepted", || async {
        let clients = server.clients().await;
        let put = clients.kv.clone().put(shapes::put(key, key)).await;
        put.ok()
    })
    .await;
}

pub(super) async fn keys(server: &Server) -> BTreeMap<String, i64> {
    let everything = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..pb::RangeRequest::default()
    };
    let response = server.clients().await.range(everything).await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("keys are text");
    response
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), kv.mod_revision))
        .collect()
}

async fn hash(server: &Server) -> (i64, u32) {
    let clients = server.clients().await;
    let response = clients
        .maintenance
        .clone()
        .hash_kv(pb::HashKvRequest::default())
        .await;
    let response = response.expect("a hash").into_inner();
    (response.header.expect("a header").revision, response.hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_any_member_answers_and_a_dead_leader_is_replaced() {
    let _alone = heavy().await;
    let mut servers = start("cluster").await;
    for (turn, server) in servers.iter().cycle().take(30).enumerate() {
        put(server, &format!("before-{turn:02}")).await;
    }
    for server in &servers {
        assert_eq!(
            keys(server).await.len(),
            30,
            "a read sees all that was acknowledged"
        );
    }
    let members = servers[0].clients().await;
    let list = members
        .cluster
        .clone()
        .member_list(pb::MemberListRequest::default())
        .await;
    let list = list.expect("a member list").into_inner().members;
    let names: Vec<&str> = list.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(list.len(), MEMBERS, "{names:?}");
    assert!(
        list.iter().all(|member| !member.client_ur_ls.is_empty()),
        "{list:?}"
    );

    let status = servers[0].clients().await.status().await;
    let mut leader = 0;
    for (index, server) in servers.iter().enumerate() {
        let own = server.clients().await.status().await;
        let id = own.header.expect("a header").member_id;
        assert_eq!(own.leader, status.leader, "all follow the same leader");
        if id == status.leader {
            leader = index;
        }
    }
    servers[leader].kill9();
    let alive: Vec<usize> = (0..MEMBERS).filter(|index| *index != leader).collect();
    for (turn, index) in alive.iter().cycle().take(20).enumerate() {
        put(&servers[*index], &format!("without-{turn:02}")).await;
    }
    servers[leader].restart().await;
    put(&servers[leader], "back").await;
    let mut found = Vec::new();
    for server in &servers {
        found.push(keys(server).await);
    }
    assert_eq!(found[0].len(), 30 + 20 + 1);
    assert!(
        found.iter().all(|keys| *keys == found[0]),
        "all members have the same"
    );
    have_the_same(&servers).await;
    for server in &mut servers {
        server.stop().await;
    }
}

/// Whether a server took over a snapshot of another member, as its log says.
fn took_a_snapshot(server: &Server) -> bool {
    server
        .log()
        .contains("the state is that of a snapshot from another member")
}

/// The third member's metrics name the one that sent it a snapshot, and those of that one name the third.
async fn is_counted(servers: &[Server]) {
    let mut ids = Vec::new();
    let mut pages = Vec::new();
    for server in servers {
        let header = server.clients().await.status().await.header;
        ids.push(format!("{:x}", header.expect("a header").member_id));
        let page = super::harness::http::get(&server.address(), "/metrics").await;
        pages.push(page.expect("a page").body);
    }
    let says = |page: &str, name: &str, way: &str, id: &str| {
        let line = format!("etcd_network_snapshot_{name}{{{way}=\"{id}\"}} 1\n");
        page.contains(&line)
    };
    let pairs = [(0, "receive_success"), (1, "receive_success")];
    let from = pairs.map(|(other, name)| says(&pages[2], name, "From", &ids[other]));
    assert!(from[0] || from[1], "{}", pages[2]);
    let sender = usize::from(from[1]);
    let sent = ["send_success", "send_total_duration_seconds_count"];
    for name in sent {
        assert!(says(&pages[sender], name, "To", &ids[2]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g_w_15_a_member_that_was_away_for_long_catches_up_by_a_snapshot() {
    let _alone = heavy().await;
    let mut servers = start_with("snapshot", &ports(), SHORT_LOG).await;
    put(&servers[2], "before").await;
    servers[2].stop().await;
    for turn in 0..200 {
        put(&servers[turn % 2], &format!("without-{turn:03}")).await;
    }
    servers[2].restart().await;
    serves(&servers[2]).await;
    put(&servers[2], "back").await;
    assert_eq!(keys(&servers[2]).await.len(), 202);
    assert!(took_a_snapshot(&servers[2]), "{}", servers[2].log());
    have_the_same(&servers).await;
    is_counted(&servers).await;
    // It has all of it on its own disk.
    servers[2].kill9();
    servers[2].restart().await;
    serves(&servers[2]).await;
    have_the_same(&servers).await;
    for server in &mut servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_a_member_is_replaced_by_one_with_an_empty_disk() {
    let _alone = heavy().await;
    let ports = ports();
    let mut servers = start_with("replace", &ports, SHORT_LOG).await;
    for turn in 0..120 {
        put(&servers[turn % MEMBERS], &format!("before-{turn:03}")).await;
    }
    let lost = servers.remove(2);
    let clients = lost.clients().await;
    let id = clients.status().await.header.expect("a header").member_id;
    drop(lost);
    eventually("the lost member is removed", || async {
        let clients = servers[0].clients().await;
        let request = pb::MemberRemoveRequest { id };
        let removed = clients.cluster.clone().member_remove(request).await;
        match removed {
            Ok(_) => Some(()),
            Err(status) => status.message().contains("member not found").then_some(()),
        }
    })
    .await;
    eventually("a new one is added", || async {
        let clients = servers[0].clients().await;
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url(ports[2])],
            is_learner: false,
        };
        let added = clients.cluster.clone().member_add(request).await;
        match added {
            Ok(_) => Some(()),
            Err(status) => status
                .message()
                .contains("Peer URLs already exists")
                .then_some(()),
        }
    })
    .await;
    let joins = member("replaced", 2, &ports, SHORT_LOG).flag("--initial-cluster-state=existing");
    let joined = joins.launch();
    serves(&joined).await;
    assert!(took_a_snapshot(&joined), "{}", joined.log());
    servers.push(joined);
    put(&servers[2], "after").await;
    assert_eq!(keys(&servers[2]).await.len(), 121);
    have_the_same(&servers).await;
    // It counts: with one of the others gone the cluster goes on.
    servers[1].kill9();
    put(&servers[2], "without-one").await;
    servers[1].restart().await;
    serves(&servers[1]).await;
    have_the_same(&servers).await;
    for server in &mut servers {
        server.stop().await;
    }
}

/// Flips bits of a byte of the first file in a folder of a member's data, counted from the end if negative.
pub(super) fn damage(server: &Server, folder: &str, at: i64) {
    let folder = server.data_dir().join("member").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let mut content = std::fs::read(&files[0]).expect("the file can be read");
    let at = at.rem_euclid(content.len() as i64) as usize;
    content[at] ^= 0x55;
    std::fs::write(&files[0], content).expect("the file can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn g_d_3_damage_on_one_member_is_repaired_from_the_others() {
    let _alone = heavy().await;
    let mut servers = start_with("repair", &ports(), SHORT_LOG).await;
    for turn in 0..150 {
        put(&servers[turn % MEMBERS], &format!("before-{turn:03}")).await;
    }
    // A record in the middle of the log, then a page of the snapshot's index.
    for (turn, folder, at) in [(1, "wal-0000", 4096 + 300), (2, "snap-0000", -5000)] {
        servers[2].stop().await;
        damage(&servers[2], folder, at);
        servers[2].restart().await;
        serves(&servers[2]).await;
        eventually("the member is whole", || async {
            let marker = servers[2].data_dir().join("member/REJOIN");
            (!marker.exists()).then_some(())
        })
        .await;
        let log = servers[2].log();
        let repaired = log.matches("this member has everything again").count();
        assert_eq!(repaired, turn, "{log}");
        put(&servers[2], &format!("after-{turn}")).await;
        assert_eq!(keys(&servers[2]).await.len(), 150 + turn);
        have_the_same(&servers).await;
        // What it has now is sound, and it counts.
        servers[2].stop().await;
        servers[2].restart().await;
        serves(&servers[2]).await;
        assert!(!servers[2].data_dir().join("member/damaged").exists());
    }
    servers[0].kill9();
    put(&servers[2], "without-one").await;
    for server in &mut servers[1..] {
        server.stop().await;
    }
}
