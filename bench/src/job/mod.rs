//! Jobs: what a load is, in fio's words.
//!
//! ```text
//!   shipped    which jobs a call means: files, or those that the tool carries (bench/jobs)
//!      |
//!    file      INI into sections of settings that know their line
//!      |
//!   resolve    defaults, [global], section, command line -> JobSpec
//!    |    |
//!   keys  value   each key once; how each kind of value is written
//!    |
//!   overrides     the same keys as options of the command line
//!
//!   spec       JobSpec: one job, every key resolved; all that a load works from
//! ```
//!
//! Whatever is wrong is told with file, line, key and what is allowed, all of it at once.

mod file;
mod keys;
mod overrides;
mod resolve;
mod shipped;
mod spec;
mod value;

#[cfg(test)]
mod job_tests;

pub use file::Setting;
pub use keys::{listing, markdown};
pub use overrides::Overrides;
pub use resolve::summary as spec_summary;
pub use shipped::{SHIPPED, jobs, shipped, summary};
pub use spec::{JobSpec, KeyOrder, ListMode, MixPart, Op, WritePath};
pub use value::{bytes, milliseconds};
