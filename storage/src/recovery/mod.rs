//! What to do with what a crash left.
//!
//! [`plan`] is the decision table, pure: what was found where the next group should be, and what later
//! groups prove, give one action. `scan` reads the files of a lane and asks the table. Opening the lane
//! for writing ([`crate::wal::Wal::open`]) carries out what was decided.

pub mod plan;
pub(crate) mod scan;

pub use scan::{RecoveryReport, TailReport, read_lane};
