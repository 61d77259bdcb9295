//! A tool that copies gigabytes lets a member's log on the same disk go first.
//!
//! The kernel counts how often a disk was told to flush its cache. A tool does that at its end only, so whoever does it
//! before that is somebody whose commits wait behind the tool's reads and writes: it pauses between two pieces as long as
//! somebody does. A disk without a cache, or of which the kernel does not count that, is copied to without pauses.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use keelson_tuning::machine::{Disk, Filesystem, Root};

/// The pause after a piece, while others wait for the disk.
const PAUSE: Duration = Duration::from_millis(4);
/// Which of the numbers in a disk's `stat` counts the flushes (Documentation/block/stat.rst).
const FLUSHES_FIELD: usize = 15;
/// A `stat` is a line of some twenty numbers.
const STAT_BYTES_MAX: usize = 512;

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct Courtesy {
    stat: Option<File>,
    flushes: u64,
}

impl Courtesy {
    /// For the disk that a file or directory lies on.
    pub(super) fn for_disk_of(path: &Path) -> Self {
        let mut courtesy = Self {
            stat: stat_of(path),
            flushes: 0,
        };
        courtesy.has_company();
        courtesy
    }

    /// Between two pieces: pauses if somebody has waited for the disk since the last time.
    pub(super) fn pause(&mut self) {
        if self.has_company() {
            thread::sleep(PAUSE);
        }
    }

    fn has_company(&mut self) -> bool {
        let Some(flushes) = self.stat.as_ref().and_then(flushes) else {
            return false;
        };
        std::mem::replace(&mut self.flushes, flushes) != flushes
    }
}

/// The statistics of the disk, of which a partition is a part.
fn stat_of(path: &Path) -> Option<File> {
    let disk = Disk::under(&Root::system(), &Filesystem::of(path))?;
    File::open(format!("/sys/class/block/{}/stat", disk.whole_name)).ok()
}

fn flushes(stat: &File) -> Option<u64> {
    let mut buf = [0; STAT_BYTES_MAX];
    let count = stat.read_at(&mut buf, 0).ok()?;
    flushes_in(std::str::from_utf8(&buf[..count]).ok()?)
}

fn flushes_in(stat: &str) -> Option<u64> {
    let field = stat.split_ascii_whitespace().nth(FLUSHES_FIELD)?;
    field.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_the_sixteenth_number() {
        let line = "14 26 264 308 9772 306 868 168 0 878 514 142 2 730 921 4019 277\n";
        assert_eq!(flushes_in(line), Some(4019));
        // A kernel before 5.5.
        let short = "14 26 264 308 9772 306 868 168 0 878 514\n";
        assert_eq!(flushes_in(short), None);
    }

    #[test]
    fn a_disk_that_nothing_is_known_of_is_never_in_company() {
        let mut courtesy = Courtesy::for_disk_of(Path::new("/proc/self/stat"));
        assert!(courtesy.stat.is_none());
        assert!(!courtesy.has_company());
    }
}
