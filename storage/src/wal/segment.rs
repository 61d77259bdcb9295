//! A segment file and its name.
//!
//! File names are slots, `00000001.seg` and up; which part of the log a file holds is said only by its
//! header, so recycling a file never renames it.

use super::format::SegmentHeader;
use crate::io::FileId;

const SUFFIX: &str = ".seg";
const DIGITS: usize = 8;

/// An open segment file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) file: FileId,
    pub(crate) name: String,
    pub(crate) header: SegmentHeader,
}

/// The file name of a slot.
pub(crate) fn name_of_slot(slot: u64) -> String {
    format!("{slot:0DIGITS$}{SUFFIX}")
}

/// The slot of a file name, or `None` for a name that is not a segment's.
pub(crate) fn slot_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    let slot = if plain {
        digits.parse().ok()?
    } else {
        return None;
    };
    (name_of_slot(slot) == name && slot > 0).then_some(slot)
}
