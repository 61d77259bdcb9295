//! The words and flags of `keelson snapshot` and `keelson inspect`.

use super::*;
use crate::backup::Founding;

pub(in crate::cli) fn invoke(arguments: &str) -> Result<Invocation, CliError> {
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    super::super::parse(&arguments, &[], |_| Err("there is no file".to_owned()))
}

pub(in crate::cli) fn snapshot(arguments: &str) -> SnapshotCommand {
    match invoke(arguments) {
        Ok(Invocation::Snapshot(command)) => *command,
        other => panic!("{arguments}: {other:?}"),
    }
}

pub(in crate::cli) fn url(text: &str) -> HttpUrl {
    HttpUrl::parse(text).expect("a URL")
}

#[test]
fn flags_may_stand_before_and_behind_the_file() {
    let wanted = SnapshotCommand::Save(Save {
        file: "a.db".into(),
        endpoint: url("http://10.0.0.1:99"),
        dial_timeout: Duration::from_secs(2),
    });
    for arguments in [
        "snapshot save a.db --endpoints 10.0.0.1:99",
        "snapshot save --endpoints=http://10.0.0.1:99 a.db",
    ] {
        assert_eq!(snapshot(arguments), wanted);
    }
    let status = |output| {
        SnapshotCommand::Status(Status {
            file: "a.db".into(),
            output,
        })
    };
    assert_eq!(
        snapshot("snapshot status a.db"),
        status(StatusOutput::Simple)
    );
    assert_eq!(
        snapshot("snapshot status -w table a.db"),
        status(StatusOutput::Table)
    );
    assert_eq!(
        snapshot("snapshot status a.db --write-out=json"),
        status(StatusOutput::Json)
    );
}

#[test]
fn restore_has_etcdutls_flags_and_defaults() {
    let least = Restore {
        file: "a.db".into(),
        data_dir: "d".into(),
        founding: Founding {
            name: "default".to_owned(),
            cluster_token: "etcd-cluster".to_owned(),
            peer_urls: vec![url("http://localhost:2380")],
        },
        shards: Vec::new(),
        revision_bump: 0,
        skip_hash_check: false,
    };
    assert_eq!(
        snapshot("snapshot restore a.db --data-dir d"),
        SnapshotCommand::Restore(least.clone())
    );
    let all = "snapshot restore a.db --data-dir=d --name m1 --initial-cluster m1=http://b:2,m1=http://a:1 \
               --initial-cluster-token t --initial-advertise-peer-urls http://a:1,http://b:2 --bump-revision 1000000 \
               --mark-compacted --skip-hash-check=true --shard events=e.db --shard=leases=l=.db";
    let wanted = Restore {
        founding: Founding {
            name: "m1".to_owned(),
            cluster_token: "t".to_owned(),
            peer_urls: vec![url("http://a:1"), url("http://b:2")],
        },
        shards: vec![
            ("events".to_owned(), "e.db".into()),
            ("leases".to_owned(), "l=.db".into()),
        ],
        revision_bump: 1_000_000,
        skip_hash_check: true,
        ..least
    };
    assert_eq!(snapshot(all), SnapshotCommand::Restore(wanted));
}

#[test]
fn inspect_has_four_tasks() {
    let simple = DumpOutput::Simple;
    let values = Task::DumpSnapshot { values: true };
    let hash = Task::Hash { revision: 7 };
    for (arguments, shard, output, task) in [
        ("verify --data-dir d", None, simple, Task::Verify),
        (
            "dump-wal --data-dir=d -w json",
            None,
            DumpOutput::Json,
            Task::DumpWal,
        ),
        (
            "dump-snapshot --values --data-dir d --shard=events",
            Some("events"),
            simple,
            values,
        ),
        ("hash --data-dir d --rev 7", None, simple, hash),
    ] {
        match invoke(&format!("inspect {arguments}")) {
            Ok(Invocation::Inspect(inspect)) => {
                let wanted = Inspect {
                    data_dir: "d".into(),
                    shard: shard.map(str::to_owned),
                    output,
                    task,
                };
                assert_eq!(*inspect, wanted);
            }
            other => panic!("{arguments}: {other:?}"),
        }
    }
}

#[test]
fn what_must_be_mended_is_said() {
    for (arguments, code, said) in [
        ("snapshot", 2, "Usage: keelson snapshot <COMMAND>"),
        ("snapshot save", 2, "<FILE>"),
        ("snapshot frob", 2, "unrecognized subcommand 'frob'"),
        ("snapshot save a b", 2, "unexpected argument 'b'"),
        (
            "snapshot save a --endpoints a:1,b:2",
            2,
            "a backup is one member's: name one of them",
        ),
        ("snapshot save a --endpoints https://a:1", 2, "TLS"),
        ("snapshot save a --cacert x", 1, "TLS is not available yet"),
        (
            "snapshot save a --user root:x",
            1,
            "users are not available yet",
        ),
        ("snapshot status a -w fields", 2, "invalid value 'fields'"),
        ("snapshot restore a", 2, "--data-dir"),
        (
            "snapshot restore a --data-dir d --wal-dir w",
            1,
            "the log lies in the data directory",
        ),
        (
            "snapshot restore a --data-dir d --bump-revision 5",
            2,
            "--mark-compacted is required",
        ),
        (
            "snapshot restore a --data-dir d --mark-compacted",
            2,
            "--mark-compacted is required if --bump-revision is above 0, and not allowed otherwise",
        ),
        (
            "snapshot restore a --data-dir d --name m1 --initial-cluster m2=http://localhost:2380",
            1,
            "--initial-cluster does not name this member \"m1\"",
        ),
        (
            "snapshot restore a --data-dir d --initial-cluster default=http://a:1",
            1,
            "make them agree",
        ),
        (
            "snapshot restore a --data-dir d --initial-cluster default=http://localhost:2380,b=http://b:1",
            1,
            "a restored cluster begins with one",
        ),
        ("inspect", 2, "Usage: keelson inspect <COMMAND>"),
        ("inspect verify", 2, "--data-dir"),
    ] {
        match invoke(arguments) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(said), "{arguments}: {text}");
                assert_eq!(error.exit_code(), code, "{arguments}: {text}");
            }
            Ok(other) => panic!("{arguments}: {other:?}"),
        }
    }
    match invoke("snapshot restore --help") {
        Ok(Invocation::Print(help)) => assert!(help.contains("--bump-revision"), "{help}"),
        other => panic!("{other:?}"),
    }
}
