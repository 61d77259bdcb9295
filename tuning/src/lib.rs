//! What can be tuned in Keelson, what each setting starts at, and how far it may be turned.
//!
//! This crate is a leaf: it holds numbers, the rules between them and named sets of them, opens no
//! file for that, and depends on no other room. `server/src/config` reads the values from flags, environment, YAML and a [`Profile`],
//! puts them into a [`Tuning`] and calls [`Tuning::check`]; the rooms that use a setting take their
//! section by reference.
//!
//! What a machine should be like is here too: [`doctor`] judges it, with the facts of [`machine`].
//!
//! Every setting is a `u64` with its unit in its name, declared once with its help text, default,
//! minimum and maximum. [`SETTINGS`] lists them all, which is where `--help`, the flag
//! `--wal-depth`, the variable `KEELSON_WAL_DEPTH` and the YAML key `wal: {depth: ...}` come from:
//!
//! ```
//! let mut tuning = keelson_tuning::Tuning::default();
//! let depth = keelson_tuning::setting("wal", "depth").expect("wal.depth is a setting");
//! (depth.set)(&mut tuning, 4);
//! assert_eq!(tuning.wal.depth, 4);
//! assert!(tuning.check().is_ok());
//! ```
//!
//! Invariants:
//! 1. Every default lies within its own limits (checked at compile time).
//! 2. The defaults together pass [`Tuning::check`]; so does every set of values that a member
//!    starts with.
//! 3. `DEFAULTS.toml` and the files in `profiles/` agree with the settings (checked by tests).

mod check;
pub mod doctor;
mod document;
pub mod machine;
mod profile;
mod section;
mod settings;

pub use check::TuningError;
pub use document::defaults_document;
pub use profile::{PROFILES, Profile, ProfileError, ProfileKey, ProfileValue};
pub use section::Setting;
pub use settings::{
    CheckpointTuning, RaftTuning, RuntimeTuning, SETTINGS, StorageTuning, Tuning, WAL_BLOCK_BYTES,
    WalTuning, setting,
};
