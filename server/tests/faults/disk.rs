//! A small disk of a member's own, which can be full: a file with a filesystem in it, mounted where the data is.
//! Needs root and mkfs.ext4.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const DISK_BYTES: u64 = 192 << 20;
const FILLER: &str = "filler";
const CHUNK_BYTES: usize = 64 << 10;

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Makes one in `folder` and mounts it at `folder/disk`. The error says what is missing.
    pub fn mount(folder: &Path) -> Result<Disk, String> {
        let (image, mounted) = (folder.join("disk.img"), folder.join("disk"));
        fs::create_dir_all(&mounted).expect("a folder can be made");
        let file = File::create(&image).expect("a file can be made");
        file.set_len(DISK_BYTES).expect("a file can be long");
        run("mkfs.ext4", &["-q", "-F", &text(&image)])
            .map_err(|error| format!("{error} (the package e2fsprogs has mkfs.ext4)"))?;
        run("mount", &["-o", "loop", &text(&image), &text(&mounted)])?;
        Ok(Disk { mounted })
    }

    /// Unmounts what test processes have left that are no more, under the folder of all rounds.
    pub fn sweep(rounds: &Path) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for place in places.map(Path::new) {
            let round = place
                .strip_prefix(rounds)
                .ok()
                .and_then(|rest| rest.iter().next());
            let pid = round.and_then(|round| round.to_str()?.rsplit('-').nth(1));
            if let Some(pid) = pid
                && !Path::new("/proc").join(pid).exists()
                && let Err(error) = run("umount", &[&text(place)])
            {
                eprintln!("{error}");
            }
        }
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let mut filler = File::create(self.mounted.join(FILLER)).expect("a file can be made");
        let chunk = vec![1; CHUNK_BYTES];
        let mut bytes_tried = chunk.len();
        while bytes_tried > 0 {
            // What does not fit as a whole may do so in parts.
            if filler.write_all(&chunk[..bytes_tried]).is_err() {
                bytes_tried /= 2;
            }
        }
    }

    /// Gives the room back.
    pub fn relieve(&self) {
        fs::remove_file(self.mounted.join(FILLER)).expect("the filler is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[&text(&self.mounted)]) {
            eprintln!("{error}");
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", words.join(" "), said.trim()))
}
