//! The `etcd-client` crate, a client that nobody wrote for this server: concurrent load, watch,
//! lease keep-alive, transactions, maintenance.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error, EventType, GetOptions, PutOptions, Txn, TxnOp, WatchOptions,
};

use crate::harness::{DEADLINE, Server, eventually};

const WORKERS: usize = 16;
const TURNS: usize = 60;

async fn connect(server: &Server) -> Client {
    Client::connect([server.endpoint()], None)
        .await
        .expect("the client connects")
}

fn swap(key: &str, revision: i64, value: String) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
        .and_then([TxnOp::put(key, value, None)])
        .or_else([TxnOp::get(key, None)])
}

/// Adds one to a number by compare and swap; the number of attempts that lost.
async fn increment(client: &mut Client, key: &str) -> usize {
    let mut lost = 0;
    loop {
        let read = client.get(key, None).await.expect("get");
        let (revision, number) = match read.kvs().first() {
            None => (0, 0),
            Some(kv) => {
                let text = kv.value_str().expect("text");
                (kv.mod_revision(), text.parse::<u64>().expect("a number"))
            }
        };
        let done = client
            .txn(swap(key, revision, (number + 1).to_string()))
            .await
            .expect("txn");
        if done.succeeded() {
            return lost;
        }
        lost += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_kv_1_concurrent_increments_are_all_there() {
    let server = Server::start("client-load").await;
    let mut watcher = connect(&server).await;
    let mut stream = watcher.watch("counter", None).await.expect("watch");
    let created = stream.message().await.expect("a message").expect("created");
    assert!(created.created());
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let endpoint = server.endpoint();
            tokio::spawn(async move {
                let mut client = Client::connect([endpoint], None).await.expect("connect");
                for turn in 0..TURNS {
                    let key = format!("own/{worker:02}/{turn:03}");
                    client
                        .put(key.as_str(), format!("{turn}"), None)
                        .await
                        .expect("put");
                    let read = client.get(key.as_str(), None).await.expect("get");
                    assert_eq!(read.kvs()[0].value_str().expect("text"), turn.to_string());
                    if turn % 4 == 0 {
                        increment(&mut client, "counter").await;
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("workers do not fail");
    }
    let total = (WORKERS * TURNS.div_ceil(4)) as u64;
    let mut client = connect(&server).await;
    let counter = client.get("counter", None).await.expect("get");
    assert_eq!(
        counter.kvs()[0].value_str().expect("text"),
        total.to_string()
    );
    assert_eq!(counter.kvs()[0].version(), total as i64);
    let count = GetOptions::new().with_prefix().with_count_only();
    let count = client.get("own/", Some(count)).await.expect("get");
    assert_eq!(count.count(), (WORKERS * TURNS) as i64);
    let mut seen = 0;
    while seen < total {
        let response = stream.message().await.expect("a message").expect("goes on");
        for event in response.events() {
            seen += 1;
            let kv = event.kv().expect("an event has a kv");
            assert_eq!(
                kv.value_str().expect("text"),
                seen.to_string(),
                "each one, in order"
            );
        }
    }
}

#[tokio::test]
async fn watches_on_one_stream_with_history_filters_and_progress() {
    let server = Server::start("client-watch").await;
    let mut client = connect(&server).await;
    let first = client.put("w/a", "1", None).await.expect("put");
    let first = first.header().expect("a header").revision();
    client.delete("w/a", None).await.expect("delete");
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(first)
        .with_prev_key()
        .with_watch_id(5);
    let mut stream = client.watch("w/", Some(options)).await.expect("watch");
    let created = stream.message().await.expect("a message").expect("created");
    assert_eq!((created.created(), created.watch_id()), (true, 5));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let response = stream.message().await.expect("a message").expect("goes on");
        for event in response.events() {
            let prev = event
                .prev_kv()
                .map(|kv| kv.value_str().expect("text").to_owned());
            seen.push((event.event_type(), prev));
        }
    }
    assert_eq!(
        seen,
        [
            (EventType::Put, None),
            (EventType::Delete, Some("1".to_owned()))
        ]
    );
    loop {
        stream.request_progress().await.expect("request");
        let wait = tokio::time::timeout(Duration::from_millis(200), stream.message()).await;
        let Ok(response) = wait else { continue };
        let response = response.expect("a message").expect("goes on");
        assert!(response.events().is_empty());
        assert_eq!(response.header().expect("a header").revision(), first + 1);
        break;
    }
    stream.cancel(5).await.expect("cancel");
    loop {
        let response = stream.message().await.expect("a message").expect("goes on");
        if response.canceled() {
            assert_eq!(response.watch_id(), 5);
            break;
        }
    }
}

#[tokio::test]
async fn a_kept_lease_lives_and_a_dropped_one_takes_its_keys() {
    let server = Server::start("client-lease").await;
    let mut client = connect(&server).await;
    let lease = client.lease_grant(2, None).await.expect("grant");
    let with_lease = PutOptions::new().with_lease(lease.id());
    client
        .put("leased", "v", Some(with_lease))
        .await
        .expect("put");
    let (mut keeper, mut answers) = client
        .lease_keep_alive(lease.id())
        .await
        .expect("keep alive");
    for _ in 0..10 {
        keeper.keep_alive().await.expect("keep alive");
        let answer = answers
            .message()
            .await
            .expect("a message")
            .expect("goes on");
        assert_eq!((answer.id(), answer.ttl()), (lease.id(), 2));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(client.get("leased", None).await.expect("get").count(), 1);
    assert_eq!(client.leases().await.expect("leases").leases().len(), 1);
    eventually("the lease expires", || {
        let mut client = client.clone();
        async move {
            let left = client.get("leased", None).await.expect("get").count();
            (left == 0).then_some(())
        }
    })
    .await;
    keeper.keep_alive().await.expect("keep alive");
    let answer = answers
        .message()
        .await
        .expect("a message")
        .expect("goes on");
    assert_eq!(answer.ttl(), 0);
}

#[tokio::test]
async fn transactions_maintenance_and_errors() {
    let server = Server::start("client-misc").await;
    let mut client = connect(&server).await;
    let nested = Txn::new().and_then([TxnOp::put("n", "1", None)]);
    let txn = Txn::new()
        .when([Compare::version("t", CompareOp::Equal, 0)])
        .and_then([
            TxnOp::put("t", "1", None),
            TxnOp::txn(nested),
            TxnOp::get("n", None),
        ]);
    let done = client.txn(txn).await.expect("txn");
    assert!(done.succeeded());
    assert_eq!(done.op_responses().len(), 3);
    let revision = done.header().expect("a header").revision();

    let status = client.status().await.expect("status");
    assert_eq!(
        status.leader(),
        status.header().expect("a header").member_id()
    );
    let members = client.member_list().await.expect("members");
    assert_eq!(members.members().len(), 1);
    assert_eq!(members.members()[0].id(), status.leader());
    assert!(client.hash_kv(0).await.expect("hash").hash() > 0);
    client.defragment().await.expect("defragment");

    client.put("t", "2", None).await.expect("put");
    client.compact(revision + 1, None).await.expect("compact");
    let old = GetOptions::new().with_revision(revision);
    let refused = client.get("t", Some(old)).await.expect_err("compacted");
    let Error::GRpcStatus(status) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        status.message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    tokio::time::timeout(DEADLINE, client.put("t", "3", None))
        .await
        .expect("the client is still served")
        .expect("put");
}
