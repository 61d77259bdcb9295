//! Auto-tune: which settings make a member fastest on the disk and the CPUs at hand.
//!
//! ```text
//!   command    probe the disk, settle one knob after the other, write the profile
//!    |    \
//!   search  profile    trials in turns on servers of its own; the TOML with its reasons
//!    |  \
//!   knob  verdict      what is tried; who won, and by more than the noise?
//! ```
//!
//! Knobs are settled one at a time, each with the values found so far for the others. The values of
//! one knob take turns, round after round in alternating order, each time on a fresh member under
//! the same short loads, so a drift of the machine favours none of them. A value wins over the
//! default only if it is better in every round and by more than the noise in the median. At the end
//! all that was chosen must win over all defaults in the same way, or the defaults are written.

mod command;
mod knob;
mod profile;
mod search;
mod verdict;

pub use command::run;
