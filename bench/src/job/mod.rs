//! Jobs: what a load is, in fio's words.
//!
//! ```text
//!   spec     JobSpec: one job, every key resolved; all that a load works from
//! ```

mod spec;

pub use spec::{DiskSpec, JobSpec, KeyOrder, KubeSpec, ListMode, MixPart, Op, WritePath};
