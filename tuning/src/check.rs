//! Judging a set of values: each within its limits, and all of them together.

use crate::settings::{SETTINGS, Tuning, WAL_BLOCK_BYTES, WAL_UNIT_BYTES_MIN};

/// Why a set of values cannot be used. All of them are for the operator to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TuningError {
    /// A value outside its own limits.
    #[error("{name} is {value}, but must be between {min} and {max}")]
    OutOfLimits {
        /// The setting, as `section.key`.
        name: String,
        /// What was given.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// A value that must be a multiple of a block.
    #[error("{name} is {value}, but must be a multiple of {multiple}")]
    NotMultiple {
        /// The setting, as `section.key`.
        name: &'static str,
        /// What was given.
        value: u64,
        /// The block.
        multiple: u64,
    },
    /// A value that must be a power of two.
    #[error("{name} is {value}, but must be a power of two")]
    NotPowerOfTwo {
        /// The setting, as `section.key`.
        name: &'static str,
        /// What was given.
        value: u64,
    },
    /// Two values that do not fit each other.
    #[error("{smaller} is {smaller_value}, but may be at most {rule} ({larger_value})")]
    TooLargeFor {
        /// The setting that is too large.
        smaller: &'static str,
        /// Its value.
        smaller_value: u64,
        /// What it is measured against.
        rule: &'static str,
        /// The value of that.
        larger_value: u64,
    },
}

impl Tuning {
    /// Checks every limit and every relation.
    ///
    /// # Errors
    /// The first rule that is broken, in the order of [`SETTINGS`], then the relations.
    pub fn check(&self) -> Result<(), TuningError> {
        self.check_limits()?;
        self.check_shapes()?;
        self.check_relations()
    }

    fn check_limits(&self) -> Result<(), TuningError> {
        for setting in SETTINGS.iter().copied().flatten() {
            let value = (setting.get)(self);
            if value < setting.min || value > setting.max {
                return Err(TuningError::OutOfLimits {
                    name: setting.name(),
                    value,
                    min: setting.min,
                    max: setting.max,
                });
            }
        }
        Ok(())
    }

    fn check_shapes(&self) -> Result<(), TuningError> {
        for (name, value) in [
            ("wal.segment_bytes", self.wal.segment_bytes),
            ("checkpoint.page_bytes", self.checkpoint.page_bytes),
        ] {
            if !value.is_multiple_of(WAL_BLOCK_BYTES) {
                let multiple = WAL_BLOCK_BYTES;
                return Err(TuningError::NotMultiple {
                    name,
                    value,
                    multiple,
                });
            }
        }
        let value = self.wal.unit_bytes;
        if !value.is_multiple_of(WAL_UNIT_BYTES_MIN) {
            return Err(TuningError::NotMultiple {
                name: "wal.unit_bytes",
                value,
                multiple: WAL_UNIT_BYTES_MIN,
            });
        }
        for (name, value) in [
            ("wal.unit_bytes", self.wal.unit_bytes.max(1)),
            ("runtime.uring_entries", self.runtime.uring_entries),
        ] {
            if !value.is_power_of_two() {
                return Err(TuningError::NotPowerOfTwo { name, value });
            }
        }
        Ok(())
    }

    fn check_relations(&self) -> Result<(), TuningError> {
        let (log_bytes_min, log_bytes_max) =
            (self.checkpoint.log_bytes_min, self.checkpoint.log_bytes_max);
        if log_bytes_min > log_bytes_max {
            return Err(TuningError::TooLargeFor {
                smaller: "checkpoint.log_bytes_min",
                smaller_value: log_bytes_min,
                rule: "checkpoint.log_bytes_max",
                larger_value: log_bytes_max,
            });
        }
        let (heartbeat_ms, half_stall_ms) = (self.runtime.heartbeat_ms, self.runtime.stall_ms / 2);
        if heartbeat_ms > half_stall_ms {
            return Err(TuningError::TooLargeFor {
                smaller: "runtime.heartbeat_ms",
                smaller_value: heartbeat_ms,
                rule: "half of runtime.stall_ms",
                larger_value: half_stall_ms,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::setting;

    #[test]
    fn the_defaults_pass() {
        assert_eq!(Tuning::default().check(), Ok(()));
        for row in SETTINGS.iter().copied().flatten() {
            assert_eq!((row.get)(&Tuning::default()), row.default, "{}", row.name());
        }
    }

    #[test]
    fn names_are_unique_and_every_row_reaches_its_own_field() {
        let mut flags = BTreeSet::new();
        for row in SETTINGS.iter().copied().flatten() {
            assert!(flags.insert(row.flag()), "{} twice", row.flag());
            let mut tuning = Tuning::default();
            (row.set)(&mut tuning, row.default + 1);
            let changed = SETTINGS
                .iter()
                .copied()
                .flatten()
                .filter(|other| (other.get)(&tuning) != other.default)
                .count();
            assert_eq!(changed, 1, "{}", row.name());
            assert_eq!((row.get)(&tuning), row.default + 1, "{}", row.name());
        }
    }

    #[test]
    fn both_ends_of_every_limit_are_refused_beyond() {
        for row in SETTINGS.iter().copied().flatten() {
            for value in [row.min.checked_sub(1), row.max.checked_add(1)] {
                let Some(value) = value else { continue };
                let mut tuning = Tuning::default();
                (row.set)(&mut tuning, value);
                let error = tuning.check().unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{} is {value}, but must be between {} and {}",
                        row.name(),
                        row.min,
                        row.max
                    )
                );
            }
        }
    }

    #[test]
    fn shapes_and_relations_have_their_sentences() {
        let table: &[(&str, &str, u64, &str)] = &[
            (
                "wal",
                "segment_bytes",
                64 * 1024 * 1024 + 1,
                "wal.segment_bytes is 67108865, but must be a multiple of 4096",
            ),
            (
                "runtime",
                "uring-entries",
                1000,
                "runtime.uring_entries is 1000, but must be a power of two",
            ),
            ("wal", "segment-bytes", 8 * 1024 * 1024, ""),
            (
                "runtime",
                "heartbeat_ms",
                600,
                "runtime.heartbeat_ms is 600, but may be at most half of runtime.stall_ms (500)",
            ),
        ];
        for (section, key, value, message) in table {
            let mut tuning = Tuning::default();
            (setting(section, key).unwrap().set)(&mut tuning, *value);
            let found = tuning
                .check()
                .map_or_else(|error| error.to_string(), |()| String::new());
            assert_eq!(found, *message, "{section}.{key}");
        }
    }
}
