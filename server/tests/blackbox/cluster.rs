//! Three members: whom a client asks does not matter, and one that dies is not missed.

use std::collections::BTreeMap;

use keelson_proto::etcdserverpb as pb;

use super::harness::{Server, ServerOptions, eventually, free_port, heavy, shapes};

const MEMBERS: usize = 3;

/// Starts a cluster and waits until every member serves.
async fn start(name: &str) -> Vec<Server> {
    let ports: Vec<u16> = (0..MEMBERS).map(|_| free_port()).collect();
    let peer_url = |index: usize| format!("http://127.0.0.1:{}", ports[index]);
    let cluster: Vec<String> = (0..MEMBERS)
        .map(|index| format!("n{index}={}", peer_url(index)))
        .collect();
    let servers: Vec<Server> = (0..MEMBERS)
        .map(|index| {
            ServerOptions::new(&format!("{name}-{index}"))
                .only_own_flags()
                .flag(format!("--name=n{index}"))
                .flag("--data-dir={data}")
                .flag("--listen-client-urls={client}")
                .flag("--advertise-client-urls={client}")
                .flag(format!("--listen-peer-urls={}", peer_url(index)))
                .flag(format!("--initial-advertise-peer-urls={}", peer_url(index)))
                .flag(format!("--initial-cluster={}", cluster.join(",")))
                .launch()
        })
        .collect();
    for server in &servers {
        let address = server.address();
        eventually("every member serves", || async {
            let answer = super::harness::http::get(&address, "/health").await;
            answer.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }
    servers
}

/// Puts a key through a member, again and again until it is acknowledged.
async fn put(server: &Server, key: &str) {
    eventually("a write is accepted", || async {
        let clients = server.clients().await;
        let put = clients.kv.clone().put(shapes::put(key, key)).await;
        put.ok()
    })
    .await;
}

async fn keys(server: &Server) -> BTreeMap<String, i64> {
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
    eventually("all members have the same hash", || async {
        let mut hashes = Vec::new();
        for server in &servers {
            hashes.push(hash(server).await);
        }
        hashes.dedup();
        (hashes.len() == 1).then_some(())
    })
    .await;
    for server in &mut servers {
        server.stop().await;
    }
}
