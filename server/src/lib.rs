//! The Keelson server: an etcd-v3-compatible key-value store, one executor per core.
//!
//! ```text
//!   cli, config   what the operator decided          boot     puts the process together
//!   runtime       cores, rings between them, clock   observe  metrics and log
//!   front         connections, gRPC, HTTP, handlers
//!   engine        owner of a shard: admit, propose, persist, apply, publish
//!   peer          links between members, and what the peer port answers
//!   fanout        who watches what on a core, and what they have seen
//!   backup        `keelson snapshot`: saves, verifies and restores backups
//!   inspect       `keelson inspect`: looks into the data directory of a stopped member
//!   doctor        tries what a member would do at its start, for `keelson doctor`
//! ```
//!
//! `ARCHITECTURE.md` beside this crate walks a write through these rooms.

pub mod backup;
pub mod boot;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod fanout;
pub mod front;
pub mod inspect;
pub mod observe;
pub mod peer;
pub mod runtime;
