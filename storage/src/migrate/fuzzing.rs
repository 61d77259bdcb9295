//! etcd's databases whose bytes anybody chose, behind checksums that match where that is asked for.
//!
//! ```text
//!   input:  flags u8 | a database file, with or without a hash behind it
//! ```

use std::ops::ControlFlow;
use std::path::Path;

use super::{ImportOptions, import};
use crate::bbolt::fuzzing::{fix_end, fix_metas, fix_page_numbers};
use crate::etcd::{EtcdDb, EtcdDbOptions};
use crate::io::ReadOnlyDisk;
use crate::snapshot::{Snapshot, Survey};

/// The meta pages match their checksums.
const FIX_METAS: u8 = 1;
/// Every page has its own number.
const FIX_PAGES: u8 = 2;
/// The file is as long as it says.
const FIX_END: u8 = 4;
/// Little memory for sorting: a scratch file is used.
const SPILL: u8 = 8;
const SPILL_BYTES: usize = 4096;

/// A database file in an empty directory: it is refused, or what is imported is sound and complete.
pub fn database(input: &[u8], directory: &Path) {
    let Some((flags, file)) = input.split_first() else {
        return;
    };
    let mut file = file.to_vec();
    if flags & FIX_PAGES != 0 {
        fix_page_numbers(&mut file);
    }
    if flags & FIX_END != 0 {
        fix_end(&mut file);
    }
    if flags & FIX_METAS != 0 {
        fix_metas(&mut file);
    }
    let path = directory.join("db");
    std::fs::write(&path, file).expect("the directory can be written");
    let options = EtcdDbOptions {
        skip_hash_check: true,
        wal_dir: None,
    };
    if let Ok(db) = EtcdDb::open(&path, &options, &mut |_| {}) {
        read(&db, *flags, directory);
    }
    std::fs::remove_file(&path).expect("it was just written");
}

/// A snapshot of real etcd, as it is and to be fixed.
#[must_use]
pub fn database_seeds() -> Vec<Vec<u8>> {
    let real = include_bytes!("../etcd/golden/etcd-3.5.1-snapshot.db");
    let seed = |flags: u8| [&[flags], &real[..]].concat();
    vec![
        seed(0),
        seed(FIX_METAS | FIX_PAGES | FIX_END),
        seed(FIX_METAS | FIX_PAGES | FIX_END | SPILL),
    ]
}

fn read(db: &EtcdDb, flags: u8, directory: &Path) {
    let revision = db.revision();
    let contents = db.contents();
    let mut count = 0;
    let entries = db.entries().and_then(|mut entries| {
        while let Some(entry) = entries.next_entry()? {
            count += u64::from(entry.change.is_some());
        }
        Ok(())
    });
    let target = directory.join("import");
    std::fs::create_dir(&target).expect("there is none yet");
    let options = ImportOptions {
        without_auth: true,
        sort_bytes: match flags & SPILL {
            0 => ImportOptions::default().sort_bytes,
            _ => SPILL_BYTES,
        },
        ..ImportOptions::default()
    };
    let imported = import(db, &target, &options, &mut |_| ControlFlow::Continue(()));
    if let Ok(summary) = imported {
        assert!(contents.is_ok() && entries.is_ok(), "all of it was read");
        assert_eq!(revision.ok(), Some(summary.revision));
        assert_eq!(summary.versions + summary.versions_compacted, count);
        let mut disk = ReadOnlyDisk::new(&target);
        let newest = Snapshot::newest_in(&mut disk).expect("the directory can be read");
        let (file, entry) = newest.expect("an import leaves a file that counts");
        let survey = Survey::of(&mut disk, file, &entry, &mut |_, _| {});
        assert_eq!(survey.damages, [], "and it is sound");
        let snapshot = survey.snapshot.expect("what has no damage loads");
        assert_eq!(snapshot.version_count(), summary.versions);
    }
    std::fs::remove_dir_all(&target).expect("it was just made");
}
