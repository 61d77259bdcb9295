//! A member with several shards whose data is damaged begins anew, and is whole when all of its shards are.

use std::path::Path;

use super::cluster::damage;
use super::harness::{Etcdctl, Server, eventually, heavy, ours_only};
use super::shards::{Cluster, has_key, serves};
use super::snapshot::{fails, text};

fn begins_anew(server: &Server) -> bool {
    server.data_dir().join("member/REJOIN").exists()
}

/// The folder of the snapshot files of the shard that is not `main`.
fn folder_of_events(data_dir: &Path) -> String {
    let folders = std::fs::read_dir(data_dir.join("member")).expect("it is there");
    let mut names = folders.map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.to_string_lossy().into_owned()
    });
    let its = |name: &String| name.starts_with("snap-") && name != "snap-0000";
    names.find(its).expect("the shard has snapshot files")
}

#[tokio::test(flavor = "multi_thread")]
async fn g_d_3_a_damaged_shard_is_repaired_with_all_of_its_lane() {
    ours_only!("etcd has one keyspace");
    let _alone = heavy().await;
    let mut cluster = Cluster::start("shards-rejoin", &[]).await;
    let main = Etcdctl::new(cluster.servers[0].address());
    let events = Etcdctl::new(cluster.events[0].clone());
    main.ok(&["put", "in-main", "x"]).await;
    events.ok(&["put", "in-events", "x"]).await;
    has_key(&cluster.events[2], "in-events").await;
    Etcdctl::new(cluster.events[2].clone())
        .ok(&["defrag"])
        .await;
    cluster.servers[2].stop().await;
    // A page of the index.
    let folder = folder_of_events(&cluster.servers[2].data_dir());
    damage(&cluster.servers[2], &folder, -5000);

    // It needs both of the others for that, and one is away.
    cluster.servers[1].stop().await;
    cluster.servers[2].relaunch();
    eventually("it begins anew", || async {
        begins_anew(&cluster.servers[2]).then_some(())
    })
    .await;
    cluster.servers[2].kill9();
    assert!(begins_anew(&cluster.servers[2]));
    let data_dir = cluster.servers[2].data_dir();
    for task in ["verify", "hash", "dump-snapshot", "dump-wal"] {
        let said = fails(&["inspect", task, "--data-dir", text(&data_dir)]);
        assert!(
            said.contains("getting all its data from the other members"),
            "{said}"
        );
    }

    cluster.servers[1].relaunch();
    cluster.servers[2].relaunch();
    serves(&cluster.servers[2].address()).await;
    serves(&cluster.events[2]).await;
    has_key(&cluster.servers[2].address(), "in-main").await;
    has_key(&cluster.events[2], "in-events").await;
    eventually("it is whole", || async {
        (!begins_anew(&cluster.servers[2])).then_some(())
    })
    .await;
    let log = cluster.servers[2].log();
    let repaired = log.matches("this member has everything again").count();
    assert_eq!(repaired, 2, "both shards: {log}");
    // What it has now is on its own disk, and it counts.
    cluster.servers[0].kill9();
    let events = Etcdctl::new(cluster.events[2].clone());
    eventually("a write is accepted", || async {
        events
            .run(&["put", "after", "x"], "")
            .await
            .ok
            .then_some(())
    })
    .await;
    cluster.servers[2].kill9();
    cluster.servers[2].relaunch();
    has_key(&cluster.events[2], "in-events").await;
    has_key(&cluster.servers[2].address(), "in-main").await;
    for server in &mut cluster.servers[1..] {
        server.stop().await;
    }
}
