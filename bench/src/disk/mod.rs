//! The disk probe: how fast a directory's disk makes writes durable, the way the log writes.
//!
//! ```text
//!   command    plan in, report out, progress line       (on the tool's own thread)
//!      |
//!   session    a thread that probes, and how it is told to stop
//!      |
//!   probe      one file, written in turn                (blocking; the log's own Disk body)
//!      |
//!   plan, cell         what is run: where, how long; way, block size, depth
//!   figures, report    what it brought, as JSON and for a terminal
//! ```
//!
//! These figures are the ceiling that every result of a server on the same disk is judged by. The
//! probe uses [`UringDisk`](keelson_storage::io::UringDisk) itself, so it has the log's own costs, and
//! writes as the log does: block after block over a file that was filled before, so that no write
//! changes anything but data. Nothing of it stays on the disk.

mod cell;
mod command;
mod figures;
mod plan;
mod probe;
mod report;
mod session;

pub use cell::{Cell, Way};
pub use command::{measure, quote, run};
pub use figures::Figures;
pub use plan::Plan;
pub use report::DiskResult;
pub use session::probe_sequential;
