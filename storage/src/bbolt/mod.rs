//! bbolt files, etcd's own storage format: a read-only reader and a bulk writer.
//!
//! `etcd` (the module beside this one) asks the reader for buckets and entries in key order, and hands
//! the writer entries that are already in key order. Nothing here knows what the entries mean.
//!
//! ```text
//!   page 0, 1      meta, one each; the valid one with the higher transaction number counts
//!   page n         | id u64 | kind u16 | count u16 | overflow u32 |  elements  |  keys and values |
//!     branch       element: | position u32 | key u32 | child page u64 |
//!     leaf         element: | flags u32 | position u32 | key u32 | value u32 |, flag 1 = a bucket
//!     freelist     page numbers
//!   meta           | magic u32 | version u32 | page size u32 | flags u32 | root bucket | freelist page u64 |
//!                  | end page u64 | transaction u64 | FNV-1a of the 56 bytes before u64 |
//!   bucket         | root page u64 | sequence u64 |, root page 0 = a leaf page follows in the same value
//! ```
//!
//! Integers are little-endian (the byte order of the machine, in truth; a file of the other order is
//! recognized and refused). A position counts from its own element. A page with `overflow` n is n pages
//! longer. All of it can be learned from the public sources of bbolt 1.3 and 1.4, which agree.
//!
//! Why this is not a dependency: of the crates that know the format, `bbolt-rs` 1.3.10 maps the file into
//! memory, copies the whole of a transaction's tree to commit it, brings a command line parser and a
//! generator of fake data with it, and has had no release for long; `nut` 0.1.6 maps the file as well,
//! and its author says that it is a hobby and not actively kept. `boltdb` 0.0.1 is unfinished, and
//! `jammdb` has a format of its own. A mapped file turns a failed disk read into a SIGBUS, and neither
//! writes a file front to back in bounded memory, which is all we need. Reader and writer without a page
//! cache, a free list or transactions are far smaller than either crate, and need no unsafe code.
//!
//! Invariants of the reader:
//! 1. Every offset is checked before it is used: any bytes give entries or an error, never a panic.
//! 2. It always ends. A descent is at most [`BOLT_DEPTH_MAX`] pages deep, and a cursor hands out strictly
//!    rising keys, so it can visit no leaf twice, however the pages refer to each other.
//! 3. At most one page per level is in memory, whatever the size of the file.
//! 4. The file is locked, shared, as long as it is open, as bbolt itself does when it only reads.
//!
//! bbolt has no checksums but that of the meta page: damage to the structure is found, damage inside a
//! value is not. The SHA-256 behind an etcd snapshot is there for that.
//!
//! Invariants of the writer:
//! 5. Pages are written once, front to back; the meta pages come last. A crash leaves a file without a
//!    valid meta page, which nobody takes for a database.
//! 6. No page is free and none is unreachable, which bbolt's own check asks for.
//! 7. At most one leaf and two branch pages per level are in memory, besides the write buffer.
//!
//! [`BOLT_DEPTH_MAX`]: crate::limits::BOLT_DEPTH_MAX

mod cursor;
mod error;
mod file;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod page;
mod sink;
mod tree;
mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod round_trip_tests;

pub use cursor::{Bucket, Cursor, Entry};
pub use error::{BoltError, PageDamage};
pub use file::BoltFile;
pub(crate) use file::{file_bytes, open_locked};
pub use format::PageId;
pub use writer::BoltWriter;
