//! The real body on a real disk: the directory of the test binary.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

fn scratch() -> tempfile::TempDir {
    let binary = std::env::current_exe().unwrap();
    tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
}

fn open(path: &Path) -> UringDisk {
    UringDisk::open(path, IoMode::Direct).unwrap()
}

fn filled(byte: u8, bytes: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::with_capacity(bytes);
    buf.resize(bytes);
    buf.as_mut_slice().fill(byte);
    buf
}

fn drain(disk: &mut UringDisk, count: usize) -> Vec<Completion> {
    let mut all = Vec::new();
    while all.len() < count {
        disk.wait().unwrap();
        disk.reap(&mut all);
    }
    all.sort_by_key(|completion| completion.token);
    all
}

#[test]
fn files_are_created_written_read_and_removed() {
    for mode in [IoMode::Direct, IoMode::UnsafeBuffered] {
        let scratch = scratch();
        let mut disk = UringDisk::open(scratch.path(), mode).unwrap();
        assert_eq!(disk.mode(), mode);
        let file = disk.submit_create("a", 1 << 16, 1);
        assert!(drain(&mut disk, 1)[0].result.is_ok());
        disk.submit_write(file, 8192, filled(5, 8192), true, 2);
        disk.submit_write(file, 32_768, filled(6, 4096), false, 3);
        let done = drain(&mut disk, 2);
        assert!(
            done.iter()
                .all(|completion| completion.result.is_ok() && completion.buf.is_some())
        );
        disk.submit_flush(file, 4);
        assert!(drain(&mut disk, 1)[0].result.is_ok());

        let mut disk = UringDisk::open(scratch.path(), mode).unwrap();
        let listed = disk.list().unwrap();
        assert_eq!(
            listed,
            [FileEntry {
                name: "a".to_owned(),
                bytes: 1 << 16,
                is_file: true
            }]
        );
        let file = disk.open("a").unwrap();
        let mut buf = AlignedBuf::with_capacity(4096);
        disk.read(file, 4096, 1 << 16, &mut buf).unwrap();
        assert_eq!(buf.len(), (1 << 16) - 4096, "a read ends with the file");
        assert_eq!(
            (
                buf.as_slice()[0],
                buf.as_slice()[4096],
                buf.as_slice()[32_768 - 4096]
            ),
            (0, 5, 6)
        );
        disk.submit_remove(file, 5);
        assert!(drain(&mut disk, 1)[0].result.is_ok());
        assert_eq!(disk.list().unwrap(), []);
    }
}

#[test]
fn more_writes_than_the_ring_holds_all_complete() {
    let scratch = scratch();
    let mut disk = open(scratch.path());
    let file = disk.submit_create("a", 1 << 20, 0);
    drain(&mut disk, 1);
    for token in 0..200 {
        disk.submit_write(
            file,
            token % 256 * 4096,
            filled(token as u8, 4096),
            false,
            token,
        );
    }
    let done = drain(&mut disk, 200);
    assert!(
        done.iter()
            .enumerate()
            .all(|(i, completion)| completion.token == i as u64 && completion.result.is_ok())
    );
    let mut buf = AlignedBuf::with_capacity(4096);
    disk.read(file, 199 * 4096, 4096, &mut buf).unwrap();
    assert_eq!(buf.as_slice(), [199; 4096]);
}

#[test]
fn errors_name_the_operation_and_the_file() {
    let scratch = scratch();
    let mut disk = open(scratch.path());
    let error = disk.open("missing").unwrap_err();
    assert!(
        matches!(
            &error,
            DiskError::Io {
                errno: libc::ENOENT,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("{}/missing", scratch.path().display())),
        "{error}"
    );

    disk.submit_create("a", 4096, 1);
    drain(&mut disk, 1);
    disk.submit_create("a", 4096, 2);
    let error = drain(&mut disk, 1).remove(0).result.unwrap_err();
    assert!(
        matches!(
            error,
            DiskError::Io {
                errno: libc::EEXIST,
                operation: "create",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn dropping_with_writes_in_flight_waits_for_them() {
    let scratch = scratch();
    for round in 0..20 {
        let mut disk = open(scratch.path());
        let file = disk.submit_create(&format!("f{round}"), 1 << 20, 0);
        drain(&mut disk, 1);
        for token in 0..8 {
            disk.submit_write(file, token * 65_536, filled(round, 65_536), true, token);
        }
        disk.kick().unwrap();
    }
}

#[test]
fn g_d_8_a_directory_in_memory_is_refused_in_words_that_help() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return; // no filesystem in memory to try on
    }
    let scratch = tempfile::tempdir_in(memory).unwrap();
    let error = UringDisk::open(scratch.path(), IoMode::Direct)
        .map(|_| ())
        .unwrap_err();
    let text = error.to_string();
    for part in [
        scratch.path().to_str().unwrap(),
        "tmpfs",
        "ext4 or xfs",
        "--unsafe-no-fsync",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(
        std::fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    UringDisk::open(scratch.path(), IoMode::UnsafeBuffered).unwrap();
}

#[test]
fn g_d_8_a_missing_directory_is_an_error() {
    let scratch = scratch();
    let error = UringDisk::open(&scratch.path().join("none"), IoMode::Direct)
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(
            error,
            DiskError::Io {
                errno: libc::ENOENT,
                ..
            }
        ),
        "{error}"
    );
}
