//! G-API-3, G-P-1: clients that are broken, greedy or hostile. Each of them gets a clear error or
//! nothing; the server stays up, its memory bounded, and goes on serving the others.

mod connections;
mod messages;
mod slow_readers;

use std::time::Duration;

use crate::harness::{Clients, DEADLINE, Server};

/// A well-behaved client is served: it writes, and reads what it wrote.
async fn serves_others(server: &Server) {
    let served = async {
        let clients: Clients = server.clients().await;
        let value = format!("{:?}", std::time::Instant::now());
        let revision = clients.put_key("served", &value).await;
        let read = clients.range(crate::harness::shapes::get("served")).await;
        assert_eq!(read.kvs[0].value, value.as_bytes());
        assert_eq!(read.kvs[0].mod_revision, revision);
    };
    tokio::time::timeout(DEADLINE, served)
        .await
        .expect("others are served meanwhile");
}

/// Time for a server to do something wrong, where nothing it does right can be waited for.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
