//! The versions that the member reports.
//!
//! Clients decide by etcd's version what they may ask for, so the API level is that of the etcd
//! release whose behaviour Keelson matches; Keelson's own version is a separate number.

/// The API level: what `Status.version`, `/version` and the metrics report.
pub const API: &str = "3.6.14";

/// The cluster version of a cluster whose members all have that API level.
pub const CLUSTER: &str = "3.6.0";

/// The storage version that goes with it, in `Status.storageVersion`.
pub const STORAGE: &str = "3.6.0";

/// Keelson's own version.
pub const KEELSON: &str = env!("CARGO_PKG_VERSION");

/// The text of `--version`.
pub fn text() -> String {
    format!(
        "keelson Version: {KEELSON}\netcd Version: {API}\nGit SHA: {}\nRust Version: {}\nOS/Arch: {}/{}\n",
        option_env!("KEELSON_GIT_SHA").unwrap_or("unknown"),
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}
