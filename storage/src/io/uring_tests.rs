//! The real body on a real disk: the directory of the test binary.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read as _, Write as _};
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

#[test]
fn files_grow_and_are_read_asynchronously() {
    for mode in [IoMode::Direct, IoMode::UnsafeBuffered] {
        let scratch = scratch();
        let mut disk = UringDisk::open(scratch.path(), mode).unwrap();
        let file = disk.submit_create("00000001.snap", 0, 0);
        assert!(drain(&mut disk, 1)[0].result.is_ok());
        assert_eq!(disk.list().unwrap()[0].bytes, 0);
        for token in [3, 1, 2] {
            disk.submit_write(
                file,
                token * 65_536,
                filled(token as u8, 65_536),
                false,
                token,
            );
        }
        drain(&mut disk, 3);
        disk.submit_flush(file, 4);
        let flushed = drain(&mut disk, 1);
        assert!(flushed[0].result.is_ok() && flushed[0].token == 4);

        let mut disk = UringDisk::open(scratch.path(), mode).unwrap();
        assert_eq!(disk.list().unwrap()[0].bytes, 4 * 65_536);
        let file = disk.open("00000001.snap").unwrap();
        for token in 0..4 {
            let buf = AlignedBuf::with_capacity(65_536);
            disk.submit_read(file, token * 65_536, 65_536, buf, token);
        }
        disk.submit_read(file, 3 * 65_536, 1 << 20, filled(9, 100), 4);
        disk.submit_read(file, 1 << 20, 4096, filled(9, 4096), 5);
        let done = drain(&mut disk, 6);
        assert!(done.iter().all(|completion| completion.result.is_ok()));
        let bufs: Vec<_> = done.into_iter().map(|c| c.buf.unwrap()).collect();
        for (index, buf) in bufs[..4].iter().enumerate() {
            assert_eq!(buf.as_slice(), [index as u8; 65_536]);
        }
        assert_eq!(bufs[4].as_slice(), [3; 65_536], "a read ends with the file");
        assert!(bufs[5].is_empty(), "nothing lies behind the end");
    }
}

#[test]
fn a_file_whose_length_is_no_block_is_read_to_its_end() {
    let scratch = scratch();
    std::fs::write(scratch.path().join("f"), vec![7; 10_000]).unwrap();
    let mut disk = open(scratch.path());
    let file = disk.open("f").unwrap();
    disk.submit_read(file, 4096, 1 << 16, AlignedBuf::with_capacity(1), 1);
    let done = drain(&mut disk, 1).remove(0);
    assert!(done.result.is_ok());
    assert_eq!(done.buf.unwrap().as_slice(), [7; 10_000 - 4096]);
}

#[test]
fn more_reads_than_the_ring_holds_all_complete() {
    let scratch = scratch();
    let mut disk = open(scratch.path());
    let file = disk.submit_create("a", 0, 0);
    drain(&mut disk, 1);
    let mut content = filled(0, 200 * 4096);
    for (index, block) in content.as_mut_slice().chunks_mut(4096).enumerate() {
        block.fill(index as u8);
    }
    disk.submit_write(file, 0, content, false, 0);
    drain(&mut disk, 1);
    for token in 0..200 {
        disk.submit_read(
            file,
            token * 4096,
            4096,
            AlignedBuf::with_capacity(4096),
            token,
        );
    }
    for completion in drain(&mut disk, 200) {
        assert!(completion.result.is_ok());
        let byte = completion.token as u8;
        assert_eq!(completion.buf.unwrap().as_slice(), [byte; 4096]);
    }
}

/// A member's log and its snapshots each have a ring; neither looks at the other's files.
#[test]
fn two_directories_of_one_process_do_not_meet() {
    let (log, snapshots) = (scratch(), scratch());
    std::fs::write(snapshots.path().join("00000007.snap"), [1; 4096]).unwrap();
    let (mut log, mut snapshots) = (open(log.path()), open(snapshots.path()));
    assert_ne!(log.event_fd(), snapshots.event_fd());
    let segment = log.submit_create("00000001.seg", 1 << 16, 1);
    let grown = snapshots.submit_create("00000008.snap", 0, 1);
    assert!(drain(&mut log, 1)[0].result.is_ok());
    assert!(drain(&mut snapshots, 1)[0].result.is_ok());
    log.submit_write(segment, 0, filled(1, 4096), true, 2);
    snapshots.submit_write(grown, 4096, filled(2, 4096), true, 2);
    assert!(drain(&mut log, 1)[0].result.is_ok());
    assert!(drain(&mut snapshots, 1)[0].result.is_ok());
    let lengths: Vec<_> = snapshots.list().unwrap().iter().map(|f| f.bytes).collect();
    assert_eq!(lengths, [4096, 8192]);
}

/// What an executor that sleeps on the eventfd needs: every kind of operation wakes it.
#[test]
fn every_completion_counts_the_eventfd_up() {
    for mode in [IoMode::Direct, IoMode::UnsafeBuffered] {
        let scratch = scratch();
        let mut disk = UringDisk::open(scratch.path(), mode).unwrap();
        let file = disk.submit_create("a", 0, 0);
        drain(&mut disk, 1);
        let submissions: [fn(&mut UringDisk, FileId); 4] = [
            |disk, file| disk.submit_write(file, 0, filled(1, 4096), true, 1),
            |disk, file| disk.submit_read(file, 0, 4096, filled(1, 4096), 1),
            |disk, file| disk.submit_flush(file, 1),
            |disk, file| disk.submit_remove(file, 1),
        ];
        for submit in submissions {
            let mut event = eventfd_file(&disk);
            submit(&mut disk, file);
            disk.kick().unwrap();
            let mut completions = Vec::new();
            while completions.is_empty() {
                let mut count = [0; 8];
                event.read_exact(&mut count).unwrap();
                assert!(u64::from_ne_bytes(count) > 0);
                disk.reap(&mut completions);
            }
            assert!(completions[0].result.is_ok());
        }
    }
}

/// The disk's eventfd as a file of its own, at zero.
fn eventfd_file(disk: &UringDisk) -> File {
    use std::os::fd::{BorrowedFd, RawFd};
    let raw: RawFd = disk.event_fd().unwrap();
    // SAFETY: the disk outlives the borrow and keeps its eventfd open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    let mut event = File::from(borrowed.try_clone_to_owned().unwrap());
    // Counting up by one and reading empties it without blocking.
    event.write_all(&1u64.to_ne_bytes()).unwrap();
    event.read_exact(&mut [0; 8]).unwrap();
    event
}

#[test]
fn the_blocks_of_a_removed_file_are_given_back_in_slices() {
    let scratch = scratch();
    let mut disk = open(scratch.path());
    let bytes = 3 * super::freeing::SLICE_BYTES_MIN;
    let file = disk.submit_create("a", bytes, 0);
    drain(&mut disk, 1);
    // Whoever else has it open sees what becomes of it, and must have let go before it is removed.
    let path = scratch.path().join("a");
    let seen = File::open(&path).unwrap();
    let reader = DirectFile::open(&path).unwrap();
    disk.submit_remove(file, 1);
    assert!(drain(&mut disk, 1)[0].result.is_ok());
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&seen.metadata().unwrap());
    assert!(blocks() > 0, "others read it");
    reader.release();
    assert!(blocks() > 0, "others still do");
    let file = disk.submit_create("b", bytes, 2);
    drain(&mut disk, 1);
    let name = format!("{} (deleted)", scratch.path().join("b").display());
    let is_open = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let mut targets = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        targets.any(|target| target == Path::new(&name))
    };
    disk.submit_remove(file, 3);
    assert!(drain(&mut disk, 1)[0].result.is_ok());
    assert!(is_open(), "until all is freed");
    let mut none = Vec::new();
    while is_open() {
        disk.reap(&mut none);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(none.is_empty(), "nobody is told");
}
