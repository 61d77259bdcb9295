//! A leader that is lost while commands are under way: what their clients hear, and when.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use super::cluster::{ports, put, start_with};
use super::harness::{Server, ServerKind, failure, heavy, shapes};

/// etcd's limit for a request, with the default timers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// Which of the members leads.
async fn leader_of(servers: &[Server]) -> usize {
    for (index, server) in servers.iter().enumerate() {
        let status = server.clients().await.status().await;
        if status.leader == status.header.expect("a header").member_id {
            return index;
        }
    }
    panic!("nobody leads");
}

fn unavailable(text: &str) -> (Code, String) {
    (Code::Unavailable, format!("etcdserver: {text}"))
}

/// What came of a call, and how long it took.
async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> (Result<T, Status>, Duration) {
    let began = Instant::now();
    let answer = call.await;
    (answer, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_what_was_under_way_to_a_lost_leader_is_answered_in_etcds_words() {
    let _alone = heavy().await;
    let mut servers = start_with("leader-loss", &ports(), &[]).await;
    put(&servers[0], "before").await;
    let leader = leader_of(&servers).await;
    let follower = (leader + 1) % servers.len();
    let clients = servers[follower].clients().await;
    let (mut kv, mut reading) = (clients.kv.clone(), clients.kv.clone());
    // It takes nothing any more, and its links stay open.
    servers[leader].pause();
    let (write, read) = tokio::join!(
        timed(kv.put(shapes::put("lost", "x"))),
        timed(reading.range(shapes::get("before")))
    );
    let (refused, took) = write;
    let refused = refused.expect_err("the leader never took it");
    let expected = "request timed out, possibly due to previous leader failure";
    assert_eq!(failure(&refused), unavailable(expected));
    let (answer, read_took) = read;
    match servers[0].kind() {
        ServerKind::Etcd => {
            let refused = answer.expect_err("etcd's clients ask again");
            assert_eq!(failure(&refused), unavailable("leader changed"));
        }
        // Sooner than etcd, which lets the time run out.
        ServerKind::Keelson => {
            assert!(took < REQUEST_TIMEOUT, "{took:?}");
            let found = answer.expect("the next leader is asked").into_inner();
            assert_eq!(found.count, 1);
        }
    }
    assert!(read_took < REQUEST_TIMEOUT, "{read_took:?}");

    // What the old leader itself had under way, it learns from its successor's log.
    let old = servers[leader].clients();
    servers[leader].signal(libc::SIGCONT);
    let mut old = old.await.kv;
    let again = old.put(shapes::put("after", "x")).await;
    again.expect("it has a leader again, and tells it");
    for server in &mut servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_without_a_quorum_requests_time_out() {
    let _alone = heavy().await;
    let mut servers = start_with("no-quorum", &ports(), &[]).await;
    put(&servers[0], "before").await;
    let leader = leader_of(&servers).await;
    let last = (leader + 1) % servers.len();
    let clients = servers[last].clients().await;
    for index in (0..servers.len()).filter(|index| *index != last) {
        servers[index].kill9();
    }
    let mut kv = clients.kv.clone();
    let (answer, took) = timed(kv.range(shapes::get("before"))).await;
    let refused = answer.expect_err("nobody can say what is newest");
    assert_eq!(failure(&refused), unavailable("request timed out"));
    assert!(took >= REQUEST_TIMEOUT, "{took:?}");
    if servers[last].kind() == ServerKind::Keelson {
        // etcd's waits behind the ones before it.
        assert!(took < REQUEST_TIMEOUT + Duration::from_secs(2), "{took:?}");
    }
    let write = kv.put(shapes::put("lost", "x")).await;
    let refused = write.expect_err("nobody takes it");
    // etcd's clients hear here that a context's deadline is exceeded; it means that no leader was found.
    let expected = match servers[last].kind() {
        ServerKind::Etcd => (Code::Unknown, "context deadline exceeded".to_owned()),
        ServerKind::Keelson => unavailable("no leader"),
    };
    assert_eq!(failure(&refused), expected);
    servers[last].kill9();
}
