//! A snapshot that etcd 3.5.1 made, read and written again.
//!
//! It was made with etcdctl: puts of a, b, a; delete of b; a lease of 3600 s with key l; put of c; a txn that
//! puts d and e and deletes a; compaction at 5; a put of 5000 bytes; a role, two users. `etcdutl snapshot
//! status` and `etcdctl endpoint hashkv` gave the numbers below.

use std::path::{Path, PathBuf};

use keelson_proto::authpb::{Role, User};
use prost::Message;

use super::{
    EtcdContents, EtcdDb, EtcdDbError, EtcdDbOptions, EtcdDbWriter, EtcdRevision, EtcdSource,
    KeyEntry, KeyValueRef,
};
use crate::ids::{LeaseId, RaftIndex, Revision, Term};

const SNAPSHOT: &str = "src/etcd/golden/etcd-3.5.1-snapshot.db";
const HASH_KV: u32 = 2_620_846_286;
const LEASE: LeaseId = LeaseId(0x22c0_a21d_b25d_240b);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(SNAPSHOT)
}

fn open(path: &Path) -> Result<EtcdDb, EtcdDbError> {
    EtcdDb::open(path, &EtcdDbOptions::default(), &mut |_| {})
}

fn each_entry(db: &EtcdDb, mut visit: impl FnMut(&KeyEntry<'_>)) {
    let mut entries = db.entries().unwrap();
    while let Some(entry) = entries.next_entry().unwrap() {
        visit(&entry);
    }
}

/// etcd's HashKV of this store: over all that is stored but what only revisions before the last one need.
fn hash_kv(db: &EtcdDb) -> u32 {
    let mut hash = crc32c::crc32c(b"key");
    each_entry(db, |entry| {
        // Version 4 of a: written before the compaction, deleted after it.
        if entry.revision.main == Revision(4) {
            return;
        }
        let mut message = Vec::new();
        entry.change.unwrap().encode(&mut message);
        hash = match entry.is_tombstone {
            true => crc32c::crc32c_append(hash, &entry.revision.encode_tombstone()),
            false => crc32c::crc32c_append(hash, &entry.revision.encode()),
        };
        hash = crc32c::crc32c_append(hash, &message);
    });
    hash
}

fn check_keys(db: &EtcdDb) {
    let mut found = Vec::new();
    each_entry(db, |entry| {
        let change = entry.change.unwrap();
        assert!(entry.is_tombstone || change.mod_revision == entry.revision.main);
        let value = match change.value.len() {
            5000 => "5000 x".to_owned(),
            _ => String::from_utf8(change.value.to_vec()).unwrap(),
        };
        let EtcdRevision { main, sub } = entry.revision;
        let key = String::from_utf8(change.key.to_vec()).unwrap();
        let life = (change.create_revision.0, change.version, change.lease.0);
        found.push((main.0, sub, entry.is_tombstone, key, value, life));
    });
    let wanted = [
        (4, 0, false, "a", "2", (2, 2, 0)),
        (6, 0, false, "l", "leased", (6, 1, LEASE.0)),
        (7, 0, false, "c", "3", (7, 1, 0)),
        (8, 0, false, "d", "4", (8, 1, 0)),
        (8, 1, false, "e", "5", (8, 1, 0)),
        (8, 2, true, "a", "", (0, 0, 0)),
        (9, 0, false, "big", "5000 x", (9, 1, 0)),
    ];
    let wanted = wanted.map(|(main, sub, tombstone, key, value, life)| {
        (main, sub, tombstone, key.to_owned(), value.to_owned(), life)
    });
    assert_eq!(found, wanted);
    assert_eq!(db.revision().unwrap(), Revision(9));
}

fn check_contents(contents: &EtcdContents) {
    let meta = &contents.meta;
    assert_eq!(meta.compact_revision(), Some(Revision(5)));
    assert_eq!(meta.finished_compact, Some(Revision(5)));
    assert_eq!(meta.consistent_index, Some(RaftIndex(21)));
    assert_eq!(meta.term, Some(Term(2)));
    assert_eq!(meta.storage_version, None);
    assert_eq!(contents.leases.len(), 1);
    assert_eq!(contents.leases[0].id, LEASE);
    assert_eq!(contents.leases[0].ttl_seconds, 3600);
    assert!(contents.alarms.is_empty());
    assert!(!contents.auth.is_enabled);
    let users: Vec<User> = contents.auth.users.iter().map(decode_user).collect();
    let names: Vec<_> = users
        .iter()
        .map(|user| (&user.name[..], &user.roles[..]))
        .collect();
    let wanted = [
        (&b"root"[..], &["root".to_owned()][..]),
        (b"u", &["r".to_owned()]),
    ];
    assert_eq!(names, wanted);
    assert!(users.iter().all(|user| user.password.starts_with(b"$2a$")));
    let names: Vec<&[u8]> = contents
        .auth
        .roles
        .iter()
        .map(|role| &role.name[..])
        .collect();
    assert_eq!(names, [b"r"]);
    let role = Role::decode(&contents.auth.roles[0].message[..]).unwrap();
    assert_eq!(role.key_permission[0].key, "foo");
    assert_eq!(contents.members.len(), 1);
    let member = &contents.members[0];
    assert_eq!(member.name, "default");
    assert!(member.peer_urls[0].starts_with("http://127.0.0.1:"));
    // 3.5.1 had not stored them yet when the snapshot was taken.
    assert!(member.client_urls.is_empty());
    assert_eq!(contents.cluster.version.as_deref(), Some("3.5.0"));
}

fn decode_user(user: &super::NamedMessage) -> User {
    let decoded = User::decode(&user.message[..]).unwrap();
    assert_eq!(decoded.name, user.name);
    decoded
}

#[test]
fn a_snapshot_of_etcd_is_read_whole() {
    let mut hashed = Vec::new();
    let db = EtcdDb::open(&golden(), &EtcdDbOptions::default(), &mut |progress| {
        hashed.push((progress.done_bytes, progress.total_bytes));
    })
    .unwrap();
    assert_eq!(hashed, [(40_960, 40_960)]);
    assert_eq!(db.source(), EtcdSource::Snapshot);
    assert_eq!(db.used_bytes(), 40_960);
    check_keys(&db);
    check_contents(&db.contents().unwrap());
    assert_eq!(db.meta(), &db.contents().unwrap().meta);
    assert_eq!(hash_kv(&db), HASH_KV);
}

#[test]
fn what_is_written_again_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.db");
    let db = open(&golden()).unwrap();
    let mut writer = EtcdDbWriter::create(&path).unwrap();
    each_entry(&db, |entry| {
        let change: KeyValueRef<'_> = entry.change.unwrap();
        match entry.is_tombstone {
            true => writer.delete(entry.revision, change.key).unwrap(),
            false => writer.put(entry.revision, &change).unwrap(),
        }
    });
    let summary = writer.finish(&db.contents().unwrap(), &mut |_| {}).unwrap();
    assert_eq!(summary.entry_count, 7);
    assert_eq!(summary.file_bytes, std::fs::metadata(&path).unwrap().len());
    let again = open(&path).unwrap();
    check_keys(&again);
    assert_eq!(again.contents().unwrap(), db.contents().unwrap());
    assert_eq!(hash_kv(&again), HASH_KV);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_flipped_bit_is_found_by_the_hash_and_a_missing_hash_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let sound = std::fs::read(golden()).unwrap();
    let skip = EtcdDbOptions {
        skip_hash_check: true,
        ..EtcdDbOptions::default()
    };
    // In the value of 5000 bytes, in a page that is not in use, and in the hash itself.
    let value = sound
        .windows(9)
        .position(|nine| nine == b"xxxxxxxxx")
        .unwrap()
        + 2000;
    for at in [value, sound.len() - 33, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let text = open(&path).unwrap_err().to_string();
        assert!(text.contains("expected sha256 "), "{text}");
        let db = EtcdDb::open(&path, &skip, &mut |_| panic!("not hashed")).unwrap();
        assert_eq!(hash_kv(&db) == HASH_KV, at != value);
    }
    std::fs::write(&path, &sound[..sound.len() - 32]).unwrap();
    let text = open(&path).unwrap_err().to_string();
    assert!(
        text.contains("snapshot missing hash but --skip-hash-check=false"),
        "{text}"
    );
    let db = EtcdDb::open(&path, &skip, &mut |_| {}).unwrap();
    assert_eq!(db.source(), EtcdSource::File);
    check_keys(&db);
}

#[test]
fn what_is_not_a_whole_database_of_etcd_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let sound = std::fs::read(golden()).unwrap();
    std::fs::write(&path, &sound[..20_000]).unwrap();
    let text = open(&path).unwrap_err().to_string();
    assert!(text.contains("cut off"), "{text}");
    std::fs::write(&path, b"keelson data directory\n").unwrap();
    let text = open(&path).unwrap_err().to_string();
    assert!(text.contains("not an etcd database or snapshot"), "{text}");
    let error = open(&folder.path().join("nothing"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot open"), "{error}");
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it has no member/snap/db"), "{error}");
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = crate::bbolt::BoltWriter::new(file, "db".to_owned()).unwrap();
    writer.begin_bucket(b"conf");
    writer.end_bucket().unwrap();
    writer.finish().unwrap();
    let skip = EtcdDbOptions {
        skip_hash_check: true,
        ..EtcdDbOptions::default()
    };
    let error = EtcdDb::open(&path, &skip, &mut |_| {}).unwrap_err();
    assert!(
        matches!(error, EtcdDbError::NotEtcd { bucket: "key", .. }),
        "{error}"
    );
}
