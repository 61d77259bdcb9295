//! `--force-new-cluster`: two of three members are lost for ever, and the last one goes on alone, then not alone.

use keelson_proto::etcdserverpb as pb;

use super::cluster::{keys, member, peer_url, ports, put, serves, start_with};
use super::harness::{Clients, Etcdctl, Server, eventually, free_port, heavy, ours_only, shapes};
use super::shards::{Cluster, has_key};

const FLAG: &str = "--force-new-cluster";

/// The members that an endpoint lists.
async fn listed(server: &Server) -> usize {
    let clients = server.clients().await;
    let request = pb::MemberListRequest { linearizable: true };
    let list = clients.cluster.clone().member_list(request).await;
    list.expect("a member list").into_inner().members.len()
}

async fn adds(server: &Server, port: u16) {
    eventually("a member is added", || async {
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url(port)],
            is_learner: false,
        };
        let clients = server.clients().await;
        let added = clients.cluster.clone().member_add(request).await;
        let is_known = |text: &str| text.contains("Peer URLs already exists");
        match added {
            Ok(_) => Some(()),
            Err(status) => is_known(status.message()).then_some(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_the_last_of_three_members_begins_a_new_cluster_and_grows_again() {
    let _alone = heavy().await;
    let old = ports();
    let mut servers = start_with("forced", &old, &[]).await;
    for turn in 0..60 {
        put(&servers[turn % 3], &format!("before-{turn:02}")).await;
    }
    let before = keys(&servers[2]).await;
    let mut last = servers.pop().expect("the last one");
    for mut lost in servers {
        lost.kill9();
    }
    // Without the flag it waits for the others.
    last.kill9();
    last.relaunch();
    let refused = eventually("it listens", || async {
        let clients = Etcdctl::new(last.address());
        let put = clients.run(&["put", "k", "v", "--command-timeout=2s"], "");
        let put = put.await;
        (!put.err.contains("connection refused")).then_some(put)
    })
    .await;
    assert!(!refused.ok, "no quorum, no write: {refused:?}");
    last.kill9();

    last.add_flag(FLAG);
    last.restart().await;
    assert_eq!(keys(&last).await, before, "everything is there");
    assert_eq!(listed(&last).await, 1);
    put(&last, "alone").await;
    last.kill9();
    last.drop_flag(FLAG);
    last.restart().await;
    assert_eq!(listed(&last).await, 1, "for good");
    assert_eq!(keys(&last).await.len(), 61);

    let mut new = vec![old[2]];
    let mut servers = vec![last];
    for index in 1..3 {
        new.push(free_port());
        adds(&servers[0], new[index]).await;
        let options = member("forced-new", index, &new, &[]);
        let joined = options.flag("--initial-cluster-state=existing").launch();
        serves(&joined).await;
        put(&joined, &format!("of-{}", index + 1)).await;
        servers.push(joined);
    }
    assert_eq!(listed(&servers[2]).await, 3);
    for server in &servers {
        assert_eq!(keys(server).await.len(), 61 + 2);
    }
    // Any two of them go on.
    servers[0].kill9();
    put(&servers[2], "of-two").await;
    assert_eq!(keys(&servers[1]).await.len(), 61 + 3);
    for server in &mut servers[1..] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_so_does_a_member_with_several_shards() {
    ours_only!("etcd has one keyspace");
    let _alone = heavy().await;
    let name = "forced-shards";
    let mut cluster = Cluster::start(name, &[]).await;
    for (shard, address) in [cluster.servers[0].address(), cluster.events[0].clone()]
        .iter()
        .enumerate()
    {
        let key = format!("in-{shard}");
        Etcdctl::new(address.clone()).ok(&["put", &key, "x"]).await;
    }
    let last = 2;
    has_key(&cluster.servers[last].address(), "in-0").await;
    has_key(&cluster.events[last], "in-1").await;
    for server in &mut cluster.servers {
        server.kill9();
    }
    cluster.servers[last].add_flag(FLAG);
    cluster.servers[last].restart().await;
    let addresses = [
        cluster.servers[last].address(),
        cluster.events[last].clone(),
    ];
    for (shard, address) in addresses.iter().enumerate() {
        let clients = Clients::connect(&format!("http://{address}")).await;
        eventually("the shard goes on alone", || async {
            let put = clients.kv.clone().put(shapes::put("alone", "x")).await;
            put.ok()
        })
        .await;
        has_key(address, &format!("in-{shard}")).await;
        eventually("it lists nobody else", || async {
            (cluster.listed(address).await.len() == 1).then_some(())
        })
        .await;
    }
    cluster.servers[last].kill9();
    cluster.servers[last].drop_flag(FLAG);
    cluster.servers[last].restart().await;

    grows_again(&mut cluster, last).await;
    cluster.servers[last].stop().await;
}

/// A new member, in the place of the first one, gets all shards.
async fn grows_again(cluster: &mut Cluster, last: usize) {
    let url = cluster.peer_urls[0].clone();
    let peers = format!("--peer-urls={url}");
    let main = Etcdctl::new(cluster.servers[last].address());
    eventually("a member is added", || async {
        let added = main.run(&["member", "add", "n0", &peers], "").await;
        (added.ok || added.err.contains("Peer URLs already exists")).then_some(())
    })
    .await;
    let members = format!("n0={url},n2={}", cluster.peer_urls[last]);
    let options = cluster
        .member("forced-shards-new", 0, 3, &[])
        .without_flag("--initial-cluster=")
        .flag(format!("--initial-cluster={members}"))
        .flag("--initial-cluster-state=existing");
    let mut joined = options.launch();
    has_key(&joined.address(), "alone").await;
    has_key(&cluster.events[0], "in-1").await;
    has_key(&cluster.events[0], "alone").await;
    eventually("the other shard has two members", || async {
        let listed = cluster.listed(&cluster.events[0]).await;
        (listed.len() == 2).then_some(())
    })
    .await;
    Etcdctl::new(cluster.events[0].clone())
        .ok(&["put", "of-two", "x"])
        .await;
    has_key(&cluster.events[last], "of-two").await;
    joined.stop().await;
}
