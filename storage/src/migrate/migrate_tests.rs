//! Both ways at once: what leaves and comes back is the same history.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::etcdserverpb::{
    AlarmMember, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, request_op,
};
use proptest::prelude::*;

use super::*;
use crate::etcd::{
    EtcdAuth, EtcdContents, EtcdDb, EtcdDbOptions, EtcdDbWriter, EtcdLease, EtcdRevision,
    KeyValueRef, NamedMessage,
};
use crate::ids::{ClusterId, LeaseId, LeaseTime, MemberId, RaftIndex, Revision, Term};
use crate::io::{Disk, ReadOnlyDisk};
use crate::limits::MIGRATE_REPORT_EVERY;
use crate::snapshot::{BuilderConfig, Snapshot, ValueReader};
use crate::state::{Cluster, Member, Position, Request, State};

/// Pages and memory so small that a handful of keys fills many.
fn import_options() -> ImportOptions {
    let member = Member {
        id: 5,
        name: "m".to_owned(),
        ..Member::default()
    };
    ImportOptions {
        cluster: Cluster {
            cluster_id: ClusterId(7),
            members: [(MemberId(5), member)].into(),
            ..Cluster::default()
        },
        without_auth: false,
        sort_bytes: 700,
        builder: BuilderConfig {
            page_bytes: 4096,
            values_run_bytes_max: 8192,
            write_bytes: 4096,
        },
    }
}

fn go_on(_: MigrateProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn open(path: &Path) -> EtcdDb {
    EtcdDb::open(path, &EtcdDbOptions::default(), &mut |_| {}).unwrap()
}

/// Imports a database and loads the file that was made of it.
fn import_state(db: &EtcdDb, options: &ImportOptions) -> (State, ImportSummary, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let summary = import(db, directory.path(), options, &mut go_on).unwrap();
    let mut disk = ReadOnlyDisk::new(directory.path());
    let entries = disk.list().unwrap();
    let [entry] = &entries[..] else {
        panic!("{entries:?}");
    };
    assert_eq!(entry.name, "00000001.snap");
    let file = disk.open(&entry.name).unwrap();
    let snapshot = Snapshot::load(&mut disk, file, entry).unwrap();
    assert_eq!(snapshot.file_bytes(), summary.file_bytes);
    (State::from_snapshot(Arc::new(snapshot)), summary, directory)
}

fn export_state(state: &State, path: &Path, sort_bytes: usize) -> ExportSummary {
    let options = ExportOptions { sort_bytes };
    export(state, "the state", path, &options, &mut go_on).unwrap()
}

fn hash_kv(state: &mut State, revision: i64) -> u32 {
    let mut scan = state.hash_begin(revision).unwrap();
    while !state.hash_step(&mut scan, 3) {}
    let mut values = ValueReader::default();
    let result = scan.finish(|snapshot, place| values.read(snapshot, place));
    result.unwrap().hash
}

/// Every key with its value at a revision.
fn keys_at(state: &State, revision: i64) -> Vec<(Vec<u8>, Vec<i64>, Vec<u8>)> {
    let range = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        revision,
        ..RangeRequest::default()
    };
    let mut values = ValueReader::default();
    let selection = state.select(&range).unwrap();
    let records = selection.records.into_iter().map(|record| {
        let numbers = vec![
            record.create_revision.0,
            record.revision.0,
            record.version,
            record.lease.0,
        ];
        let value = match (record.place(), record.snapshot()) {
            (Some(place), Some(snapshot)) => values.read(snapshot, place).unwrap().to_vec(),
            _ => record.value().to_vec(),
        };
        (record.key().to_vec(), numbers, value)
    });
    records.collect()
}

/// One request.
fn request() -> impl Strategy<Value = Request> {
    let key = || {
        proptest::collection::vec(b'a'..b'd', 1..4)
            .prop_map(Bytes::from)
            .boxed()
    };
    let value = prop_oneof![
        6 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (0_usize..20_000).prop_map(|bytes| vec![7; bytes]),
    ];
    let put = (key(), value, 0_i64..3).prop_map(|(key, value, lease)| PutRequest {
        key,
        value: value.into(),
        lease,
        ..PutRequest::default()
    });
    let put = put.boxed();
    let delete = (key(), any::<bool>()).prop_map(|(key, is_from)| DeleteRangeRequest {
        key,
        range_end: Bytes::from_static(if is_from { b"c" } else { b"" }),
        ..DeleteRangeRequest::default()
    });
    let operation = |request| RequestOp {
        request: Some(request),
    };
    let txn = (put.clone(), put.clone(), key()).prop_map(move |(one, other, gone)| {
        let gone = DeleteRangeRequest {
            key: gone,
            ..DeleteRangeRequest::default()
        };
        TxnRequest {
            success: vec![
                operation(request_op::Request::RequestPut(one)),
                operation(request_op::Request::RequestDeleteRange(gone)),
                operation(request_op::Request::RequestPut(other)),
            ],
            ..TxnRequest::default()
        }
    });
    let compact = (1_i64..60).prop_map(|revision| CompactionRequest {
        revision,
        physical: false,
    });
    prop_oneof![
        9 => put.prop_map(Request::Put),
        4 => delete.prop_map(Request::DeleteRange),
        3 => txn.prop_map(Request::Txn),
        1 => compact.prop_map(Request::Compact),
    ]
}

/// A state with two leases and what the requests make of it. Those it refuses change nothing.
fn state(requests: &[Request]) -> State {
    let mut state = State::new();
    let grant = |id| Request::LeaseGrant(LeaseGrantRequest { id, ttl: 100 * id });
    let grants = [grant(1), grant(2)];
    for (index, request) in grants.iter().chain(requests).enumerate() {
        let at = Position {
            index: RaftIndex(index as u64 + 1),
            term: Term(3),
            lease_time: LeaseTime(index as u64 * 10),
        };
        state.on_entry(at);
        let _answered = state.apply(at, request);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn g_d_7_any_history_leaves_and_comes_back_the_same(
        requests in proptest::collection::vec(request(), 0..80),
        sort_bytes in prop_oneof![Just(0_usize), Just(900), Just(1 << 20)],
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let mut before = state(&requests);
        let (first, second) = (scratch.path().join("first.db"), scratch.path().join("second.db"));
        let exported = export_state(&before, &first, sort_bytes);
        let (mut after, imported, _directory) = import_state(&open(&first), &import_options());
        prop_assert_eq!(imported.versions, exported.versions);
        prop_assert_eq!(imported.versions_compacted, 0);
        prop_assert_eq!(after.revision(), before.revision());
        prop_assert_eq!(after.compact_revision(), before.compact_revision());
        for revision in before.compact_revision().0.max(1)..=before.revision().0 {
            prop_assert_eq!(hash_kv(&mut after, revision), hash_kv(&mut before, revision));
            prop_assert_eq!(keys_at(&after, revision), keys_at(&before, revision));
        }
        let changed = |state: &State| {
            let from = Revision(state.compact_revision().0 + 1);
            let changes = state.changes_from(from);
            changes.map(|change| (change.revision(), change.key().to_vec())).collect::<Vec<_>>()
        };
        prop_assert_eq!(changed(&after), changed(&before));
        // What came back leaves again as what it was, but for the cluster it is in.
        export_state(&after, &second, sort_bytes);
        let (first, second) = (open(&first), open(&second));
        let (mut entries, mut again) = (first.entries().unwrap(), second.entries().unwrap());
        while let Some(entry) = entries.next_entry().unwrap() {
            prop_assert_eq!(again.next_entry().unwrap(), Some(entry));
        }
        prop_assert_eq!(again.next_entry().unwrap(), None);
        let (first, second) = (first.contents().unwrap(), second.contents().unwrap());
        let ids = |contents: &EtcdContents| {
            contents.leases.iter().map(|lease| lease.id).collect::<Vec<_>>()
        };
        prop_assert_eq!(ids(&second), ids(&first));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn g_d_7_a_damaged_database_is_refused_or_makes_a_sound_file(
        requests in proptest::collection::vec(request(), 1..40),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a.db");
        export_state(&state(&requests), &path, 1 << 20);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        let options = EtcdDbOptions {
            skip_hash_check: true,
            ..EtcdDbOptions::default()
        };
        let directory = scratch.path().join("ours");
        std::fs::create_dir(&directory).unwrap();
        let Ok(db) = EtcdDb::open(&path, &options, &mut |_| {}) else {
            return Ok(());
        };
        let is_imported = import(&db, &directory, &without_auth(), &mut go_on).is_ok();
        let mut disk = ReadOnlyDisk::new(&directory);
        let newest = Snapshot::newest_in(&mut disk).unwrap();
        prop_assert_eq!(newest.is_some(), is_imported);
        if let Some((file, entry)) = newest {
            Snapshot::load(&mut disk, file, &entry).unwrap();
        }
    }
}

/// A database with these changes: key, revision, sub, and a value or a deletion.
fn write_db(path: &Path, changes: &[(&str, i64, i64, Option<&str>)], contents: &EtcdContents) {
    let mut writer = EtcdDbWriter::create(path).unwrap();
    for (key, main, sub, value) in changes {
        let at = EtcdRevision {
            main: Revision(*main),
            sub: *sub,
        };
        match value {
            None => writer.delete(at, key.as_bytes()).unwrap(),
            Some(value) => {
                let change = KeyValueRef {
                    key: key.as_bytes(),
                    create_revision: Revision(2),
                    mod_revision: at.main,
                    version: 1,
                    value: value.as_bytes(),
                    lease: LeaseId(0),
                };
                writer.put(at, &change).unwrap();
            }
        }
    }
    writer.finish(contents, &mut |_| {}).unwrap();
}

#[test]
fn g_d_7_what_an_interrupted_compaction_left_is_dropped() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.db");
    let mut contents = EtcdContents::default();
    contents.meta.scheduled_compact = Some(Revision(6));
    contents.meta.finished_compact = Some(Revision(3));
    let changes = [
        ("a", 2, 0, Some("1")),
        ("b", 3, 0, Some("1")),
        ("c", 3, 1, Some("1")),
        ("a", 4, 0, Some("2")),
        ("b", 5, 0, None),
        ("c", 6, 0, None),
        ("d", 6, 1, Some("1")),
        ("d", 7, 0, None),
        ("a", 8, 0, None),
    ];
    write_db(&path, &changes, &contents);
    let db = open(&path);
    let (state, summary, _directory) = import_state(&db, &import_options());
    assert_eq!((summary.keys, summary.live_keys), (2, 0));
    assert_eq!((summary.versions, summary.versions_compacted), (4, 5));
    assert_eq!(state.revision(), Revision(8));
    assert_eq!(state.compact_revision(), Revision(6));
    let names = |revision| {
        let keys = keys_at(&state, revision).into_iter();
        keys.map(|(key, ..)| String::from_utf8(key).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(6), ["a", "d"]);
    assert_eq!(names(7), ["a"]);
    assert_eq!(names(8), [""; 0]);
}

/// Everything but keys.
fn contents() -> EtcdContents {
    let named = |name: &str| NamedMessage {
        name: name.as_bytes().to_vec(),
        message: vec![1, 2, 3],
    };
    EtcdContents {
        leases: vec![
            lease(9, 60, 0),
            lease(-4, 60, 20),
            lease(3, i64::MAX, 0),
            lease(7, 1, 5),
        ],
        alarms: vec![AlarmMember {
            member_id: 77,
            alarm: 1,
        }],
        auth: EtcdAuth {
            is_enabled: true,
            revision: 12,
            users: vec![named("root")],
            roles: vec![named("reader"), named("root")],
        },
        ..EtcdContents::default()
    }
}

fn lease(id: i64, ttl_seconds: i64, remaining_ttl_seconds: i64) -> EtcdLease {
    EtcdLease {
        id: LeaseId(id),
        ttl_seconds,
        remaining_ttl_seconds,
    }
}

fn without_auth() -> ImportOptions {
    ImportOptions {
        without_auth: true,
        ..import_options()
    }
}

#[test]
fn g_d_7_users_that_count_are_not_dropped_unasked() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.db");
    let contents = contents();
    write_db(&path, &[], &contents);
    let db = open(&path);
    let error = import(&db, scratch.path(), &import_options(), &mut go_on).unwrap_err();
    assert!(matches!(error, MigrateError::AuthEnabled { .. }), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);

    let (state, summary, _directory) = import_state(&db, &without_auth());
    assert_eq!((summary.users, summary.roles), (1, 2));
    assert!(summary.auth_disabled);
    let wanted = EtcdAuth {
        is_enabled: false,
        ..contents.auth
    };
    assert_eq!(decode_auth(state.auth()).unwrap(), wanted);
    let back = scratch.path().join("back.db");
    export_state(&state, &back, 1000);
    assert_eq!(open(&back).contents().unwrap().auth, wanted);
}

#[test]
fn g_d_7_leases_alarms_and_revisions_are_mapped() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.db");
    let contents = contents();
    write_db(&path, &[], &contents);
    let options = without_auth();
    let (state, summary, _directory) = import_state(&open(&path), &options);
    assert_eq!((summary.leases, summary.alarms), (4, 1));
    assert_eq!(state.revision(), Revision(1));
    assert_eq!(state.compact_revision(), Revision(-1));
    assert_eq!(state.alarms(), contents.alarms);
    assert_eq!(*state.cluster(), options.cluster);
    let left = |id| {
        let lease = state.lease(LeaseId(id)).unwrap();
        (
            lease.granted_ttl_seconds,
            lease.remaining_ttl_seconds(LeaseTime(0)),
        )
    };
    assert_eq!(left(9), (60, 60));
    assert_eq!(left(-4), (60, 20));
    assert_eq!(left(7), (1, 1));
    assert_eq!(left(3).0, i64::MAX);

    let back = scratch.path().join("back.db");
    export_state(&state, &back, 1000);
    let found = open(&back).contents().unwrap();
    assert_eq!(found.alarms, contents.alarms);
    assert_eq!(found.meta.storage_version, None);
    assert_eq!(found.meta.compact_revision(), None);
    let mut leases = found.leases;
    leases.sort_by_key(|lease| lease.id);
    assert_eq!(leases[0], lease(-4, 60, 20));
    assert_eq!(leases[2], lease(7, 1, 0));
    assert_eq!(leases[3], lease(9, 60, 0));
}

#[test]
fn g_d_7_what_is_interrupted_leaves_nothing_that_counts() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.db");
    let keys: Vec<String> = (0..=MIGRATE_REPORT_EVERY).map(|n| n.to_string()).collect();
    let changes: Vec<_> = keys
        .iter()
        .zip(2..)
        .map(|(key, revision)| (&**key, revision, 0, Some("1")))
        .collect();
    write_db(&path, &changes, &EtcdContents::default());
    let db = open(&path);
    for stop in [MigrateStep::Read, MigrateStep::Write] {
        let directory = tempfile::tempdir().unwrap();
        let error = import(
            &db,
            directory.path(),
            &import_options(),
            &mut |now| match now.step == stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        );
        assert!(matches!(error, Err(MigrateError::Interrupted)), "{error:?}");
        let mut disk = ReadOnlyDisk::new(directory.path());
        assert!(Snapshot::newest_in(&mut disk).unwrap().is_none());
    }
}

#[test]
fn g_d_7_users_and_roles_survive_a_checkpoint() {
    let auth = EtcdAuth {
        revision: 3,
        ..EtcdAuth::default()
    };
    assert_eq!(encode_auth(&EtcdAuth::default()), [0; 0]);
    assert_eq!(decode_auth(&encode_auth(&auth)).unwrap(), auth);
    assert_eq!(decode_auth(&[0xff]), None);
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.db");
    let contents = EtcdContents {
        auth,
        ..EtcdContents::default()
    };
    write_db(&path, &[("a", 2, 0, Some("1"))], &contents);
    let (mut state, ..) = import_state(&open(&path), &import_options());
    let bytes = state.auth().to_vec();
    assert!(!bytes.is_empty());
    let hard_state = crate::snapshot::HardState::default();
    assert_eq!(state.freeze(hard_state, None).auth, bytes);
}

#[test]
fn g_d_7_a_failed_export_leaves_what_was_there() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.db");
    std::fs::write(&path, b"mine").unwrap();
    write_db(
        &scratch.path().join("b.db"),
        &[("a", 2, 0, Some("1"))],
        &EtcdContents::default(),
    );
    let (state, _, directory) =
        import_state(&open(&scratch.path().join("b.db")), &import_options());
    // The values are on the disk, and the disk is gone.
    drop(directory);
    let error = export(&state, "s", &path, &ExportOptions::default(), &mut go_on).unwrap_err();
    assert!(matches!(error, MigrateError::Snapshot(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2);
}
