//! The state in one immutable file, whose index is searched in memory exactly as it lies on disk.
//!
//! A [`Builder`] is given all keys in order, or whole leaves of an older snapshot, and hands out the
//! writes of a new file; a [`Snapshot`] is such a file's index, just built or [loaded](Snapshot::load),
//! and answers from it. Values stay on disk: a [`Version`] says where.
//!
//! ```text
//!   superblock | values, leaf by leaf | leaves | inner pages | changes | meta | page table
//! ```
//!
//! What a crash leaves: everything but the superblock is durable before the superblock is written, which
//! one sector holds. So a file is finished, or its first block is blank and it does not count.
//!
//! Layouts are in `storage/FORMAT.md`.

mod audit;
mod borrowed;
#[cfg(test)]
mod borrowed_tests;
mod builder;
mod bulk;
mod cache;
mod changes;
mod check;
#[cfg(test)]
mod damage_tests;
mod draft;
mod encode;
mod error;
mod finish;
#[cfg(test)]
mod fixture;
mod format;
#[cfg(test)]
mod format_tests;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod image;
mod incoming;
#[cfg(test)]
mod incoming_tests;
mod inner;
mod keys;
mod leaf;
mod lent;
mod load;
mod meta;
mod moves;
mod page;
mod pages;
mod reader;
mod restore;
mod runs;
#[allow(
    clippy::module_inception,
    reason = "the room is named after what it makes"
)]
mod snapshot;
#[cfg(test)]
mod snapshot_tests;
mod startup;
mod store;
#[cfg(test)]
mod store_crash_tests;
#[cfg(test)]
mod store_model_tests;
#[cfg(test)]
mod store_tests;
mod stream;
mod survey;
mod values;
mod version;
mod visit;
mod written;

pub use audit::{Audit, Flaw};
pub use borrowed::Lender;
pub use builder::{Builder, BuilderConfig};
pub use bulk::BulkFile;
pub use error::{Affected, SnapshotDamage, SnapshotError, SnapshotPart};
pub use finish::Finish;
pub use format::FORMAT_VERSION;
pub use image::{ImagePart, OpenImage};
pub use incoming::{IncomingError, Unverified};
pub use meta::{AlarmMeta, HardState, LeaseMeta, Meta};
pub use reader::ValueReader;
pub use restore::{FileKind, Transplant};
pub use snapshot::{Cursor, Snapshot};
pub use startup::Listed;
pub use store::{PinnedFile, SnapshotStore, StoreConfig, StoreCounters};
pub use stream::PageWrite;
pub use survey::Survey;
pub use values::ValueCounters;
pub use version::{BlockPlace, KeyRef, ValuePlace, Version, VersionIn, VersionRef};
