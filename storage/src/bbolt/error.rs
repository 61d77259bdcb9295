//! What a bbolt file can refuse, by what the caller does about it.

use std::io;

use super::format::PageId;
use crate::limits::{BOLT_BRANCH_BYTES_MAX, BOLT_DEPTH_MAX, BOLT_LEAF_BYTES_MAX};

/// A bbolt file's error. Every one names the file.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The file system said no.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// Path of the file.
        file: String,
        /// What was tried.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// Another process writes the file.
    #[error(
        "{file} is locked by another process, probably an etcd that is running: stop it first, or take a snapshot \
         with etcdctl snapshot save"
    )]
    Locked {
        /// Path of the file.
        file: String,
    },
    /// Not a bbolt file.
    #[error("{file} is not an etcd database or snapshot: it does not begin as a bbolt file does")]
    Foreign {
        /// Path of the file.
        file: String,
    },
    /// A bbolt file that this version cannot read.
    #[error("{file} is a bbolt file that cannot be read here: {reason}")]
    Unsupported {
        /// Path of the file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// The file ends before its pages do.
    #[error("{file} is cut off: it has {bytes} bytes where its own header speaks of {needed}")]
    Truncated {
        /// Path of the file.
        file: String,
        /// What there is.
        bytes: u64,
        /// What there should be.
        needed: u64,
    },
    /// Neither meta page is sound.
    #[error("{file} is damaged: neither of its two meta pages is valid")]
    NoMeta {
        /// Path of the file.
        file: String,
    },
    /// A page is not what the pages above it say.
    #[error("{file} is damaged: page {page}: {damage}")]
    Damaged {
        /// Path of the file.
        file: String,
        /// The page; for a bucket inside a value, the page of the value.
        page: PageId,
        /// What is wrong there.
        damage: PageDamage,
    },
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageDamage {
    /// A reference past the end.
    #[error("it lies behind the last page of the file, {end}")]
    OutOfFile {
        /// The first page that does not exist.
        end: PageId,
    },
    /// The page says it is another one.
    #[error("it says it is page {found}")]
    OtherPage {
        /// What it says.
        found: PageId,
    },
    /// Neither a branch nor a leaf.
    #[error("kind {kind:#06x} where a branch or a leaf is needed")]
    Kind {
        /// What was found.
        kind: u16,
    },
    /// Larger than any sensible page.
    #[error(
        "it claims {bytes} bytes; a leaf has at most {BOLT_LEAF_BYTES_MAX} and a branch {BOLT_BRANCH_BYTES_MAX}"
    )]
    TooLarge {
        /// What it claims.
        bytes: u64,
    },
    /// A page without elements where there must be one.
    #[error("it has no elements")]
    Empty,
    /// An element's key or value is not inside the page.
    #[error("element {element} reaches outside the page")]
    Element {
        /// Its index.
        element: usize,
    },
    /// A key of length 0.
    #[error("element {element} has an empty key")]
    EmptyKey {
        /// Its index.
        element: usize,
    },
    /// Keys do not rise.
    #[error("the key of element {element} is not above the key before it")]
    Order {
        /// Its index.
        element: usize,
    },
    /// A child begins before the key its parent has for it.
    #[error("its first key is below the key its parent page has for it")]
    Parent,
    /// Branches below branches without end.
    #[error("it lies more than {BOLT_DEPTH_MAX} pages deep")]
    Depth,
    /// A bucket's value is not one.
    #[error("element {element} is a bucket and too short for one")]
    Bucket {
        /// Its index.
        element: usize,
    },
}
