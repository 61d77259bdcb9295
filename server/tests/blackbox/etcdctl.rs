//! etcdctl 3.5.1 against the server: every command that a single member without auth serves, with
//! what it must print.

use serde_json::Value;

use crate::harness::{Etcdctl, Server, eventually};

async fn start(name: &str) -> (Server, Etcdctl) {
    let server = Server::start(name).await;
    let etcdctl = Etcdctl::new(server.address());
    (server, etcdctl)
}

/// The plain text of a base64 JSON field.
fn text(value: &Value) -> String {
    let encoded = value.as_str().expect("a base64 string");
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut plain = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in encoded.bytes().filter(|&byte| byte != b'=') {
        bits = bits << 6 | u32::from(digit(byte));
        count += 6;
        if count >= 8 {
            count -= 8;
            plain.push((bits >> count & 0xff) as u8);
        }
    }
    String::from_utf8(plain).expect("the tests write text")
}

#[tokio::test]
async fn put_and_get() {
    let (_server, ctl) = start("ctl-put-get").await;
    assert_eq!(ctl.ok(&["put", "a", "1"]).await, "OK\n");
    assert_eq!(ctl.ok(&["put", "a", "2", "--prev-kv"]).await, "OK\na\n1\n");
    assert_eq!(ctl.ok(&["get", "a"]).await, "a\n2\n");
    assert_eq!(ctl.ok(&["get", "none"]).await, "");
    let stdin = ctl.run(&["put", "from-stdin"], "typed text").await;
    assert_eq!((stdin.ok, stdin.out.as_str()), (true, "OK\n"));
    assert_eq!(
        ctl.ok(&["get", "from-stdin", "--print-value-only"]).await,
        "typed text\n"
    );
    assert_eq!(ctl.ok(&["put", "a", "--ignore-value"]).await, "OK\n");
    let got = ctl.json(&["get", "a"]).await;
    assert_eq!(got["kvs"][0]["version"], 3);
    assert_eq!(text(&got["kvs"][0]["value"]), "2");
    assert_eq!(got["count"], 1);
    for field in ["cluster_id", "member_id", "raft_term"] {
        assert!(
            got["header"][field].as_u64().expect("a number") > 0,
            "{field}"
        );
    }
    let fields = ctl.ok(&["get", "a", "-w", "fields"]).await;
    for line in [
        "\"Key\" : \"a\"",
        "\"Version\" : 3",
        "\"Value\" : \"2\"",
        "\"Lease\" : 0",
    ] {
        assert!(fields.contains(line), "{line} in {fields}");
    }
    let failures = [
        (&["put", "", "v"][..], "etcdserver: key is not provided"),
        (
            &["put", "none", "--ignore-value"],
            "etcdserver: key not found",
        ),
        (
            &["put", "none", "v", "--ignore-lease"],
            "etcdserver: key not found",
        ),
        (
            &["put", "a", "v", "--lease=beef"],
            "etcdserver: requested lease not found",
        ),
        (
            &["get", "a", "--rev=99"],
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ];
    for (arguments, wanted) in failures {
        let said = ctl.fails(arguments).await;
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

/// Flags of get, and the keys that come back, for keys created in the order d a c b of which a was
/// changed twice more.
const GET_CASES: &[(&str, &str)] = &[
    ("r/ --prefix", "a b c d"),
    ("r/b r/d", "b c"),
    ("r/c --from-key", "c d"),
    ("r/ --prefix --limit=2", "a b"),
    ("r/ --prefix --order=DESCEND", "d c b a"),
    ("r/ --prefix --sort-by=CREATE", "d a c b"),
    ("r/ --prefix --sort-by=CREATE --order=DESCEND", "b c a d"),
    ("r/ --prefix --sort-by=MODIFY", "d c b a"),
    ("r/ --prefix --sort-by=VALUE", "a d c b"),
    ("r/ --prefix --sort-by=VALUE --order=DESCEND", "b c d a"),
    (
        "r/ --prefix --sort-by=VERSION --order=DESCEND --limit=1",
        "a",
    ),
    (
        "r/ --prefix --sort-by=CREATE --order=ASCEND --limit=2",
        "d a",
    ),
    // Without an order the limit comes first: one key more than the limit is sorted.
    ("r/ --prefix --sort-by=CREATE --limit=2", "a c"),
    ("r/ --prefix --rev=4", "a c d"),
    ("r/ --prefix --consistency=s", "a b c d"),
];

#[tokio::test]
async fn get_with_every_flag() {
    let (_server, ctl) = start("ctl-get-flags").await;
    for (key, value) in [
        ("d", "v1"),
        ("a", "x"),
        ("c", "v2"),
        ("b", "v3"),
        ("a", "y"),
        ("a", "v0"),
    ] {
        ctl.ok(&["put", &format!("r/{key}"), value]).await;
    }
    for (arguments, wanted) in GET_CASES {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let arguments = [&["get", "--keys-only"], &arguments[..]].concat();
        let out = ctl.ok(&arguments).await;
        let keys: Vec<&str> = out
            .lines()
            .filter_map(|line| line.strip_prefix("r/"))
            .collect();
        assert_eq!(keys.join(" "), *wanted, "{arguments:?}");
    }
    assert_eq!(ctl.ok(&["get", "r/a", "--rev=3"]).await, "r/a\nx\n");
    let only = ctl.ok(&["get", "r/a", "r/c", "--print-value-only"]).await;
    assert_eq!(only, "v0\nv3\n");
    let count = ctl
        .ok(&["get", "r/", "--prefix", "--count-only", "-w", "fields"])
        .await;
    assert!(count.contains("\"Count\" : 4\n"), "{count}");
    let hex = ctl.ok(&["get", "r/a", "--hex"]).await;
    assert_eq!(hex, "\\x72\\x2f\\x61\n\\x76\\x30\n");
    let limited = ctl.json(&["get", "r/", "--prefix", "--limit=3"]).await;
    assert_eq!(
        (&limited["more"], &limited["count"]),
        (&Value::Bool(true), &Value::from(4))
    );
}

#[tokio::test]
async fn del() {
    let (_server, ctl) = start("ctl-del").await;
    for key in ["x1", "x2", "x3", "x4", "x5", "y"] {
        ctl.ok(&["put", key, "v"]).await;
    }
    assert_eq!(ctl.ok(&["del", "none"]).await, "0\n");
    assert_eq!(ctl.ok(&["del", "y", "--prev-kv"]).await, "1\ny\nv\n");
    assert_eq!(ctl.ok(&["del", "x1", "x3"]).await, "2\n");
    assert_eq!(ctl.ok(&["del", "x5", "--from-key"]).await, "1\n");
    assert_eq!(ctl.ok(&["del", "x", "--prefix"]).await, "2\n");
    assert_eq!(ctl.ok(&["get", "", "--from-key"]).await, "");
    let deleted = ctl.json(&["del", "none"]).await;
    assert!(deleted.get("deleted").is_none());
}

#[tokio::test]
async fn txn() {
    let (_server, ctl) = start("ctl-txn").await;
    ctl.ok(&["put", "k", "10"]).await;
    let compares = [
        ("value(\"k\") = \"10\"", true),
        ("value(\"k\") != \"10\"", false),
        ("val(\"k\") > \"09\"", true),
        ("version(\"k\") = \"1\"", true),
        ("create(\"k\") = \"2\"", true),
        ("mod(\"k\") < \"2\"", false),
        ("mod(\"none\") = \"0\"", true),
        ("value(\"none\") = \"\"", false),
    ];
    for (compare, wanted) in compares {
        let printed = ctl
            .run(&["txn"], &format!("{compare}\n\nget k\n\nget k\n\n"))
            .await;
        let verdict = if wanted { "SUCCESS" } else { "FAILURE" };
        assert_eq!(
            printed.out,
            format!("{verdict}\n\nk\n10\n"),
            "{compare}: {printed:?}"
        );
    }
    let ops = "value(\"k\") = \"10\"\n\nput n new\nget k\ndel k\n\nget n\n\n";
    let printed = ctl.run(&["txn"], ops).await;
    assert_eq!(printed.out, "SUCCESS\n\nOK\n\nk\n10\n\n1\n");
    assert_eq!(ctl.ok(&["get", "n"]).await, "n\nnew\n");
    assert_eq!(ctl.ok(&["get", "k"]).await, "");
    let printed = ctl.run(&["txn"], "\nput d 1\nput d 2\n\n\n").await;
    assert!(!printed.ok);
    assert!(
        printed
            .err
            .contains("etcdserver: duplicate key given in txn request"),
        "{printed:?}"
    );
    let json = ctl
        .run(&["txn", "-w", "json"], "\nput j1 1\nput j2 2\nget j1\n\n\n")
        .await;
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["succeeded"], true);
    assert_eq!(json["responses"].as_array().map(Vec::len), Some(3));
    let kv = &json["responses"][2]["Response"]["response_range"]["kvs"][0];
    assert_eq!(kv["mod_revision"], json["header"]["revision"]);
}

#[tokio::test]
async fn watch() {
    let (server, ctl) = start("ctl-watch").await;
    let clients = server.clients().await;
    let first = clients.put_key("w", "1").await;
    ctl.ok(&["put", "w2", "x"]).await;
    ctl.ok(&["put", "w", "2"]).await;
    ctl.ok(&["del", "w"]).await;
    let from = format!("--rev={first}");
    let mut key = ctl.follow(&["watch", "w", &from]);
    assert_eq!(
        key.take(8).await,
        ["PUT", "w", "1", "PUT", "w", "2", "DELETE", "w"]
    );
    ctl.ok(&["put", "w", "3"]).await;
    // A delete ends with an empty line for the missing value.
    let live = key.take(4).await;
    assert_eq!(live, ["", "PUT", "w", "3"]);
    let mut prefix = ctl.follow(&["watch", "w", "--prefix", &from]);
    assert_eq!(prefix.take(6).await, ["PUT", "w", "1", "PUT", "w2", "x"]);
    let mut prev = ctl.follow(&["watch", "w", "--prev-kv", &from]);
    assert_eq!(
        prev.take(8).await,
        ["PUT", "w", "1", "PUT", "w", "1", "w", "2"]
    );
    let mut json = ctl.follow(&["watch", "w", "w3", "-w", "json", &from]);
    let event: Value = serde_json::from_str(&json.line().await).expect("JSON");
    assert_eq!(event["Events"][0]["kv"]["mod_revision"], first);
    assert_eq!(text(&event["Events"][0]["kv"]["key"]), "w");
    let script = "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
    let mut exec = ctl.follow(&["watch", "w2", &from, "--", "sh", "-c", script]);
    let ran = "\"PUT\" \"w2\" \"x\"";
    assert_eq!(exec.take(4).await, ["PUT", "w2", "x", ran]);

    let mut typed = ctl.follow(&["watch", "-i"]);
    typed.say(&format!("watch w2 --rev={first}")).await;
    assert_eq!(typed.take(3).await, ["PUT", "w2", "x"]);
    typed.say("progress").await;
    let now = clients.revision().await;
    assert_eq!(typed.line().await, format!("progress notify: {now}"));

    clients.compact(now).await;
    let said = ctl.fails(&["watch", "w", &from]).await;
    assert!(
        said.contains("required revision has been compacted"),
        "{said}"
    );
}

#[tokio::test]
async fn lease() {
    let (_server, ctl) = start("ctl-lease").await;
    let granted = ctl.ok(&["lease", "grant", "300"]).await;
    let id = granted
        .split(' ')
        .nth(1)
        .expect("lease ID granted")
        .to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(300s)\n"));
    let decimal = i64::from_str_radix(&id, 16).expect("lease ids are printed in hex");
    let with_lease = format!("--lease={id}");
    assert_eq!(ctl.ok(&["put", "l/1", "v", &with_lease]).await, "OK\n");
    ctl.ok(&["put", "l/2", "v", &with_lease]).await;
    assert_eq!(ctl.json(&["get", "l/1"]).await["kvs"][0]["lease"], decimal);
    let left = ctl.ok(&["lease", "timetolive", &id]).await;
    assert!(
        left.starts_with(&format!("lease {id} granted with TTL(300s), remaining(")),
        "{left}"
    );
    let keys = ctl.json(&["lease", "timetolive", &id, "--keys"]).await;
    assert_eq!(keys["granted-ttl"], 300);
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2));
    let list = ctl.ok(&["lease", "list"]).await;
    assert_eq!(list, format!("found 1 leases\n{id}\n"));
    let kept = ctl.ok(&["lease", "keep-alive", "--once", &id]).await;
    assert_eq!(kept, format!("lease {id} keepalived with TTL(300)\n"));
    assert_eq!(
        ctl.ok(&["lease", "revoke", &id]).await,
        format!("lease {id} revoked\n")
    );
    assert_eq!(ctl.ok(&["get", "l/", "--prefix"]).await, "");
    let gone = ctl.ok(&["lease", "timetolive", &id]).await;
    assert_eq!(gone, format!("lease {id} already expired\n"));
    let said = ctl.fails(&["lease", "revoke", &id]).await;
    assert!(
        said.contains("etcdserver: requested lease not found"),
        "{said}"
    );
    let said = ctl.fails(&["lease", "grant", "9000000001"]).await;
    assert!(said.contains("etcdserver: too large lease TTL"), "{said}");
    assert_eq!(ctl.ok(&["lease", "list"]).await, "found 0 leases\n");

    // A lease that is kept alive outlives its TTL; let go, it ends and takes its key along.
    let granted = ctl.ok(&["lease", "grant", "2"]).await;
    let id = granted
        .split(' ')
        .nth(1)
        .expect("lease ID granted")
        .to_owned();
    ctl.ok(&["put", "l/3", "v", &format!("--lease={id}")]).await;
    let mut keeper = ctl.follow(&["lease", "keep-alive", &id]);
    for _ in 0..4 {
        assert_eq!(
            keeper.line().await,
            format!("lease {id} keepalived with TTL(2)")
        );
    }
    drop(keeper);
    eventually("the lease expires", || async {
        ctl.ok(&["get", "l/3"]).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn compaction_and_defrag() {
    let (server, ctl) = start("ctl-compaction").await;
    for value in ["1", "2", "3"] {
        ctl.ok(&["put", "c", value]).await;
    }
    assert_eq!(ctl.ok(&["compaction", "3"]).await, "compacted revision 3\n");
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert!(ctl.fails(&["compaction", "3"]).await.contains(compacted));
    assert!(ctl.fails(&["compaction", "9"]).await.contains(future));
    assert!(
        ctl.fails(&["get", "c", "--rev=2"])
            .await
            .contains(compacted)
    );
    assert_eq!(ctl.ok(&["get", "c", "--rev=3"]).await, "c\n2\n");
    let physical = ctl.ok(&["compaction", "--physical", "4"]).await;
    assert_eq!(physical, "compacted revision 4\n");
    let done = format!("Finished defragmenting etcd member[{}]\n", server.address());
    assert_eq!(ctl.ok(&["defrag"]).await, done);
    assert!(
        ctl.ok(&["defrag", "--cluster"])
            .await
            .contains("Finished defragmenting")
    );
    assert_eq!(ctl.ok(&["get", "c"]).await, "c\n3\n");
}

#[tokio::test]
async fn endpoint_health_status_and_hashkv() {
    let (server, ctl) = start("ctl-endpoint").await;
    ctl.ok(&["put", "k", "v"]).await;
    let address = server.address();
    let health = ctl.run(&["endpoint", "health"], "").await;
    let healthy = format!("{address} is healthy: successfully committed proposal: took = ");
    assert!(health.ok && (health.out + &health.err).contains(&healthy));
    assert_eq!(
        ctl.json(&["endpoint", "health", "--cluster"]).await[0]["health"],
        true
    );

    let status = ctl.json(&["endpoint", "status"]).await;
    let status = &status[0]["Status"];
    for field in [
        "dbSize",
        "leader",
        "raftIndex",
        "raftTerm",
        "raftAppliedIndex",
        "dbSizeInUse",
    ] {
        assert!(
            status[field].as_u64().is_some_and(|number| number > 0),
            "{field} in {status}"
        );
    }
    assert_eq!(status["header"]["member_id"], status["leader"]);
    assert!(status["dbSizeInUse"].as_u64() <= status["dbSize"].as_u64());
    let simple = ctl.ok(&["endpoint", "status"]).await;
    let columns: Vec<&str> = simple.trim_end_matches('\n').split(", ").collect();
    assert_eq!(columns.len(), 10, "{simple}");
    assert_eq!(
        (columns[0], columns[4], columns[5]),
        (address.as_str(), "true", "false")
    );
    assert!(columns[2].starts_with("3."), "{simple}");
    let table = ctl
        .ok(&["endpoint", "status", "--cluster", "-w", "table"])
        .await;
    assert!(
        table.contains("IS LEADER") && table.contains("RAFT APPLIED INDEX"),
        "{table}"
    );

    let hash = ctl.json(&["endpoint", "hashkv"]).await;
    assert!(hash[0]["HashKV"]["hash"].as_u64().expect("a number") > 0);
    let at = ctl.ok(&["endpoint", "hashkv", "--rev=2"]).await;
    ctl.ok(&["put", "k", "w"]).await;
    assert_eq!(ctl.ok(&["endpoint", "hashkv", "--rev=2"]).await, at);
    assert_ne!(ctl.ok(&["endpoint", "hashkv"]).await, at);
}

#[tokio::test]
async fn member_list_and_alarms() {
    let (server, ctl) = start("ctl-members").await;
    let list = ctl.ok(&["member", "list"]).await;
    let columns: Vec<&str> = list.trim_end().split(", ").collect();
    let [id, "started", "m1", peer, client, "false"] = columns[..] else {
        panic!("{list}");
    };
    assert_eq!(
        (peer, client),
        (server.peer_url().as_str(), server.endpoint().as_str())
    );
    let json = ctl.json(&["member", "list"]).await;
    let number = json["members"][0]["ID"].as_u64().expect("a number");
    assert_eq!(format!("{number:x}"), id);
    assert_eq!(json["header"]["member_id"].as_u64(), Some(number));
    let table = ctl.ok(&["member", "list", "-w", "table"]).await;
    assert!(
        table.contains("PEER ADDRS") && table.contains("m1"),
        "{table}"
    );
    assert_eq!(ctl.ok(&["alarm", "list"]).await, "");
    assert_eq!(ctl.ok(&["alarm", "disarm"]).await, "");
}

#[tokio::test]
async fn lock_and_elect_need_only_leases_transactions_and_watches() {
    let (_server, ctl) = start("ctl-lock").await;
    let printed = ctl
        .ok(&["lock", "name", "--", "sh", "-c", "echo held $ETCD_LOCK_KEY"])
        .await;
    assert!(printed.starts_with("held name/"), "{printed}");
    assert_eq!(ctl.ok(&["get", "name", "--prefix"]).await, "");
    let mut holder = ctl.follow(&["lock", "other", "--ttl=10"]);
    let key = holder.line().await;
    assert!(key.starts_with("other/"), "{key}");
    assert!(!ctl.ok(&["get", &key]).await.is_empty());
    let mut leader = ctl.follow(&["elect", "race", "first"]);
    assert!(leader.line().await.starts_with("race/"));
    assert_eq!(leader.line().await, "first");
    let mut listener = ctl.follow(&["elect", "race", "-l"]);
    assert!(listener.line().await.starts_with("race/"));
    assert_eq!(listener.line().await, "first");
}
