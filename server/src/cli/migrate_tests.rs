//! The words and flags of `keelson snapshot import` and `keelson snapshot export`.

use super::*;
use crate::backup::SnapshotCommand;
use crate::cli::snapshot::tests::{invoke, snapshot, url};

#[test]
fn g_d_7_import_has_the_flags_of_a_restore() {
    let least = Import {
        source: "a.db".into(),
        data_dir: "d".into(),
        founding: Founding {
            name: "default".to_owned(),
            cluster_token: "etcd-cluster".to_owned(),
            peer_urls: vec![url("http://localhost:2380")],
        },
        wal_dir: None,
        skip_hash_check: false,
        without_auth: false,
    };
    assert_eq!(
        snapshot("snapshot import a.db --data-dir d"),
        SnapshotCommand::Import(least.clone())
    );
    let all = "snapshot import --data-dir=d --name m1 --initial-cluster m1=http://b:2,m1=http://a:1 a.db \
               --initial-cluster-token t --initial-advertise-peer-urls http://a:1,http://b:2 --wal-dir /w \
               --skip-hash-check --without-auth=true";
    let wanted = Import {
        founding: Founding {
            name: "m1".to_owned(),
            cluster_token: "t".to_owned(),
            peer_urls: vec![url("http://a:1"), url("http://b:2")],
        },
        wal_dir: Some("/w".into()),
        skip_hash_check: true,
        without_auth: true,
        ..least
    };
    assert_eq!(snapshot(all), SnapshotCommand::Import(wanted));
}

#[test]
fn g_d_7_an_export_has_one_source() {
    let wanted = |source, skip_hash_check| {
        SnapshotCommand::Export(Export {
            file: "e.db".into(),
            source,
            skip_hash_check,
        })
    };
    let data_dir = ExportSource::DataDir {
        path: "d".into(),
        shard: None,
    };
    assert_eq!(
        snapshot("snapshot export e.db --format etcd --data-dir d"),
        wanted(data_dir, false)
    );
    let of_shard = ExportSource::DataDir {
        path: "d".into(),
        shard: Some("events".to_owned()),
    };
    assert_eq!(
        snapshot("snapshot export e.db --data-dir d --shard events"),
        wanted(of_shard, false)
    );
    let backup = ExportSource::Backup("b".into());
    assert_eq!(
        snapshot("snapshot export e.db --from=b --skip-hash-check"),
        wanted(backup, true)
    );
    for wrong in [
        "snapshot export e.db",
        "snapshot export e.db --from b --data-dir d",
        "snapshot export --from b",
        "snapshot export e.db --from b --shard events",
        "snapshot export e.db --from b --format bolt",
        "snapshot import --data-dir d",
        "snapshot import a.db",
        "snapshot import a.db --data-dir d --name x --initial-cluster y=http://localhost:2380",
        "snapshot import a.db --data-dir d --initial-advertise-peer-urls=",
    ] {
        assert!(invoke(wrong).is_err(), "{wrong}");
    }
}
