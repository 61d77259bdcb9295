//! Random content comes back as it was written, and damaged databases end in an error.

use std::path::Path;

use keelson_proto::etcdserverpb::AlarmMember;
use proptest::prelude::*;

use super::{
    EtcdAuth, EtcdCluster, EtcdContents, EtcdDb, EtcdDbError, EtcdDbOptions, EtcdDbWriter,
    EtcdLease, EtcdMember, EtcdMeta, EtcdRevision, KeyEntry, KeyValueRef, NamedMessage,
};
use crate::bbolt::BoltWriter;
use crate::ids::{LeaseId, MemberId, RaftIndex, Revision, Term};

fn open_unhashed(path: &Path) -> Result<EtcdDb, EtcdDbError> {
    let options = EtcdDbOptions {
        skip_hash_check: true,
        ..EtcdDbOptions::default()
    };
    EtcdDb::open(path, &options, &mut |_| {})
}

/// A change of a history under test: key, value and lease, or a deletion.
type Change = (Vec<u8>, Option<(Vec<u8>, i64)>);

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let key = prop::collection::vec(any::<u8>(), 1..20);
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let change = (key, prop::option::weighted(0.8, (value, any::<i64>())));
    prop::collection::vec(prop::collection::vec(change, 1..4), 0..60)
}

fn named() -> impl Strategy<Value = Vec<NamedMessage>> {
    let entry = prop::collection::vec(any::<u8>(), 1..40);
    let message = prop::collection::vec(any::<u8>(), 0..100);
    prop::collection::btree_map(entry, message, 0..20).prop_map(|entries| {
        let entries = entries.into_iter();
        entries
            .map(|(name, message)| NamedMessage { name, message })
            .collect()
    })
}

fn contents() -> impl Strategy<Value = EtcdContents> {
    let revision = || prop::option::of((0..i64::MAX).prop_map(Revision));
    let meta = (
        prop::option::of(any::<u64>().prop_map(RaftIndex)),
        prop::option::of(any::<u64>().prop_map(Term)),
        revision(),
        revision(),
        prop::option::of("\\PC{0,40}"),
    );
    let leases = prop::collection::btree_map(any::<u64>(), any::<(i64, i64)>(), 0..100);
    let members = prop::collection::btree_map(
        any::<u64>().prop_map(|id| format!("{id:x}")),
        (
            "\\PC{0,10}",
            prop::collection::vec("\\PC{0,30}", 0..3),
            any::<bool>(),
        ),
        0..5,
    );
    let auth = (any::<bool>(), any::<u64>(), named(), named());
    (meta, leases, members, auth, any::<u64>()).prop_map(|(meta, leases, members, auth, alarm)| {
        EtcdContents {
            meta: EtcdMeta {
                consistent_index: meta.0,
                term: meta.1,
                scheduled_compact: meta.2,
                finished_compact: meta.3,
                conf_state: meta.4.clone(),
                storage_version: meta.4,
            },
            leases: leases
                .into_iter()
                .map(|(id, (ttl_seconds, remaining_ttl_seconds))| EtcdLease {
                    id: LeaseId(id as i64),
                    ttl_seconds,
                    remaining_ttl_seconds,
                })
                .collect(),
            alarms: vec![AlarmMember {
                member_id: alarm,
                alarm: 1,
            }],
            auth: EtcdAuth {
                is_enabled: auth.0,
                revision: auth.1,
                users: auth.2,
                roles: auth.3,
            },
            members: members
                .into_iter()
                .map(|(id, (name, urls, is_learner))| EtcdMember {
                    id: MemberId(u64::from_str_radix(&id, 16).unwrap()),
                    name,
                    peer_urls: urls.clone(),
                    client_urls: urls,
                    is_learner,
                })
                .collect(),
            members_removed: vec![MemberId(alarm)],
            cluster: EtcdCluster {
                version: Some("3.5.0".to_owned()),
                downgrade: None,
            },
        }
    })
}

/// The version a change makes, as far as the reader checks it.
fn version(
    revision: Revision,
    key: &[u8],
    value: &(Vec<u8>, i64),
) -> (Vec<u8>, KeyValueRef<'static>) {
    let change = KeyValueRef {
        key: &[],
        create_revision: Revision(1 + revision.0 % 7),
        mod_revision: revision,
        version: 1 + value.1.rem_euclid(1000),
        value: &[],
        lease: LeaseId(value.1),
    };
    (key.to_vec(), change)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_database_comes_back_as_it_was_written(
        history in changes(),
        contents in contents(),
        jump in 0_i64..1_000_000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut writer = EtcdDbWriter::create(&path).unwrap();
        let mut wanted = Vec::new();
        for (at, request) in history.iter().enumerate() {
            let main = Revision(8 + jump + at as i64);
            for (sub, (key, value)) in request.iter().enumerate() {
                let revision = EtcdRevision { main, sub: sub as i64 };
                wanted.push((revision, key, value));
                match value {
                    None => writer.delete(revision, key).unwrap(),
                    Some(stored) => {
                        let (_, change) = version(main, key, stored);
                        let change = KeyValueRef { key, value: &stored.0, ..change };
                        writer.put(revision, &change).unwrap();
                    }
                }
            }
        }
        let summary = writer.finish(&contents, &mut |_| {}).unwrap();
        prop_assert_eq!(summary.entry_count, wanted.len() as u64);
        let db = EtcdDb::open(&path, &EtcdDbOptions::default(), &mut |_| {}).unwrap();
        let mut entries = db.entries().unwrap();
        for (revision, key, value) in wanted {
            let entry = entries.next_entry().unwrap().unwrap();
            let change = match value {
                None => KeyValueRef { key, ..KeyValueRef::default() },
                Some(stored) => {
                    let (_, change) = version(revision.main, key, stored);
                    KeyValueRef { key, value: &stored.0, ..change }
                }
            };
            let is_tombstone = value.is_none();
            prop_assert_eq!(entry, KeyEntry { revision, is_tombstone, change: Some(change) });
        }
        prop_assert!(entries.next_entry().unwrap().is_none());
        let read = db.contents().unwrap();
        let mut sorted = contents.clone();
        sorted.leases.sort_by_key(|lease| lease.id.0 as u64);
        prop_assert_eq!(read, sorted);
    }

    #[test]
    fn any_entry_is_decoded_or_refused(
        key in prop::collection::vec(any::<u8>(), 0..20),
        message in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = KeyEntry::decode(&key, &message);
        let _ = KeyValueRef::decode(&message);
    }

    #[test]
    fn mutated_snapshots_never_panic_and_always_end(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let golden = include_bytes!("golden/etcd-3.5.1-snapshot.db");
        let mut bytes = golden.to_vec();
        for (place, value) in changes {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(db) = open_unhashed(&path) {
            let _ = db.contents();
            let _ = db.revision();
            let mut entries = db.entries().unwrap();
            let mut count = 0;
            while let Ok(Some(_)) = entries.next_entry() {
                count += 1;
                prop_assert!(count < 2000);
            }
            let is_whole = entries.next_entry().is_ok();
            prop_assert_eq!(entries.next_entry().is_ok(), is_whole);
        }
    }
}

/// A database with one entry in one bucket beside the two there must be.
fn with_entry(path: &Path, bucket: &str, key: &[u8], value: &[u8]) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = BoltWriter::new(file, "db".to_owned()).unwrap();
    for name in ["key", "meta"] {
        if name != bucket {
            writer.begin_bucket(name.as_bytes());
            writer.end_bucket().unwrap();
        }
    }
    writer.begin_bucket(bucket.as_bytes());
    writer.put(key, value).unwrap();
    writer.end_bucket().unwrap();
    writer.finish().unwrap();
}

fn read_all(path: &Path) -> Result<(), EtcdDbError> {
    let db = open_unhashed(path)?;
    db.contents()?;
    db.revision()?;
    let mut entries = db.entries()?;
    while entries.next_entry()?.is_some() {}
    Ok(())
}

#[test]
fn entries_that_etcd_would_not_have_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let revision = EtcdRevision {
        main: Revision(7),
        sub: 0,
    };
    let key = revision.encode();
    let encoded = |change: KeyValueRef<'_>| {
        let mut message = Vec::new();
        change.encode(&mut message);
        message
    };
    let sound = KeyValueRef {
        key: b"k",
        create_revision: Revision(3),
        mod_revision: Revision(7),
        version: 2,
        ..KeyValueRef::default()
    };
    with_entry(&path, "key", &key, &encoded(sound));
    read_all(&path).unwrap();
    let other = KeyValueRef {
        mod_revision: Revision(8),
        ..sound
    };
    let nameless = KeyValueRef { key: b"", ..sound };
    let cases: [(&str, &[u8], &[u8], &str); 13] = [
        ("key", b"short", &encoded(sound), "it is not a revision"),
        (
            "key",
            &[&key[..], b"x"].concat(),
            &encoded(sound),
            "it is not a revision",
        ),
        ("key", &[0xff; 17], &encoded(sound), "it is not a revision"),
        ("key", &key, b"\x0a\xff", "not a whole message"),
        ("key", &key, &encoded(nameless), "not a whole message"),
        ("key", &key, &encoded(other), "another revision"),
        ("meta", b"consistent_index", b"1", "a number of eight bytes"),
        ("meta", b"finishedCompactRev", b"1", "it is not a revision"),
        ("meta", b"confState", &[0xff], "the text it should be"),
        ("lease", &7_i64.to_be_bytes(), &[8, 6], "another lease"),
        ("alarm", &[0xff], &[], "not a whole message"),
        ("members", b"xyz", b"{}", "a member's id"),
        ("members", b"ab", b"{", "the text it should be"),
    ];
    for (bucket, key, value, wanted) in cases {
        with_entry(&path, bucket, key, value);
        let text = read_all(&path).unwrap_err().to_string();
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains(bucket), "{text}");
    }
}

#[test]
fn a_bumped_revision_is_an_entry_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let revision = EtcdRevision {
        main: Revision(1_000_000_007),
        sub: 0,
    };
    with_entry(&path, "key", &revision.encode(), b"");
    let db = open_unhashed(&path).unwrap();
    let mut entries = db.entries().unwrap();
    let entry = entries.next_entry().unwrap().unwrap();
    assert_eq!((entry.revision, entry.change), (revision, None));
    assert_eq!(db.revision().unwrap(), revision.main);
    assert!(entries.next_entry().unwrap().is_none());
}

#[test]
fn the_revision_is_never_below_the_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    for (scheduled, finished, wanted) in [
        (None, None, 1),
        (Some(40), Some(30), 40),
        (Some(30), Some(40), 40),
    ] {
        let contents = EtcdContents {
            meta: EtcdMeta {
                scheduled_compact: scheduled.map(Revision),
                finished_compact: finished.map(Revision),
                ..EtcdMeta::default()
            },
            ..EtcdContents::default()
        };
        let writer = EtcdDbWriter::create(&path).unwrap();
        writer.finish(&contents, &mut |_| {}).unwrap();
        let db = EtcdDb::open(&path, &EtcdDbOptions::default(), &mut |_| {}).unwrap();
        assert_eq!(db.revision().unwrap(), Revision(wanted));
    }
}

#[test]
fn an_unfinished_snapshot_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    std::fs::write(&path, b"what was there before").unwrap();
    let mut writer = EtcdDbWriter::create(&path).unwrap();
    let revision = EtcdRevision {
        main: Revision(2),
        sub: 0,
    };
    writer.delete(revision, b"k").unwrap();
    assert!(folder.path().join("db.part").exists());
    drop(writer);
    assert!(!folder.path().join("db.part").exists());
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there before");
}
