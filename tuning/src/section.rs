//! The macro that declares one section of settings, and the row type it fills in.
//!
//! One declaration gives the struct field, its documentation, its serde name,
//! its default, and its [`Setting`] row, so that the five cannot drift
//! apart.

use crate::Tuning;

/// One setting: its place, its limits, and how to read or write it in a [`Tuning`].
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The section, such as `wal`.
    pub section: &'static str,
    /// The key within the section, such as `group_bytes_max`.
    pub key: &'static str,
    /// One or two sentences for `--help`.
    pub help: &'static str,
    /// The value when nobody sets it.
    pub default: u64,
    /// The smallest value allowed.
    pub min: u64,
    /// The largest value allowed.
    pub max: u64,
    /// Reads the setting.
    pub get: fn(&Tuning) -> u64,
    /// Writes the setting; [`Tuning::check`] judges it.
    pub set: fn(&mut Tuning, u64),
}

impl Setting {
    /// The name in configuration: `wal.group_bytes_max`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The command line flag without its dashes: `wal-group-bytes-max`.
    pub fn flag(&self) -> String {
        format!("{}-{}", self.section, self.key).replace('_', "-")
    }
}

/// Declares a section struct, its defaults and its [`Setting`] rows.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $name:ident as $section:ident, rows $rows:ident {
            $( $key:ident = $default:expr, from $min:expr, to $max:expr, $help:expr; )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                #[doc = $help]
                pub $key: u64,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        $(
            const _: () = assert!(
                $min <= $default && $default <= $max,
                concat!(stringify!($section), ".", stringify!($key), ": default outside its limits"),
            );
        )*

        const $rows: &[$crate::section::Setting] = &[
            $(
                $crate::section::Setting {
                    section: stringify!($section),
                    key: stringify!($key),
                    help: $help,
                    default: $default,
                    min: $min,
                    max: $max,
                    get: |tuning| tuning.$section.$key,
                    set: |tuning, value| tuning.$section.$key = value,
                },
            )*
        ];
    };
}

pub(crate) use section;
