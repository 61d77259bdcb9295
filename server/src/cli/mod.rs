//! The command line.
//!
//! [`parse`] is pure: arguments, environment and a way to read the config file go in, what to do
//! comes out. `main` calls [`from_process`], which hands it the process's own, and acts on the
//! outcome: it prints a text and exits, serves, or has the machine looked at.
//!
//! ```text
//! keelson [flags]                    serve
//! keelson serve [flags]              serve
//! keelson config show [flags]        print every setting with its value and where that comes from
//! keelson config profiles            print the list of profiles
//! keelson config profile NAME        print one
//! keelson config defaults            print what a profile may hold
//! keelson doctor [flags]             say whether a member can start here, and what would help it
//! keelson snapshot save FILE         take a backup of a running member
//! keelson snapshot status FILE       verify a backup and say what is in it
//! keelson snapshot restore FILE      make a data directory of it
//! keelson snapshot import SOURCE     make a data directory of what an etcd held
//! keelson snapshot export FILE       make a snapshot of etcd's
//! keelson inspect WORD               look into the data directory of a stopped member
//! keelson version                    print versions, as does --version
//! keelson help                       print the flags, as does --help
//! ```

mod arguments;
mod help;
mod migrate;
mod parse;
mod process;
mod snapshot;
mod tools;

pub use parse::{CliError, Doctor, Invocation, Serve, parse};
pub use process::from_process;
pub use tools::Output;
